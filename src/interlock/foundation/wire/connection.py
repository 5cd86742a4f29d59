"""One connection of the server: reads requests ahead, runs one at a time, watches the client and the clock.

Does not call handlers itself; it hands each exchange to the host when its turn has come.
"""

import asyncio
from typing import Any, Protocol

from interlock.foundation.wire.config import WireLimits
from interlock.foundation.wire.exchange import Exchange, HeaderList, head_bytes, refusal_fields
from interlock.foundation.wire.head import HeadReader, KnownHeads
from interlock.foundation.wire.limits import (
    NEVER,
    BodyPace,
    ClientGone,
    HangupWatch,
    Ticker,
    WireRefusal,
    bad_http,
)
from interlock.foundation.wire.message import Request

# Part of a full write buffer that a client must take in `write_stall_s`: a byte a minute is no reading.
_LEAST_PROGRESS = 8
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Host(Protocol):
    """What a connection needs of the server that accepted it."""

    limits: WireLimits
    ticker: Ticker
    hangups: HangupWatch
    heads: KnownHeads
    date_line: bytes
    is_draining: bool

    def mint(self) -> str: ...
    def now_us(self) -> int: ...
    def enter(self, connection: "Connection", peer: str | None) -> WireRefusal | None: ...
    def leave(self, connection: "Connection", peer: str | None, *, is_counted: bool) -> None: ...
    def run(self, exchange: Exchange) -> None: ...
    def completed(self, exchange: Exchange) -> None: ...
    def forgone(self, exchange: Exchange, rule: str) -> None: ...
    def refused(
        self, refusal: WireRefusal, peer: str | None, request_id: str, method: str | None, target: bytes | None
    ) -> HeaderList: ...
    def told(self, refusal: WireRefusal, request_id: str, target: bytes | None) -> bytes: ...


