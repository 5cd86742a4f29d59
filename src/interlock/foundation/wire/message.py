"""Requests as a handler sees them, and the decoder of chunked bodies.

Does not judge heads, which is `head.py`, and does not touch a socket.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final

from interlock.foundation.wire.config import WireLimits
from interlock.foundation.wire.limits import WireRefusal, bad_http

_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})([ \t]*;[\t -~\x80-\xff]*)?")


class Headers:
    """Header fields in the order received; names are lower case. Not to be changed: requests may share them."""

    __slots__ = ("first", "items")

    def __init__(self, items: list[tuple[bytes, bytes]]) -> None:
        self.items = items
        first = dict(items)
        self.first = first if len(first) == len(items) else dict(reversed(items))

    def get(self, name: bytes) -> bytes | None:
        """Return the first value under a lower-case name."""
        return self.first.get(name)

    def getall(self, name: bytes) -> list[bytes]:
        """Return every value under a lower-case name, in order."""
        return [value for each, value in self.items if each == name]

    def forget(self, name: bytes) -> None:
        """Take out the one field under a lower-case name, while nobody else holds these headers."""
        value = self.first.pop(name, None)
        if value is not None:
            self.items.remove((name, value))

    def __contains__(self, name: bytes) -> bool:
        return name in self.first


class ChunkedBody:
    """Decodes one chunked body strictly (RFC 9112, section 7.1); trailers are checked, bounded and dropped."""

    __slots__ = ("_at_trailers", "_left", "_limits", "_line", "_trailer_bytes", "is_complete")

    def __init__(self, limits: WireLimits) -> None:
        self._limits = limits
        self._line = b""
        self._left = 0
        self._at_trailers = False
        self._trailer_bytes = 0
        self.is_complete = False

    def feed(self, chunk: bytes, at: int, take: Callable[[bytes], None]) -> int:
        """Pass body bytes from `chunk[at:]` to `take`; return where the body, the chunk or the turn ends."""
        end, left = len(chunk), self._limits.chunks_at_once
        while at < end and not self.is_complete:
            if self._left > 2:
                piece = chunk[at : at + self._left - 2]
                take(piece)
                at += len(piece)
                self._left -= len(piece)
            elif self._left:
                # `_left` counts the CRLF behind the content: 2 stands before CR, 1 before LF.
                if chunk[at] != (13 if self._left == 2 else 10):
                    raise bad_http("a chunk is longer than its size says")
                at += 1
                self._left -= 1
            elif left:
                at = self._read_line(chunk, at)
                left -= 1
            else:
                break
        return at

    def _read_line(self, chunk: bytes, at: int) -> int:
        bound = self._limits.trailer_bytes_max if self._at_trailers else self._limits.chunk_extension_bytes_max + 16
        stop = chunk.find(b"\n", at)
        line = self._line + (chunk[at:] if stop < 0 else chunk[at : stop + 1])
        if len(line) + self._trailer_bytes > bound + 2:
            raise bad_http("a chunk extension or the trailers are too long")
        if stop < 0:
            self._line = line
            return len(chunk)
        self._line = b""
        if line[-2:] != b"\r\n":
            raise bad_http("a bare line feed in a chunked body")
        self._take_line(line[:-2])
        return stop + 1

    def _take_line(self, line: bytes) -> None:
        if self._at_trailers:
            self._trailer_bytes += len(line) + 2
            if line and not _TRAILER.fullmatch(line):
                raise bad_http("a trailer is malformed")
            self.is_complete = not line
            return
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None or len(size[2] or b"") > self._limits.chunk_extension_bytes_max:
            raise bad_http("a chunk size is malformed")
        count = int(size[1], 16)
        self._left = count + 2 if count else 0
        self._at_trailers = not count


class Request:
    """One request. `path` is the target before `?`, as sent: nothing in it is decoded or normalized.

    `length` is the length of the body in bytes, None of a chunked one; it does not stand among the headers.
    """

    __slots__ = (
        "_chunked", "_content", "_gate", "_left", "_limit", "_received", "_refusal", "_waiter", "headers",
        "is_complete", "is_continue_expected", "length", "method", "path", "peer", "query", "received_us", "target",
        "version",
    )  # fmt: skip

    def __init__(self, method: str, target: bytes, headers: Headers, version: str, length: int | None) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.version = version
        self.length = length
        self.path = "/"
        self.query = b""
        self.peer: str | None = None
        self.received_us = 0
        self.is_complete = length == 0
        self.is_continue_expected = False
        self._left = length or 0
        self._received = 0
        self._content: bytes | bytearray = b""
        self._chunked: ChunkedBody | None = None
        self._gate: Callable[[], None] | None = None
        self._limit: int | None = None
        self._refusal: WireRefusal | None = None
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    def like(cls, other: "Request", length: int | None) -> "Request":
        """Return a request whose head is that of another one, but for the length."""
        made = cls(other.method, other.target, other.headers, other.version, length)
        made.path, made.query, made.is_continue_expected = other.path, other.query, other.is_continue_expected
        return made

    async def body(self, limit: int) -> bytes:
        """Return the whole body of at most `limit` bytes.

        Raises:
            WireRefusal: 413 as soon as the body is known to be longer, 408 when it stalls, 400 when it is malformed.
        """
        if self.is_complete and self._refusal is None and self._received <= limit:
            return bytes(self._content)
        self._limit = limit
        if max(self.length or 0, self._received) > limit:
            self._refusal = self._refusal or WireRefusal("body_too_large", detail={"limit_bytes": limit})
        if not self.is_complete and self._refusal is None:
            self._waiter = asyncio.get_running_loop().create_future()
            if self._gate is not None:
                self._gate()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._refusal is not None:
            raise self._refusal
        return bytes(self._content)

    @property
    def is_awaited(self) -> bool:
        """Whether the handler waits in `body`."""
        return self._waiter is not None

    @property
    def received_bytes(self) -> int:
        """Body bytes taken in so far."""
        return self._received

    def open(self, limits: WireLimits, gate: Callable[[], None]) -> None:
        """Make ready for the body; `gate` is called when the handler begins to wait for it."""
        self._gate = gate
        if self.length is None:
            self._chunked = ChunkedBody(limits)

    def take_whole(self, chunk: bytes, at: int) -> int:
        """Take the body from `chunk[at:]` if all of it is there, as it mostly is; return where it ends."""
        end = at + self._left
        if end > len(chunk):
            return at
        self._content = chunk[at:end]
        self._received = self._left
        self._left = 0
        self.is_complete = True
        return end

    def feed(self, chunk: bytes, at: int) -> int:
        """Take body bytes from `chunk[at:]`; return where they end. Raises `WireRefusal`."""
        if self._chunked is not None:
            at = self._chunked.feed(chunk, at, self._take)
            if self._chunked.is_complete:
                self._finish()
            return at
        piece = chunk[at : at + self._left]
        self._left -= len(piece)
        self._take(piece)
        if not self._left:
            self._finish()
        return at + len(piece)

    def fail(self, refusal: WireRefusal) -> None:
        """End the body with a refusal, which `body` raises."""
        self._refusal = refusal
        self._wake()

    def _take(self, piece: bytes) -> None:
        self._received += len(piece)
        if self._limit is not None and self._received > self._limit:
            raise WireRefusal("body_too_large", detail={"limit_bytes": self._limit})
        if not self._content:
            self._content = piece
        elif isinstance(self._content, bytearray):
            self._content += piece
        else:
            self._content = bytearray(self._content) + piece

    def _finish(self) -> None:
        self.is_complete = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
