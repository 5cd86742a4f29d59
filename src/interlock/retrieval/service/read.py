"""One document with its text, for a reader who may read it; for everybody else it does not exist.

Judged by the second path, in the snapshot that the text is read in.
"""

from dataclasses import dataclass
from uuid import UUID

from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store
from interlock.retrieval.domain.asking import Reader
from interlock.retrieval.service.readers import Members, reader_of, tell_delegation
from interlock.retrieval.service.stops import Stops
from interlock.retrieval.store.ingest.listing import Readable, readable_document
from interlock.retrieval.store.reading.guard import closure_of, judge
from interlock.retrieval.store.reading.search import epoch_of


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document as its reader sees it, and the epoch at which that was so."""

    document: Readable
    epoch: int


class DocumentReader:
    """Documents to their readers."""

    def __init__(self, store: Store, members: Members, audit: AuditLog, clock: Clock, stops: Stops) -> None:
        self._store = store
        self._members = members
        self._audit = audit
        self._clock = clock
        self._stops = stops

    async def document(self, scope: Scope, document_id: UUID, principal: str | None) -> ReadDocument:
        """Return a document. Raises `document_not_found`, `delegation_denied`, `principal_not_found`, `killed`."""
        self._stops.require(scope)
        reader = await reader_of(self._store, self._members, scope, principal)
        await tell_delegation(self._store, self._audit, scope, reader, "document")
        return await self.document_for(scope, document_id, reader)

    async def document_for(self, scope: Scope, document_id: UUID, reader: Reader) -> ReadDocument:
        """Return a document to a reader that is known already. Raises `document_not_found`, `killed`."""
        async with self._store.snapshot(scope) as tx:
            epoch = await epoch_of(tx)
            closure = await closure_of(tx, reader, epoch)
            found = await judge(tx, closure, [document_id], self._clock.now_us())
            verdict = found.get(document_id)
            document = None
            if verdict is not None and verdict.is_readable:
                self._stops.require(scope, verdict.source_id)
                document = await readable_document(tx, document_id)
        if document is None:
            raise InterlockError("document_not_found")
        return ReadDocument(document, epoch)
