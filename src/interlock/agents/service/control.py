"""What people do to a task from outside: cancel, approve, resume, undo, fork; each one transaction on rows.

Touches no process and no working copy: the worker that holds a task is told, and a tree is laid out by the next leg.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from interlock.agents.domain.journal import Step, StepKind, StepStatus, idem_key, revived, sha256_of
from interlock.agents.domain.states import FINAL, Reason, TaskState
from interlock.agents.domain.types import KillProof
from interlock.agents.service.submit import Limits, SubmitService
from interlock.agents.store.journal import SQL, Ending, Journal, clean_text, event_text
from interlock.agents.store.rows import Task, Wish, step_of, task_of
from interlock.foundation.audit import AuditEntry
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import PrincipalKind, Scope
from interlock.foundation.store import Transaction

_PREFIX = {PrincipalKind.USER: "usr", PrincipalKind.SERVICE_ACCOUNT: "sa"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What somebody says to an approval."""

    approval_id: str
    decision: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a blocked task goes on with."""

    limits: Limits | None = None
    deadline_us: int | None = None
    answer: str | None = None
    reconcile: str | None = None


@dataclass(frozen=True, slots=True)
class Branching:
    """What a fork does otherwise than the task it comes from."""

    from_step: int
    goal: str | None = None
    model: str | None = None
    limits: Limits | None = None
    deadline_us: int | None = None


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo did."""

    task: Task
    undone_steps: list[int]
    files_changed: list[str]
    tree: str


