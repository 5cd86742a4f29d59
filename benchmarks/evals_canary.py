"""The canary monitor against rules in use: false alarms, looks to a roll-back, harm until then, wrong promotions.

Simulates counts; how they are collected is no part of it. `STREAMS=200` makes it short.
"""

import math
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.record import record
from interlock.evals.domain.canary import ArmLook, Decision, Look, MetricRules, Rules, fresh, judge

STREAMS = int(os.environ.get("STREAMS", "3000"))
SEED = int(os.environ.get("SEED", "20260101"))
HOUR = 60
RULES = Rules({"errors": MetricRules()})


@dataclass(frozen=True)
class Minute:
    """New units and bad units of both arms."""

    weight: float
    canary: tuple[int, int]
    control: tuple[int, int]


Watcher = Callable[[list[Minute]], tuple[str, int]]


def traffic(
    rng: np.random.Generator, weight: float, units: float, base: float, excess: float, *, brownout: bool = False
) -> list[Minute]:
    """One hour in looks of a minute; `units` a minute reach the canary. A brownout is two minutes at 15 % in both."""
    began = int(rng.integers(5, HOUR - 5)) if brownout else -10
    found = []
    for number in range(HOUR):
        in_brownout = began <= number < began + 2
        shares = (0.15, 0.15) if in_brownout else (base + excess, base)
        sizes = rng.poisson(units), rng.poisson(units * (1.0 - weight) / weight)
        arms = [(int(n), int(rng.binomial(n, share))) for n, share in zip(sizes, shares, strict=True)]
        found.append(Minute(weight, arms[0], arms[1]))
    return found


def ours(minutes: list[Minute], *, rollback_only: bool = True) -> tuple[str, int]:
    """The monitor; for the false alarms it is watched for the whole hour, promoted or not."""
    state = fresh(RULES)
    for number, each in enumerate(minutes, start=1):
        canary, control = (ArmLook(units, {"errors": bad}) for units, bad in (each.canary, each.control))
        state, found = judge(RULES, state, Look(number, each.weight, canary, control))
        if found.decision is Decision.ROLLBACK or (found.decision is Decision.PROMOTE and not rollback_only):
            return str(found.decision), number
    return "HOLD", len(minutes)


def naive_z(minutes: list[Minute]) -> tuple[str, int]:
    """The pooled z test of two shares at every look, as dashboards do it."""
    totals = [0, 0, 0, 0]
    for number, each in enumerate(minutes, start=1):
        totals = [a + b for a, b in zip(totals, (*each.canary, *each.control), strict=True)]
        n, x, m, y = totals
        pooled = (x + y) / max(n + m, 1)
        spread = math.sqrt(pooled * (1 - pooled) * (1 / max(n, 1) + 1 / max(m, 1)))
        if spread and (x / n - y / m) / spread > 1.645:
            return "ROLLBACK", number
    return "HOLD", len(minutes)


def threshold(least: float) -> Watcher:
    """The rule "success share of this minute below `least`"."""

    def watch(minutes: list[Minute]) -> tuple[str, int]:
        for number, each in enumerate(minutes, start=1):
            units, bad = each.canary
            if units and 1.0 - bad / units < least:
                return "ROLLBACK", number
        return "HOLD", len(minutes)

    return watch


def alarms(watch: Watcher, streams: list[list[Minute]]) -> float:
    return sum(watch(each)[0] == "ROLLBACK" for each in streams) / len(streams)


def median_look(watch: Watcher, streams: list[list[Minute]]) -> float:
    """Median look of the roll-back; a stream without one counts as one look past its hour."""
    return statistics.median(number if said == "ROLLBACK" else HOUR + 1 for said, number in map(watch, streams))


def false_alarms(rng: np.random.Generator) -> bool:
    met = True
    for name, brownout in (("iid", False), ("brownout", True)):
        streams = [traffic(rng, 0.1, 300, 0.01, 0.0, brownout=brownout) for _ in range(STREAMS)]
        own, naive = alarms(ours, streams), alarms(naive_z, streams)
        print(f"P1 A/A {name:<9} false roll-backs {own:7.2%}   goal <= 2.5 %   naive z at each look {naive:7.2%}")
        met &= record(f"evals_canary false rollback {name}", own, "share", "lower", 0.025)
    return met


