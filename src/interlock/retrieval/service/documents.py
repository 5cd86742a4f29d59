"""Use cases of documents: push, change who may read, withdraw, list, history. Reading text is `search` and its kin.

Every write answers with the epoch that it reached; deletions and changes of access wait in no queue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from interlock.contracts.documents import AccessList
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.access import acl_digest, names_of
from interlock.retrieval.domain.types import DocumentState, PutResult, PutStatus, Source
from interlock.retrieval.service.backlog import Full, Room
from interlock.retrieval.service.ingest import Incoming, Ingest, Ingested
from interlock.retrieval.service.names import UnknownPrincipal, known_names, resolved
from interlock.retrieval.service.sources import may_administer, source_in
from interlock.retrieval.service.stops import Stops
from interlock.retrieval.store.ingest import documents as rows
from interlock.retrieval.store.ingest.access import SlotWanted, hold_folders, intern_slots
from interlock.retrieval.store.ingest.documents import HeldDocument, Pointing, Tally
from interlock.retrieval.store.ingest.listing import (
    DocumentRow,
    document_path,
    document_row,
    history,
    list_documents,
)
from interlock.retrieval.store.ingest.rows import Changes, current_epoch, stamp

HISTORY_ROWS = 100
_EXPIRED_MAX = 200


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A document that is out of every answer; `purge_after_us` is when its text is gone as well."""

    document_id: UUID
    purge_after_us: int
    epoch: int


