"""An hour of a pool, recorded: the front, edges, and engines that run steps, all in virtual time."""

import asyncio
from dataclasses import replace
from random import Random
from uuid import UUID

from interlock.contracts.scheduling import Granted, GrantProgress, Settlement, SettleOutcome
from interlock.foundation.ids import IdFactory, OrganizationId
from interlock.foundation.sim import simulate
from interlock.scheduler import ACCELERATOR_OBJECTIVES, EngineSpec, FrontService, PoolSpec, SchedulerConfig
from interlock.scheduler.adapters.fake_steps import StepLoop
from interlock.scheduler.domain.last_hour import HourRow
from interlock.scheduler.domain.types import EngineCondition
from tests.scheduler.calls import grant_request

POOL = "recorded"
SLOTS = 64


class Hour:
    """Observes a front: what ended as the store would give it back."""

    def __init__(self):
        self.rows = []

    def granted(self, grant):
        pass

    def decided(self, pool, took_s):
        pass

    def ended(self, record):
        request = record.request
        self.rows.append(
            HourRow(
                str(request.organization_id), request.service_class.value, record.outcome, record.at_us,
                record.total_ms, record.queue_wait_ms, record.ttft_ms, record.is_in_slo, record.output_tokens,
                request.input_tokens, record.cached_tokens, record.engine_id,
            )
        )  # fmt: skip


def recorded(profile, *, rps, seconds, engines=1, seed=1, objectives=None):
    """Return the rows of a pool of engines of this profile, and its view at the end."""

    async def lived(dice, clock):
        hour, random = Hour(), Random(seed)
        # What is declared is the profile as it is sold; the engines are as fast as they are.
        specs = tuple(EngineSpec(f"http://127.0.0.1:{port}", "m", SLOTS, 8_192) for port in range(1, engines + 1))
        pool = PoolSpec(POOL, objectives or ACCELERATOR_OBJECTIVES, specs)
        config = SchedulerConfig(lease_s=600.0)
        front = FrontService([pool], clock=clock, ids=IdFactory(clock, dice), config=config, observers=(hour,))
        loops = {}
        for each in front.engines(POOL):
            front.engine_changed(POOL, replace(each, condition=EngineCondition.READY))
            loops[each.engine_id] = StepLoop(profile, slots=SLOTS, speed=1.0, clock=clock)
        ticking = asyncio.ensure_future(front.run())
        async with asyncio.TaskGroup() as group:
            for number in range(round(rps * seconds)):
                await clock.sleep(random.expovariate(rps))
                sizes = (
                    min(4_000, max(1, round(random.lognormvariate(6.5, 0.8)))),
                    min(600, max(2, round(random.lognormvariate(4.4, 0.8)))),
                )
                group.create_task(edge(front, loops, clock, (number, sizes)))
        ticking.cancel()
        return hour.rows, front.statistics(POOL)

    return simulate(seed, lived)


async def edge(front, loops, clock, call):
    """Ask for a grant and use it as an edge does."""
    number, (taken, made) = call
    organization = OrganizationId(UUID(int=number % 9 + 1))
    asked = grant_request(f"r{number}", pool=POOL, organization=organization, input_tokens=taken, max_tokens=made)
    granted = await front.acquire(asked)
    if not isinstance(granted, Granted):
        return
    begun, told, first = clock.monotonic(), 0.0, None
    async for token in loops[granted.engine_id].tokens(taken, made):
        first = first or clock.monotonic() - begun
        if clock.monotonic() - told >= 0.25:
            told = clock.monotonic()
            await front.progress([GrantProgress(granted.grant_id, token + 1, round(first * 1_000))])
    times = (round(first * 1_000), round((clock.monotonic() - begun) * 1_000))
    await front.settle(granted.grant_id, Settlement(SettleOutcome.OK, taken, 0, made, *times))
