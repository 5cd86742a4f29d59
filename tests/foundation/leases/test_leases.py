"""Leases over a real store: one holder at a time, fenced writes, fair starts, and nothing lost with a worker."""

import asyncio
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from interlock.foundation.clock import SystemClock
from interlock.foundation.leases import LeaseLostError, LeaseSpec, LeaseTable, LeaseWorker
from interlock.foundation.leases.ticks import Tick, tick_worker
from interlock.foundation.store import Query
from interlock.foundation.store.lookout import Lookout
from tests.foundation.leases.worlds import LOOK, PURGE, SPEC, make_pair
from tests.support.store import IDS, opened

pytestmark = pytest.mark.xdist_group("leases")
DUE_AGAIN = Query("due_again", "work that nobody was told of", "UPDATE leases_ticks SET due_at = now() WHERE id = $1")


@pytest.fixture
async def pair(store):
    made = await make_pair(store)
    yield made
    async with store.ops("test") as tx:
        await tx.execute(PURGE)


async def test_a_row_is_claimed_by_one_of_many_at_once(pair, store_urls):
    async def claim(number):
        async with opened(store_urls) as own:
            table = type(pair.real)(SPEC, own)
            return [lease.key for lease in await table.claim(f"w{number}", 2)]

    claimed = [key for keys in await asyncio.gather(*(claim(number) for number in range(6))) for key in keys]
    assert len(claimed) == len(set(claimed))


async def test_a_tenant_never_has_more_in_work_than_it_may(pair):
    held = []
    while leases := await pair.real.claim("w", 10):
        held += leases
    assert len(held) == 3 * 2
    await pair.real.finish(held[0].fence, None)
    assert len(await pair.real.claim("w", 10)) == 1


async def test_starts_of_equal_tenants_differ_by_one_at_the_most(store):
    pair = await make_pair(store, tenants=3, rows=6, weights=(1.0,), running_max=1)
    starts = dict.fromkeys(pair.twin.shares, 0)
    for _ in range(12):
        (lease,) = await pair.real.claim("w", 1)
        starts[lease.organization_id, lease.workspace_id] += 1
        assert max(starts.values()) - min(starts.values()) <= 1
        await pair.real.finish(lease.fence, None)


async def test_an_old_owner_changes_nothing(pair):
    (lease, *_) = await pair.real.claim("old", 3)
    await pair.expire(lease.key)
    await pair.real.reap()
    await pair.make_due(lease.key)
    fresh = [each for each in await pair.real.claim("new", 9) if each.key == lease.key]
    with pytest.raises(LeaseLostError):
        await pair.real.finish(lease.fence, None)
    with pytest.raises(LeaseLostError):
        await pair.real.release(lease.fence, "too late", 0.0)
    assert await pair.real.renew("old", [lease.fence]) == set()
    for each in fresh:
        await pair.real.finish(each.fence, None)


async def test_a_row_whose_workers_keep_dying_is_buried_with_its_error(pair):
    spec = LeaseSpec("leases_ticks", "leases_shares", due_sql=SPEC.due_sql, ttl_s=6_000.0, attempts_max=1)
    table = type(pair.real)(spec, pair.store)
    (lease, *_) = await table.claim("w", 3)
    await pair.expire(lease.key)
    assert await table.reap() == 1
    async with pair.store.ops("test") as tx:
        row = next(row for row in await tx.fetch(LOOK) if row["id"] == lease.key)
    assert row["is_never"] and row["lease_owner"] is None


async def test_a_running_figure_that_is_wrong_is_corrected(pair):
    await pair.real.claim("w", 3)
    async with pair.store.ops("test") as tx:
        await tx._connection.execute(
            "UPDATE leases_shares SET running = 7 WHERE organization_id = ANY($1::uuid[])",
            [tenant[0] for tenant in pair.twin.shares],
        )
    assert await pair.real.recount() == 3
    assert await pair.real.recount() == 0


