"""Tool steps: parse, decide, ask a human where the rules say so, run, keep the tree, hold it to the rules.

Every call goes through `decide`; every difference of the tree through `violations`. There is no other way.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from interlock.agents.domain.journal import Asked, Step, StepKind, StepStatus, sha256_of
from interlock.agents.domain.loop import VIOLATION, Perform
from interlock.agents.domain.policy import decide, violations
from interlock.agents.domain.ports import Bench, Commit
from interlock.agents.domain.states import Reason, TaskState
from interlock.agents.domain.tools import TOOLS, parse_call
from interlock.agents.domain.types import (
    Decision,
    Effect,
    LimitSet,
    ProcessRecord,
    SaveArtifact,
    Snapshot,
    ToolCall,
    ToolRefused,
    ToolResult,
    TreeRefused,
    UndoTo,
)
from interlock.agents.domain.types import Outcome as Verdict
from interlock.agents.service.desk import Desk
from interlock.agents.store.journal import SQL, Ending, Event, Outcome, event_text
from interlock.foundation.artifacts import key_of
from interlock.foundation.audit import AuditEntry
from interlock.foundation.ids import format_id

_OUTPUT_CHARS_MAX = 3_500
_OUTPUT_EVENTS_MAX = 16


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a step left in the tree."""

    snapshot: Snapshot | None = None
    checkpoint: str | None = None
    error: str | None = None
    message: str = ""


async def perform(desk: Desk, action: Perform) -> Ending | None:
    """Take one tool step, or the step that asks a human for it."""
    call = parse_call(action.call.call_id, action.call.name, action.call.arguments)
    if isinstance(call, ToolRefused):
        await _note(desk, action.call, "tool_error", call.message, None)
        return None
    decision = decide(call, desk.world)
    if decision.outcome is Verdict.DENY or action.approved is False:
        message = "A human denied it." if action.approved is False else f"Denied by the rule {decision.rule}."
        await _note(desk, action.call, "denied", message, replace(decision, outcome=Verdict.DENY))
        return None
    if decision.outcome is Verdict.ASK and action.approved is None:
        return await _ask_human(desk, call, action.call, decision)
    held = _held_up(desk, call)
    if held is not None:
        return held
    step = _intent(desk, action.call, StepKind.TOOL, decision, json.dumps(dict(call.arguments)))
    return await _run(desk, await desk.begin(step), call)


def _held_up(desk: Desk, call: ToolCall) -> Ending | None:
    """Return why an allowed call cannot be performed now: a switch, no time left, no sandbox."""
    if desk.parts.stops(desk.task, call.name):
        return Ending(TaskState.BLOCKED, Reason.PAUSED, {"tool": call.name})
    if not _has_time(desk):
        return _spent(desk)
    if TOOLS[call.name].is_process and _probe(desk):
        return Ending(TaskState.BLOCKED, Reason.SANDBOX_UNAVAILABLE, _probe(desk))
    return None


async def perform_again(desk: Desk, step: Step) -> Ending | None:
    """Run a call without effects again, under its own number."""
    call = parse_call(step.call_id or "", step.tool or "", step.args)
    taken = await desk.reopen(step)
    if isinstance(call, ToolRefused):
        await desk.end(taken, Outcome(StepStatus.FAILED, _error("tool_error", call.message), "tool_error"))
        return None
    return await _run(desk, taken, call)


async def _run(desk: Desk, step: Step, call: ToolCall) -> Ending | None:
    limits = LimitSet(timeout_s=_timeout_s(desk))
    shown: list[str] = []

    async def started(record: ProcessRecord) -> None:
        desk.records.append(record)
        await desk.parts.journal.process_started(desk.task, step.seq, record, limits.timeout_s)

    async def output(piece: str) -> None:
        shown.append(piece)

    test = desk.task.wish.test
    bench = Bench(
        desk.place,
        limits,
        desk.redactor,
        desk.world,
        test.command if test else None,
        test.timeout_s if test else 30.0,
        desk.secrets,
        started,
        output,
    )
    result = await desk.parts.tools.execute(call, bench)
    if isinstance(result.act, UndoTo):
        result = await _undone_to(desk, result.act.step)
    kept = await _keep(desk, step, call)
    outcome = await _outcome(desk, step, (call, result, kept), "".join(shown))
    await desk.end(step, outcome)
    if result.error == "sandbox_unavailable":
        return Ending(TaskState.BLOCKED, Reason.SANDBOX_UNAVAILABLE, _probe(desk))
    if "disk_full" in {result.error, kept.error}:
        return Ending(TaskState.BLOCKED, Reason.PAUSED, {"error": "disk_full"})
    return None


