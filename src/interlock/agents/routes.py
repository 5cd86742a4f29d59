"""`/v1/agents/tasks`: parses what callers send and renders tasks, steps, events and artifacts.

Decides nothing; the services do.
"""

import base64
import binascii
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec

from interlock.agents.config import AgentsConfig
from interlock.agents.domain.states import FINAL, TaskState
from interlock.agents.service.control import Branching, ControlService, Resumption, Verdict
from interlock.agents.service.reading import Filters, ReadingService, step_json, task_json
from interlock.agents.service.submit import Limits, SubmitService, Wanted
from interlock.agents.store.rows import Check, Input, Task, Test
from interlock.foundation.clock import Clock
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.control.story import StoryLink
from interlock.foundation.control.stream import Numbered, follow, last_event_id
from interlock.foundation.errors import InterlockError

_PATH: Final = "/v1/agents/tasks"
_BODY_BYTES_MAX: Final = 24 << 20
_FILES_BYTES_MAX: Final = 1 << 20
_BUNDLE_BYTES_MAX: Final = 16 << 20
_WHERE: Final = ("workspace_id",)
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=3_600)]
_Command = Annotated[str, msgspec.Meta(min_length=1, max_length=32 << 10)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class FilesRepoBody(msgspec.Struct, tag_field="kind", tag="files", forbid_unknown_fields=True):
    """Texts by path."""

    files: dict[str, str]


class BundleRepoBody(msgspec.Struct, tag_field="kind", tag="bundle", forbid_unknown_fields=True):
    """A git bundle."""

    data_b64: str


class EmptyRepoBody(msgspec.Struct, tag_field="kind", tag="empty", forbid_unknown_fields=True):
    """Nothing to begin with."""


class TestBody(msgspec.Struct, forbid_unknown_fields=True):
    """What the agent may run."""

    command: _Command
    timeout_s: _Seconds = 30.0


class VerifyBody(msgspec.Struct, forbid_unknown_fields=True):
    """What decides."""

    command: _Command
    timeout_s: _Seconds = 60.0
    files: dict[str, str] = {}
    expect: str | None = None
    max_rejections: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3


class BudgetBody(msgspec.Struct, forbid_unknown_fields=True):
    """Any part of a budget; the rest has its default."""

    tokens: _Count | None = None
    usd_micros: _Count | None = None
    steps: _Count | None = None
    tool_seconds: _Count | None = None


class TaskBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/agents/tasks`."""

    goal: str
    model: _Name
    repo: FilesRepoBody | BundleRepoBody | EmptyRepoBody
    target: str | None = None
    test: TestBody | None = None
    verify: VerifyBody | None = None
    budget: BudgetBody | None = None
    deadline_s: float | None = None
    deadline_at: str | None = None
    tools: list[str] | None = None
    protect: list[_Name] | None = None
    on_budget: Literal["block", "fail"] = "block"
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 5
    secrets: list[_Name] | dict[str, str] | None = None
    labels: dict[str, str] | None = None


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST .../cancel`."""

    reason: str = ""


class ApproveBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST .../approve`."""

    approval_id: str
    decision: Literal["approve", "deny"]
    note: str = ""


class ResumeBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST .../resume`."""

    budget: BudgetBody | None = None
    deadline_s: float | None = None
    answer: str | None = None
    reconcile: Literal["done", "not_done"] | None = None


class UndoBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST .../undo`."""

    to_step: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)]


class ForkBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST .../fork`."""

    from_step: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)]
    goal: str | None = None
    model: _Name | None = None
    budget: BudgetBody | None = None
    deadline_s: float | None = None


