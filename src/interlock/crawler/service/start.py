"""Start of a crawl, and URLs that are added to one: checked, canonical, written with their queues in one transaction.

Makes no host: hosts belong to no tenant, and the loop adopts the queues.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.crawler.config import CrawlerConfig
from interlock.crawler.domain.frontier import CrawlRef
from interlock.crawler.domain.manners import bounded
from interlock.crawler.domain.scope import ScopeRules
from interlock.crawler.domain.spec import DELAY_S_FLOOR, CrawlSpec, problem_of
from interlock.crawler.domain.traps import template_of, trapped
from interlock.crawler.domain.types import CanonicalUrl, HostGuard, UrlRefused
from interlock.crawler.domain.urls import canonicalise, host_hash, url_key
from interlock.crawler.store import SQL
from interlock.crawler.store.acks import as_json, count_row
from interlock.crawler.store.crawls import asked_of, rules_of
from interlock.crawler.store.events import append_events
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, MalformedIdError, format_id, parse_id
from interlock.foundation.scope import AllWorkspaces, Role, Scope
from interlock.foundation.store import Transaction
from interlock.foundation.telemetry import EventLog

CHANNEL: Final = "crawl_due"
_encode: Final = msgspec.json.Encoder().encode
_CHIEFS: Final = frozenset({Role.OWNER, Role.ADMIN})


@dataclass(frozen=True, slots=True)
class Added:
    """What came of posted URLs."""

    added: int
    known: int
    refused: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CrawlTools:
    """What every use case of crawls needs. `seed` keys URLs of this installation."""

    audit: AuditLog
    events: EventLog
    ids: IdFactory
    clock: Clock
    guard: HostGuard
    config: CrawlerConfig
    seed: int

    def politeness(self, spec: CrawlSpec, url: CanonicalUrl) -> tuple[int, int]:
        """Return the floor in milliseconds and the concurrency that a crawl may ask of a host."""
        asked = asked_of(spec)
        return bounded(self.guard, url.host, url.port, asked.floor_ms, asked.concurrency)


class StartCrawl:
    """Starts crawls and adds URLs to them."""

    def __init__(self, tools: CrawlTools) -> None:
        self._tools = tools

    async def start(self, tx: Transaction, spec: CrawlSpec) -> CrawlRef:
        """Create a crawl with its seeds. Raises the 400s and 422s of the design page, `crawl_limit`."""
        seeds = self.checked(spec)
        scope = tx.scope
        workspace_id = workspace_of(scope)
        require_audience(scope, spec)
        tools = self._tools
        live = await tx.fetchval(SQL.live_crawls, scope.organization_id, workspace_id)
        if live >= tools.config.crawls_per_workspace_max:
            raise InterlockError("crawl_limit", detail={"limit": tools.config.crawls_per_workspace_max})
        crawl = CrawlRef(scope.organization_id, workspace_id, tools.ids.new())
        kept = msgspec.structs.replace(spec, seeds=[each.url for each in seeds], name=spec.name or seeds[0].host)
        await tx.execute(
            SQL.add_crawl, *crawl, kept.name, _encode(kept).decode(), kept.weight, scope.principal.id, scope.request_id
        )
        await self._add(tx, crawl, kept, seeds, 0)
        entry = AuditEntry(
            "crawl.create", "crawl", format_id("crawl", crawl.crawl_id), detail={"seeds": kept.seeds[:20]}
        )
        await tools.audit.append(tx, entry)
        event = {"event": "crawl.state", "state": "running", "reason": None}
        await append_events(tx, tools.events, crawl, [event])
        await tx.notify(CHANNEL, format_id("crawl", crawl.crawl_id))
        return crawl

    def checked(self, spec: CrawlSpec) -> list[CanonicalUrl]:
        """Return the canonical seeds of a spec that can be crawled. Raises what is wrong with it."""
        problem = problem_of(spec)
        if problem is not None:
            raise InterlockError(
                "invalid_spec", f"`{problem.field}` {problem.reason}.", detail={"field": problem.field}
            )
        seeds: dict[str, CanonicalUrl] = {}
        for raw in spec.seeds:
            found = canonicalise(raw)
            if isinstance(found, UrlRefused):
                raise InterlockError("invalid_url", detail={"url": raw[:300], "rule": found.rule})
            seeds[found.url] = found
        for each in seeds.values():
            self._require_manners(spec, each)
        return list(seeds.values())

    async def add(self, tx: Transaction, row: Any, urls: Sequence[str], priority: int) -> Added:
        """Add URLs to a crawl that is under way."""
        tools = self._tools
        if len(urls) > tools.config.urls_per_call_max:
            raise InterlockError("too_many_urls", detail={"limit": tools.config.urls_per_call_max})
        spec = msgspec.json.decode(row["spec"], type=CrawlSpec)
        crawl = CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"])
        rules = rules_of(spec, row["authorities"])
        refused: list[tuple[str, str]] = []
        good: dict[str, CanonicalUrl] = {}
        for raw in urls:
            found = canonicalise(raw)
            code = _refusal(found, rules, tools)
            if code is not None:
                refused.append((raw[:2_048], code))
            elif isinstance(found, CanonicalUrl):
                good[found.url] = found
        room = spec.budgets.pages - (row["discovered"] - row["refused"])
        kept = list(good.values())[: max(0, room)]
        refused += [(each.url, "budget_pages") for each in list(good.values())[max(0, room) :]]
        added = await self._add(tx, crawl, spec, kept, priority) if kept else 0
        await tx.notify(CHANNEL, format_id("crawl", crawl.crawl_id))
        return Added(added, len(kept) - added, tuple(refused))

    async def _add(
        self, tx: Transaction, crawl: CrawlRef, spec: CrawlSpec, urls: Sequence[CanonicalUrl], priority: int
    ) -> int:
        by_key = {(host_hash(each.authority), url_key(each.url, self._tools.seed)): each for each in urls}
        rows = [
            {**crawl._asdict(), "host_hash": host, "url_key": key, "url": each.url, "kind": "page",
             "refused": None, "priority": priority, "depth": 0, "hops": 0, "parent_key": None,
             "template": template_of(each)}
            for (host, key), each in by_key.items()
        ]  # fmt: skip
        added = await tx.fetch(SQL.add_urls, as_json(rows))
        hosts: defaultdict[int, Counter[str]] = defaultdict(Counter)
        names: dict[int, CanonicalUrl] = {}
        for row in added:
            hosts[row["host_hash"]]["pending"] += 1
            names[row["host_hash"]] = by_key[row["host_hash"], row["url_key"]]
        if not hosts:
            return 0
        queues = []
        for host, delta in hosts.items():
            floor_ms, concurrency = self._tools.politeness(spec, names[host])
            queues.append({
                **crawl._asdict(), "host_hash": host, "authority": names[host].authority,
                "pending": delta["pending"], "admitted": delta["pending"], "done": 0, "dead": 0,
                "weight": spec.weight, "floor_ms": floor_ms, "concurrency": concurrency, "is_adopted": False,
                "has_sitemaps": False,
            })  # fmt: skip
        await tx.fetch(SQL.change_queues, as_json(queues))
        await tx.execute(SQL.change_counts, as_json([count_row(crawl, {"discovered": len(added)})]))
        return len(added)

    def _require_manners(self, spec: CrawlSpec, seed: CanonicalUrl) -> None:
        tools = self._tools
        if tools.guard.is_allow_listed(seed.host, seed.port):
            return
        asked = spec.politeness
        if asked.delay_s < DELAY_S_FLOOR or asked.concurrency > 1:
            raise InterlockError(
                "politeness_below_floor",
                detail={"host": seed.host, "floor_s": DELAY_S_FLOOR, "concurrency_max": 1},
            )
        if not tools.config.contact:
            raise InterlockError("contact_missing", detail={"host": seed.host})


def workspace_of(scope: Scope) -> UUID:
    """Return the workspace that a new crawl belongs to: the scope's, else the one of the caller's key."""
    if not isinstance(scope.workspace_id, AllWorkspaces):
        return scope.workspace_id
    if scope.principal.workspace_id is not None:
        return scope.principal.workspace_id
    raise InterlockError("invalid_request", "Name a workspace.", detail={"field": "workspace_id"})


def require_audience(scope: Scope, spec: CrawlSpec) -> None:
    """Let a caller give documents only to groups of its own, or to any as an owner or admin."""
    if spec.audience.kind != "groups":
        return
    principal = scope.principal
    is_chief = any(each.role in _CHIEFS for each in principal.memberships)
    for text in spec.audience.groups:
        try:
            group_id = parse_id("grp", text)
        except MalformedIdError:
            raise InterlockError("invalid_spec", detail={"field": "audience.groups"}) from None
        if not is_chief and group_id not in principal.groups:
            raise InterlockError("scope_denied", detail={"field": "audience.groups", "group": text})


def _refusal(found: CanonicalUrl | UrlRefused, rules: ScopeRules, tools: CrawlTools) -> str | None:
    if isinstance(found, UrlRefused):
        return "invalid_url"
    if not rules.verdict(found, 0, is_posted=True).allowed:
        return "offscope"
    if tools.guard.judge(found.host, found.port) is not None:
        return "egress_blocked"
    trap = trapped(found, tools.clock.now_us())
    return None if trap is None else trap.rule
