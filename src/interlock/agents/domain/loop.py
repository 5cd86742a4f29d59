"""What a task does next, from its journal alone: the same steps always lead to the same action, on any worker.

Performs nothing. Budgets in tokens and seconds are settled where they are spent; steps are counted here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from interlock.agents.domain.journal import Asked, Step, StepKind, StepStatus
from interlock.agents.domain.states import Reason, TaskState

PROTOCOL_ERRORS_MAX: Final = 5
VIOLATIONS_MAX: Final = 3
VIOLATION: Final = "policy_violation"


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """What bounds the loop: steps of the budget, refused checks."""

    steps_left: int
    rejections_max: int = 3


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model what to do."""


@dataclass(frozen=True, slots=True)
class Perform:
    """Perform a call; `approved` is a human's answer where one was asked for it, and who decided in `rule`."""

    call: Asked
    approved: bool | None = None


@dataclass(frozen=True, slots=True)
class Verify:
    """Check the tree that the model calls done."""

    finish_seq: int


@dataclass(frozen=True, slots=True)
class Redo:
    """A step was begun and its outcome is not known; its crash rule decides."""

    step: Step


@dataclass(frozen=True, slots=True)
class Wait:
    """Block until somebody does something."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class End:
    """The task is over, or has used its budget up."""

    state: TaskState
    reason: Reason | None = None
    message: str = ""


Action = CallModel | Perform | Verify | Redo | Wait | End


def next_action(steps: Sequence[Step], limits: LoopLimits) -> Action:
    """Return what comes after these steps."""
    live = [step for step in steps if step.is_live]
    if live and live[-1].status is StepStatus.INTENT:
        last = live[-1]
        return Wait(Reason.APPROVAL_REQUIRED) if last.kind is StepKind.APPROVAL else Redo(last)
    ended = _ended(live, limits)
    if ended is not None:
        return ended
    if limits.steps_left <= 0:
        return Wait(Reason.BUDGET_EXHAUSTED)
    if _violations(live) >= VIOLATIONS_MAX:
        return Wait(Reason.APPROVAL_REQUIRED)
    return _onward(live, steps)


def _ended(live: Sequence[Step], limits: LoopLimits) -> Action | None:
    """Return the end that the last step means, if any."""
    if protocol_errors(live) >= PROTOCOL_ERRORS_MAX:
        return End(TaskState.FAILED, Reason.INTERNAL, "model_protocol")
    last = live[-1] if live else None
    if last is not None and last.kind is StepKind.VERIFY:
        return _verified(live, limits)
    if last is not None and last.kind is StepKind.TOOL and last.status is StepStatus.DONE:
        return _called(last)
    return None


def _verified(live: Sequence[Step], limits: LoopLimits) -> Action | None:
    """Return what a check means: the end, or that the model goes on."""
    if not _is_refused(live[-1]):
        return End(TaskState.COMPLETE)
    if sum(_is_refused(step) for step in _behind_goal(live)) >= limits.rejections_max:
        return End(TaskState.FAILED, Reason.VERIFICATION_FAILED)
    return None


def _called(last: Step) -> Action | None:
    """Return what a call means that is about the task itself."""
    if last.tool == "finish" and last.given.get("status", "done") == "gave_up":
        return End(TaskState.FAILED, Reason.GAVE_UP, str(last.given.get("summary", "")))
    if last.tool == "finish":
        return Verify(last.seq)
    return Wait(Reason.INPUT_REQUIRED) if last.tool == "ask_human" else None


def _is_refused(step: Step) -> bool:
    return step.kind is StepKind.VERIFY and step.outcome.get("passed") is False


def _onward(live: Sequence[Step], steps: Sequence[Step]) -> Action:
    model = next((step for step in reversed(live) if step.kind is StepKind.MODEL), None)
    if model is None or (_behind_goal(live) and _behind_goal(live)[0].seq > model.seq):
        return CallModel()
    if live[-1].kind is StepKind.CONTROL and live[-1].tool == "goal":
        return CallModel()
    performed = {(step.model_seq, step.call_id) for step in live if step.kind is StepKind.TOOL}
    for call in model.asked():
        if (call.model_seq, call.call_id) not in performed:
            return Perform(call, _answered(live, call, steps))
    return CallModel()


def _answered(live: Sequence[Step], call: Asked, steps: Sequence[Step]) -> bool | None:
    """Return what a human said to a call; None where nobody was asked, or the answer has had its run."""
    for step in reversed(live):
        if step.kind is StepKind.APPROVAL and (step.model_seq, step.call_id) == (call.model_seq, call.call_id):
            is_approved = step.status is StepStatus.DONE
            return None if is_approved and _has_run(call, step.seq, steps) else is_approved
    return None


def _has_run(call: Asked, approved_at: int, steps: Sequence[Step]) -> bool:
    """Whether the call was performed under this approval and taken back since: a crash alone uses nothing up."""
    return any(
        step.kind is StepKind.TOOL and step.status is StepStatus.UNDONE and step.seq > approved_at
        for step in steps
        if (step.model_seq, step.call_id) == (call.model_seq, call.call_id)
    )


def _behind_goal(live: Sequence[Step]) -> list[Step]:
    """Return the steps since the latest goal."""
    for position in range(len(live) - 1, -1, -1):
        if live[position].kind is StepKind.CONTROL and live[position].tool == "goal":
            return list(live[position + 1 :])
    return list(live)


def _violations(live: Sequence[Step]) -> int:
    """Count violations since somebody last looked at the task."""
    count = 0
    for step in reversed(live):
        if step.kind is StepKind.CONTROL:
            break
        count += step.error == VIOLATION
    return count


def protocol_errors(live: Sequence[Step]) -> int:
    """Count how often in a row, until now, the model did not make a call that can be understood."""
    count = 0
    for step in reversed(live):
        if (step.kind is StepKind.MODEL and step.status is StepStatus.FAILED) or (
            step.kind is StepKind.TOOL and step.error == "tool_error" and step.decision is None
        ):
            count += 1
        elif step.kind is StepKind.MODEL:
            continue
        else:
            break
    return count