@dataclass(slots=True)
class TaskHandlers:
    """One method a call."""

    submissions: SubmitService
    control: ControlService
    reading: ReadingService
    clock: Clock
    config: AgentsConfig
    streams: Counter[tuple[UUID, UUID]]
    stops: Callable[[Call], bool]

    async def submit(self, call: Call) -> Reply:
        """Take a task in."""
        if self.stops(call):
            raise InterlockError("killed", detail={"scope": "agents"})
        body: TaskBody = call.body
        if body.deadline_s is not None and body.deadline_at is not None:
            raise _wrong("deadline_at", "Name `deadline_s` or `deadline_at`, not both.")
        secrets = body.secrets if isinstance(body.secrets, dict) else {}
        task = await self.submissions.submit(
            call.tx,
            Wanted(
                goal=body.goal,
                model=body.model,
                repo=_repo(body.repo),
                target=body.target,
                test=None if body.test is None else Test(body.test.command, body.test.timeout_s),
                verify=_check(body.verify),
                limits=_limits(body.budget, Limits()),
                deadline_us=_moment(body.deadline_at) if body.deadline_at else self._deadline(body.deadline_s),
                tools=None if body.tools is None else tuple(body.tools),
                protect=None if body.protect is None else tuple(body.protect),
                on_budget=body.on_budget,
                priority=body.priority,
                secrets=secrets,
                vault_names=tuple(body.secrets) if isinstance(body.secrets, list) else (),
                labels=body.labels or {},
            ),
        )
        return self._linked(call, task, 201)

    async def page(self, call: Call) -> Reply:
        """Answer a page of tasks."""
        state = call.query.get("state")
        if state is not None and state not in set(TaskState):
            raise _wrong("state", "`state` is no state of a task.")
        page = call.page
        filters = Filters(state, call.query.get("label"))
        rows = await self.reading.page(call.within, filters, page.after, page.limit_plus_one)
        kept, after = page.cut(rows, lambda task: (task.row["created_us"], str(task.id)))
        return call.listed([task_json(task) for task in kept], after)

    async def one(self, call: Call) -> Reply:
        """Answer one task with what is to be included."""
        task = await self.reading.task(call.within, call.params["id"])
        shown = await self.reading.shown(call.within, task)
        wanted = {part for part in call.query.get("include", "").split(",") if part}
        if wanted - {"steps", "diff", "grants"}:
            raise _wrong("include", "`include` names steps, diff and grants.")
        if wanted & {"steps", "diff"}:
            steps = await self.reading.steps(call.within, task)
            if "steps" in wanted:
                shown["steps"] = [step_json(step) for step in steps]
            if "diff" in wanted:
                shown["diff"] = await self.reading.diff(steps, task)
        if "grants" in wanted:
            shown["grants"] = list(task.row["grants"])
        return Reply(body=shown)

    async def events(self, call: Call) -> Reply:
        """Answer events: as a stream from where the reader was, or as a page."""
        task = await self.reading.task(call.within, call.params["id"])
        if "text/event-stream" in call.headers.get("accept", ""):
            # Before the head is out, so that events which are gone are an answer and no broken stream.
            await self.reading.events(call.within, task, last_event_id(call.headers, call.query), 1)
            return Reply(stream=self._stream(call, task), media_type="text/event-stream")
        page = call.page
        after = int(page.after[0]) if page.after else last_event_id({}, call.query)
        found = await self.reading.events(call.within, task, after, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (each.seq,))
        shown = [
            {"seq": each.seq, "event": each.event, "at": each.content["at"], "data": dict(each.content)}
            for each in kept
        ]
        return call.listed(shown, position)

    async def cancel(self, call: Call) -> Reply:
        """Ask for a cancel."""
        body: CancelBody = call.body
        task, is_over = await self.control.cancel(call.tx, call.params["id"], body.reason)
        return self._linked(call, task, 200 if is_over else 202)

    async def approve(self, call: Call) -> Reply:
        """Decide an approval."""
        body: ApproveBody = call.body
        verdict = Verdict(body.approval_id, body.decision, body.note)
        return self._linked(call, await self.control.approve(call.tx, call.params["id"], verdict), 200)

    async def resume(self, call: Call) -> Reply:
        """Queue a blocked task again."""
        body: ResumeBody = call.body
        task = await self.reading.task(call.within, call.params["id"])
        limits = None if body.budget is None else _limits(body.budget, _limits_of(task))
        wanted = Resumption(limits, self._deadline(body.deadline_s), body.answer, body.reconcile)
        return self._linked(call, await self.control.resume(call.tx, call.params["id"], wanted), 202)

    async def undo(self, call: Call) -> Reply:
        """Go back to a step."""
        done = await self.control.undo(call.tx, call.params["id"], call.body.to_step)
        answer = {
            "task": task_json(done.task),
            "undone_steps": done.undone_steps,
            "files_changed": done.files_changed,
            "inverses": [],
            "tree": done.tree,
        }
        return Reply(body=answer)

    async def fork(self, call: Call) -> Reply:
        """Make a new task from a step."""
        body: ForkBody = call.body
        source = await self.reading.task(call.within, call.params["id"])
        limits = None if body.budget is None else _limits(body.budget, _limits_of(source))
        deadline_us = self._deadline(body.deadline_s)
        wanted = Branching(body.from_step, body.goal, body.model, limits, deadline_us)
        return self._linked(call, await self.control.fork(call.tx, call.params["id"], wanted), 201)

    async def artifacts(self, call: Call) -> Reply:
        """Answer a page of artifacts."""
        task = await self.reading.task(call.within, call.params["id"])
        page = call.page
        after = str(page.after[0]) if page.after else ""
        rows = await self.reading.artifacts(call.within, task, after, page.limit_plus_one)
        kept, position = page.cut(rows, lambda each: (each["name"],))
        return call.listed(kept, position)

    async def artifact(self, call: Call) -> Reply:
        """Answer the bytes of one artifact."""
        task = await self.reading.task(call.within, call.params["id"])
        name = call.params["name"]
        content = await self.reading.artifact(call.within, task, name)
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Reply(content=content, media_type="application/octet-stream", headers=headers)

    async def fsck(self, call: Call) -> Reply:
        """Answer whether the books of a task agree."""
        task = await self.reading.task(call.within, call.params["id"])
        findings = await self.reading.fsck(call.within, task)
        return Reply(body={"id": task.public_id, "is_clean": not findings, "findings": findings})

    def _stream(self, call: Call, task: Task) -> AsyncIterator[bytes]:
        after = last_event_id(call.headers, call.query)
        if after < 0:
            raise _wrong("after", "`after` is the number of an event.")
        key = (task.organization_id, task.workspace_id)
        if self.streams[key] >= self.config.streams_max:
            raise InterlockError("too_many_streams", detail={"streams_max": self.config.streams_max})
        is_over = task.state in FINAL and after >= task.row["head_event"]

        async def read(seq: int) -> list[Numbered]:
            return await self.reading.events(call.within, task, seq)

        async def held() -> AsyncIterator[bytes]:
            self.streams[key] += 1
            try:
                if not is_over:
                    async for piece in follow(read, after, self.clock, poll_s=0.1):
                        yield piece
            finally:
                self.streams[key] -= 1

        return held()

    def _deadline(self, deadline_s: float | None) -> int | None:
        if deadline_s is None:
            return None
        if not deadline_s <= self.config.deadline_s_max:
            raise _wrong("deadline_s", f"A deadline is at most {self.config.deadline_s_max} s away.")
        return self.clock.now_us() + round(deadline_s * 1e6)

    @staticmethod
    def _linked(call: Call, task: Task, status: int) -> Reply:
        call.links.append(StoryLink("task", task.public_id))
        return Reply(status=status, body=task_json(task), headers={"x-interlock-task": task.public_id})


