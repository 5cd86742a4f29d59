"""Hosts beyond their leases: adoption, robots files, blocks, and the end of what waits for a host.

Belongs to no tenant: every call is one of the loop or of the platform's operator.
"""

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from interlock.crawler.domain.frontier import CrawlRef, HostKey
from interlock.crawler.domain.states import UrlState
from interlock.crawler.domain.types import CanonicalUrl
from interlock.crawler.domain.urls import canonicalise, host_hash
from interlock.crawler.store import SQL
from interlock.crawler.store.acks import as_json, count_row
from interlock.foundation.store import Store, Transaction


def host_key(url: CanonicalUrl) -> HostKey:
    """Return the host of a canonical URL as the frontier knows it."""
    return HostKey(host_hash(url.authority), url.authority, url.host, url.registered_domain)


async def adopt(store: Store) -> int:
    """Make hosts of the queues that calls of the API made or woke; return how many."""
    async with store.ops("crawl queues adopted") as tx:
        rows = await tx.fetch(SQL.adopt_queues)
        if not rows:
            return 0
        found = [canonicalise(row["authority"] + "/") for row in rows]
        keys = [host_key(each) for each in found if isinstance(each, CanonicalUrl)]
        await tx.execute(SQL.add_hosts, as_json(each._asdict() for each in keys))
        await tx.execute(SQL.wake_hosts, [row["host_hash"] for row in rows if row["pending"] > 0])
    return len(rows)


async def robots_bodies(store: Store, hosts: Collection[int]) -> dict[int, tuple[int, bytes]]:
    """Return `(fetched_at_us, body)` of robots files by host."""
    async with store.ops("robots files") as tx:
        rows = await tx.fetch(SQL.robots_bodies, list(hosts))
    return {
        row["host_hash"]: (
            round(row["fetched_at"].timestamp() * 1_000_000), zlib.decompress(row["body"]) if row["body"] else b"",
        )
        for row in rows
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class RobotsFile:
    """A robots.txt as it was fetched; without a body the last one stays, for what it may still tighten."""

    host_hash: int
    status_class: str
    http_status: int | None
    fetched_at_us: int
    ttl_s: float
    body: bytes | None
    sha256: bytes | None


async def save_robots(store: Store, file: RobotsFile) -> None:
    """Keep a robots file for all tenants and workers."""
    packed = None if file.body is None else zlib.compress(file.body)
    async with store.ops("robots file") as tx:
        await tx.execute(
            SQL.save_robots, file.host_hash, file.status_class, file.http_status, file.fetched_at_us, file.ttl_s,
            packed, file.sha256,
        )  # fmt: skip


async def take_host(store: Store, key: HostKey, hold_s: float) -> bool:
    """Take the right to one request of a host that is not leased, and keep all others away for as long as it takes."""
    async with store.ops("crawl robots redirect") as tx:
        await tx.execute(SQL.add_hosts, as_json([key._asdict()]))
        return await tx.fetchval(SQL.take_host, key.host_hash, hold_s) is not None


async def leave_host(store: Store, host: int, blocked_s: float, reason: str) -> None:
    """Give a host back that was taken for one request; it is due after its own delay, or after what it asked for."""
    async with store.ops("crawl robots redirected") as tx:
        await tx.execute(SQL.leave_host, host, blocked_s, reason)


async def blocked_hosts(store: Store, hosts: Collection[int]) -> frozenset[int]:
    """Return which of these hosts an operator has blocked."""
    async with store.ops("crawl blocks") as tx:
        rows = await tx.fetch(SQL.blocked_hosts, list(hosts))
    return frozenset(row["host_hash"] for row in rows)


async def end_host(store: Store, host: int, state: UrlState, reason: str) -> int:
    """Bring every URL that waits for a host to rest, in every crawl; return how many."""
    async with store.ops("crawl host ended") as tx:
        await tx.fetch(SQL.lock_hosts, [host])
        rows = await tx.fetch(SQL.host_queues, host)
        refs = refs_of(rows)
        return sum([await end_queued(tx, crawl, state, reason, host) for crawl in refs])


async def end_crawl(store: Store, crawl: CrawlRef, state: UrlState, reason: str) -> int:
    """Bring every URL of a crawl that is queued to rest; return how many."""
    async with store.ops("crawl budget") as tx:
        return await end_queued(tx, crawl, state, reason, None)


async def end_queued(tx: Transaction, crawl: CrawlRef, state: UrlState, reason: str, host: int | None) -> int:
    """Do so in an open transaction."""
    await tx.fetch(SQL.lock_crawls, [crawl.crawl_id])
    rows = await tx.fetch(SQL.refuse_queued, crawl.organization_id, crawl.crawl_id, state, reason, host)
    if rows:
        queues = [{"crawl_id": crawl.crawl_id, "host_hash": row["host_hash"], "urls": -row["urls"]} for row in rows]
        await tx.execute(SQL.lower_pending, as_json(queues))
        counts = {str(state): sum(row["pages"] for row in rows)}
        await tx.execute(SQL.change_counts, as_json([count_row(crawl, counts)]))
    return sum(row["urls"] for row in rows)


def refs_of(rows: Sequence[Any]) -> list[CrawlRef]:
    """Return the crawls that rows name."""
    return [CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"]) for row in rows]
