"""What people do to a task from outside is checked like a submit, and leaves nothing behind that was to be dropped."""

import asyncio
import csv
import io
import json
from dataclasses import replace

import pytest

from interlock.agents.domain.journal import Step, StepKind, StepStatus
from interlock.agents.domain.states import TaskState
from interlock.agents.domain.types import ProcessRecord
from interlock.agents.service.control import Branching, ControlService, Resumption, Verdict
from interlock.agents.service.submit import SubmitService
from interlock.agents.service.sweep import Sweeper
from interlock.agents.store.journal import SQL
from interlock.console.frame import Frame
from interlock.console.tasks import TaskPages
from interlock.foundation.control.route import Call
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import KeyBounds
from interlock.foundation.ids import format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.store import Query
from interlock.foundation.store.lookout import Lookout
from tests.agents.engine import CLOCK, Engine
from tests.support.store import IDS

ASKS = ("ask_human", {"question": "go on?"})
LATE = Query(
    "late", "a deadline passes", "UPDATE agents_tasks SET deadline_us = 1 WHERE task_id = $1 AND lease_owner IS NULL"
)
UNANSWERED = Query("unanswered", "nobody answers", "UPDATE agents_approvals SET expires_us = 1 WHERE task_id = $1")


class Vault:
    """Stands for the vault: what is sealed in it, by name."""

    def __init__(self):
        self.sealed = {}

    async def set(self, _tx, name, value):
        self.sealed[name] = value

    async def remove(self, _tx, name):
        if self.sealed.pop(name, None) is None:
            raise InterlockError("not_found")


@pytest.fixture
async def engine(store, machine, tmp_path):
    engine = await Engine.make(store, machine, tmp_path / "artifacts")
    engine.vault, engine.key = Vault(), KeyBounds(("adversary",))

    async def bounds_for(_scope, model):
        return engine.key if engine.key.allows(model) else None

    engine.submissions = SubmitService(engine.journal, machine.trees, engine.vault, bounds_for, engine.config)
    engine.control = ControlService(engine.journal, engine.submissions, Redactor())
    return engine


async def fork(engine, task, **fields):
    async with engine.store.transaction(engine.scope) as tx:
        return await engine.control.fork(tx, task.public_id, Branching(0, **fields))


async def test_a_fork_names_no_model_that_its_callers_key_may_not_use(engine):
    task = await engine.submit()
    assert (await fork(engine, task)).row["model"] == "adversary"
    with pytest.raises(InterlockError, match="model_not_found"):
        await fork(engine, task, model="dear")
    engine.key = KeyBounds(("dear",))
    with pytest.raises(InterlockError, match="model_not_found"):
        await fork(engine, task)
    assert (await fork(engine, task, model="dear")).row["model"] == "dear"


async def test_a_task_is_lent_a_key_within_the_one_that_opened_it_and_its_fork_within_the_forkers(engine):
    engine.key = KeyBounds(("adversary", "other"), "batch")
    task, _ = await engine.run(await engine.submit())
    assert engine.models.bounds == KeyBounds(("adversary", "other"), "batch")
    engine.key = KeyBounds()
    await engine.run(await fork(engine, task))
    assert engine.models.bounds == KeyBounds()


async def test_tasks_come_as_csv_newest_first_or_those_of_a_state(engine):
    done, _ = await engine.run(await engine.submit())
    waiting = await engine.submit()
    pages = TaskPages(Frame(None, CLOCK, 10), engine.reading, engine.control)

    async def rows(**query):
        reply = await pages.export(Call(IDS.new(), engine.scope.principal, engine.scope, engine.store, query=query))
        return list(csv.DictReader(io.StringIO(reply.content.decode(), newline="")))

    assert [each["id"] for each in await rows()] == [waiting.public_id, done.public_id]
    (told,) = await rows(state="complete")
    assert (told["id"], told["model"], told["tokens"]) == (done.public_id, "adversary", str(done.row["tokens_used"]))
    assert [each["state"] for each in await rows(state="no such state")] == ["queued", "complete"]


async def test_a_fork_takes_its_place_in_the_queue(engine):
    object.__setattr__(engine.config, "queued_workspace_max", 1)
    task = await engine.submit()
    with pytest.raises(InterlockError, match="queue_full"):
        await fork(engine, task)


