"""What a host does next: its robots.txt, a URL, or nothing; and what is settled without asking the host at all.

Every rule is looked at again right before the dial, since crawls, switches and files change while URLs wait.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import thread_time
from typing import Any, Final
from uuid import UUID

from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.classify import PUSHBACKS, REDIRECT, asked_away_s, classify
from interlock.crawler.domain.delay import CRAWL_DELAY_S_MAX, headerless_block_s
from interlock.crawler.domain.frontier import Discovery, HostKey, HostLease, LeasedUrl, PageAck
from interlock.crawler.domain.states import UrlState
from interlock.crawler.domain.trace import Decision
from interlock.crawler.domain.types import (
    CanonicalUrl,
    Fault,
    Fetched,
    Fetcher,
    FetchRequest,
    HostGuard,
    RobotsRules,
    RobotsVerdict,
)
from interlock.crawler.domain.urls import canonicalise, is_ip_literal
from interlock.crawler.store import hosts as host_rows
from interlock.crawler.store.crawls import ActiveCrawl, CrawlBook
from interlock.crawler.worker.hostrun import HostRun
from interlock.crawler.worker.pages import GUESS_PRIORITY, KnownUrls, PageReader, Visit
from interlock.crawler.worker.robots import HOPS_MAX, RobotsAnswer, RobotsShelf, answer_of, read, robots_request
from interlock.foundation.clock import Clock
from interlock.foundation.store import Store

_ADDRESSES_MAX: Final = 65_536
_KILL_HOLD_S: Final = 1.0
_TRIES_MAX: Final = 3
# A request takes no longer, so that nobody else asks a host while its robots.txt is asked for from elsewhere.
_ELSEWHERE_S: Final = 65.0
# What is read within a few milliseconds; a thread reads more, or every host would wait for one page's 50,000 links.
_INLINE_BYTES_MAX: Final = 128 * 1024


@dataclass(frozen=True, slots=True)
class Turn:
    """The next request of a host, None where it has none; `settled` needed none. `hold_s` keeps a killed host away."""

    settled: tuple[PageAck, ...] = ()
    url: LeasedUrl | None = None
    request: FetchRequest | None = None
    robots_line: int | None = None
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RobotsTold:
    """What a robots.txt came to; no rules where it cannot be had now, or where it was not asked for (`is_busy`)."""

    rules: RobotsRules | None
    is_busy: bool = False


@dataclass(slots=True)
class Turns:
    """The rules of one worker's crawls. `is_killed` asks the switches, `blocked` holds what operators blocked.

    `parsed` hears how many seconds of processor a page took.
    """

    store: Store
    book: CrawlBook
    shelf: RobotsShelf
    reader: PageReader
    guard: HostGuard
    fetcher: Fetcher
    clock: Clock
    config: CrawlerConfig
    is_killed: Callable[[ActiveCrawl, str], bool] = lambda _crawl, _host: False
    parsed: Callable[[float], None] = lambda _cpu_s: None
    blocked: frozenset[int] = frozenset()
    _addresses: OrderedDict[int, str] = field(default_factory=OrderedDict)

    async def prepare(self, leases: list[HostLease]) -> None:
        """Bring what the hosts' turns need from the store."""
        await self.shelf.prepare(leases)

    def rules_of(self, lease: HostLease) -> RobotsRules | None:
        """Return the robots rules that hold now, None where they have to be fetched."""
        return self.shelf.rules_of(lease)

    def address_of(self, lease: HostLease) -> str | None:
        """Return the address that a host was last dialled at."""
        return lease.key.host if is_ip_literal(lease.key.host) else self._addresses.get(lease.key.host_hash)

    def saw_address(self, run: HostRun, ip: str | None) -> None:
        """Remember the address of a host."""
        if ip is not None:
            self._addresses[run.host_hash] = ip
            if len(self._addresses) > _ADDRESSES_MAX:
                self._addresses.popitem(last=False)

    def next(self, run: HostRun) -> Turn:
        """Return what the host does now."""
        settled: list[PageAck] = []
        while run.urls and not run.is_stopped:
            url = run.urls[0]
            crawl = self.book.active.get(url.crawl.crawl_id)
            if run.host_hash in self.blocked or crawl is None:
                settled.append(self.unvisited(run, run.urls.popleft()))
                continue
            if self.is_killed(crawl, run.lease.key.host):
                return Turn(tuple(settled), hold_s=_KILL_HOLD_S)
            canonical = canonicalise(url.url)
            refused = self._refused(run, crawl, url, canonical)
            if refused is not None:
                run.urls.popleft()
                settled.append(self._with_sitemaps(run, crawl, refused))
                continue
            if run.robots is None:
                target = run.robots_url or f"{run.lease.key.authority}/robots.txt"
                return Turn(tuple(settled), None, robots_request(target))
            run.urls.popleft()
            assert isinstance(canonical, CanonicalUrl)
            line = run.robots.verdict(canonical.target).line
            return Turn(tuple(settled), url, self._request(url), line or None)
        return Turn(tuple(settled))

    def unvisited(self, run: HostRun, url: LeasedUrl) -> PageAck:
        """Return the URL to the queue as it came."""
        return PageAck(
            url, run.host_hash, run.lease.fence, UrlState.QUEUED, attempt=url.attempt, misses=url.misses,
            at_us=self.clock.now_us(),
        )  # fmt: skip

    def broken(self, run: HostRun, url: LeasedUrl) -> PageAck:
        """Return the outcome of a visit that our own code could not finish: tried again, then a dead letter."""
        attempt = url.attempt + 1
        state = UrlState.DEAD if attempt >= _TRIES_MAX else UrlState.QUEUED
        told = Decision("response", str(state), "loop_error", {"attempt": attempt})
        return replace(
            self.unvisited(run, url), state=state, reason="loop_error", attempt=attempt, retry_in_s=60.0,
            decisions=(told,),
        )  # fmt: skip

    def ended(self, run: HostRun, url: LeasedUrl, state: UrlState, reason: str) -> PageAck:
        """Return the end of a URL whose host will not be visited."""
        step = "egress" if reason == "egress_blocked" else "robots" if "robots" in reason else "host_wait"
        return replace(
            self.unvisited(run, url), state=state, reason=reason, decisions=(Decision(step, str(state), reason),)
        )

    async def end_host(self, run: HostRun, state: UrlState, reason: str) -> None:
        """End what else waits for a host, in every crawl."""
        await host_rows.end_host(self.store, run.host_hash, state, reason)

    async def outcome(self, run: HostRun, url: LeasedUrl, fetched: Fetched, robots_line: int | None) -> PageAck:
        """Return what a visit came to."""
        crawl = self.book.known.get(url.crawl.crawl_id)
        if crawl is None:
            return self.unvisited(run, url)
        visit = Visit(url, crawl, run.host_hash, run.lease.fence, fetched, self.clock.now_us(), robots_line)
        # A sitemap may be packed once more: its octets do not tell how long it takes to read.
        if url.kind == "page" and len(fetched.body) <= _INLINE_BYTES_MAX:
            return self._with_sitemaps(run, crawl, self._read(self.reader, visit))
        # Without the front of known URLs: a reader that is cancelled must not have taken its links for handed in.
        apart = replace(self.reader, known=KnownUrls(0))
        return self._with_sitemaps(run, crawl, await asyncio.to_thread(self._read, apart, visit))

    def _read(self, reader: PageReader, visit: Visit) -> PageAck:
        """Return what a reader says, and count the processor time of the thread that it took."""
        began_s = thread_time()
        ack = reader.outcome(visit)
        self.parsed(thread_time() - began_s)
        return ack

    async def robots_answer(self, run: HostRun, fetched: Fetched, kind: str) -> RobotsTold | str | None:
        """Return what a robots.txt came to, the reason for the end of the host, or None where one more hop follows."""
        here = run.robots_url or f"{run.lease.key.authority}/robots.txt"
        while kind == REDIRECT and run.robots_hops < HOPS_MAX:
            target = canonicalise(fetched.header("location") or "", here)
            run.robots_hops += 1
            if not isinstance(target, CanonicalUrl):
                break
            if target.authority == run.lease.key.authority:
                run.robots_url = target.url
                return None
            other = host_rows.host_key(target)
            if not await host_rows.take_host(self.store, other, _ELSEWHERE_S):
                # That its turn is another's is no failure of a host; that an operator blocked it is for good.
                is_blocked = bool(await host_rows.blocked_hosts(self.store, [other.host_hash]))
                return RobotsTold(None, is_busy=not is_blocked)
            here = target.url
            fetched = await self.fetcher.fetch(robots_request(here))
            await self._leave_host(other, fetched)
            kind = REDIRECT if fetched.status in {301, 302, 303, 307, 308} else ""
        if fetched.fault is Fault.EGRESS_BLOCKED:
            return "egress_blocked"
        answer = RobotsAnswer("allow", None, 3_600.0) if kind == REDIRECT else answer_of(fetched)
        at_us = self.clock.now_us()
        await self.shelf.save(run.lease, fetched, answer, at_us)
        run.robots_url, run.robots_hops = None, 0
        if answer.status_class == "unreachable":
            return RobotsTold(None)
        # One that allows is an empty file.
        rules = await read(answer.body or b"")
        self.shelf.keep(run.host_hash, at_us, rules)
        return RobotsTold(rules)

    async def _leave_host(self, other: HostKey, fetched: Fetched) -> None:
        """Give back a host that was asked once; what it asks for holds for all that would go there."""
        asked_s = asked_away_s(fetched, self.clock.now_us())
        kind = classify(fetched)
        if asked_s is None and kind in PUSHBACKS:
            asked_s = headerless_block_s(0, 1.0)
        reason = kind if kind in PUSHBACKS else "retry_after"
        await host_rows.leave_host(self.store, other.host_hash, asked_s or 0.0, reason)

    def _refused(
        self, run: HostRun, crawl: ActiveCrawl, url: LeasedUrl, canonical: CanonicalUrl | Any
    ) -> PageAck | None:
        if not isinstance(canonical, CanonicalUrl):
            return self._refusal(run, url, "canonical", "invalid_url", {})
        egress = self.guard.judge(canonical.host, canonical.port)
        if egress is not None:
            detail = {"reason": egress.reason, "address": egress.address or canonical.host}
            return self._refusal(run, url, "egress", "egress_blocked", detail)
        verdict = crawl.rules.verdict(canonical, url.depth, is_posted=url.depth == 0)
        if not verdict.allowed and url.kind == "page":
            return self._refusal(run, url, "scope", "offscope", {"rule": verdict.rule}, withdraw="offscope")
        return None if run.robots is None else self._disallowed(run, run.robots, url, canonical)

    def _disallowed(self, run: HostRun, rules: RobotsRules, url: LeasedUrl, canonical: CanonicalUrl) -> PageAck | None:
        delay_s = rules.crawl_delay_s
        if delay_s is not None and delay_s > CRAWL_DELAY_S_MAX:
            return self._refusal(run, url, "robots", "crawl_delay_too_long", {"crawl_delay_s": delay_s})
        robots = rules.verdict(canonical.target)
        if robots.allowed:
            return None
        return self._refusal(run, url, "robots", "robots_denied", robots_detail(robots), withdraw="robots")

    def _refusal(
        self, run: HostRun, url: LeasedUrl, step: str, rule: str, detail: Mapping[str, Any], withdraw: str | None = None
    ) -> PageAck:
        return replace(
            self.unvisited(run, url),
            state=UrlState.REFUSED,
            reason=rule,
            decisions=(Decision(step, "refused", rule, detail),),
            withdraw=withdraw,
        )

    def _request(self, url: LeasedUrl) -> FetchRequest:
        is_known = url.visits > 0 and url.has_document
        return FetchRequest(
            url.url,
            wire_bytes_max=self.config.wire_bytes_max,
            body_bytes_max=self.config.body_bytes_max,
            etag=url.etag if is_known else None,
            last_modified=url.last_modified if is_known else None,
        )

    def _with_sitemaps(self, run: HostRun, crawl: ActiveCrawl, ack: PageAck) -> PageAck:
        """Add the sitemaps of the host to the first outcome of a crawl there."""
        crawl_id: UUID = crawl.ref.crawl_id
        sources, mode = crawl.spec.sources, crawl.spec.scope.mode
        if not ack.url.needs_sitemaps or run.robots is None or crawl_id in run.asked_sitemaps:
            return ack
        run.asked_sitemaps.add(crawl_id)
        if not sources.sitemaps or mode == "list":
            return replace(ack, has_asked_sitemaps=True)
        authority = run.lease.key.authority
        named = [canonicalise(each) for each in run.robots.sitemaps]
        own = [each for each in named if isinstance(each, CanonicalUrl) and each.authority == authority]
        parent = replace(ack.url, depth=0)
        found: list[Discovery] = self.reader.discover(crawl, ((each, "sitemap", parent) for each in own))
        guess = canonicalise(f"{authority}/sitemap.xml")
        assert isinstance(guess, CanonicalUrl)
        guessed = self.reader.discover(crawl, [(guess, "sitemap", parent)])
        found += [replace(each, priority=GUESS_PRIORITY) for each in guessed]
        return replace(ack, discoveries=(*ack.discoveries, *found), has_asked_sitemaps=True)


def robots_detail(verdict: RobotsVerdict) -> dict[str, Any]:
    """Return the deciding line of a robots.txt as a decision tells it."""
    return {"line": verdict.line, "text": verdict.text, "group": verdict.group}
