"""Limits over several edges, a slow and lossy way to the store, and edges that crash: what must hold in every seed.

The edges run the gateway's own `Limiter`; the store is the exact model that a hypothesis machine holds equal to
PostgreSQL (`tests/gateway/test_limits_machine.py`).
"""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from uuid import UUID

from prometheus_client import CollectorRegistry

from interlock.foundation.errors import InterlockError
from interlock.foundation.sim import LostError, Nemesis, SimClock, SimDice, SimNet, SimProcess
from interlock.foundation.telemetry import Metrics
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.directory import Dimension, Limit, LimitMode, LimitScope, LimitSet
from interlock.gateway.domain.limits import Ask
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.service.reserve import Limiter
from tests.gateway.bucket_model import MICRO, Bucket, Model

EDGES = 3
CALLERS = 3
TROUBLE_S = 5.0
TENANT = UUID(int=7)
CONFIG = EdgeConfig(limits_wait_s=0.05, settlement_interval_s=0.02)


def listed(literal):
    """Return the items of an array in the store's text form."""
    return literal.strip("{}").split(",")


def values(literal):
    return [{"True": True, "False": False}.get(each) if each[0] in "TF" else int(each) for each in listed(literal)]


@dataclass
class Twin:
    """The store's two statements over the exact model. `is_locked` off is the planted bug: check, then debit later."""

    clock: SimClock
    dice: SimDice
    is_locked: bool
    model: Model = field(default_factory=Model)
    debited_at: dict = field(default_factory=dict)
    given_back: set = field(default_factory=set)
    potential: dict = field(default_factory=dict)

    async def reserve(self, args):
        _, request, *literals = args
        ids = [UUID(each) for each in listed(literals[0])]
        _, rates, bursts, enforced, is_tokens, amounts = [values(each) for each in literals[1:]]
        now_us = self.clock.now_us()
        for place, bucket in enumerate(ids):
            fresh = Bucket(
                rates[place], bursts[place], bursts[place] * MICRO, now_us, enforced[place], is_tokens[place]
            )
            self.model.buckets.setdefault(bucket, fresh)
        wanted = dict(zip(ids, amounts, strict=True))
        refusing = self.model.refusing(wanted, now_us)
        short = {bucket: self.model.buckets[bucket].level_at(now_us) < amount for bucket, amount in wanted.items()}
        if not self.is_locked:
            await self.clock.sleep(0.01 * self.dice.randrange(3))
        if not refusing:
            held = {}
            for bucket in ids:
                out = [(other, amounts_of[bucket]) for other, amounts_of in self.model.holds.items()]
                self.potential[request, bucket] = (self.model.buckets[bucket].level_at(now_us), out)
            for bucket, amount in wanted.items():
                self.model.buckets[bucket].move(-amount, self.clock.now_us())
                held[bucket] = amount
            self.model.holds[request] = held
            self.debited_at[request] = (self.clock.monotonic(), len(self.debited_at))
        levels = [self.model.buckets[bucket].level_at(self.clock.now_us()) for bucket in ids]
        return [{"level_micro": level, "is_short": short[bucket]} for bucket, level in zip(ids, levels, strict=True)]

    async def settle(self, args):
        _, requests, tokens, called = args
        asked = zip(map(UUID, listed(requests)), values(tokens), values(called), strict=True)
        for request, used, is_called in asked:
            if not is_called:
                self.given_back.add(request)
            for bucket, credit in self.model.credits(request, used, is_called=is_called).items():
                self.model.buckets[bucket].move(credit, self.clock.now_us())
        return []


@dataclass
class FarStore:
    """The store as one edge reaches it: late, sometimes lost, and never after the edge's death."""

    twin: Twin
    net: SimNet
    process: SimProcess
    name: str

    async def single(self, query, *args):
        await self.process.point()
        serve = self.twin.reserve if query.name == "reserve" else self.twin.settle
        try:
            answer = await self.net.call(self.name, "store", lambda: serve(args))
        except LostError as error:
            raise InterlockError("store_unavailable") from error
        await self.process.point()
        return answer


