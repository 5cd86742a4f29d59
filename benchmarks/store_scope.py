"""What a scope costs: the same transaction with and without row-level security, interleaved in one run.

Does not measure several connections; a scope costs the server, and that shows best alone.
"""

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg
from tests.support.store import IDS, running_store, scope_of

from benchmarks.record import record
from interlock.foundation.clock import SystemClock
from interlock.foundation.scope import Scope
from interlock.foundation.store import Query, Store

Pick = tuple[Scope, UUID]
ROUNDS = 400
BATCH = 10
TENANTS = 20
ROWS = 500
SCHEMA = """
CREATE TABLE {name} (organization_id uuid NOT NULL, workspace_id uuid NOT NULL, id uuid NOT NULL, body text NOT NULL,
  PRIMARY KEY (organization_id, workspace_id, id));
GRANT SELECT, INSERT, UPDATE ON {name} TO interlock_app;
"""
POLICY = """
ALTER TABLE scoped ENABLE ROW LEVEL SECURITY;
CREATE POLICY scoped_tenant ON scoped TO interlock_app
  USING (organization_id = current_setting('interlock.organization_id')::uuid
    AND workspace_id = coalesce(nullif(current_setting('interlock.workspace_id'), '*')::uuid, workspace_id));
"""
READ = "SELECT id, body FROM {name} WHERE organization_id = $1 AND workspace_id = $2 AND id = $3"
WRITE = "UPDATE {name} SET body = $4 WHERE organization_id = $1 AND workspace_id = $2 AND id = $3"


async def fill(owner: Any, scopes: list[Scope]) -> list[UUID]:
    ids = [IDS.new() for _ in range(ROWS)]
    for name in ("bare", "scoped"):
        await owner.execute(SCHEMA.format(name=name))
        rows = [(s.organization_id, s.workspace_id, each, "x" * 200) for s in scopes for each in ids]
        await owner.copy_records_to_table(name, records=rows)
    await owner.execute(POLICY)
    await owner.execute("ALTER TABLE scoped FORCE ROW LEVEL SECURITY")
    await owner.execute("ANALYZE bare, scoped")
    return ids


async def with_scope(store: Store, read: Query, write: Query | None, pick: Pick) -> None:
    scope, row_id = pick
    async with store.transaction(scope) as tx:
        await tx.fetchrow(read, scope.organization_id, scope.workspace_id, row_id)
        if write:
            await tx.execute(write, scope.organization_id, scope.workspace_id, row_id, "y" * 200)


async def without_scope(store: Store, read: Query, write: Query | None, pick: Pick) -> None:
    scope, row_id = pick
    # The same pool and so the same connection: which core a server process sits on outweighs any policy.
    async with store._transaction(store._app, "BEGIN", None) as tx:  # noqa: SLF001 - no public way past the scope
        await tx.fetchrow(read, scope.organization_id, scope.workspace_id, row_id)
        if write:
            await tx.execute(write, scope.organization_id, scope.workspace_id, row_id, "y" * 200)


async def timed(work: Callable[[Pick], Awaitable[None]], picks: list[Pick]) -> float:
    began = perf_counter()
    for pick in picks:
        await work(pick)
    return (perf_counter() - began) / len(picks) * 1e6


def queries(table: str, *, writes: bool) -> tuple[Query, Query | None]:
    write = Query("write", "one row", WRITE.format(name=table)) if writes else None
    return Query("read", "one row", READ.format(name=table)), write


async def compare(store: Store, scopes: list[Scope], ids: list[UUID], *, writes: bool) -> tuple[float, float]:
    scoped = partial(with_scope, store, *queries("scoped", writes=writes))
    plain = partial(without_scope, store, *queries("bare", writes=writes))
    took: dict[str, list[float]] = {"with": [], "without": []}
    for number in range(-20, ROUNDS if not writes else ROUNDS // 4):
        picks = [(scopes[(number + each) % TENANTS], ids[(number * 7 + each) % ROWS]) for each in range(BATCH)]
        # The order changes each round, so that neither side always pays for the other's leftovers.
        pair = [("with", scoped), ("without", plain)]
        for name, work in pair if number % 2 else reversed(pair):
            micros = await timed(work, picks)
            if number >= 0:
                took[name].append(micros)
    return statistics.median(took["with"]), statistics.median(took["without"])


async def main() -> int:
    scopes = [scope_of(IDS.new(), IDS.new()) for _ in range(TENANTS)]
    async with running_store() as (_, urls):
        owner = await asyncpg.connect(urls.superuser, database="interlock")
        store = await Store.open(urls, application_name="bench", connections_max=1, clock=SystemClock())
        # Before the table without policies is there, which a store would refuse at its opening.
        ids = await fill(owner, scopes)
        rows = [
            (kind, *await compare(store, scopes, ids, writes=kind == "read + write"))
            for kind in ("read", "read + write")
        ]
        await store.close()
        await owner.close()
    print(f"{'transaction':<14}{'with scope, us':>16}{'without, us':>14}{'ratio':>8}   goal <= 1.6")
    met = True
    for kind, scoped, plain in rows:
        print(f"{kind:<14}{scoped:>16.0f}{plain:>14.0f}{scoped / plain:>8.2f}")
        met &= record(f"store_scope {kind}", scoped / plain, "ratio", "lower", 1.6)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
