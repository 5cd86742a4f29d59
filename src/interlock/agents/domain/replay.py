"""`replay`: makes the same calls as a recorded task, and stops at the first result that differs.

Compares what a call came to, not how long it took. Only ever registered with `--test-models`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from interlock.agents.domain.transcripts import Exchange, NextCall, Transcript

GOAL: Final = "replay:"
# Figures that differ between two runs of the same thing.
_VOLATILE: Final = frozenset({"ms", "baseline", "output", "is_cut"})


def task_of(goal: str) -> str | None:
    """Return the id of the recorded task that a goal names."""
    return goal.strip().removeprefix(GOAL) if goal.strip().startswith(GOAL) else None


def recording_of(exchanges: Sequence[Exchange]) -> str:
    """Write exchanges as the line that the opening of a task carries."""
    return json.dumps([
        {"name": each.name, "arguments": dict(each.arguments), "result": dict(each.result)} for each in exchanges
    ])  # fmt: skip


def next_call(transcript: Transcript) -> NextCall:
    """Return the next recorded call, or the end: done, or given up with the first step that differs.

    Raises `ValueError` where the opening carries no recording.
    """
    if transcript.opening.recording is None:
        raise ValueError("the goal names no recorded task of this workspace")
    recorded = [Exchange(**each) for each in json.loads(transcript.opening.recording)]
    made = transcript.exchanges
    for number, (now, then) in enumerate(zip(made, recorded, strict=False)):
        if _core(now.result) != _core(then.result):
            summary = f"Call {number + 1}, {then.name}, came to something else than in the recorded task."
            return NextCall("finish", {"summary": summary, "status": "gave_up"})
    if len(made) < len(recorded):
        return NextCall(recorded[len(made)].name, recorded[len(made)].arguments)
    return NextCall("finish", {"summary": "Every call came to the same.", "status": "done"})


def _core(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in _VOLATILE}
