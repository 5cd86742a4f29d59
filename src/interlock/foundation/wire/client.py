"""The HTTP/1.1 client: a keep-alive pool for each origin, a deadline for each phase, bounded answers.

Does not follow redirects, keep cookies or decode content; what it can prove unsent it sends again, nothing else.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import TracebackType
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from interlock.foundation import native
from interlock.foundation.clock import Clock
from interlock.foundation.wire.config import ClientLimits
from interlock.foundation.wire.dialling import ForwardProxy, interleaved, resolve_by_system
from interlock.foundation.wire.limits import Ticker
from interlock.foundation.wire.upstream import (
    AddressRefused,
    Answer,
    Origin,
    Timeouts,
    UpstreamBroken,
    UpstreamConnectError,
    UpstreamConnection,
    UpstreamTimeout,
)

HeaderList = Sequence[tuple[bytes, bytes]]
Resolve = Callable[[str, int], Awaitable[list[str]]]
# Asks the same again with another body, within some times, and with some header lines of that request alone.
Asker = Callable[[bytes, Timeouts, bytes], "_Call"]
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"host", b"expect"})
_ASKED_MAX: Final = 256
_WITH_LENGTH: Final = frozenset({"POST", "PUT", "PATCH"})


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
        proxy: ForwardProxy | None = None,
    ) -> None:
        self._resolve = resolve or resolve_by_system
        self._policy = address_policy
        self._tls = tls
        self._idle: dict[Origin, list[UpstreamConnection]] = {}
        self._looking: dict[Origin, asyncio.Task[frozenset[str] | None]] = {}
        # What was asked last of a URL: whoever asks the same again, but for the body, is spared the rendering.
        self._asked: dict[str, _Asked] = {}
        self._opened_total = 0
        self._requests_total = 0
        self.proxy = proxy
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
        lines: bytes = b"",
    ) -> "_Call":
        """Return a context manager that yields the `Answer`.

        `lines` are header lines of this request alone, each with its line end: the rest of a head is rendered once for
        a URL. Nobody checks them.

        Raises:
            UpstreamConnectError: when no connection could be made.
            UpstreamTimeout: when a phase took too long.
            UpstreamBroken: when the connection ended early or the answer is malformed.
        """
        self._requests_total += 1
        asked = self._asked.get(url)
        if asked is None or asked.headers != headers or asked.method != method:
            asked = self._render(method, url, headers)
        length = b"content-length: %d\r\n\r\n" % len(body) if body or method in _WITH_LENGTH else b"\r\n"
        return _FORM.call(
            self, asked.origin, method, b"".join((asked.head, lines, length, body)), timeouts or Timeouts()
        )

    def asker(self, method: str, url: str, headers: HeaderList) -> Asker:
        """Return what asks one URL by one method and headers, as `request` does."""
        if _FORM.asker is None:
            return partial(self.request, method, url, headers)
        asked = self._render(method, url, headers)
        return _FORM.asker(self, asked.origin, method, asked.head)

    def _render(self, method: str, url: str, headers: HeaderList) -> "_Asked":
        origin, target, host = parse_url(url)
        asked = _Asked(origin, method, headers, _head_bytes(method, target, host, headers))
        # A list may be changed by whoever holds it.
        if isinstance(headers, tuple):
            if len(self._asked) >= _ASKED_MAX:
                self._asked.clear()
            self._asked[url] = asked
        return asked

    def statistics(self) -> ClientStatistics:
        """Return the figures that the metrics and the tests read."""
        idle = sum(len(each) for each in self._idle.values())
        return ClientStatistics(idle, len(self.ticker.members) - idle, self._opened_total, self._requests_total)

    async def close(self) -> None:
        """Close every connection, busy ones too."""
        for looking in self._looking.values():
            looking.cancel()
        for connection in list(self.ticker.members):
            if isinstance(connection, UpstreamConnection):
                connection.fail(UpstreamBroken("the client was closed", head_received=False))
        while self.ticker.members:
            await self.clock.sleep(0)

    def kept(self, origin: Origin, now: float) -> "UpstreamConnection | None":
        """Return a kept connection that is alive as far as this side can tell; None where finding one takes a wait."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle[-1]
            if connection.address is not None and now >= connection.believed_until:
                return None
            idle.pop()
            if connection.is_alive():
                return connection
            connection.abort()
        return None

    async def acquire(self, origin: Origin, connect_s: float) -> "UpstreamConnection":
        """Return a connection that is alive as far as this side can tell, kept or new."""
        idle, left_s = self._idle.get(origin, []), connect_s
        while idle:
            connection = idle.pop()
            if connection.is_alive():
                is_meant, left_s = await self._is_still_meant(connection, left_s)
                if is_meant and connection.is_alive():
                    return connection
            connection.abort()
        try:
            async with asyncio.timeout(left_s):
                return await self._connect(origin)
        except TimeoutError as error:
            raise UpstreamTimeout("connect") from error
        except OSError as error:
            raise UpstreamConnectError(f"{origin.host}: {error.strerror or error}") from error

    def release(self, connection: "UpstreamConnection") -> None:
        """Keep a connection whose answer is complete, if there is room."""
        idle = self._idle.setdefault(connection.origin, [])
        if len(idle) >= self.limits.idle_connections_max:
            connection.abort()
            return
        # Late by a tick at most, and no call of the clock.
        connection.rest(self.ticker.now + self.limits.tick_s + self.limits.idle_s)
        idle.append(connection)

    def forget(self, connection: "UpstreamConnection") -> None:
        """Note that a connection is closed."""
        self.ticker.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None:
            with contextlib.suppress(ValueError):
                idle.remove(connection)
            if not idle:
                del self._idle[connection.origin]

    async def _connect(self, origin: Origin) -> "UpstreamConnection":
        loop = asyncio.get_running_loop()
        if origin.scheme == "unix":
            self._require_permitted(origin.host, [f"unix:{origin.host}"], 0)
            connection = _FORM.connection(self, origin)
            async with _whole_or_not_at_all(connection):
                await loop.create_unix_connection(lambda: connection, origin.host)
        else:
            connection = await self._race(origin, interleaved(await self._addresses(origin)))
        self._opened_total += 1
        return connection

    async def _is_still_meant(self, connection: "UpstreamConnection", within_s: float) -> tuple[bool, float]:
        """Tell whether the name of a kept connection still leads there, and may; and what is left of the time.

        A resolver that is away or silent takes no connection from anybody: each was judged when it was made.
        """
        if connection.address is None or (now := self.clock.monotonic()) < connection.believed_until:
            return True, within_s
        origin, connection.believed_until = connection.origin, now + self.limits.resolve_s
        looking = self._looking.get(origin)
        if looking is None:
            looking = self._looking[origin] = asyncio.get_running_loop().create_task(self._look_again(origin))
        try:
            await asyncio.wait({looking}, timeout=within_s)
        except asyncio.CancelledError:
            connection.abort()
            raise
        if not looking.done():
            # One request has waited for a silent resolver; the next ones need not.
            for each in self._idle.get(origin, ()):
                each.believed_until = connection.believed_until
        found = looking.result() if looking.done() and not looking.cancelled() else None
        left_s = max(0.0, within_s - (self.clock.monotonic() - now))
        return found is None or connection.address in found, left_s

    async def _look_again(self, origin: Origin) -> frozenset[str] | None:
        """Resolve a name anew and close what is kept to other addresses; None where nobody knows."""
        try:
            found = frozenset(await self._addresses(origin))
        except AddressRefused:
            found = frozenset()
        except OSError:
            return None
        finally:
            del self._looking[origin]
        until = self.clock.monotonic() + self.limits.resolve_s
        for connection in list(self._idle.get(origin, ())):
            connection.believed_until = until
            if connection.address not in found:
                self._idle[origin].remove(connection)
                connection.abort()
        return found

    async def _addresses(self, origin: Origin) -> list[str]:
        """Return what may be dialled. Behind a proxy names are its own to resolve, unless a policy has to see where."""
        if self._policy is None and self._way_to(origin) is not None:
            return [origin.host]
        resolved = await self._resolve(origin.host, origin.port)
        return self._require_permitted(origin.host, resolved, origin.port)

    def _way_to(self, origin: Origin) -> ForwardProxy | None:
        return self.proxy if self.proxy is not None and self.proxy.leads_to(origin.scheme, origin.host) else None

    def _require_permitted(self, host: str, addresses: list[str], port: int) -> list[str]:
        policy = self._policy
        allowed = addresses if policy is None else [each for each in addresses if policy.permits(host, each, port)]
        if not allowed:
            raise AddressRefused(f"{host} has no address that may be reached")
        return allowed

    async def _race(self, origin: Origin, addresses: list[str]) -> "UpstreamConnection":
        """Try the addresses in order, each with a head start over the next; the first connection wins (RFC 8305)."""
        if len(addresses) == 1:
            return await self._dial(origin, addresses[0])
        waiting = list(addresses)
        dialling: set[asyncio.Task[UpstreamConnection]] = set()
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

    async def _dial(self, origin: Origin, address: str) -> "UpstreamConnection":
        loop, place, proxy = asyncio.get_running_loop(), (address, origin.port), self._way_to(origin)
        connection = _FORM.connection(self, origin)
        if address != origin.host:
            connection.address, connection.believed_until = address, self.clock.monotonic() + self.limits.resolve_s
        async with _whole_or_not_at_all(connection):
            if origin.scheme != "https":
                await loop.create_connection(lambda: connection, *place)
                return connection
            tls = self._tls = self._tls or ssl.create_default_context()
            if proxy is not None:
                await proxy.connect(connection, place, tls, origin.host)
            else:
                await loop.create_connection(lambda: connection, *place, ssl=tls, server_hostname=origin.host)
        return connection


