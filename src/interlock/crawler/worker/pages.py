"""From a fetched page to its outcome: resting state or another try, signals, links, and the body put aside.

Decides for one URL; what an answer means for the host is `loop.py`'s.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from interlock.crawler.adapters.spool import Spool
from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.classify import PUSHBACKS, classify
from interlock.crawler.domain.frontier import Discovery, LeasedUrl, PageAck, Spooled
from interlock.crawler.domain.retry import PUSHBACK_DAYS_MAX, REFUSALS, Again, Dead, decide
from interlock.crawler.domain.sitemap import parse_sitemap
from interlock.crawler.domain.spec import CrawlSpec
from interlock.crawler.domain.states import UrlState
from interlock.crawler.domain.trace import Decision
from interlock.crawler.domain.traps import template_of, trapped
from interlock.crawler.domain.types import CanonicalUrl, Fetched, PageScanner, Scanned, Sitemap, UrlRefused
from interlock.crawler.domain.urls import canonicalise, url_key
from interlock.crawler.store.crawls import ActiveCrawl
from interlock.crawler.store.hosts import host_key
from interlock.foundation.audit.event import storable
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.ids import IdFactory

HOPS_MAX: Final = 5
SITEMAP_DEPTH_MAX: Final = 3
SITEMAP_PRIORITY: Final = 50
# Of a sitemap that nobody named; it is asked for once, since a crawl should not wait for what may not exist.
GUESS_PRIORITY: Final = 49
_KEPT_HEADERS: Final = frozenset({"content-type", "last-modified", "content-language", "x-robots-tag", "link"})
_DAY_US: Final = 86_400_000_000


class KnownUrls:
    """URLs that this worker has handed in already, so that a link that stands on every page costs one look-up.

    Two generations: when the young one is full it becomes the old one, and the old one is forgotten. A URL is known by
    the hash that this process gives it, turned by that of its crawl and of what the crawl's scope is now.
    """

    def __init__(self, size_max: int) -> None:
        self._half = size_max // 2
        self._young: set[int] = set()
        self._old: set[int] = set()

    def fresh(self, crawl: ActiveCrawl, urls: Iterable[str]) -> Iterator[str]:
        """Yield the URLs that were not seen here, and remember them."""
        turn = hash((crawl.ref.crawl_id, crawl.config_version, crawl.authorities))
        for url in urls:
            key = hash(url) ^ turn
            if key in self._young or key in self._old:
                continue
            if self._half:
                self._young.add(key)
                if len(self._young) >= self._half:
                    self._old, self._young = self._young, set()
            yield url

    def forget(self) -> None:
        """Take nothing for known any more: what was handed in may not have been written."""
        self._young, self._old = set(), set()


@dataclass(frozen=True, slots=True)
class Visit:
    """A URL, its crawl, the host's lease and what came. `robots_line` is the line that allowed it."""

    url: LeasedUrl
    crawl: ActiveCrawl
    host_hash: int
    fence: int
    fetched: Fetched
    at_us: int
    robots_line: int | None = None


