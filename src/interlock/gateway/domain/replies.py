"""Answers that may be given again: what names them, what is kept of one, what a claim on one is.

Stores nothing and judges no caller.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from interlock.gateway.domain.dialect import HeaderList

KEY_CHARS_MAX: Final = 255
# What tells of the moment of an answer, or of whoever asked, and would be wrong when it is given again.
_OF_THE_MOMENT: Final = (
    b"x-ratelimit-", b"anthropic-ratelimit-", b"x-interlock-limit-scope", b"server-timing", b"x-client-request-id",
    b"x-interlock-stale-config",
)  # fmt: skip


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it is kept: headers and the exact bytes; `request_id` names the request that it was made for."""

    request_id: str
    headers: list[tuple[bytes, bytes]]
    content: bytes


@dataclass(frozen=True, slots=True)
class ReplyName:
    """What an answer is found by: one key of one workspace at one endpoint."""

    organization_id: UUID
    workspace_id: UUID
    endpoint: str
    key: str


@dataclass(eq=False, slots=True)
class Claim:
    """The right to make the answer of that name; `owner` is the id of the request that has it.

    `claimed_at` is None for one that its request left before it heard whether it has it.
    """

    name: ReplyName
    owner: str
    fingerprint: bytes
    claimed_at: datetime | None
    is_ended: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """Somebody else has, or had, that name. `reply` is None while it runs, and of one that was too large to keep."""

    is_same: bool
    is_done: bool
    owner: str
    reply: Reply | None


class Capture:
    """What goes to the client, gathered while it goes; beyond `bytes_max` only the fact is kept."""

    __slots__ = ("_bytes_max", "_pieces", "_size", "claim", "headers")

    def __init__(self, claim: Claim, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pieces: list[bytes] = []
        self._size = 0
        self.claim = claim
        self.headers: HeaderList = []

    def begin(self, headers: HeaderList) -> None:
        """Take the head."""
        self.headers = [each for each in headers if not each[0].startswith(_OF_THE_MOMENT)]

    def add(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._size += len(piece)
        if self._size <= self._bytes_max:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    @property
    def reply(self) -> Reply | None:
        """The answer, or None when it is too large to be kept."""
        if self._size > self._bytes_max:
            return None
        return Reply(self.claim.owner, self.headers, b"".join(self._pieces))


def key_of(given: bytes) -> str | None:
    """Return an Idempotency-Key, None for what is none: 1 to 255 printable ASCII characters."""
    text = given.decode("latin-1")
    return text if 1 <= len(text) <= KEY_CHARS_MAX and text.isascii() and text.isprintable() else None


def fingerprint_of(body: bytes) -> bytes:
    """Return what tells one body from another."""
    return hashlib.sha256(body).digest()
