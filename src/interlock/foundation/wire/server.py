"""The HTTP/1.1 server: listens, gives each request its task, counts, drains.

Does not route and does not judge a request beyond HTTP itself; the handler does.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.wire.config import WireLimits
from interlock.foundation.wire.connection import Connection
from interlock.foundation.wire.exchange import Exchange, HeaderList
from interlock.foundation.wire.head import KnownHeads
from interlock.foundation.wire.limits import AddressCount, ClientGone, HangupWatch, Ticker, WireRefusal, envelope

Handler = Callable[[Exchange], Awaitable[None]]
# Takes a request of a server on without a task, or tells that it does not.
Taker = Callable[[Exchange, "Server"], bool]
# refusal, peer, request id, method, target -> headers to add to the answer, or None
RefusalHook = Callable[[WireRefusal, str | None, str, str | None, bytes | None], HeaderList | None]
# refusal, request id, target -> the body of the answer, or None for the platform's envelope
BodyHook = Callable[[WireRefusal, str, bytes | None], bytes | None]
# A request whose turn never came, and what ended its connection before
ForgoneHook = Callable[[Exchange, str], None]
# route, status, seconds
MetricsHook = Callable[[str, int, float], None]

_BACKLOG = 2_048
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What the server holds at this moment, and what it did since its start.

    Of the connections that were turned away, too many were open, or too many came at once from one address.
    """

    connections: int
    too_many_total: int
    too_fast_total: int
    handlers_running: int
    heads_known: int
    answers_total: int
    refusals_total: int
    is_draining: bool