class Connection(asyncio.Protocol):
    """The protocol object of one client connection.

    Deadlines are loose: `deadline` is never later than the earliest `_*_by`, and `expire` sets it right.
    """

    # So many attributes would be a table of their own for each of thousands of connections.
    __slots__ = (
        "_active", "_beat_by", "_beat_piece", "_beat_s", "_blank_lines", "_body_by", "_close_by", "_drain_waiter",
        "_head_by", "_heads", "_held", "_idle_by", "_is_counted", "_is_deaf", "_is_ending", "_is_gone", "_is_lingering",
        "_is_paused", "_limits", "_lingered_bytes", "_pace", "_peer", "_queue", "_received_us", "_receiving",
        "_request_id", "_requests", "_ticker", "_transport", "_unsent_bytes", "_write_by", "deadline", "is_clogged",
        "server",
    )  # fmt: skip

    def __init__(self, server: Host) -> None:
        self.server = server
        self._limits = server.limits
        self._ticker = server.ticker
        self._transport: Any = None
        self._peer: str | None = None
        self._is_counted = False
        self._heads = HeadReader(server.limits, server.heads)
        self._request_id = ""
        self._received_us = 0
        self._requests = 0
        self._receiving: Exchange | None = None
        self._active: Exchange | None = None
        self._queue: list[Exchange | bytes] = []
        self._held = b""
        self._is_gone = self._is_ending = self._is_deaf = False
        self._is_paused = self._is_lingering = False
        self._lingered_bytes = self._unsent_bytes = self._blank_lines = 0
        self._drain_waiter: asyncio.Future[None] | None = None
        self._pace: BodyPace | None = None
        self._beat_piece = b""
        self._beat_s = 0.0
        self._head_by = self._idle_by = self._body_by = self._write_by = self._beat_by = self._close_by = NEVER
        self.deadline = NEVER
        self.is_clogged = False

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else None
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer_bytes)
        refusal = self.server.enter(self, self._peer)
        self._is_counted = refusal is None
        if refusal is None:
            self._idle_by = self._due(self._limits.header_s)
        else:
            self._refuse(refusal)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the transport's own signature
        self._lose()
        self.server.leave(self, self._peer, is_counted=self._is_counted)
        self._heads.close()

    def eof_received(self) -> bool:
        """Treat a half-closed connection as a closed one: nothing else tells of a client that died while we work."""
        if self._active is not None or self._receiving is not None:
            self.drop()
        return False

    def pause_writing(self) -> None:
        self.is_clogged = True
        self._drain_waiter = asyncio.get_running_loop().create_future()
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._write_by = self._due(self._limits.write_stall_s)
        self._regulate()

    def resume_writing(self) -> None:
        self.is_clogged = False
        self._write_by = NEVER
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)
        self._regulate()

    def data_received(self, chunk: bytes) -> None:
        if self._is_deaf:
            self._lingered_bytes += len(chunk)
            if self._lingered_bytes > self._limits.linger_bytes_max:
                self._transport.abort()
        elif self._held:
            self._held += chunk
        else:
            self._consume(chunk)

    # Reading.

    def _consume(self, chunk: bytes) -> None:
        at, end = 0, len(chunk)
        try:
            while at < end and not self._is_gone and not self._is_deaf:
                if self._receiving is not None:
                    at = self._read_body(self._receiving, chunk, at)
                elif self._is_ending:
                    self._overhear(chunk[at:])
                    break
                elif len(self._queue) >= self._limits.pipelined_max:
                    self._held = chunk[at:]
                    break
                else:
                    at = self._read_head(chunk, at)
        except WireRefusal as refusal:
            self._refuse(refusal)
        if self._receiving is not None or self._held or self._is_deaf or self._is_paused:
            self._regulate()

    def _read_head(self, chunk: bytes, at: int) -> int:
        heads = self._heads
        if not self._request_id:
            if chunk.startswith(b"\r\n", at):
                self._blank_lines += 1
                if self._blank_lines > self._limits.blank_lines_max:
                    raise bad_http("too many empty lines before a request")
                return at + 2
            self._blank_lines = 0
            self._request_id = self.server.mint()
            self._received_us = self.server.now_us()
            self._idle_by = NEVER
        at = heads.feed(chunk, at)
        request = heads.request
        if request is not None:
            if request.length:
                at = request.take_whole(chunk, at)
            self._open(request)
        elif self._head_by == NEVER:
            self._head_by = self._due(self._limits.header_s)
        return at

    def _open(self, request: Request) -> None:
        request.peer = self._peer
        request.received_us = self._received_us
        self._requests += 1
        if not self._heads.keeps_alive or self._requests >= self._limits.keep_alive_requests_max:
            self._is_ending = True
        exchange = Exchange(self, request, self._request_id, is_last=self._is_ending)
        self._heads.request = None
        self._request_id = ""
        self._head_by = NEVER
        if not request.is_complete:
            request.open(self._limits, self._await_body)
            self._receiving = exchange
        if self._active is None:
            self._active = exchange
            self.server.run(exchange)
        else:
            self._queue.append(exchange)

    def _read_body(self, exchange: Exchange, chunk: bytes, at: int) -> int:
        try:
            at = exchange.request.feed(chunk, at)
        except WireRefusal as refusal:
            self._fail_body(refusal)
            return at
        if exchange.request.is_complete:
            self._receiving = None
            self._body_by = NEVER
        elif at < len(chunk):
            # More chunks than a turn may take: others come first.
            self._held = chunk[at:]
            asyncio.get_running_loop().call_soon(self._go_on)
            return len(chunk)
        return at

    def _await_body(self) -> None:
        """Begin to measure the client: the handler waits for its body."""
        exchange = self._receiving
        if exchange is None:
            return
        request = exchange.request
        if request.is_continue_expected and not request.received_bytes:
            self._transport.write(_CONTINUE)
        self._pace = BodyPace(self._limits, self._ticker.now, request.received_bytes)
        self._body_by = self._due(self._pace.step_s)
        self._regulate()

    def _fail_body(self, refusal: WireRefusal) -> None:
        exchange, self._receiving = self._receiving, None
        self._is_ending = self._is_deaf = True
        self._body_by = NEVER
        if exchange is not None:
            exchange.request.fail(refusal)

    def _overhear(self, rest: bytes) -> None:
        """Record bytes behind the last request of the connection; the answer to that one stays the last."""
        if rest.strip(b"\r\n"):
            self._is_deaf = True
            self.server.refused(bad_http("bytes behind the last request"), self._peer, self.server.mint(), None, None)

    def _refuse(self, refusal: WireRefusal) -> None:
        """Queue the refusal of the head at hand behind the answers that are due, and read no further."""
        self._is_ending = self._is_deaf = True
        self._head_by = self._idle_by = NEVER
        request_id, self._request_id = self._request_id or self.server.mint(), ""
        target, method = self._heads.target or None, self._heads.method
        extra = self.server.refused(refusal, self._peer, request_id, method, target)
        body = self.server.told(refusal, request_id, target)
        framing = self.server.date_line + b"content-length: %d\r\n" % len(body)
        head = head_bytes(refusal.http_status, refusal_fields(refusal, extra), request_id, framing, is_last=True)
        self._queue.append(head if method == "HEAD" else head + body)
        self._advance()

    # Answering.

    def send(self, piece: bytes) -> bool:
        """Put bytes on the wire; tells whether there is room for more. Raises `ClientGone`."""
        if self._is_gone:
            raise ClientGone("the client has closed the connection")
        self._transport.write(piece)
        if self._beat_s:
            self._beat_by = self._ticker.now + self._beat_s
        return not self.is_clogged

    def has_room(self, count_bytes: int) -> bool:
        """Tell whether so many bytes, and as many again, fit into what may be unsent."""
        unsent = self._transport.get_write_buffer_size()
        return not self.is_clogged and unsent + 2 * count_bytes < self._limits.write_buffer_bytes

    async def drained(self) -> None:
        """Wait until the write buffer has room. Raises `ClientGone`."""
        if self.is_clogged and self._drain_waiter is not None:
            await asyncio.shield(self._drain_waiter)
        if self._is_gone:
            raise ClientGone("the client has closed the connection")

    def beat(self, piece: bytes, every_s: float) -> None:
        """Send `piece` after every silence of `every_s`, until the answer ends."""
        self._beat_piece = piece
        self._beat_s = every_s
        self._beat_by = self._due(every_s)

    def answered(self, exchange: Exchange) -> None:
        """Note a complete answer; the next request runs, or the connection closes."""
        exchange.is_finished = True
        self._active = None
        if self._beat_s:
            self._beat_s = 0.0
            self._beat_by = NEVER
        self.server.completed(exchange)
        if self._is_gone:
            return
        if exchange.is_last or self.server.is_draining or not exchange.request.is_complete:
            self._close()
        else:
            self._advance()

    def cut(self, exchange: Exchange) -> None:
        """Close at once because the answer cannot be completed."""
        exchange.is_finished = True
        if self._active is exchange:
            self._active = None
            self._is_gone = True
            self._forgo("wire.cut")
            self._transport.abort()

    def drain(self) -> None:
        """Close if idle; the answer at hand is the last one otherwise."""
        if self._active is None and not self._request_id and not self._queue and not self._is_lingering:
            self._transport.close()

    def drop(self) -> None:
        """Treat the client as gone."""
        self._lose()
        self._transport.abort()

    def _advance(self) -> None:
        if self._queue and self._active is None:
            turn = self._queue.pop(0)
            if isinstance(turn, bytes):
                self._transport.write(turn)
                self._close()
                return
            self._active = turn
            self.server.run(turn)
        if self._held:
            self._go_on()
        elif self._active is None and not self._request_id:
            self._idle_by = self._due(self._limits.keep_alive_s)

    def _go_on(self) -> None:
        """Read what was held back."""
        if self._held and not self._is_gone:
            chunk, self._held = self._held, b""
            self._consume(chunk)
            self._regulate()

    def _close(self) -> None:
        """Close when all is sent; while the client may still be sending, give it time to read its answer first."""
        self._forgo("wire.drain")
        is_unread = self._is_deaf or self._receiving is not None or bool(self._held)
        self._held, self._receiving = b"", None
        self._is_ending = self._is_deaf = True
        has_unsent = self._transport.get_write_buffer_size() > 0
        self._close_by = self._due(self._limits.write_stall_s if has_unsent else self._limits.linger_s)
        # A connection too many gets no time: it is not counted, so nothing else would bound how many linger.
        if is_unread and self._is_counted and self._transport.can_write_eof():
            self._is_lingering = True
            self._transport.write_eof()
            self._regulate()
        else:
            self._transport.close()

    def _lose(self) -> None:
        """Forget the client: its queued requests go, and the handler at work is cancelled."""
        if self._is_gone:
            return
        self._is_gone = True
        self._forgo("client.disconnected")
        self._held = b""
        self._receiving = None
        self.server.hangups.discard(self)
        active, self._active = self._active, None
        if active is None or active.task is None:
            return
        if isinstance(active.task, asyncio.Task):
            # One that was made in this very turn has to take its first step, or nobody would ever end its request.
            asyncio.get_running_loop().call_soon(active.task.cancel)
        else:
            active.task.cancel()

    def _forgo(self, rule: str) -> None:
        """Tell of the requests whose turn never came, by what ended the connection before."""
        queue, self._queue = self._queue, []
        for each in queue:
            if isinstance(each, Exchange):
                self.server.forgone(each, rule)

    def _regulate(self) -> None:
        """Read only what there is room for. A connection that is not read is watched for hang-up instead."""
        ahead = self._receiving.request if self._receiving is not None else None
        is_full = ahead is not None and not ahead.is_awaited and ahead.received_bytes >= self._limits.body_ahead_bytes
        wants_pause = not self._is_lingering and (self.is_clogged or bool(self._held) or self._is_deaf or is_full)
        if wants_pause == self._is_paused or self._is_gone or self._transport.is_closing():
            return
        self._is_paused = wants_pause
        if wants_pause:
            self._transport.pause_reading()
            self.server.hangups.add(self, self._transport.get_extra_info("socket").fileno())
        else:
            self.server.hangups.discard(self)
            self._transport.resume_reading()

    # The clock.

    def expire(self, now: float) -> None:
        """Act on every deadline that has passed, then set the next one."""
        if self._close_by <= now:
            self.drop()
        if self._write_by <= now:
            self._check_progress(now)
        if self._body_by <= now:
            self._check_body(now)
        if self._beat_by <= now:
            self._beat_by = now + self._beat_s
            if not self.is_clogged:
                self._transport.write(self._beat_piece)
        if self._head_by <= now:
            self._refuse(WireRefusal("request_timeout"))
        if self._idle_by <= now:
            self._idle_by = NEVER
            # Not closed at once: of a client that reads nothing the transport would wait for ever.
            self._close()
        self.deadline = (
            NEVER
            if self._is_gone
            else min(self._head_by, self._idle_by, self._body_by, self._write_by, self._beat_by, self._close_by)
        )

    def _check_progress(self, now: float) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent > self._unsent_bytes - self._limits.write_buffer_bytes // _LEAST_PROGRESS:
            self.drop()
        self._unsent_bytes = unsent
        self._write_by = now + self._limits.write_stall_s

    def _check_body(self, now: float) -> None:
        if self._receiving is None or self._pace is None:
            self._body_by = NEVER
        elif self._pace.is_too_slow(now, self._receiving.request.received_bytes):
            self._fail_body(WireRefusal("request_timeout"))
            self._regulate()
        else:
            self._body_by = now + self._pace.step_s

    def _due(self, seconds: float) -> float:
        by = self._ticker.now + seconds
        if by < self.deadline:
            self.deadline = by
            self._ticker.watch(self)
        return by
