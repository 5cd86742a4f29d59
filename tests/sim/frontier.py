"""The crawl loop under crashes, stalls and a store that comes and goes: one visitor a host, spacing kept, no URL lost.

The loop, its acker and its page reader are those that ship; frontier and web are twins in memory.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from uuid import UUID

from interlock.crawler.adapters.egress import EgressGuard, parse_allow
from interlock.crawler.adapters.scanner import TagScanner
from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.circuit import Circuit
from interlock.crawler.domain.delay import Pace
from interlock.crawler.domain.frontier import Acked, CrawlRef, HostKey, HostLease, LeasedUrl
from interlock.crawler.domain.robots import parse_robots
from interlock.crawler.domain.slots import Slots
from interlock.crawler.domain.spec import CrawlSpec, Politeness, ScopeSpec, Sources
from interlock.crawler.domain.states import UrlState
from interlock.crawler.domain.types import Fetched, Timings
from interlock.crawler.domain.urls import canonicalise
from interlock.crawler.metrics import CrawlMetrics
from interlock.crawler.store.crawls import ActiveCrawl, CrawlBook, CrawlLoad, asked_of, rules_of
from interlock.crawler.store.hosts import host_key
from interlock.crawler.worker.acker import Acker
from interlock.crawler.worker.loop import CrawlLoop
from interlock.crawler.worker.pages import KnownUrls, PageReader
from interlock.crawler.worker.robots import RobotsShelf
from interlock.crawler.worker.turns import Turns
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory
from interlock.foundation.sim import Nemesis, SimClock, SimDice, SimProcess
from interlock.foundation.telemetry import Metrics

HOSTS, PAGES, WORKERS = 4, 8, 3
DELAY_S, TROUBLE_S, DONE_WITHIN_S = 1.0, 25.0, 600.0
GRAIN_S = 1e-3
CONFIG = CrawlerConfig(lease_s=9.0, poll_ms=2_000)
CRAWL = CrawlRef(UUID(int=1), UUID(int=2), UUID(int=3))
OPEN = parse_robots(b"", "InterlockBot")


class BrokenPromiseError(BaseException):
    """What must never happen did; no handler of the loop takes it for one page's defect."""


def _hold(is_so: bool, what: str) -> None:
    if not is_so:
        raise BrokenPromiseError(what)


@dataclass
class HostRow:
    """A host of the twin; `blocked_until` is what was written of its announced windows."""

    key: HostKey
    owner: str | None = None
    until: float = 0.0
    fence: int = 0
    next_at: float = 0.0
    blocked_until: float = 0.0
    pace: Pace = field(default_factory=lambda: Pace(round(DELAY_S * 1000)))
    circuit: Circuit = field(default_factory=Circuit)
    pushbacks: int = 0


@dataclass
class UrlRow:
    """A URL of the twin."""

    url: LeasedUrl
    host: int
    state: str = "queued"
    fence: int = 0
    not_before: float = 0.0
    visits: int = 0