def looks_to_rollback(rng: np.random.Generator) -> bool:
    met = True
    goals = [(300, 0.03, 2), (300, 0.10, 1), (300, 0.01, 6), (30, 0.03, 7), (30, 0.10, 2)]
    for units, excess, goal in goals:
        streams = [traffic(rng, 0.1, units, 0.01, excess) for _ in range(STREAMS)]
        own = median_look(ours, streams)
        fixed = [median_look(threshold(least), streams) for least in (0.95, 0.98)]
        shown = ", ".join("never" if each > HOUR else f"{each:g}" for each in fixed)
        print(
            f"P2 {units:>3}/min {excess * 100:+.0f} pp   median look {own:g}   goal <= {goal}   rules .95, .98: {shown}"
        )
        met &= record(f"evals_canary looks {units}/min +{excess * 100:.0f}pp", own, "looks", "lower", goal)
    return met


def staged(rng: np.random.Generator, excess: float) -> Iterator[Minute]:
    """Stages of ten minutes at 3,000 units a minute, in looks of five seconds."""
    for weight in (0.01, 0.05, 0.25, 0.5):
        for _ in range(120):
            sizes = rng.poisson(250 * weight), rng.poisson(250 * (1 - weight))
            yield Minute(
                weight,
                (int(sizes[0]), int(rng.binomial(sizes[0], 0.01 + excess))),
                (int(sizes[1]), int(rng.binomial(sizes[1], 0.01))),
            )


def harm(rng: np.random.Generator) -> bool:
    met = True
    for excess, goal in ((0.03, 10), (0.01, 30)):
        own, rule = [], []
        for _ in range(STREAMS // 3):
            looks = list(staged(rng, excess))
            bad = np.cumsum([each.canary[1] for each in looks])
            own.append(int(bad[ours(looks)[1] - 1]))
            minutes = [
                Minute(part[0].weight, (sum(m.canary[0] for m in part), sum(m.canary[1] for m in part)), (1, 0))
                for part in (looks[at : at + 12] for at in range(0, len(looks), 12))
            ]
            rule.append(int(bad[min(threshold(0.95)(minutes)[1] * 12, len(bad)) - 1]))
        mean, other = statistics.mean(own), statistics.mean(rule)
        print(
            f"P3 {excess * 100:+.0f} pp  bad units until roll-back {mean:6.1f}  goal <= {goal}   rule .95: {other:.0f}"
        )
        met &= record(f"evals_canary bad units +{excess * 100:.0f}pp", mean, "units", "lower", goal)
    return met


def promotions(rng: np.random.Generator) -> bool:
    wrong = 0
    for _ in range(STREAMS):
        # A true risk of r_max, and above bad_max: the edge of what a promotion has to rule out.
        said, _ = ours(traffic(rng, 0.5, 300, 0.01, 0.005), rollback_only=False)
        wrong += said == "PROMOTE"
    clean = []
    for _ in range(STREAMS // 10):
        minutes = traffic(rng, 0.1, 30, 0.0, 0.0)
        _, number = ours(minutes, rollback_only=False)
        clean.append(sum(each.canary[0] for each in minutes[:number]))
    share, units = wrong / STREAMS, statistics.median(clean)
    print(f"P4 wrong promotions at r_max {share:7.2%}   goal <= 5 %")
    print(f"P4 clean canary promotes within {units:g} units (median)   goal <= 450")
    met = record("evals_canary wrong promote", share, "share", "lower", 0.05)
    return record("evals_canary clean promote", units, "units", "lower", 450) and met


def main() -> int:
    print(f"{STREAMS} streams, seed {SEED}")
    rng = np.random.default_rng(SEED)
    # A list, not a chain of `and`: every figure is printed, met or not.
    return 0 if all([false_alarms(rng), looks_to_rollback(rng), harm(rng), promotions(rng)]) else 1


if __name__ == "__main__":
    sys.exit(main())
