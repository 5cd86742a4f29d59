"""One request with its answer, as a handler drives it, and the bytes of an answer's head.

Does not own the socket; `connection.py` sends what is written here and decides when the next request runs.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, Protocol

from interlock.foundation.errors import InterlockError
from interlock.foundation.wire.limits import envelope
from interlock.foundation.wire.message import Request
from interlock.foundation.wire.sse import HEARTBEAT

HeaderList = Sequence[tuple[bytes, bytes]]

_STATUS_LINE: Final = {each.value: b"HTTP/1.1 %d %b\r\n" % (each, each.phrase.encode()) for each in HTTPStatus}
# The server frames every answer and names it; what a handler passes under these names is dropped.
_OWNED: Final = frozenset({
    b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"trailer",
    b"date", b"x-request-id", b"request-id",
})  # fmt: skip
_LAST_CHUNK: Final = b"0\r\n\r\n"
_WITHOUT_BODY: Final = frozenset({204, 304})
# Below this size one copy is cheaper than a second write.
_JOINED_BYTES_MAX: Final = 65_536


class Host(Protocol):
    """What an exchange needs of the server."""

    date_line: bytes
    is_draining: bool


class Running(Protocol):
    """Whoever serves a request: its task, or what stands for one."""

    def cancel(self) -> bool: ...


class Wire(Protocol):
    """What an exchange needs of its connection."""

    is_clogged: bool

    @property
    def server(self) -> Host: ...
    def send(self, piece: bytes) -> bool: ...
    def has_room(self, count_bytes: int) -> bool: ...
    async def drained(self) -> None: ...
    def answered(self, exchange: "Exchange") -> None: ...
    def beat(self, piece: bytes, every_s: float) -> None: ...
    def cut(self, exchange: "Exchange") -> None: ...


class Exchange:
    """One request and its answer. Either `respond`, or `start`, `write`.., `finish` answers it.

    The handler may set `route`, the name under which the answer is counted. After the answer is complete the
    handler may go on with its own work: the client can no longer cancel it.
    """

    __slots__ = (
        "_has_body", "_is_chunked", "_wire", "head_sent", "is_finished", "is_last", "request", "request_id", "route",
        "status", "task",
    )  # fmt: skip

    def __init__(self, wire: Wire, request: Request, request_id: str, *, is_last: bool) -> None:
        self._wire = wire
        self._has_body = request.method != "HEAD"
        self._is_chunked = False
        self.request = request
        self.request_id = request_id
        self.route = ""
        self.status = 0
        self.head_sent = False
        self.is_finished = False
        self.is_last = is_last
        self.task: Running | None = None

    def has_room(self, count_bytes: int) -> bool:
        """Tell whether an answer of so many bytes and its head would be sent in one piece, without a wait."""
        return count_bytes <= _JOINED_BYTES_MAX and self._wire.has_room(count_bytes)

    async def respond(self, status: int, headers: HeaderList = (), body: bytes = b"") -> None:
        """Answer in one piece. Raises `ClientGone`."""
        wire = self._wire
        if status in _WITHOUT_BODY:
            framing = body = b""
        elif self._has_body or body:
            framing = b"content-length: %d\r\n" % len(body)
        else:
            # A proxy of HEAD passes on the length that it was told.
            told = next((value for name, value in headers if name == b"content-length"), b"0")
            framing = b"content-length: %b\r\n" % told
        head = self._head(status, headers, framing)
        if body and self._has_body:
            if len(body) <= _JOINED_BYTES_MAX:
                head += body
            else:
                wire.send(head)
                head = body
        wire.send(head)
        if wire.is_clogged:
            await self._end_when_drained()
        else:
            wire.answered(self)

    async def start(self, status: int, headers: HeaderList = ()) -> None:
        """Send the head of an answer of unknown length; it leaves before the first byte. Raises `ClientGone`."""
        if status in _WITHOUT_BODY:
            self._has_body = False
        elif self.request.version == "1.1":
            self._is_chunked = True
        self._wire.send(self._head(status, headers, b"transfer-encoding: chunked\r\n" if self._is_chunked else b""))

    async def write(self, data: bytes) -> None:
        """Send a piece; returns when less than the write buffer is unsent. Raises `ClientGone`."""
        self._require_begun()
        if data and self._has_body:
            self._wire.send(self._framed(data))
        if self._wire.is_clogged:
            await self._wire.drained()

    def push(self, data: bytes) -> bool:
        """Send a piece without waiting; tells whether there is room for another one. Raises `ClientGone`."""
        if not self.head_sent or self.is_finished:
            self._require_begun()
        if not self._has_body:
            return True
        return self._wire.send(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    async def finish(self, data: bytes = b"") -> None:
        """End an answer begun with `start`, with a last piece if there is one. Raises `ClientGone`."""
        self._require_begun()
        if self._has_body:
            last = self._framed(data) if data else b""
            if self._is_chunked:
                last += _LAST_CHUNK
            if last:
                self._wire.send(last)
        self._wire.answered(self)

    def heartbeat(self, every_s: float, piece: bytes = HEARTBEAT) -> None:
        """From now on send `piece` after every silence of `every_s`; each `write` must then hold whole events."""
        self._require_begun()
        if self._has_body:
            self._wire.beat(self._framed(piece), every_s)

    def abort(self) -> None:
        """Cut the connection, so that the client sees that the answer is not complete."""
        self._wire.cut(self)

    def refuse(self, refusal: InterlockError, extra: HeaderList = ()) -> None:
        """Answer with the envelope and close the connection. Raises `ClientGone`."""
        self.is_last = True
        body = envelope(refusal, self.request_id)
        framing = b"content-length: %d\r\n" % len(body)
        head = self._head(refusal.http_status, refusal_fields(refusal, extra), framing)
        self._wire.send(head + body if self._has_body else head)
        self._wire.answered(self)

    async def _end_when_drained(self) -> None:
        await self._wire.drained()
        self._wire.answered(self)

    def _framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece

    def _require_begun(self) -> None:
        if not self.head_sent or self.is_finished:
            raise RuntimeError("this call comes between start and finish")

    def _head(self, status: int, headers: HeaderList, framing: bytes) -> bytes:
        if self.head_sent:
            raise RuntimeError("the answer has already begun")
        server = self._wire.server
        self.is_last = is_last = self.is_last or server.is_draining or not self.request.is_complete
        head = head_bytes(status, headers, self.request_id, server.date_line + framing, is_last=is_last)
        self.head_sent = True
        self.status = status
        return head


def head_bytes(status: int, headers: HeaderList, request_id: str, framing: bytes, *, is_last: bool) -> bytes:
    """Return the head of an answer. Raises `ValueError` for a field that would split it."""
    fields = [name + b": " + value + b"\r\n" for name, value in headers if name.lower() not in _OWNED]
    text = b"".join(fields)
    if text.count(b"\n") != len(fields) or text.count(b"\r") != len(fields) or b"\0" in text:
        raise ValueError("a header field holds CR, LF or NUL")
    name = request_id.encode("ascii")
    return b"".join((
        _STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status,
        text,
        framing,
        b"x-request-id: ", name, b"\r\nrequest-id: ", name,
        b"\r\nconnection: close\r\n\r\n" if is_last else b"\r\n\r\n",
    ))  # fmt: skip


def refusal_fields(refusal: InterlockError, extra: HeaderList) -> HeaderList:
    """Return the headers of a refusal's answer."""
    fields = [(b"content-type", b"application/json"), *extra]
    fields += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    if refusal.retry_after_s is not None:
        fields.append((b"retry-after", b"%d" % max(1, round(refusal.retry_after_s))))
    return fields
