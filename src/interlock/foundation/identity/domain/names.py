"""What a name and an address may be, wherever one is given: over the API as on a page.

Pure; whether a name is taken is the store's to say.
"""

import re
from typing import Final

from interlock.foundation.errors import InterlockError

NAME_CHARS_MAX: Final = 128
EMAIL_CHARS_MAX: Final = 254
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")


def name_of(text: str) -> str:
    """Return a name without the blanks around it: anything that prints, shown everywhere as plain text.

    Raises `invalid_request`.
    """
    name = text.strip()
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        message = f"`name` has 1 to {NAME_CHARS_MAX} characters that print."
        raise InterlockError("invalid_request", message, detail={"field": "name"})
    return name


def email_of(text: str) -> str:
    """Return an address without the blanks around it. Raises `invalid_request`."""
    email = text.strip()
    if not _EMAIL.fullmatch(email) or len(email) > EMAIL_CHARS_MAX:
        raise InterlockError("invalid_request", "`email` is an address.", detail={"field": "email"})
    return email