async def _keep(desk: Desk, step: Step, call: ToolCall) -> _Kept:
    """Snapshot what a step changed; put back what it must not have."""
    if TOOLS[call.name].effect is not Effect.WORKTREE:
        return _Kept()
    trees, place = desk.parts.trees, desk.place
    trailers = {"Task": desk.task.public_id}
    made = await trees.snapshot(place, Commit(step.seq, desk.commit, desk.parts.clock.now_us(), trailers))
    if isinstance(made, TreeRefused):
        await trees.restore(place, desk.tree)
        return _Kept(error=made.code, message=made.message)
    if made.tree == desk.tree:
        return _Kept()
    found = violations(made.diff, desk.world)
    if found:
        await trees.restore(place, desk.tree)
        return _Kept(error=VIOLATION, message=f"{found[0].path}: {found[0].rule}")
    if desk.secrets:
        path = await trees.holds_secret(place, made.diff, made.commit, desk.redactor)
        if path is not None:
            await trees.restore(place, desk.tree)
            return _Kept(error=VIOLATION, message=f"{path} holds a secret of the task")
    return _Kept(made, await _checkpoint(desk, step, made))


async def _checkpoint(desk: Desk, step: Step, made: Snapshot) -> str:
    """Put the commit and its differences where every worker finds them; rows name them only after this."""
    trees, place, artifacts = desk.parts.trees, desk.place, desk.parts.journal.artifacts
    bytes_max = desk.parts.config.diff_bytes_max
    prefix = key_of("agents", str(desk.task.organization_id), desk.task.public_id, "ckpt", f"{step.seq}-{desk.token}")
    whole = await trees.patch(place, desk.task.row["base_commit"], made.commit, bytes_max)
    own = await trees.patch(place, desk.commit, made.commit, bytes_max)
    await artifacts.put(f"{prefix}.bundle", await trees.bundle(place, step.seq, desk.commit))
    for name, patch in (("diff", whole), ("step", own)):
        await artifacts.put(f"{prefix}.{name}", desk.redactor.text(patch.text).encode("utf-8", "replace"))
    return prefix


async def _outcome(desk: Desk, step: Step, done: tuple[ToolCall, ToolResult, _Kept], shown: str) -> Outcome:
    call, result, kept = done
    error = kept.error or result.error
    is_failed = kept.error is not None or result.is_failed
    text = _error(kept.error, desk.redactor.text(kept.message)) if kept.error else result.text
    events: list[Event] = [
        ("tool.output", {"step": step.seq, "text": shown[start : start + _OUTPUT_CHARS_MAX]})
        for start in range(0, min(len(shown), _OUTPUT_CHARS_MAX * _OUTPUT_EVENTS_MAX), _OUTPUT_CHARS_MAX)
    ]
    artifact = None
    if isinstance(result.act, SaveArtifact):
        artifact = await _saved(desk, step, result.act)
        events.append(("artifact.created", {"name": artifact[0], "sha256": artifact[1], "bytes": artifact[2]}))
    made = kept.snapshot
    entry = AuditEntry(
        "task.step",
        "task",
        desk.task.public_id,
        outcome="failed" if is_failed else "ok",
        reason=error,
        detail={
            "step": step.seq,
            "tool": call.name,
            "rule": step.decision.rule if step.decision else "",
            "args_sha256": step.args_sha256,
            "redactions": result.redactions,
        },
    )
    is_process = TOOLS[call.name].is_process
    return Outcome(
        StepStatus.FAILED if is_failed else StepStatus.DONE,
        text,
        error,
        tree=made.tree if made else None,
        commit=made.commit if made else None,
        changed=tuple(desk.redactor.text(path) for path in made.diff.paths) if made else (),
        checkpoint=kept.checkpoint,
        tool_ms=round(result.seconds * 1_000) if is_process else 0,
        redactions=result.redactions,
        ms=result.seconds * 1_000,
        violations=int(kept.error == VIOLATION),
        artifact=artifact,
        events=tuple(events),
        audit=entry,
    )


async def _saved(desk: Desk, step: Step, act: SaveArtifact) -> tuple[str, str, int, str]:
    key = key_of("agents", str(desk.task.organization_id), desk.task.public_id, "files", f"{step.seq}-{desk.token}")
    await desk.parts.journal.artifacts.put(key, act.content)
    return act.name, hashlib.sha256(act.content).hexdigest(), len(act.content), key


