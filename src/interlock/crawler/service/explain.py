"""Why a URL is, or is not, in the index: the deciding rule in a sentence, the ladder of decisions, what blocks it.

For a URL that was never seen the rules are run now; nothing is stored and nothing is dialled.
"""

import math
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.crawler.domain.robots import parse_robots
from interlock.crawler.domain.scope import ScopeRules
from interlock.crawler.domain.spec import CrawlSpec
from interlock.crawler.domain.traps import trapped
from interlock.crawler.domain.types import CanonicalUrl, RobotsVerdict
from interlock.crawler.domain.urls import canonicalise, host_hash, url_key
from interlock.crawler.service.hosts import HostStates, HostView
from interlock.crawler.service.sentences import sentence_of
from interlock.crawler.service.start import CrawlTools
from interlock.crawler.store import SQL
from interlock.crawler.store.crawls import rules_of
from interlock.foundation.clock import rfc3339
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store

AGENT: Final = "InterlockBot"
_VERDICTS: Final = {
    "queued": "waiting", "leased": "waiting", "done": "fetched", "duplicate": "duplicate", "refused": "refused",
    "dead": "dead", "gone": "gone",
}  # fmt: skip
_ACTIVE: Final = frozenset({"running", "throttled"})


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say of a URL now, without asking its host."""

    verdict: str
    rule: str
    detail: dict[str, Any]


class Explain:
    """Explains URLs of crawls, and tries a spec's rules on URLs."""

    def __init__(self, store: Store, tools: CrawlTools, hosts: HostStates) -> None:
        self._store = store
        self._tools = tools
        self._hosts = hosts

    async def of(self, scope: Scope, crawl: Any, raw: str) -> dict[str, Any]:
        """Return the explanation of a URL of a crawl, given the crawl's row."""
        canonical = canonicalise(raw)
        if not isinstance(canonical, CanonicalUrl):
            raise InterlockError("invalid_url", detail={"url": raw[:300], "rule": canonical.rule})
        host = host_hash(canonical.authority)
        key = url_key(canonical.url, self._tools.seed)
        async with self._store.transaction(scope) as tx:
            row = await tx.fetchrow(SQL.find_url, scope.organization_id, crawl["crawl_id"], host, key)
            decisions = await tx.fetch(SQL.decisions_of, scope.organization_id, crawl["crawl_id"], key)
            attempts = await tx.fetch(SQL.fetches_of, scope.organization_id, crawl["crawl_id"], key)
            outbox = await tx.fetchrow(SQL.outbox_of, scope.organization_id, crawl["crawl_id"], key)
            first = await self._url(tx, scope, crawl, None if row is None else row["duplicate_of"])
            parent = await self._url(tx, scope, crawl, None if row is None else row["parent_key"])
            ahead = 0
            if row is not None and row["state"] in {"queued", "leased"}:
                ahead = await tx.fetchval(
                    SQL.ahead_of, scope.organization_id, crawl["crawl_id"], host, row["priority"], row["not_before"]
                )
        shared = (await self._hosts.of([host])).get(host)
        spec = msgspec.json.decode(crawl["spec"], type=CrawlSpec)
        ruling = self.ruling(spec, rules_of(spec, crawl["authorities"]), canonical, 0 if row is None else row["depth"])
        robots = robots_verdict(shared, canonical)
        told: dict[str, Any] = {
            "url": raw[:2_048],
            "canonical": canonical.url,
            "seen": row is not None,
            "state": None if row is None else row["state"],
        }
        if row is None:
            told |= self._unseen(ruling, robots)
        else:
            blocking = _blocking(crawl, row, shared, ahead)
            rule = _rule_of(row, decisions, blocking)
            told |= {"verdict": _VERDICTS[row["state"]], "rule": rule, "blocking": blocking}
        facts = {"first": first, "robots": robots, "row": row, "detail": _last_detail(decisions), "ruling": ruling}
        told["because"] = sentence_of(told["verdict"], told["rule"], facts)
        told["robots"] = _robots_view(robots, shared)
        told["decisions"] = _ladder(row, decisions, parent, outbox)
        told["attempts"] = [_attempt(each) for each in attempts]
        return told

    def ruling(self, spec: CrawlSpec, rules: ScopeRules, url: CanonicalUrl, depth: int = 0) -> Ruling:
        """Return what the rules of a crawl say of a URL now; the host is not asked."""
        egress = self._tools.guard.judge(url.host, url.port)
        if egress is not None:
            detail = {"reason": egress.reason, "address": egress.address or url.host}
            return Ruling("refused", "egress_blocked", detail)
        verdict = rules.verdict(url, depth, is_posted=spec.scope.mode != "list" and depth == 0)
        if not verdict.allowed:
            return Ruling("refused", "offscope", {"rule": verdict.rule})
        trap = trapped(url, self._tools.clock.now_us())
        if trap is not None:
            return Ruling("refused", trap.rule, {"seen": trap.seen, "limit": trap.limit})
        return Ruling("unknown", "in_scope", {"mode": spec.scope.mode})

    async def _url(self, tx: Any, scope: Scope, crawl: Any, key: UUID | None) -> str | None:
        if key is None:
            return None
        found = await tx.fetchval(SQL.url_by_key, scope.organization_id, crawl["crawl_id"], key)
        return None if found is None else str(found)

    @staticmethod
    def _unseen(ruling: Ruling, robots: RobotsVerdict | None) -> dict[str, Any]:
        if ruling.verdict == "unknown" and robots is not None and not robots.allowed:
            return {"verdict": "refused", "rule": "robots_denied", "blocking": None}
        return {"verdict": ruling.verdict, "rule": ruling.rule, "blocking": None}


