"""The check that decides: on an export, in a sandbox of its own, with files that the agent cannot see or touch.

Tells the model nothing but that its work was refused; what a check prints is not kept, for it may show its files.
"""

import json
from dataclasses import replace

from interlock.agents.domain.journal import Step, StepKind, StepStatus
from interlock.agents.domain.ports import Bench, Export
from interlock.agents.domain.states import Reason, TaskState
from interlock.agents.domain.types import LimitSet, ProcessRecord, SandboxRun, SandboxUnavailableError
from interlock.agents.service.desk import Desk
from interlock.agents.store.journal import Ending, Outcome
from interlock.agents.store.rows import Check
from interlock.foundation.audit import AuditEntry


async def verify(desk: Desk, again: Step | None = None) -> Ending | None:
    """Take one verify step. A task without a check completes with nothing verified."""
    step = (
        await desk.reopen(again)
        if again is not None
        else await desk.begin(
            Step(
                desk.next_seq,
                StepKind.VERIFY,
                StepStatus.INTENT,
                desk.token,
                tree_before=desk.tree,
                started_us=desk.parts.clock.now_us(),
            )
        )
    )
    check = desk.input.verify
    if check is None:
        await desk.end(step, Outcome(StepStatus.DONE, json.dumps({"passed": None})))
        return None
    try:
        ran = await _checked(desk, step, check)
    except SandboxUnavailableError as error:
        probe = {"probe": error.probe.name, "errno": error.probe.errno, "fix": error.probe.fix}
        return Ending(TaskState.BLOCKED, Reason.SANDBOX_UNAVAILABLE, probe)
    seen = check.expect is None or check.expect.encode() in ran.output
    await desk.end(step, _outcome(desk, step, ran, has_passed=ran.exit_code == 0 and seen))
    return None


async def _checked(desk: Desk, step: Step, check: Check) -> SandboxRun:
    trees, place = desk.parts.trees, desk.place
    limits = LimitSet(timeout_s=max(0.1, min(check.timeout_s, desk.deadline_left_s)))

    async def started(record: ProcessRecord) -> None:
        desk.records.append(record)
        await desk.parts.journal.process_started(desk.task, step.seq, record, limits.timeout_s)

    export = Export(desk.tree, desk.task.row["base_commit"], desk.world.protect, check.files)
    folder = await trees.export(place, export)
    try:
        bench = Bench(place, limits, desk.redactor, desk.world, on_start=started)
        return await desk.parts.tools.check(check.command, folder, replace(bench, environment={}))
    finally:
        await trees.discard(place, folder)


def _outcome(desk: Desk, step: Step, ran: SandboxRun, *, has_passed: bool) -> Outcome:
    told = {
        "passed": has_passed,
        "exit_code": ran.exit_code,
        "stopped_by": ran.stopped_by,
        "ms": round(ran.seconds * 1_000),
    }
    entry = AuditEntry(
        "task.verify",
        "task",
        desk.task.public_id,
        outcome="ok" if has_passed else "refused",
        detail={"step": step.seq, "tree": desk.tree, "exit_code": str(ran.exit_code)},
    )
    return Outcome(
        StepStatus.DONE,
        json.dumps(told),
        ms=ran.seconds * 1_000,
        tool_ms=round(ran.seconds * 1_000),
        rejections=0 if has_passed else 1,
        verify_state="passed" if has_passed else "rejected",
        events=(("verify.finished", {"step": step.seq, "passed": has_passed}),),
        audit=entry,
    )
