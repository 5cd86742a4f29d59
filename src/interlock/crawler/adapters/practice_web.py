"""The practice web: many hosts of 127.20.0.0/16 in one process, and a log of every arrival that cannot be argued with.

Does not make pages. It is served on loopback alone and never talks to another host.
"""

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

from interlock.crawler.adapters import practice_pages as pages
from interlock.crawler.adapters.practice_pages import Knobs, Page
from interlock.foundation.clock import Clock

HOSTS_MAX: Final = 10_000
LOG_HOST: Final = "127.0.0.1"
LOG_ROWS_MAX: Final = 100_000
_PER_BLOCK: Final = 250
_HEAD_BYTES_MAX: Final = 64 * 1024
_DRIP_S: Final = 1.0
_BACKLOG: Final = 1_024


def address_of(host: int) -> str:
    """Return the address of the n-th host, counted from 1."""
    block, place = divmod(host - 1, _PER_BLOCK)
    return f"127.20.{block}.{place + 1}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request as it came. `is_inside` tells that the host had announced to be left alone."""

    at_us: int
    host: str
    path: str
    status: int
    is_inside: bool


@dataclass(slots=True)
class _Host:
    """What a host remembers."""

    number: int
    address: str
    arrivals: int = 0
    blocked_until_us: int = 0