@dataclass
class FrontierTwin:
    """Implements `Frontier` in memory by the rules of `crawler_lease` and the ack.

    `is_fenced` off is the planted bug: whoever held a host once may still write of it and end its lease.
    """

    clock: SimClock
    is_fenced: bool = True
    hosts: dict[int, HostRow] = field(default_factory=dict)
    urls: dict[UUID, UrlRow] = field(default_factory=dict)

    def add(self, key: HostKey, url: LeasedUrl) -> None:
        self.hosts.setdefault(key.host_hash, HostRow(key))
        fresh = replace(url, first_seen_us=self.clock.now_us())
        self.urls.setdefault(url.url_key, UrlRow(fresh, key.host_hash))

    async def lease(self, owner, ask):
        now = self.clock.monotonic()
        due = [each for each in self.hosts.values() if each.owner is None and each.next_at <= now + ask.ahead_s]
        taken = [self._taken(each, owner, ask, now) for each in sorted(due, key=lambda each: each.next_at)]
        return [each for each in taken if each is not None][: ask.hosts_max]

    def _taken(self, host: HostRow, owner: str, ask, now: float):
        own = [each for each in self.urls.values() if each.host == host.key.host_hash]
        for each in own:
            if each.state == "leased":
                each.state = "queued"
        count = max(1, min(16, int(ask.batch_s / (host.pace.delay_ms / 1000))))
        picked = [each for each in own if each.state == "queued" and each.not_before <= now + ask.ahead_s][:count]
        if not picked:
            return None
        due_in_s = host.next_at - now
        host.owner, host.fence, host.until = owner, host.fence + 1, now + ask.lease_s
        host.next_at = host.until + host.pace.delay_ms / 1000
        for each in picked:
            each.state, each.fence = "leased", host.fence
        urls = [each.url for each in picked]
        return HostLease(
            host.key, host.fence, due_in_s, host.pace, host.circuit, urls, pushbacks=host.pushbacks, robots=None
        )

    async def renew(self, owner, fences, lease_s):
        kept, now = set(), self.clock.monotonic()
        for key, fence in fences.items():
            host = self.hosts[key]
            if host.owner == owner and host.fence == fence:
                host.until, kept = now + lease_s, kept | {key}
                host.next_at = host.until + host.pace.delay_ms / 1000
        return frozenset(kept)

    async def ack(self, owner, pages, hosts):
        def holds(each):
            host = self.hosts[each.host_hash]
            return not self.is_fenced or (host.owner == owner and host.fence == each.fence)

        fenced = frozenset(each.host_hash for each in (*pages, *hosts) if not holds(each))
        now = self.clock.monotonic()
        for page in pages:
            if page.host_hash not in fenced:
                self._outcome(page, now)
        for each in hosts:
            if each.host_hash not in fenced:
                self._learned(self.hosts[each.host_hash], each, now)
        return Acked(fenced, frozenset())

    def _outcome(self, page, now: float) -> None:
        row = self.urls[page.url.url_key]
        if row.state != "leased" or (self.is_fenced and row.fence != page.fence):
            return
        row.state, row.not_before = str(page.state), now + page.retry_in_s
        row.visits += page.is_visit
        row.url = replace(row.url, attempt=page.attempt, misses=page.misses)
        for each in page.discoveries:
            self.add(each.host, LeasedUrl(CRAWL, each.url_key, each.url, each.kind, depth=each.depth))

    @staticmethod
    def _learned(host: HostRow, told, now: float) -> None:
        host.pace, host.circuit, host.pushbacks = told.pace, told.circuit, told.pushbacks
        if told.blocked_in_s:
            host.blocked_until = max(host.blocked_until, now + told.blocked_in_s)
        if told.is_final:
            host.owner = None
            host.next_at = max(now + max(told.next_in_s, told.blocked_in_s), host.blocked_until)

    async def reap(self):
        now = self.clock.monotonic()
        for each in self.hosts.values():
            if each.owner is not None and each.until < now:
                each.owner = None
        return 0

    async def end_owner(self, owner_prefix, owner):
        now = self.clock.monotonic()
        for each in self.hosts.values():
            if each.owner is not None and each.owner.startswith(owner_prefix) and each.owner != owner:
                each.owner = None
                each.next_at = max(now + each.pace.delay_ms / 1000, each.blocked_until)
        return 0


@dataclass
class Line:
    """The frontier as one mortal process reaches it: dead before a call, after one, or the store away meanwhile."""

    inner: FrontierTwin
    process: SimProcess
    dice: SimDice

    def __getattr__(self, name):
        call = getattr(self.inner, name)

        async def over(*arguments):
            await self.process.point()
            if self.dice.chance(0.5 * self.process.nemesis.pause):
                raise InterlockError("store_unavailable")
            answer = await call(*arguments)
            await self.process.point()
            if self.dice.chance(0.5 * self.process.nemesis.pause):
                # It is written, and the answer is lost on its way.
                raise InterlockError("store_unavailable")
            return answer

        return over


@dataclass
class Web:
    """Every site of the simulation, and the witness of who asked for what when."""

    clock: SimClock
    dice: SimDice
    twin: FrontierTwin
    is_calm: bool = False
    inside: Counter = field(default_factory=Counter)
    last: dict[str, float] = field(default_factory=dict)
    windows: dict[tuple[str, int], float] = field(default_factory=dict)

    async def fetch(self, request, process: SimProcess):
        host = request.url.split("/")[2]
        now = self.clock.monotonic()
        key = host_key(canonicalise(request.url)).host_hash
        _hold(self.inside[host] == 0, f"two visitors at {host}")
        _hold(now - self.last.get(host, -1e9) >= DELAY_S - GRAIN_S, f"closer than the delay at {host}")
        _hold(now >= self.twin.hosts[key].blocked_until - GRAIN_S, f"inside a written window of {host}")
        _hold(now >= self.windows.get((host, id(process)), 0.0) - GRAIN_S, f"inside a known window of {host}")
        self.last[host] = now
        self.inside[host] += 1
        try:
            await self.clock.sleep(self.dice.pick(0.02, 0.1, 0.4))
        finally:
            self.inside[host] -= 1
        # A dial that has begun arrives; what the process does with the answer is another matter.
        await process.point()
        return self._answer(request.url, host, process)

    def _answer(self, url: str, host: str, process: SimProcess):
        times = Timings(total_ms=20.0, ttfb_ms=20.0)
        if not self.is_calm and self.dice.chance(0.1):
            wait_s = self.dice.pick(1, 2, 4)
            self.windows[host, id(process)] = self.clock.monotonic() + wait_s
            return Fetched(429, headers=(("retry-after", str(wait_s)),), timings=times)
        page = int(url.rpartition("/")[2] or 0)
        links = "".join(f'<a href="/{(2 * page + step) % PAGES}">next</a>' for step in (0, 1, 2))
        over = f'<a href="http://127.20.0.{page % HOSTS + 1}/">other</a>'
        return Fetched(200, headers=(("content-type", "text/html"),), body=(links + over).encode(), timings=times)


