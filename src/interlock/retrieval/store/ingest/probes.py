"""Probes of revocation in the store: which one is due, its document, what it found.

Decides no outcome.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from interlock.foundation.ids import OrganizationId
from interlock.foundation.leases import LeaseLostError
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.domain.probing import Outcome, Probed, Standing, quantile
from interlock.retrieval.store.ingest.rows import SQL


@dataclass(frozen=True, slots=True)
class ProbeClaim:
    """A source whose probe is ours until the lease runs out; `token` is the fence of what it writes."""

    organization_id: OrganizationId
    source_id: UUID
    token: int
    document_id: UUID | None
    standing: Standing


@dataclass(frozen=True, slots=True)
class ProbeTold:
    """What a source publishes; everything is None before the first probe that came to a result."""

    is_ok: bool | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    last_us: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ProbePace:
    """When probes are due, and how long one may hold its source; see the settings of these names."""

    interval_us: int
    quiet_us: int
    lease_s: float


async def claim_probe(store: Store, owner: str, now_us: int, pace: ProbePace) -> ProbeClaim | None:
    """Take a source whose probe is due; None where there is none. For the loops."""
    rows = await store.ops_single(SQL.claim_probe, owner, now_us, pace.interval_us, pace.quiet_us, pace.lease_s)
    if not rows:
        return None
    row = rows[0]
    standing = Standing(row["failures"], tuple(row["recent_ms"]))
    return ProbeClaim(
        OrganizationId(row["organization_id"]), row["source_id"], row["lease_token"], row["document_id"], standing
    )


async def get_probe(tx: Transaction, source_id: UUID) -> ProbeTold:
    """Return what a source publishes."""
    row = await tx.fetchrow(SQL.get_probe, tx.scope.organization_id, source_id)
    if row is None:
        return ProbeTold()
    recent: Sequence[float] = row["recent_ms"]
    is_bad = row["is_ok"] is False
    return ProbeTold(
        row["is_ok"],
        quantile(recent, 0.5),
        quantile(recent, 0.99),
        row["last_us"],
        row["reason"] if is_bad else None,
    )


async def has_documents(tx: Transaction, source_id: UUID) -> bool:
    """Tell whether a source holds a live document of somebody."""
    return bool(await tx.fetchval(SQL.has_documents, tx.scope.organization_id, source_id))


async def add_probe_document(
    tx: Transaction, claim: ProbeClaim, document_id: UUID, external_id: str, at_us: int
) -> None:
    """Make the row of a probe's document and remember it. Raises `LeaseLostError`."""
    organization_id = tx.scope.organization_id
    await tx.execute(SQL.add_probe_document, organization_id, document_id, claim.source_id, external_id, at_us)
    named = await tx.execute(SQL.name_probe_document, organization_id, claim.source_id, document_id, claim.token)
    if not named:
        raise LeaseLostError(f"probe of {claim.source_id}")


async def end_probe(
    tx: Transaction, claim: ProbeClaim, probed: Probed, standing: Standing, times_us: tuple[int, int]
) -> None:
    """Write what a probe found and give its source back; the times are now and the next. Raises `LeaseLostError`."""
    now_us, next_us = times_us
    is_told = probed.outcome is not Outcome.UNKNOWN
    done = await tx.execute(
        SQL.end_probe,
        tx.scope.organization_id,
        claim.source_id,
        claim.token,
        str(probed.outcome),
        probed.reason,
        probed.outcome is Outcome.CLEAN if is_told else None,
        standing.failures,
        list(standing.recent_ms),
        now_us if is_told else None,
        next_us,
    )
    if not done:
        raise LeaseLostError(f"probe of {claim.source_id}")
