"""Leased work on the index: vectors of new versions, and the withdrawal of what a removed source held.

Every write carries the fence of its lease; a repeat writes the same.
"""

from functools import partial
from typing import Final
from uuid import UUID

import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.ids import IdFactory
from interlock.foundation.leases import Lease, LeaseSpec
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.embedding import Embedder, EmbedderUnavailableError
from interlock.retrieval.domain.types import embedder_no
from interlock.retrieval.service.documents import DocumentService
from interlock.retrieval.store.ingest import documents as rows
from interlock.retrieval.store.ingest import work
from interlock.retrieval.store.ingest.documents import Tally
from interlock.retrieval.store.ingest.listing import live_ids

_PURGE_BATCH: Final = 100
_AWAY_S: Final = 5.0
_LOOKED_AT: Final = 200
_log = structlog.get_logger("interlock.retrieval")


class IndexWork:
    """What a worker does for one leased job."""

    def __init__(
        self,
        *,
        store: Store,
        spec: LeaseSpec,
        documents: DocumentService,
        embedder: Embedder | None,
        clock: Clock,
        config: RetrievalConfig,
    ) -> None:
        self._store = store
        self._spec = spec
        self._documents = documents
        self._embedder = embedder
        self._clock = clock
        self._config = config

    async def run(self, lease: Lease) -> float | None:
        """Do one job; return after how many seconds it is due again, None for never."""
        scope = self._spec.scope_of(lease)
        async with self._store.transaction(scope) as tx:
            job = await work.get_job(tx, lease.fence)
        if job is None:
            return None
        if job.kind == "purge":
            await self._withdraw_all(scope, lease)
            return None
        if job.document_id is None or job.version is None or self._embedder is None:
            return None
        try:
            while await self._embed_some(scope, lease, (job.document_id, job.version), self._embedder):
                pass
        except EmbedderUnavailableError as error:
            _log.warning("embedder_unavailable", error=str(error))
            return _AWAY_S
        return None

    async def _embed_some(self, scope: Scope, lease: Lease, version: tuple[UUID, int], embedder: Embedder) -> bool:
        """Embed the next passages of a version; tell whether there may be more."""
        limit = self._config.embed_batch
        async with self._store.transaction(scope) as tx:
            waiting = await work.chunks_to_embed(tx, *version, limit)
            told = await work.text_of_version(tx, *version)
        if not waiting or told is None:
            return False
        text = told[1]
        vectors = await embedder.embed([text[each.start : each.end] for each in waiting])

        async def write(tx: Transaction) -> bool:
            await work.require_job(tx, lease.fence)
            found = await rows.hold_document(tx, version[0])
            if found is None or found[1].version != version[1] or not found[1].is_indexed:
                return False
            acl_id, tally = found[1].acl_id, Tally()
            written = await work.write_vectors(
                tx, acl_id, [each.chunk_id for each in waiting], embedder_no(embedder.id), [v.vector for v in vectors]
            )
            tally.add(acl_id, 0, 0, 0, -written)
            await tally.write(tx)
            return True

        return await self._store.run(scope, write) and len(waiting) == limit

    async def _withdraw_all(self, scope: Scope, lease: Lease) -> None:
        """Withdraw what a removed source held; nobody sees it since the source was removed."""
        source_id = UUID(int=lease.workspace_id.int)
        while True:

            async def some(tx: Transaction) -> int:
                await work.require_job(tx, lease.fence)
                ids = await live_ids(tx, source_id, _PURGE_BATCH)
                held = [found[1] for each in ids if (found := await rows.hold_document(tx, each)) is not None]
                await self._documents.withdraw(tx, source_id, held, "source_removed")
                return len(ids)

            if await self._store.run(scope, some) < _PURGE_BATCH:
                return


class Adoption:
    """Asks for the vectors that nobody makes: of what came while there was no embedder, and of what had another one."""

    def __init__(self, store: Store, ids: IdFactory, embedder: Embedder) -> None:
        self._store = store
        self._ids = ids
        self._embedder_no = embedder_no(embedder.id)

    async def some(self, scope: Scope, after: UUID) -> UUID | None:
        """Look at the documents behind `after`, unless others wait; return the last one, None where there is none."""
        async with self._store.transaction(scope) as tx:
            if await work.waiting_embed_jobs(tx) >= _LOOKED_AT:
                return after
            looked = await work.documents_by_vector(tx, after, self._embedder_no, _LOOKED_AT)
        for document_id in (each for each, is_lacking in looked.items() if is_lacking):
            await self._store.run(scope, partial(self._adopt, document_id=document_id))
        return max(looked, default=None)

    async def _adopt(self, tx: Transaction, document_id: UUID) -> None:
        found = await rows.hold_document(tx, document_id)
        if found is None or not found[1].is_indexed or await work.has_embed_job(tx, document_id):
            return
        source_id, held = found
        tally = Tally()
        tally.add(held.acl_id, 0, 0, 0, await work.forget_codes(tx, held.id, held.acl_id, self._embedder_no))
        await tally.write(tx)
        await work.add_embed_jobs(tx, source_id, [(self._ids.new(), held.id, held.version)])
