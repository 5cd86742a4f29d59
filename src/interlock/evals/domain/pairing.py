"""Two files of results to one comparison: `interlock evals compare`. Reads no file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from interlock.evals.domain.rules import Finding, Ruling, Thresholds, Verdict, finding, incomplete, rule_on
from interlock.evals.domain.stats import Pair

SHOWN_MAX = 20


class _Line(msgspec.Struct, frozen=True):
    key: str
    passed: bool = msgspec.field(name="pass")
    cluster: str | None = None
    slices: tuple[str, ...] = ()
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """The ruling on two files, and how much of the expected results was there."""

    ruling: Ruling
    expected: int
    missing: int

    def public(self) -> dict[str, Any]:
        """Return the object that the command prints."""
        numbers = self.ruling.numbers
        scored = self.expected - self.missing
        return {
            "verdict": str(self.ruling.verdict),
            "reasons": [each.public() for each in self.ruling.findings],
            "paired": numbers.get("paired"),
            "power": numbers.get("power"),
            "completeness": {
                "expected": self.expected,
                "scored": scored,
                "errored": 0,
                "missing": self.missing,
                "complete": self.missing == 0,
            },
        }


class BadLine(ValueError):  # noqa: N818 - a finding about a file, told as a verdict
    """A line of a results file cannot be used."""

    def __init__(self, side: str, number: int, why: str) -> None:
        self.finding = finding("line_invalid", f"{side} line {number}: {why}", number, number, None, side=side)
        super().__init__(self.finding.text)


def compare_files(baseline: Iterable[str | bytes], candidate: Iterable[str | bytes], limits: Thresholds) -> Comparison:
    """Compare; what the candidate lacks is `incomplete`, what it adds is `keys_differ`, and neither is a pass."""
    try:
        base, cand = _read(baseline, "baseline"), _read(candidate, "candidate")
    except BadLine as error:
        return Comparison(Ruling(Verdict.INCONCLUSIVE, (error.finding,)), 0, 0)
    lacking = sorted(set(base) - set(cand))
    extra = sorted(set(cand) - set(base))
    expected = 2 * len(base)
    if extra:
        return Comparison(Ruling(Verdict.INCONCLUSIVE, (_differ(lacking, extra),)), expected, len(lacking))
    if lacking or not base:
        return Comparison(incomplete(expected, expected - len(lacking)), expected, len(lacking))
    return Comparison(rule_on(_pairs(base, cand), limits), expected, 0)


def _differ(lacking: Sequence[tuple[str, int]], extra: Sequence[tuple[str, int]]) -> Finding:
    text = f"The files do not speak of the same cases: {len(extra)} only in the candidate, {len(lacking)} only before."
    return finding(
        "keys_differ",
        text,
        len(extra) + len(lacking),
        len(extra) + len(lacking),
        0,
        only_candidate=[each[0] for each in extra[:SHOWN_MAX]],
        only_baseline=[each[0] for each in lacking[:SHOWN_MAX]],
    )


def _read(lines: Iterable[str | bytes], side: str) -> dict[tuple[str, int], _Line]:
    found: dict[tuple[str, int], _Line] = {}
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = msgspec.json.decode(text, type=_Line)
        except msgspec.DecodeError as error:
            raise BadLine(side, number, str(error)) from error
        if (line.key, line.epoch) in found:
            raise BadLine(side, number, f"the key {line.key} stands here twice")
        found[(line.key, line.epoch)] = line
    return found


def _pairs(base: dict[tuple[str, int], _Line], cand: dict[tuple[str, int], _Line]) -> list[Pair]:
    epochs: dict[str, list[int]] = {}
    for key, epoch in sorted(base):
        epochs.setdefault(key, []).append(epoch)
    return [
        Pair(
            key,
            tuple(cand[(key, each)].passed for each in listed),
            tuple(base[(key, each)].passed for each in listed),
            base[(key, listed[0])].cluster,
            base[(key, listed[0])].slices,
        )
        for key, listed in epochs.items()
    ]
