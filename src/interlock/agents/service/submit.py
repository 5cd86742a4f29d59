"""Takes a task in: what was asked for is checked, its repository tried out, its row made; or the reason why not.

Starts nothing; a worker is told and claims it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.agents.config import AgentsConfig
from interlock.agents.domain.paths import first_unsafe
from interlock.agents.domain.policy import CODE, first_wider, parse_grants
from interlock.agents.domain.ports import Trees
from interlock.agents.domain.types import RepoRefused
from interlock.agents.service.prepare import redactor_of, repo_of
from interlock.agents.store.journal import SQL, Journal, clean_text, event_text
from interlock.agents.store.rows import Check, Input, Task, Test, Wish, task_of
from interlock.foundation.artifacts import key_of
from interlock.foundation.audit import AuditEntry
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import KeyBounds
from interlock.foundation.ids import WorkspaceId, format_id
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.secrets import SecretService
from interlock.foundation.store import Transaction

SECRET_CHARS_MIN: Final = 8
_OBSERVED_S: Final = 60
_LABELS_MAX: Final = 32
# Returns what a caller's key may ask for; None where there is no such model, or the key may not ask for it.
FindBounds = Callable[[Scope, str], Awaitable[KeyBounds | None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a task may use."""

    tokens: int = 200_000
    usd_micros: int = 1_000_000
    steps: int = 200
    tool_seconds: int = 1_800


