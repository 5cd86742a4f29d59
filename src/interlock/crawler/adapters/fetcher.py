"""One request, one answer: dialled through the egress guard, read under limits, never repeated, never redirected.

Does not know robots, politeness or what an outcome means for a host.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Final

import aiohttp
import aiohttp.abc
import aiohttp.http_exceptions
from yarl import URL

from interlock.crawler.adapters.decoding import BadEncodingError, Body, BombError, TooLargeError
from interlock.crawler.adapters.egress import EgressBlockedError, EgressGuard
from interlock.crawler.adapters.resolver import LookupFailedError, Resolver
from interlock.crawler.domain.types import EgressRefused, Fault, Fetched, FetchRequest, Headers, Timings

HEADER_BYTES_MAX: Final = 64 * 1024
HEADER_LINES_MAX: Final = 128
ACCEPT: Final = "text/html,application/xhtml+xml,text/plain;q=0.8,application/xml;q=0.7,*/*;q=0.1"
ACCEPT_ENCODING: Final = "gzip, br, zstd"
_DRAINED_BYTES_MAX: Final = 64 * 1024
_KEEP_ALIVE_S: Final = 4.0
_SUCCESS: Final = range(200, 300)
_CHARS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each phase may take, in seconds; a body slower than `slow_bytes` in `slow_s` is given up."""

    connect_s: float = 5.0
    head_s: float = 20.0
    total_s: float = 60.0
    slow_s: float = 20.0
    slow_bytes: int = 20 * 1024


class NoSuchNameError(OSError):
    """The name does not exist."""


