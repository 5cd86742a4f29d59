"""What a flood of one tenant costs the others: a hog at full capacity beside 0.6 of it, in the same run as its peers.

Runs in virtual time on the trace of `scheduler_overload`.
"""

import sys

from benchmarks.record import record
from benchmarks.scheduler_overload import SEEDS, profile, table, trace_parts
from interlock.scheduler.domain.replay import POLICIES, ReplayOptions
from interlock.scheduler.domain.simulate import Hardware

LOAD, HOG = 0.6, 1.0
SHOWN = ("well_behaved_attainment", "worst_well_behaved_attainment", "attainment", "goodput_rps", "accepted_attainment")


def main() -> int:
    parts, source = trace_parts()
    rows = table(ReplayOptions(tuple(POLICIES), Hardware(profile()), (LOAD,), SEEDS, hog=HOG), parts)
    print(f"trace: {source}; a hog of {HOG} beside {LOAD}; {len(parts)} parts x {len(SEEDS)} seeds")
    print(f"{'policy':<12}" + "".join(f"{name:>31}" for name in SHOWN))
    for (policy, _), row in rows.items():
        print(f"{policy:<12}" + "".join(f"{row[name]:>22.4f} +-{row['ci95'][name]:>6.4f}" for name in SHOWN))
    own = rows["interlock", LOAD]
    best = max(row["goodput_rps"] for row in rows.values())
    met = record("scheduler_isolation others", own["well_behaved_attainment"], "share", "higher", 0.94)
    met &= record("scheduler_isolation worst of them", own["worst_well_behaved_attainment"], "share", "higher", 0.88)
    met &= record("scheduler_isolation goodput of the best", own["goodput_rps"] / best, "ratio", "higher", 0.85)
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
