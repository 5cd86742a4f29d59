"""Waiting work in the store: what was taken in, vectors to make, listings of sources, and the fence of each write.

Claims nothing; `foundation.leases` does, by `JOBS` and `SYNCS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.foundation.leases import Fence, LeaseLostError, LeaseSpec
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.domain.types import SyncCounts
from interlock.retrieval.store.ingest.rows import SQL, from_text, to_text

_JOBS: Final = "retrieval_index_jobs"
_SYNCS: Final = "retrieval_sync_runs"
_SHARES: Final = "retrieval_shares"


def jobs_spec(ttl_s: float) -> LeaseSpec:
    """Return how vectors and purges are leased."""
    due = "w.kind IN ('embed', 'purge')"
    return LeaseSpec(_JOBS, _SHARES, tenant="source_id", due_sql=due, ttl_s=ttl_s, attempts_max=20)


def syncs_spec(ttl_s: float) -> LeaseSpec:
    """Return how listings are leased; one whose workers died too often has failed."""
    dead = "due_at = 'infinity', state = 'failed'"
    due = "w.state IN ('queued', 'running')"
    return LeaseSpec(_SYNCS, _SHARES, tenant="source_id", due_sql=due, dead_sql=dead, ttl_s=ttl_s, attempts_max=10)


@dataclass(frozen=True, slots=True)
class Job:
    """Work on the index: vectors of a version, or the rows of a removed source."""

    kind: str
    document_id: UUID | None
    version: int | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A passage that waits for its vector."""

    chunk_id: int
    start: int
    end: int
    heading: str | None


@dataclass(frozen=True, slots=True)
class SyncRun:
    """A listing of a source and what it did so far."""

    id: UUID
    source_id: UUID
    state: str
    is_full: bool
    counts: SyncCounts
    created_us: int
    started_us: int | None
    finished_us: int | None
    last_error: str | None


async def take_turn(tx: Transaction) -> None:
    """Wait for those who look at the backlog of the same organization."""
    await tx.fetchval(SQL.backlog_turn, tx.scope.organization_id)


async def add_receipt(tx: Transaction, source_id: UUID, job_id: UUID, size: tuple[int, int], ttl_s: float) -> None:
    """Count documents and bytes against the backlog until they are stored or `ttl_s` is over."""
    await tx.execute(SQL.add_receipt, tx.scope.organization_id, source_id, job_id, *size, ttl_s)


async def end_receipt(tx: Transaction, source_id: UUID, job_id: UUID) -> None:
    """Count them no more."""
    await tx.execute(SQL.end_receipt, tx.scope.organization_id, source_id, job_id)


async def add_embed_jobs(tx: Transaction, source_id: UUID, rows: Sequence[tuple[UUID, UUID, int]]) -> None:
    """Leave the vectors of versions to be made: (job, document, version)."""
    if rows:
        await tx.execute(SQL.add_embed_jobs, tx.scope.organization_id, source_id, *map(list, zip(*rows, strict=True)))


async def waiting_embed_jobs(tx: Transaction) -> int:
    """Return how many versions wait for their vectors."""
    return int(await tx.fetchval(SQL.waiting_embed_jobs, tx.scope.organization_id))


async def has_embed_job(tx: Transaction, document_id: UUID) -> bool:
    """Tell whether the vectors of a document are to be made already."""
    return bool(await tx.fetchval(SQL.has_embed_job, tx.scope.organization_id, document_id))


async def documents_by_vector(tx: Transaction, after: UUID, embedder_no: int, limit: int) -> dict[UUID, bool]:
    """Return documents behind an id, and whether each lacks a vector of an embedder."""
    rows = await tx.fetch(SQL.documents_by_vector, tx.scope.organization_id, after, embedder_no, limit)
    return {row["id"]: row["is_lacking"] for row in rows}


async def forget_codes(tx: Transaction, document_id: UUID, acl_id: int, embedder_no: int) -> int:
    """Forget what other embedders made of a document; return how many passages wait for a vector by that."""
    return await tx.execute(SQL.forget_codes, tx.scope.organization_id, document_id, acl_id, embedder_no)


async def get_job(tx: Transaction, fence: Fence) -> Job | None:
    """Return leased work; None when the lease is lost."""
    row = await tx.fetchrow(SQL.get_job, tx.scope.organization_id, fence.key, fence.token)
    return None if row is None else Job(row["kind"], row["document_id"], row["version"])


async def require_job(tx: Transaction, fence: Fence) -> None:
    """Hold the leased row for this transaction. Raises `LeaseLostError`."""
    if await tx.fetchval(SQL.hold_job, tx.scope.organization_id, fence.key, fence.token) is None:
        raise LeaseLostError(f"{_JOBS} {fence.key}")


async def chunks_to_embed(tx: Transaction, document_id: UUID, version: int, limit: int) -> list[Waiting]:
    """Return passages of a version that have no code yet."""
    rows = await tx.fetch(SQL.chunks_to_embed, tx.scope.organization_id, document_id, version, limit)
    return [Waiting(row["chunk_id"], row["start_at"], row["end_at"], row["heading"]) for row in rows]


