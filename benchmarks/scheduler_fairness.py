"""How far apart the service of equal tenants gets while all of them wait: measured against the published bound.

Four tenants of one weight offer three times the capacity, so that everybody is over its share and always waits.
"""

import random
import sys

from benchmarks.record import record
from benchmarks.scheduler_overload import SEEDS, profile, trace_parts
from interlock.scheduler.domain.replay import ReplayOptions, compare
from interlock.scheduler.domain.simulate import Hardware
from interlock.scheduler.domain.trace import Mix

LOAD = 3.0
DEBT_STEP_TOKENS, DEBT_STEP_S = 4_000, 1.75


def main() -> int:
    parts, source = trace_parts()
    hardware = Hardware(profile())
    mix = Mix(tenants=4, zipf=0.0)
    options = ReplayOptions(("fcfs", "vtc", "interlock"), hardware, (LOAD,), SEEDS, mix=mix)
    met = True
    for number, part in enumerate(parts):
        found = compare(part, options, random.Random)
        mean_cost = sum(each.input_tokens + 2 * each.output_tokens for each in part) / len(part)
        step = max(DEBT_STEP_TOKENS, DEBT_STEP_S * found["capacity_rps"] * mean_cost)
        largest_in = max(each.input_tokens for each in part)
        largest_out = max(each.output_tokens for each in part)
        bound = step + 2 * (largest_in + 2 * hardware.slots * largest_out)
        gaps = {row["policy"]: row["service_gap_tokens"] for row in found["rows"]}
        worst = ", ".join(f"{policy} {gap:,.0f}" for policy, gap in gaps.items())
        print(f"{source}, part {number}: largest gap in weighted tokens {worst}; bound {bound:,.0f}")
        met &= record(
            f"scheduler_fairness gap of its bound, part {number}", gaps["interlock"] / bound, "ratio", "lower", 1
        )
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