async def test_a_killed_worker_loses_nothing(pair, store_urls):
    """kill -9 in mid-work: the row is held, expires, is reaped and finished by another."""
    script = (
        "import asyncio, sys\n"
        "from interlock.foundation.leases import LeaseTable\n"
        "from tests.foundation.leases.worlds import SPEC\n"
        "from interlock.foundation.store import StoreUrls\n"
        "from tests.support.store import opened\n"
        "async def main():\n"
        "    async with opened(StoreUrls(*sys.argv[1:4])) as store:\n"
        "        leases = await LeaseTable(SPEC, store).claim('doomed', 3)\n"
        "        print(len(leases), flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    arguments = [sys.executable, "-c", script, store_urls.owner, store_urls.app, store_urls.ops]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as doomed:
        assert await asyncio.to_thread(doomed.stdout.readline) == "3\n"
        doomed.send_signal(signal.SIGKILL)
    for key in pair.keys:
        await pair.expire(key)
    assert await pair.real.reap() == 3
    for key in pair.keys:
        await pair.make_due(key)
    finished = set()
    while leases := await pair.real.claim("heir", 3):
        for lease in leases:
            await pair.real.finish(lease.fence, None)
            finished.add(lease.key)
    assert finished == set(pair.keys)


async def test_a_worker_runs_what_is_due_and_gives_back_what_it_cannot_end(pair):
    done, failing = [], pair.keys[0]

    async def work(lease):
        if lease.key == failing and lease.attempts == 1:
            raise ValueError("not yet")
        if lease.key == pair.keys[1]:
            await asyncio.Event().wait()
        done.append(lease.key)

    worker = LeaseWorker(SPEC, pair.real, work, SystemClock(), "w", slots=4, poll_s=0.1)
    task = asyncio.ensure_future(worker.run())
    async with asyncio.timeout(120):
        while len(done) < len(pair.keys) - 1:
            await asyncio.sleep(0.05)
    assert worker.statistics().failed == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert worker.statistics().held == 0
    assert (await pair.real.figures()).held == 0


class LateStore(LeaseTable):
    """The store lets a row go, and somebody claims it, before whoever let it go hears of that."""

    async def finish(self, fence, due_in_s):
        await super().finish(fence, due_in_s)
        await self.meanwhile()


async def test_a_row_that_is_claimed_again_before_its_old_work_has_ended_is_held_under_its_new_lease(pair, store):
    pair, works = await make_pair(store, tenants=1, rows=1), []

    async def work(lease):
        works.append((lease, asyncio.current_task()))
        if len(works) > 1:
            await asyncio.Event().wait()
        return 0.0

    table = LateStore(SPEC, store)
    worker = LeaseWorker(SPEC, table, work, SystemClock(), "w")
    async with asyncio.TaskGroup() as group:
        table.meanwhile = lambda: worker.run_once(group)
        await worker.run_once(group)
        while len(works) < 2:
            await asyncio.sleep(0)
        (old, ends), (fresh, _) = works
        await asyncio.wait({ends})
        assert (fresh.key, fresh.token) == (old.key, old.token + 1)
        assert worker.statistics().held == 1
        await pair.expire(fresh.key)
        await worker.heartbeat()
        assert worker.statistics().lost == 1
    assert worker.statistics().held == 0


async def test_ticks_are_rows_that_come_due_again(store):
    ran = []

    async def run():
        ran.append(1)

    worker = await tick_worker(store, SystemClock(), IDS, "w", [Tick("test tick", 3600.0, run)])
    worker.spec = replace(worker.spec, ttl_s=6_000.0)
    worker.store, worker.poll_s = type(worker.store)(worker.spec, store), 0.05
    task = asyncio.ensure_future(worker.run())
    async with asyncio.timeout(120):
        while not ran or worker.statistics().finished < 1:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(ran) == 1


async def test_the_question_of_a_table_has_a_row_as_long_as_a_claim_finds_one(pair):
    held = []
    while await pair.real._store.ops_single(pair.real.due):
        leases = await pair.real.claim("w", 1)
        assert len(leases) == 1
        held += leases
    assert held
    assert await pair.real.claim("w", 10) == []
    await pair.real.finish(held[0].fence, 0.0)
    assert await pair.real._store.ops_single(pair.real.due)


async def test_a_worker_runs_what_the_lookout_sees(pair):
    ran = set()

    async def work(lease):
        ran.add(lease.key)

    lookout = Lookout(pair.store, SystemClock())
    # The turn of the first look is not the worker's: only what waits can wake it.
    for _ in range(3):
        lookout.watch(Query("nothing", "nothing waits", "SELECT WHERE false"), lambda: None)
    worker = LeaseWorker(SPEC, pair.real, work, SystemClock(), "w").told_by(lookout, pair.real.due)
    worker.poll_s = 36_000.0
    task = asyncio.ensure_future(worker.run())
    async with asyncio.timeout(120):
        while worker.statistics().finished < len(pair.keys):
            await asyncio.sleep(0.02)
        ran.clear()
        async with pair.store.ops("test") as tx:
            await tx.execute(DUE_AGAIN, pair.keys[0])
        await lookout.run_once()
        while not ran:
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert ran == {pair.keys[0]}
