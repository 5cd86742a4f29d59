"""Tasks as they are shown: objects, lists, journals, differences, events, artifacts; and whether the books agree.

Changes nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.agents.domain.budget import Measure
from interlock.agents.domain.journal import Step, StepStatus
from interlock.agents.domain.states import FINAL, TaskState
from interlock.agents.store.journal import SQL, Journal
from interlock.agents.store.rows import Task, task_of
from interlock.foundation.clock import rfc3339
from interlock.foundation.control.stream import Numbered
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, RequestId, format_id, parse_id
from interlock.foundation.scope import Scope

_LAST_US: Final = (1 << 63) - 1
_LAST_ID: Final = UUID(int=(1 << 128) - 1)
_EVENTS_MAX: Final = 200
_PREFIX: Final = {"user": "usr", "service_account": "sa"}


@dataclass(frozen=True, slots=True)
class Filters:
    """Which tasks a list holds; `label` is `name` or `name=value`."""

    state: str | None = None
    label: str | None = None


class ReadingService:
    """Reads of one scope. Every method raises `task_not_found` for what the scope cannot see."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def task(self, scope: Scope, task_id: str) -> Task:
        """Return one task."""
        try:
            found = await self._journal.find(scope, parse_id("task", task_id))
        except MalformedIdError:
            found = None
        if found is None:
            raise InterlockError("task_not_found")
        return found

    async def shown(self, scope: Scope, task: Task) -> dict[str, Any]:
        """Return the public object of a task, with its open approval and its place in the queue."""
        async with self._journal.store.transaction(scope) as tx:
            approval = await tx.fetchrow(SQL.pending_approval, *task.key)
            position = None
            if task.state is TaskState.QUEUED:
                row = task.row
                position = await tx.fetchval(SQL.queue_position, *task.key[:2], row["priority"], row["created_us"])
        return task_json(task, approval if task.state is TaskState.BLOCKED else None, position)

    async def page(self, scope: Scope, filters: Filters, after: Sequence[Any] | None, count: int) -> list[Task]:
        """Return tasks, newest first."""
        name, found, value = (filters.label or "").partition("=")
        label = (name or None, value if found else None)
        last = (int(after[0]), UUID(str(after[1]))) if after else (_LAST_US, _LAST_ID)
        async with self._journal.store.transaction(scope) as tx:
            rows = await tx.fetch(SQL.list_tasks, scope.organization_id, filters.state, *label, *last, count)
        return [task_of(row) for row in rows]

    async def steps(self, scope: Scope, task: Task) -> list[Step]:
        """Return the journal."""
        return await self._journal.steps(scope, task)

    async def diff(self, steps: Sequence[Step], task: Task) -> str:
        """Return the difference of base and head, as `git apply` takes it."""
        if task.row["tree"] == task.row["base_tree"]:
            return ""
        for step in reversed(steps):
            if step.checkpoint is not None and step.tree_after == task.row["tree"]:
                return await self._text(f"{step.checkpoint}.diff")
        return ""

    async def step_diff(self, step: Step) -> str:
        """Return what one step changed."""
        return "" if step.checkpoint is None else await self._text(f"{step.checkpoint}.step")

    async def events(self, scope: Scope, task: Task, after: int, count: int = _EVENTS_MAX) -> list[Numbered]:
        """Return events behind a number, in order. Raises `events_expired` where the next one was deleted."""
        async with self._journal.store.transaction(scope) as tx:
            rows = await tx.fetch(SQL.events_after, *task.key, after, count)
        head: int = task.row["head_event"]
        first: int = rows[0]["seq"] if rows else head + 1
        if after < head and first > after + 1:
            raise InterlockError("events_expired", detail={"first": first})
        return [_numbered(task, row) for row in rows]

    async def artifacts(self, scope: Scope, task: Task, after: str, count: int) -> list[dict[str, Any]]:
        """Return what the task kept, by name."""
        async with self._journal.store.transaction(scope) as tx:
            rows = await tx.fetch(SQL.list_artifacts, *task.key, after, count)
        return [_artifact_json(row) for row in rows]

    async def artifact(self, scope: Scope, task: Task, name: str) -> bytes:
        """Return the bytes of one. Raises `not_found`."""
        async with self._journal.store.transaction(scope) as tx:
            row = await tx.fetchrow(SQL.find_artifact, *task.key, name)
        content = None if row is None else await self._journal.artifacts.get(row["object_key"])
        if content is None:
            raise InterlockError("not_found")
        return content

    async def fsck(self, scope: Scope, task: Task) -> list[str]:
        """Return what does not agree: counters and entries, numbers of events and steps, checkpoints and objects."""
        async with self._journal.store.transaction(scope) as tx:
            row = await tx.fetchrow(SQL.find_task, scope.organization_id, task.id)
            sums = await tx.fetchrow(SQL.sums, *task.key)
            events = await tx.fetchrow(SQL.event_gaps, *task.key)
            steps = await tx.fetch(SQL.list_steps, *task.key)
        if row is None or sums is None or events is None:
            raise InterlockError("task_not_found")
        found = [
            f"{name}: {row[name]} in the row, {total} in the entries"
            for name, total in sums.items()
            if row[name] != total
        ]
        if not self._are_dense(events, row):
            found.append(f"events: {events['events']} of {events['last']}, head {row['head_event']}")
        if [step["seq"] for step in steps] != list(range(1, len(steps) + 1)) or len(steps) != row["head_step"]:
            found.append(f"steps: {len(steps)}, head {row['head_step']}")
        for step in steps:
            is_open = step["status"] == "intent" and row["state"] in {str(state) for state in FINAL}
            if is_open and step["kind"] != "approval":
                found.append(f"step {step['seq']}: open in a task that is over")
            if step["checkpoint"] and await self._journal.artifacts.get(f"{step['checkpoint']}.bundle") is None:
                found.append(f"step {step['seq']}: its checkpoint is not in the artifact store")
        return found

    def _are_dense(self, events: Any, row: Any) -> bool:
        """Tell whether no event is missing, but the oldest ones of a task that ended long ago."""
        oldest_us = self._journal.clock.now_us() - round(self._journal.config.events_kept_s * 1e6)
        may_be_cut = row["ended_us"] is not None and row["ended_us"] < oldest_us
        if may_be_cut and events["events"] == 0:
            return True
        is_whole = events["events"] == events["last"] - events["first"] + 1 and events["last"] == row["head_event"]
        return bool(is_whole and (may_be_cut or events["first"] == 1))

    async def overview(self, scope: Scope) -> dict[str, Any]:
        """Return states and shares, for the console."""
        async with self._journal.store.transaction(scope) as tx:
            states = await tx.fetch(SQL.state_counts, scope.organization_id)
            shares = await tx.fetch(SQL.shares, scope.organization_id)
        blocked = [row["oldest_blocked_us"] for row in states if row["oldest_blocked_us"]]
        return {
            "states": {row["state"]: row["tasks"] for row in states},
            "oldest_blocked_us": min(blocked, default=None),
            "shares": [dict(row) for row in shares],
        }

    async def _text(self, key: str) -> str:
        content = await self._journal.artifacts.get(key)
        return "" if content is None else content.decode("utf-8", "replace")