async def _undone_to(desk: Desk, seq: int) -> ToolResult:
    """Put the files back to how they were after a step; the journal stays."""
    tree = tree_at(desk.steps[:-1], seq, desk.task.row["base_tree"])
    if seq >= desk.steps[-1].seq:
        return ToolResult(_error("tool_error", f"There is no step {seq} yet."), "tool_error")
    await desk.parts.trees.restore(desk.place, tree)
    return ToolResult(json.dumps({"tree": tree}))


def tree_at(steps: list[Step], seq: int, base_tree: str) -> str:
    """Return the tree after a step."""
    found = [step.tree_after for step in steps if step.seq <= seq and step.is_live and step.tree_after]
    return found[-1] if found else base_tree


async def _ask_human(desk: Desk, call: ToolCall, asked: Asked, decision: Decision) -> Ending:
    """Write a question that outlives every process, and block."""
    args = json.dumps(dict(call.arguments))
    step = _intent(desk, asked, StepKind.APPROVAL, decision, args)
    journal, now_us = desk.parts.journal, desk.parts.clock.now_us()
    approval_id, effect = journal.ids.new(), str(TOOLS[call.name].effect)
    expires_us = now_us + desk.parts.config.approval_s * 1_000_000
    public = format_id("apr", approval_id)
    event: Event = ("approval.requested", {"id": public, "step": step.seq, "tool": call.name, "rule": decision.rule})
    ending = Ending(TaskState.BLOCKED, Reason.APPROVAL_REQUIRED, {"approval": public, "step": step.seq})
    async with journal.store.transaction(desk.task.scope()) as tx:
        await journal.begin_in(tx, desk.task, desk.token, step, (event,))
        await tx.execute(
            SQL.add_approval,
            desk.task.organization_id,
            desk.task.workspace_id,
            approval_id,
            desk.task.id,
            step.seq,
            call.name,
            event_text(dict(call.arguments)),
            step.args_sha256,
            desk.tree,
            effect,
            decision.rule,
            now_us,
            expires_us,
        )
        detail = {"step": step.seq, "tool": call.name, "rule": decision.rule, "args_sha256": step.args_sha256}
        await journal.audit.append(tx, AuditEntry("task.ask", "task", desk.task.public_id, detail=detail))
    desk.steps.append(step)
    return ending


async def _note(desk: Desk, asked: Asked, error: str, message: str, decision: Decision | None) -> None:
    """Write a call that was not performed, and why; the model is told."""
    tool = asked.name if asked.name in TOOLS else asked.name[:100]
    step = _intent(desk, replace(asked, name=tool), StepKind.TOOL, decision, asked.arguments)
    entry = None
    if decision is not None:
        detail: dict[str, Any] = {
            "step": step.seq,
            "tool": tool,
            "rule": decision.rule,
            "args_sha256": step.args_sha256,
        }
        entry = AuditEntry("task.deny", "task", desk.task.public_id, outcome="refused", detail=detail)
    await desk.begin(step)
    await desk.end(step, Outcome(StepStatus.FAILED, _error(error, message), error, audit=entry))


def _intent(desk: Desk, asked: Asked, kind: StepKind, decision: Decision | None, args: str) -> Step:
    return Step(
        desk.next_seq,
        kind,
        StepStatus.INTENT,
        desk.token,
        asked.name,
        asked.call_id,
        asked.model_seq,
        args,
        sha256_of(args),
        decision=decision,
        tree_before=desk.tree,
        started_us=desk.parts.clock.now_us(),
    )


def _timeout_s(desk: Desk) -> float:
    return max(0.1, min(3_600.0, desk.left.tool_ms.left / 1_000, desk.deadline_left_s))


def _has_time(desk: Desk) -> bool:
    return desk.left.tool_ms.left > 0


def _spent(desk: Desk) -> Ending:
    state = TaskState.FAILED if desk.task.row["on_budget"] == "fail" else TaskState.BLOCKED
    return Ending(state, Reason.BUDGET_EXHAUSTED, {"budget": "tool_seconds"})


def _probe(desk: Desk) -> dict[str, Any]:
    report = desk.parts.sandbox.report
    failed = report.failed if report else None
    return {} if failed is None else {"probe": failed.name, "errno": failed.errno, "fix": failed.fix}


def _error(code: str | None, message: str) -> str:
    return json.dumps({"error": code, "message": message})
