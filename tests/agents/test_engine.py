"""The task engine over a real store: killed between any two writes, it comes to the same end, and its books agree."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from interlock.agents.domain.journal import Step, StepKind, StepStatus, revived
from interlock.agents.domain.loop import CallModel, LoopLimits, next_action
from interlock.agents.domain.states import FINAL, TRANSITIONS, TaskState
from interlock.agents.domain.types import Probe, ProbeReport
from interlock.agents.service.control import Branching, Resumption
from interlock.foundation.errors import InterlockError
from interlock.foundation.leases import LeaseLostError
from interlock.foundation.store import CheckViolation
from tests.agents.engine import Engine

SCRIPT = (
    ("write_file", {"path": "b.txt", "content": "two\n"}),
    ("apply_edits", {"edits": [{"path": "a.txt", "old": "one", "new": "three"}]}),
    ("save_artifact", {"name": "kept", "path": "a.txt"}),
    ("delete_file", {"path": "b.txt"}),
)


SHORT = (SCRIPT[1],)


@pytest.fixture
async def engine(store, machine, tmp_path):
    return await Engine.make(store, machine, tmp_path / "artifacts")


async def require_clean(engine, task):
    assert await engine.reading.fsck(engine.scope, task) == []
    seqs = [each.seq for each in await engine.reading.events(engine.scope, task, 0)]
    assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.long
async def test_kill_between_any_two_writes(engine):
    """Every boundary: before and after each write of the undisturbed run."""
    undisturbed, _ = await engine.run(await engine.submit(*SHORT))
    assert undisturbed.state is TaskState.COMPLETE
    points = engine.journal.points
    assert points > 20
    for point in range(1, points + 1):
        engine.journal.fuse = point
        task, deaths = await engine.run(await engine.submit(*SHORT))
        assert (task.state, task.row["tree"]) == (TaskState.COMPLETE, undisturbed.row["tree"]), point
        # After the last write there is nothing left to be lost, though its writer did not live to hear of it.
        assert deaths == 1, point
        steps = await engine.steps(task)
        performed = [(step.model_seq, step.call_id) for step in steps if step.kind is StepKind.TOOL and step.is_live]
        assert len(performed) == len(set(performed)) == len(SHORT) + 1, point
        await require_clean(engine, task)
    engine.journal.fuse = None
    assert engine.models.lent == 0


async def cancel(engine, task):
    async with engine.store.transaction(engine.scope) as tx:
        await engine.control.cancel(tx, task.public_id, "")
    engine.worker.told(f"cancel {task.public_id}")


@pytest.mark.long
async def test_a_cancel_in_any_phase_of_a_task_ends_it(engine):
    """While it is claimed, its tree is laid out, the model is asked, a step is written, it is ended: at each point."""
    engine.journal.phases = 0
    await engine.run(await engine.submit())
    phases, begun = engine.journal.phases, []
    assert phases > 20
    for phase in range(1, phases):
        task = await engine.submit()
        engine.journal.phases = 0

        def strike(number, task=task, phase=phase):
            if number == phase:
                begun.append(asyncio.ensure_future(cancel(engine, task)))

        engine.journal.on_phase = strike
        await engine.run(task)
        engine.journal.on_phase = None
        await asyncio.gather(*begun, return_exceptions=True)
        task, _ = await engine.run(task)
        assert task.state in {TaskState.CANCELED, TaskState.COMPLETE}, phase
        is_asked = task.row["cancel_requested_us"] is not None
        assert (task.state is TaskState.CANCELED) is is_asked, phase
        await require_clean(engine, task)
    assert engine.models.lent == 0


async def test_a_worker_that_was_stalled_is_refused_by_the_token(engine):
    task = await engine.submit(*SCRIPT)
    first = next(each for each in await engine.table.claim("stalled", 50) if each.key == task.id)
    await engine.journal.start(task, first.token)
    async with engine.store.ops("the stalled worker's lease ends") as tx:
        await tx._connection.execute("UPDATE agents_tasks SET lease_owner = NULL WHERE task_id = $1", task.id)
    done, _ = await engine.run(task)
    assert done.state is TaskState.COMPLETE
    step = Step(99, StepKind.MODEL, StepStatus.INTENT)
    with pytest.raises(LeaseLostError):
        await engine.journal.begin(task, first.token, step)
    await require_clean(engine, done)


async def test_a_state_folder_that_is_gone_is_rebuilt_from_rows_and_artifacts(engine, machine):
    task = await engine.submit(*SCRIPT, ("ask_human", {"question": "go on?"}), SCRIPT[0])
    blocked, _ = await engine.run(task)
    assert blocked.row["reason"] == "input_required"
    await machine.trees.remove(machine.trees.place(task.public_id, machine.slot))
    async with engine.store.transaction(engine.scope) as tx:
        await engine.control.resume(tx, task.public_id, Resumption(answer="yes"))
    done, _ = await engine.run(task)
    assert done.state is TaskState.COMPLETE
    assert {path for step in await engine.steps(done) for path in step.changed} == {"a.txt", "b.txt"}
    await require_clean(engine, done)


async def test_a_full_queue_is_refused_with_a_wait(engine):
    object.__setattr__(engine.config, "queued_workspace_max", 2)
    await engine.submit()
    await engine.submit()
    with pytest.raises(InterlockError, match="queue_full") as refused:
        await engine.submit()
    assert refused.value.retry_after_s >= 1


async def test_without_a_sandbox_what_runs_a_process_waits_and_what_runs_none_goes_on(engine, machine, monkeypatch):
    failed = Probe("bwrap_starts", False, 0.0, "ENOENT", "no program", "install bubblewrap")
    monkeypatch.setattr(machine.sandbox, "_box", None)
    monkeypatch.setattr(machine.sandbox, "_report", ProbeReport(None, (failed,)))
    shell, _ = await engine.run(await engine.submit(("run", {"command": "true"})))
    assert (shell.state, shell.row["reason"]) == (TaskState.BLOCKED, "sandbox_unavailable")
    told = {"probe": "bwrap_starts", "errno": "ENOENT", "fix": "install bubblewrap"}
    assert json.loads(shell.row["detail"]) == told
    files, _ = await engine.run(await engine.submit(("write_file", {"path": "b.txt", "content": "two\n"})))
    assert files.state is TaskState.COMPLETE


NAMES = r"""
import os
for name in (b"new\nline", b"\xff\xfe", b"-rf", b"quo\"te'", b"a\\b", b"\x01", b"x" * 255, b"HEAD", b"%s", b"<script>"):
    open(name, "wb").write(b"\x00\xff\n" + name)