@dataclass
class World:
    clock: SimClock
    dice: SimDice
    limits: tuple
    twin: Twin
    admitted: list = field(default_factory=list)
    serial: int = 0
    lost: int = 0

    def check(self):
        """In no window is more admitted than what the bucket held at its start, and its refill.

        What it held is its level and the debits that were out and came back later. That is at most the burst, and what
        refilled while those debits were out: less than one request, since a lost call is given back in 60 ms.
        """
        for limit in self.limits:
            is_tokens = limit.dimension is Dimension.TOKENS
            uses = sorted(
                (self.twin.debited_at[request], tokens if is_tokens else 1, self.held_before(limit, request))
                for request, tokens in self.admitted
            )
            for first, ((start, _), _, held) in enumerate(uses):
                total = 0
                assert held <= limit.burst + max(1, limit.limit / 60), (held, limit.burst)
                for (at, _), amount, _ in uses[first:]:
                    total += amount
                    bound = max(limit.burst, held) + limit.limit * (at - start) / 60
                    assert total <= bound + 1e-6, f"{limit.dimension}: {total} admitted, {bound} allowed"

    def held_before(self, limit, request):
        """Units in the bucket just before a debit, with those that were out and came back."""
        level, out = self.twin.potential[request, limit.id]
        return (level + sum(amount for other, amount in out if other in self.twin.given_back)) / MICRO


def make_limits(dice):
    requests = Limit(
        UUID(int=1), TENANT, LimitScope.KEY, str(TENANT), Dimension.REQUESTS, "*", 60, 6, LimitMode.ENFORCE, 1
    )
    tokens = Limit(
        UUID(int=2), TENANT, LimitScope.WORKSPACE, str(TENANT), Dimension.TOKENS, "*", 6_000,
        dice.pick(300, 600), LimitMode.ENFORCE, 1,
    )  # fmt: skip
    return requests, tokens


async def scenario(dice: SimDice, clock: SimClock, *, is_locked: bool = True) -> int:
    """Run the world to its end; returns how many calls were lost and edges crashed on the way."""
    twin = Twin(clock, dice, is_locked)
    world = World(clock, dice, make_limits(dice), twin)
    nemesis = Nemesis(clock, dice, crash=0.002, pause=0.01, pause_s=(0.05, 0.2))
    net = SimNet(clock, dice, drop=0.02)
    async with asyncio.TaskGroup() as group:
        edges = [group.create_task(nemesis.keep_alive(boot(world, net, number), 0.1)) for number in range(EDGES)]
        await clock.sleep(TROUBLE_S)
        nemesis.calm()
        nemesis.stop()
        for edge in edges:
            edge.cancel()
        await asyncio.gather(*edges, return_exceptions=True)
    world.check()
    assert world.admitted, "the limits let nothing through"
    return world.lost + nemesis.crashes


def boot(world, net, number):
    async def life(process):
        store = FarStore(world.twin, net, process, f"edge-{number}")
        limiter = Limiter(store, world.clock, CONFIG, Metrics(CollectorRegistry()))
        async with asyncio.TaskGroup() as group:
            group.create_task(limiter.run())
            for _ in range(CALLERS):
                group.create_task(call_for_ever(world, limiter, process))

    return life


async def call_for_ever(world, limiter, process):
    while True:
        await world.clock.sleep(0.05 * world.dice.randrange(8))
        await process.point()
        world.serial += 1
        passage = SimpleNamespace(
            tenant=TENANT, request_id=UUID(int=world.serial), reservation=None, decide=lambda *_: None
        )
        ask = Ask(input_tokens=10, output_tokens=world.dice.pick(10, 40, 90))
        refusal = await limiter.reserve(passage, LimitSet.of(world.limits), ask)
        if isinstance(refusal, Refusal):
            world.lost += refusal.code == "limits_unavailable"
            continue
        world.admitted.append((passage.request_id, ask.tokens))
        await world.clock.sleep(0.05 * world.dice.randrange(4))
        await process.point()
        limiter.settle(passage, ask.tokens)
