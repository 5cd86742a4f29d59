"""What the store knows of requests that ended in a pool: one of them, the newest, those of the last hour.

Decides nothing about who may read it: who asks has read the request's story first.
"""

from typing import Any
from uuid import UUID

from interlock.foundation.ids import format_id
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store
from interlock.scheduler.domain.last_hour import HourRow
from interlock.scheduler.store import SQL


class Decisions:
    """Reads decision records."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def one(self, organization_id: UUID, workspace_id: UUID, request_id: str) -> dict[str, Any] | None:
        """Return the newest record of a request; None where it never came to a pool, or is not written yet."""
        async with self.store.ops("the decision beside a story") as tx:
            row = await tx.fetchrow(SQL.decision, organization_id, workspace_id, request_id)
        return None if row is None else dict(row)

    async def last_hour(self, pool: str, since_us: int, rows_max: int) -> list[HourRow]:
        """Return what ended in a pool since then, newest first, at most `rows_max`."""
        async with self.store.ops("the last hour of a pool") as tx:
            rows = await tx.fetch(SQL.last_hour, pool, since_us, rows_max)
        return [
            HourRow(
                format_id("org", row["organization_id"]), row["class"], row["outcome"], row["at_us"], row["total_ms"],
                row["queue_wait_ms"], row["ttft_ms"], row["is_in_slo"], row["output_tokens"], row["input_tokens"],
                row["cached_tokens"], row["engine_id"],
            )
            for row in rows
        ]  # fmt: skip

    async def newest(self, scope: Scope) -> str | None:
        """Return the request that ended last in a scope."""
        async with self.store.transaction(scope) as tx:
            found: str | None = await tx.fetchval(SQL.newest_decision, scope.organization_id)
        return found
