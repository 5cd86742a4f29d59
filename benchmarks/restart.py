"""restart: how long after kill -9 of each role the platform is ready again and its control answers.

Bound: p95 over all roles <= 5 s on a machine at rest. Run: `make bench B=restart`; ROUNDS sets how often (3).
"""

import os
import signal
import statistics
import time

from tests.journeys.processes import until
from tests.support.platform import remove, start

from benchmarks.record import record

BACK_S_MAX = 5.0
PATIENCE_S = 60.0
ROLES = ("edge-0", "edge-1", "control-0", "worker-0", "scheduler-0", "engine-0", "store-0")


def main() -> int:
    rounds = int(os.environ.get("ROUNDS", "3"))
    running = start("--engine", "embedded", "--edge-workers", "2")
    took: dict[str, list[float]] = {name: [] for name in ROLES}
    try:
        for _ in range(rounds):
            for name in ROLES:
                role, _, index = name.partition("-")
                before = running.pid(role, int(index))
                began = time.monotonic()
                os.kill(before, signal.SIGKILL)
                until(
                    lambda role=role, index=index, before=before: running.pid(role, int(index)) not in {None, before},
                    PATIENCE_S,
                    f"a new {name}",
                )
                running.await_ready(PATIENCE_S)
                until(lambda: running.owner.call("GET", "/admin/v1/workspaces").status == 200, PATIENCE_S, "control")
                took[name].append(time.monotonic() - began)
    finally:
        remove(running)
    for name, seconds in took.items():
        print(f"{name:12} p50 {statistics.median(seconds):5.2f} s  slowest {max(seconds):5.2f} s")
    every = sorted(second for seconds in took.values() for second in seconds)
    p95 = every[min(len(every) - 1, int(0.95 * len(every)))]
    met = record("restart_p95", p95, "s", "lower", BACK_S_MAX)
    print(f"restart: p95 {p95:.2f} s of {len(every)} kills, bound {BACK_S_MAX:.0f} s: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
