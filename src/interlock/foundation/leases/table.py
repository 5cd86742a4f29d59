"""The real store of leases: the templates of a spec, run as the role that may see all tenants.

Does not decide who works on what beyond the claim's order; `finish` can join the transaction of the work's result.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final
from uuid import UUID

from interlock.foundation.ids import OrganizationId, WorkspaceId
from interlock.foundation.leases.spec import Fence, Lease, LeaseLostError, LeaseSpec
from interlock.foundation.store import Query, Store, Transaction
from interlock.foundation.store.queries import parse

REAP_ROWS_MAX: Final = 500


@cache
def templates() -> dict[str, Query]:
    """Return the statements over any table of work by name; nothing runs them before a spec fills their places."""
    text = files("interlock.foundation.leases").joinpath("templates.sql").read_text(encoding="utf-8")
    return parse(text, "interlock.foundation.leases")


@dataclass(frozen=True, slots=True)
class LeaseFigures:
    """What a table of work holds right now."""

    due: int
    held: int
    oldest_due_s: float


class LeaseTable:
    """Implements `LeaseStore` over PostgreSQL for one table of work."""

    def __init__(self, spec: LeaseSpec, store: Store) -> None:
        self.spec = spec
        self._store = store
        self._reason = f"leases of {spec.table}"

    @property
    def due(self) -> Query:
        """The question for a lookout whether a claim would find anything."""
        return self._query("any_due")

    async def claim(self, owner: str, count: int) -> list[Lease]:
        rows = await self._store.ops_single(self._query("claim"), owner, count, self.spec.ttl_s, self.spec.cost)
        return [
            Lease(
                OrganizationId(row["organization_id"]),
                WorkspaceId(row["workspace_id"]),
                row["key"],
                row["lease_token"],
                row["attempts"],
            )
            for row in rows
        ]

    async def renew(self, owner: str, fences: list[Fence]) -> set[UUID]:
        keys, tokens = [fence.key for fence in fences], [fence.token for fence in fences]
        rows = await self._store.ops_single(self._query("renew"), owner, keys, tokens, self.spec.ttl_s)
        return {row["key"] for row in rows}

    async def finish(self, fence: Fence, due_in_s: float | None) -> None:
        async with self._store.ops(self._reason) as tx:
            await self.finish_in(tx, fence, due_in_s)

    async def finish_in(self, tx: Transaction, fence: Fence, due_in_s: float | None) -> None:
        """End a lease in the transaction that writes the result, so that both happen or neither."""
        await self._end(tx, self._query("finish"), fence.key, fence.token, due_in_s)

    async def release(self, fence: Fence, error: str | None, due_in_s: float) -> None:
        async with self._store.ops(self._reason) as tx:
            await self._end(tx, self._query("release"), fence.key, fence.token, error, due_in_s)

    async def reap(self) -> int:
        if not await self._store.ops_single(self._query("any_expired")):
            return 0
        async with self._store.ops(self._reason) as tx:
            rows = await tx.fetch(self._query("reap"), self.spec.attempts_max, REAP_ROWS_MAX)
            for row in rows:
                await tx.execute(self._query("unshare"), row["organization_id"], row["workspace_id"])
        return len(rows)

    async def recount(self) -> int:
        """Correct the running figures and return how many tenants had a wrong one."""
        async with self._store.ops(self._reason) as tx:
            return await tx.execute(self._query("recount"))

    async def figures(self) -> LeaseFigures:
        """Return what is due and held."""
        async with self._store.ops(self._reason) as tx:
            row = await tx.fetchrow(self._query("figures"))
        return LeaseFigures(row["due"], row["held"], row["oldest_due_s"]) if row else LeaseFigures(0, 0, 0.0)

    async def _end(self, tx: Transaction, query: Query, *values: object) -> None:
        row = await tx.fetchrow(query, *values)
        if row is None:
            raise LeaseLostError(f"{self.spec.table} {values[0]}")
        await tx.execute(self._query("unshare"), row["organization_id"], row["workspace_id"])

    def _query(self, name: str) -> Query:
        spec = self.spec
        template = templates()[name]
        named = {"table": spec.table, "shares": spec.shares_table, "key": spec.key, "tenant": spec.tenant}
        sql = template.sql
        for place, text in (named | {"due": spec.due_sql, "dead": spec.dead_sql}).items():
            sql = sql.replace("{" + place + "}", text)
        return Query(f"{spec.table}.{name}", template.why, sql)
