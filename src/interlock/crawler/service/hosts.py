"""Hosts as their state is told, and an operator's rules for them.

A tenant is told the shared state of hosts that it crawls itself, and its own counts; never who else does.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from interlock.crawler.domain.types import CanonicalUrl
from interlock.crawler.domain.urls import canonicalise, host_hash, is_ip_literal, is_public_suffix
from interlock.crawler.service.start import CHANNEL, CrawlTools
from interlock.crawler.store import SQL
from interlock.foundation.audit import AuditEntry
from interlock.foundation.errors import InterlockError
from interlock.foundation.store import Store, Transaction

_decode: Final = msgspec.json.Decoder().decode
# RFC 1123: labels of letters, digits and inner hyphens; the underscore is no host's, and yet in use.
_LABELS: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)


@dataclass(frozen=True, slots=True)
class HostView:
    """A host's shared state. `until` is when it may be visited next, None where it may be now."""

    host_hash: int
    authority: str
    host: str
    state: str
    reason: str | None
    until: Any
    delay_ms: int
    delay_source: str
    cap: int
    ewma_latency_ms: float
    circuit: str
    fail_streak: int
    is_blocked: bool
    rule: Mapping[str, Any] | None
    robots: Mapping[str, Any] | None
    robots_body: bytes | None = None


class HostStates:
    """Reads hosts; belongs to no tenant, so callers pass only hosts that theirs may know."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def of(self, hosts: list[int]) -> dict[int, HostView]:
        """Return the shared state of hosts by their hash."""
        async with self._store.ops("crawl hosts shown") as tx:
            rows = await tx.fetch(SQL.host_states, hosts)
        return {row["host_hash"]: view_of(row) for row in rows}

    async def listed(self, after: str, limit: int, host: str | None = None) -> list[HostView]:
        """Return hosts by authority, for the platform's operator."""
        async with self._store.ops("crawl hosts listed") as tx:
            return [view_of(row) for row in await tx.fetch(SQL.list_hosts, host, after, limit)]

    async def robots_of(self, url: str) -> bytes:
        """Return the robots.txt that is known of a URL's host; nothing where none is, or where it is no URL."""
        canonical = canonicalise(url)
        if not isinstance(canonical, CanonicalUrl):
            return b""
        host = host_hash(canonical.authority)
        known = (await self.of([host])).get(host)
        return (known.robots_body if known else None) or b""

    async def rule(self, host: str) -> Any:
        """Return an operator's rule for a name, or None."""
        async with self._store.ops("crawl host rule") as tx:
            return await tx.fetchrow(SQL.find_rule, host)


class HostRules:
    """An operator's decisions; they act on every tenant's crawls within a second."""

    def __init__(self, store: Store, tools: CrawlTools) -> None:
        self._store = store
        self._tools = tools

    async def put(
        self,
        tx: Transaction,
        host: str,
        delay_ms: int | None,
        concurrency: int | None,
        *,
        is_blocked: bool,
        reason: str,
    ) -> Any:
        """Set the rule of a host or of `*.domain`. Audited with the caller's transaction."""
        name = checked_host(host)
        if not reason.strip():
            raise InterlockError("invalid_request", "A host rule needs a reason.", detail={"field": "reason"})
        detail = {"delay_ms": delay_ms, "concurrency": concurrency, "blocked": is_blocked}
        action = "crawl_host.block" if is_blocked else "crawl_host.rule"
        await self._tools.audit.append(tx, AuditEntry(action, "crawl_host", name, reason=reason, detail=detail))
        # Hosts belong to no tenant, so their rows are written by a transaction of the loops.
        async with self._store.ops("crawl host rule set") as ops:
            row = await ops.fetchrow(SQL.put_rule, name, delay_ms, concurrency, is_blocked, reason)
            await ops.fetch(SQL.apply_rule, name, is_blocked, delay_ms, concurrency, reason)
            await ops.notify(CHANNEL, name)
        return row


def checked_host(text: str) -> str:
    """Return a host name or `*.domain` as URLs name it. Raises `invalid_spec` for what no URL can be of."""
    name = text.strip().rstrip(".")
    bare = name.removeprefix("*.")
    found = canonicalise(f"http://{bare}/")
    if not isinstance(found, CanonicalUrl) or not _is_host_alone(found):
        raise InterlockError("invalid_spec", "Not a host name or `*.domain`.", detail={"host": text[:100]})
    if bare == name:
        return found.host
    if is_public_suffix(found.host) or is_ip_literal(found.host):
        raise InterlockError("invalid_spec", "A rule for all names of a public suffix.", detail={"host": text[:100]})
    return f"*.{found.host}"


def _is_host_alone(url: CanonicalUrl) -> bool:
    is_bare = url.target == "/" and url.authority == f"http://{url.host}:80"
    return is_bare and (is_ip_literal(url.host) or _LABELS.fullmatch(url.host) is not None)


def view_of(row: Any) -> HostView:
    """Return the state of a host's row."""
    state, reason, until = _state_of(row)
    robots = None
    if row["robots_class"] is not None:
        robots = {
            "status": row["robots_class"],
            "http_status": row["robots_status"],
            "fetched_at": row["robots_at"],
            "expires_at": row["robots_expires"],
            "sha256": None if row["robots_sha"] is None else row["robots_sha"].hex(),
        }
    body = row["robots_body"]
    return HostView(
        host_hash=row["host_hash"],
        authority=row["authority"],
        host=row["host"],
        state=state,
        reason=reason,
        until=until,
        delay_ms=row["delay_ms"],
        delay_source=row["delay_source"],
        cap=row["cap"],
        ewma_latency_ms=row["ewma_latency_ms"],
        circuit=row["circuit"],
        fail_streak=row["fail_streak"],
        is_blocked=row["is_blocked"],
        rule=None if row["rule"] is None else _decode(row["rule"]),
        robots=robots,
        robots_body=None if body is None else zlib.decompress(body),
    )


def _state_of(row: Any) -> tuple[str, str | None, Any]:
    now = row["now"]
    if row["is_blocked"]:
        rule = _decode(row["rule"]) if row["rule"] else {}
        return "blocked", rule.get("reason") or "operator", None
    if row["blocked_until"] is not None and row["blocked_until"] > now:
        return ("open" if row["circuit"] == "open" else "waiting"), row["blocked_reason"], row["blocked_until"]
    if row["lease_owner"] is not None:
        return "leased", None, None
    if row["next_at"] > now:
        return "waiting", "delay", row["next_at"]
    return ("due" if row["has_pending"] else "idle"), None, None