@pytest.mark.parametrize("is_blocked", [False, True])
async def test_a_cancel_of_what_nobody_works_on_drops_its_secrets(engine, is_blocked):
    task = await engine.submit(ASKS, secrets={"TOKEN": "value-of-it"}, vault_names=("KEPT",))
    engine.vault.sealed["KEPT"] = "stays"
    assert len(engine.vault.sealed) == 2
    if is_blocked:
        task, _ = await engine.run(task)
        assert task.state is TaskState.BLOCKED
    async with engine.store.transaction(engine.scope) as tx:
        canceled, _ = await engine.control.cancel(tx, task.public_id, "")
    assert canceled.state is TaskState.CANCELED
    assert engine.vault.sealed == {"KEPT": "stays"}


async def test_a_task_names_no_secret_that_came_with_another(engine):
    other = await engine.submit(secrets={"TOKEN": "value-of-it"})
    with pytest.raises(InterlockError, match="invalid_request"):
        await engine.submit(vault_names=(f"{other.public_id}.TOKEN",))


GRANTS = ("fs.read:/task/**", "fs.write:/task/**", "ask:shell.run")
RUNS = ("run", {"command": "echo once >> log"})


async def undo(engine, task, to_step):
    async with engine.store.transaction(engine.scope) as tx:
        return await engine.control.undo(tx, task.public_id, to_step)


async def decide(engine, task, decision, note=""):
    async with engine.store.transaction(engine.scope) as tx:
        row = await tx.fetchrow(SQL.pending_approval, *task.key)
        verdict = Verdict(format_id("apr", row["approval_id"]), decision, note)
        await engine.control.approve(tx, task.public_id, verdict)


async def go_on(engine, task, **fields):
    async with engine.store.transaction(engine.scope) as tx:
        await engine.control.resume(tx, task.public_id, Resumption(**fields))
    return (await engine.run(task))[0]


async def performed(engine, task):
    return [step for step in await engine.steps(task) if step.kind is StepKind.TOOL and step.tool == "run"]


@pytest.mark.parametrize("decision", [None, "deny"])
async def test_an_undo_of_an_undo_brings_back_no_answer_that_nobody_gave(engine, decision):
    task, _ = await engine.run(await engine.submit(RUNS, ASKS, tools=(*GRANTS, "human.ask")))
    asked_at = task.row["head_step"]
    if decision is not None:
        await decide(engine, task, decision)
        task, _ = await engine.run(task)
        assert task.row["reason"] == "input_required"
    await undo(engine, task, asked_at - 1)
    await undo(engine, task, asked_at)
    task = await go_on(engine, task)
    assert (task.state, task.row["reason"]) == (TaskState.BLOCKED, "approval_required")
    assert [step.status for step in await performed(engine, task) if step.is_live] == []


async def test_an_approval_is_for_one_run_of_its_call(engine):
    """An undo to the moment of the approval takes the run back; whoever wants another one asks for it."""
    task, _ = await engine.run(await engine.submit(RUNS, ASKS, tools=(*GRANTS, "human.ask")))
    asked_at = task.row["head_step"]
    await decide(engine, task, "approve")
    task, _ = await engine.run(task)
    assert task.row["reason"] == "input_required"
    await undo(engine, task, asked_at)
    task = await go_on(engine, task)
    assert (task.state, task.row["reason"]) == (TaskState.BLOCKED, "approval_required")
    assert [step.status for step in await performed(engine, task)] == [StepStatus.UNDONE]
    await decide(engine, task, "approve")
    task, _ = await engine.run(task)
    assert [step.status for step in await performed(engine, task)] == [StepStatus.UNDONE, StepStatus.DONE]


SECRET = "sk-" + "proj-" + "y" * 40


async def test_a_secret_in_what_people_say_of_a_task_is_kept_nowhere(engine):
    task, _ = await engine.run(await engine.submit(RUNS, ASKS, tools=(*GRANTS, "human.ask")))
    await decide(engine, task, "approve", f"use {SECRET}")
    task, _ = await engine.run(task)
    task = await go_on(engine, task, answer=f"it is {SECRET}")
    forked = await fork(engine, task, goal=f"script:[] {SECRET}")
    async with engine.store.transaction(engine.scope) as tx:
        await engine.control.cancel(tx, forked.public_id, f"wrong: {SECRET}")
    async with engine.store.ops("what is kept in a test") as tx:
        kept = [
            str(await tx._connection.fetch(f"SELECT * FROM {table} WHERE organization_id = $1", task.organization_id))
            for table in ("agents_tasks", "agents_steps", "agents_events", "agents_approvals", "audit_events")
        ]
    assert SECRET not in "".join(kept)
    assert "".join(kept).count("[redacted:openai_key]") >= 4


