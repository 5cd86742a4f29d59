"""A pool whose machine slows down and recovers: the front, edges, and engines that run steps, in virtual time."""

import asyncio
from dataclasses import dataclass, replace
from random import Random
from uuid import UUID

from interlock.contracts.scheduling import Granted, GrantProgress, ServiceClass, Settlement, SettleOutcome
from interlock.foundation.ids import IdFactory, OrganizationId
from interlock.foundation.sim import simulate
from interlock.scheduler import EMBEDDED_OBJECTIVES, EngineSpec, FrontService, PoolSpec, SchedulerConfig
from interlock.scheduler.adapters.fake_steps import StepLoop
from interlock.scheduler.domain.engines import Dialect
from interlock.scheduler.domain.profiles import EMBEDDED_CPU
from interlock.scheduler.domain.types import EngineCondition
from tests.scheduler.calls import grant_request

POOL = "slowed"
SLOTS = 8


@dataclass(frozen=True)
class Ended:
    """One request: when it came, and what it came to."""

    at_s: float
    code: str | None
    is_kept: bool = False
    tpot_ms: float | None = None
    detail: dict | None = None


class NoisySteps:
    """A profile whose steps take longer by a draw, and by what else the machine does at the time."""

    def __init__(self, profile, clock, slower, random, noise):
        self._profile, self._clock, self._slower, self._random, self._noise = profile, clock, slower, random, noise

    def step_us(self, *sizes):
        drawn = self._random.lognormvariate(0, self._noise) if self._noise else 1.0
        return round(self._profile.step_us(*sizes) * self._slower(self._clock.monotonic()) * drawn)


class Slowed:
    """A pool, and requests that come to it at random; `slower(now_s)` is how many times longer a step takes then."""

    def __init__(self, slower, *, rps, seconds, seed=1, noise=0.0, engines=1, profile=EMBEDDED_CPU, service=None):
        self.slower, self.rps, self.seconds, self.noise = slower, rps, seconds, noise
        self.random, self.seed, self.engines, self.profile = Random(seed), seed, engines, profile
        self.service = service or (lambda _: ServiceClass.INTERACTIVE)
        self.ended = []

    def run(self):
        simulate(self.seed, self._lived)
        return sorted(self.ended, key=lambda each: each.at_s)

    async def _lived(self, dice, clock):
        self.clock, self.began_s = clock, clock.monotonic()
        specs = tuple(
            EngineSpec(f"unix:/e{number}", "m", SLOTS, 2_048, prefill_tps=510, dialect=Dialect.EMBEDDED)
            for number in range(self.engines)
        )
        config = SchedulerConfig(lease_s=600.0)
        pool = PoolSpec(POOL, EMBEDDED_OBJECTIVES, specs)
        self.front = FrontService([pool], clock=clock, ids=IdFactory(clock, dice), config=config)
        self.loops = {}
        for number, each in enumerate(self.front.engines(POOL)):
            self.front.engine_changed(POOL, replace(each, condition=EngineCondition.READY))
            steps = NoisySteps(self.profile, clock, self._slower(number), self.random, self.noise)
            self.loops[each.engine_id] = StepLoop(steps, slots=SLOTS, speed=1.0, clock=clock, budget_tokens=128)
        ticking = asyncio.ensure_future(self.front.run())
        async with asyncio.TaskGroup() as group:
            for number in range(round(self.rps * self.seconds)):
                await clock.sleep(self.random.expovariate(self.rps))
                group.create_task(self._asks(number))
        ticking.cancel()

    def _slower(self, engine):
        return lambda now_s: self.slower(now_s - self.began_s, engine)

    async def _asks(self, number):
        random, clock = self.random, self.clock
        taken = min(1_200, max(8, round(random.lognormvariate(3.7, 0.8))))
        made = min(200, max(4, round(random.lognormvariate(3.6, 0.5))))
        organization = OrganizationId(UUID(int=number % 5 + 1))
        begun_s = clock.monotonic()
        asked = grant_request(
            f"r{number}", pool=POOL, organization=organization, input_tokens=taken, max_tokens=made,
            service_class=self.service(number),
        )  # fmt: skip
        granted = await self.front.acquire(asked)
        if not isinstance(granted, Granted):
            self.ended.append(Ended(begun_s - self.began_s, granted.code, detail=granted.detail))
            return
        settled, tpot_ms = await self._streams(granted, taken, made)
        self.ended.append(Ended(begun_s - self.began_s, None, settled.in_slo, tpot_ms))

    async def _streams(self, granted, taken, made):
        clock = self.clock
        begun, told, first = clock.monotonic(), 0.0, None
        async for token in self.loops[granted.engine_id].tokens(taken, made):
            first = first or clock.monotonic() - begun
            if clock.monotonic() - told >= 0.25:
                told = clock.monotonic()
                await self.front.progress([GrantProgress(granted.grant_id, token + 1, round(first * 1_000))])
        total = clock.monotonic() - begun
        settlement = Settlement(SettleOutcome.OK, taken, 0, made, round(first * 1_000), round(total * 1_000))
        settled = await self.front.settle(granted.grant_id, settlement)
        return settled, (total - first) / max(1, made - 1) * 1_000


def shares(ended, begin_s, end_s):
    """Return of those who came in the span how many came, were accepted, and were kept."""
    came = [each for each in ended if begin_s <= each.at_s < end_s]
    accepted = [each for each in came if each.code is None]
    return len(came), len(accepted), sum(each.is_kept for each in accepted)