def task_json(task: Task, approval: Any = None, position: int | None = None) -> dict[str, Any]:
    """Return the public object of a task."""
    row, wish = task.row, task.wish
    detail = json.loads(row["detail"])
    if position is not None:
        detail = {**detail, "position": position + 1}
    return {
        "id": task.public_id,
        "object": "agent_task",
        "state": str(task.state),
        "reason": row["reason"],
        "detail": detail,
        "goal": wish.goal,
        "model": row["model"],
        "target": wish.target,
        "created_at": rfc3339(row["created_us"]),
        "started_at": _time(row["started_us"]),
        "ended_at": _time(row["ended_us"]),
        "deadline_at": rfc3339(row["deadline_us"]),
        "attempt": row["attempt"],
        "head_step": row["head_step"],
        "tree": row["tree"],
        "base_commit": row["base_commit"],
        "branch": f"agent/{task.public_id}",
        "commit": row["commit_id"],
        "budget": _budget_json(task),
        "cancel": _cancel_json(row),
        "approval": None if approval is None else approval_json(approval),
        "verify": {"state": row["verify_state"], "rejections": row["rejections"]},
        "result": None if row["result"] is None else json.loads(row["result"]),
        "parent_id": None,
        "forked_from": None
        if row["forked_from"] is None
        else {"task_id": format_id("task", row["forked_from"]), "step": row["forked_step"]},
        "principal": format_id(_PREFIX[row["principal_kind"]], row["principal_id"]),
        "workspace_id": format_id("ws", task.workspace_id),
        "labels": json.loads(row["labels"]),
        "priority": row["priority"],
        "request_id": None if row["request_id"] is None else format_id("req", RequestId(row["request_id"])),
    }