class ControlService:
    """Use cases of `/v1/agents/tasks/{id}/..`. Every method raises `task_not_found` for what a scope cannot see."""

    def __init__(self, journal: Journal, submissions: SubmitService, redactor: Redactor) -> None:
        self._journal = journal
        self._submissions = submissions
        self._redactor = redactor

    async def cancel(self, tx: Transaction, task_id: str, reason: str) -> tuple[Task, bool]:
        """Cancel at once what nobody works on; ask the holder otherwise. Tell whether it is over already."""
        task = await self._locked(tx, task_id)
        if task.state is TaskState.CANCELED:
            return task, True
        if task.state in FINAL:
            raise InterlockError("task_terminal", detail={"state": str(task.state)})
        inside, reason = _inside(tx, task), self._said(reason)[:1_000]
        await inside.execute(SQL.ask_cancel, *task.key, self._journal.clock.now_us(), reason)
        entry = AuditEntry("task.cancel", "task", task.public_id, reason=reason or None)
        await self._journal.audit.append(inside, entry)
        running = await inside.fetch(SQL.live_processes, *task.key)
        if task.state is TaskState.RUNNING or running:
            if task.state is TaskState.BLOCKED:
                # Nobody claims what is blocked, and somebody has to see the end of what it left running.
                await self._journal.change_in(inside, task, None, TaskState.BLOCKED, Ending(TaskState.QUEUED))
            await inside.notify("agents", f"cancel {task.public_id}")
            return await self._again(tx, task), False
        proof = KillProof("not_running" if task.row["attempt"] else "never_ran")
        ending = Ending(TaskState.CANCELED, None, {"reason": reason}, proof=proof)
        await self._journal.change_in(inside, task, None, task.state, ending)
        await self._submissions.forget_secrets(inside, task)
        return await self._again(tx, task), True

    async def approve(self, tx: Transaction, task_id: str, verdict: Verdict) -> Task:
        """Decide an open approval. Raises `approval_stale`, `approval_decided`, `approver_not_allowed`."""
        task = await self._locked(tx, task_id)
        inside, principal = _inside(tx, task), tx.scope.principal
        try:
            approval_id = parse_id("apr", verdict.approval_id)
        except MalformedIdError:
            raise InterlockError("approval_stale") from None
        row = await inside.fetchrow(SQL.lock_approval, *task.key[:2], approval_id, task.id)
        if row is None:
            raise InterlockError("approval_stale")
        if row["decision"] is not None:
            raise InterlockError("approval_decided", detail={"decision": row["decision"]})
        if self._journal.config.four_eyes and principal.id == task.row["principal_id"]:
            raise InterlockError("approver_not_allowed", "Whoever submitted a task may not approve its steps.")
        step = next((each for each in await self._steps(inside, task) if each.seq == row["step"]), None)
        now_us = self._journal.clock.now_us()
        is_open = step is not None and step.status is StepStatus.INTENT and step.args_sha256 == row["args_sha256"]
        if task.state is not TaskState.BLOCKED or not is_open or task.row["tree"] != row["tree"]:
            raise InterlockError("approval_stale")
        if row["expires_us"] <= now_us:
            raise InterlockError("approval_stale", "The approval has expired.")
        who = format_id(_PREFIX[principal.kind], principal.id) if principal.kind in _PREFIX else "system"
        note = self._said(verdict.note)[:4_000]
        await inside.execute(SQL.decide_approval, *task.key[:2], approval_id, verdict.decision, who, now_us, note)
        status = StepStatus.DONE if verdict.decision == "approve" else StepStatus.FAILED
        said = clean_text(json.dumps({"decision": verdict.decision, "by": who, "note": note}))
        await inside.fetchval(SQL.decide_step, *task.key, row["step"], status, said)
        told = {"id": verdict.approval_id, "step": row["step"], "decision": verdict.decision, "by": who}
        await self._event(inside, task, "approval.decided", told)
        detail = {"step": row["step"], "decision": verdict.decision, "args_sha256": row["args_sha256"]}
        await self._journal.audit.append(inside, AuditEntry("task.approve", "task", task.public_id, detail=detail))
        await self._journal.change_in(inside, task, None, TaskState.BLOCKED, Ending(TaskState.QUEUED))
        return await self._again(tx, task)

    async def resume(self, tx: Transaction, task_id: str, wanted: Resumption) -> Task:
        """Queue a blocked task again. Raises `invalid_transition`."""
        task = await self._locked(tx, task_id)
        reason, now_us = task.row["reason"], self._journal.clock.now_us()
        steps = await self._steps(_inside(tx, task), task)
        pending = bool(steps) and steps[-1].kind is StepKind.APPROVAL and steps[-1].status is StepStatus.INTENT
        if task.state is not TaskState.BLOCKED or pending or task.row["deadline_us"] <= now_us:
            raise InterlockError("invalid_transition", detail={"state": str(task.state), "reason": str(reason)})
        live = [step for step in steps if step.is_live]
        is_answer = reason == Reason.INPUT_REQUIRED and bool(live) and live[-1].tool == "ask_human"
        if is_answer and wanted.answer is None:
            raise InterlockError("invalid_transition", "The task waits for an `answer`.", detail={"reason": reason})
        inside = _inside(tx, task)
        if reason == Reason.NEEDS_RECONCILE:
            await self._reconciled(inside, task, steps, wanted.reconcile)
        await self._given_more(inside, task, wanted)
        args = {"answer": self._said(wanted.answer or "")} if is_answer else {"reason": reason}
        if reason != Reason.NEEDS_RECONCILE:
            await self._outside(inside, task, steps, ("answer" if is_answer else "resume", args))
        await self._journal.change_in(inside, task, None, TaskState.BLOCKED, Ending(TaskState.QUEUED))
        return await self._again(tx, task)

    async def undo(self, tx: Transaction, task_id: str, to_step: int) -> Undone:
        """Go back to a step: its tree is the head, what lies behind counts no more. Raises `task_running`."""
        task = await self._locked(tx, task_id)
        if task.state in {TaskState.QUEUED, TaskState.RUNNING}:
            raise InterlockError("task_running", detail={"state": str(task.state)})
        inside = _inside(tx, task)
        steps = await self._steps(inside, task)
        self._require_step(task, to_step)
        tree, commit = _stand_at(steps, to_step, task)
        behind = [step for step in steps if step.seq > to_step and step.status is not StepStatus.UNDONE]
        changed = sorted({path for step in behind for path in step.changed})
        await inside.fetch(SQL.undo_steps, *task.key, to_step)
        await inside.execute(SQL.revive_steps, *task.key, revived(steps, to_step))
        numbers = [step.seq for step in behind]
        told = {"to_step": to_step, "undone_steps": numbers, "tree": tree}
        await self._outside(inside, task, steps, ("undo", told), StepKind.UNDO, (tree, commit))
        entry = AuditEntry("task.undo", "task", task.public_id, detail={"to_step": to_step, "tree": tree})
        await self._journal.audit.append(inside, entry)
        return Undone(await self._again(tx, task), numbers, changed, tree)

    async def fork(self, tx: Transaction, task_id: str, wanted: Branching) -> Task:
        """Make a new task from a step of another: its journal, its tree, a budget and a deadline of its own."""
        source = await self._locked(tx, task_id)
        self._require_step(source, wanted.from_step)
        submissions, journal, now_us = self._submissions, self._journal, self._journal.clock.now_us()
        limits = wanted.limits or _limits_of(source)
        submissions.check_limits(limits)
        deadline_us = submissions.check_deadline(wanted.deadline_us, now_us)
        inside, row, principal = _inside(tx, source), source.row, tx.scope.principal
        model = wanted.model or row["model"]
        grants = submissions.check_grants(row["grants"]) if row["grants"] else []
        bounds = await submissions.bounds_for(inside.scope, model)
        await submissions.check_room(inside, source.workspace_id, now_us)
        steps = await self._steps(inside, source)
        tree, commit = _stand_at(steps, wanted.from_step, source)
        new_id = journal.ids.new()
        wish = Wish(source.wish.goal, source.wish.target, source.wish.test, source.wish.tools)
        await inside.execute(
            SQL.add_task, source.organization_id, source.workspace_id, new_id, _wish_text(wish), row["input_key"], [],
            model, principal.id, str(principal.kind), grants, row["protect"],
            row["labels"], tx.scope.request_id, row["priority"], row["on_budget"], now_us, deadline_us, limits.tokens,
            limits.usd_micros, limits.steps, limits.tool_seconds * 1_000, source.id, wanted.from_step,
            row["base_commit"], row["base_tree"], commit, tree, list(bounds.models), bounds.class_max,
        )  # fmt: skip
        await inside.execute(SQL.copy_steps, *source.key, new_id, wanted.from_step)
        key = (source.organization_id, source.workspace_id, new_id)
        await inside.execute(SQL.revive_steps, *key, revived(steps, wanted.from_step))
        await inside.execute(SQL.place_fork, *key, wanted.from_step)
        made = task_of(await inside.fetchrow(SQL.find_task, source.organization_id, new_id))
        if wanted.goal is not None:
            prefix = [step for step in steps if step.seq <= wanted.from_step]
            await self._outside(inside, made, prefix, ("goal", {"goal": self._said(wanted.goal)}))
        await submissions.announce(inside, key, {"forked_from": source.public_id, "from_step": wanted.from_step})
        return await self._again(tx, made)

    def _said(self, text: str) -> str:
        """Return what somebody said as it may be kept: people paste secrets, too."""
        return clean_text(self._redactor.text(text))

    async def _locked(self, tx: Transaction, task_id: str) -> Task:
        try:
            identity = parse_id("task", task_id)
        except MalformedIdError:
            raise InterlockError("task_not_found") from None
        row = await tx.fetchrow(SQL.lock_task, tx.scope.organization_id, identity)
        if row is None:
            raise InterlockError("task_not_found")
        return task_of(row)

    async def _again(self, tx: Transaction, task: Task) -> Task:
        return task_of(await tx.fetchrow(SQL.find_task, task.organization_id, task.id))

    async def _steps(self, tx: Transaction, task: Task) -> list[Step]:
        return [step_of(row) for row in await tx.fetch(SQL.list_steps, *task.key)]

    async def _event(self, tx: Transaction, task: Task, event: str, content: Mapping[str, Any]) -> None:
        await tx.fetchval(SQL.add_event, *task.key, event, self._journal.clock.now_us(), event_text(content))

    async def _outside(
        self,
        tx: Transaction,
        task: Task,
        steps: list[Step],
        what: tuple[str, Mapping[str, Any]],
        kind: StepKind = StepKind.CONTROL,
        stand: tuple[str | None, str | None] = (None, None),
    ) -> None:
        seq = (steps[-1].seq if steps else 0) + 1
        args = event_text(what[1])
        keys = (sha256_of(args), idem_key(task.public_id, seq, what[0], args))
        now_us = self._journal.clock.now_us()
        await tx.fetchval(
            SQL.add_outside_step, *task.key, seq, task.row["attempt"], kind, what[0], args, *keys, *stand, now_us, "{}"
        )
        await self._event(tx, task, "step.finished", {"step": seq, "kind": kind, "tool": what[0], "status": "done"})

    async def _reconciled(self, tx: Transaction, task: Task, steps: list[Step], said: str | None) -> None:
        if said not in {"done", "not_done"} or not steps:
            raise InterlockError("invalid_transition", "Say `reconcile`: done or not_done.")
        status = StepStatus.DONE if said == "done" else StepStatus.ABORTED
        await tx.fetchval(SQL.reconcile_step, *task.key, steps[-1].seq, status, json.dumps({"reconcile": said}))

    async def _given_more(self, tx: Transaction, task: Task, wanted: Resumption) -> None:
        """Take a larger budget or another deadline, which only a human gives; by itself a deadline never moves."""
        if wanted.limits is None and wanted.deadline_us is None:
            return
        given, now_us = wanted.limits or _limits_of(task), self._journal.clock.now_us()
        self._submissions.check_limits(given)
        deadline_us: int = task.row["deadline_us"]
        if wanted.deadline_us is not None:
            deadline_us = self._submissions.check_deadline(wanted.deadline_us, now_us)
        numbers = (given.tokens, given.usd_micros, given.steps, given.tool_seconds * 1_000)
        await tx.execute(SQL.set_limits, *task.key, *numbers, deadline_us)

    @staticmethod
    def _require_step(task: Task, seq: int) -> None:
        if not 0 <= seq <= task.row["head_step"]:
            raise InterlockError("unknown_step", detail={"step": seq, "head_step": task.row["head_step"]})


def _stand_at(steps: list[Step], seq: int, task: Task) -> tuple[str, str]:
    """Return tree and commit as they were after a step, whether or not it was undone since."""
    found = [step for step in steps if step.seq <= seq and step.tree_after and step.status is not StepStatus.ABORTED]
    if not found:
        return task.row["base_tree"], task.row["base_commit"]
    return found[-1].tree_after or "", found[-1].commit or task.row["base_commit"]


def _inside(tx: Transaction, task: Task) -> Transaction:
    """Return the transaction with the task's own workspace in its scope; the caller's rows are seen already."""
    return tx.under(Scope(task.organization_id, task.workspace_id, tx.scope.principal, tx.scope.request_id))


def _limits_of(task: Task) -> Limits:
    row = task.row
    return Limits(row["tokens_limit"], row["usd_limit"], row["steps_limit"], row["tool_ms_limit"] // 1_000)


def _wish_text(wish: Wish) -> str:
    return clean_text(msgspec.json.encode(wish).decode())