class DocumentService:
    """Documents of one process."""

    def __init__(  # noqa: PLR0913 - one argument for each thing that a write needs
        self,
        *,
        store: Store,
        audit: AuditLog,
        clock: Clock,
        ingest: Ingest,
        room: Room,
        stops: Stops,
        config: RetrievalConfig,
    ) -> None:
        self.store = store
        self._audit = audit
        self._clock = clock
        self._ingest = ingest
        self._room = room
        self._stops = stops
        self._config = config

    async def push(self, scope: Scope, source_id: UUID, items: Sequence[Incoming]) -> Ingested:
        """Store a batch. Raises `source_not_found`, `killed`, `ingest_backlog_full`."""
        async with self.store.transaction(scope) as tx:
            source = await source_in(tx, source_id)
        self._stops.require(scope, source_id)
        taken = await self._room.take(scope, source_id, len(items), sum(each.size for each in items))
        if isinstance(taken, Full):
            detail = {"rule": taken.rule, "waiting": taken.waiting, "limit": taken.limit}
            raise InterlockError("ingest_backlog_full", detail=detail, retry_after_s=taken.retry_after_s)
        try:
            stored = await self.store_batch(scope, source, items, taken.id)
        except BaseException:
            await self._room.give_back(scope, source_id, taken)
            raise
        self._room.stored(len(items))
        return stored

    async def store_batch(
        self, scope: Scope, source: Source, items: Sequence[Incoming], receipt: UUID | None = None
    ) -> Ingested:
        """Store a batch that was let in: names become ids, an item that names a stranger is rejected whole."""
        lists = [each.acl for each in items if isinstance(each.acl, AccessList)]
        known: Mapping[str, str] = {}
        if lists:
            async with self.store.transaction(scope) as tx:
                known = await known_names(tx, {name for acl in lists for name in names_of(acl)})
        rejected: dict[int, PutResult] = {}
        good: list[tuple[int, Incoming]] = []
        for place, each in enumerate(items):
            acl = resolved(each.acl, known) if isinstance(each.acl, AccessList) else each.acl
            if isinstance(acl, UnknownPrincipal):
                rejected[place] = PutResult(each.external_id, PutStatus.REJECTED, code="acl_principal_unknown")
            else:
                good.append((place, replace(each, acl=acl)))
        stored = await self._ingest.put(scope, source, [each for _, each in good], receipt)
        results = rejected | {place: result for (place, _), result in zip(good, stored.results, strict=True)}
        return replace(stored, results=tuple(results[place] for place in range(len(items))))

    async def set_acl(self, tx: Transaction, document_id: UUID, acl: AccessList) -> tuple[bytes, int]:
        """Let others read a document; return the digest of the list and the epoch.

        Raises `document_not_found`, `acl_principal_unknown`.
        """
        source, held = await self._held(tx, document_id)
        known = resolved(acl, await known_names(tx, names_of(acl)))
        if isinstance(known, UnknownPrincipal):
            raise InterlockError("acl_principal_unknown", detail={"principal": known.name})
        changes = await self.point(tx, source.id, held, known)
        changes.documents.add(held.id)
        digest = acl_digest(known)
        detail = {"acl_digest": digest.hex()}
        await self._audit.append(tx, AuditEntry("document.acl", "document", format_id("doc", held.id), detail=detail))
        return digest, await stamp(tx, changes, self._clock.now_us())

    async def point(self, tx: Transaction, source_id: UUID, held: HeldDocument, known: AccessList) -> Changes:
        """Point a document whose row is ours at a list whose names are ids; return what is still to be stamped."""
        path = None
        if known.inherit:
            # A folder under way is waited for: its old path would be made anew, without what the folder says.
            await hold_folders(tx, source_id)
            path = await document_path(tx, held.id)
        own = replace(known, inherit=False)
        inherits = known.inherit and path is not None
        wanted = SlotWanted(path if inherits else None, own if not inherits or own.allow or own.deny else None)
        changes, tally = Changes(source_id, cause="acl"), Tally()
        # Sets and slots come before the row of the document in the order of locks, and it is held already here: the
        # row is of one document, whose other writers wait for nothing that this one takes.
        slot = (await intern_slots(tx, source_id, [wanted], changes)).slots[wanted]
        kept = replace(slot, container_id=slot.container_id or held.container_id)
        await rows.point_at_acl(tx, [(held, Pointing(kept, known, DocumentState.LIVE))], tally)
        await tally.write(tx)
        return changes

    async def delete(self, tx: Transaction, document_id: UUID) -> Withdrawn:
        """Tombstone a document; twice is once. Raises `document_not_found`."""
        source, held = await self._held(tx, document_id, is_deleted_fine=True)
        epoch = await self.withdraw(tx, source.id, [held], "deleted")
        now_us = self._clock.now_us()
        return Withdrawn(held.id, now_us + self._config.purge_delay_s * 1_000_000, epoch)

    async def expire(self, tx: Transaction) -> int:
        """Tombstone documents whose `retain_until` has passed, a batch; return how many."""
        found = await rows.hold_expired(tx, self._clock.now_us(), _EXPIRED_MAX)
        for source_id, held in found.items():
            await self.withdraw(tx, source_id, held, "expired")
        return sum(map(len, found.values()))

    async def withdraw(self, tx: Transaction, source_id: UUID, held: Sequence[HeldDocument], reason: str) -> int:
        """Tombstone documents whose rows are ours; return the epoch."""
        tally, changes, now_us = Tally(), Changes(source_id, cause=reason), self._clock.now_us()
        gone = await rows.delete_documents(tx, held, reason, now_us, tally)
        if not gone:
            return await current_epoch(tx)
        await tally.write(tx)
        changes.documents |= set(gone)
        ids = [format_id("doc", each) for each in gone[:HISTORY_ROWS]]
        detail = {"documents": len(gone), "reason": reason, "ids": ids}
        entry = AuditEntry("document.delete", "source", format_id("src", source_id), detail=detail)
        await self._audit.append(tx, entry)
        return await stamp(tx, changes, now_us)

    async def listed(
        self, scope: Scope, after: UUID, limit: int, source_id: UUID | None, state: str | None
    ) -> list[DocumentRow]:
        """Return metadata by id; never text."""
        where = None if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
        async with self.store.transaction(scope) as tx:
            return await list_documents(tx, after, limit, source_id, state, where)

    async def with_history(self, scope: Scope, document_id: UUID) -> tuple[DocumentRow, list[dict[str, Any]]]:
        """Return a document without its text, and what it was, newest first. Raises `document_not_found`."""
        where = None if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
        async with self.store.transaction(scope) as tx:
            row = await document_row(tx, document_id, where)
            if row is None:
                raise InterlockError("document_not_found")
            return row, await history(tx, document_id, HISTORY_ROWS)

    async def _held(
        self, tx: Transaction, document_id: UUID, *, is_deleted_fine: bool = False
    ) -> tuple[Source, HeldDocument]:
        found = await rows.hold_document(tx, document_id)
        if found is None:
            raise InterlockError("document_not_found")
        source_id, held = found
        try:
            source = await source_in(tx, source_id)
        except InterlockError as error:
            raise InterlockError("document_not_found") from error
        if not may_administer(tx.scope, source) or not (held.is_indexed or is_deleted_fine):
            raise InterlockError("document_not_found")
        return source, held
