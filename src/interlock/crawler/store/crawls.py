"""The crawls that are under way, as a worker knows them: spec, rules, counts, and what waits for the index.

Refreshed whole by `load`; between two loads it answers from memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from interlock.crawler.domain.frontier import CrawlRef
from interlock.crawler.domain.manners import bounded
from interlock.crawler.domain.scope import ScopeRules
from interlock.crawler.domain.spec import CrawlSpec
from interlock.crawler.domain.types import CanonicalUrl, HostGuard
from interlock.crawler.domain.urls import canonicalise
from interlock.crawler.store import SQL
from interlock.foundation.store import Store

_spec: msgspec.json.Decoder[CrawlSpec] = msgspec.json.Decoder(CrawlSpec)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a crawl asks of hosts."""

    weight: float
    floor_ms: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class CrawlLoad:
    """The changing part of an active crawl. `lag_s` is the age of the oldest document that the index does not have."""

    state: str
    pending: int
    discovered: int
    bytes_wire: int
    extract_bytes: int
    outbox_bytes: int
    outbox_items: int
    lag_s: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ActiveCrawl:
    """A crawl that may be worked on."""

    ref: CrawlRef
    config_version: int
    spec: CrawlSpec
    rules: ScopeRules
    authorities: tuple[str, ...]
    source_id: UUID | None
    asked: Asked
    load: CrawlLoad


@dataclass(slots=True)
class CrawlBook:
    """Active crawls by id; `known` also remembers those that just ended, whose last pages are still to be acked."""

    guard: HostGuard
    active: dict[UUID, ActiveCrawl] = field(default_factory=dict)
    known: dict[UUID, ActiveCrawl] = field(default_factory=dict)

    async def load(self, store: Store) -> None:
        """Read which crawls are under way, and the specs of those that are new or changed."""
        rows = await store.ops_single(SQL.active_crawls)
        stale = [row["crawl_id"] for row in rows if not self._is_current(row)]
        specs = {row["crawl_id"]: row for row in await store.ops_single(SQL.crawl_specs, stale)} if stale else {}
        active = {}
        for row in rows:
            crawl_id = row["crawl_id"]
            if crawl_id in specs:
                active[crawl_id] = _active(row, specs[crawl_id]["spec"])
            elif (was := self.known.get(crawl_id)) is not None:
                source = row["source_id"]
                active[crawl_id] = _replace_load(was, row, source)
        self.active = active
        self.known = {**dict(list(self.known.items())[-1_000:]), **active}

    def politeness(self, crawl_id: UUID, authority: str) -> Asked:
        """Return what a crawl may ask of a host; the defaults for one that is not known."""
        found, url = self.known.get(crawl_id), canonicalise(authority + "/")
        if found is None or not isinstance(url, CanonicalUrl):
            return Asked(1.0, 1000, 1)
        asked = found.asked
        return Asked(asked.weight, *bounded(self.guard, url.host, url.port, asked.floor_ms, asked.concurrency))

    def pages_per_host(self, crawl_id: UUID) -> int:
        """Return a crawl's page budget of a host."""
        found = self.known.get(crawl_id)
        return found.spec.budgets.pages_per_host if found is not None else 1 << 60

    def _is_current(self, row: Any) -> bool:
        was = self.known.get(row["crawl_id"])
        return (
            was is not None
            and was.config_version == row["config_version"]
            and was.authorities == tuple(row["authorities"])
        )


def rules_of(spec: CrawlSpec, authorities: Sequence[str] = ()) -> ScopeRules:
    """Return the compiled scope of a spec whose seeds are canonical."""
    seeds = [each for each in map(canonicalise, spec.seeds) if isinstance(each, CanonicalUrl)]
    return ScopeRules(spec.scope, seeds, authorities)


def asked_of(spec: CrawlSpec) -> Asked:
    """Return what a spec asks of hosts."""
    return Asked(spec.weight, round(spec.politeness.delay_s * 1000), spec.politeness.concurrency)


def _active(row: Any, spec_json: str) -> ActiveCrawl:
    spec, authorities = _spec.decode(spec_json), tuple(row["authorities"])
    return ActiveCrawl(
        ref=CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"]),
        config_version=row["config_version"],
        spec=spec,
        rules=rules_of(spec, authorities),
        authorities=authorities,
        source_id=row["source_id"],
        asked=asked_of(spec),
        load=_load(row),
    )


def _replace_load(was: ActiveCrawl, row: Any, source_id: UUID | None) -> ActiveCrawl:
    return ActiveCrawl(
        was.ref, was.config_version, was.spec, was.rules, was.authorities, source_id, was.asked, _load(row)
    )


def _load(row: Any) -> CrawlLoad:
    return CrawlLoad(
        state=row["state"],
        pending=row["pending"],
        discovered=row["discovered"],
        bytes_wire=row["bytes_wire"],
        extract_bytes=row["extract_bytes"],
        outbox_bytes=row["outbox_bytes"],
        outbox_items=row["outbox_items"],
        lag_s=row["lag_s"],
        counts=tuple(row[name] for name in ("done", "duplicate", "refused", "dead", "gone", "documents", "tombstones")),
    )
