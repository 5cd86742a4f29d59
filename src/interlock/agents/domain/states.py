"""The states of a task and the ways between them: the table that the CHECK of `agents_tasks` and the docs repeat.

Decides no change; it only says which are possible.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class TaskState(StrEnum):
    """Where a task is. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    BLOCKED = "blocked"
    FAILED = "failed"
    CANCELED = "canceled"
    COMPLETE = "complete"


_Q, _R, _B = TaskState.QUEUED, TaskState.RUNNING, TaskState.BLOCKED
_F, _X, _C = TaskState.FAILED, TaskState.CANCELED, TaskState.COMPLETE

TRANSITIONS: Final[Mapping[TaskState, frozenset[TaskState]]] = {
    _Q: frozenset({_R, _B, _F, _X}),
    _R: frozenset({_Q, _B, _F, _X, _C}),
    _B: frozenset({_Q, _F, _X}),
    _F: frozenset(),
    _X: frozenset(),
    _C: frozenset(),
}
FINAL: Final = frozenset(state for state, after in TRANSITIONS.items() if not after)


class Reason(StrEnum):
    """Why a task is blocked or failed, or what happened to one that runs or waits."""

    APPROVAL_REQUIRED = "approval_required"
    INPUT_REQUIRED = "input_required"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    BUDGET_EXHAUSTED = "budget_exhausted"
    NEEDS_RECONCILE = "needs_reconcile"
    PAUSED = "paused"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    GAVE_UP = "gave_up"
    VERIFICATION_FAILED = "verification_failed"
    APPROVAL_EXPIRED = "approval_expired"
    MODEL_UNAVAILABLE = "model_unavailable"
    REPO_INVALID = "repo_invalid"
    INTERNAL = "internal"
    YIELDED = "yielded"
    RECOVERED = "recovered"
