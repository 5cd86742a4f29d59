"""Leases under crashes, stalls and several workers: what must hold in every seed."""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from interlock.foundation.leases import Fence, Lease, LeaseLostError, LeaseSpec, LeaseWorker
from interlock.foundation.sim import Nemesis, SimClock, SimDice, SimProcess
from interlock.foundation.sim.leases import CrashableLeases, LeaseTwin, Row, Share

SPEC = LeaseSpec("work", "shares", ttl_s=3.0, attempts_max=1_000)


class Careless(LeaseSpec):
    """The planted bug, with writes that do not look at their fence: a holder that never gives up by itself."""

    @property
    def give_up_s(self):
        return 1e9


TENANTS = 3
ROWS = 6
WORKERS = 3
TROUBLE_S = 30.0
DONE_WITHIN_S = 400.0


@dataclass
class Witness:
    """Sees every accepted write and knows what must not happen."""

    writes: dict[UUID, list[int]] = field(default_factory=dict)
    finished: dict[UUID, int] = field(default_factory=dict)

    def wrote(self, fence: Fence) -> None:
        tokens = self.writes.setdefault(fence.key, [])
        assert not tokens or fence.token >= tokens[-1], f"an old owner wrote: {fence.token} after {tokens[-1]}"
        assert fence.key not in self.finished, "a write after the end"
        tokens.append(fence.token)

    def ended(self, fence: Fence) -> None:
        assert fence.key not in self.finished, "the same work ended twice"
        self.finished[fence.key] = fence.token


@dataclass
class Watched(LeaseTwin):
    """The twin with a witness; `is_fenced` off is the planted bug: a write without looking at its fence."""

    witness: Witness = field(default_factory=Witness)
    is_fenced: bool = True

    async def write(self, fence: Fence) -> None:
        if self.is_fenced and not self.is_current(fence):
            raise LeaseLostError(str(fence.key))
        self.witness.wrote(fence)

    async def finish(self, fence: Fence, due_in_s: float | None) -> None:
        if self.is_fenced:
            await LeaseTwin.finish(self, fence, due_in_s)
            self.witness.ended(fence)
            return
        self.witness.ended(fence)
        row = self.rows[fence.key]
        if row.owner is not None:
            self._free(row, None)


async def scenario(dice: SimDice, clock: SimClock, *, is_fenced: bool = True) -> int:
    """Run the world to its end; returns how many processes crashed on the way."""
    spec = SPEC if is_fenced else Careless(SPEC.table, SPEC.shares_table, ttl_s=SPEC.ttl_s, attempts_max=1_000)
    table = Watched(spec, clock, is_fenced=is_fenced)
    for number in range(TENANTS):
        tenant = (UUID(int=number + 1), UUID(int=number + 1))
        table.shares[tenant] = Share(weight=dice.pick(1.0, 2.0), running_max=dice.pick(1, 2, 4))
        for each in range(ROWS):
            key = UUID(int=(number + 1) * 1_000 + each)
            table.rows[key] = Row(tenant, key, priority=dice.randrange(2))
    # The longest pause outlives a lease, its reaping and its backoff: another worker has the row by then.
    nemesis = Nemesis(clock, dice, crash=0.02, pause=0.1, pause_s=(0.05, 0.5, 15.0))
    async with asyncio.TaskGroup() as group:
        workers = [
            group.create_task(nemesis.keep_alive(boot(table, clock, dice, number), 0.5)) for number in range(WORKERS)
        ]
        group.create_task(watch(table, clock))
        await clock.sleep(TROUBLE_S)
        nemesis.calm()
        await until_done(table, clock)
        nemesis.stop()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    check_the_end(table)
    return nemesis.crashes


def boot(table: Watched, clock: SimClock, dice: SimDice, number: int):
    async def life(process: SimProcess) -> None:
        async def work(lease: Lease) -> float | None:
            for _ in range(3):
                await clock.sleep(dice.pick(0.0, 0.1, 1.0))
                await process.point()
                await table.write(lease.fence)
            return None

        store = CrashableLeases(table, process)
        await LeaseWorker(table.spec, store, work, clock, f"worker-{number}", slots=2, poll_s=0.5).run()

    return life


async def watch(table: Watched, clock: SimClock) -> None:
    while len(table.witness.finished) < TENANTS * ROWS:
        for tenant, share in table.shares.items():
            held = sum(row.owner is not None for row in table.rows.values() if row.tenant == tenant)
            assert held == share.running <= share.running_max, (held, share)
        await clock.sleep(0.1)


async def until_done(table: Watched, clock: SimClock) -> None:
    deadline = clock.monotonic() + DONE_WITHIN_S
    while len(table.witness.finished) < TENANTS * ROWS:
        assert clock.monotonic() < deadline, f"stuck: {table.rows.values()}"
        await clock.sleep(0.5)


def check_the_end(table: Watched) -> None:
    assert all(share.running == 0 for share in table.shares.values())
    assert all(row.owner is None for row in table.rows.values())
    assert all(len(table.witness.writes[key]) >= 3 for key in table.rows)
