"""`make sim SEED=n`: runs every simulated core over many seeds and shows that its planted bug is found."""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from functools import partial

import structlog

from interlock.foundation import native
from interlock.foundation.sim import simulate
from tests.scheduler import simulated
from tests.sim import agents, frontier, leases, limits, translators, ways


async def scheduler(dice, clock) -> int:
    """Run the scheduler's world; its log has a line for every request, so its troubles are the outcomes."""
    return len(await simulated.scenario(dice, clock))


CORES: dict[str, tuple[Callable, Callable]] = {
    "agents": (agents.scenario, partial(agents.scenario, is_restored=False)),
    "frontier": (frontier.scenario, partial(frontier.scenario, is_fenced=False)),
    "leases": (leases.scenario, partial(leases.scenario, is_fenced=False)),
    "limits": (limits.scenario, partial(limits.scenario, is_locked=False)),
    "scheduler": (scheduler, partial(simulated.scenario, policy=simulated.LeakyPolicy)),
    "translators": (
        translators.scenario,
        partial(translators.scenario, messages_reader=translators.DoubledStop),
    ),
}
if native.is_whole():
    # Without kernels there are no ways.
    CORES["ways"] = ways.scenario, partial(ways.scenario, made=ways.CarelessProcess)
PLANTED_SEEDS_MAX = 600


def hold(name: str, scenario: Callable, first: int, seeds: int) -> bool:
    """Run one core over its seeds and print what happened."""
    began, troubles = time.perf_counter(), 0
    for seed in range(first, first + seeds):
        try:
            troubles += simulate(seed, scenario)
        except BaseException as error:
            print(f"{name}: seed {seed} broke: {error!r}; repeat it with: make sim SEED={seed} SEEDS=1", flush=True)
            if seeds == 1:
                raise
            return False
    print(f"{name}: {seeds} seeds hold, {troubles} troubles survived, {time.perf_counter() - began:.1f} s", flush=True)
    return True


def find(name: str, planted: Callable, first: int) -> bool:
    """Run the core with its planted bug until a seed finds it."""
    for count in range(PLANTED_SEEDS_MAX):
        try:
            simulate(first + count, planted)
        except (AssertionError, BaseExceptionGroup):
            print(f"{name}: planted bug found after {count + 1} seeds", flush=True)
            return True
    print(f"{name}: planted bug not found in {PLANTED_SEEDS_MAX} seeds", flush=True)
    return False


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=2_000)
    parser.add_argument("cores", nargs="*", help=f"{', '.join(CORES)}; all, where none is named")
    asked = parser.parse_args()
    if unknown := set(asked.cores) - set(CORES):
        parser.error(f"no core: {', '.join(sorted(unknown))}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    cores = {name: each for name, each in CORES.items() if name in asked.cores or not asked.cores}
    results = [hold(name, scenario, asked.seed, asked.seeds) for name, (scenario, _) in cores.items()]
    results += [find(name, planted, asked.seed) for name, (_, planted) in cores.items()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
