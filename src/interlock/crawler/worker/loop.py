"""The crawl loop: leases hosts, gives due ones a slot, and ends a host's turn with what was learned of it.

Never sleeps for one host: a host that waits lies in a heap, and what holds a slot is a request in flight.
"""

import asyncio
import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final
from uuid import UUID

import structlog

from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.backpressure import reservation
from interlock.crawler.domain.circuit import CircuitState, after_fault, after_success
from interlock.crawler.domain.classify import PUSHBACKS, asked_away_s, classify
from interlock.crawler.domain.delay import (
    CRAWL_DELAY_S_MAX,
    after_answer,
    after_pushback,
    headerless_block_s,
)
from interlock.crawler.domain.frontier import Frontier, HostLease, LeaseAsk, LeasedUrl, PageAck
from interlock.crawler.domain.retry import Again, decide, is_host_fault
from interlock.crawler.domain.slots import SLOW_MS, SlotAsk, Slots
from interlock.crawler.domain.states import UrlState
from interlock.crawler.domain.types import Fetched, Fetcher, FetchRequest, RobotsRules
from interlock.crawler.metrics import CrawlMetrics
from interlock.crawler.worker.acker import Acker
from interlock.crawler.worker.hostrun import HostRun
from interlock.crawler.worker.turns import Turns
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.errors import InterlockError

_log = structlog.get_logger("interlock.crawler")
_SLOW_LOOK_S: Final = 0.25
_LEASE_RETRY_S: Final = 0.1
_BROKEN_S: Final = 60.0
_WINDOWS_MAX: Final = 10_000
# How long a host waits whose robots.txt lies on another one that is busy.
_BUSY_S: Final = 5.0
_TRAVEL_S_MAX: Final = 0.25


@dataclass(slots=True)
class Job:
    """One request that a host makes: of a URL, or of its robots.txt where `url` is None."""

    run: HostRun
    url: LeasedUrl | None
    request: FetchRequest
    ask: SlotAsk
    started_s: float
    robots_line: int | None = None
    is_slow: bool = False
    is_acked: bool = False


