"""The simulator against the embedded engine: the same requests under the same order, in virtual time and for real.

The step times of this machine are measured first. Real objectives and arrivals are `SCALE` times as long as those of
the simulator, which makes the two runs the same run on another clock. Beside it, the engine without the platform.
"""

import asyncio
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from uuid import UUID

from benchmarks.record import record
from benchmarks.scheduler_overload import trace_parts
from interlock.contracts.scheduling import (
    Granted,
    GrantProgress,
    GrantRequest,
    ServiceClass,
    Settlement,
    SettleOutcome,
)
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory, OrganizationId, WorkspaceId
from interlock.scheduler import (
    EngineConfig,
    EngineSpec,
    FrontService,
    PoolSpec,
    SchedulerConfig,
    XllamacppEngine,
    find_model,
)
from interlock.scheduler.domain.asks import CLASSES
from interlock.scheduler.domain.completion import Completion, CompletionKind
from interlock.scheduler.domain.profiles import StepProfile
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.rates import Rates
from interlock.scheduler.domain.replay import capacity_rps
from interlock.scheduler.domain.share import Shares
from interlock.scheduler.domain.simulate import Hardware, Simulation
from interlock.scheduler.domain.trace import Mix, Offered, offer, stretched
from interlock.scheduler.domain.types import ClassObjective, EngineCondition

SCALE = 4
SECONDS = 75.0
LOADS = (1.5, 0.8, 1.2)
SLOTS = 8
# The trace's prompts and outputs, made small enough for a model on one core.
INPUT_PART, OUTPUT_PART, INPUT_MAX = 16, 4, 400
CLOCK = SystemClock()
POOL = "live"
Report = Callable[[int, float], Awaitable[None]]
Use = Callable[["Seen", float], Coroutine[None, None, None]]


@dataclass(slots=True)
class Seen:
    """What became of one real request, in seconds from its arrival; None where it never got so far."""

    offered: Offered
    first_s: float | None = None
    ended_s: float | None = None

    @property
    def is_success(self) -> bool:
        if self.first_s is None or self.ended_s is None:
            return False
        rules, made = CLASSES[self.offered.service_class], max(1, self.offered.output_tokens - 1)
        is_smooth = (self.ended_s - self.first_s) / made <= SCALE * (rules.tpot_us or 1e12) / 1e6
        return self.first_s <= SCALE * rules.ttft_us / 1e6 and is_smooth


def call_of(tokens: int, output: int, number: int) -> Completion:
    """Return a call whose prompt is about `tokens` long and shares its beginning with nobody's."""
    prompt = f"{number} " + "parcel " * max(1, tokens - 2)
    parameters = {"prompt": prompt, "max_tokens": output, "temperature": 0.0, "ignore_eos": True}
    return Completion(CompletionKind.TEXT, is_stream=True, includes_usage=True, parameters=parameters)


async def speak(engine: XllamacppEngine, completion: Completion, report: Report | None = None) -> tuple[float, float]:
    """Return when the first piece came and when the answer ended, on the monotonic clock; report as an edge does."""
    first, told, pieces = 0.0, 0.0, 0
    async for event in engine.generate(completion):
        if not any(choice.get("text") for choice in event.get("choices", ())):
            continue
        pieces += 1
        first = first or CLOCK.monotonic()
        if report is not None and CLOCK.monotonic() - told >= 0.25:
            told = CLOCK.monotonic()
            await report(pieces, first)
    return first or CLOCK.monotonic(), CLOCK.monotonic()


async def calibrated(engine: XllamacppEngine) -> StepProfile:
    """Measure steps of 1, 4 and 8 sequences and the reading of a prompt; return them `SCALE` times faster."""
    points: list[tuple[int, int]] = []
    for streams in (1, 4, 8):
        spans = await asyncio.gather(*(speak(engine, call_of(8, 48, 1_000 * streams + n)) for n in range(streams)))
        step_s = max(ended for _, ended in spans) - max(first for first, _ in spans)
        points.append((streams, round(step_s / 47 * 1e6 / SCALE)))
    begun = CLOCK.monotonic()
    first, _ = await speak(engine, call_of(INPUT_MAX, 2, 99))
    token_us = (first - begun) / INPUT_MAX * 1e6 / SCALE
    rising = [(tokens, max(us, points[at - 1][1] + 1 if at else us)) for at, (tokens, us) in enumerate(points)]
    last = rising[-1][1]
    return StepProfile(
        "this machine", (*rising, *((n, round(max(last + 1, n * token_us))) for n in (64, 128, 2_048))), 0, 0, 0
    )


