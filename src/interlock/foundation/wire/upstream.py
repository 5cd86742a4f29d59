"""One connection to a model server or a role: a request at a time, its answer in pieces, a deadline for each phase.

Does not connect, choose or keep connections; `client.py` does.
"""

import asyncio
import select
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

import httptools
import msgspec

from interlock.foundation.clock import Clock
from interlock.foundation.wire.config import ClientLimits
from interlock.foundation.wire.limits import NEVER, Ticker
from interlock.foundation.wire.message import Headers

_WITHOUT_BODY: Final = (204, 304)
# Takes a piece of a body; whether it wants the next one at once.
Take = Callable[[bytes], bool]
# The phase whose end is told to whoever waits, and fails nothing.
_QUIET: Final = "quiet"
_OVERLONG: Final = "the head or the trailer of the answer is too long"


class UpstreamError(Exception):
    """An upstream could not be asked, or did not answer completely."""


class UpstreamConnectError(UpstreamError):
    """No connection could be made; no byte of the request was sent."""


class AddressRefused(UpstreamConnectError):  # noqa: N818 - a refusal by policy, told apart from a fault
    """The address policy allows none of the addresses of this host."""


class UpstreamTimeout(UpstreamError):  # noqa: N818 - the public name of the contract
    """A phase took too long: `connect`, `first_byte`, `idle` or `total`."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        super().__init__(f"the upstream took too long: {phase}")


class UpstreamBroken(UpstreamError):  # noqa: N818 - the public name of the contract
    """The connection ended or the answer was malformed; `head_received` tells whether an answer had begun."""

    def __init__(self, reason: str, *, head_received: bool) -> None:
        self.head_received = head_received
        super().__init__(reason)


class Timeouts(msgspec.Struct, frozen=True, gc=False):
    """Longest time of each phase, in seconds; `idle_s` is the silence between two pieces of a body.

    Whoever has a caller to answer names its own; the defaults are those of work for which nobody waits.
    """

    connect_s: float = 60.0
    first_byte_s: float = 600.0
    idle_s: float = 600.0
    total_s: float = 1_800.0


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where a connection leads: scheme `http`, `https` or `unix`; for the last, `host` is the socket's path."""

    scheme: str
    host: str
    port: int


class Owner(Protocol):
    """What a connection needs of the client that made it."""

    limits: ClientLimits
    clock: Clock
    ticker: Ticker

    def forget(self, connection: "UpstreamConnection") -> None: ...


