"""What the policy costs where nobody needs it: at light load against first come first served, in the same run.

Runs in virtual time on the trace of `scheduler_overload`.
"""

import sys
from random import Random
from statistics import fmean

from benchmarks.record import record
from benchmarks.scheduler_overload import SEEDS, profile, trace_parts
from interlock.scheduler.domain.replay import ReplayOptions, compare
from interlock.scheduler.domain.simulate import Hardware

LOADS = (0.4, 0.6, 0.8)


def main() -> int:
    parts, source = trace_parts()
    options = ReplayOptions(("fcfs", "interlock"), Hardware(profile()), LOADS, SEEDS)
    rows = [row for part in parts for row in compare(part, options, Random)["rows"]]
    print(f"trace: {source}; {len(parts)} parts x {len(SEEDS)} seeds")
    met = True
    for load in LOADS:
        cells = {
            policy: [row for row in rows if (row["policy"], row["load"]) == (policy, load)]
            for policy in options.policies
        }
        attainment = {policy: fmean(row["attainment"] for row in found) for policy, found in cells.items()}
        ttft = {policy: fmean(row["time_to_first_token_s"]["p50"] for row in found) for policy, found in cells.items()}
        gain, ratio = attainment["interlock"] - attainment["fcfs"], ttft["interlock"] / ttft["fcfs"]
        print(f"{load}: attainment {attainment['interlock']:.4f} against {attainment['fcfs']:.4f}, ", end="")
        print(f"TTFT p50 {ttft['interlock']:.4f} s against {ttft['fcfs']:.4f} s")
        met &= record(f"scheduler_tax attainment over fcfs at {load}", gain, "share", "higher", 0)
        met &= record(f"scheduler_tax TTFT p50 of fcfs at {load}", ratio, "ratio", "lower", 1.05)
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
