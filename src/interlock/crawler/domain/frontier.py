"""What the crawl loop asks of the frontier: leases of hosts with their URLs, and acks that a fence guards.

Holds no SQL and no memory: PostgreSQL and its twin under virtual time implement `Frontier`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from interlock.crawler.domain.circuit import Circuit
from interlock.crawler.domain.delay import Pace
from interlock.crawler.domain.states import UrlState
from interlock.crawler.domain.trace import Decision
from interlock.crawler.domain.types import Fetched


class CrawlRef(NamedTuple):
    """A crawl and whose it is; the first two are the tenant."""

    organization_id: UUID
    workspace_id: UUID
    crawl_id: UUID


class HostKey(NamedTuple):
    """A host as the frontier knows it: by its authority, `scheme://host:port`."""

    host_hash: int
    authority: str
    host: str
    registered_domain: str


@dataclass(frozen=True, slots=True)
class LeasedUrl:
    """A URL in work. `attempt` counts failures in a row, `misses` 404s in a row."""

    crawl: CrawlRef
    url_key: UUID
    url: str
    kind: str = "page"
    priority: int = 0
    depth: int = 0
    hops: int = 0
    attempt: int = 0
    misses: int = 0
    visits: int = 0
    etag: str | None = None
    last_modified: str | None = None
    has_document: bool = False
    document_version: int = 0
    first_seen_us: int = 0
    needs_sitemaps: bool = False


@dataclass(frozen=True, slots=True)
class RobotsState:
    """What is known of a host's robots.txt; `status_class` is `rules`, `allow` or `unreachable`."""

    status_class: str
    fetched_at_us: int
    expires_in_s: float
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class HostLease:
    """A host that this worker alone may visit. `due_in_s` from the moment of the lease, by the store's clock."""

    key: HostKey
    fence: int
    due_in_s: float
    pace: Pace
    circuit: Circuit
    urls: Sequence[LeasedUrl]
    cap: int = 1
    pushbacks: int = 0
    robots_tries: int = 0
    ewma_bytes: float = 0.0
    robots: RobotsState | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """A URL that was found. `refused` names the rule that keeps it from being fetched, `template` its shape."""

    crawl: CrawlRef
    host: HostKey
    url_key: UUID
    url: str
    kind: str = "page"
    priority: int = 0
    depth: int = 0
    hops: int = 0
    parent_key: UUID | None = None
    refused: str | None = None
    template: str | None = None


@dataclass(frozen=True, slots=True)
class Spooled:
    """A body that waits for its extraction in a file."""

    outbox_id: UUID
    path: str
    headers: tuple[tuple[str, str], ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class PageAck:
    """What became of one leased URL. `retry_in_s` counts for `queued`; `withdraw` is the reason of a tombstone.

    `is_visit` is False where nothing was dialled for it: a URL that goes back as it came.
    """

    url: LeasedUrl
    host_hash: int
    fence: int
    state: UrlState
    reason: str | None = None
    retry_in_s: float = 0.0
    attempt: int = 0
    misses: int = 0
    is_visit: bool = False
    at_us: int = 0
    etag: str | None = None
    last_modified: str | None = None
    body_digest: str | None = None
    signals: Mapping[str, Any] | None = None
    fetched: Fetched | None = None
    robots_line: int | None = None
    decisions: tuple[Decision, ...] = ()
    discoveries: tuple[Discovery, ...] = ()
    spooled: Spooled | None = None
    withdraw: str | None = None
    adds_authority: str | None = None
    has_asked_sitemaps: bool = False


@dataclass(frozen=True, slots=True)
class HostAck:
    """What is known of a host now. `next_in_s` and `blocked_in_s` count from now; `is_final` ends the lease."""

    host_hash: int
    fence: int
    pace: Pace
    circuit: Circuit
    next_in_s: float
    cap: int = 1
    pushbacks: int = 0
    robots_tries: int = 0
    ewma_bytes: float = 0.0
    blocked_in_s: float = 0.0
    blocked_reason: str | None = None
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Acked:
    """Which hosts were no longer ours, and which spooled bodies are now waiting for extraction."""

    fenced: frozenset[int] = frozenset()
    accepted: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class LeaseAsk:
    """How much a round takes: hosts, and URLs of each crawl."""

    hosts_max: int
    caps: Mapping[UUID, int] = field(default_factory=dict)
    lease_s: float = 15.0
    ahead_s: float = 0.25
    batch_s: float = 9.0


class Frontier(Protocol):
    """Hosts that queue, with the URLs of every crawl behind them. Times are those of the store's clock."""

    async def lease(self, owner: str, ask: LeaseAsk) -> list[HostLease]:
        """Take due hosts that nobody holds, and URLs of theirs."""
        ...

    async def renew(self, owner: str, fences: Mapping[int, int], lease_s: float) -> frozenset[int]:
        """Extend leases; return the hosts that are still held."""
        ...

    async def ack(self, owner: str, pages: Sequence[PageAck], hosts: Sequence[HostAck]) -> Acked:
        """Write outcomes, discoveries and host facts in one transaction; an old fence changes nothing."""
        ...

    async def reap(self) -> int:
        """End leases that ran out; return how many."""
        ...

    async def end_owner(self, owner_prefix: str, owner: str) -> int:
        """End the leases of the process that this one replaces; return how many."""
        ...
