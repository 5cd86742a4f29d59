"""A crawler in one process over a real store: worker, practice web, sink in memory, calls as the API makes them."""

import asyncio
import hashlib
import re
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from interlock.contracts.documents import Accepted, Backlogged, Pressure, Tombstoned
from interlock.crawler.adapters.egress import EgressGuard, parse_allow
from interlock.crawler.adapters.fetcher import AiohttpFetcher, Patience
from interlock.crawler.adapters.practice_pages import Knobs
from interlock.crawler.adapters.practice_web import PracticeWeb
from interlock.crawler.adapters.resolver import AresLookup, Resolver
from interlock.crawler.adapters.scanner import TagScanner
from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.backpressure import Machine
from interlock.crawler.domain.spec import CrawlSpec
from interlock.crawler.domain.types import Extracted
from interlock.crawler.metrics import CrawlMetrics
from interlock.crawler.routes.views import crawl_view
from interlock.crawler.service.control import ControlCrawl
from interlock.crawler.service.explain import Explain
from interlock.crawler.service.hosts import HostRules, HostStates
from interlock.crawler.service.reading import ReadCrawls
from interlock.crawler.service.start import CrawlTools, StartCrawl
from interlock.crawler.worker.worker import CrawlWorker, WorkerParts
from interlock.foundation.artifacts import ArtifactStore
from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory
from interlock.foundation.redaction import Redactor
from interlock.foundation.store.lookout import Lookout
from interlock.foundation.telemetry import EventLog, Metrics

CLOCK, DICE = SystemClock(), SystemDice()
IDS = IdFactory(CLOCK, DICE)
SEED = 7
FAST = {"delay_s": 0.0, "concurrency": 8}
PATIENCE_S = 240.0
LOOK_S = 0.2
# Of a worker on a machine that may stand still: what is slow there says nothing of a site.
PATIENT = Patience(connect_s=240.0, head_s=600.0, total_s=1_800.0, slow_s=600.0)


async def until(is_so):
    """Wait until something is so, patiently."""
    deadline = CLOCK.monotonic() + PATIENCE_S
    while not is_so():
        assert CLOCK.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.05)


class NoSwitches:
    """Kill switches of which none is on."""

    def check(self, targets, organization_id=None):
        return None

    def on_change(self, callback):
        return None


@dataclass
class MemorySink:
    """Implements `DocumentSink` in memory; `is_open` off answers `Backlogged` and has no credit.

    What crawls of earlier tests in the same store still have to deliver is taken and forgotten.
    """

    is_open: bool = True
    is_down: bool = False
    credit_bytes: int = 1 << 30
    documents: dict = field(default_factory=dict)
    puts: Counter = field(default_factory=Counter)
    tombstones: list = field(default_factory=list)
    versions: dict = field(default_factory=dict)
    sources: dict = field(default_factory=dict)
    acls: dict = field(default_factory=dict)
    refused: dict = field(default_factory=dict)

    async def open_source(self, scope, name, kind, acl):
        self._require_up()
        source = self.sources.setdefault((scope.organization_id, name), IDS.new())
        self.acls[source] = acl
        return source

    async def put(self, scope, document):
        self._require_up()
        if not self.is_open:
            return Backlogged(0.2)
        key = (document.source_id, document.external_id)
        if document.source_id not in self.acls:
            return Accepted(IDS.new(), document.source_version)
        self.puts[key] += 1
        if document.source_version >= self.versions.get(key, 0):
            self.versions[key] = document.source_version
            self.documents[key] = document
        return Accepted(IDS.new(), document.source_version)

    async def tombstone(self, scope, source_id, external_id, reason, observed_at_us):
        self._require_up()
        if source_id in self.acls:
            self.tombstones.append((external_id, reason))
        self.documents.pop((source_id, external_id), None)
        return Tombstoned(None)

    async def pressure(self, scope, source_id):
        self._require_up()
        credit = self.credit_bytes if self.is_open else 0
        return Pressure(0, 0, self.credit_bytes, credit, 0.0)

    def _require_up(self):
        if self.is_down:
            raise ConnectionError("the index is away")

    @property
    def uris(self):
        return sorted(each.uri for each in self.documents.values())


class PlainExtractor:
    """Implements `Extractor` without a pool: the body's own words, tags cut out."""

    async def extract(self, request):
        text = Path(request.path).read_text(encoding="utf-8", errors="replace")
        plain = " ".join(re.sub(r"<[^>]*>", " ", text).split())
        title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
        return Extracted(
            title.group(1) if title else request.url, plain, hashlib.sha256(plain.encode()).hexdigest(), "en"
        )

    async def close(self):
        return None


