"""Results of a run, and its figures: computed from the samples alone, so that anybody can compute them again.

Judges no gate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from interlock.evals.domain.stats import Pair, arm_numbers, compare, pp, smallest_visible_drop

ALPHA: Final = 0.05
CANDIDATE: Final = "candidate"
BASELINE: Final = "baseline"


@dataclass(frozen=True, slots=True)
class Result:
    """One sample: `outcome` None where it never got one; only `pass` and `fail` are scored."""

    key: str
    arm: str
    epoch: int
    outcome: str | None
    why: str | None
    output_sha256: str | None
    output: Any
    cluster: str | None
    slices: tuple[str, ...]

    @property
    def is_scored(self) -> bool:
        """Whether it says anything."""
        return self.outcome in {"pass", "fail"}

    def public(self) -> dict[str, Any]:
        """Return the line of a bundle."""
        return {
            "key": self.key, "arm": self.arm, "epoch": self.epoch, "outcome": self.outcome, "why": self.why,
            "output_sha256": self.output_sha256, "output": self.output, "cluster": self.cluster,
            "slices": list(self.slices),
        }  # fmt: skip

    @classmethod
    def read(cls, line: dict[str, Any]) -> "Result":
        """Read the line of a bundle. Raises `KeyError`, `TypeError`."""
        return cls(
            line["key"], line["arm"], line["epoch"], line["outcome"], line["why"], line["output_sha256"],
            line["output"], line["cluster"], tuple(line["slices"]),
        )  # fmt: skip


def numbers_of(results: Sequence[Result]) -> dict[str, Any]:
    """Return completeness, the shares of each arm, and what the arms differ by."""
    arms = sorted({each.arm for each in results})
    scored = sum(each.is_scored for each in results)
    expected = len(results)
    errored = sum(each.outcome is not None and not each.is_scored for each in results)
    completeness = {
        "expected": expected, "scored": scored, "errored": errored, "missing": expected - scored - errored,
        "complete": scored == expected,
    }  # fmt: skip
    clusters = {each.key: each.cluster for each in results}
    told: dict[str, Any] = {"completeness": completeness, "arms": {}, "paired": None, "power": None}
    for arm in arms:
        passes = _by_key(results, arm)
        told["arms"][arm] = arm_numbers(passes, clusters) if passes else None
    pairs = pairs_of(results)
    if pairs and BASELINE in arms:
        paired = compare(pairs, ALPHA)
        told["paired"] = paired.public()
        told["power"] = {"alpha": ALPHA, "mde_pp": pp(smallest_visible_drop(paired.units, paired.churn, ALPHA))}
    return told


def pairs_of(results: Sequence[Result]) -> list[Pair]:
    """Return the cases that are scored in every arm and epoch; a run without a baseline has empty ones there."""
    candidate, baseline = _by_key(results, CANDIDATE), _by_key(results, BASELINE)
    has_baseline = any(each.arm == BASELINE for each in results)
    about = {each.key: each for each in results}
    return [
        Pair(key, passes, baseline.get(key, ()) if has_baseline else passes, about[key].cluster, about[key].slices)
        for key, passes in candidate.items()
        if not has_baseline or key in baseline
    ]


def _by_key(results: Sequence[Result], arm: str) -> dict[str, tuple[bool, ...]]:
    epochs: dict[str, list[Result]] = {}
    for each in results:
        if each.arm == arm:
            epochs.setdefault(each.key, []).append(each)
    return {
        key: tuple(each.outcome == "pass" for each in sorted(found, key=lambda one: one.epoch))
        for key, found in epochs.items()
        if all(each.is_scored for each in found)
    }
