"""Recorded counts through the canary monitor: what a live rollout would have decided. Reads no file."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from interlock.evals.domain.canary import ArmLook, Decision, Judgement, Look, MonitorState, Reason, Rules, fresh, judge

METRIC: Final = "errors"
COUNT_MAX: Final = 10**12


class _Arm(msgspec.Struct, frozen=True):
    units: int
    bad: int


class _Line(msgspec.Struct, frozen=True):
    look: int
    weight: float
    canary: _Arm
    control: _Arm
    stream: str | int | None = None


class _Named(msgspec.Struct, frozen=True):
    """What is left of a line that is not a look: perhaps its stream."""

    stream: str | int | None = None


@dataclass(slots=True)
class _Stream:
    state: MonitorState
    promoted: Judgement | None = None
    rolled_back: Judgement | None = None
    last: Judgement | None = None
    bad_lines: list[int] = field(default_factory=list)
    fault: str = ""


def replay(lines: Iterable[str | bytes], rules: Rules) -> list[dict[str, Any]]:
    """Return one answer a stream: the first ROLLBACK or PROMOTE, else HOLD at the last look.

    A line that cannot be used adds no evidence, and its stream is not promoted. A line whose stream cannot be read
    counts against every stream.
    """
    streams: dict[str | int | None, _Stream] = {}
    lost: list[int] = []
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = msgspec.json.decode(text, type=_Line)
        except msgspec.DecodeError as error:
            _note_bad(streams, rules, text, number, str(error), lost)
            continue
        found = streams.setdefault(line.stream, _Stream(fresh(rules)))
        _take(found, rules, line, number)
    if lost and not streams:
        streams[None] = _Stream(fresh(rules))
    return [_answer(name, each, lost) for name, each in streams.items()]


def _take(stream: _Stream, rules: Rules, line: _Line, number: int) -> None:
    if max(line.canary.units, line.canary.bad, line.control.units, line.control.bad) > COUNT_MAX:
        _spoil(stream, number, "a count is beyond all traffic")
        return
    canary = ArmLook(line.canary.units, {METRIC: line.canary.bad})
    control = ArmLook(line.control.units, {METRIC: line.control.bad})
    stream.state, found = judge(rules, stream.state, Look(line.look, line.weight, canary, control))
    invalid = next((each for each in found.reasons if each.code == "counts_invalid"), None)
    if invalid:
        _spoil(stream, number, invalid.text)
    stream.last = found
    if found.decision is Decision.PROMOTE and stream.rolled_back is None:
        stream.promoted = stream.promoted or found
    elif found.decision is Decision.ROLLBACK:
        stream.rolled_back = stream.rolled_back or found


def _note_bad(
    streams: dict[str | int | None, _Stream], rules: Rules, text: str | bytes, number: int, why: str, lost: list[int]
) -> None:
    try:
        name = msgspec.json.decode(text, type=_Named).stream
    except msgspec.DecodeError:
        lost.append(number)
        return
    _spoil(streams.setdefault(name, _Stream(fresh(rules))), number, why)


def _spoil(stream: _Stream, number: int, why: str) -> None:
    stream.bad_lines.append(number)
    stream.fault = stream.fault or f"Line {number}: {why}"


def _answer(name: str | int | None, stream: _Stream, lost: list[int]) -> dict[str, Any]:
    bad = sorted({*stream.bad_lines, *lost})
    # Evidence with a hole cannot promote; what it shows against the canary still counts.
    found = stream.rolled_back if bad else stream.promoted or stream.rolled_back
    decision = Decision.HOLD if found is None else found.decision
    found = found or stream.last
    reasons = [] if found is None or (bad and decision is Decision.HOLD) else [each.public() for each in found.reasons]
    if bad:
        text = stream.fault or f"Line {bad[0]} is not JSON."
        invalid = Reason("counts_invalid", text, METRIC, float(len(bad)), len(bad), 0.0)
        reasons.insert(0, {**invalid.public(), "line": bad[0], "lines": bad[:20]})
    reading = None if found is None else found.readings.get(METRIC)
    return {
        "stream": name,
        "decision": str(decision),
        "look": 0 if found is None else found.look,
        "e_rollback": 1.0 if reading is None else reading.e_rollback,
        "e_promote": 1.0 if reading is None else reading.e_promote,
        "reasons": reasons,
    }
