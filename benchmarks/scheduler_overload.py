"""What a pool keeps of its promises under overload: eight orders on one production trace, in the same run.

Runs in virtual time, so no clock of this machine is in any figure. Reads the Azure trace and Vidur's profile from
the data folder beside the checkout; without them a generated trace of the same quantiles, marked so.
"""

import random
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.record import record
from interlock.scheduler.domain.profiles import A100_LLAMA3_8B, StepProfile, read_vidur
from interlock.scheduler.domain.replay import POLICIES, ReplayOptions, compare
from interlock.scheduler.domain.simulate import Hardware
from interlock.scheduler.domain.trace import TraceRow, read_trace, window

# Beside the checkout, or beside the folder of checkouts that this one is in.
_BESIDE = [folder / "shared" / "data" for folder in Path(__file__).parents[2:4]]
DATA = next((each for each in _BESIDE if each.is_dir()), _BESIDE[0])
TRACE = DATA / "azure-llm-traces" / "conv-2023.csv"
PROFILE = DATA / "llama3-8b-a100-profile" / "mlp.csv"
OFFSETS_S = (0.0, 800.0, 1_600.0)
SECONDS = 400.0
SEEDS = (1, 2, 3)
RESAMPLES = 2_000
LOADS = (0.8, 1.2, 1.5, 2.0, 3.0)
SHOWN = ("attainment", "accepted_attainment", "goodput_rps", "rejected_share", "displaced_share", "jain")


def trace_parts() -> tuple[list[list[TraceRow]], str]:
    """Return the parts of the trace, and where they are from."""
    if TRACE.exists():
        with TRACE.open(newline="") as lines:
            rows = read_trace(lines)
        return [window(rows, offset_s, SECONDS) for offset_s in OFFSETS_S], "azure conv-2023"
    return [generated(seed) for seed in SEEDS], "generated (the trace is not here)"


def generated(seed: int) -> list[TraceRow]:
    """Return a trace with the quantiles of production chat: in 1020/2735/4142, out 129/424/601 at p50/p90/p99."""
    dice, rows, at_s = random.Random(seed), [], 0.0
    while at_s < SECONDS:
        at_s += dice.expovariate(5.5)
        taken = min(round(dice.lognormvariate(6.93, 0.77)), 4_142)
        made = min(round(dice.lognormvariate(4.86, 0.93)), 700)
        rows.append(TraceRow(round(at_s * 1e6), max(taken, 1), max(made, 1)))
    return rows


def profile() -> StepProfile:
    """Return the measured profile, or the built-in one."""
    if not PROFILE.exists():
        return A100_LLAMA3_8B
    with PROFILE.open(newline="") as lines:
        return read_vidur("vidur llama3-8b a100", lines)


def table(options: ReplayOptions, parts: list[list[TraceRow]]) -> dict[tuple[str, float], dict[str, Any]]:
    """Return the rows by policy and load: means over all parts and seeds, and `ci95` of each, half of its width."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for part in parts:
        for seed in options.seeds:
            for row in compare(part, replace(options, seeds=(seed,)), random.Random)["rows"]:
                found.setdefault((row["policy"], row["load"]), []).append(row)
    return {cell: _summary(rows) for cell, rows in found.items()}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {name: [row[name] for row in rows] for name in rows[0] if isinstance(rows[0][name], int | float)}
    return {name: fmean(column) for name, column in columns.items()} | {
        "ci95": {name: half_width(column) for name, column in columns.items()}
    }


def half_width(column: list[float]) -> float:
    """Return half the width of the 95 % interval of a mean, by the bootstrap (Efron 1979): few runs, no known shape."""
    dice, ranks = random.Random(1), (int(0.025 * RESAMPLES), int(0.975 * RESAMPLES))
    means = sorted(fmean(dice.choices(column, k=len(column))) for _ in range(RESAMPLES))
    return (means[ranks[1]] - means[ranks[0]]) / 2


def main() -> int:
    parts, source = trace_parts()
    options = ReplayOptions(tuple(POLICIES), Hardware(profile()), LOADS, SEEDS)
    rows = table(options, parts)
    print(f"trace: {source}; profile: {options.hardware.profile.name}; {len(parts)} parts x {len(SEEDS)} seeds")
    print(f"{'policy':<12}{'load':>6}" + "".join(f"{name:>21}" for name in SHOWN))
    for (policy, load), row in rows.items():
        cells = "".join(f"{row[name]:>12.4f} +-{row['ci95'][name]:>6.4f}" for name in SHOWN)
        print(f"{policy:<12}{load:>6}{cells}")
    own, at = {load: rows["interlock", load] for load in LOADS}, 1.5
    goodput = own[at]["goodput_rps"]
    met = record("scheduler_overload attainment at 1.5", own[at]["attainment"], "share", "higher", 0.75)
    for peer, goal in (("fcfs", 6.0), ("vtc", 1.4), ("sjf", 0.95)):
        ratio = goodput / rows[peer, at]["goodput_rps"]
        met &= record(f"scheduler_overload goodput over {peer} at 1.5", ratio, "ratio", "higher", goal)
    for load in LOADS:
        kept = own[load]["accepted_attainment"]
        met &= record(f"scheduler_overload accepted attainment at {load}", kept, "share", "higher", 0.99)
    broken = sum(own[load]["broken_promises"] for load in LOADS)
    met &= record("scheduler_overload broken promises", broken, "requests", "lower", 0)
    light = replace(options, policies=("fcfs", "interlock"), loads=(0.6, 0.8))
    taxed = table(light, parts)
    for load in light.loads:
        gain = taxed["interlock", load]["attainment"] - taxed["fcfs", load]["attainment"]
        met &= record(f"scheduler_tax attainment over fcfs at {load}", gain, "share", "higher", 0)
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
