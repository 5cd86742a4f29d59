"""The form of an API key: kind, look-up part, secret, checksum. Garbage is refused without asking anybody.

`il_live_`, `il_test_` or `il_task_` + 8 look-up + 32 secret + 6 checksum characters of base62; the checksum is the
CRC-32 of all before it. Does not know which keys exist.
"""

import hashlib
import hmac
import re
import zlib
from dataclasses import dataclass
from typing import Final

from interlock.foundation.clock import Dice

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY_CHARS: Final = 54
LOOKUP_CHARS: Final = 8
SECRET_CHARS: Final = 32
CHECKSUM_CHARS: Final = 6
TASK: Final = "task"
KINDS: Final = ("live", "test", TASK)
_FORM: Final = re.compile(r"il_(live|test|task)_[0-9A-Za-z]{46}")
_PREFIX_CHARS: Final = 8


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: `text` is shown once and stored nowhere."""

    text: str
    lookup: str
    kind: str

    @property
    def last4(self) -> str:
        """The end that lists may show."""
        return self.text[-4:]


def checksum(head: str) -> str:
    """Return the six characters that end a key."""
    number = zlib.crc32(head.encode("ascii"))
    digits = []
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def make_key(kind: str, dice: Dice) -> NewKey:
    """Return a fresh key."""
    body = "".join(ALPHABET[dice.randrange(len(ALPHABET))] for _ in range(LOOKUP_CHARS + SECRET_CHARS))
    head = f"il_{kind}_{body}"
    return NewKey(head + checksum(head), body[:LOOKUP_CHARS], kind)


def is_well_formed(text: str) -> bool:
    """Return whether form and checksum are right."""
    if len(text) != KEY_CHARS or _FORM.fullmatch(text) is None:
        return False
    return hmac.compare_digest(checksum(text[:-CHECKSUM_CHARS]), text[-CHECKSUM_CHARS:])


def lookup_of(text: str) -> str:
    """Return the look-up part of a well-formed key."""
    return text[_PREFIX_CHARS : _PREFIX_CHARS + LOOKUP_CHARS]


def hash_key(text: str, pepper: bytes) -> bytes:
    """Return what is kept of a key: HMAC-SHA-256 under the pepper."""
    return hmac.digest(pepper, text.encode("ascii"), hashlib.sha256)
