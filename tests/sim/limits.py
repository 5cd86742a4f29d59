"""Limits over machines that crash, and a slow, lossy way to a store that is cut off: what must hold in every seed.

Each machine runs the gateway's own broker and two of its limiters; the store is the exact model that a hypothesis
machine holds equal to PostgreSQL (`tests/gateway/test_limits_machine.py`).
"""

import asyncio
import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from uuid import UUID

from prometheus_client import CollectorRegistry

from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory
from interlock.foundation.sim import LostError, Nemesis, SimClock, SimDice, SimNet, SimProcess
from interlock.foundation.telemetry import Metrics
from interlock.gateway.config import LimitsConfig
from interlock.gateway.domain.directory import Dimension, Limit, LimitMode, LimitScope, LimitSet
from interlock.gateway.domain.leasing import Landed
from interlock.gateway.domain.limits import Ask, Used
from interlock.gateway.service.broker import Broker
from interlock.gateway.service.reserve import Limiter
from tests.gateway.bucket_model import MICRO, Model

MACHINES = 3
WORKERS = 2
CALLERS = 3
TROUBLE_S = 6.0
TENANT = UUID(int=7)
# What a decision may be late: on its way, and in a process that is stopped for a while.
LATE_S = 0.5
CONFIG = LimitsConfig(wait_s=0.1, away_s=0.3, lease_s=0.5, settle_s=0.02, beat_s=0.2)
REQUESTS, TOKENS, SLOTS = range(3)


@dataclass
class Twin:
    """The store over the exact model. `is_locked` off is the planted bug: it decides first and writes later."""

    clock: SimClock
    dice: SimDice
    is_locked: bool
    model: Model = field(default_factory=Model)
    seen: dict = field(default_factory=dict)

    async def fly(self, flight):
        ttl_us = round(CONFIG.lease_s * MICRO)
        if self.is_locked:
            return self.model.fly(flight, self.clock.now_us(), ttl_us)
        decided = copy.deepcopy(self.model)
        landed = decided.fly(flight, self.clock.now_us(), ttl_us)
        await self.clock.sleep(0.01 * self.dice.randrange(3))
        self.model = decided
        return landed

    async def heartbeat(self, machine):
        now = self.clock.monotonic()
        self.seen[machine] = now
        return sum(now - at < CONFIG.machine_live_s for at in self.seen.values())


@dataclass
class FarStore:
    """The store as one machine reaches it: late, sometimes lost, and never after the machine's death."""

    twin: Twin
    net: SimNet
    process: SimProcess
    name: str
    is_up: bool = True

    async def fly(self, flight):
        landed = await self._call(lambda: self.twin.fly(flight))
        if landed is not None:
            return landed
        # It was decided before: what it settled counts, and what it asked is lost for good.
        if flight.asks:
            raise InterlockError("store_unavailable")
        return Landed(
            [self.twin.model.bucket(each).level or 0 for each in flight.buckets], [0] * len(flight.buckets), []
        )

    async def heartbeat(self, machine):
        return await self._call(lambda: self.twin.heartbeat(machine))

    async def _call(self, serve):
        await self.process.point()
        try:
            answer = await self.net.call(self.name, "store", serve)
        except LostError as error:
            raise InterlockError("store_unavailable") from error
        await self.process.point()
        return answer


@dataclass
class Admitted:
    at: float
    tokens: int
    is_shared: bool


@dataclass
class World:
    clock: SimClock
    dice: SimDice
    limits: tuple
    twin: Twin
    admitted: list = field(default_factory=list)
    running: dict = field(default_factory=dict)
    serial: int = 0
    lost: int = 0

    def check_windows(self):
        """In no window is more admitted than the burst and its refill; what a share gives comes on top, by its rate."""
        for limit in self.limits[:SLOTS]:
            own = [(each.at, self.amount(limit, each)) for each in self.admitted if not each.is_shared]
            self._check(own, limit.burst, limit.limit)
            everybody = [(each.at, self.amount(limit, each)) for each in self.admitted]
            self._check(everybody, 2 * limit.burst, 2 * limit.limit)

    @staticmethod
    def amount(limit, admitted):
        return admitted.tokens if limit.dimension is Dimension.TOKENS else 1

    @staticmethod
    def _check(uses, burst, rate):
        for first, (start, _) in enumerate(uses):
            total = 0
            for at, amount in uses[first:]:
                total += amount
                bound = burst + rate * (at - start + LATE_S) / 60
                assert total <= bound + 1e-6, f"{total} admitted in {at - start:.2f} s, {bound:.2f} allowed"

    def check_slots(self):
        """No more run than there are slots, but those that shares gave while the store was away."""
        own = sum(not is_shared for process, is_shared in self.running.values() if not process.is_dead)
        assert own <= self.limits[SLOTS].burst, f"{own} run"