@contextlib.asynccontextmanager
async def _whole_or_not_at_all(connection: "UpstreamConnection") -> AsyncIterator[None]:
    """Forget a connection whose making fails or is cancelled: uvloop then closes it without telling its protocol."""
    try:
        yield
    except BaseException:
        connection.drop()
        raise


class _Asked(msgspec.Struct, frozen=True):
    """A question without its body; `head` lacks only the length and the empty line."""

    origin: Origin
    method: str
    headers: HeaderList
    head: bytes


class _Call:
    """The context of one request."""

    def __init__(self, client: Client, origin: Origin, method: str, request: bytes, timeouts: Timeouts) -> None:
        self._client = client
        self._origin = origin
        self._method = method
        self._request = request
        self._timeouts = timeouts
        self._connection: UpstreamConnection | None = None
        self._answer: Answer | None = None

    async def __aenter__(self) -> Answer:
        client, timeouts = self._client, self._timeouts
        now = client.clock.monotonic()
        end = now + timeouts.total_s
        connection, connect_s = client.kept(self._origin, now), 0.0
        if connection is None:
            connection = await client.acquire(self._origin, min(timeouts.connect_s, timeouts.total_s))
            connect_s = client.clock.monotonic() - now
        self._connection = connection
        try:
            self._answer = await connection.ask(self._method, self._request, timeouts, end)
        except BaseException:
            connection.abort()
            raise
        self._answer.connect_s = connect_s
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