async def test_a_fork_asks_again_for_what_was_allowed_in_the_task_it_comes_from(engine):
    task, _ = await engine.run(await engine.submit(RUNS, tools=GRANTS))
    asked_at = task.row["head_step"]
    await decide(engine, task, "approve")
    async with engine.store.transaction(engine.scope) as tx:
        made = await engine.control.fork(tx, task.public_id, Branching(asked_at))
    for each in (task, made):
        await engine.run(each)
    task, made = [await engine.journal.find(engine.scope, each.id) for each in (task, made)]
    assert task.state is TaskState.COMPLETE
    assert (made.state, made.row["reason"]) == (TaskState.BLOCKED, "approval_required")
    assert await performed(engine, made) == []


async def test_a_cancel_of_a_blocked_task_sees_the_end_of_what_it_left_running(engine):
    task, _ = await engine.run(await engine.submit(ASKS))
    record = ProcessRecord("here", "an-earlier-boot", 1, 1, 1, 0)
    await engine.journal.process_started(task, task.row["head_step"], record, 1.0)
    async with engine.store.transaction(engine.scope) as tx:
        _, is_over = await engine.control.cancel(tx, task.public_id, "")
    assert not is_over
    task, _ = await engine.run(task)
    assert task.state is TaskState.CANCELED
    async with engine.store.transaction(engine.scope) as tx:
        assert await tx.fetch(SQL.live_processes, *task.key) == []


async def test_a_cancel_needs_no_slot_where_a_leg_broke_off(engine):
    task = await engine.submit()
    lease = next(each for each in await engine.table.claim("broken", 50) if each.key == task.id)
    await engine.journal.start(task, lease.token)
    await engine.journal.begin(task, lease.token, Step(1, StepKind.MODEL, StepStatus.INTENT))
    await engine.table.release(lease.fence, "it broke", 3_600.0)
    async with engine.store.transaction(engine.scope) as tx:
        _, is_over = await engine.control.cancel(tx, task.public_id, "")
    assert not is_over
    assert await engine.store.ops_single(SQL.any_canceled_unheld)
    await engine.worker.cancel_unheld()
    task = await engine.journal.find(engine.scope, task.id)
    assert (task.state, json.loads(task.row["cancel_proof"])["kind"]) == (TaskState.CANCELED, "not_running")
    assert await engine.reading.fsck(engine.scope, task) == []


async def test_events_of_a_task_that_ended_long_ago_are_deleted_and_said_to_be(engine):
    old, waiting = await engine.submit(), await engine.submit()
    async with engine.store.transaction(engine.scope) as tx:
        await engine.control.cancel(tx, old.public_id, "")
    sweeper = Sweeper(engine.journal, engine.worker.forget_secrets)
    await sweeper.forget_once()
    old = await engine.journal.find(engine.scope, old.id)
    head = old.row["head_event"]
    assert len(await engine.reading.events(engine.scope, old, 0)) == head >= 2
    engine.journal.config = replace(engine.journal.config, events_kept_s=0.0)
    assert await sweeper.forget_once() >= head
    with pytest.raises(InterlockError) as expired:
        await engine.reading.events(engine.scope, old, head - 1)
    assert (expired.value.code, expired.value.http_status) == ("events_expired", 410)
    assert await engine.reading.events(engine.scope, old, head) == []
    assert await engine.reading.fsck(engine.scope, old) == []
    assert len(await engine.reading.events(engine.scope, waiting, 0)) == waiting.row["head_event"]
    engine.journal.config = replace(engine.journal.config, events_kept_s=3_600.0)
    assert "events: 0 of 0" in (await engine.reading.fsck(engine.scope, old))[0]


async def test_what_the_sweeper_has_to_end_is_seen_by_the_lookout(engine):
    asking, _ = await engine.run(await engine.submit(RUNS, ASKS, tools=(*GRANTS, "human.ask")))
    assert (asking.state, asking.row["reason"]) == (TaskState.BLOCKED, "approval_required")
    sweeper, late = Sweeper(engine.journal, engine.worker.forget_secrets), await engine.submit()
    lookout = Lookout(engine.store, engine.journal.clock)
    # The turns of both looks are others': only what is late can wake the sweeper.
    for _ in range(3):
        lookout.watch(Query("nothing", "nothing waits", "SELECT WHERE false"), lambda: None)
    sweeper.told_by(lookout)
    loop = asyncio.ensure_future(sweeper.run())
    for due, ended in ((LATE, late), (UNANSWERED, asking)):
        async with engine.store.transaction(engine.scope) as tx:
            await tx.execute(due, ended.id)
        await lookout.run_once()
        while (await engine.journal.find(engine.scope, ended.id)).state is not TaskState.FAILED:
            await asyncio.sleep(0.05)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
