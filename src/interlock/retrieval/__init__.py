"""Search in which nobody sees what they may not see: access is part of choosing candidates, scoring, prompt and audit.

Never filters results afterwards.
"""

from interlock.retrieval.config import RetrievalConfig

__all__ = ["RetrievalConfig"]