class PracticeWeb:
    """Serves until `close`. `log` grows by one row a request; `gone` holds paths that a test has removed."""

    def __init__(self, knobs: Knobs, clock: Clock) -> None:
        self.knobs, self.clock = knobs, clock
        self.log: list[Arrival] = []
        self.gone: set[tuple[str, str]] = set()
        self.port = 0
        self._hosts = {address_of(number): _Host(number, address_of(number)) for number in range(1, knobs.hosts + 1)}
        self._visits: dict[tuple[int, int], int] = {}
        self._revisions: dict[tuple[int, int], int] = {}
        self._servers: list[asyncio.Server] = []

    async def start(self, port: int = 0) -> None:
        """Listen on every address, all on one port; 0 lets the machine choose it."""
        loop = asyncio.get_running_loop()
        for address in (LOG_HOST, *self._hosts):
            listening = socket.create_server((address, port), backlog=_BACKLOG)
            port = listening.getsockname()[1]
            self._servers.append(await loop.create_server(lambda: _Connection(self), sock=listening))
        self.port = port

    async def close(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()

    def describe(self) -> dict[str, Any]:
        """Return what a visitor has to know."""
        return {
            "port": self.port,
            "log": f"http://{LOG_HOST}:{self.port}/_log",
            "pages": self.knobs.pages,
            "hosts": [f"http://{address}:{self.port}/" for address in self._hosts],
        }

    def answer(self, address: str, target: str, etag: str | None) -> tuple[float, "Page | _Drip"]:
        """Return how long to wait and what to send; writes the log."""
        now_us = self.clock.now_us()
        if address == LOG_HOST:
            return 0.0, self._told(target)
        host = self._hosts[address]
        host.arrivals += 1
        is_inside = now_us < host.blocked_until_us
        page = self._page(host, target, now_us, is_inside=is_inside)
        if (
            isinstance(page, Page)
            and page.status == HTTPStatus.OK
            and etag is not None
            and f"etag: {etag}" in page.headers
        ):
            page = replace(page, status=304, body=b"")
        status = 0 if isinstance(page, _Drip) else page.status
        self.log.append(Arrival(now_us, address, target, status, is_inside))
        delay_ms = self.knobs.slow_ms if pages.is_slow(self.knobs, host.number) else self.knobs.latency_ms
        return delay_ms / 1_000, page

    def date(self) -> str:
        """Return the Date of this web, whose clock may be wrong."""
        return self._http_date(self.clock.now_us())

    def _page(self, host: _Host, target: str, now_us: int, *, is_inside: bool) -> "Page | _Drip":
        if is_inside:
            return self._error(host.blocked_until_us - now_us)
        if target == "/robots.txt":
            is_mute = self.knobs.robots == "timeout"
            return _Drip(b"") if is_mute else self._named(pages.robots_page(self.knobs), host)
        if (host.address, target) in self.gone:
            return Page(410)
        if pages.is_failing(self.knobs, host.number) and host.arrivals % self.knobs.error_every == 0:
            return self._fail(host, now_us)
        return self._shown(host, target)

    def _shown(self, host: _Host, target: str) -> "Page | _Drip":
        if target == "/sitemap.xml" and self.knobs.sitemap:
            return pages.sitemap_page(self.knobs, f"{host.address}:{self.port}")
        if target == "/loris" and self.knobs.slow_loris:
            return _Drip(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<p>")
        number = pages.number_of(target)
        if number is None or number >= self.knobs.pages:
            return self._named(pages.odd_page(self.knobs, target), host)
        return self._named(self._tree_page(host, number), host)

    def _tree_page(self, host: _Host, number: int) -> Page:
        place = (host.number, number)
        visits = self._visits[place] = self._visits.get(place, 0) + 1
        if pages.is_gone(self.knobs, *place, visits):
            return Page(410)
        if pages.is_changed(self.knobs, *place, visits):
            self._revisions[place] = self._revisions.get(place, 0) + 1
        revision = self._revisions.get(place, 0)
        page = pages.tree_page(self.knobs, number, revision)
        return replace(page, headers=(*page.headers, f'etag: "{host.number}-{number}-{revision}"'))

    def _fail(self, host: _Host, now_us: int) -> Page:
        """Answer with the error of the knobs, and announce a window in which nobody may come."""
        if self.knobs.retry_after == "none":
            return Page(self.knobs.error)
        host.blocked_until_us = now_us + self.knobs.retry_after_s * 1_000_000
        return self._error(self.knobs.retry_after_s * 1_000_000)

    def _error(self, left_us: int) -> Page:
        left_s = -(-left_us // 1_000_000)
        said = str(left_s)
        if self.knobs.retry_after == "date":
            said = self._http_date(self.clock.now_us() + left_s * 1_000_000)
        return Page(self.knobs.error, headers=(f"retry-after: {said}",))

    def _http_date(self, at_us: int) -> str:
        return formatdate(at_us // 1_000_000 + self.knobs.clock_skew_s, usegmt=True)

    def _named(self, page: Page, host: _Host) -> Page:
        body = page.body.replace(pages.LABEL, pages.label_of(host.number))
        return replace(page, body=body.replace(b"{practice-authority}", f"{host.address}:{self.port}".encode()))

    def _told(self, target: str) -> Page:
        """Answer the log's own calls: `/_log?since=N` and `/_gone?host=A&path=P`."""
        path, _, query = target.partition("?")
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        if path == "/_gone" and asked.get("host") in self._hosts:
            self.gone.add((asked["host"], asked.get("path", "/")))
            return _json({"gone": len(self.gone)})
        if path != "/_log" or not asked.get("since", "0").isdecimal():
            return Page(404)
        since = int(asked.get("since", "0"))
        rows = self.log[since : since + LOG_ROWS_MAX]
        shown = [
            {"at": row.at_us / 1_000_000, "host": row.host, "path": row.path, "status": row.status,
             "inside_block": row.is_inside}
            for row in rows
        ]  # fmt: skip
        return _json({"data": shown, "next": since + len(rows)})


@dataclass(frozen=True, slots=True)
class _Drip:
    """An answer that never ends: its beginning, then a character a second."""

    head: bytes


class _Connection(asyncio.Protocol):
    """One visitor's connection; requests are answered in their order, one at a time."""

    def __init__(self, web: PracticeWeb) -> None:
        self._web = web
        self._buffer = b""
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._address = str(transport.get_extra_info("sockname")[0])

    def connection_lost(self, _error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > _HEAD_BYTES_MAX:
            self._transport.abort()
        elif not self._is_busy:
            self._next()

    def _next(self) -> None:
        head, found, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if not found:
            self._buffer = head
            return
        lines = head.split(b"\r\n")
        words = lines[0].split()
        if len(words) != 3:
            self._transport.abort()
            return
        etag = next((line[14:].strip().decode("latin-1") for line in lines if _is_etag(line)), None)
        delay_s, answer = self._web.answer(self._address, words[1].decode("latin-1"), etag)
        self._is_busy = True
        self._after(delay_s, lambda: self._send(answer))

    def _send(self, answer: Page | _Drip) -> None:
        if isinstance(answer, _Drip):
            self._transport.write(answer.head)
            self._drip(b"a" if answer.head else b"")
            return
        self._transport.write(_serialised(answer, self._web.date()))
        self._is_busy = False
        if self._buffer:
            self._next()

    def _drip(self, piece: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(piece)
            self._after(_DRIP_S, lambda: self._drip(piece))

    def _after(self, delay_s: float, then: Callable[[], None]) -> None:
        if delay_s <= 0:
            then()
        else:
            self._timer = asyncio.get_running_loop().call_later(delay_s, then)


def _is_etag(line: bytes) -> bool:
    return line[:14].lower() == b"if-none-match:"


def _serialised(page: Page, date: str) -> bytes:
    reason = HTTPStatus(page.status).phrase
    length = () if page.status == HTTPStatus.NOT_MODIFIED else (f"content-length: {len(page.body)}",)
    lines = (
        f"HTTP/1.1 {page.status} {reason}", f"date: {date}", f"content-type: {page.media_type}", *length, *page.headers,
    )  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + page.body


def _json(shown: dict[str, Any]) -> Page:
    return Page(200, json.dumps(shown, separators=(",", ":")).encode(), media_type="application/json")