def make_limits(dice):
    given = (
        (Dimension.REQUESTS, 240, dice.pick(12, 400)),
        (Dimension.TOKENS, 12_000, dice.pick(600, 2_000)),
        (Dimension.CONCURRENCY, 5, dice.pick(3, 5)),
    )
    return tuple(
        Limit(UUID(int=at), TENANT, LimitScope.KEY, str(TENANT), dimension, "*", rate, burst, LimitMode.ENFORCE, 1)
        for at, (dimension, rate, burst) in enumerate(given, start=1)
    )


async def scenario(dice: SimDice, clock: SimClock, *, is_locked: bool = True) -> int:
    """Run the world to its end; returns how many calls were lost and machines crashed on the way."""
    world = World(clock, dice, make_limits(dice), Twin(clock, dice, is_locked))
    nemesis = Nemesis(clock, dice, crash=0.002, pause=0.01, pause_s=(0.05, 0.2))
    net = SimNet(clock, dice, drop=0.02, duplicate=0.02)
    async with asyncio.TaskGroup() as group:
        machines = [group.create_task(nemesis.keep_alive(boot(world, net, number), 0.1)) for number in range(MACHINES)]
        cutting = group.create_task(cut_now_and_then(net, dice, clock))
        await clock.sleep(TROUBLE_S)
        nemesis.calm()
        nemesis.stop()
        for task in (*machines, cutting):
            task.cancel()
        await asyncio.gather(*machines, cutting, return_exceptions=True)
    world.check_windows()
    assert world.admitted, "the limits let nothing through"
    return world.lost + nemesis.crashes


async def cut_now_and_then(net, dice, clock):
    """Part one machine from the store for longer than it takes to be away."""
    while True:
        await clock.sleep(0.5 * dice.randrange(6))
        name = f"machine-{dice.randrange(MACHINES)}"
        cut = {(name, "store"), ("store", name)} if dice.chance(0.5) else {("store", name)}
        net.partitioned |= cut
        await clock.sleep(dice.pick(0.2, 0.5, 1.0))
        net.partitioned -= cut


def boot(world, net, number):
    async def life(process):
        store = FarStore(world.twin, net, process, f"machine-{number}")
        ids = IdFactory(world.clock, world.dice)
        broker = Broker(store, world.clock, ids, CONFIG, UUID(int=number))
        async with asyncio.TaskGroup() as group:
            group.create_task(broker.run())
            for _ in range(WORKERS):
                limiter = Limiter(broker, ids.new(), world.clock, CONFIG, Metrics(CollectorRegistry()))
                group.create_task(limiter.run())
                for _ in range(CALLERS):
                    group.create_task(call_for_ever(world, limiter, process))

    return life


async def call_for_ever(world, limiter, process):
    while True:
        await world.clock.sleep(0.05 * world.dice.randrange(8))
        await process.point()
        world.serial += 1
        number = world.serial
        passage = SimpleNamespace(tenant=TENANT, reservation=None, decide=lambda *_: None, open=lambda: None)
        ask = Ask(input_tokens=10, output_tokens=world.dice.pick(10, 40, 90))
        before = limiter.statistics().share_total
        refusal = await limiter.reserve(passage, LimitSet.of(world.limits), ask)
        if refusal is not None:
            world.lost += refusal.code == "limits_unavailable"
            continue
        is_shared = passage.reservation.mode == "share"
        assert is_shared <= (limiter.statistics().share_total > before)
        world.admitted.append(Admitted(world.clock.monotonic(), ask.tokens, is_shared))
        world.running[number] = (process, is_shared)
        world.check_slots()
        await world.clock.sleep(0.05 * world.dice.randrange(4))
        await process.point()
        del world.running[number]
        limiter.settle(passage, Used(ask.input_tokens, ask.output_tokens))