class AiohttpFetcher:
    """The `Fetcher` over aiohttp. Made inside the running loop."""

    def __init__(
        self, user_agent: str, guard: EgressGuard, resolver: Resolver, patience: Patience | None = None
    ) -> None:
        self._guard, self._resolver, self._patience = guard, resolver, patience or Patience()
        self._loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(
            resolver=_GuardedResolver(guard, resolver), socket_factory=guard.open_socket, use_dns_cache=False,
            limit=0, limit_per_host=0, happy_eyeballs_delay=None, keepalive_timeout=_KEEP_ALIVE_S,
            ssl=ssl.create_default_context(),
        )  # fmt: skip
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False,
            response_class=_Response, trace_configs=[_phases()], max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX, max_headers=HEADER_LINES_MAX,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._patience.connect_s),
            headers={"user-agent": user_agent, "accept": ACCEPT, "accept-encoding": ACCEPT_ENCODING},
        )  # fmt: skip
        # A request that died on a reused connection would be sent again at once, inside the host's delay.
        self._session._retry_connection = False  # noqa: SLF001 # no argument of the session says it

    async def fetch(self, request: FetchRequest) -> Fetched:
        """Return what came. Never raises for what a site does; a cancelled call cuts the connection."""
        url = URL(request.url, encoded=True)
        refused = self._guard.judge(url.raw_host or "", url.port or 0)
        if refused is not None:
            return _refused(refused)
        phases = _Phases(self._loop.time())
        came = Fetched(None)
        try:
            async with asyncio.timeout(self._patience.total_s):
                came = await self._dial(url, request, phases)
        except TimeoutError:
            came = Fetched(None, Fault.TOO_SLOW, detail={"limit_s": self._patience.total_s})
        except _FaultError as error:
            came = error.fetched
        except (aiohttp.ClientError, EgressBlockedError, OSError, ValueError) as error:
            came = _failed(error)
        total_ms = (self._loop.time() - phases.started) * 1_000
        return replace(came, timings=phases.timings(total_ms), ip=came.ip or phases.ip)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def _dial(self, url: URL, request: FetchRequest, phases: "_Phases") -> Fetched:
        headers = {}
        if request.etag is not None:
            headers["if-none-match"] = request.etag
        if request.last_modified is not None:
            headers["if-modified-since"] = request.last_modified
        response = await self._head(url, headers, phases)
        is_whole = False
        try:
            phases.ip = response.peer
            kept = _headers_of(response)
            came = Fetched(response.status, headers=kept, ip=response.peer)
            if _octets_of(kept) > HEADER_BYTES_MAX or len(kept) > HEADER_LINES_MAX:
                return replace(came, fault=Fault.HEADER_OVERFLOW)
            if response.status not in _SUCCESS:
                is_whole = await self._drain(response)
                return came
            came = await self._read(response, came, request)
            is_whole = came.fault is None
            return came
        finally:
            # What was not read to its end cannot carry another request.
            if is_whole and response.content.at_eof():
                response.release()
            else:
                response.close()

    async def _head(self, url: URL, headers: dict[str, str], phases: "_Phases") -> "_Response":
        """Return the response once its head is complete; the clock of the head starts when the connection stands."""
        try:
            async with asyncio.timeout(None) as patience:
                phases.patience, phases.head_s = patience, self._patience.head_s
                found = await self._session.get(url, allow_redirects=False, headers=headers, trace_request_ctx=phases)
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):
                raise
            fault = Fetched(None, Fault.READ_TIMEOUT, detail={"limit_s": self._patience.head_s})
            raise _FaultError(fault) from error
        phases.head_at = self._loop.time()
        assert isinstance(found, _Response)
        return found

    async def _read(self, response: "_Response", came: Fetched, request: FetchRequest) -> Fetched:
        """Read the body under the limits of the request."""
        body: Body | None = None
        try:
            encodings = response.headers.getall("content-encoding", [])
            body = Body.of(",".join(encodings), request.body_bytes_max, truncate=request.truncate)
            while not body.is_full and (piece := await self._piece(response.content, body)):
                body.feed(piece)
                if body.wire_bytes > request.wire_bytes_max and not body.is_full:
                    raise TooLargeError
            return replace(came, body=body.finish(), wire_bytes=body.wire_bytes)
        except tuple(_BODY_FAULTS) as error:
            if isinstance(error, TimeoutError):
                raise
            return _cut(came, _first_of(_BODY_FAULTS, error), body)

    async def _piece(self, content: aiohttp.StreamReader, body: Body) -> bytes:
        """Return the next octets, b"" at the end. Raises _TooSlowError once a window brought too few."""
        patience, now = self._patience, self._loop.time()
        if body.window_ends_at <= now:
            if body.window_ends_at and body.wire_bytes - body.window_bytes < patience.slow_bytes:
                raise _TooSlowError
            body.window_ends_at, body.window_bytes = now + patience.slow_s, body.wire_bytes
        try:
            async with asyncio.timeout_at(body.window_ends_at):
                return await content.readany()
        except TimeoutError as error:
            if body.wire_bytes - body.window_bytes < patience.slow_bytes:
                raise _TooSlowError from error
            return await self._piece(content, body)

    @staticmethod
    async def _drain(response: "_Response") -> bool:
        """Read a short body that nobody wants, so that the connection can be used again."""
        if (response.content_length or 0) > _DRAINED_BYTES_MAX:
            return False
        read = 0
        try:
            while read <= _DRAINED_BYTES_MAX:
                piece = await response.content.readany()
                if not piece:
                    return True
                read += len(piece)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
        return False