@dataclass(slots=True)
class CrawlLoop:
    """One worker's loop. `caps` says how many URLs each crawl may take, `turns` what a host does next."""

    frontier: Frontier
    fetcher: Fetcher
    acker: Acker
    turns: Turns
    slots: Slots
    caps: Callable[[int], dict[UUID, int]]
    owner: str
    clock: Clock
    dice: Dice
    config: CrawlerConfig
    metrics: CrawlMetrics
    runs: dict[int, HostRun] = field(default_factory=dict)
    reserved: Counter[UUID] = field(default_factory=Counter)
    _heap: list[tuple[float, int, HostRun]] = field(default_factory=list)
    _parked: list[HostRun] = field(default_factory=list)
    _jobs: dict[asyncio.Task[None], Job] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _hungry: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: Iterator[int] = field(default_factory=count)
    _windows: OrderedDict[int, tuple[float, str]] = field(default_factory=OrderedDict)

    async def run(self) -> None:
        """Lease, dispatch and keep leases until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease_loop())
            group.create_task(self._dispatch_loop(group))
            group.create_task(self._heartbeat_loop())
            group.create_task(self._slow_loop())

    def nudge(self) -> None:
        """Look for due hosts now."""
        self._hungry.set()

    def wake(self) -> None:
        """Look at waiting hosts now: a switch, a pause or a block may have changed what they do."""
        for run in list(self.runs.values()):
            self._push(run)
        self._wake.set()

    async def cut(self, should_stop: Callable[[HostRun, LeasedUrl | None], bool]) -> None:
        """Cancel requests in flight that may not go on."""
        for task, job in list(self._jobs.items()):
            if should_stop(job.run, job.url):
                task.cancel()

    async def drain(self, seconds: float) -> None:
        """Let requests in flight end, give back everything else."""
        until_s = self.clock.monotonic() + seconds
        for run in list(self.runs.values()):
            run.is_stopped = True
            self._end_if_idle(run)
        while self._jobs and self.clock.monotonic() < until_s:
            await self.clock.sleep(0.05)
        await self.acker.flush()

    def statistics(self) -> dict[str, int]:
        """Return what is held and waits."""
        return {**self.slots.statistics(), "hosts": len(self.runs), "parked": len(self._parked)}

    # -- leases

    async def _lease_loop(self) -> None:
        while True:
            is_more = False
            self._hungry.clear()
            try:
                is_more = await self.lease_once()
            except InterlockError as error:
                _log.info("crawl_lease_waits", code=error.code)
                await self.clock.sleep(_LEASE_RETRY_S)
            if not is_more:
                pause_ms = self.config.poll_ms if self.caps(1) else self.config.idle_ms
                try:
                    async with asyncio.timeout(pause_ms / 1000):
                        await self._hungry.wait()
                except TimeoutError:
                    pass

    async def lease_once(self) -> bool:
        """Take due hosts as far as there is room; tell whether there were as many as were asked for."""
        room = min(self.config.hosts_max, 2 * self.slots.total - len(self.runs))
        caps = self.caps(max(0, 2 * self.slots.total))
        if room <= 0 or not caps:
            return False
        asked_s = self.clock.monotonic()
        ask = LeaseAsk(room, caps, self.config.lease_s, self.config.lookahead_ms / 1000, 0.6 * self.config.lease_s)
        leases = await self.frontier.lease(self.owner, ask)
        self.metrics.lease_s.observe(self.clock.monotonic() - asked_s)
        if leases:
            await self.turns.prepare(leases)
        for lease in leases:
            self._begin(lease, asked_s)
        return len(leases) == room

    def _begin(self, lease: HostLease, asked_s: float) -> None:
        run = HostRun(
            lease=lease,
            urls=deque(lease.urls),
            pace=lease.pace,
            circuit=lease.circuit,
            lease_until_s=asked_s + self.config.lease_s,
            due_s=self.clock.monotonic() + max(0.0, lease.due_in_s),
            robots=self.turns.rules_of(lease),
            robots_tries=lease.robots_tries,
            pushbacks=lease.pushbacks,
            ewma_bytes=lease.ewma_bytes,
            address=self.turns.address_of(lease),
        )
        until_s, reason = self._windows.get(run.host_hash, (0.0, ""))
        now_s = self.clock.monotonic()
        if until_s > now_s:
            # The host told this process, and no store heard of it: the lease was lost before the ack.
            run.block(now_s, until_s - now_s, reason)
        self.runs[run.host_hash] = run
        for each in lease.urls:
            self.reserved[each.crawl.crawl_id] += self._reserve(run)
        self._push(run)

    async def _heartbeat_loop(self) -> None:
        while True:
            await self.clock.sleep(self.config.lease_s / 3)
            await self.heartbeat()

    async def heartbeat(self) -> None:
        """Renew what is held; stop what the store has given to another."""
        held = {host: run.lease.fence for host, run in self.runs.items() if not run.is_ended}
        if not held:
            return
        asked_s = self.clock.monotonic()
        try:
            async with asyncio.timeout(self.config.lease_s / 3):
                kept = await self.frontier.renew(self.owner, held, self.config.lease_s)
        except (InterlockError, TimeoutError):
            return
        for host, fence in held.items():
            run = self.runs.get(host)
            if run is None or run.lease.fence != fence or run.is_ended:
                continue
            if host in kept:
                run.lease_until_s = asked_s + self.config.lease_s
            else:
                self._lose(run)

    def _lose(self, run: HostRun) -> None:
        run.is_lost = run.is_ended = True
        self._forget(run)
        for task, job in list(self._jobs.items()):
            if job.run is run:
                task.cancel()

    # -- dispatch

    async def _dispatch_loop(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._wake.clear()
            next_s = self.dispatch(group)
            wait_s = None if next_s is None else max(0.0, next_s - self.clock.monotonic())
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def dispatch(self, group: asyncio.TaskGroup) -> float | None:
        """Start what is due; return when the next host is."""
        now_s = self.clock.monotonic()
        while self._heap and self._heap[0][0] <= now_s:
            _, _, run = heapq.heappop(self._heap)
            if run.is_ended or run.due_s > now_s or self.slots.in_flight(run.host_hash) >= run.cap:
                if not run.is_ended and run.due_s > now_s:
                    self._push(run)
                continue
            self._try(run, now_s, group)
        return self._heap[0][0] if self._heap else None

    def _try(self, run: HostRun, now_s: float, group: asyncio.TaskGroup) -> None:
        ask = run.ask()
        if self.slots.refusal(ask) is not None:
            self._parked.append(run)
            return
        has_urls = bool(run.urls)
        turn = self.turns.next(run)
        for ack in turn.settled:
            self._acked(run, ack)
        if turn.hold_s:
            run.block(now_s, turn.hold_s, "killed")
        if turn.request is None:
            if has_urls and (run.blocked_until_s > now_s or run.host_hash in self.turns.blocked):
                self.metrics.blocked_dials.inc()
            self._end_if_idle(run)
            return
        if not run.may_dial(now_s):
            # Not enough of the lease is left; the next heartbeat lengthens it or ends this run.
            if turn.url is not None:
                run.urls.appendleft(turn.url)
            run.due_s = now_s + 0.2
            self._push(run)
            return
        self.slots.take(ask)
        run.in_flight += 1
        self.metrics.dialled(now_s - run.due_s)
        run.due_s = now_s + run.pace.delay_ms / 1000
        job = Job(run, turn.url, turn.request, ask, now_s, turn.robots_line)
        task = group.create_task(self._visit(job))
        self._jobs[task] = job
        task.add_done_callback(self._visited)
        if run.in_flight < run.cap and run.urls and run.robots is not None:
            self._push(run)

    def _push(self, run: HostRun) -> None:
        if not run.is_ended:
            heapq.heappush(self._heap, (run.due_s, next(self._numbers), run))
            self._wake.set()

    async def _visit(self, job: Job) -> None:
        try:
            fetched = await self.fetcher.fetch(job.request)
            if not job.run.is_lost:
                await self._learn(job, fetched)
        except InterlockError as error:
            # The store is away; what was fetched is fetched again under the next lease.
            _log.info("crawl_visit_waits", code=error.code)
            job.run.is_stopped = True
        except Exception:  # noqa: BLE001 - a worker's outer loop: one page's defect must not end the others
            _log.exception("crawl_visit_broke", url=job.request.url)
            job.run.block(self.clock.monotonic(), _BROKEN_S, "loop_error")
            if job.url is not None and not job.is_acked:
                job.is_acked = True
                self._acked(job.run, self.turns.broken(job.run, job.url))
            elif job.url is None:
                # A robots.txt that breaks us is one that cannot be had, or the crawl would wait for it for ever.
                with suppress(InterlockError):
                    await self._unreachable(job.run)

    def _visited(self, task: asyncio.Task[None]) -> None:
        """Give the slot back, whatever way the request ended; not a `finally`, which a task cancelled early skips."""
        job = self._jobs.pop(task)
        run = job.run
        self.slots.give(job.ask)
        run.in_flight -= 1
        if job.url is not None and not job.is_acked:
            if run.is_lost:
                self._release(run, job.url)
            else:
                self._acked(run, self.turns.unvisited(run, job.url))
        for each in self._parked:
            self._push(each)
        self._parked.clear()
        # A lease that was lost may have come back: the host's turn is that of its newest run.
        self._push(self.runs.get(run.host_hash, run))
        self._wake.set()

    async def _slow_loop(self) -> None:
        while True:
            await self.clock.sleep(_SLOW_LOOK_S if self.runs else self.config.idle_ms / 1000)
            now_s = self.clock.monotonic()
            for job in self._jobs.values():
                if not job.is_slow and not job.ask.is_slow and (now_s - job.started_s) * 1000 > SLOW_MS:
                    job.is_slow = True
                    self.slots.turn_slow(job.run.host_hash)

    # -- what an answer means for the host

    async def _learn(self, job: Job, fetched: Fetched) -> None:
        run, now_s = job.run, self.clock.monotonic()
        kind = classify(fetched)
        self.metrics.fetched(kind, fetched)
        run.address = fetched.ip or run.address
        self.turns.saw_address(run, fetched.ip)
        self._pace(run, fetched, kind, now_s)
        if run.blocked_until_s > now_s:
            self._remember(run)
        if job.url is None:
            await self._robots(run, fetched, kind)
        else:
            run.ewma_bytes = _ewma(run.ewma_bytes, len(fetched.body)) if fetched.fault is None else run.ewma_bytes
            ack = await self.turns.outcome(run, job.url, fetched, job.robots_line)
            if run.is_lost:
                return
            job.is_acked = True
            self._acked(run, ack)
        # The host had the request at the latest when its answer came; counted from the dial, two arrivals could be
        # closer than the delay by what the first one spent on its way.
        travel_s = min(now_s - job.started_s, _TRAVEL_S_MAX)
        run.due_s = max(run.due_s, job.started_s + travel_s + run.pace.delay_ms / 1000)
        if run.circuit.is_hopeless:
            await self._end_host(run, "host_unreachable")
        if run.is_stopped and run.blocked_until_s > now_s:
            # A fact about the host is written before its next request, which only a new lease can make.
            self.acker.host(run.fact(self.clock.monotonic(), is_final=False))

    def _remember(self, run: HostRun) -> None:
        """Keep a window for the next lease of the host, should this one be lost before its ack is written.

        A process that was stopped for long may have the host again before it hears of what it asked before.
        """
        newer = self.runs.get(run.host_hash, run)
        if newer is not run:
            now_s = self.clock.monotonic()
            newer.block(now_s, run.blocked_until_s - now_s, run.blocked_reason or "")
        self._windows[run.host_hash] = (run.blocked_until_s, run.blocked_reason or "")
        self._windows.move_to_end(run.host_hash)
        if len(self._windows) > _WINDOWS_MAX:
            self._windows.popitem(last=False)

    def _pace(self, run: HostRun, fetched: Fetched, kind: str, now_s: float) -> None:
        status = fetched.status
        asked_s = asked_away_s(fetched, self.clock.now_us())
        if kind in PUSHBACKS:
            run.pace = after_pushback(run.pace)
            block_s = headerless_block_s(run.pushbacks, self.dice.random()) if asked_s is None else asked_s
            run.pushbacks += 1
            run.block(now_s, max(block_s, run.pace.delay_ms / 1000), kind)
            return
        if asked_s:
            run.block(now_s, asked_s, "retry_after")
        if status is not None and fetched.fault is None:
            run.pace = after_answer(run.pace, status, fetched.timings.ttfb_ms or fetched.timings.total_ms)
        if is_host_fault(kind):
            run.circuit = after_fault(run.circuit)
            if run.circuit.state is CircuitState.OPEN:
                run.block(now_s, run.circuit.open_s, "circuit_open")
        elif status is not None:
            run.circuit = after_success(run.circuit)
            run.pushbacks = 0

    async def _robots(self, run: HostRun, fetched: Fetched, kind: str) -> None:
        told = await self.turns.robots_answer(run, fetched, kind)
        if told is None:
            return
        if isinstance(told, str):
            await self._end_host(run, told)
            return
        if told.rules is not None:
            self._obey(run, told.rules)
            return
        if told.is_busy:
            run.block(self.clock.monotonic(), _BUSY_S, "robots_elsewhere")
            return
        await self._unreachable(run)

    async def _unreachable(self, run: HostRun) -> None:
        """Count a try for a robots.txt; after the last one the host's URLs end."""
        run.robots_tries += 1
        again = decide("robots_unreachable", run.robots_tries, self.dice.random())
        if not isinstance(again, Again):
            run.robots_tries = 0
            await self._end_host(run, "robots_unreachable")
        else:
            run.block(self.clock.monotonic(), again.after_s, "robots_unreachable")
            run.blocked_reason = "robots_unreachable"

    def _obey(self, run: HostRun, rules: RobotsRules) -> None:
        run.robots, run.robots_tries = rules, 0
        delay_s = rules.crawl_delay_s or 0.0
        run.pace = replace(run.pace, crawl_delay_ms=round(min(delay_s, CRAWL_DELAY_S_MAX) * 1000))

    async def _end_host(self, run: HostRun, reason: str) -> None:
        """Nothing of this host will ever be fetched: bring all that waits for it to rest."""
        run.is_stopped = True
        state = UrlState.REFUSED if reason in {"egress_blocked", "crawl_delay_too_long"} else UrlState.DEAD
        for url in list(run.urls):
            self._acked(run, self.turns.ended(run, url, state, reason))
        run.urls.clear()
        await self.turns.end_host(run, state, reason)

    def _acked(self, run: HostRun, ack: PageAck) -> None:
        self._release(run, ack.url)
        self.metrics.settled(ack)
        self.acker.page(ack)

    def _end_if_idle(self, run: HostRun) -> None:
        if run.in_flight or run.is_ended:
            return
        for url in list(run.urls):
            self._acked(run, self.turns.unvisited(run, url))
        run.urls.clear()
        run.is_ended = True
        self.acker.host(run.fact(self.clock.monotonic(), is_final=True))
        self._forget(run)

    def _forget(self, run: HostRun) -> None:
        for url in run.urls:
            self._release(run, url)
        if self.runs.get(run.host_hash) is run:
            del self.runs[run.host_hash]

    def _reserve(self, run: HostRun) -> int:
        return reservation(run.lease.ewma_bytes, self.config.body_bytes_max)

    def _release(self, run: HostRun, url: LeasedUrl) -> None:
        crawl_id = url.crawl.crawl_id
        self.reserved[crawl_id] -= self._reserve(run)
        if self.reserved[crawl_id] <= 0:
            del self.reserved[crawl_id]


def _ewma(known: float, size: int) -> float:
    return float(size) if known <= 0 else known + 0.2 * (size - known)
