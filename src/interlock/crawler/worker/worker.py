"""One worker's crawler put together and run: what starts before what, and what is given back at the end.

Builds no adapter; the wiring hands them in.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from interlock.contracts.documents import DocumentSink
from interlock.crawler.adapters.spool import Spool
from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.backpressure import Machine
from interlock.crawler.domain.slots import Slots
from interlock.crawler.domain.types import Extractor, Fetcher, HostGuard, PageScanner
from interlock.crawler.metrics import CrawlMetrics
from interlock.crawler.store import SQL
from interlock.crawler.store.crawls import ActiveCrawl, CrawlBook
from interlock.crawler.store.frontier import PgFrontier
from interlock.crawler.store.outbox import Outbox
from interlock.crawler.worker.acker import Acker
from interlock.crawler.worker.deliver import Deliverer
from interlock.crawler.worker.extract import ExtractionDriver
from interlock.crawler.worker.keeper import Keeper
from interlock.crawler.worker.loop import CrawlLoop
from interlock.crawler.worker.pages import KnownUrls, PageReader
from interlock.crawler.worker.robots import RobotsShelf
from interlock.crawler.worker.turns import Turns
from interlock.crawler.worker.watch import Valves, is_killed, machine_of
from interlock.foundation.artifacts import ArtifactStore
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import KillSwitches
from interlock.foundation.ids import IdFactory
from interlock.foundation.store import Store
from interlock.foundation.store.lookout import LOOK_ANYWAY_S, Lookout
from interlock.foundation.telemetry import EventLog

CHANNEL: Final = "crawl_due"
DRAIN_S: Final = 3.0
_log = structlog.get_logger("interlock.crawler")


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What a worker needs of the outside; `owner_prefix` names its seat on this machine, whoever sits there."""

    store: Store
    events: EventLog
    artifacts: ArtifactStore
    sink: DocumentSink
    fetcher: Fetcher
    scanner: PageScanner
    extractor: Extractor
    guard: HostGuard
    switches: KillSwitches
    spool_folder: Path
    owner_prefix: str
    seed: int
    clock: Clock
    dice: Dice
    ids: IdFactory
    config: CrawlerConfig
    metrics: CrawlMetrics
    workers: int = 1
    measure: Callable[[Path, int], Machine] = machine_of


class CrawlWorker:
    """Everything that crawls in one process."""

    def __init__(self, parts: WorkerParts) -> None:
        self.parts = parts
        config, clock = parts.config, parts.clock
        self.owner = f"{parts.owner_prefix}/{parts.ids.new().hex}"
        self.book = CrawlBook(parts.guard)
        self.frontier = PgFrontier(parts.store, clock, parts.ids, parts.events, self.book)
        spool = Spool(parts.spool_folder)
        self.outbox = Outbox(parts.store, parts.ids, parts.events)
        self.valves = Valves(self.book, config, parts.spool_folder, parts.measure)
        self.extraction = ExtractionDriver(
            self.outbox,
            parts.extractor,
            parts.artifacts,
            spool,
            self.owner,
            clock,
            parts.metrics,
            config.extract_processes,
        )
        self.deliverer = Deliverer(
            self.outbox,
            parts.sink,
            parts.artifacts,
            self.book,
            self.valves.sinks,
            self.owner,
            clock,
            parts.metrics,
            config.idle_ms / 1000,
        )
        self.extraction.on_offered = self.deliverer.nudge
        self.acker = Acker(self.frontier, self.owner, clock, config, parts.metrics, self.extraction.take)
        reader = PageReader(
            parts.scanner, spool, clock, parts.dice, parts.ids, config, parts.seed, KnownUrls(config.known_urls_max)
        )
        self.turns = Turns(
            parts.store, self.book, RobotsShelf(parts.store), reader, parts.guard, parts.fetcher, clock, config,
            self._is_killed, parts.metrics.parsed,
        )  # fmt: skip
        self.loop = CrawlLoop(
            self.frontier, parts.fetcher, self.acker, self.turns, Slots(config.slots, parts.workers), self._caps,
            self.owner, clock, parts.dice, config, parts.metrics,
        )  # fmt: skip
        self.acker.on_free, self.acker.on_fenced = self.loop.nudge, reader.known.forget
        self.valves.reserved = lambda crawl_id: self.loop.reserved[crawl_id]
        self.keeper = Keeper(
            parts.store, self.book, self.valves, self.loop, self.turns, parts.events, parts.ids, clock, config,
            self._is_killed,
        )  # fmt: skip

    def told_by(self, lookout: Lookout) -> None:
        """Have the lookout tell of crawls, bodies and documents of which no notice came; look else now and then."""
        lookout.watch(SQL.any_to_keep, self._told_of_crawls)
        lookout.watch(SQL.any_to_extract, self.extraction.nudge)
        # With crawls under way too: the rest of who delivers may have begun before there was one.
        lookout.watch(SQL.any_to_deliver, self.deliverer.nudge)
        self.keeper.idle_s = self.extraction.idle_s = self.deliverer.idle_s = LOOK_ANYWAY_S

    async def run(self) -> None:
        """Take this seat over, then crawl until cancelled; what is in flight then ends, the rest goes back."""
        await self._take_over()
        await self.parts.store.listen(CHANNEL, self._nudged)
        self.parts.switches.on_change(self._nudged)
        loops = (
            self.keeper.run, self.loop.run, self.acker.run, self.extraction.run, self.deliverer.run,
        )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as group:
                for each in loops:
                    group.create_task(each())
        finally:
            await asyncio.shield(self._leave())

    def statistics(self) -> dict[str, int]:
        """Return what is held, waits and was done."""
        return {
            **self.loop.statistics(),
            "acks_waiting": self.acker.waiting,
            "pages": self.acker.pages,
            "fenced": self.acker.fenced,
            "extracted": self.extraction.extracted,
            "delivered": self.deliverer.delivered,
            "withdrawn": self.deliverer.withdrawn,
        }

    async def _take_over(self) -> None:
        """End the leases of the process that sat here before: the supervisor has seen it die."""
        while True:
            try:
                await self.frontier.end_owner(f"{self.parts.owner_prefix}/", self.owner)
                await self.outbox.free(f"{self.parts.owner_prefix}/", self.owner)
                await self.keeper.look()
            except InterlockError as error:
                _log.info("crawl_waits_for_the_store", code=error.code)
                await self.parts.clock.sleep(0.5)
                continue
            return

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(DRAIN_S):
                await self.loop.drain(DRAIN_S / 2)
                await self.outbox.free(self.owner, "")
        except (InterlockError, TimeoutError):
            _log.info("crawl_leases_left_to_expire")
        await self.parts.extractor.close()
        await self.parts.fetcher.close()

    def _caps(self, urls_max: int) -> dict:  # type: ignore[type-arg] # by crawl
        caps = self.valves.caps(urls_max, 0.0)
        for crawl_id in list(caps):
            crawl = self.book.active.get(crawl_id)
            if crawl is None or self._is_killed(crawl, ""):
                del caps[crawl_id]
        return caps

    def _is_killed(self, crawl: ActiveCrawl, host: str) -> bool:
        return is_killed(self.parts.switches, crawl, host)

    def _told_of_crawls(self) -> None:
        # With crawls under way the keeper looks more often than the lookout.
        if not self.book.active:
            self.keeper.nudge()

    def _nudged(self, _payload: str = "") -> None:
        self.keeper.nudge()
        self.loop.nudge()
        self.deliverer.nudge()