@dataclass(frozen=True, slots=True)
class Wanted:
    """A task as it was asked for, well formed but not judged."""

    goal: str
    model: str
    repo: Input
    target: str | None = None
    test: Test | None = None
    verify: Check | None = None
    limits: Limits = field(default_factory=Limits)
    deadline_us: int | None = None
    tools: tuple[str, ...] | None = None
    protect: tuple[str, ...] | None = None
    on_budget: str = "block"
    priority: int = 5
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    vault_names: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class SubmitService:
    """`submit` in the transaction of the call."""

    def __init__(
        self, journal: Journal, trees: Trees, secrets: SecretService, find_bounds: FindBounds, config: AgentsConfig
    ) -> None:
        self._journal = journal
        self._trees = trees
        self._secrets = secrets
        self._find_bounds = find_bounds
        self._config = config

    async def submit(self, tx: Transaction, wanted: Wanted) -> Task:
        """Make the task. Raises what the page's table of bad input says."""
        scope = tx.scope
        workspace_id = home_of(scope)
        now_us = self._journal.clock.now_us()
        deadline_us = self._checked(wanted, now_us)
        grants = [] if wanted.tools is None else self.check_grants(wanted.tools)
        bounds = await self.bounds_for(scope, wanted.model)
        await self.check_room(tx, workspace_id, now_us)
        base = await self._trees.check(repo_of(wanted.repo))
        if isinstance(base, RepoRefused):
            raise InterlockError(base.code, base.message, detail=dict(base.detail))
        task_id = self._journal.ids.new()
        key = key_of("agents", str(scope.organization_id), format_id("task", task_id), "input")
        given = Input(wanted.repo.repo_kind, wanted.repo.files, wanted.repo.bundle, check_of(wanted))
        await self._journal.artifacts.put(key, msgspec.msgpack.encode(given))
        names = await self._sealed(tx, workspace_id, task_id, wanted)
        redactor = redactor_of(wanted.secrets)
        wish = Wish(redactor.text(wanted.goal), wanted.target, wanted.test, list(wanted.tools or ()) or None)
        await tx.execute(
            SQL.add_task,
            scope.organization_id,
            workspace_id,
            task_id,
            clean_text(msgspec.json.encode(wish).decode()),
            key,
            names,
            wanted.model,
            scope.principal.id,
            str(scope.principal.kind),
            grants,
            list(wanted.protect or ()),
            event_text(redactor.value(dict(wanted.labels))),
            scope.request_id,
            wanted.priority,
            wanted.on_budget,
            now_us,
            deadline_us,
            wanted.limits.tokens,
            wanted.limits.usd_micros,
            wanted.limits.steps,
            wanted.limits.tool_seconds * 1_000,
            None,
            None,
            base.commit,
            base.tree,
            base.commit,
            base.tree,
            list(bounds.models),
            bounds.class_max,
        )
        await self.announce(tx, (scope.organization_id, workspace_id, task_id), {"model": wanted.model})
        return task_of(await tx.fetchrow(SQL.find_task, scope.organization_id, task_id))

    async def announce(self, tx: Transaction, key: tuple[UUID, UUID, UUID], detail: Mapping[str, Any]) -> None:
        """Write the first event and the audit row of a new task, and wake a worker at commit."""
        await tx.execute(SQL.add_share, *key[:2])
        content = event_text({"state": "queued", "reason": None})
        await tx.fetchval(SQL.add_event, *key, "task.state", self._journal.clock.now_us(), content)
        entry = AuditEntry("task.submit", "task", format_id("task", key[2]), detail=detail)
        await self._journal.audit.append(tx, entry)
        await tx.notify("agents", "due")

    def _checked(self, wanted: Wanted, now_us: int) -> int:
        config = self._config
        if not 1 <= len(wanted.goal.encode("utf-8", "replace")) <= config.goal_bytes_max:
            raise _wrong("goal", f"`goal` has 1 to {config.goal_bytes_max} bytes.")
        if len(wanted.labels) > _LABELS_MAX:
            raise _wrong("labels", f"At most {_LABELS_MAX} labels.")
        for name, value in wanted.secrets.items():
            if len(value) < SECRET_CHARS_MIN or not name.isidentifier():
                raise _wrong("secrets", f"{name[:64]!r}: a name of a variable, a value of {SECRET_CHARS_MIN} or more.")
        for name in wanted.vault_names:
            # What came with another task is sealed in the same vault, and belongs to that task alone.
            if name.startswith("task_") and "." in name:
                raise _wrong("secrets", f"{name[:64]!r} belongs to a task.")
        paths = list(wanted.verify.files) if wanted.verify else []
        unsafe = first_unsafe(paths) or (first_unsafe([wanted.target]) if wanted.target is not None else None)
        if unsafe is not None:
            raise InterlockError("unsafe_path", detail={"path": unsafe[:200]})
        self.check_limits(wanted.limits)
        return self.check_deadline(wanted.deadline_us, now_us)

    async def bounds_for(self, scope: Scope, model: str) -> KeyBounds:
        """Return what the caller's key may ask for, which its task keeps.

        A model that the key may not use is refused as if it were absent. Raises `model_not_found`.
        """
        bounds = await self._find_bounds(scope, model)
        if bounds is None:
            raise InterlockError("model_not_found", detail={"model": model[:200]})
        return bounds

    async def forget_secrets(self, tx: Transaction, task: Task) -> None:
        """Remove what came with a task that is over; names of the vault stay."""
        for each in task.row["secret_names"]:
            name, _, envelope = each.partition("=")
            if envelope != name:
                with suppress(InterlockError):
                    await self._secrets.remove(tx, envelope)

    def check_limits(self, limits: Limits) -> None:
        """Refuse a budget beyond the caps. Raises `budget_exceeds_limit`, `invalid_request`."""
        config = self._config
        caps = {
            "tokens": config.tokens_max,
            "usd_micros": config.usd_micros_max,
            "steps": config.steps_max,
            "tool_seconds": config.tool_seconds_max,
        }
        for name, cap in caps.items():
            asked = getattr(limits, name)
            if asked < 0:
                raise _wrong(f"budget.{name}", f"`{name}` is not negative.")
            if asked > cap:
                raise InterlockError("budget_exceeds_limit", detail={"budget": name, "limit": cap, "asked": asked})

    def check_deadline(self, deadline_us: int | None, now_us: int) -> int:
        """Return the deadline. Raises `deadline_in_past`, `invalid_request`."""
        if deadline_us is None:
            return now_us + 3_600 * 1_000_000
        if deadline_us <= now_us:
            raise InterlockError("deadline_in_past")
        if deadline_us > now_us + self._config.deadline_s_max * 1_000_000:
            raise _wrong("deadline_s", f"A deadline is at most {self._config.deadline_s_max} s away.")
        return deadline_us

    def check_grants(self, tools: Sequence[str]) -> list[str]:
        """Return what is granted. Raises `unknown_tool`, and `scope_denied` for what the workspace does not grant."""
        grants = parse_grants(tools)
        if isinstance(grants, str):
            raise InterlockError("unknown_tool", detail={"tool": grants[:200]})
        wider = first_wider(grants, CODE)
        if wider is not None:
            raise InterlockError("scope_denied", "The workspace does not grant it.", detail={"grant": wider.text})
        return [grant.text for grant in grants] or ["deny:shell.run"]

    async def check_room(self, tx: Transaction, workspace_id: WorkspaceId, now_us: int) -> None:
        """Refuse a task that the queue has no room for. Raises `queue_full`."""
        organization_id, config = tx.scope.organization_id, self._config
        row = await tx.fetchrow(SQL.count_queued, organization_id, workspace_id)
        queued = 0 if row is None else row["workspace"]
        total = 0 if row is None else row["organization"]
        if queued < config.queued_workspace_max and total < config.queued_organization_max:
            return
        ended = await tx.fetchval(SQL.ended_lately, organization_id, now_us - _OBSERVED_S * 1_000_000)
        wait_s = min(600.0, max(1.0, queued / max(ended / _OBSERVED_S, 1 / _OBSERVED_S)))
        raise InterlockError("queue_full", detail={"queued": queued}, retry_after_s=round(wait_s, 1))

    async def _sealed(self, tx: Transaction, workspace_id: UUID, task_id: UUID, wanted: Wanted) -> list[str]:
        """Seal the values of secrets; return `NAME=envelope` for each, vault names included."""
        named = [f"{name}={name}" for name in wanted.vault_names]
        if not wanted.secrets:
            return named
        place = Scope(tx.scope.organization_id, WorkspaceId(workspace_id), tx.scope.principal, tx.scope.request_id)
        for name, value in wanted.secrets.items():
            envelope = f"{format_id('task', task_id)}.{name}"
            await self._secrets.set(tx.under(place), envelope, value)
            named.append(f"{name}={envelope}")
        return named


def check_of(wanted: Wanted) -> Check | None:
    """Return what decides: the hidden check, else the visible test, else nothing."""
    if wanted.verify is not None:
        return wanted.verify
    if wanted.test is not None:
        return Check(wanted.test.command, max(60.0, wanted.test.timeout_s))
    return None


def home_of(scope: Scope) -> WorkspaceId:
    """Return the workspace that a new task belongs to. Raises `invalid_request` where none is named."""
    if not isinstance(scope.workspace_id, AllWorkspaces):
        return scope.workspace_id
    if scope.principal.workspace_id is None:
        raise _wrong("workspace_id", "Name the workspace: `?workspace_id=`.")
    return scope.principal.workspace_id


def _wrong(field_name: str, message: str) -> InterlockError:
    return InterlockError("invalid_request", message, detail={"field": field_name})
