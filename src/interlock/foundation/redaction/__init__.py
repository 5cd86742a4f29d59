"""One redactor for logs, stories, events, exports and error details.

Finds what it was told and what looks like a credential by its prefix; it does not guess by entropy.
"""

from interlock.foundation.redaction.config import RedactionConfig
from interlock.foundation.redaction.patterns import OWN_KEY_REGEX, PATTERNS, is_own_key
from interlock.foundation.redaction.redactor import Redactor, RedactorStream

__all__ = ["OWN_KEY_REGEX", "PATTERNS", "RedactionConfig", "Redactor", "RedactorStream", "is_own_key"]
