"""How long a comparison takes: all policies at four loads on 400 s of trace, one seed, on one core."""

import random
import sys
import time

from benchmarks.record import record
from benchmarks.scheduler_overload import profile, trace_parts
from interlock.scheduler.domain.replay import POLICIES, ReplayOptions, compare
from interlock.scheduler.domain.simulate import Hardware

LOADS = (0.8, 1.2, 1.5, 2.0)


def main() -> int:
    parts, source = trace_parts()
    options = ReplayOptions(tuple(POLICIES), Hardware(profile()), LOADS)
    begun = time.process_time()
    found = compare(parts[0], options, random.Random)
    took_s = time.process_time() - begun
    print(
        f"trace: {source}; {len(found['rows'])} rows of {found['trace']['requests']} requests in {took_s:.1f} s of CPU"
    )
    met = record("scheduler_speed 8 policies x 4 loads", took_s, "s", "lower", 60.0)
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
