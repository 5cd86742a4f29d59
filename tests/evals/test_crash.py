"""kill -9 of a worker at every step of a run: no score is lost, none is made twice, the numbers are the same."""

import asyncio
import multiprocessing
import signal

import pytest

from interlock.evals.domain.evidence import verify_bundle
from interlock.evals.service.running import RUN_LEASES
from interlock.foundation.ids import parse_id
from interlock.foundation.leases import LeaseLostError, LeaseTable
from tests.evals import crashing_worker
from tests.evals.eval_world import patient

# Each worker is a process of its own, but what it imports is imported once.
WORKERS = multiprocessing.get_context("forkserver")
WORKERS.set_forkserver_preload(["tests.evals.crashing_worker"])
STEPS = (
    "after_the_claim", "before_the_call", "after_the_call", "before_the_commit", "after_the_commit",
    "before_the_bundle", "after_the_bundle", "before_the_lease_ends",
)  # fmt: skip
TARGETS = {
    "candidate": {"kind": "route", "route": "shop", "version": 2}, "baseline": {"kind": "route", "route": "shop"},
}  # fmt: skip


async def crash(lab, store_urls, folder, step):
    given = {
        "urls": {name: getattr(store_urls, name) for name in ("owner", "app", "ops")}, "step": step, "at": 21,
        "folder": str(folder), "organization_id": str(lab.world.owner.organization_id),
    }  # fmt: skip
    process = WORKERS.Process(target=crashing_worker.run, args=(given,))
    process.start()
    await asyncio.to_thread(process.join)
    assert process.exitcode == -signal.SIGKILL


async def expire(store, run_id):
    """Let the dead worker's lease end now, and take the row back as the reaper does."""
    async with store.ops("a lease of a test ends") as tx:
        await tx._connection.execute(
            "UPDATE evals_runs SET lease_expires_at = now() - interval '1 s' WHERE id = $1 AND lease_owner IS NOT NULL",
            run_id,
        )
    await LeaseTable(RUN_LEASES, store).reap()
    async with store.ops("and its backoff is over") as tx:
        await tx._connection.execute(
            "UPDATE evals_runs SET due_at = now() WHERE id = $1 AND lease_owner IS NULL", run_id
        )


async def scored(lab, run_id):
    async with lab.store.transaction(lab.scope) as tx:
        rows = await tx._connection.fetch(
            "SELECT key, arm, epoch, xmin::text AS written FROM evals_samples WHERE run_id = $1 AND state <> 'due'",
            run_id,
        )
    return {(row["key"], row["arm"], row["epoch"]): row["written"] for row in rows}


@pytest.mark.parametrize("step", STEPS)
async def test_kill_and_resume_gives_the_same_bundle_numbers(lab, store, store_urls, tmp_path, step):
    await lab.push(count=30)
    lab.models.answer = lambda text, _version, _tries: f"answer {text[1:]}."
    started = await lab.ok("POST", "/v1/evals/runs", {"suite": "policy", "concurrency": 4, **TARGETS}, 202)
    run_id = parse_id("run", started["id"])
    await crash(lab, store_urls, tmp_path, step)
    before = await scored(lab, run_id)
    await expire(store, run_id)
    await lab.drain()
    found = await lab.ok("GET", f"/v1/evals/runs/{started['id']}")
    assert found["state"] == "complete"
    after = await scored(lab, run_id)
    assert len(after) == 60
    # What was committed before the kill was not written again: the very same row versions.
    assert {key: after[key] for key in before} == before
    bundle = await lab.call("GET", f"/v1/evals/runs/{started['id']}/evidence")
    verified = verify_bundle(bundle.content)
    assert verified.ok
    assert verified.numbers["completeness"] == {
        "expected": 60, "scored": 60, "errored": 0, "missing": 0, "complete": True,
    }  # fmt: skip
    assert verified.numbers["paired"]["both_pass"] == 30
    # Asked again is at most what was in flight or not yet committed.
    assert len(lab.models.asked) == 60 - len(before)


async def test_a_worker_that_lost_its_run_writes_nothing_more(lab, store):
    await lab.push(count=5)
    started = await lab.ok("POST", "/v1/evals/runs", {"suite": "policy", **TARGETS}, 202)
    run_id = parse_id("run", started["id"])
    table = LeaseTable(patient(RUN_LEASES), store)
    lease = next(each for each in await table.claim("slow", 50) if each.key == run_id)

    def stolen(text, _version, _tries):
        return f"answer {text[1:]}."

    lab.models.answer = stolen
    chat = lab.models.chat

    async def taken_meanwhile(credential, call):
        found = await chat(credential, call)
        if len(lab.models.asked) == 10:
            await expire(store, run_id)
        return found

    lab.models.chat = taken_meanwhile
    with pytest.raises(LeaseLostError):
        await lab.work[RUN_LEASES](lease)
    assert await scored(lab, run_id) == {}
    lab.models.chat = chat
    await lab.drain()
    assert len(await scored(lab, run_id)) == 10