class Form(msgspec.Struct, frozen=True):
    """What a client makes for its requests: the classes in Python, or those compiled from `_native_upstream.pyx`."""

    connection: Callable[[Client, Origin], UpstreamConnection] = UpstreamConnection
    call: Callable[[Client, Origin, str, bytes, Timeouts], _Call] = _Call
    asker: Callable[[Client, Origin, str, bytes], Asker] | None = None


def _form() -> Form:
    compiled = native.load("interlock.foundation.wire._native_upstream")
    return Form() if compiled is None else Form(compiled.Connection, compiled.Call, compiled.Asker)


_FORM: Final = _form()


def _head_bytes(method: str, target: bytes, host: bytes, headers: HeaderList) -> bytes:
    """Return the head of a request up to its length."""
    given = next((value for name, value in headers if name.lower() == b"host"), host)
    fields = [name + b": " + value + b"\r\n" for name, value in headers if name.lower() not in _FRAMING]
    lines = b"%b %b HTTP/1.1\r\nhost: %b\r\n%b" % (method.encode("ascii"), target, given, b"".join(fields))
    if lines.count(b"\n") != len(fields) + 2 or lines.count(b"\r") != len(fields) + 2 or b"\0" in lines:
        raise ValueError("the method, the target or a header field holds CR, LF or NUL")
    return lines


def _require_os_error(error: BaseException | None) -> OSError:
    if isinstance(error, OSError):
        return error
    raise error or OSError("no connection")


def _discard_late(task: "asyncio.Task[UpstreamConnection]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().abort()
