"""One leg of a task: decide the next action from the journal, perform it, write it down, until the task waits or ends.

Holds no lease and watches nothing; the worker does, and cancels `run` to stop it.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, assert_never

from interlock.agents.domain.journal import Step, StepKind, StepStatus
from interlock.agents.domain.loop import (
    CallModel,
    End,
    LoopLimits,
    Perform,
    Redo,
    Verify,
    Wait,
    next_action,
)
from interlock.agents.domain.states import Reason, TaskState
from interlock.agents.domain.tools import TOOLS
from interlock.agents.domain.types import Effect, RepoRefused
from interlock.agents.service import asking, performing, prepare, verifying
from interlock.agents.service.desk import Desk
from interlock.agents.store.journal import SQL, Ending, Outcome
from interlock.foundation.audit import AuditEntry
from interlock.foundation.leases import LeaseLostError

BRANCH: Final = "agent/"


@dataclass(slots=True)
class Leg:
    """Runs one desk. `stopped` ends what `run` left when it was cancelled."""

    desk: Desk

    async def run(self) -> None:
        """Work until the task is blocked, over, or makes room. Raises `LeaseLostError` where another one works."""
        desk = self.desk
        refused = await prepare.lay_out(desk)
        if isinstance(refused, RepoRefused):
            await self._leave(Ending(TaskState.FAILED, Reason.REPO_INVALID, {"message": refused.message}))
            return
        desk.world = await prepare.rules(desk.parts, desk.task, desk)
        desk.recording = await prepare.recording(desk.parts, desk.task)
        began_s = desk.parts.clock.monotonic()
        try:
            while not await self._makes_room(began_s):
                ending = await self._step()
                if ending is not None:
                    await self._leave(ending)
                    return
            await self._leave(Ending(TaskState.QUEUED, Reason.YIELDED))
        finally:
            await asking.give_back_credential(desk)

    async def stopped(self, ending: Ending) -> None:
        """End what a cancelled `run` left: kill, prove, abort the open step, change the state."""
        desk = self.desk
        # What was being written when the cancellation came may have been committed.
        desk.steps = await desk.parts.journal.steps(desk.task.scope(), desk.task)
        for record in desk.records:
            desk.proofs.append(await desk.parts.sandbox.kill(record))
        proof = prepare.proof_of(desk.proofs, has_run=bool(desk.steps))
        last = desk.steps[-1] if desk.steps else None
        if last is not None and last.status is StepStatus.INTENT and last.kind is not StepKind.APPROVAL:
            await desk.end(last, self._aborted(last, str(ending.reason or ending.state)))
        shown = proof if ending.state is TaskState.CANCELED else None
        result = await self._result("") if ending.state in {TaskState.CANCELED, TaskState.FAILED} else None
        await self._leave(Ending(ending.state, ending.reason, ending.detail, result, shown))

    async def _step(self) -> Ending | None:
        """One turn: query, decide, perform. Return how the leg ends, None to go on."""
        desk = self.desk
        check = desk.input.verify
        limits = LoopLimits(desk.left.steps.left, check.max_rejections if check else 3)
        action = next_action(desk.steps, limits)
        match action:
            case CallModel():
                return await asking.ask(desk)
            case Perform():
                return await performing.perform(desk, action)
            case Verify():
                return await verifying.verify(desk)
            case Redo(step):
                return await self._redo(step)
            case Wait(reason):
                return await self._waiting(reason)
            case End(state, reason, message):
                return Ending(state, reason, {"message": message} if message else {}, await self._result(message))
            case _:
                assert_never(action)

    async def _redo(self, step: Step) -> Ending | None:
        """Apply the crash rule of a step whose outcome is not known."""
        desk = self.desk
        if step.kind is StepKind.MODEL:
            return await asking.ask(desk, step)
        if step.kind is StepKind.VERIFY:
            return await verifying.verify(desk, step)
        effect = TOOLS[step.tool].effect if step.tool is not None and step.tool in TOOLS else Effect.WORKTREE
        if effect is Effect.NONE:
            return await performing.perform_again(desk, step)
        if effect is Effect.EXTERNAL:
            return Ending(TaskState.BLOCKED, Reason.NEEDS_RECONCILE, {"step": step.seq})
        await desk.parts.trees.restore(desk.place, step.tree_before or desk.tree)
        await desk.end(step, self._aborted(step, "recovered"))
        return None

    async def _waiting(self, reason: Reason) -> Ending:
        if reason is Reason.BUDGET_EXHAUSTED:
            state = TaskState.FAILED if self.desk.task.row["on_budget"] == "fail" else TaskState.BLOCKED
            return Ending(state, reason, {"budget": "steps"})
        return Ending(TaskState.BLOCKED, reason, self._asked_of_humans(reason))

    def _asked_of_humans(self, reason: Reason) -> dict[str, Any]:
        last = self.desk.steps[-1]
        if reason is Reason.INPUT_REQUIRED:
            return {"question": last.given.get("question", ""), "step": last.seq}
        return {"step": last.seq, "rule": "violations" if last.kind is not StepKind.APPROVAL else "ask"}

    def _aborted(self, step: Step, why: str) -> Outcome:
        entry = AuditEntry(
            "task.step",
            "task",
            self.desk.task.public_id,
            outcome="failed",
            reason=why,
            detail={"step": step.seq, "tool": step.tool or step.kind, "status": "aborted"},
        )
        return Outcome(StepStatus.ABORTED, json.dumps({"error": "aborted"}), "aborted", audit=entry)

    async def _makes_room(self, began_s: float) -> bool:
        """Tell whether this leg had its quantum and somebody else waits."""
        desk, config = self.desk, self.desk.parts.config
        if desk.taken < config.leg_steps and desk.parts.clock.monotonic() - began_s < config.leg_s:
            return False
        async with desk.parts.journal.store.ops("whether anybody waits") as tx:
            return bool(await tx.fetchval(SQL.others_due, desk.task.id))

    async def _result(self, message: str) -> dict[str, Any]:
        """Return what there is to show: the summary, the files that differ from the base, the branch."""
        desk, trees = self.desk, self.desk.parts.trees
        branch = BRANCH + desk.task.public_id
        # A leg that was stopped while it laid its tree out has none; the end of a task never waits for one.
        if await trees.has(desk.place, desk.commit):
            await trees.point(desk.place, branch, desk.commit)
            changed = (await trees.diff(desk.place, desk.task.row["base_commit"], desk.commit)).paths
        else:
            changed = tuple(sorted({path for step in desk.steps if step.is_live for path in step.changed}))
        finish = next((step for step in reversed(desk.steps) if step.tool == "finish"), None)
        summary = message or (str(finish.given.get("summary", "")) if finish else "")
        paths = [desk.redactor.text(path) for path in changed]
        return {"summary": summary, "files_changed": paths, "branch": branch, "commit": desk.commit}

    async def _leave(self, ending: Ending) -> None:
        desk = self.desk
        if not await desk.parts.journal.change(desk.task, desk.token, TaskState.RUNNING, ending):
            raise LeaseLostError(desk.task.public_id)