async def text_of_version(tx: Transaction, document_id: UUID, version: int) -> tuple[str, str] | None:
    """Return title and text of a version; None when it is not kept any more."""
    row = await tx.fetchrow(SQL.text_of_version, tx.scope.organization_id, document_id, version)
    return None if row is None else (row["title"], row["text"])


async def write_vectors(
    tx: Transaction, acl_id: int, chunk_ids: Sequence[int], embedder_no: int, vectors: Sequence[Sequence[float]]
) -> int:
    """Write vectors and their codes where the document points; return how many passages waited for theirs."""
    texts = ["[" + ",".join(f"{value:.6g}" for value in vector) + "]" for vector in vectors]
    codes = ["".join("1" if value > 0 else "0" for value in vector) for vector in vectors]
    organization_id = tx.scope.organization_id
    await tx.execute(SQL.write_vectors, organization_id, list(chunk_ids), embedder_no, texts)
    return await tx.execute(SQL.write_codes, organization_id, list(chunk_ids), embedder_no, codes, acl_id)


async def add_sync_run(tx: Transaction, source_id: UUID, run_id: UUID, now_us: int, *, is_full: bool) -> UUID:
    """Ask for a listing, or join the one that is open; return its id."""
    organization_id = tx.scope.organization_id
    if await tx.execute(SQL.add_sync_run, organization_id, source_id, run_id, is_full, now_us):
        return run_id
    found: UUID | None = await tx.fetchval(SQL.open_sync_run, organization_id, source_id)
    return found or run_id


async def get_sync_run(tx: Transaction, run_id: UUID) -> SyncRun | None:
    """Return a listing."""
    row = await tx.fetchrow(SQL.get_sync_run, tx.scope.organization_id, run_id)
    return None if row is None else _run(row)


async def last_sync_run(tx: Transaction, source_id: UUID) -> SyncRun | None:
    """Return the newest listing of a source."""
    row = await tx.fetchrow(SQL.last_sync_run, tx.scope.organization_id, source_id)
    return None if row is None else _run(row)


async def begin_sync_run(tx: Transaction, fence: Fence, now_us: int) -> tuple[UUID, bool]:
    """Return source and fullness of a leased listing. Raises `LeaseLostError`."""
    row = await tx.fetchrow(SQL.begin_sync_run, tx.scope.organization_id, fence.key, fence.token, now_us)
    if row is None:
        raise LeaseLostError(f"{_SYNCS} {fence.key}")
    return row["source_id"], row["is_full"]


async def write_sync_run(
    tx: Transaction, fence: Fence, state: str, counts: SyncCounts, finished_us: int | None
) -> None:
    """Write what a listing did, in the transaction that did it. Raises `LeaseLostError`."""
    done = await tx.execute(
        SQL.write_sync_run,
        tx.scope.organization_id,
        fence.key,
        fence.token,
        state,
        counts.added,
        counts.changed,
        counts.acl_changed,
        counts.deleted,
        counts.quarantined,
        counts.skipped,
        to_text([list(each) for each in counts.errors]),
        finished_us,
    )
    if not done:
        raise LeaseLostError(f"{_SYNCS} {fence.key}")


def _run(row: Any) -> SyncRun:
    errors = tuple((each[0], each[1]) for each in from_text(row["errors"]))
    counts = SyncCounts(
        row["added"],
        row["changed"],
        row["acl_changed"],
        row["deleted"],
        row["quarantined"],
        row["skipped"],
        errors,
    )
    return SyncRun(
        row["id"],
        row["source_id"],
        row["state"],
        row["is_full"],
        counts,
        row["created_us"],
        row["started_us"],
        row["finished_us"],
        row["last_error"],
    )


async def due_sources(store: Store, kinds: Sequence[str], now_us: int, limit: int) -> list[tuple[UUID, UUID]]:
    """Return (organization, source) of sources whose listing is due; for the loops."""
    rows = await store.ops_single(SQL.due_sources, list(kinds), now_us, limit)
    return [(row["organization_id"], row["id"]) for row in rows]


async def forget_done_jobs(tx: Transaction) -> int:
    """Delete finished work and receipts of writers that died; for a transaction of the loops."""
    return await tx.execute(SQL.forget_done_jobs)


async def tenants(tx: Transaction) -> list[tuple[UUID, UUID]]:
    """Return every organization that has a source, with one of them; for a transaction of the loops."""
    rows = await tx.fetch(SQL.organizations_with_sources)
    return [(row["organization_id"], row["id"]) for row in rows]


async def forget_deleted_texts(tx: Transaction, before_us: int) -> int:
    """Delete the texts of documents that were deleted before a moment."""
    return await tx.execute(SQL.forget_deleted_texts, tx.scope.organization_id, before_us)