class Server:
    """Serves one handler on any number of listening sockets.

    `mint` names each request before it is parsed. `on_refusal` hears of each refusal that no handler saw, or
    that a handler let pass, and `body_of` gives the body of what is refused at its head; `on_forgone` hears of each
    request that stood behind another one when its connection ended.
    When a client goes away its handler is cancelled at once. `is_proxy` tells of an address behind which many callers
    stand: the bounds of one address are not meant for it. `take` may take on, without a task, a request that came
    alone: it puts what can be cancelled into `Exchange.task`, and ends with `over` or `go_on`.
    """

    __slots__ = (
        "_answers_total", "_body_of", "_clock", "_count", "_date_s", "_handler", "_is_empty", "_listeners",
        "_on_forgone", "_on_metrics", "_on_refusal", "_refusals_total", "_running", "_take", "_unix_paths", "date_line",
        "hangups", "heads", "is_draining", "is_proxy", "limits", "mint", "now_us", "ticker",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - who is asked of each request
        self,
        handler: Handler,
        limits: WireLimits,
        *,
        mint: Callable[[], str],
        clock: Clock,
        on_refusal: RefusalHook | None = None,
        body_of: BodyHook | None = None,
        on_metrics: MetricsHook | None = None,
        on_forgone: ForgoneHook | None = None,
        take: Taker | None = None,
    ) -> None:
        self._handler = handler
        self._take = take
        self._clock = clock
        self._on_refusal = on_refusal
        self._body_of = body_of
        self._on_metrics = on_metrics
        self._on_forgone = on_forgone
        self._count = AddressCount(limits)
        self._listeners: list[asyncio.Server] = []
        self._unix_paths: list[Path] = []
        self._running: set[Exchange] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._answers_total = 0
        self._refusals_total = 0
        self._date_s = 0
        self.limits = limits
        self.mint = mint
        self.now_us = clock.now_us
        self.ticker = Ticker(clock, limits.tick_s, self._tick)
        self.hangups = HangupWatch()
        self.heads = KnownHeads(limits.known_heads_max, min(limits.request_line_bytes_max, limits.header_bytes_max))
        self.date_line = b""
        self.is_draining = False
        self.is_proxy: Callable[[str], bool] | None = None
        self._renew_date()

    async def listen(self, sock: socket.socket) -> None:
        """Serve connections of a bound TCP or unix socket; the server closes it at the drain."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            listener = await loop.create_unix_server(self._connect, sock=sock, backlog=_BACKLOG)
        else:
            listener = await loop.create_server(self._connect, sock=sock, backlog=_BACKLOG)
        self._listeners.append(listener)

    async def listen_unix(self, path: Path | str) -> None:
        """Serve on a new unix socket with mode 0600; a socket file left by a dead process is replaced."""
        place = Path(path)
        sock = _bind_unix(place)
        try:
            await self.listen(sock)
        except BaseException:
            sock.close()
            raise
        self._unix_paths.append(place)

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, finish the answers at hand within `grace_s`, then cancel what is left."""
        self.is_draining = True
        for listener in self._listeners:
            listener.close()
        for place in self._unix_paths:
            place.unlink(missing_ok=True)
        self._listeners, self._unix_paths = [], []
        for connection in self._connections():
            connection.drain()
        try:
            async with asyncio.timeout(grace_s):
                await self._is_empty.wait()
        except TimeoutError:
            for connection in self._connections():
                connection.drop()
        # What was begun without a task goes on in one once it is cancelled, from the next turn of the loop.
        await self._clock.sleep(0)
        tasks = [exchange.task for exchange in self._running if isinstance(exchange.task, asyncio.Task)]
        if tasks:
            await asyncio.wait(tasks, timeout=self.limits.cancel_grace_s)
        self.hangups.close()

    def statistics(self) -> ServerStatistics:
        """Return the figures that the console, the metrics and the tests read."""
        return ServerStatistics(
            connections=len(self.ticker.members),
            too_many_total=self._count.too_many_total,
            too_fast_total=self._count.too_fast_total,
            handlers_running=len(self._running),
            heads_known=len(self.heads),
            answers_total=self._answers_total,
            refusals_total=self._refusals_total,
            is_draining=self.is_draining,
        )

    # What connections ask of their host.

    def enter(self, connection: Connection, peer: str | None) -> WireRefusal | None:
        """Take a new connection in, or return why it is one too many."""
        self.ticker.add(connection)
        self._is_empty.clear()
        return self._count.enter(self._bounded(peer), self._clock.monotonic())

    def leave(self, connection: Connection, peer: str | None, *, is_counted: bool) -> None:
        """Forget a closed connection."""
        self.ticker.discard(connection)
        self.hangups.discard(connection)
        if is_counted:
            self._count.leave(self._bounded(peer))
        if not self.ticker.members:
            self._is_empty.set()

    def _bounded(self, peer: str | None) -> str | None:
        return None if peer is None or (self.is_proxy is not None and self.is_proxy(peer)) else peer

    def run(self, exchange: Exchange) -> None:
        """Start the handler of a request whose turn has come."""
        self._running.add(exchange)
        self.go_on(exchange, self._handler)

    def go_on(self, exchange: Exchange, handler: Handler) -> "asyncio.Task[None]":
        """Have a handler serve a request in a task."""
        serving = self._serve(exchange, handler)
        # A name of its own would be formatted for each request.
        exchange.task = task = asyncio.Task(serving, loop=asyncio.get_running_loop(), name="wire.request")
        return task

    def over(self, exchange: Exchange) -> None:
        """Note that nobody serves a request any more; without an answer its connection is cut."""
        self._running.discard(exchange)
        # A task that was cancelled keeps the way it came, and with it the exchange, which would keep the task.
        exchange.task = None
        if not exchange.is_finished:
            exchange.abort()

    def completed(self, exchange: Exchange) -> None:
        """Count a complete answer."""
        self._answers_total += 1
        if self._on_metrics is not None:
            seconds = (self._clock.now_us() - exchange.request.received_us) / 1e6
            self._on_metrics(exchange.route, exchange.status, seconds)

    def refused(
        self, refusal: WireRefusal, peer: str | None, request_id: str, method: str | None, target: bytes | None
    ) -> HeaderList:
        """Count a refusal and tell the hook; returns the headers that the hook adds to the answer."""
        self._refusals_total += 1
        if self._on_refusal is None:
            return ()
        return self._on_refusal(refusal, peer, request_id, method, target) or ()

    def told(self, refusal: WireRefusal, request_id: str, target: bytes | None) -> bytes:
        """Return the body that tells of a refusal at the head of a request."""
        body = None if self._body_of is None else self._body_of(refusal, request_id, target)
        return envelope(refusal, request_id) if body is None else body

    def forgone(self, exchange: Exchange, rule: str) -> None:
        """Tell the hook of a request whose turn never came."""
        if self._on_forgone is None:
            return
        try:
            self._on_forgone(exchange, rule)
        except Exception:  # noqa: BLE001 - whoever is at work on this connection has to hear of its end all the same
            _log.exception("wire.forgone_failed", request_id=exchange.request_id, path=exchange.request.path)

    async def _serve(self, exchange: Exchange, handler: Handler) -> None:
        try:
            await handler(exchange)
            if not exchange.is_finished:
                self._end_badly(exchange, WireRefusal("internal_error"))
        except ClientGone:
            exchange.abort()
        except WireRefusal as refusal:
            self._end_badly(exchange, refusal)
        except Exception:  # noqa: BLE001 - the outer loop of a worker: the client gets an answer with an id anyway
            _log.exception("wire.handler_failed", request_id=exchange.request_id, path=exchange.request.path)
            self._end_badly(exchange, WireRefusal("internal_error"))
        finally:
            self.over(exchange)

    def _end_badly(self, exchange: Exchange, refusal: WireRefusal) -> None:
        if exchange.head_sent:
            if not exchange.is_finished:
                exchange.abort()
            return
        request = exchange.request
        extra = self.refused(refusal, request.peer, exchange.request_id, request.method, request.target)
        exchange.refuse(refusal, extra)

    def _connect(self) -> Connection:
        return Connection(self)

    def _connections(self) -> list[Connection]:
        return [each for each in self.ticker.members if isinstance(each, Connection)]

    def _tick(self) -> None:
        self._count.forget(self.ticker.now)
        self._renew_date()

    def _renew_date(self) -> None:
        now_s = self._clock.now_us() // 1_000_000
        if now_s != self._date_s:
            self._date_s = now_s
            self.date_line = b"date: " + formatdate(now_s, usegmt=True).encode("ascii") + b"\r\n"


def _bind_unix(place: Path) -> socket.socket:
    if place.exists() and stat.S_ISSOCK(place.lstat().st_mode):
        place.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        sock.bind(str(place))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock
