"""Counts of arms to the look of a monitor: seconds of the weight in force, units that turned bad for the first time.

Decides nothing; `canary.py` does. An arm without counts is zero only where nobody had to be expected in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from interlock.contracts.arms import ArmSecond
from interlock.evals.domain.canary import ArmLook

CANARY: Final = "canary"
CONTROL: Final = "stable"
# So many units should have come to an arm by now before its silence is taken for a fault of the counting: with none
# of ten expected ones, chance is out (e to the minus ten).
EXPECTED_MAX: Final = 10.0
# Bad units remembered a metric; a rollout that has so many was rolled back long before.
REMEMBERED_MAX: Final = 65_536
_WEIGHT_SLACK: Final = 1e-6
HASH_BYTES: Final = 8


@dataclass(slots=True)
class Remembered:
    """Units of one metric that were bad in this rollout, and in this stage."""

    rollout: set[bytes] = field(default_factory=set)
    stage: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Versions:
    """Which versions the two arms are, and the canary's share of units, 0..1."""

    control: int
    canary: int
    weight: float


@dataclass(frozen=True, slots=True)
class Tallied:
    """Both arms of a look. `silent` is what each absent arm should have seen since it was last heard of, in units."""

    canary: ArmLook | None
    control: ArmLook | None
    silent: Mapping[str, float]


def tally(
    seconds: Sequence[ArmSecond],
    versions: Versions,
    memory: Mapping[str, Remembered],
    silent: Mapping[str, float],
) -> Tallied:
    """Add up the seconds in which exactly this weight held. Adds to `memory` the units that turned bad."""
    arms = {
        CANARY: [each for each in seconds if _is_of(each, CANARY, versions.canary, versions.weight)],
        CONTROL: [each for each in seconds if _is_of(each, CONTROL, versions.control, 1.0 - versions.weight)],
    }
    looks = {name: _look(found, memory) if found else None for name, found in arms.items()}
    odds = versions.weight / (1.0 - versions.weight)
    expected = {
        CANARY: _units(looks[CONTROL]) * odds,
        CONTROL: _units(looks[CANARY]) / odds,
    }
    waited: dict[str, float] = {}
    for name, look in looks.items():
        if look is not None:
            continue
        waited[name] = silent.get(name, 0.0) + expected[name]
        if waited[name] < EXPECTED_MAX:
            nobody = dict.fromkeys(memory, 0)
            looks[name] = ArmLook(0, nobody, nobody, 0)
    return Tallied(looks[CANARY], looks[CONTROL], waited)


def packed(units: set[bytes]) -> bytes:
    """Return hashes one behind the other."""
    return b"".join(sorted(units))


def unpacked(content: bytes) -> set[bytes]:
    """Return what `packed` was given."""
    return {content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)}


def _is_of(second: ArmSecond, arm: str, version: int, weight: float) -> bool:
    return second.arm == arm and second.version == version and abs(second.weight - weight) < _WEIGHT_SLACK


def _units(look: ArmLook | None) -> int:
    return 0 if look is None else look.units


def _look(seconds: Sequence[ArmSecond], memory: Mapping[str, Remembered]) -> ArmLook:
    bad: dict[str, int] = {}
    in_stage: dict[str, int] = {}
    for metric, known in memory.items():
        # A metric that some second did not count is missing from the look, never zero.
        if any(metric not in each.bad for each in seconds):
            continue
        units = {unit for each in seconds for unit in each.bad[metric].units}
        bad[metric] = _remember(known.rollout, units)
        in_stage[metric] = _remember(known.stage, units)
    return ArmLook(
        units=sum(each.units for each in seconds),
        bad=bad,
        bad_in_stage=in_stage,
        requests=sum(each.requests for each in seconds),
    )


def _remember(known: set[bytes], units: set[bytes]) -> int:
    """Return how many units are new, and know them from now on; the arms of a route share what is known."""
    fresh = sorted(units - known)[: max(0, REMEMBERED_MAX - len(known))]
    known.update(fresh)
    return len(fresh)
