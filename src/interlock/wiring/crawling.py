"""The crawler put together: its routes for control, its loop for a worker.

Holds no logic; the document sink is whatever the index of this installation is.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from interlock import __version__
from interlock.console import Console
from interlock.console.crawls import CrawlPages, crawl_pages
from interlock.contracts.documents import DocumentSink
from interlock.crawler import (
    ControlCrawl,
    CrawlerConfig,
    CrawlHandlers,
    CrawlTools,
    CrawlWorker,
    Explain,
    HostHandlers,
    HostRules,
    HostStates,
    ReadCrawls,
    StartCrawl,
    WorkerParts,
    host_routes,
    routes,
)
from interlock.crawler.adapters.egress import EgressGuard, parse_allow
from interlock.crawler.adapters.extractors import PoolExtractor
from interlock.crawler.adapters.fetcher import AiohttpFetcher
from interlock.crawler.adapters.resolver import AresLookup, Resolver
from interlock.crawler.adapters.scanner import TagScanner
from interlock.crawler.metrics import CrawlMetrics
from interlock.foundation.artifacts import ArtifactStore
from interlock.foundation.control.route import Route
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.flags import KillSwitches
from interlock.foundation.store import Store
from interlock.foundation.store.lookout import Lookout
from interlock.foundation.telemetry import EventLog
from interlock.wiring.ground import Ground

AGENT: Final = "InterlockBot"
_SEED_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Crawling:
    """The services of crawls of one process; the console reads through them."""

    start: StartCrawl
    control: ControlCrawl
    reading: ReadCrawls
    explain: Explain
    hosts: HostStates
    rules: HostRules


def crawler_config(ground: Ground) -> CrawlerConfig:
    """Return the settings with the flags of `up` in their place."""
    config, options = ground.config.section(CrawlerConfig), ground.options
    return replace(
        config,
        egress_allow=config.egress_allow if options.crawl_allow is None else options.crawl_allow,
        slots=options.crawl_slots or config.slots,
        contact=config.contact if options.crawl_contact is None else options.crawl_contact,
    )


def guard_of(config: CrawlerConfig) -> EgressGuard:
    """Return the egress guard. Raises `BrokenWorldError` for an allow-list that cannot be read."""
    try:
        return EgressGuard(parse_allow(",".join(config.egress_allow)))
    except ValueError as error:
        raise BrokenWorldError(
            "setting_invalid", f"crawler.egress_allow: {error}", "write CIDR or CIDR:PORT"
        ) from error


def url_seed(ground: Ground) -> int:
    """Return what keys URLs of this installation."""
    return int.from_bytes(hashlib.sha256(b"interlock-crawler-urls\x00" + ground.pepper).digest()[:_SEED_BYTES], "big")


def crawling_of(ground: Ground, store: Store, events: EventLog) -> Crawling:
    """Return the services of crawls."""
    config = crawler_config(ground)
    tools = CrawlTools(ground.audit(), events, ground.ids, ground.clock, guard_of(config), config, url_seed(ground))
    start, hosts = StartCrawl(tools), HostStates(store)
    return Crawling(
        start=start,
        control=ControlCrawl(tools, start),
        reading=ReadCrawls(store, events, hosts),
        explain=Explain(store, tools, hosts),
        hosts=hosts,
        rules=HostRules(store, tools),
    )


def crawling_routes(ground: Ground, crawling: Crawling, page: Console) -> list[Route]:
    """Return the routes and pages of crawls and hosts."""
    pages = CrawlPages(page.frame, crawling.reading, crawling.explain, crawling.hosts)
    page.samples["crawl"] = page.samples["crawl_explain"] = pages.sampler
    page.watchers["crawls"] = pages.standing
    handlers = CrawlHandlers(crawling.start, crawling.control, crawling.reading, crawling.explain, ground.clock)
    return [*routes(handlers), *host_routes(HostHandlers(crawling.hosts, crawling.rules)), *crawl_pages(pages)]


class CrawlRole:
    """The crawler of one worker process; its parts are made inside the running loop."""

    def __init__(
        self,
        ground: Ground,
        store: Store,
        artifacts: ArtifactStore,
        events: EventLog,
        sink: DocumentSink,
        switches: KillSwitches,
    ) -> None:
        self._ground, self._store, self._artifacts, self._events = ground, store, artifacts, events
        self._sink, self._switches = sink, switches

    async def run(self, lookout: Lookout) -> None:
        """Crawl until cancelled; where the settings say no, there is nothing to run."""
        config = crawler_config(self._ground)
        if config.enabled:
            worker = CrawlWorker(self._parts(config))
            worker.told_by(lookout)
            await worker.run()

    def _parts(self, config: CrawlerConfig) -> WorkerParts:
        ground, guard = self._ground, guard_of(config)
        agent = f"{AGENT}/{__version__}" + (f" (+{config.contact})" if config.contact else "")
        return WorkerParts(
            store=self._store,
            events=self._events,
            artifacts=self._artifacts,
            sink=self._sink,
            fetcher=AiohttpFetcher(agent, guard, Resolver(AresLookup(), ground.clock)),
            scanner=TagScanner(),
            extractor=PoolExtractor(config.extract_processes),
            guard=guard,
            switches=self._switches,
            spool_folder=ground.directory.root / "spool" / "crawler",
            owner_prefix=f"{ground.name}@{ground.seat}",
            seed=url_seed(ground),
            clock=ground.clock,
            dice=ground.dice,
            ids=ground.ids,
            config=config,
            metrics=CrawlMetrics(ground.metrics),
            workers=ground.options.workers,
        )
