"""The platform's own recurring work as leased rows: each tick runs on one worker at a time, wherever there are several.

Does not know what a tick does; the wiring names them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.foundation.clock import Clock
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory
from interlock.foundation.leases.spec import Lease, LeaseSpec
from interlock.foundation.leases.table import LeaseTable
from interlock.foundation.leases.worker import LeaseWorker
from interlock.foundation.store import Queries, Store
from interlock.foundation.store.lookout import Lookout

QUERIES: Final = Queries("interlock.foundation.leases")
# A tick that keeps failing is never buried: its last error stays on the row and in the log.
TICKS: Final = LeaseSpec("leases_ticks", "leases_shares", attempts_max=1_000_000)
PLATFORM_WORKSPACE: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Tick:
    """Work that is due again `every_s` after it ended well."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[object]]


async def tick_worker(
    store: Store, clock: Clock, ids: IdFactory, owner: str, ticks: list[Tick], lookout: Lookout | None = None
) -> LeaseWorker:
    """Make a row for each tick that has none, and return the worker that runs them."""
    async with store.ops("ticks are known to the store") as tx:
        await tx.execute(QUERIES.add_tick_share, SYSTEM_ORGANIZATION_ID, PLATFORM_WORKSPACE)
        for tick in ticks:
            await tx.execute(QUERIES.add_tick, SYSTEM_ORGANIZATION_ID, PLATFORM_WORKSPACE, ids.new(), tick.name)
        rows = await tx.fetch(QUERIES.list_ticks)
    known = {tick.name: tick for tick in ticks}
    by_key = {row["id"]: known[row["name"]] for row in rows if row["name"] in known}

    async def run(lease: Lease) -> float | None:
        tick = by_key.get(lease.key)
        if tick is None:
            return None
        await tick.run()
        return tick.every_s

    table = LeaseTable(TICKS, store)
    worker = LeaseWorker(TICKS, table, run, clock, owner)
    return worker if lookout is None else worker.told_by(lookout, table.due)