class Answer:
    """The head of an answer and its body, which is read once, within the block of its request.

    `connect_s` is how long the request waited for its connection; 0 of one that was kept.
    """

    __slots__ = ("_connection", "connect_s", "headers", "is_over", "status")

    def __init__(self, connection: "UpstreamConnection", status: int, headers: Headers) -> None:
        self._connection = connection
        self.status = status
        self.headers = headers
        self.is_over = False
        self.connect_s = 0.0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield pieces of the body as they come. Raises `UpstreamTimeout` and `UpstreamBroken`."""
        while piece := await self._next():
            yield piece

    async def within(self, seconds: float) -> bytes | None:
        """Return the next piece of the body, nothing at its end; None where none comes for so long and a tick."""
        self._require_open()
        return await self._connection.piece_within(seconds)

    async def pump(self, take: Take) -> None:
        """Hand pieces of the body to `take` as they come, until it says no or the body ends; what it raises is raised.

        Called from the event loop without a task of its own, so that a piece costs no switch. Raises as `chunks`.
        """
        self._require_open()
        await self._connection.pump(take)

    async def skip(self, within_s: float) -> None:
        """Let the rest of the body go by, so that the connection can be kept. Raises as `chunks`."""
        if not self.is_over:
            await self._connection.skip(within_s)

    @property
    def has_piece(self) -> bool:
        """Whether a piece of the body is here already."""
        return self._connection.has_piece

    async def read(self, limit: int) -> bytes:
        """Return the whole body; one longer than `limit` bytes raises `UpstreamBroken`."""
        pieces: list[bytes] = []
        size = 0
        connection = self._connection
        # Most answers are here whole with their head, and need no wait.
        while piece := await self._next() if self.is_over or connection.is_awaited else connection.take():
            size += len(piece)
            if size > limit:
                raise UpstreamBroken(f"the answer is longer than {limit} bytes", head_received=True)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _next(self) -> bytes:
        self._require_open()
        return await self._connection.next_piece()

    def _require_open(self) -> None:
        if self.is_over:
            # The connection may carry another request by now.
            raise RuntimeError("the block of this request has ended")


class UpstreamConnection(asyncio.Protocol):
    """One connection to an origin; carries one request at a time."""

    def __init__(self, client: Owner, origin: Origin) -> None:
        self._client = client
        self._ticker = client.ticker
        self._limits = client.limits
        self._transport: Any = None
        self._probe = select.poll()
        self._parser: Any = None
        self._fields: list[tuple[bytes, bytes]] = []
        self._headers = Headers(self._fields)
        self._head_bytes = 0
        self._status = 0
        self._is_head_done = self._is_complete = self._is_until_close = False
        self._keeps_alive = False
        self._is_head_request = False
        self._pieces: list[bytes] = []
        # A piece of a body costs no call of ours: the parser puts it into the list, which therefore stays the same.
        self.on_body = self._pieces.append
        # How many of the pieces belong to the answer, once it is complete.
        self._pieces_whole: int | None = None
        self._buffered_bytes = 0
        self._is_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._fault: UpstreamError | None = None
        self._take: Take | None = None
        self._take_fault: Exception | None = None
        self._idle_s = self._patience_s = 0.0
        self._phase = ""
        self._phase_by = self._total_by = NEVER
        self.origin = origin
        # What a name was resolved to, and until when that is believed; None where there was nothing to resolve.
        self.address: str | None = None
        self.believed_until = NEVER
        self.deadline = NEVER

    # What the client asks.

    @property
    def is_reusable(self) -> bool:
        """Whether the answer is complete and the connection can carry another request."""
        return self._is_complete and self._keeps_alive and self._fault is None and not self._transport.is_closing()

    def is_alive(self) -> bool:
        """Ask the kernel: an idle connection that has anything to read is closed or out of step."""
        return self._fault is None and not self._transport.is_closing() and not self._probe.poll(0)

    def rest(self, until: float) -> None:
        """Go idle until the deadline."""
        self._pieces.clear()
        self._buffered_bytes = 0
        if self._is_paused:
            self._resume()
        self._total_by = NEVER
        self._wait_until(until)
        self._phase = "rest"
        self._parser = None

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def drop(self) -> None:
        """Give up a connection that nobody has used yet."""
        self._client.forget(self)
        if self._transport is not None:
            self._transport.abort()

    def fail(self, fault: UpstreamError) -> None:
        """Close at once; whoever waits gets the fault."""
        self._fault = self._fault or fault
        self._wake()
        self._transport.abort()

    async def ask(self, method: str, request: bytes, timeouts: Timeouts, end: float) -> Answer:
        """Send a request and return when the head of its answer is there."""
        self._parser = httptools.HttpResponseParser(self)
        self._fields = []
        self._head_bytes = 0
        self._pieces_whole = None
        self._is_head_done = self._is_complete = self._is_until_close = self._keeps_alive = False
        self._is_head_request = method == "HEAD"
        self._idle_s = timeouts.idle_s
        self._patience_s = self._limits.tick_s + timeouts.idle_s
        self._total_by = end
        self._watch("first_byte", timeouts.first_byte_s)
        self._transport.write(request)
        while not self._is_head_done:
            await self._news()
        self._phase_by = NEVER
        return Answer(self, self._status, self._headers)

    async def next_piece(self) -> bytes:
        """Return what has come of the body since the last call, at least one byte; nothing at its end."""
        if self.is_awaited:
            self._watch("idle", self._idle_s)
            while self.is_awaited:
                await self._news()
        return self.take()

    async def piece_within(self, seconds: float) -> bytes | None:
        """Return the next piece as `next_piece` does, or None once it has not come for so long."""
        if seconds >= self._idle_s:
            return await self.next_piece()
        if self.is_awaited:
            self._watch(_QUIET, seconds)
            while self.is_awaited and self._phase == _QUIET:
                await self._news()
        return self.take() if self._pieces or self._is_complete else None

    @property
    def is_awaited(self) -> bool:
        """Whether the next piece, or the end, has still to come."""
        return not self._pieces and not self._is_complete

    def take(self) -> bytes:
        """Return what is here of the body, without waiting."""
        self._phase_by = NEVER
        self._buffered_bytes = 0
        if self._is_paused:
            self._resume()
        pieces = self._pieces
        if len(pieces) == 1:
            return pieces.pop()
        whole = b"".join(pieces)
        pieces.clear()
        return whole

    async def pump(self, take: Take) -> None:
        """Hand over what is here, then each piece in the call that brought it."""
        if self._pieces and not take(self.take()):
            return
        self._take = take
        self._watch("idle", self._idle_s)
        try:
            while self._take is not None and not self._is_complete:
                await self._news()
        finally:
            self._take = None
            self._phase_by = NEVER
        fault, self._take_fault = self._take_fault, None
        if fault is not None:
            raise fault

    async def skip(self, within_s: float) -> None:
        """Let pieces go by until the body ends, or fail."""
        self._total_by = min(self._total_by, self._client.clock.monotonic() + within_s)
        await self.pump(lambda _: True)

    @property
    def has_piece(self) -> bool:
        """Whether a piece waits to be taken."""
        return bool(self._pieces)

    async def _news(self) -> None:
        if self._fault is not None:
            raise self._fault
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _watch(self, phase: str, seconds: float) -> None:
        self._phase = phase
        self._wait_until(self._client.clock.monotonic() + seconds)

    def _wait_until(self, by: float) -> None:
        self._phase_by = by
        by = min(by, self._total_by)
        # A deadline may be too early: `expire` sets it right, once, where this would move it with every request.
        if by < self.deadline:
            self.deadline = by
            self._ticker.watch(self)

    def expire(self, now: float) -> None:
        """Fail the phase whose time is up, or tell that it has been quiet so long."""
        if self._total_by <= now:
            self.fail(UpstreamTimeout("total"))
        elif self._phase_by <= now and self._phase == _QUIET:
            self._phase, self._phase_by = "", NEVER
            self._wake()
        elif self._phase_by <= now:
            self.fail(UpstreamTimeout(self._phase))
        self.deadline = NEVER if self._fault is not None else min(self._phase_by, self._total_by)

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        hangup = getattr(select, "POLLRDHUP", 0)
        self._probe.register(transport.get_extra_info("socket").fileno(), select.POLLIN | hangup)
        self._ticker.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection broke: {exc}" if exc else "the connection was closed")
        self._client.forget(self)
        self._parser = None

    def eof_received(self) -> bool:
        self._end("the upstream closed the connection")
        return False

    def data_received(self, chunk: bytes) -> None:
        if self._parser is None or self._is_complete:
            # Bytes that no request asked for: nothing on this connection can be trusted any more.
            self._keeps_alive = False
            self._transport.abort()
            return
        pieces = self._pieces
        count = len(pieces)
        if not self._parse(chunk):
            return
        if len(pieces) > count:
            self._head_bytes = 0
        elif self._is_overlong(len(chunk)):
            return
        if self._pieces_whole is not None:
            del pieces[self._pieces_whole :]
        take = self._take
        if take is None:
            self._keep(len(chunk))
            return
        if pieces:
            piece = pieces.pop() if len(pieces) == 1 else self.take()
            # Never too early, late by a tick at most, and no call of the clock for each piece.
            self._phase_by = self._ticker.now + self._patience_s
            try:
                if take(piece):
                    return
            except Exception as fault:  # noqa: BLE001 - whoever pumps is waiting for it, and raises it
                self._take_fault = fault
            self._take = None
            self._wake()

    def _parse(self, chunk: bytes) -> bool:
        """Read on, or close at once. What stands behind a whole answer is no part of it, whatever it is."""
        try:
            self._parser.feed_data(chunk)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._pieces_whole is not None:
                del self._pieces[self._pieces_whole :]
            self.fail(self._broken(f"the answer is malformed: {error}"))
            return False
        return True

    def _is_overlong(self, count_bytes: int) -> bool:
        """Tell whether too much has come since the last piece of a body: a head, the frame of a chunk, a trailer."""
        self._head_bytes += count_bytes
        if self._head_bytes > self._limits.head_bytes_max:
            self.fail(self._broken(_OVERLONG))
        return self._fault is not None

    def _keep(self, count_bytes: int) -> None:
        """Hold what came for whoever reads it, up to a bound."""
        self._buffered_bytes += count_bytes
        if self._buffered_bytes > self._limits.buffer_bytes and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        if self._is_head_done:
            self._wake()

    # What the parser tells.

    def on_message_begin(self) -> None:
        if self._is_complete:
            # Of what stands behind an answer even half a head has been taken from whatever comes next.
            self._keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_complete:
            return
        self._fields.append((name.lower(), value.rstrip(b" \t")))
        if len(self._fields) > self._limits.headers_max:
            self._fault = self._broken(_OVERLONG)
            raise ValueError(_OVERLONG)

    def on_headers_complete(self) -> None:
        if self._is_complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            # Interim answers are passed over (RFC 9110, section 15.2); 101 was never asked for.
            self._fields = []
            if status == 101:
                raise ValueError("the upstream switched protocols")
            return
        self._status = status
        self._headers = headers = Headers(self._fields)
        is_framed = b"content-length" in headers
        if b"transfer-encoding" in headers:
            if is_framed:
                raise ValueError("content-length together with transfer-encoding")
            is_framed = True
        self._is_head_done = True
        self._keeps_alive = self._parser.should_keep_alive() and not self._is_head_request
        self._is_until_close = not is_framed and status not in _WITHOUT_BODY and not self._is_head_request
        if self._is_head_request:
            self._complete()

    def on_message_complete(self) -> None:
        if self._is_head_done and not self._is_complete:
            self._complete()

    def _complete(self) -> None:
        """Note that the answer is whole; what the parser still finds belongs to nobody."""
        self._is_complete = True
        self._pieces_whole = len(self._pieces)
        self._wake()

    def _end(self, reason: str) -> None:
        if self._is_head_done and self._is_until_close:
            self._is_complete = True
        self._keeps_alive = False
        if not self._is_complete and self._fault is None:
            self._fault = self._broken(reason)
        self._wake()

    def _broken(self, reason: str) -> UpstreamBroken:
        return UpstreamBroken(reason, head_received=self._is_head_done)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        self._is_paused = False
        self._transport.resume_reading()