def step_json(step: Step) -> dict[str, Any]:
    """Return the public object of a step."""
    decision = step.decision
    return {
        "seq": step.seq,
        "attempt": step.attempt,
        "kind": str(step.kind),
        "status": str(step.status),
        "tool": step.tool,
        "args": step.given or step.args,
        "result": None if step.result is None else step.outcome or step.result,
        "error": step.error,
        "tree_before": step.tree_before,
        "tree_after": step.tree_after,
        "files_changed": list(step.changed),
        "decision": None
        if decision is None
        else {"outcome": str(decision.outcome), "rule": decision.rule, "grant": decision.grant},
        "request_id": step.request_id,
        "tokens": step.tokens,
        "usd_micros": step.usd_micros,
        "started_at": rfc3339(step.started_us),
        "ms": step.ms,
    }


def approval_json(row: Any) -> dict[str, Any]:
    """Return the public object of an open approval."""
    return {
        "id": format_id("apr", row["approval_id"]),
        "step": row["step"],
        "tool": row["tool"],
        "args": json.loads(row["args"]),
        "effect": row["effect"],
        "rule": row["rule"],
        "expires_at": rfc3339(row["expires_us"]),
    }


def is_undone(step: Step) -> bool:
    """Tell whether a step was taken back."""
    return step.status is StepStatus.UNDONE


def _budget_json(task: Task) -> dict[str, Any]:
    budget = task.budget
    tool = budget.tool_ms
    seconds = Measure(tool.limit // 1_000, round(tool.used / 1_000))
    each = {"tokens": budget.tokens, "usd_micros": budget.usd_micros, "steps": budget.steps, "tool_seconds": seconds}
    return {
        name: {"limit": measure.limit, "used": measure.used, "reserved": measure.reserved, "delegated": 0}
        for name, measure in each.items()
    }


def _cancel_json(row: Any) -> dict[str, Any] | None:
    if row["cancel_requested_us"] is None:
        return None
    return {
        "requested_at": rfc3339(row["cancel_requested_us"]),
        "confirmed_at": _time(row["cancel_confirmed_us"]),
        "proof": None if row["cancel_proof"] is None else json.loads(row["cancel_proof"]),
        "reason": row["cancel_reason"],
    }


def _artifact_json(row: Any) -> dict[str, Any]:
    return {
        "name": row["name"],
        "bytes": row["bytes"],
        "sha256": row["sha256"],
        "media_type": "application/octet-stream",
        "step": row["step"],
    }


def _numbered(task: Task, row: Any) -> Numbered:
    content = json.loads(row["content"])
    told = {"seq": row["seq"], "task_id": task.public_id, "at": rfc3339(row["at_us"]), **content}
    return Numbered(row["seq"], row["event"], told, row["event"] == "task.end")


def _time(moment_us: int | None) -> str | None:
    return None if moment_us is None else rfc3339(moment_us)