@dataclass(slots=True)
class PageReader:
    """Judges visits. `seed` keys URLs of this installation."""

    scanner: PageScanner
    spool: Spool
    clock: Clock
    dice: Dice
    ids: IdFactory
    config: CrawlerConfig
    seed: int
    known: KnownUrls = field(default_factory=lambda: KnownUrls(0))

    def outcome(self, visit: Visit) -> PageAck:
        """Return what becomes of the URL, with everything that it led to."""
        kind = classify(visit.fetched)
        match kind:
            case "ok":
                return self._sitemap(visit) if visit.url.kind == "sitemap" else self._page(visit)
            case "not_modified":
                return self._ack(visit, UrlState.DONE, None, kind)
            case "redirect":
                return self._redirect(visit, visit.fetched.header("location") or "", is_refresh=False)
            case "http_404" | "http_410":
                return self._missing(visit, kind)
        return self._unusable(visit, kind)

    def _unusable(self, visit: Visit, kind: str) -> PageAck:
        if kind in PUSHBACKS:
            return self._pushed_back(visit, kind)
        if kind in REFUSALS:
            return self._refused(visit, kind, dict(visit.fetched.detail))
        return self._failed(visit, kind)

    def discover(self, crawl: ActiveCrawl, found: Iterable[tuple[CanonicalUrl, str, LeasedUrl]]) -> list[Discovery]:
        """Return new URLs as `(url, kind, parent)` brings them; what is of another site is not even written down."""
        brought = {url.url: (url, kind, parent) for url, kind, parent in found}
        judged = (self.judged(crawl, *brought[url]) for url in self.known.fresh(crawl, brought))
        return [each for each in judged if each is not None]

    def judged(
        self, crawl: ActiveCrawl, url: CanonicalUrl, kind: str, parent: LeasedUrl, *, is_redirect: bool = False
    ) -> Discovery | None:
        """Return one discovery with what refuses it, None for a URL outside of the crawl's sites."""
        depth = parent.depth if is_redirect else parent.depth + 1
        verdict = crawl.rules.verdict(url, depth)
        if verdict.rule.startswith("mode:"):
            return None
        trap = trapped(url, self.clock.now_us()) if kind == "page" else None
        refused = None if verdict.allowed or kind == "sitemap" else f"offscope_{verdict.rule.partition(':')[0]}"
        return Discovery(
            crawl=crawl.ref,
            host=host_key(url),
            url_key=url_key(url.url, self.seed),
            url=url.url,
            kind=kind,
            priority=parent.priority if is_redirect else SITEMAP_PRIORITY if kind == "sitemap" else 0,
            depth=depth,
            hops=parent.hops + 1 if is_redirect else 0,
            parent_key=parent.url_key,
            refused=refused or (None if trap is None else trap.rule),
            template=template_of(url) if kind == "page" else None,
        )

    def _page(self, visit: Visit) -> PageAck:
        fetched, crawl = visit.fetched, visit.crawl
        digest = hashlib.sha256(fetched.body).hexdigest()
        scanned = self.scanner.scan(visit.url.url, fetched.headers, fetched.body)
        if not isinstance(scanned, Scanned):
            return self._refused(visit, "unsupported_type", {"media_type": storable(scanned.media_type)[:100]})
        if scanned.refresh is not None and scanned.refresh != visit.url.url:
            moved = self._redirect(visit, scanned.refresh, is_refresh=True)
            # A page that leads on may still ask to be forgotten.
            return replace(moved, withdraw="signal") if "noindex" in scanned.signals else moved
        signals = {name: {"value": each.value, "origin": each.origin} for name, each in scanned.signals.items()}
        found = () if "nofollow" in signals or not crawl.spec.sources.links else tuple(self._links(visit, scanned))
        if "noindex" in signals:
            detail = {"signals": signals}
            return self._refused(visit, "signal_noindex", detail, signals=signals, found=found, step="signals")
        spooled = self._put_aside(crawl.spec, fetched)
        return self._ack(
            visit, UrlState.DONE, None, "fetched", digest=digest, signals=signals, found=found, spooled=spooled
        )

    def _links(self, visit: Visit, scanned: Scanned) -> list[Discovery]:
        """Return what a page links to that is new; a link that is known as it stands is not even read."""
        crawl, found = visit.crawl, []
        for link in self.known.fresh(crawl, (each.url for each in scanned.links if not each.is_nofollow)):
            url = canonicalise(link)
            if not isinstance(url, CanonicalUrl) or (url.url != link and not any(self.known.fresh(crawl, (url.url,)))):
                continue
            each = self.judged(crawl, url, "page", visit.url)
            if each is not None:
                found.append(each)
        return found

    def _sitemap(self, visit: Visit) -> PageAck:
        parsed = parse_sitemap(visit.fetched.body)
        if not isinstance(parsed, Sitemap):
            return self._refused(visit, "sitemap_invalid", {"limit": parsed.rule})
        own = canonicalise(visit.url.url)
        pages = [canonicalise(entry.loc) for entry in parsed.entries]
        children = [] if visit.url.depth >= SITEMAP_DEPTH_MAX else [canonicalise(each) for each in parsed.children]
        found = [(each, "page", visit.url) for each in pages] + [(each, "sitemap", visit.url) for each in children]
        # A sitemap speaks for its own host only.
        same = [
            (url, kind, parent)
            for url, kind, parent in found
            if isinstance(url, CanonicalUrl) and isinstance(own, CanonicalUrl) and url.authority == own.authority
        ]
        return self._ack(visit, UrlState.DONE, None, "sitemap", found=tuple(self.discover(visit.crawl, same)))

    def _redirect(self, visit: Visit, location: str, *, is_refresh: bool) -> PageAck:
        target = canonicalise(storable(location), visit.url.url)
        if isinstance(target, UrlRefused):
            return self._refused(visit, "redirect_invalid", {"location": storable(location)[:300], "why": target.rule})
        if visit.url.hops >= HOPS_MAX or target.url == visit.url.url:
            return self._refused(visit, "redirect_loop", {"hops": visit.url.hops, "location": target.url})
        is_first = visit.url.depth == 0 and visit.crawl.spec.scope.mode == "host" and not visit.crawl.authorities
        found = self.judged(visit.crawl, target, visit.url.kind, visit.url, is_redirect=True)
        adds = None
        if found is None and is_first:
            # The site of a seed may live under another name; the redirect of one seed may say so once.
            adds = target.authority
            found = Discovery(
                visit.crawl.ref, host_key(target), url_key(target.url, self.seed), target.url, visit.url.kind,
                visit.url.priority, 0, visit.url.hops + 1, visit.url.url_key, None, template_of(target),
            )  # fmt: skip
        if found is None:
            return self._refused(visit, "offscope", {"location": target.url}, step="scope")
        is_moved = visit.fetched.status in {301, 308} and not is_refresh
        return self._ack(
            visit, UrlState.DONE, "redirect", "redirect", found=(found,), adds=adds,
            withdraw="moved" if is_moved else None,
            detail={"location": target.url},
        )  # fmt: skip

    def _missing(self, visit: Visit, kind: str) -> PageAck:
        misses = visit.url.misses + 1
        if kind == "http_404" and visit.url.has_document and misses < visit.crawl.spec.recrawl.gone_after:
            return self._ack(visit, UrlState.DONE, kind, kind, misses=misses)
        return self._ack(visit, UrlState.GONE, kind, kind, misses=misses, withdraw="gone")

    def _pushed_back(self, visit: Visit, kind: str) -> PageAck:
        if visit.at_us - visit.url.first_seen_us > PUSHBACK_DAYS_MAX * _DAY_US:
            return self._ack(visit, UrlState.DEAD, kind, kind)
        return self._ack(visit, UrlState.QUEUED, kind, kind, attempt=visit.url.attempt)

    def _failed(self, visit: Visit, kind: str) -> PageAck:
        attempt = visit.url.attempt + 1
        is_guess = visit.url.kind == "sitemap" and visit.url.priority == GUESS_PRIORITY
        again = Dead() if is_guess else decide(kind, attempt, self.dice.random())
        detail = {**visit.fetched.detail, "attempt": attempt}
        if isinstance(again, Again):
            detail["retry_in_s"] = round(again.after_s)
            return self._ack(
                visit, UrlState.QUEUED, kind, kind, attempt=attempt, retry_in_s=again.after_s, detail=detail
            )
        return self._ack(visit, UrlState.DEAD, kind, kind, attempt=attempt, detail=detail)

    def _refused(
        self, visit: Visit, rule: str, detail: dict[str, Any], *, step: str = "response",
        signals: dict[str, Any] | None = None, found: tuple[Discovery, ...] = (),
    ) -> PageAck:  # fmt: skip
        withdraw = "signal" if rule.startswith("signal_") else "gone" if rule == "unsupported_type" else None
        return self._ack(
            visit, UrlState.REFUSED, rule, rule, detail=detail, step=step, signals=signals, found=found,
            withdraw=withdraw,
        )  # fmt: skip

    def _ack(  # noqa: PLR0913 - every part of one outcome, by name
        self, visit: Visit, state: UrlState, reason: str | None, rule: str, *, detail: dict[str, Any] | None = None,
        step: str = "response", attempt: int = 0, misses: int = 0, retry_in_s: float = 0.0, digest: str | None = None,
        signals: dict[str, Any] | None = None, found: tuple[Discovery, ...] = (), spooled: Spooled | None = None,
        withdraw: str | None = None, adds: str | None = None,
    ) -> PageAck:  # fmt: skip
        fetched = visit.fetched
        told = {"status": fetched.status, "bytes": len(fetched.body), "total_ms": round(fetched.timings.total_ms, 1)}
        if found:
            told["links_new"] = len(found)
        verdict = {UrlState.DONE: "fetched", UrlState.QUEUED: "retry"}.get(state, str(state))
        return PageAck(
            url=visit.url,
            host_hash=visit.host_hash,
            fence=visit.fence,
            state=state,
            reason=reason,
            retry_in_s=retry_in_s,
            attempt=attempt,
            misses=misses,
            is_visit=True,
            at_us=visit.at_us,
            etag=_clean(fetched.header("etag")) if state is UrlState.DONE else None,
            last_modified=_clean(fetched.header("last-modified")) if state is UrlState.DONE else None,
            body_digest=digest,
            signals=signals,
            fetched=fetched,
            robots_line=visit.robots_line,
            decisions=(Decision(step, verdict, rule, {**told, **(detail or {})}),),
            discoveries=found,
            spooled=spooled,
            withdraw=withdraw,
            adds_authority=adds,
        )

    def _put_aside(self, spec: CrawlSpec, fetched: Fetched) -> Spooled | None:
        if spec.extract == "none" or not fetched.body:
            return None
        outbox_id = self.ids.new()
        headers = tuple((name, storable(value)[:1_000]) for name, value in fetched.headers if name in _KEPT_HEADERS)
        return Spooled(outbox_id, self.spool.write(outbox_id, fetched.body), headers, len(fetched.body))


def _clean(value: str | None) -> str | None:
    return None if value is None else storable(value)[:500]