def routes(handlers: TaskHandlers) -> list[Route]:
    """Return the routes of tasks."""
    one = f"{_PATH}/{{id}}"
    unknown = ("task_not_found",)
    return [
        _read(_PATH, handlers.page, "Tasks, newest first.", query=("state", "label", *_WHERE)),
        _write(_PATH, handlers.submit, "Submit a task.", TaskBody, 201, _SUBMIT_CODES),
        _read(one, handlers.one, "One task.", query=("include", *_WHERE), codes=unknown),
        _read(
            f"{one}/events", handlers.events, "Events of a task, as a stream or a page.", query=("after", *_WHERE),
            codes=(*unknown, "events_expired", "too_many_streams"),
        ),
        _read(f"{one}/artifacts", handlers.artifacts, "What a task kept.", codes=unknown),
        _read(f"{one}/artifacts/{{name}}", handlers.artifact, "One artifact.", codes=(*unknown, "not_found")),
        _read(f"{one}/fsck", handlers.fsck, "Whether the books of a task agree.", codes=unknown),
        _write(f"{one}/cancel", handlers.cancel, "Cancel a task.", CancelBody, 202, (*unknown, "task_terminal")),
        _write(
            f"{one}/approve", handlers.approve, "Decide an approval.", ApproveBody, 200,
            (*unknown, "approval_stale", "approval_decided", "approver_not_allowed"), action="agents:approve",
        ),
        _write(f"{one}/resume", handlers.resume, "Resume a task.", ResumeBody, 202, (*unknown, "invalid_transition")),
        _write(
            f"{one}/undo", handlers.undo, "Undo to a step.", UndoBody, 200, (*unknown, "task_running", "unknown_step")
        ),
        _write(f"{one}/fork", handlers.fork, "Fork from a step.", ForkBody, 201, (*unknown, "unknown_step")),
    ]  # fmt: skip


