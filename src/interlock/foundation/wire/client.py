"""The HTTP/1.1 client: a keep-alive pool for each origin, a deadline for each phase, bounded answers.

Does not follow redirects, keep cookies or decode content; what it can prove unsent it sends again, nothing else.
"""

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, zip_longest
from types import TracebackType
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httptools

from interlock.foundation.clock import Clock
from interlock.foundation.wire.config import ClientLimits
from interlock.foundation.wire.limits import NEVER, Ticker
from interlock.foundation.wire.message import Headers

HeaderList = Sequence[tuple[bytes, bytes]]
Resolve = Callable[[str, int], Awaitable[list[str]]]
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"host", b"expect"})
_WITH_LENGTH: Final = frozenset({"POST", "PUT", "PATCH"})


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


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Longest time of each phase, in seconds; `idle_s` is the silence between two pieces of a body."""

    connect_s: float = 2.0
    first_byte_s: float = 60.0
    idle_s: float = 60.0
    total_s: float = 600.0


class AddressPolicy(Protocol):
    """Decides at connect time which resolved addresses may be reached."""

    def permits(self, host: str, address: str, port: int) -> bool:
        """Return whether `host` may be reached at `address`, an IP literal or `unix:PATH`."""
        ...


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What the client holds at this moment, and what it did since its start."""

    connections_idle: int
    connections_busy: int
    connections_opened_total: int
    requests_total: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection leads: scheme `http`, `https` or `unix`; for the last, `host` is the socket's path."""

    scheme: str
    host: str
    port: int


@lru_cache(maxsize=1_024)
def parse_url(url: str) -> tuple[Origin, bytes, bytes]:
    """Return origin, request target and Host of `http://`, `https://` or `unix:/path/to.sock:/target`."""
    if not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise ValueError("a URL is printable ASCII without blanks")
    if url.startswith("unix:"):
        path, found, rest = url.removeprefix("unix:").partition(":/")
        if not found or not path.startswith("/"):
            raise ValueError("unix:/path/to.sock:/target is the form of a socket URL")
        return Origin("unix", path, 0), b"/" + rest.encode(), b"localhost"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("the URL must be http:// or https:// with a host and without a user")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Origin(parts.scheme, parts.hostname, port), target.encode(), parts.netloc.encode()


class Answer:
    """The head of an answer and its body, which is read once, within the block of its request."""

    __slots__ = ("_connection", "headers", "is_over", "status")

    def __init__(self, connection: "_Upstream", status: int, headers: Headers) -> None:
        self._connection = connection
        self.status = status
        self.headers = headers
        self.is_over = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield pieces of the body as they come. Raises `UpstreamTimeout` and `UpstreamBroken`."""
        while piece := await self._next():
            yield piece

    async def read(self, limit: int) -> bytes:
        """Return the whole body; one longer than `limit` bytes raises `UpstreamBroken`."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self._next():
            size += len(piece)
            if size > limit:
                raise UpstreamBroken(f"the answer is longer than {limit} bytes", head_received=True)
            pieces.append(piece)
        return b"".join(pieces)

    async def _next(self) -> bytes:
        if self.is_over:
            # The connection may carry another request by now.
            raise RuntimeError("the block of this request has ended")
        return await self._connection.next_piece()