os.makedirs(b"two\n/lines\n")
open(b"two\n/lines\n/three", "w").write("3")
os.symlink(b"/etc/passwd", b"out\nside")
"""


async def test_names_that_are_no_text_are_kept_journalled_and_taken_along_by_a_fork(engine):
    task, _ = await engine.run(await engine.submit(("run", {"command": f"python3 - <<'PROGRAM'\n{NAMES}\nPROGRAM"})))
    assert task.state is TaskState.COMPLETE
    step = next(step for step in await engine.steps(task) if step.tool == "run")
    assert (step.status, step.error, len(step.changed)) == (StepStatus.DONE, None, 12)
    await require_clean(engine, task)
    async with engine.store.transaction(engine.scope) as tx:
        made = await engine.control.fork(tx, task.public_id, Branching(task.row["head_step"], goal="script:[]"))
    fork, _ = await engine.run(made)
    assert (fork.state, fork.row["tree"]) == (TaskState.COMPLETE, task.row["tree"])


async def test_the_table_of_states_is_the_check_of_the_store_and_the_one_in_the_docs(store):
    states = [str(state) for state in TaskState]
    async with store.ops("what the store lets pass") as tx:
        rows = await tx._connection.fetch(
            "SELECT before, after FROM unnest($1::text[]) AS before, unnest($2::text[]) AS after"
            " WHERE agents_task_moves(before, after)",
            [None, *states],
            states,
        )
    in_store = {(row["before"], row["after"]) for row in rows}
    documented = Path(__file__).parents[2] / "docs" / "design" / "agents.md"
    in_docs = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", documented.read_text(), re.MULTILINE))
    in_code = {(str(before), str(after)) for before, afters in TRANSITIONS.items() for after in afters}
    assert in_store - {(None, "queued")} == in_code == in_docs
    assert (None, "queued") in in_store
    assert {"failed", "canceled", "complete"} == FINAL


async def test_a_task_that_does_not_fit_its_state_is_refused_by_the_store(engine, store):
    task = await engine.submit()
    for assignment in (
        "state = 'complete', state_before = 'queued', ended_us = 1",
        "state = 'complete', state_before = NULL, ended_us = 1",
        "state = 'failed', state_before = 'queued'",
        "state = 'canceled', state_before = 'queued', ended_us = 1",
        "ended_us = 1",
        "state = 'idle'",
        "priority = 10",
        "verify_state = 'maybe'",
        "on_budget = 'ignore'",
        "principal_kind = 'task'",
        *(f"{each}_limit = -1" for each in ("tokens", "usd", "steps", "tool_ms")),
    ):
        with pytest.raises(CheckViolation):
            async with store.ops("a row that cannot be") as tx:
                await tx._connection.execute(f"UPDATE agents_tasks SET {assignment} WHERE task_id = $1", task.id)


def test_an_undo_that_goes_behind_another_one_brings_back_what_that_took():
    steps = [
        Step(1, StepKind.MODEL, StepStatus.DONE),
        Step(2, StepKind.TOOL, StepStatus.UNDONE),
        Step(3, StepKind.TOOL, StepStatus.UNDONE),
        Step(4, StepKind.UNDO, StepStatus.DONE, args='{"to_step": 1}'),
        Step(5, StepKind.TOOL, StepStatus.DONE),
    ]
    assert revived(steps, 3) == [2, 3]
    assert revived(steps, 5) == []


def test_an_empty_journal_asks_the_model():
    assert next_action([], LoopLimits(10)) == CallModel()
