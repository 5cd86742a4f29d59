"""gateway_limits: six limits of one request, checked and debited from a worker's leases.

`check` is what decides: whether it can ever fit, then all six buckets at once, and their levels after it. `reserve` is
all of it, with what the story says, and settlement. Ratio: a request that the leases cover against one that the store
decides, over the machine's broker, in the same run. Goal: check <= 5 us. Run: `make bench B=gateway_limits`.
"""

import asyncio
import os
import statistics
import time
from types import SimpleNamespace
from uuid import UUID

from prometheus_client import CollectorRegistry

from benchmarks.record import record
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory
from interlock.foundation.telemetry import Metrics
from interlock.gateway.config import LimitsConfig
from interlock.gateway.domain import limits as rules
from interlock.gateway.domain.directory import Dimension, Limit, LimitMode, LimitScope, LimitSet
from interlock.gateway.domain.leasing import Flight, Landed
from interlock.gateway.domain.limits import Ask, Used
from interlock.gateway.domain.pools import Plan, pool_of
from interlock.gateway.service.broker import Broker
from interlock.gateway.service.reserve import Limiter

ROUNDS = int(os.environ.get("ROUNDS", "9"))
CHECKS = int(os.environ.get("CHECKS", "20000"))
GOAL_US = 5.0
TENANT = UUID(int=7)
ASK = Ask(1_200, 450)
PLENTY = 10**11
DIMENSIONS = (
    Dimension.REQUESTS, Dimension.TOKENS, Dimension.INPUT_TOKENS, Dimension.OUTPUT_TOKENS, Dimension.CONCURRENCY,
    Dimension.REQUESTS,
)  # fmt: skip
SAME = (Dimension.REQUESTS,) * 6


class InMemoryStore:
    """Says yes at once, without a lease: what is left is the way through the broker."""

    is_up = True

    async def fly(self, flight: Flight) -> Landed:
        count = len(flight.buckets)
        return Landed([PLENTY] * count, [0] * count, [[False] * len(ask.buckets) for ask in flight.asks])

    async def heartbeat(self, _machine: UUID) -> int:
        return 1


def six(burst: int, dimensions: tuple[Dimension, ...] = DIMENSIONS) -> LimitSet:
    return LimitSet.of(
        Limit(UUID(int=at), TENANT, LimitScope.KEY, "key", dimension, "*", burst, burst, LimitMode.ENFORCE, 1)
        for at, dimension in enumerate(dimensions, start=1)
    )


def check_us(limits: LimitSet) -> float:
    """Return microseconds of one decision from leases."""
    plan = Plan(TENANT, limits.limits, [pool_of(TENANT, limit, 0.0) for limit in limits.limits])
    for pool in plan.pools:
        pool.left, pool.ends_at = PLENTY * 1_000_000, 1e18
    clock, due = SystemClock(), set()
    began = time.process_time()
    for _ in range(CHECKS):
        rules.lease(plan, ASK, clock.monotonic(), clock.now_us(), due)
    return (time.process_time() - began) / CHECKS * 1e6


def a_passage() -> SimpleNamespace:
    """Return a request without a story on disk, which is not what is measured."""
    return SimpleNamespace(tenant=TENANT, reservation=None, decide=lambda *_: None, open=lambda: None)


async def reserve_us(limiter: Limiter, limits: LimitSet, count: int) -> float:
    """Return microseconds of one request: reserved with its story and its fills, and settled."""
    passage = a_passage()
    used = Used(1_200, 400)
    began = time.process_time()
    for _ in range(count):
        await limiter.reserve(passage, limits, ASK)
        limiter.settle(passage, used)
    return (time.process_time() - began) / count * 1e6


async def reservations() -> list[float]:
    clock = SystemClock()
    ids = IdFactory(clock, SystemDice())
    config = LimitsConfig()
    broker = Broker(InMemoryStore(), clock, ids, config, ids.new())
    flying = asyncio.create_task(broker.run())
    mixed, leased, exact = six(10**9), six(10**9 - 1, SAME), six(10, SAME)
    passage = a_passage()
    figures = []
    for limits in (mixed, leased, exact):
        limiter = Limiter(broker, ids.new(), clock, config, Metrics(CollectorRegistry()))
        await limiter.reserve(passage, limits, ASK)
        if limits is not exact:
            for pool in limiter.pools.values():
                pool.left, pool.ends_at = PLENTY * 1_000_000, 1e18
        figures.append(statistics.median([await reserve_us(limiter, limits, CHECKS // 20) for _ in range(ROUNDS)]))
    flying.cancel()
    await asyncio.gather(flying, return_exceptions=True)
    return figures


def main() -> bool:
    check = statistics.median(check_us(six(10**9)) for _ in range(ROUNDS))
    mixed, leased, exact = asyncio.run(reservations())
    print(f"check of six limits from leases: {check:.2f} us (goal <= {GOAL_US:g})")
    print(f"reserve and settle, with the story, six limits of five kinds from leases: {mixed:.1f} us")
    print(f"the same, six limits of requests: from leases {leased:.1f} us, over the broker {exact:.1f} us")
    met = record("gateway_limits.check_us", check, "us", "lower", GOAL_US)
    record("gateway_limits.reserve_us", mixed, "us", "lower")
    print(f"ratio lease / broker, without the store's own time: {leased / exact:.2f}")
    record("gateway_limits.lease_to_broker", leased / exact, "ratio", "lower")
    return met


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
