"""Changes of a crawl that is there: pause, resume, cancel, delete, another spec, visits again.

Stops no request itself: the loop hears of the change within a second and returns what it holds.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.crawler.domain.frontier import CrawlRef
from interlock.crawler.domain.spec import Budgets, CrawlSpec, Politeness, Recrawl, ScopeSpec
from interlock.crawler.domain.states import CrawlState, UrlState
from interlock.crawler.domain.types import CanonicalUrl
from interlock.crawler.domain.urls import canonicalise, url_key
from interlock.crawler.service.start import CHANNEL, CrawlTools, StartCrawl
from interlock.crawler.store import SQL
from interlock.crawler.store.acks import as_json, count_row
from interlock.crawler.store.events import append_events
from interlock.foundation.audit import AuditEntry
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id
from interlock.foundation.store import Transaction

_encode: Final = msgspec.json.Encoder().encode
_LIVE: Final = frozenset({CrawlState.RUNNING, CrawlState.THROTTLED, CrawlState.PAUSED})
_AGAIN: Final = (UrlState.DONE, UrlState.DUPLICATE, UrlState.DEAD, UrlState.GONE)
_QUEUES_PAGE: Final = 1_000


class ControlCrawl:
    """Use cases that change one crawl; each takes its row first."""

    def __init__(self, tools: CrawlTools, start: StartCrawl) -> None:
        self._tools = tools
        self._start = start

    async def locked(self, tx: Transaction, crawl_id: UUID) -> Any:
        """Return the row of a crawl, held until the transaction ends. Raises `crawl_not_found`."""
        row = await tx.fetchrow(SQL.lock_crawl, tx.scope.organization_id, crawl_id)
        if row is None:
            raise InterlockError("crawl_not_found")
        return row

    async def pause(self, tx: Transaction, crawl_id: UUID, reason: str | None) -> None:
        """Stop visits; nothing is lost, and a repeat changes nothing."""
        row = await self.locked(tx, crawl_id)
        if row["state"] == CrawlState.PAUSED:
            return
        self._require(row, _LIVE)
        await self._set(tx, row, CrawlState.PAUSED, reason, "crawl.pause")

    async def resume(self, tx: Transaction, crawl_id: UUID, reason: str | None) -> None:
        """Go on where the crawl was."""
        row = await self.locked(tx, crawl_id)
        if row["state"] in {CrawlState.RUNNING, CrawlState.THROTTLED}:
            return
        self._require(row, {CrawlState.PAUSED})
        await tx.execute(SQL.wake_queues, row["organization_id"], crawl_id)
        await self._set(tx, row, CrawlState.RUNNING, reason, "crawl.resume", kept_reason=None)

    async def cancel(self, tx: Transaction, crawl_id: UUID, reason: str | None) -> None:
        """End a crawl; its documents stay in the index."""
        row = await self.locked(tx, crawl_id)
        if row["state"] == CrawlState.CANCELED:
            return
        self._require(row, _LIVE)
        await self._set(tx, row, CrawlState.CANCELED, reason, "crawl.cancel")

    async def delete(self, tx: Transaction, crawl_id: UUID, *, keeps: bool) -> int:
        """Begin the end of a crawl and, unless they are kept, of its documents; return how many leave the index."""
        row = await self.locked(tx, crawl_id)
        if row["state"] != CrawlState.DELETING:
            await self._set(
                tx, row, CrawlState.DELETING, "keep" if keeps else "delete", "crawl.delete",
                detail={"documents": "keep" if keeps else "delete"},
            )  # fmt: skip
        return 0 if keeps else int(row["documents"])

    async def change(self, tx: Transaction, crawl_id: UUID, changes: Mapping[str, Any]) -> None:
        """Change budgets, scope, politeness, recrawl or weight, field by field. Raises what `start` raises."""
        row = await self.locked(tx, crawl_id)
        self._require(row, {*_LIVE, CrawlState.FINISHED})
        was = msgspec.json.decode(row["spec"], type=CrawlSpec)
        spec = merged(was, changes)
        self._start.checked(spec)
        await tx.fetchval(SQL.change_crawl, row["organization_id"], crawl_id, _encode(spec).decode(), spec.weight)
        await self._apply_politeness(tx, row, spec)
        await self._told(tx, row, "crawl.change", detail={"fields": sorted(changes)})

    async def recrawl(self, tx: Transaction, crawl_id: UUID, urls: Sequence[str] | None) -> int:
        """Queue URLs, or all, to be visited again; return how many. Politeness still rules."""
        row = await self.locked(tx, crawl_id)
        self._require(row, {*_LIVE, CrawlState.FINISHED})
        keys = None if urls is None else self._keys(urls)
        states = _AGAIN if urls is None else (*_AGAIN, UrlState.REFUSED)
        return await self._again(tx, row, states, keys, None, "crawl.recrawl")

    async def requeue(self, tx: Transaction, crawl_id: UUID, reason: str | None) -> int:
        """Queue dead letters, all or those of one class; return how many."""
        row = await self.locked(tx, crawl_id)
        self._require(row, {*_LIVE, CrawlState.FINISHED})
        return await self._again(tx, row, (UrlState.DEAD,), None, reason, "crawl.requeue")

    async def _again(
        self, tx: Transaction, row: Any, states: Sequence[UrlState], keys: Sequence[UUID] | None, reason: str | None,
        action: str,
    ) -> int:  # fmt: skip
        crawl = _ref(row)
        rows = await tx.fetch(
            SQL.again_urls, row["organization_id"], crawl.crawl_id, [str(each) for each in states], keys, reason
        )
        queues: defaultdict[int, int] = defaultdict(int)
        counts: Counter[str] = Counter()
        for each in rows:
            queues[each["host_hash"]] += each["urls"]
            if each["kind"] == "page":
                counts[each["state"]] -= each["urls"]
        if queues:
            changed = [{"crawl_id": crawl.crawl_id, "host_hash": host, "urls": urls} for host, urls in queues.items()]
            await tx.execute(SQL.requeue_pending, as_json(changed))
            await tx.execute(SQL.change_counts, as_json([count_row(crawl, counts)]))
            if row["state"] == CrawlState.FINISHED:
                await self._set(tx, row, CrawlState.RUNNING, None, action)
        total = sum(queues.values())
        await self._told(tx, row, action, detail={"urls": total})
        return total

    def _keys(self, urls: Sequence[str]) -> list[UUID]:
        if len(urls) > self._tools.config.urls_per_call_max:
            raise InterlockError("too_many_urls", detail={"limit": self._tools.config.urls_per_call_max})
        keys = []
        for raw in urls:
            found = canonicalise(raw)
            if not isinstance(found, CanonicalUrl):
                raise InterlockError("invalid_url", detail={"url": raw[:300], "rule": found.rule})
            keys.append(url_key(found.url, self._tools.seed))
        return keys

    async def _apply_politeness(self, tx: Transaction, row: Any, spec: CrawlSpec) -> None:
        after = -(1 << 63)
        while True:
            queues = await tx.fetch(SQL.crawl_queues, row["organization_id"], row["crawl_id"], after, _QUEUES_PAGE)
            groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
            for each in queues:
                url = canonicalise(each["authority"] + "/")
                if isinstance(url, CanonicalUrl):
                    groups[self._tools.politeness(spec, url)].append(each["host_hash"])
            for (floor_ms, concurrency), hosts in groups.items():
                await tx.execute(
                    SQL.change_politeness, row["organization_id"], row["crawl_id"], hosts, floor_ms, concurrency,
                    spec.weight,
                )  # fmt: skip
            if len(queues) < _QUEUES_PAGE:
                return
            after = queues[-1]["host_hash"]

    async def _set(  # noqa: PLR0913 - a state, and how it is told
        self, tx: Transaction, row: Any, state: CrawlState, reason: str | None, action: str, *,
        detail: Mapping[str, Any] | None = None, kept_reason: str | None = "",
    ) -> None:  # fmt: skip
        shown = reason if kept_reason == "" else kept_reason
        await tx.execute(SQL.set_crawl_state, row["organization_id"], row["crawl_id"], state, shown)
        event = {"event": "crawl.state", "state": state, "reason": shown}
        await append_events(tx, self._tools.events, _ref(row), [event])
        await self._told(tx, row, action, reason=reason, detail=detail)

    async def _told(
        self, tx: Transaction, row: Any, action: str, *, reason: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        target = format_id("crawl", row["crawl_id"])
        entry = AuditEntry(action, "crawl", target, reason=reason, detail=detail or {})
        await self._tools.audit.append(tx, entry)
        await tx.notify(CHANNEL, target)

    @staticmethod
    def _require(row: Any, states: Any) -> None:
        if row["state"] not in states:
            raise InterlockError("crawl_not_running", detail={"state": row["state"]})


_PARTS: Final[Mapping[str, type[Any]]] = {
    "budgets": Budgets,
    "scope": ScopeSpec,
    "politeness": Politeness,
    "recrawl": Recrawl,
}


def merged(spec: CrawlSpec, changes: Mapping[str, Any]) -> CrawlSpec:
    """Return a spec with some fields of its parts replaced; fields that are not named stay."""
    fresh: dict[str, Any] = {}
    for name, value in changes.items():
        if name == "weight":
            fresh[name] = value
            continue
        known = msgspec.to_builtins(getattr(spec, name))
        fresh[name] = msgspec.convert({**known, **value}, _PARTS[name])
    return msgspec.structs.replace(spec, **fresh)


def _ref(row: Any) -> CrawlRef:
    return CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"])