def tools_of(store, allow, *, contact="mailto:ops@shop.example", **options):
    """What the use cases need."""
    audit = AuditLog(CLOCK, Redactor(()))
    events = EventLog(store, CLOCK, Redactor(()))
    config = CrawlerConfig(**{"contact": contact, "lease_s": 300.0, **options})
    return CrawlTools(audit, events, IDS, CLOCK, EgressGuard(parse_allow(allow)), config, SEED)


@dataclass
class World:
    """Everything of one test."""

    store: object
    tools: CrawlTools
    sink: MemorySink
    folder: Path
    allow: str
    web: PracticeWeb | None = None

    def __post_init__(self):
        self.start_crawl = StartCrawl(self.tools)
        self.control = ControlCrawl(self.tools, self.start_crawl)
        self.states = HostStates(self.store)
        self.rules = HostRules(self.store, self.tools)
        self.reading = ReadCrawls(self.store, self.tools.events, self.states)
        self.explain = Explain(self.store, self.tools, self.states)

    def url(self, path="/", host=1):
        return f"http://127.20.0.{host}:{self.web.port}{path}"

    async def start(self, tenant, /, *seeds, **spec):
        spec.setdefault("politeness", FAST)
        body = msgspec.convert({"seeds": list(seeds), **spec}, CrawlSpec)
        async with self.store.transaction(tenant) as tx:
            return await self.start_crawl.start(tx, body)

    async def crawl(self, scope, crawl):
        return crawl_view(await self.reading.one(scope, crawl.crawl_id))

    async def explained(self, scope, crawl, url):
        return await self.explain.of(scope, await self.reading.one(scope, crawl.crawl_id), url)

    async def until(self, scope, crawl, state="finished"):
        return await self.until_shown(scope, crawl, lambda shown: shown["state"] == state)

    async def until_shown(self, scope, crawl, is_so):
        """The crawl once it is so; patient, since a machine may be busy with much else."""
        deadline = CLOCK.monotonic() + PATIENCE_S
        while True:
            shown = await self.crawl(scope, crawl)
            if is_so(shown):
                return shown
            assert CLOCK.monotonic() < deadline, shown
            await asyncio.sleep(0.1)

    async def until_nothing_is_leased(self, scope, crawl):
        """Return how many requests the practice web has had once the worker has given everything back."""
        await self.until_shown(scope, crawl, lambda shown: shown["counts"]["leased"] == 0)
        return len(self.web.log)

    def worker(self, *, prefix="worker-0@test", workers=1, metrics=None, **options):
        config = replace(self.tools.config, **options)
        guard = self.tools.guard
        resolver = Resolver(AresLookup(), CLOCK)
        return CrawlWorker(
            WorkerParts(
                store=self.store,
                events=self.tools.events,
                artifacts=ArtifactStore(self.folder / "artifacts"),
                sink=self.sink,
                fetcher=AiohttpFetcher("InterlockBot/test", guard, resolver, PATIENT),
                scanner=TagScanner(),
                extractor=PlainExtractor(),
                guard=guard,
                switches=NoSwitches(),
                spool_folder=self.folder / "spool",
                owner_prefix=prefix,
                seed=SEED,
                clock=CLOCK,
                dice=DICE,
                ids=IDS,
                config=config,
                metrics=CrawlMetrics(metrics or Metrics()),
                workers=workers,
                # The process of these tests holds what all tests of a run hold; a worker's own does not.
                measure=lambda _folder, _rss_bytes_max: Machine(),
            )
        )

    @asynccontextmanager
    async def running(self, **options):
        worker, lookout = self.worker(**options), Lookout(self.store, CLOCK, LOOK_S)
        # As its process does: what it has to do of which no notice came, it is told of.
        worker.told_by(lookout)
        task, looking = asyncio.create_task(worker.run()), asyncio.create_task(lookout.run())
        try:
            yield worker
        finally:
            is_over = task.done()
            for each in (task, looking):
                each.cancel()
            ended, _ = await asyncio.gather(task, looking, return_exceptions=True)
            if is_over and isinstance(ended, BaseException):
                raise ended


@asynccontextmanager
async def practice(**knobs):
    """Yield a practice web that answers."""
    web = PracticeWeb(Knobs(**knobs), CLOCK)
    await web.start()
    try:
        yield web
    finally:
        await web.close()


@asynccontextmanager
async def world(store, folder, *, contact="mailto:ops@shop.example", options=None, **knobs):
    """Yield a world with a practice web that is on the allow-list."""
    async with practice(**knobs) as web:
        allow = f"127.20.0.0/16:{web.port}"
        yield World(store, tools_of(store, allow, contact=contact, **(options or {})), MemorySink(), folder, allow, web)
