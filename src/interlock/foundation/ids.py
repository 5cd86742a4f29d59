"""Ids: `<kind>_<uuid7 in base32>` outside, plain uuid in the store.

Does not look anything up; a well-formed id of the right kind may still name nothing.
"""

import threading
from typing import TYPE_CHECKING, Final, NewType
from uuid import UUID, SafeUUID

from interlock.foundation import native
from interlock.foundation.clock import Clock, Dice

OrganizationId = NewType("OrganizationId", UUID)
WorkspaceId = NewType("WorkspaceId", UUID)
PrincipalId = NewType("PrincipalId", UUID)
KeyId = NewType("KeyId", UUID)
RequestId = NewType("RequestId", UUID)

# Owns the rows that belong to the platform and to no tenant: requests without an identity, pools, operators.
SYSTEM_ORGANIZATION_ID: Final = OrganizationId(UUID("00000000-0000-7000-8000-000000000000"))

KINDS: Final = frozenset({
    "org", "ws", "usr", "grp", "mem", "sa", "key", "ses", "sec", "flag", "kill", "bg",
    "req", "prov", "dep", "route", "limit",
    "pool", "eng", "gnt",
    "src", "doc", "ans", "sync", "prg",
    "task", "apr",
    "run", "case", "gate", "vdt", "wvr", "rol", "inc", "camp",
    "crawl", "rpl",
})  # fmt: skip

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PYTHON_DIGITS: Final = "0123456789abcdefghijklmnopqrstuv"
_TO_PYTHON_DIGITS: Final = bytes(
    ord(_PYTHON_DIGITS[_ALPHABET.index(chr(byte))]) if chr(byte) in _ALPHABET else ord("!") for byte in range(256)
)
_PAIRS: Final = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_LOW_BITS: Final = (1 << 60) - 1
_BODY_CHARS: Final = 26
_COUNTER_BITS: Final = 12
_TAILS_DRAWN: Final = 64
_VERSION_AND_VARIANT: Final = 0x7 << 76 | 0b10 << 62
# The parts of a uuid, without the checks of its constructor, which cost more than all the rest of an id.
_new_object: Final = object.__new__
_set_int: Final = UUID.__dict__["int"].__set__
_set_safe: Final = UUID.__dict__["is_safe"].__set__
_UNKNOWN: Final = SafeUUID.unknown
_compiled: Final = native.load("interlock.foundation._native_ids")


class MalformedIdError(ValueError):
    """The text is not an id of the expected kind."""


def format_id(kind: str, value: UUID) -> str:
    """Return `kind_` and 26 lower-case Crockford base32 characters."""
    if kind not in KINDS:
        raise MalformedIdError(kind)
    # Two characters at once, and in halves, because arithmetic on small integers is faster: 14 and 12 characters.
    number, two = value.int, _PAIRS
    high, low = number >> 60, number & _LOW_BITS
    return (
        f"{kind}_{two[high >> 60]}{two[high >> 50 & 1023]}{two[high >> 40 & 1023]}{two[high >> 30 & 1023]}"
        f"{two[high >> 20 & 1023]}{two[high >> 10 & 1023]}{two[high & 1023]}{two[low >> 50]}"
        f"{two[low >> 40 & 1023]}{two[low >> 30 & 1023]}{two[low >> 20 & 1023]}{two[low >> 10 & 1023]}{two[low & 1023]}"
    )


def parse_id(kind: str, text: str) -> UUID:
    """Return the uuid of an id of exactly this kind, else raise `MalformedIdError`."""
    prefix, _, body = text.partition("_")
    if prefix != kind or len(body) != _BODY_CHARS or body[0] > "7":
        raise MalformedIdError(text)
    try:
        # Python's own base 32 has other digits; what is no digit of ours becomes one that it refuses.
        return UUID(int=int(body.encode("ascii").translate(_TO_PYTHON_DIGITS), 32))
    except ValueError:
        raise MalformedIdError(text) from None


class IdFactory:
    """Mints uuid7 (RFC 9562, section 5.7), strictly rising within a process.

    The 12 bits after the millisecond are a counter; when the clock steps back, or the counter of a
    millisecond is used up, the last millisecond is kept or advanced, so ids stay monotone.
    """

    def __init__(self, clock: Clock, dice: Dice) -> None:
        self._clock = clock
        self._dice = dice
        self._last_ms = 0
        self._counter = 0
        self._tails: list[int] = []
        self._lock = threading.Lock()

    def new(self) -> UUID:
        """Return the next uuid7."""
        with self._lock:
            now_ms = self._clock.now_us() // 1_000
            if now_ms > self._last_ms:
                self._last_ms, self._counter = now_ms, 0
            else:
                self._counter += 1
                if self._counter >> _COUNTER_BITS:
                    self._last_ms, self._counter = self._last_ms + 1, 0
            tails = self._tails or self._draw_tails()
            number = self._last_ms << 80 | self._counter << 64 | tails.pop() | _VERSION_AND_VARIANT
        return _uuid(number)

    def _draw_tails(self) -> list[int]:
        """Draw 62 random bits for each of the next ids: each question for chance is a call of the system."""
        drawn = self._dice.randbytes(8 * _TAILS_DRAWN)
        self._tails = [each & ((1 << 62) - 1) for each in memoryview(drawn).cast("Q")]
        return self._tails


def _uuid(value: int) -> UUID:
    made: UUID = _new_object(UUID)
    _set_int(made, value)
    _set_safe(made, _UNKNOWN)
    return made


def created_ms(value: UUID) -> int:
    """Return the milliseconds since the epoch at which a uuid7 was minted."""
    return value.int >> 80


if _compiled is not None:
    _compiled.equip(KINDS, format_id)
    if not TYPE_CHECKING:
        format_id, IdFactory = _compiled.format_id, _compiled.IdFactory