class _Phases:
    """When each phase of one fetch began and ended, and the address that was dialled."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.dns_s = 0.0
        self.connected_at = started
        self.head_at: float | None = None
        self.ip: str | None = None
        self.dns_from = started
        self.head_s = 0.0
        self.patience: asyncio.Timeout | None = None

    def connected(self, now: float) -> None:
        """Start the clock of the head."""
        self.connected_at = now
        if self.patience is not None:
            self.patience.reschedule(now + self.head_s)

    def timings(self, total_ms: float) -> Timings:
        """Return milliseconds of each phase."""
        connect_s = max(self.connected_at - self.started - self.dns_s, 0.0)
        ttfb_s = 0.0 if self.head_at is None else self.head_at - self.connected_at
        return Timings(self.dns_s * 1_000, connect_s * 1_000, ttfb_s * 1_000, total_ms)


class _Response(aiohttp.ClientResponse):
    """Keeps the address of its connection, which is handed back before a short body is read."""

    peer: str | None = None

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        transport = connection.transport
        place = None if transport is None else transport.get_extra_info("peername")
        self.peer = None if place is None else str(place[0])
        return await super().start(connection)


class _GuardedResolver(aiohttp.abc.AbstractResolver):
    """Hands the connector the addresses of a name only if all of them may be dialled."""

    def __init__(self, guard: EgressGuard, resolver: Resolver) -> None:
        self._guard, self._resolver = guard, resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        del family  # Both families are asked for: all addresses of a name have to pass.
        answer = await self._resolver.resolve(host)
        if not answer.addresses:
            raise NoSuchNameError(host)
        refused = self._guard.judge_answer(answer.addresses, port)
        if refused is not None:
            raise EgressBlockedError(refused)
        return [_place(host, address, port) for address in answer.addresses]

    async def close(self) -> None:
        await self._resolver.close()


class _FaultError(Exception):
    def __init__(self, fetched: Fetched) -> None:
        self.fetched = fetched
        super().__init__(fetched.fault)


class _TooSlowError(Exception):
    """The body came too slowly."""


def _place(host: str, address: str, port: int) -> aiohttp.abc.ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": flags}


def _phases() -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()

    async def asked(_session: aiohttp.ClientSession, context: SimpleNamespace, _told: object) -> None:
        context.trace_request_ctx.dns_from = asyncio.get_running_loop().time()

    async def answered(_session: aiohttp.ClientSession, context: SimpleNamespace, _told: object) -> None:
        phases = context.trace_request_ctx
        phases.dns_s = asyncio.get_running_loop().time() - phases.dns_from

    async def connected(_session: aiohttp.ClientSession, context: SimpleNamespace, _told: object) -> None:
        context.trace_request_ctx.connected(asyncio.get_running_loop().time())

    trace.on_dns_resolvehost_start.append(asked)
    trace.on_dns_resolvehost_end.append(answered)
    trace.on_connection_create_end.append(connected)
    trace.on_connection_reuseconn.append(connected)
    return trace


def _headers_of(response: aiohttp.ClientResponse) -> Headers:
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.raw_headers)


def _octets_of(headers: Headers) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _cut(came: Fetched, fault: Fault, body: Body | None) -> Fetched:
    wire_bytes, body_bytes = (0, 0) if body is None else (body.wire_bytes, body.size)
    detail = {"wire_bytes": wire_bytes, "body_bytes": body_bytes}
    return replace(came, fault=fault, wire_bytes=wire_bytes, detail=detail)


def _refused(refused: EgressRefused) -> Fetched:
    named = {} if refused.address is None else {"address": refused.address}
    return Fetched(None, Fault.EGRESS_BLOCKED, detail={"reason": refused.reason, **named})


def _failed(error: Exception) -> Fetched:
    """Return the fault that an exception of the dial stands for."""
    if isinstance(error, EgressBlockedError):
        return _refused(error.refused)
    return Fetched(None, _fault_of(error), detail={"error": str(error)[:_CHARS_MAX]})


def _fault_of(error: Exception) -> Fault:
    if isinstance(error, aiohttp.ClientResponseError):
        # The parser says in words alone whether a head has two lengths, is too long, or is no HTTP at all.
        said = error.message.lower()
        return Fault.BAD_LENGTH if any(name in said for name in _LENGTH_NAMES) else Fault.HEADER_OVERFLOW
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorDNSError) else error
    return _first_of(_DIAL_FAULTS, cause)


def _first_of(faults: Mapping[type[Exception], Fault], error: Exception) -> Fault:
    return next((fault for kind, fault in faults.items() if isinstance(error, kind)), Fault.RESET)


_LENGTH_NAMES: Final = ("content-length", "transfer-encoding", "chunk size")
# The first kind that fits names the fault; kinds of one family stand from the narrow to the wide.
_DIAL_FAULTS: Final[Mapping[type[Exception], Fault]] = {
    NoSuchNameError: Fault.DNS_NXDOMAIN,
    LookupFailedError: Fault.DNS_TIMEOUT,
    aiohttp.ClientSSLError: Fault.TLS_INVALID,
    ssl.SSLError: Fault.TLS_INVALID,
    aiohttp.ConnectionTimeoutError: Fault.CONNECT_TIMEOUT,
    aiohttp.ServerTimeoutError: Fault.READ_TIMEOUT,
    aiohttp.ClientConnectorError: Fault.CONNECT_REFUSED,
}
_BODY_FAULTS: Final[Mapping[type[Exception], Fault]] = {
    TooLargeError: Fault.BODY_TOO_LARGE,
    BombError: Fault.DECOMPRESSION_BOMB,
    BadEncodingError: Fault.BAD_ENCODING,
    _TooSlowError: Fault.TOO_SLOW,
    aiohttp.ClientPayloadError: Fault.BAD_LENGTH,
    aiohttp.ClientError: Fault.RESET,
    OSError: Fault.RESET,
}
