"""The journal of a task as values: steps, what the model said in them, and the conversation that they make.

Reads no rows and writes none; the store turns rows into these.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from interlock.agents.domain.prompts import REJECTED, Opening, goal_message, opening_messages
from interlock.agents.domain.types import Decision

_INTERRUPTED: Final = '{"error": "interrupted"}'
_NUDGE: Final = "Call one of the tools; `finish` ends the work."


class StepKind(StrEnum):
    """What a step is."""

    MODEL = "model"
    TOOL = "tool"
    APPROVAL = "approval"
    UNDO = "undo"
    VERIFY = "verify"
    CONTROL = "control"


class StepStatus(StrEnum):
    """How far a step is; `intent` is written before anything is done, `undone` after an undo to a step before it."""

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as the model wrote it in step `model_seq`."""

    model_seq: int
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the journal. `result` is JSON as it was shown; `args` are what was asked for."""

    seq: int
    kind: StepKind
    status: StepStatus
    attempt: int = 1
    tool: str | None = None
    call_id: str | None = None
    model_seq: int | None = None
    args: str = "{}"
    args_sha256: str = ""
    result: str | None = None
    error: str | None = None
    decision: Decision | None = None
    tree_before: str | None = None
    tree_after: str | None = None
    commit: str | None = None
    changed: tuple[str, ...] = ()
    checkpoint: str | None = None
    request_id: str | None = None
    tokens: int = 0
    tokens_reserved: int = 0
    usd_micros: int = 0
    redactions: int = 0
    started_us: int = 0
    ms: float | None = None

    @property
    def is_live(self) -> bool:
        """Whether the step counts: it was neither undone nor cut off by a crash."""
        return self.status not in {StepStatus.UNDONE, StepStatus.ABORTED}

    @property
    def outcome(self) -> Mapping[str, Any]:
        """The result as an object; empty where there is none."""
        try:
            found = json.loads(self.result or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def given(self) -> Mapping[str, Any]:
        """The arguments as an object; empty where the model wrote none."""
        try:
            found = json.loads(self.args)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def asked(self) -> list[Asked]:
        """Return the calls of a model step, in their order."""
        calls = self.outcome.get("tool_calls") or ()
        return [Asked(self.seq, call["id"], call["name"], call["arguments"]) for call in calls]


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered, redacted, ready to be kept."""

    text: str
    calls: tuple[tuple[str, str, str], ...] = field(default=())

    def to_json(self) -> str:
        """Return the result of a model step."""
        calls = [{"id": each[0], "name": each[1], "arguments": each[2]} for each in self.calls]
        return json.dumps({"text": self.text, "tool_calls": calls})


def sha256_of(args: str) -> str:
    """Return the fingerprint of arguments."""
    return hashlib.sha256(args.encode("utf-8", "replace")).hexdigest()


def idem_key(task: str, seq: int, tool: str, args: str) -> str:
    """Return what makes a step the same step in every attempt."""
    return sha256_of(json.dumps([task, seq, tool, args]))


def revived(steps: Sequence[Step], to_step: int) -> list[int]:
    """Return the undone steps that count again once everything behind `to_step` is undone, undos included."""
    undone: set[int] = set()
    for step in steps:
        if step.kind is StepKind.UNDO and step.seq <= to_step:
            undone |= set(range(int(step.given.get("to_step", 0)) + 1, step.seq))
    return [
        step.seq
        for step in steps
        if step.seq <= to_step and step.status is StepStatus.UNDONE and step.seq not in undone
    ]


def conversation(opening: Opening, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the messages of the chat API for the live steps."""
    live = [step for step in steps if step.is_live]
    results = _results(live)
    messages = opening_messages(opening)
    for step in live:
        if step.kind is StepKind.MODEL and step.status is not StepStatus.INTENT:
            messages += _turn(step, results)
        elif step.kind is StepKind.CONTROL and step.tool == "goal":
            messages.append(
                goal_message(Opening(str(step.given.get("goal", "")), opening.target, opening.test_command))
            )
    return messages


def _turn(step: Step, results: Mapping[tuple[int, str], str]) -> list[dict[str, Any]]:
    asked = step.asked()
    text = step.outcome.get("text") or None
    if not asked and "tool_calls" not in step.outcome:
        return []
    if not asked:
        return [{"role": "assistant", "content": text or ""}, {"role": "user", "content": _NUDGE}]
    calls = [
        {"id": each.call_id, "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
        for each in asked
    ]
    return [
        {"role": "assistant", "content": text, "tool_calls": calls},
        *(
            {
                "role": "tool",
                "tool_call_id": each.call_id,
                "content": results.get((step.seq, each.call_id), _INTERRUPTED),
            }
            for each in asked
        ),
    ]


def _results(live: Sequence[Step]) -> dict[tuple[int, str], str]:
    """Map each call that was performed to what the model is told of it."""
    found: dict[tuple[int, str], str] = {}
    last: tuple[int, str] | None = None
    for step in live:
        if step.kind is StepKind.TOOL and step.status is not StepStatus.INTENT:
            last = (step.model_seq or 0, step.call_id or "")
            found[last] = step.result or "{}"
        elif step.kind is StepKind.VERIFY and last is not None and step.outcome.get("passed") is False:
            found[last] = REJECTED
        elif step.kind is StepKind.CONTROL and step.tool == "answer" and last is not None:
            found[last] = json.dumps({"answer": step.given.get("answer", "")})
    return found
