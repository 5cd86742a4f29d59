"""What the frontier and the fetching half say to each other: values and Protocols, no behaviour.

Knows no store and no library: a fetcher, a scanner or an extractor may be replaced behind its Protocol.

Where things live (names agreed by both halves):
- `domain/urls.py`: `canonicalise(raw, base=None) -> CanonicalUrl | UrlRefused`, `url_key(url, seed) -> UUID`,
  `host_hash(authority) -> int` (xxh3_64 as a signed 64-bit number).
- `domain/robots.py`: `parse_robots(body, agent) -> RobotsRules`. `domain/sitemap.py`: `parse_sitemap(body) ->
  Sitemap | SitemapInvalid`. `domain/signals.py`: `page_signals(headers, meta) -> dict[str, Signal]`.
- `adapters/egress.py`: `EgressGuard(allow)` as `HostGuard`; `adapters/fetcher.py`: `Fetcher`; `adapters/scanner.py`:
  `PageScanner`; `adapters/extractors.py`: `Extractor` over the process pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from interlock.contracts.documents import Signal

Headers = tuple[tuple[str, str], ...]


class Fault(StrEnum):
    """Why a fetch brought no usable response: the classes of the retry table that a fetcher can tell."""

    DNS_TIMEOUT = "dns_timeout"
    DNS_NXDOMAIN = "dns_nxdomain"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT_REFUSED = "connect_refused"
    TLS_INVALID = "tls_invalid"
    RESET = "reset"
    READ_TIMEOUT = "read_timeout"
    TOO_SLOW = "too_slow"
    BAD_LENGTH = "bad_length"
    BAD_ENCODING = "bad_encoding"
    HEADER_OVERFLOW = "header_overflow"
    BODY_TOO_LARGE = "body_too_large"
    DECOMPRESSION_BOMB = "decompression_bomb"
    EGRESS_BLOCKED = "egress_blocked"


@dataclass(frozen=True, slots=True)
class CanonicalUrl:
    """A URL in the form that is fetched, and its parts. `authority` is `scheme://host:port`, the port always named.

    `registered_domain` is the host itself for an IP literal; `target` is path and query as robots rules match them.
    """

    url: str
    scheme: str
    host: str
    port: int
    authority: str
    registered_domain: str
    path: str
    query: str

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path


@dataclass(frozen=True, slots=True)
class UrlRefused:
    """No URL that the crawler could fetch; `rule` is `scheme`, `userinfo`, `too_long`, `no_host` or `malformed`."""

    raw: str
    rule: str


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One request. `url` is canonical; bodies are cut at the caps; validators make the request conditional."""

    url: str
    wire_bytes_max: int = 10 * 1024 * 1024
    body_bytes_max: int = 32 * 1024 * 1024
    truncate: bool = False
    """True keeps the first `body_bytes_max` octets of a longer body without a fault (robots.txt)."""
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds of each phase; 0 for one that did not happen."""

    dns_ms: float = 0.0
    connect_ms: float = 0.0
    ttfb_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one dial brought. `status` is None where no response head came; `fault` None where all of it was read.

    Names of `headers` are lower case. `body` is decoded, empty with a fault. `detail` holds numbers and names of the
    fault, e.g. `{"reason": "address", "address": "10.0.0.1"}` for `egress_blocked`.
    """

    status: int | None
    fault: Fault | None = None
    headers: Headers = ()
    body: bytes = b""
    ip: str | None = None
    timings: Timings = Timings()
    wire_bytes: int = 0
    detail: Mapping[str, str | int | float] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        """Return the first value under a lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


class Fetcher(Protocol):
    """Dials once: never follows a redirect, never retries, never raises for what a site does.

    Cancelling the awaiting task cuts the connection.
    """

    async def fetch(self, request: FetchRequest) -> Fetched:
        """Return what came."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


@dataclass(frozen=True, slots=True)
class EgressRefused:
    """An address, port or name that may not be dialled; `reason` is `address`, `port`, `metadata` or `downgrade`."""

    reason: str
    address: str | None = None


class HostGuard(Protocol):
    """What the egress rules say without a look-up: literals, ports, names of metadata services."""

    def judge(self, host: str, port: int) -> EgressRefused | None:
        """Return the refusal that needs no resolver; None is not yet a yes for a name."""
        ...

    def is_allow_listed(self, host: str, port: int) -> bool:
        """Tell whether the operator's allow-list names this literal address and port."""
        ...


@dataclass(frozen=True, slots=True)
class RobotsVerdict:
    """What robots.txt says of one path: `line` counts from 1, 0 and empty `text` where no rule matched."""

    allowed: bool
    line: int = 0
    text: str = ""
    group: str = "*"


class RobotsRules(Protocol):
    """A compiled robots.txt for one agent token."""

    crawl_delay_s: float | None
    sitemaps: tuple[str, ...]

    def verdict(self, target: str) -> RobotsVerdict:
        """Judge path and query of a canonical URL."""
        ...


@dataclass(frozen=True, slots=True)
class SitemapEntry:
    """One `url` of a sitemap, raw; `lastmod_us` where it was given and readable."""

    loc: str
    lastmod_us: int | None = None


@dataclass(frozen=True, slots=True)
class Sitemap:
    """What a sitemap or a sitemap index names."""

    entries: tuple[SitemapEntry, ...] = ()
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SitemapInvalid:
    """No sitemap: `rule` names the limit or the form that it broke."""

    rule: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link as found, joined with the base but not yet canonical; `is_nofollow` of its own `rel`."""

    url: str
    is_nofollow: bool = False


@dataclass(frozen=True, slots=True)
class Scanned:
    """What one pass over a page's tags finds, before any text is extracted.

    `signals` joins headers and meta; `refresh` is the target of a meta refresh; `canonical` of `rel=canonical`.
    """

    links: tuple[Link, ...] = ()
    signals: Mapping[str, Signal] = field(default_factory=dict)
    canonical: str | None = None
    refresh: str | None = None


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A body that is no page, whatever its type says; `media_type` is what it looks like."""

    media_type: str


class PageScanner(Protocol):
    """Looks at tags only; runs in the crawl loop's own process and takes under a millisecond a page."""

    def scan(self, url: str, headers: Headers, body: bytes) -> Scanned | Unsupported:
        """Return links and signals of an HTML, XHTML or plain-text body."""
        ...


@dataclass(frozen=True, slots=True)
class Extracted:
    """The document in a page. `text_digest` is the hex sha-256 of the normalised text.

    `is_plain` tells that the extractor failed and the page's plain text stands in (`extract_failed`); `cpu_s` is the
    processor time that the text took.
    """

    title: str
    markdown: str
    text_digest: str
    language: str | None = None
    modified_at_us: int | None = None
    is_plain: bool = False
    cpu_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """A decoded body in a file, so that no body travels through a pipe twice."""

    url: str
    headers: Headers
    path: str


class Extractor(Protocol):
    """Makes markdown in a bounded pool of processes; a crash or a loop costs one page, never the pool."""

    async def extract(self, request: ExtractRequest) -> Extracted:
        """Return the document; always one, plain where the page would not yield."""
        ...

    async def close(self) -> None:
        """End the pool's processes."""
        ...


SIGNALS: Sequence[str] = (
    "noindex", "nofollow", "noarchive", "nosnippet", "max_snippet", "noai", "noimageai", "unavailable_after",
    "tdm_reservation", "tdm_policy", "search", "ai_input", "ai_train", "license",
)  # fmt: skip