_SUBMIT_CODES: Final = (
    "budget_exceeds_limit",
    "deadline_in_past",
    "killed",
    "model_not_found",
    "queue_full",
    "repo_invalid",
    "repo_too_large",
    "unknown_tool",
    "unsafe_path",
)


def _read(
    path: str, handler: Any, summary: str, *, query: tuple[str, ...] = _WHERE, codes: tuple[str, ...] = ()
) -> Route:
    return Route("GET", path, Level.WORKSPACE, handler, summary, action="agents:read", query=query, codes=codes)


def _write(  # noqa: PLR0913 - the shape of a row
    path: str,
    handler: Any,
    summary: str,
    body: type[msgspec.Struct],
    status: int,
    codes: tuple[str, ...],
    *,
    action: str = "agents:write",
) -> Route:
    return Route(
        "POST", path, Level.WORKSPACE, handler, summary, action=action, body=body, status=status, is_mutation=True,
        body_bytes_max=_BODY_BYTES_MAX, codes=codes, query=_WHERE,
    )  # fmt: skip


def _repo(body: FilesRepoBody | BundleRepoBody | EmptyRepoBody) -> Input:
    if isinstance(body, FilesRepoBody):
        size = sum(len(text.encode("utf-8", "replace")) for text in body.files.values())
        if size > _FILES_BYTES_MAX:
            raise InterlockError("repo_too_large", detail={"limit": _FILES_BYTES_MAX, "size": size})
        return Input("files", body.files)
    if isinstance(body, EmptyRepoBody):
        return Input("empty")
    try:
        content = base64.b64decode(body.data_b64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InterlockError("repo_invalid", "`data_b64` is not base64.") from error
    if len(content) > _BUNDLE_BYTES_MAX:
        raise InterlockError("repo_too_large", detail={"limit": _BUNDLE_BYTES_MAX, "size": len(content)})
    return Input("bundle", bundle=content)


def _check(body: VerifyBody | None) -> Check | None:
    if body is None:
        return None
    return Check(body.command, body.timeout_s, body.files, body.expect, body.max_rejections, is_hidden=True)


def _limits(body: BudgetBody | None, otherwise: Limits) -> Limits:
    if body is None:
        return otherwise
    named = ("tokens", "usd_micros", "steps", "tool_seconds")
    given = {name: getattr(body, name) for name in named}
    return Limits(**{name: getattr(otherwise, name) if each is None else each for name, each in given.items()})


def _limits_of(task: Task) -> Limits:
    row = task.row
    return Limits(row["tokens_limit"], row["usd_limit"], row["steps_limit"], row["tool_ms_limit"] // 1_000)


def _moment(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _wrong("deadline_at", "`deadline_at` is an RFC 3339 time.")
    return round(moment.timestamp() * 1_000_000)


def _wrong(field_name: str, message: str) -> InterlockError:
    return InterlockError("invalid_request", message, detail={"field": field_name})
