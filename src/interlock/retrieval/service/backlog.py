"""How much a source may still send: what was taken in and is not stored yet, bounded by source and by organization.

Bounds puts only; deletions and changes of access never ask here.
"""

from collections import deque
from dataclasses import dataclass
from uuid import UUID

from interlock.contracts.documents import Pressure
from interlock.foundation.clock import Clock
from interlock.foundation.ids import IdFactory
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.embedding import NO_EMBEDDER
from interlock.retrieval.domain.types import Backlog
from interlock.retrieval.store.ingest import sources as rows
from interlock.retrieval.store.ingest import work

_WINDOW_S = 60.0
_RETRY_DEFAULT_S = 5.0
_RETRY_MAX_S = 300.0


@dataclass(frozen=True, slots=True)
class Taken:
    """Room for a batch, held until `id` is ended or its time is over."""

    id: UUID


@dataclass(frozen=True, slots=True)
class Full:
    """No room: which bound, what stands, what it may be."""

    rule: str
    waiting: int
    limit: int
    retry_after_s: float


class Room:
    """The backlog as one process sees and fills it."""

    def __init__(self, store: Store, clock: Clock, ids: IdFactory, config: RetrievalConfig) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._config = config
        self._drained: deque[tuple[float, int]] = deque()

    async def take(self, scope: Scope, source_id: UUID, documents: int, size: int) -> Taken | Full:
        """Count a batch as waiting, or say what is full."""

        async def work_in(tx: Transaction) -> Taken | Full:
            await work.take_turn(tx)
            found = await rows.backlog(tx, source_id)
            full = self._full(found, documents, size)
            if full is not None:
                return full
            job_id = self._ids.new()
            await work.add_receipt(tx, source_id, job_id, (documents, size), self._config.receive_ttl_s)
            return Taken(job_id)

        return await self._store.run(scope, work_in)

    async def give_back(self, scope: Scope, source_id: UUID, taken: Taken) -> None:
        """Count a batch no more that was not stored."""
        async with self._store.transaction(scope) as tx:
            await work.end_receipt(tx, source_id, taken.id)

    def stored(self, documents: int) -> None:
        """Remember that documents left the backlog, for the wait that a refusal names."""
        self._drained.append((self._clock.monotonic(), documents))

    async def pressure(self, tx: Transaction, source_id: UUID) -> Pressure:
        """Return what waits and what may still be sent."""
        found, config = await rows.backlog(tx, source_id), self._config
        left = min(
            config.source_waiting_bytes_max - found.source_bytes,
            config.organization_waiting_bytes_max - found.organization_bytes,
        )
        is_closed = (
            found.source_documents >= config.source_waiting_documents_max
            or found.organization_documents >= config.organization_waiting_documents_max
            or self._vectors_wait(found)
        )
        lag_s = await rows.index_lag_s(tx, source_id)
        credit = 0 if is_closed else max(0, left)
        limit = config.source_waiting_bytes_max
        return Pressure(found.source_documents, found.source_bytes, limit, credit, lag_s)

    def _full(self, found: Backlog, documents: int, size: int) -> Full | None:
        config = self._config
        bounds = (
            ("source_documents", found.source_documents, documents, config.source_waiting_documents_max),
            ("source_bytes", found.source_bytes, size, config.source_waiting_bytes_max),
            (
                "organization_documents",
                found.organization_documents,
                documents,
                config.organization_waiting_documents_max,
            ),
            ("organization_bytes", found.organization_bytes, size, config.organization_waiting_bytes_max),
        )
        for rule, waiting, added, limit in bounds:
            # What is larger than the whole bound is let in alone, or it would never be.
            if waiting and waiting + added > limit:
                return Full(rule, waiting, limit, self._retry_after_s(found.source_documents))
        if self._vectors_wait(found):
            pending = found.organization_vectors_pending
            return Full("vectors_pending", pending, config.vectors_pending_max, self._retry_after_s(pending))
        return None

    def _vectors_wait(self, found: Backlog) -> bool:
        """Tell whether vectors close the door; where nothing makes any, there is nothing to wait for."""
        is_made = self._config.embedder != NO_EMBEDDER
        return is_made and found.organization_vectors_pending >= self._config.vectors_pending_max

    def _retry_after_s(self, waiting: int) -> float:
        now = self._clock.monotonic()
        while self._drained and now - self._drained[0][0] > _WINDOW_S:
            self._drained.popleft()
        rate = sum(count for _, count in self._drained) / _WINDOW_S
        return min(_RETRY_MAX_S, max(1.0, waiting / rate)) if rate else _RETRY_DEFAULT_S