def robots_verdict(host: HostView | None, url: CanonicalUrl) -> RobotsVerdict | None:
    """Return what the host's known robots.txt says of a URL; None where there is none that speaks."""
    if host is None or host.robots is None or host.robots["status"] == "unreachable":
        return None
    body = host.robots_body if host.robots["status"] == "rules" else b""
    return parse_robots(body or b"", AGENT).verdict(url.target)


def _robots_view(verdict: RobotsVerdict | None, host: HostView | None) -> dict[str, Any] | None:
    if verdict is None or host is None or host.robots is None:
        return None
    return {
        "allowed": verdict.allowed,
        "line": verdict.line,
        "text": verdict.text,
        "group": verdict.group,
        "fetched_at": _time(host.robots["fetched_at"]),
    }


def _blocking(crawl: Any, row: Any, host: HostView | None, ahead: int) -> dict[str, Any] | None:
    """Return what a waiting URL waits for: the nearest cause first, and when that is likely over."""
    if row["state"] not in {"queued", "leased"}:
        return None
    if crawl["state"] not in _ACTIVE:
        return {"rule": f"crawl_{crawl['state']}", "until": None, "ahead_in_host": ahead, "eta": None}
    pressure = msgspec.json.decode(crawl["backpressure"] or b"{}")
    if pressure.get("state") == "closed":
        rule = f"backpressure_{pressure.get('source')}"
        return {"rule": rule, "until": None, "ahead_in_host": ahead, "eta": None}
    if host is not None and host.is_blocked:
        return {"rule": "host_blocked", "until": None, "ahead_in_host": ahead, "eta": None}
    until = max((each for each in (row["not_before"], host.until if host else None) if each is not None), default=None)
    delay_s = (host.delay_ms if host else 1000) / 1000
    rule = "host_delay"
    if host is not None and host.until is not None and host.reason not in {None, "delay"}:
        rule = str(host.reason)
    elif row["reason"] is not None and row["attempt"] > 0:
        rule = f"retry_{row['reason']}"
    wait_s = math.ceil(ahead * delay_s) or 1
    base_us = round(until.timestamp() * 1_000_000) if until is not None else None
    eta = None if base_us is None else rfc3339(math.ceil((base_us + wait_s * 1_000_000) / 1_000_000) * 1_000_000)
    return {"rule": rule, "until": _time(until), "ahead_in_host": ahead, "eta": eta}


def _rule_of(row: Any, decisions: Any, blocking: dict[str, Any] | None) -> str:
    if blocking is not None:
        return str(blocking["rule"])
    if row["state"] in {"refused", "dead", "gone"} and row["reason"]:
        return "offscope" if row["reason"].startswith("offscope") else str(row["reason"])
    if row["state"] == "duplicate":
        return "duplicate_exact"
    return decisions[-1]["rule"] if decisions else str(row["reason"] or row["state"])


def _last_detail(decisions: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(decisions[-1]["detail"]) if decisions else {}
    return found


def _ladder(row: Any, decisions: Any, parent: str | None, outbox: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if row is not None:
        found = {"depth": row["depth"], "hops": row["hops"], "parent": parent, "priority": row["priority"]}
        steps.append(_step(row["first_seen"], "discovered", "queued", "link" if parent else "seed", found))
        if row["state"] == "refused" and not decisions:
            steps.append(_step(row["first_seen"], _step_of(row["reason"]), "refused", row["reason"], {}))
    for each in decisions:
        detail = msgspec.json.decode(each["detail"])
        steps.append(_step(each["at"], each["step"], each["verdict"], each["rule"], detail))
    if row is not None and row["is_delivered"]:
        steps.append(_step(row["delivered_at"], "delivered", "accepted", "index", {}))
    if outbox is not None:
        step = "extract" if outbox["stage"] == "extract" else "offered"
        steps.append(_step(outbox["due_at"], step, "waiting", outbox["kind"], {"attempts": outbox["attempts"]}))
    return [{"seq": seq, **each} for seq, each in enumerate(steps)]


def _step(at: Any, step: str, verdict: str, rule: str, detail: dict[str, Any]) -> dict[str, Any]:
    return {"at": _time(at), "step": step, "verdict": verdict, "rule": rule, "detail": detail}


def _step_of(reason: str) -> str:
    """Return the step whose rule refused a URL when it was found."""
    if reason.startswith("offscope"):
        return "scope"
    return "trap" if reason.startswith("trap") else "budget"


def _attempt(row: Any) -> dict[str, Any]:
    times = {name: round(row[name], 2) for name in ("dns_ms", "connect_ms", "ttfb_ms", "total_ms")}
    return {
        "at": _time(row["at"]), "ip": row["ip"], "status": row["status"], "error": row["error"], **times,
        "bytes_wire": row["bytes_wire"], "bytes_body": row["bytes_body"], "warc": None,
    }  # fmt: skip


def _time(moment: Any) -> str | None:
    return None if moment is None else rfc3339(round(moment.timestamp() * 1_000_000))
