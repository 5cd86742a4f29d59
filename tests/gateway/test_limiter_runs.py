"""The worker's own loop of limits: whoever is cancelled between what is due and its turn loses nothing of it."""

import asyncio
from types import SimpleNamespace
from uuid import UUID

from prometheus_client import CollectorRegistry

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory
from interlock.foundation.telemetry import Metrics
from interlock.gateway.config import LimitsConfig
from interlock.gateway.domain.directory import Dimension, Limit, LimitMode, LimitScope, LimitSet
from interlock.gateway.domain.leasing import Landed
from interlock.gateway.domain.limits import Ask, Used
from interlock.gateway.service.broker import Broker
from interlock.gateway.service.reserve import Limiter

TENANT = UUID(int=7)
PLENTY = 10**11


class GenerousStore:
    """Gives every lease, and notes what it is told of use and of what comes back."""

    is_up = True

    def __init__(self):
        self.credits = 0
        self.heard = asyncio.Event()

    async def fly(self, flight):
        self.credits += sum(flight.credits)
        if any(flight.credits):
            self.heard.set()
        return Landed([PLENTY] * len(flight.buckets), list(flight.leases), [[False] for _ in flight.asks])

    async def heartbeat(self, _machine):
        return 1


async def test_what_was_due_when_a_run_was_cancelled_is_told_by_the_next_one():
    store, clock = GenerousStore(), SystemClock()
    ids = IdFactory(clock, SystemDice())
    config = LimitsConfig(settle_s=0.01, gather_s=0.001)
    broker = Broker(store, clock, ids, config, ids.new())
    flying = asyncio.create_task(broker.run())
    limiter = Limiter(broker, ids.new(), clock, config, Metrics(CollectorRegistry()))
    limit = Limit(UUID(int=1), TENANT, LimitScope.KEY, "key", Dimension.TOKENS, "*", 10**9, 10**9, LimitMode.ENFORCE, 1)
    passage = SimpleNamespace(tenant=TENANT, reservation=None, decide=lambda *_: None, open=lambda: None)
    assert await limiter.reserve(passage, LimitSet.of([limit]), Ask(100, 50)) is None

    first = asyncio.create_task(limiter.run())
    limiter.settle(passage, Used(100, 20))
    # One step of its loop: it has heard that something is due, and waits for more of it.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (limiter.statistics().settling, store.credits) == (1, 0)

    second = asyncio.create_task(limiter.run())
    await asyncio.wait_for(store.heard.wait(), 10)
    assert (limiter.statistics().settling, store.credits) == (0, 30 * 10**6)
    for task in (second, flying):
        task.cancel()
    await asyncio.gather(second, flying, return_exceptions=True)