class Client:
    """Asks upstreams. Leaving the block of a request before its answer is complete closes the socket."""

    def __init__(
        self,
        limits: ClientLimits,
        clock: Clock,
        address_policy: AddressPolicy | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self._resolve = resolve or resolve_by_system
        self._policy = address_policy
        self._tls = tls
        self._idle: dict[Origin, list[_Upstream]] = {}
        self._opened_total = 0
        self._requests_total = 0
        self.limits = limits
        self.clock = clock
        self.ticker = Ticker(clock, limits.tick_s)

    def request(
        self,
        method: str,
        url: str,
        headers: HeaderList = (),
        body: bytes = b"",
        timeouts: Timeouts | None = None,
    ) -> "_Call":
        """Return a context manager that yields the `Answer`.

        Raises:
            UpstreamConnectError: when no connection could be made.
            UpstreamTimeout: when a phase took too long.
            UpstreamBroken: when the connection ended early or the answer is malformed.
        """
        origin, target, host = parse_url(url)
        self._requests_total += 1
        return _Call(self, origin, method, _request_bytes(method, target, host, headers, body), timeouts or Timeouts())

    def statistics(self) -> ClientStatistics:
        """Return the figures that the metrics and the tests read."""
        idle = sum(len(each) for each in self._idle.values())
        return ClientStatistics(idle, len(self.ticker.members) - idle, self._opened_total, self._requests_total)

    async def close(self) -> None:
        """Close every connection, busy ones too."""
        for connection in list(self.ticker.members):
            if isinstance(connection, _Upstream):
                connection.fail(UpstreamBroken("the client was closed", head_received=False))
        while self.ticker.members:
            await self.clock.sleep(0)

    async def acquire(self, origin: Origin, connect_s: float) -> "_Upstream":
        """Return a connection that is alive as far as this side can tell, kept or new."""
        idle = self._idle.get(origin, [])
        while idle:
            connection = idle.pop()
            if connection.is_alive():
                return connection
            connection.abort()
        try:
            async with asyncio.timeout(connect_s):
                return await self._connect(origin)
        except TimeoutError as error:
            raise UpstreamTimeout("connect") from error
        except OSError as error:
            raise UpstreamConnectError(f"{origin.host}: {error.strerror or error}") from error

    def release(self, connection: "_Upstream") -> None:
        """Keep a connection whose answer is complete, if there is room."""
        idle = self._idle.setdefault(connection.origin, [])
        if len(idle) >= self.limits.idle_connections_max:
            connection.abort()
            return
        connection.rest(self.clock.monotonic() + self.limits.idle_s)
        idle.append(connection)

    def forget(self, connection: "_Upstream") -> None:
        """Note that a connection is closed."""
        self.ticker.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None:
            with contextlib.suppress(ValueError):
                idle.remove(connection)
            if not idle:
                del self._idle[connection.origin]

    async def _connect(self, origin: Origin) -> "_Upstream":
        loop = asyncio.get_running_loop()
        if origin.scheme == "unix":
            self._require_permitted(origin.host, [f"unix:{origin.host}"], 0)
            connection = _Upstream(self, origin)
            async with _whole_or_not_at_all(connection):
                await loop.create_unix_connection(lambda: connection, origin.host)
        else:
            resolved = await self._resolve(origin.host, origin.port)
            addresses = self._require_permitted(origin.host, resolved, origin.port)
            connection = await self._race(origin, _interleaved(addresses))
        self._opened_total += 1
        return connection

    def _require_permitted(self, host: str, addresses: list[str], port: int) -> list[str]:
        policy = self._policy
        allowed = addresses if policy is None else [each for each in addresses if policy.permits(host, each, port)]
        if not allowed:
            raise AddressRefused(f"{host} has no address that may be reached")
        return allowed

    async def _race(self, origin: Origin, addresses: list[str]) -> "_Upstream":
        """Try the addresses in order, each with a head start over the next; the first connection wins (RFC 8305)."""
        if len(addresses) == 1:
            return await self._dial(origin, addresses[0])
        waiting = list(addresses)
        dialling: set[asyncio.Task[_Upstream]] = set()
        fault: OSError = OSError("no address")
        try:
            while waiting or dialling:
                if waiting:
                    dialling.add(asyncio.get_running_loop().create_task(self._dial(origin, waiting.pop(0))))
                stagger_s = self.limits.connect_stagger_s if waiting else None
                done, dialling = await asyncio.wait(dialling, timeout=stagger_s, return_when=asyncio.FIRST_COMPLETED)
                faults = [task.exception() for task in done]
                won = [task for task, error in zip(done, faults, strict=True) if error is None]
                if won:
                    dialling |= set(won[1:])
                    return won[0].result()
                for error in faults:
                    fault = _require_os_error(error)
            raise fault
        finally:
            for task in dialling:
                task.cancel()
                task.add_done_callback(_discard_late)

    async def _dial(self, origin: Origin, address: str) -> "_Upstream":
        tls: dict[str, Any] = {}
        if origin.scheme == "https":
            self._tls = self._tls or ssl.create_default_context()
            tls = {"ssl": self._tls, "server_hostname": origin.host}
        connection = _Upstream(self, origin)
        async with _whole_or_not_at_all(connection):
            await asyncio.get_running_loop().create_connection(lambda: connection, address, origin.port, **tls)
        return connection


@contextlib.asynccontextmanager
async def _whole_or_not_at_all(connection: "_Upstream") -> AsyncIterator[None]:
    """Forget a connection whose making fails or is cancelled: uvloop then closes it without telling its protocol."""
    try:
        yield
    except BaseException:
        connection.drop()
        raise


class _Call:
    """The context of one request."""

    def __init__(self, client: Client, origin: Origin, method: str, request: bytes, timeouts: Timeouts) -> None:
        self._client = client
        self._origin = origin
        self._method = method
        self._request = request
        self._timeouts = timeouts
        self._connection: _Upstream | None = None
        self._answer: Answer | None = None

    async def __aenter__(self) -> Answer:
        timeouts = self._timeouts
        end = self._client.clock.monotonic() + timeouts.total_s
        connection = await self._client.acquire(self._origin, min(timeouts.connect_s, timeouts.total_s))
        self._connection = connection
        try:
            self._answer = await connection.ask(self._method, self._request, timeouts, end)
        except BaseException:
            connection.abort()
            raise
        return self._answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._connection
        if connection is None or self._answer is None:
            return
        self._answer.is_over = True
        if connection.is_reusable:
            self._client.release(connection)
        else:
            connection.abort()


class _Upstream(asyncio.Protocol):
    """One connection to an origin; carries one request at a time."""

    def __init__(self, client: Client, origin: Origin) -> None:
        self._client = client
        self._limits = client.limits
        self._transport: Any = None
        self._probe = select.poll()
        self._parser: Any = None
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._status = 0
        self._is_head_done = self._is_complete = self._is_until_close = False
        self._keeps_alive = False
        self._is_head_request = False
        self._pieces: list[bytes] = []
        self._buffered_bytes = 0
        self._is_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._fault: UpstreamError | None = None
        self._idle_s = 0.0
        self._phase = ""
        self._phase_by = self._total_by = NEVER
        self.origin = origin
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
        self._pieces = []
        self._buffered_bytes = 0
        self._resume()
        self.deadline = self._phase_by = until
        self._total_by = NEVER
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
        self._is_head_done = self._is_complete = self._is_until_close = self._keeps_alive = False
        self._is_head_request = method == "HEAD"
        self._idle_s = timeouts.idle_s
        self._total_by = end
        self._watch("first_byte", timeouts.first_byte_s)
        self._transport.write(request)
        while not self._is_head_done:
            await self._news()
        self._phase_by = NEVER
        return Answer(self, self._status, Headers(self._fields))

    async def next_piece(self) -> bytes:
        """Return what has come of the body since the last call, at least one byte; nothing at its end."""
        if not self._pieces and not self._is_complete:
            self._watch("idle", self._idle_s)
            while not self._pieces and not self._is_complete:
                await self._news()
        self._phase_by = NEVER
        pieces, self._pieces = self._pieces, []
        self._buffered_bytes = 0
        self._resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

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
        self._phase_by = self._client.clock.monotonic() + seconds
        self.deadline = min(self._phase_by, self._total_by)

    def expire(self, now: float) -> None:
        """Fail the phase whose time is up."""
        if self._total_by <= now:
            self.fail(UpstreamTimeout("total"))
        elif self._phase_by <= now:
            self.fail(UpstreamTimeout(self._phase))
        self.deadline = NEVER if self._fault is not None else min(self._phase_by, self._total_by)

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        hangup = getattr(select, "POLLRDHUP", 0)
        self._probe.register(transport.get_extra_info("socket").fileno(), select.POLLIN | hangup)
        self._client.ticker.add(self)

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
        if not self._is_head_done:
            self._head_bytes += len(chunk)
        try:
            self._parser.feed_data(chunk)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(self._broken(f"the answer is malformed: {error}"))
            return
        limits = self._limits
        is_long = not self._is_head_done and self._head_bytes > limits.head_bytes_max
        if is_long or len(self._fields) > limits.headers_max:
            self.fail(self._broken("the head of the answer is too long"))
            return
        if self._buffered_bytes > limits.buffer_bytes and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        if self._is_head_done:
            self._wake()

    # What the parser tells.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_complete:
            self._fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._is_complete:
            self._keeps_alive = False
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            # Interim answers are passed over (RFC 9110, section 15.2); 101 was never asked for.
            self._fields = []
            if status == 101:
                raise ValueError("the upstream switched protocols")
            return
        self._status = status
        names = {name for name, _ in self._fields}
        if b"content-length" in names and b"transfer-encoding" in names:
            raise ValueError("content-length together with transfer-encoding")
        self._is_head_done = True
        self._keeps_alive = self._parser.should_keep_alive() and not self._is_head_request
        is_framed = bool(names & {b"content-length", b"transfer-encoding"}) or status in (204, 304)
        self._is_until_close = not is_framed and not self._is_head_request
        self._is_complete = self._is_head_request

    def on_body(self, piece: bytes) -> None:
        if not self._is_complete:
            self._pieces.append(piece)
            self._buffered_bytes += len(piece)

    def on_message_complete(self) -> None:
        if self._is_head_done:
            self._is_complete = True

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
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()


async def resolve_by_system(host: str, port: int) -> list[str]:
    """Return the addresses of a host in the order of the system's resolver. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _request_bytes(method: str, target: bytes, host: bytes, headers: HeaderList, body: bytes) -> bytes:
    given = next((value for name, value in headers if name.lower() == b"host"), host)
    fields = [name + b": " + value + b"\r\n" for name, value in headers if name.lower() not in _FRAMING]
    if body or method in _WITH_LENGTH:
        fields.append(b"content-length: %d\r\n" % len(body))
    lines = b"%b %b HTTP/1.1\r\nhost: %b\r\n%b" % (method.encode("ascii"), target, given, b"".join(fields))
    if lines.count(b"\n") != len(fields) + 2 or lines.count(b"\r") != len(fields) + 2 or b"\0" in lines:
        raise ValueError("the method, the target or a header field holds CR, LF or NUL")
    return lines + b"\r\n" + body


def _interleaved(addresses: list[str]) -> list[str]:
    """Alternate the families, beginning with the one that the resolver put first."""
    first = [each for each in addresses if (":" in each) == (":" in addresses[0])]
    second = [each for each in addresses if each not in first]
    return [each for each in chain.from_iterable(zip_longest(first, second)) if each is not None]


def _require_os_error(error: BaseException | None) -> OSError:
    if isinstance(error, OSError):
        return error
    raise error or OSError("no connection")


def _discard_late(task: "asyncio.Task[_Upstream]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().abort()