async def with_platform(engine: XllamacppEngine, requests: list[Offered], profile: StepProfile) -> list[Seen]:
    """Ask for a grant for each request when it arrives, and use it."""
    objectives = {
        each: ClassObjective(
            rules.ttft_us * SCALE // 1_000, None if rules.tpot_us is None else rules.tpot_us * SCALE // 1_000
        )
        for each, rules in CLASSES.items()
    }
    spec = EngineSpec("http://127.0.0.1:1", "embedded", SLOTS, 2_048, prefill_tps=profile.prefill_tps // SCALE)
    front = FrontService(
        [PoolSpec(POOL, objectives, (spec,))], clock=CLOCK, ids=IdFactory(CLOCK, SystemDice()), config=SchedulerConfig()
    )
    front.engine_changed(POOL, replace(front.engines(POOL)[0], condition=EngineCondition.READY))
    looking = asyncio.create_task(front.run())

    async def use(seen: Seen, arrived: float) -> None:
        offered = seen.offered
        organization, workspace = OrganizationId(UUID(int=int(offered.tenant[1:]))), WorkspaceId(UUID(int=1))
        sizes = (offered.service_class, offered.input_tokens, offered.output_tokens)
        asked = GrantRequest(f"req_{offered.index}", POOL, organization, workspace, None, *sizes)
        granted = await front.acquire(asked)
        if not isinstance(granted, Granted):
            return
        begun = CLOCK.monotonic()

        async def report(pieces: int, first: float) -> None:
            await front.progress([GrantProgress(granted.grant_id, pieces, round((first - begun) * 1_000))])

        call = call_of(offered.input_tokens, offered.output_tokens, offered.index)
        first, ended = await speak(engine, call, report)
        seen.first_s, seen.ended_s = first - arrived, ended - arrived
        ttft_ms = round((first - begun) * 1_000)
        figures = (offered.input_tokens, 0, offered.output_tokens, ttft_ms, round((ended - begun) * 1_000))
        await front.settle(granted.grant_id, Settlement(SettleOutcome.OK, *figures))

    found = await arriving(requests, use)
    looking.cancel()
    return found


async def alone(engine: XllamacppEngine, requests: list[Offered]) -> list[Seen]:
    """Send each request to the engine when it arrives: its own queue is first come first served."""

    async def use(seen: Seen, arrived: float) -> None:
        offered = seen.offered
        first, ended = await speak(engine, call_of(offered.input_tokens, offered.output_tokens, offered.index))
        seen.first_s, seen.ended_s = first - arrived, ended - arrived

    return await arriving(requests, use)


async def arriving(requests: list[Offered], use: Use) -> list[Seen]:
    begun, found = CLOCK.monotonic(), [Seen(each) for each in requests]
    async with asyncio.TaskGroup() as group:
        for seen in found:
            at = begun + seen.offered.at_us * SCALE / 1e6
            await CLOCK.sleep(max(0.0, at - CLOCK.monotonic()))
            group.create_task(use(seen, at))
    return found


def drawn(hardware: Hardware, load: float) -> list[Offered]:
    """Return requests of the trace's shape, as many as arrive in `SECONDS` at that load."""
    rows = [
        replace(
            each,
            input_tokens=min(INPUT_MAX, max(4, each.input_tokens // INPUT_PART)),
            output_tokens=max(2, each.output_tokens // OUTPUT_PART),
        )
        for each in trace_parts()[0][0]
    ]
    mix = Mix(tenants=9, classes=((ServiceClass.INTERACTIVE, 1.0),))
    offered = offer(rows, mix, random.Random(1))
    rate_rps = load * capacity_rps(offered[:200], hardware)
    return stretched(offered[: max(2, round(rate_rps * SECONDS / SCALE))], rate_rps)


async def measured() -> bool:
    met = True
    with tempfile.TemporaryDirectory(prefix="il-") as folder:
        engine = XllamacppEngine.load(
            find_model(), listener_path=Path(folder, "inner.sock"), config=EngineConfig(slots=SLOTS), dice=SystemDice()
        )
        profile = await calibrated(engine)
        hardware = Hardware(profile, 1, SLOTS, SLOTS * 2_048)
        print(f"steps of this machine, {SCALE} times faster: {profile.points}")
        for load in LOADS:
            requests = drawn(hardware, load)
            run = Simulation(PromiseOrder(Rates.declared(profile.prefill_tps), Shares()), hardware).run(requests)
            simulated = fmean(each.is_success for each in run.outcomes)
            live = await with_platform(engine, requests, profile)
            real = fmean(each.is_success for each in live)
            accepted = [each for each in live if each.ended_s is not None]
            kept = fmean(each.is_success for each in accepted) if accepted else 0.0
            print(
                f"{load}: {len(requests)} requests, in objective {simulated:.3f} simulated, {real:.3f} live, "
                f"{kept:.3f} of the accepted"
            )
            met &= record(f"scheduler_live difference at {load}", abs(simulated - real), "share", "lower", 0.10)
            if load == 1.5:
                bare = fmean(each.is_success for each in await alone(engine, requests))
                print(f"{load}: the engine alone {bare:.3f}")
                met &= record(
                    "scheduler_live goodput over the engine alone at 1.5",
                    real / max(bare, 1e-9),
                    "ratio",
                    "higher",
                    3.0,
                )
        engine.close()
    return met


def main() -> int:
    met = asyncio.run(measured())
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