@dataclass
class Visits:
    """The web as one process sees it; implements `Fetcher`."""

    web: Web
    process: SimProcess

    async def fetch(self, request):
        return await self.web.fetch(request, self.process)

    async def close(self):
        return None


class OpenTurns(Turns):
    """Turns over hosts without a robots.txt, and without a store."""

    async def prepare(self, leases):
        return None

    def rules_of(self, lease):
        return OPEN


async def scenario(dice: SimDice, clock: SimClock, *, is_fenced: bool = True) -> int:
    """Crawl the sites to the end; returns how many processes crashed on the way."""
    twin = FrontierTwin(clock, is_fenced)
    web = Web(clock, dice, twin)
    seeds = [f"http://127.20.0.{host}/" for host in range(1, HOSTS + 1)]
    spec = CrawlSpec(
        seeds=seeds, scope=ScopeSpec(mode="host"), politeness=Politeness(delay_s=DELAY_S), extract="none",
        sources=Sources(sitemaps=False),
    )  # fmt: skip
    guard = EgressGuard(parse_allow("127.20.0.0/16"))
    book = CrawlBook(guard)
    load = CrawlLoad("running", 1, 0, 0, 0, 0, 0, 0.0, ())
    crawl = ActiveCrawl(CRAWL, 1, spec, rules_of(spec), (), None, asked_of(spec), load)
    book.active[CRAWL.crawl_id] = book.known[CRAWL.crawl_id] = crawl
    reader = _reader(clock, dice)
    seed = canonicalise(seeds[0])
    first = reader.judged(crawl, seed, "page", LeasedUrl(CRAWL, UUID(int=9), seeds[0], depth=-1))
    twin.add(first.host, LeasedUrl(CRAWL, first.url_key, first.url))
    # A pause outlives a lease: by its end another worker has the hosts.
    nemesis = Nemesis(clock, dice, crash=0.02, pause=0.05, pause_s=(0.1, 1.0, 14.0))
    async with asyncio.TaskGroup() as group:
        workers = [
            group.create_task(nemesis.keep_alive(_boot(twin, web, book, clock, dice, number), 0.5))
            for number in range(WORKERS)
        ]
        reaper = group.create_task(_reap(twin, clock))
        await clock.sleep(TROUBLE_S)
        nemesis.calm()
        web.is_calm = True
        await _until_done(twin, clock)
        nemesis.stop()
        for each in (*workers, reaper):
            each.cancel()
        await asyncio.gather(*workers, reaper, return_exceptions=True)
    return nemesis.crashes


def _reader(clock: SimClock, dice: SimDice) -> PageReader:
    ids = IdFactory(clock, dice)
    return PageReader(TagScanner(), None, clock, dice, ids, CONFIG, 7, KnownUrls(CONFIG.known_urls_max))


def _boot(twin: FrontierTwin, web: Web, book: CrawlBook, clock: SimClock, dice: SimDice, number: int):
    async def life(process: SimProcess) -> None:
        line, visits, reader = Line(twin, process, dice), Visits(web, process), _reader(clock, dice)
        owner = f"worker-{number}/{dice.randrange(1 << 30)}"
        await twin.end_owner(f"worker-{number}/", owner)
        metrics = CrawlMetrics(Metrics())
        acker = Acker(line, owner, clock, CONFIG, metrics)
        turns = OpenTurns(None, book, RobotsShelf(None), reader, book.guard, visits, clock, CONFIG)
        caps = {CRAWL.crawl_id: 1_000}
        loop = CrawlLoop(
            line,
            visits,
            acker,
            turns,
            Slots(CONFIG.slots, WORKERS),
            lambda _: caps,
            owner,
            clock,
            dice,
            CONFIG,
            metrics,
        )
        acker.on_free, acker.on_fenced = loop.nudge, reader.known.forget
        async with asyncio.TaskGroup() as group:
            group.create_task(loop.run())
            group.create_task(acker.run())

    return life


async def _reap(twin: FrontierTwin, clock: SimClock) -> None:
    while True:
        await clock.sleep(1.0)
        await twin.reap()


async def _until_done(twin: FrontierTwin, clock: SimClock) -> None:
    deadline = clock.monotonic() + DONE_WITHIN_S
    while any(each.state in {"queued", "leased"} for each in twin.urls.values()):
        assert clock.monotonic() < deadline, f"stuck: {Counter(each.state for each in twin.urls.values())}"
        await clock.sleep(1.0)
    done = [each.url.url for each in twin.urls.values() if each.state == UrlState.DONE]
    # Beside the numbered pages each site has its root.
    assert len(done) == HOSTS * (PAGES + 1), (
        f"lost: {len(done)} of {HOSTS * (PAGES + 1)}: {Counter(each.state for each in twin.urls.values())}"
    )
