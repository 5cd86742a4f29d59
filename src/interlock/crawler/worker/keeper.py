"""What a worker looks after between pages: crawls that change, end or are deleted, leases that ran out, and the news.

Fetches nothing; every step may run on several workers at once and is harmless then.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.backpressure import ValveState
from interlock.crawler.domain.frontier import CrawlRef, LeasedUrl
from interlock.crawler.domain.states import CrawlState, UrlState
from interlock.crawler.store import SQL
from interlock.crawler.store import hosts as host_rows
from interlock.crawler.store.crawls import ActiveCrawl, CrawlBook
from interlock.crawler.store.deleting import delete_some
from interlock.crawler.store.events import append_events
from interlock.crawler.store.retention import forget
from interlock.crawler.worker.hostrun import HostRun
from interlock.crawler.worker.loop import CrawlLoop
from interlock.crawler.worker.turns import Turns
from interlock.crawler.worker.watch import Valves
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory
from interlock.foundation.store import Store, Transaction
from interlock.foundation.telemetry import EventLog

_log = structlog.get_logger("interlock.crawler")
_encode: Final = msgspec.json.Encoder().encode
_NEWS_S: Final = 1.0
_QUIET_S: Final = 10.0
_FORGET_EVERY_S: Final = 3_600.0
_COUNT_EVERY_S: Final = 15.0
_COUNTS: Final = ("done", "duplicate", "refused", "dead", "gone", "documents", "tombstones")


@dataclass(slots=True)
class Keeper:
    """Owns the book of crawls; the loop, the valves and the deliverer read it."""

    store: Store
    book: CrawlBook
    valves: Valves
    loop: CrawlLoop
    turns: Turns
    events: EventLog
    ids: IdFactory
    clock: Clock
    config: CrawlerConfig
    is_killed: Callable[[ActiveCrawl, str], bool] = lambda _crawl, _host: False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _told: dict[UUID, tuple[Any, ...]] = field(default_factory=dict)
    _told_done: dict[UUID, int] = field(default_factory=dict)
    _is_told: bool = True
    _news_s: float = 0.0
    _forgot_s: float | None = None
    _counted_s: float | None = None
    idle_s: float | None = None

    def nudge(self) -> None:
        """Look now."""
        self._is_told = True
        self._wake.set()

    async def run(self) -> None:
        """Look around until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.look()
            except InterlockError as error:
                _log.info("crawl_watch_waits", code=error.code)
            idle_s = self.idle_s or self.config.idle_ms / 1000
            pause_s = self.config.watch_ms / 1000 if self.book.active else idle_s
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def look(self) -> None:
        """Take in what changed, and act on it."""
        before = set(self.book.active)
        await self.book.load(self.store)
        held = list(self.loop.runs)
        self.turns.blocked = await host_rows.blocked_hosts(self.store, held) if held else frozenset()
        self.valves.look()
        metrics, valves = self.loop.metrics, self.valves
        metrics.looked(self.loop.statistics(), list(valves.valves.values()), list(valves.loads.values()))
        metrics.under_way([each.load for each in self.book.active.values()])
        await self.stop_what_may_not_go_on()
        if before - set(self.book.active):
            self.loop.wake()
        if await host_rows.adopt(self.store) or set(self.book.active) - before:
            self.loop.nudge()
        now_s = self.clock.monotonic()
        is_over = any(not each.load.pending and not each.load.outbox_items for each in self.book.active.values())
        if is_over or now_s - self._news_s >= (_NEWS_S if self.book.active or self._is_told else _QUIET_S):
            self._news_s, self._is_told = now_s, False
            await self.tidy()

    async def stop_what_may_not_go_on(self) -> None:
        """Cut requests whose crawl or host was stopped, and tell their hosts to give the rest back."""

        def should_stop(run: HostRun, url: LeasedUrl | None) -> bool:
            if run.host_hash in self.turns.blocked:
                return True
            crawl = None if url is None else self.book.active.get(url.crawl.crawl_id)
            return crawl is not None and self.is_killed(crawl, run.lease.key.host)

        await self.loop.cut(should_stop)
        if self.turns.blocked:
            self.loop.wake()

    async def tidy(self) -> None:
        """Reap, end and delete what is due, and tell what happened."""
        await self.loop.frontier.reap()
        for each in list(self.book.active.values()):
            if each.load.bytes_wire >= each.spec.budgets.bytes:
                await host_rows.end_crawl(self.store, each.ref, UrlState.REFUSED, "budget_bytes")
        if await delete_some(self.store, self.ids):
            # There is more of it: the next look must not wait as long as one at nothing.
            self.nudge()
        now_s = self.clock.monotonic()
        if self._forgot_s is None or now_s - self._forgot_s >= _FORGET_EVERY_S:
            self._forgot_s = now_s
            await forget(self.store, self.config.retention_days)
        async with self.store.ops("crawl news") as tx:
            if not await tx.fetchval(SQL.watch_lock):
                # Another worker tells the news; what this one told last is no longer its own to tell.
                self.loop.metrics.stale.set(0)
                return
            await self._publish(tx)
            await self._finish(tx)
            if self._counted_s is None or now_s - self._counted_s >= _COUNT_EVERY_S:
                self._counted_s = now_s
                self.loop.metrics.stale.set(await tx.fetchval(SQL.count_stale))

    async def _publish(self, tx: Transaction) -> None:
        active = self.book.active
        figures = {row["crawl_id"]: row for row in await tx.fetch(SQL.host_figures, list(active))} if active else {}
        for crawl_id, each in active.items():
            events: list[dict[str, Any]] = []
            valve, load = self.valves.valves.get(crawl_id), self.valves.loads.get(crawl_id)
            if valve is not None and load is not None:
                told = {
                    "state": valve.state, "share": round(valve.share, 3), "used_bytes": load.used_bytes,
                    "limit_bytes": load.limit_bytes, "lag_s": round(load.lag_s, 1), "source": valve.source,
                }  # fmt: skip
                state = CrawlState.RUNNING if valve.state is ValveState.OPEN else CrawlState.THROTTLED
                changed = await tx.fetchrow(SQL.publish_valve, crawl_id, _encode(told).decode(), state)
                was = self._told.get(crawl_id)
                if changed is not None and (was is None or was[0] != valve.state):
                    events.append({"event": "backpressure", **told})
                if was is not None and was[1] != state:
                    events.append({"event": "crawl.state", "state": state, "reason": valve.source})
                self._told[crawl_id] = (valve.state, state)
            events += self._progress(each, figures.get(crawl_id))
            if events:
                await append_events(tx, self.events, each.ref, events)
        self._told = {crawl_id: told for crawl_id, told in self._told.items() if crawl_id in active}

    def _progress(self, each: ActiveCrawl, figures: Any) -> list[dict[str, Any]]:
        load, crawl_id = each.load, each.ref.crawl_id
        done = sum(load.counts[:5])
        was = self._told_done.get(crawl_id)
        if was == done:
            return []
        self._told_done[crawl_id] = done
        return [
            {
                "event": "crawl.progress",
                "counts": {"discovered": load.discovered, **dict(zip(_COUNTS, load.counts, strict=True))},
                "pages_per_s": 0 if was is None else max(0, done - was) / _NEWS_S,
                "hosts_due": 0 if figures is None else figures["due"],
                "hosts_waiting": 0 if figures is None else figures["waiting"],
            }
        ]

    async def _finish(self, tx: Transaction) -> None:
        for row in await tx.fetch(SQL.finish_crawls):
            crawl = CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"])
            counts = {"discovered": row["discovered"], **{name: row[name] for name in _COUNTS}}
            events: list[dict[str, Any]] = [
                {"event": "crawl.progress", "counts": counts, "pages_per_s": 0, "hosts_due": 0, "hosts_waiting": 0},
                {"event": "crawl.state", "state": CrawlState.FINISHED, "reason": None},
                {"event": "crawl.finished", "counts": counts},
            ]
            await append_events(tx, self.events, crawl, events)
            self._told_done.pop(crawl.crawl_id, None)
