"""The frontier in PostgreSQL: leases of hosts, and the rows behind them.

Writes no outcomes; `acks.py` does, in one transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

import msgspec

from interlock.crawler.domain.circuit import Circuit, CircuitState
from interlock.crawler.domain.delay import Pace
from interlock.crawler.domain.frontier import (
    Acked,
    CrawlRef,
    HostAck,
    HostKey,
    HostLease,
    LeaseAsk,
    LeasedUrl,
    PageAck,
    RobotsState,
)
from interlock.crawler.domain.spec import CONCURRENCY_MAX
from interlock.crawler.store import SQL
from interlock.crawler.store.acks import AckWriter
from interlock.crawler.store.crawls import CrawlBook
from interlock.foundation.clock import Clock
from interlock.foundation.ids import IdFactory
from interlock.foundation.store import Store
from interlock.foundation.telemetry import EventLog

_decode = msgspec.json.Decoder().decode


class PgFrontier:
    """Implements `Frontier`; times are those of the store's clock."""

    def __init__(self, store: Store, clock: Clock, ids: IdFactory, events: EventLog, book: CrawlBook) -> None:
        self._store = store
        self._writer = AckWriter(ids, events, book)
        self._book = book
        self._clock = clock

    async def lease(self, owner: str, ask: LeaseAsk) -> list[HostLease]:
        """Take due hosts that nobody holds, and URLs of theirs."""
        crawls = [crawl_id for crawl_id, cap in ask.caps.items() if cap > 0]
        if not crawls or ask.hosts_max <= 0:
            return []
        caps = [ask.caps[each] for each in crawls]
        async with self._store.ops("crawl lease") as tx:
            taken = await tx.fetch(
                SQL.lease_hosts, owner, ask.hosts_max, ask.lease_s, ask.ahead_s, ask.batch_s, crawls, caps
            )
            if not taken:
                return []
            due = {row["host_hash"]: row["due_in_s"] for row in taken}
            rows = await tx.fetch(SQL.leased, list(due), owner)
        return [
            _lease_of(list(group), due[host_hash]) for host_hash, group in groupby(rows, lambda row: row["host_hash"])
        ]

    async def renew(self, owner: str, fences: Mapping[int, int], lease_s: float) -> frozenset[int]:
        """Extend leases; return the hosts that are still held."""
        async with self._store.ops("crawl heartbeat") as tx:
            rows = await tx.fetch(SQL.renew_hosts, owner, list(fences), list(fences.values()), lease_s)
        return frozenset(row["host_hash"] for row in rows)

    async def ack(self, owner: str, pages: Sequence[PageAck], hosts: Sequence[HostAck]) -> Acked:
        """Write outcomes, discoveries and host facts in one transaction; an old fence changes nothing."""
        async with self._store.ops("crawl ack") as tx:
            return await self._writer.write(tx, owner, pages, hosts)

    async def reap(self) -> int:
        """End leases that ran out."""
        async with self._store.ops("crawl reap") as tx:
            return await tx.execute(SQL.reap_hosts)

    async def end_owner(self, owner_prefix: str, owner: str) -> int:
        """End the leases of the process that this one replaces."""
        async with self._store.ops("crawl restart") as tx:
            return await tx.execute(SQL.end_owner, owner_prefix, owner)


def _lease_of(rows: list[Any], due_in_s: float) -> HostLease:
    first = rows[0]
    rule = _decode(first["rule"]) if first["rule"] else {}
    floor_ms = first["floor_ms"] if rule.get("delay_ms") is None else rule["delay_ms"]
    cap = first["concurrency"] if rule.get("concurrency") is None else rule["concurrency"]
    robots = None
    if first["status_class"] is not None:
        robots = RobotsState(
            first["status_class"], _us(first["robots_at"]), first["robots_in_s"], first["robots_status"]
        )
    return HostLease(
        key=HostKey(first["host_hash"], first["authority"], first["host"], first["registered_domain"]),
        fence=first["fence"],
        due_in_s=due_in_s,
        pace=Pace(floor_ms, first["crawl_delay_ms"], first["adaptive_ms"], first["ewma_latency_ms"]),
        circuit=Circuit(
            CircuitState(first["circuit"]),
            first["fail_streak"],
            first["window_bits"],
            first["window_size"],
            first["circuit_opened"],
        ),
        urls=[_url_of(row) for row in rows],
        cap=max(1, min(CONCURRENCY_MAX, cap)),
        pushbacks=first["pushbacks"],
        robots_tries=first["robots_tries"],
        ewma_bytes=first["ewma_bytes"],
        robots=robots,
    )


def _url_of(row: Any) -> LeasedUrl:
    return LeasedUrl(
        crawl=CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"]),
        url_key=row["url_key"],
        url=row["url"],
        kind=row["kind"],
        priority=row["priority"],
        depth=row["depth"],
        hops=row["hops"],
        attempt=row["attempt"],
        misses=row["misses"],
        visits=row["visits"],
        etag=row["etag"],
        last_modified=row["last_modified"],
        has_document=row["has_document"],
        document_version=row["document_version"],
        first_seen_us=_us(row["first_seen"]),
        needs_sitemaps=row["needs_sitemaps"],
    )


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)
