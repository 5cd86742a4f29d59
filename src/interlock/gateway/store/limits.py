"""Rows of limits to types and back.

Opens no transactions; services and loops do.
"""

from typing import Any
from uuid import UUID

from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.scope import Scope
from interlock.foundation.store import Queries, Transaction
from interlock.gateway.domain.directory import Dimension, Limit, LimitMode, LimitScope

SQL = Queries("interlock.gateway")


def limit_of(row: Any) -> Limit:
    """Return a limit of its row."""
    return Limit(
        id=row["id"],
        organization_id=row["organization_id"],
        scope=LimitScope(row["scope"]),
        target=row["target"],
        dimension=Dimension(row["dimension"]),
        model=row["model"],
        limit=row["per_minute"],
        burst=row["burst"],
        mode=LimitMode(row["mode"]),
        version=row["version"],
    )


async def put_limit(scope: Scope, tx: Transaction, limit: Limit) -> Limit:
    """Add a limit, or replace the one of the same scope, target, dimension and model."""
    row = await tx.fetchrow(
        SQL.put_limit,
        scope.organization_id,
        limit.id,
        limit.scope,
        limit.target,
        limit.dimension,
        limit.model,
        limit.limit,
        limit.burst,
        limit.mode,
    )
    return limit_of(row)


async def delete_limit(scope: Scope, tx: Transaction, limit_id: UUID) -> Limit | None:
    """Delete a limit and its bucket; None when there is none that the scope may see."""
    row = await tx.fetchrow(SQL.delete_limit, scope.organization_id, limit_id)
    if row is None:
        return None
    await tx.execute(SQL.delete_bucket, scope.organization_id, limit_id)
    return limit_of(row)


async def list_limits(scope: Scope, tx: Transaction, after: UUID, count: int) -> list[Limit]:
    """Return limits by id, those behind `after`."""
    return [limit_of(row) for row in await tx.fetch(SQL.list_limits, scope.organization_id, after, count)]


async def all_limits(tx: Transaction, after: UUID, count: int) -> list[Limit]:
    """Return limits of all organizations by id, those behind `after`; for a transaction of the platform."""
    return [limit_of(row) for row in await tx.fetch(SQL.page_of_all_limits, after, count)]


async def limits_of(scope: Scope, tx: Transaction, tier: str | None) -> list[Limit]:
    """Return an organization's own limits and those of its tier; for a transaction of the platform."""
    return [
        limit_of(row)
        for row in await tx.fetch(SQL.limits_of_organization, scope.organization_id, SYSTEM_ORGANIZATION_ID, tier)
    ]


async def fills(scope: Scope, tx: Transaction, limit_ids: list[UUID]) -> dict[UUID, tuple[int, int]]:
    """Return level in millionths and observed refusals of 24 hours, by limit; one that was never used is absent."""
    rows = await tx.fetch(SQL.limit_fill, scope.organization_id, limit_ids)
    return {row["bucket_id"]: (row["level_micro"], row["observed_refusals"]) for row in rows}
