"""A task as its row holds it, and steps from their rows.

Runs no statement of a leg; `journal.py` does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from interlock.agents.domain.budget import Budget, Measure
from interlock.agents.domain.journal import Step, StepKind, StepStatus
from interlock.agents.domain.states import TaskState
from interlock.agents.domain.types import Decision, Outcome
from interlock.foundation.identity import KeyBounds
from interlock.foundation.ids import OrganizationId, PrincipalId, WorkspaceId, format_id
from interlock.foundation.scope import Principal, PrincipalKind, Scope


class Test(msgspec.Struct, forbid_unknown_fields=True):
    """What the agent may run to see how it is doing."""

    command: str
    timeout_s: float = 30.0


class Wish(msgspec.Struct):
    """What was asked for, redacted, as it may be shown; the check is told apart by whether it has files."""

    goal: str
    target: str | None = None
    test: Test | None = None
    tools: list[str] | None = None


class Check(msgspec.Struct):
    """What decides; kept from the agent and its model."""

    command: str
    timeout_s: float = 60.0
    files: dict[str, str] = {}
    expect: str | None = None
    max_rejections: int = 3
    is_hidden: bool = False


class Input(msgspec.Struct):
    """What a task begins with, in the artifact store: never in a row, an event or a step."""

    repo_kind: str
    files: dict[str, str] = {}
    bundle: bytes = b""
    verify: Check | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One row of `agents_tasks`."""

    organization_id: OrganizationId
    workspace_id: WorkspaceId
    id: UUID
    state: TaskState
    wish: Wish
    row: Mapping[str, Any] = field(repr=False)

    @property
    def public_id(self) -> str:
        """`task_..`."""
        return format_id("task", self.id)

    @property
    def key(self) -> tuple[UUID, UUID, UUID]:
        """The primary key."""
        return self.organization_id, self.workspace_id, self.id

    @property
    def budget(self) -> Budget:
        """All quantities as they stand in the row."""
        row = self.row
        return Budget(
            Measure(row["tokens_limit"], row["tokens_used"], row["tokens_reserved"]),
            Measure(row["usd_limit"], row["usd_used"], row["usd_reserved"]),
            Measure(row["steps_limit"], row["steps_used"]),
            Measure(row["tool_ms_limit"], row["tool_ms_used"]),
        )

    @property
    def bounds(self) -> KeyBounds:
        """What the key that opened the task may ask for: the key that is lent to it may no more."""
        return KeyBounds(tuple(self.row["key_models"]), self.row["key_class_max"])

    def scope(self) -> Scope:
        """Return the scope in which the work is done: the submitter's, in the task's workspace."""
        row = self.row
        principal = Principal(
            PrincipalId(row["principal_id"]),
            PrincipalKind(row["principal_kind"]),
            self.organization_id,
            self.workspace_id,
        )
        return Scope(self.organization_id, self.workspace_id, principal)


def task_of(row: Any) -> Task:
    """Return the task of a row."""
    return Task(
        OrganizationId(row["organization_id"]),
        WorkspaceId(row["workspace_id"]),
        row["task_id"],
        TaskState(row["state"]),
        msgspec.json.decode(row["request"], type=Wish),
        row,
    )


def step_of(row: Any, args: str | None = None, result: str | None = None) -> Step:
    """Return the step of a row; long bodies come from the artifact store."""
    return Step(
        seq=row["seq"],
        kind=StepKind(row["kind"]),
        status=StepStatus(row["status"]),
        attempt=row["attempt"],
        tool=row["tool"],
        call_id=row["call_id"],
        model_seq=row["model_seq"],
        args=(args if row["args_key"] else row["args"]) or "{}",
        args_sha256=row["args_sha256"],
        result=result if row["result_key"] else row["result"],
        error=row["error"],
        decision=_decision(row["decision"]),
        tree_before=row["tree_before"],
        tree_after=row["tree_after"],
        commit=row["commit_id"],
        changed=tuple(json.loads(row["changed"])),
        checkpoint=row["checkpoint"],
        request_id=row["request_id"],
        tokens=row["tokens"],
        tokens_reserved=row["tokens_reserved"],
        usd_micros=row["usd_micros"],
        redactions=row["redactions"],
        started_us=row["started_us"],
        ms=row["ms"],
    )


def decision_text(decision: Decision | None) -> str | None:
    """Return a decision as its row holds it."""
    return None if decision is None else json.dumps([decision.outcome, decision.rule, decision.grant])


def _decision(text: str | None) -> Decision | None:
    if text is None:
        return None
    outcome, rule, grant = json.loads(text)
    return Decision(Outcome(outcome), rule, grant)
