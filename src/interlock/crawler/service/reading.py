"""What is read of crawls: one, a list, URLs, documents, hosts, events.

Changes nothing; another workspace's crawl is one that does not exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from interlock.crawler.domain.frontier import CrawlRef
from interlock.crawler.service.hosts import HostStates, HostView
from interlock.crawler.store import SQL
from interlock.crawler.store.events import events_after, topic_of
from interlock.foundation.control.stream import Numbered
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store
from interlock.foundation.telemetry import EventLog

FIRST: tuple[int, UUID] = (-(1 << 63), UUID(int=0))


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host of a crawl: its shared state, and the crawl's own counts there."""

    host_hash: int
    authority: str
    queued: int
    leased: int
    done: int
    dead: int
    shared: HostView | None


class ReadCrawls:
    """Reads of one store."""

    def __init__(self, store: Store, events: EventLog, hosts: HostStates) -> None:
        self._store = store
        self._events = events
        self._hosts = hosts

    async def one(self, scope: Scope, crawl_id: UUID) -> Any:
        """Return a crawl's row. Raises `crawl_not_found`."""
        async with self._store.transaction(scope) as tx:
            row = await tx.fetchrow(SQL.get_crawl, scope.organization_id, crawl_id)
        if row is None:
            raise InterlockError("crawl_not_found")
        return row

    async def listed(self, scope: Scope, limit: int, after: UUID | None) -> Sequence[Any]:
        """Return crawls, the newest first."""
        async with self._store.transaction(scope) as tx:
            return await tx.fetch(SQL.list_crawls, scope.organization_id, after, limit)

    async def urls(
        self, scope: Scope, crawl_id: UUID, wanted: dict[str, str | None], after: tuple[int, UUID] | None, limit: int
    ) -> Sequence[Any]:
        """Return URLs of a crawl by state, reason and host."""
        await self.one(scope, crawl_id)
        async with self._store.transaction(scope) as tx:
            hosts = None
            if wanted.get("host"):
                named = await tx.fetch(SQL.hosts_named, scope.organization_id, crawl_id, wanted["host"])
                hosts = [row["host_hash"] for row in named]
            return await tx.fetch(
                SQL.list_urls, scope.organization_id, crawl_id, wanted.get("state"), wanted.get("reason"), hosts,
                *(after or FIRST), limit,
            )  # fmt: skip

    async def reasons(self, scope: Scope, crawl_id: UUID) -> Sequence[Any]:
        """Return `state`, `reason` and `urls` of what a crawl has not kept, the most frequent rule first."""
        async with self._store.transaction(scope) as tx:
            return await tx.fetch(SQL.reasons_of, scope.organization_id, crawl_id)

    async def documents(
        self, scope: Scope, crawl_id: UUID, since: Any, after: tuple[int, UUID] | None, limit: int
    ) -> Sequence[Any]:
        """Return what of a crawl is in the index."""
        await self.one(scope, crawl_id)
        async with self._store.transaction(scope) as tx:
            return await tx.fetch(SQL.list_documents, scope.organization_id, crawl_id, since, *(after or FIRST), limit)

    async def hosts(self, scope: Scope, crawl_id: UUID, after: int | None, limit: int) -> list[HostRow]:
        """Return the hosts of a crawl."""
        await self.one(scope, crawl_id)
        async with self._store.transaction(scope) as tx:
            queues = await tx.fetch(
                SQL.crawl_queues, scope.organization_id, crawl_id, FIRST[0] if after is None else after, limit
            )
            leased = {
                row["host_hash"]: row["leased"]
                for row in await tx.fetch(SQL.leased_by_host, scope.organization_id, crawl_id)
            }
        shared = await self._hosts.of([row["host_hash"] for row in queues])
        return [
            HostRow(
                row["host_hash"],
                row["authority"],
                max(0, row["pending"] - leased.get(row["host_hash"], 0)),
                leased.get(row["host_hash"], 0),
                row["done"],
                row["dead"],
                shared.get(row["host_hash"]),
            )
            for row in queues
        ]

    async def events(self, scope: Scope, crawl: CrawlRef, after: int) -> Sequence[Numbered]:
        """Return the events of a crawl after one."""
        return await events_after(self._events, scope, topic_of(crawl), after)
