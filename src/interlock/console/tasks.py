"""Tasks: the list with who is served, and one with its timeline, its differences and what can be done to it.

Decides nothing; every button posts what the API would take, and says before what will happen.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from interlock.agents.public import (
    Branching,
    ControlService,
    Filters,
    ReadingService,
    Step,
    Task,
    TaskState,
    Verdict,
    step_json,
    task_json,
)
from interlock.console.addresses import Sampler, as_type, form_at, page_at
from interlock.console.exports import all_rows, csv_of
from interlock.console.frame import Frame, place_of
from interlock.console.render import dollars, sent_to
from interlock.console.standing import Standing, count
from interlock.console.views import CAUTION, GO, STOP
from interlock.foundation.clock import rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import authorize
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Scope

_TONES: Final = {"complete": GO, "failed": STOP, "canceled": STOP, "blocked": CAUTION}
_STEP_TONES: Final = {"done": GO, "failed": STOP, "aborted": CAUTION, "undone": CAUTION}
CSV_COLUMNS: Final = (
    "id", "state", "reason", "goal", "model", "target", "attempt", "verify", "tokens", "steps", "created_at",
    "started_at", "ended_at", "deadline_at",
)  # fmt: skip
_TEXT_CHARS_MAX: Final = 4_000
_STEPS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class TaskPages:
    """Serves the pages of tasks."""

    frame: Frame
    reading: ReadingService
    control: ControlService

    async def show(self, call: Call) -> Reply:
        """Answer the list. Raises `invalid_cursor`."""
        state, page = _state(call), call.page
        rows = await self.reading.page(call.within, Filters(state), page.after, page.limit_plus_one)
        kept, position = page.cut(rows, _position)
        cursor = call.listed([], position).body["next_cursor"]
        overview = await self.reading.overview(call.within)
        query = {"cursor": cursor, **({"state": state} if state else {})}
        values = {
            "place": place_of(call.within),
            "tasks": [{**task_json(task), "tone": _TONES.get(str(task.state), "")} for task in kept],
            "states": [(str(each), overview["states"].get(str(each), 0)) for each in TaskState],
            "state": state,
            "shares": [_share(row) for row in overview["shares"]],
            "oldest_blocked": overview["oldest_blocked_us"] and rfc3339(overview["oldest_blocked_us"]),
            "next_url": None if cursor is None else f"/console/tasks?{urlencode(query)}",
            "is_first_page": not page.after,
        }
        return self.frame.page(call, "tasks", values)

    async def export(self, call: Call) -> Reply:
        """Answer the tasks as CSV, newest first; those of one state where the address names it."""
        asked = Filters(_state(call))

        async def read(after: tuple[int, str] | None, limit: int) -> list[Task]:
            return await self.reading.page(call.within, asked, after, limit)

        tasks = await all_rows(read, None, _position, self.frame.csv_rows_max)
        return csv_of("tasks.csv", CSV_COLUMNS, [_exported(each) for each in tasks])

    async def one(self, call: Call) -> Reply:
        """Answer one task. Raises `task_not_found`."""
        task = await self.reading.task(call.within, call.params["id"])
        steps = await self.reading.steps(call.within, task)
        shown = await self.reading.shown(call.within, task)
        is_open = task.state in {TaskState.QUEUED, TaskState.RUNNING}
        values = {
            "task": shown,
            "tone": _TONES.get(str(task.state), ""),
            "sentence": sentence(shown),
            "steps": [await self._step(step) for step in steps[-_STEPS_MAX:]],
            "is_cut": len(steps) > _STEPS_MAX,
            "diff": await self.reading.diff(steps, task),
            "approval_args": _text((shown["approval"] or {}).get("args")),
            "budget": budget_lines(shown["budget"]),
            "check": check_words(shown["verify"]),
            "is_open": is_open,
            "may_cancel": is_open or task.state is TaskState.BLOCKED,
            "may_write": _may(call, "agents:write"),
            "may_approve": _may(call, "agents:approve"),
        }
        return self.frame.page(call, "task", values)

    async def cancel(self, call: Call) -> Reply:
        """Ask for a cancel and go back."""
        await self.control.cancel(call.tx, call.params["id"], call.form.get("reason", ""))
        return _back(call.params["id"])

    async def approve(self, call: Call) -> Reply:
        """Decide an approval and go back."""
        decision = call.form.get("decision", "")
        if decision not in {"approve", "deny"}:
            raise InterlockError("invalid_request", "Approve or deny.", detail={"field": "decision"})
        verdict = Verdict(call.form.get("approval_id", ""), decision, call.form.get("note", ""))
        await self.control.approve(call.tx, call.params["id"], verdict)
        return _back(call.params["id"])

    async def undo(self, call: Call) -> Reply:
        """Go back to a step."""
        await self.control.undo(call.tx, call.params["id"], _number(call.form, "to_step"))
        return _back(call.params["id"])

    async def fork(self, call: Call) -> Reply:
        """Make a task from a step and show that."""
        goal = call.form.get("goal", "").strip() or None
        made = await self.control.fork(call.tx, call.params["id"], Branching(_number(call.form, "from_step"), goal))
        return _back(made.public_id)

    async def standing(self, scope: Scope) -> Standing:
        """Tell who waits for somebody."""
        states = (await self.reading.overview(scope))["states"]
        open_, blocked = states.get("running", 0) + states.get("queued", 0), states.get("blocked", 0)
        if blocked:
            return Standing(CAUTION, f"{count(blocked, 'waits', 'wait')} for somebody; {open_:,} open beside")
        if not states:
            return Standing("", "none yet")
        return Standing(GO, f"{open_:,} open, none waits for somebody")

    @property
    def sampler(self) -> Sampler:
        """What the list of screens may show: the newest task of a scope."""

        async def newest(scope: Scope) -> str | None:
            found = await self.reading.page(scope, Filters(), None, 1)
            return found[0].public_id if found else None

        return newest

    async def _step(self, step: Step) -> dict[str, Any]:
        shown = step_json(step)
        return {
            **shown,
            "args": _text(shown["args"]),
            "result": _text(step.result),
            "text": str(step.outcome.get("text") or ""),
            "output": str(step.outcome.get("output") or "")[:_TEXT_CHARS_MAX],
            "diff": (await self.reading.step_diff(step))[:_TEXT_CHARS_MAX],
            "tone": _STEP_TONES.get(str(step.status), ""),
        }


def task_pages(pages: TaskPages) -> list[Route]:
    """Return the routes of the pages."""
    read, write, one = "agents:read", "agents:write", "/tasks/{id}"
    gone = ("task_not_found",)
    return [
        page_at("/tasks", pages.show, "Tasks, newest first.", ("cursor", "state"), action=read,
                codes=("invalid_cursor",)),
        as_type(page_at("/tasks.csv", pages.export, "Tasks as CSV, newest first.", ("state",), action=read),
                "text/csv"),
        page_at(one, pages.one, "One task with its timeline.", action=read, codes=gone),
        form_at(f"{one}/cancel", pages.cancel, "Cancel a task.", action=write, codes=(*gone, "task_terminal")),
        form_at(f"{one}/approve", pages.approve, "Decide an approval.", action="agents:approve",
                codes=(*gone, "approval_stale", "approval_decided")),
        form_at(f"{one}/undo", pages.undo, "Undo to a step.", action=write, codes=(*gone, "task_running")),
        form_at(f"{one}/fork", pages.fork, "Fork from a step.", action=write, codes=(*gone, "unknown_step")),
    ]  # fmt: skip


def sentence(task: Mapping[str, Any]) -> str:
    """Tell where a task stands."""
    reason = task["reason"]
    said = {
        "queued": "It waits for a slot.",
        "running": f"It runs, attempt {task['attempt']}, at step {task['head_step']}.",
        "complete": "It is complete: the check that decides passed."
        if task["verify"]["state"] == "passed"
        else "It is complete; nothing was there to check it.",
        "failed": f"It failed: {reason}.",
        "blocked": f"It waits for somebody: {reason}. It holds no slot and costs nothing meanwhile.",
    }
    if task["state"] == "canceled":
        proof = task["cancel"]["proof"] or {}
        return f"It was canceled; the proof is {proof.get('kind')}, {proof.get('killed', 0)} processes were killed."
    return said[task["state"]]


def budget_lines(budget: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str]]:
    """Return what was used of each budget, by a name that a reader knows."""
    money = budget["usd_micros"]
    return [
        ("Tokens", f"{budget['tokens']['used']:,} of {budget['tokens']['limit']:,}"),
        ("Money", f"{dollars(money['used'])} of {dollars(money['limit'])}"),
        ("Steps", f"{budget['steps']['used']:,} of {budget['steps']['limit']:,}"),
        ("Tool time", f"{budget['tool_seconds']['used']:,} of {budget['tool_seconds']['limit']:,} s"),
    ]


def check_words(verify: Mapping[str, Any]) -> str:
    """Tell what the check said so far."""
    state: str = verify["state"]
    rejections: int = verify["rejections"]
    if not rejections:
        return {"none": "none has run", "passed": "passed"}.get(state, state)
    times = "once" if rejections == 1 else f"{rejections} times"
    return f"refused {times}, then passed" if state == "passed" else f"refused {times}"


def _share(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a workspace's line; the bar is its running legs of those it may have."""
    return {
        "workspace": format_id("ws", row["workspace_id"]),
        "running": row["running"],
        "running_max": row["running_max"],
        "vtime": round(row["vtime"], 1),
    }


def _state(call: Call) -> str | None:
    """Return the state that the address asks for; what is none asks for all."""
    state = call.query.get("state")
    return state if state in set(TaskState) else None


def _position(task: Task) -> tuple[int, str]:
    return int(task.row["created_us"]), str(task.id)


def _exported(task: Task) -> dict[str, Any]:
    told, row = task_json(task), task.row
    return {**told, "verify": row["verify_state"], "tokens": row["tokens_used"], "steps": row["steps_used"]}


def _back(task_id: str) -> Reply:
    return sent_to(f"/console/tasks/{task_id}")


def _may(call: Call, action: str) -> bool:
    return isinstance(authorize(call.who, action, Level.WORKSPACE), Scope)


def _number(form: Mapping[str, str], name: str) -> int:
    text = form.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InterlockError("invalid_request", "Name a step.", detail={"field": name})
    return int(text)


def _text(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _TEXT_CHARS_MAX else text[:_TEXT_CHARS_MAX] + "…"
