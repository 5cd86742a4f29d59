"""`ExplainService`: why somebody may read a document or not, now and at any past epoch, and what a search saw.

Shows no text. Every call is audited.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Scope
from interlock.retrieval.domain.asking import Reader
from interlock.retrieval.service.readers import named_reader, own_reader
from interlock.retrieval.service.search import SearchParts
from interlock.retrieval.store.reading import guard, history
from interlock.retrieval.store.reading.history import AccessAt, SearchSeen
from interlock.retrieval.store.reading.search import epoch_of

_TURNS: Final = 12


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason; `path` leads from the reader to the principal that the clause names."""

    rule: str
    acl_digest: str | None
    clause: tuple[str, ...]
    path: tuple[str, ...]
    container: str | None


@dataclass(frozen=True, slots=True)
class Explained:
    """Whether a reader could read a document at an epoch, why, and whether it can now.

    `turns` are the newest epochs at which something about the document became another, with the cause.
    """

    reader: Reader
    is_eligible: bool
    at_epoch: int
    reasons: tuple[Reason, ...]
    is_live_now: bool
    current_epoch: int
    turns: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Inspected:
    """A recorded search; `dropped` holds every candidate that did not leave, with where and why."""

    seen: SearchSeen
    dropped: tuple[Mapping[str, str], ...]


class ExplainService:
    """Explanations for support and auditors."""

    def __init__(self, parts: SearchParts, audit: AuditLog) -> None:
        self._parts = parts
        self._audit = audit

    async def why(self, scope: Scope, principal: str | None, document_id: UUID, at: int | None) -> Explained:
        """Explain one document. Raises `principal_not_found`, `document_not_found`, `invalid_request`."""
        parts = self._parts
        reader = (
            own_reader(scope) if principal is None else await named_reader(parts.store, parts.members, scope, principal)
        )
        now_us = parts.clock.now_us()
        async with parts.store.snapshot(scope) as tx:
            current = await epoch_of(tx)
            epoch = current if at is None else at
            if not 0 <= epoch <= current:
                raise InterlockError("invalid_request", "This epoch is still to come.", detail={"field": "at"})
            closure = await guard.closure_of(tx, reader, epoch)
            found = await history.access_at(tx, closure, document_id, epoch, now_us)
            if found is None:
                raise InterlockError("document_not_found")
            is_live = found.is_eligible
            if epoch != current:
                then = await guard.closure_of(tx, reader, current)
                judged = await guard.judge(tx, then, [document_id], now_us)
                is_live = judged[document_id].is_readable
            turns = tuple(await history.document_turns(tx, document_id, _TURNS))
        detail = {"principal": reader.name, "epoch": epoch}
        await self._audited(scope, "document", format_id("doc", document_id), detail)
        return Explained(reader, found.is_eligible, epoch, _reasons(reader, closure, found), is_live, current, turns)

    async def inspect(self, scope: Scope, request_id: UUID) -> Inspected:
        """Return what a search saw. Raises `request_not_found`."""
        async with self._parts.store.snapshot(scope) as tx:
            seen = await history.find_search(tx, request_id)
        if seen is None:
            raise InterlockError("request_not_found")
        await self._audited(scope, "request", format_id("req", request_id), {"principal": seen.principal})
        return Inspected(seen, tuple(dropped(seen)))

    async def eligible(self, scope: Scope, request_id: UUID, after: UUID, limit: int) -> list[UUID]:
        """Return documents that a search could see, in the order of their ids. Raises `request_not_found`."""
        async with self._parts.store.snapshot(scope) as tx:
            seen = await history.find_search(tx, request_id)
            if seen is None:
                raise InterlockError("request_not_found")
            found = await history.eligible_documents(tx, seen, after, limit)
        await self._audited(scope, "request", format_id("req", request_id), {"principal": seen.principal})
        return found

    async def recent(self, scope: Scope, count: int) -> list[Mapping[str, Any]]:
        """Return the newest searches, as a list tells them. Not audited: it holds no candidate."""
        async with self._parts.store.transaction(scope) as tx:
            return list(await history.list_searches(tx, self._soon(), count))

    async def newest(self, scope: Scope) -> UUID | None:
        """Return the request of the newest search that can be looked into."""
        async with self._parts.store.transaction(scope) as tx:
            rows = await history.list_searches(tx, self._soon(), 1)
            seen = await history.find_search(tx, rows[0]["request_id"]) if rows else None
        return None if seen is None else seen.request_id

    def _soon(self) -> datetime:
        return datetime.fromtimestamp(self._parts.clock.now_us() / 1e6 + 1, tz=UTC)

    async def _audited(self, scope: Scope, kind: str, target: str, detail: Mapping[str, Any]) -> None:
        async with self._parts.store.transaction(scope) as tx:
            await self._audit.append(tx, AuditEntry("retrieval.explain", kind, target, detail=detail))


def _reasons(reader: Reader, closure: guard.Closure, found: AccessAt) -> tuple[Reason, ...]:
    if not found.clause:
        return (Reason(found.rule, found.acl_digest, (), (reader.name,), found.container),)
    return tuple(
        Reason(found.rule, found.acl_digest, found.clause, tuple(closure.path(each)), found.container)
        for each in found.clause
    )


def dropped(seen: SearchSeen) -> list[Mapping[str, str]]:
    """Return every document that was a candidate and did not leave."""
    told = {document: {"document_id": document, "stage": stage, "reason": why} for document, stage, why in seen.dropped}
    left = {each["document_id"] for each in seen.emitted}
    candidates = {
        document for leg in ("lexical", "vector") for _, document, _ in seen.candidates[leg] if document is not None
    }
    for document in sorted(candidates - left - set(told)):
        told[document] = {"document_id": document, "stage": "rank", "reason": "outranked"}
    return list(told.values())
