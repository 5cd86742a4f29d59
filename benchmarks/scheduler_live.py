"""The simulator against the embedded engine: the same requests under the same orders, in virtual time and for real.

Trace-shaped requests of one part of the trace a round, on the engine behind the scheduler and, at 1.5 x, behind another
order and by itself. The steps of this machine are measured before and after each run and simulated as their mean, so
that what else the machine does in these minutes is in both. Objectives last as many services as on the accelerator of
the trace: a slower machine does the same run more slowly. A figure is the difference of the means over the rounds.
"""

import asyncio
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Final
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
from interlock.scheduler.domain.asks import CLASSES, Classes
from interlock.scheduler.domain.completion import Completion, CompletionKind
from interlock.scheduler.domain.orders import build_order
from interlock.scheduler.domain.profiles import StepProfile
from interlock.scheduler.domain.rates import Rates
from interlock.scheduler.domain.replay import capacity_rps
from interlock.scheduler.domain.simulate import Hardware, Outcome, Simulation
from interlock.scheduler.domain.trace import Mix, Offered, TraceRow, offer, stretched
from interlock.scheduler.domain.types import ClassObjective, EngineCondition, PoolRules

LOADS: Final = (0.8, 1.2, 1.5)
OVERLOAD: Final = 1.5
# What a run at 1.5 x is compared with: an order without promises, and nothing in front of the engine.
PEER, ALONE = "vtc", "alone"
# Each run lasts as long as this many services take; the first-token objective as many as 1 s is on the accelerator.
SERVICES, TTFT_SERVICES = 80, 5.3
# A machine with much else to do gets fewer requests a run and fewer rounds, and the benchmark says how many.
SERVICES_MIN, RUN_S, ROUNDS_MAX, ENOUGH_S = 25, 60.0, 3, 300.0
LEASE_S = 300.0
SLOTS = 8
# The trace's prompts and outputs, made small enough for a model on one core.
INPUT_PART, OUTPUT_PART, INPUT_MAX = 16, 4, 400
DECODED, READ = (1, 4, 8), (48, 160, 320)
CLOCK = SystemClock()
POOL = "live"
INTERACTIVE = ServiceClass.INTERACTIVE
Report = Callable[[int, float], Awaitable[None]]
Use = Callable[[Outcome, float], Coroutine[None, None, None]]


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


class Stopwatch:
    """Measures the steps of the engine: of some sequences that decode, and of prompts of some lengths."""

    def __init__(self, engine: XllamacppEngine) -> None:
        self._engine = engine
        self._calls = 1_000_000

    async def points(self) -> dict[int, float]:
        """Return microseconds of a step by its tokens."""
        found: dict[int, float] = {}
        for streams in DECODED:
            spans = await asyncio.gather(*(speak(self._engine, self._call(8, 24)) for _ in range(streams)))
            step_s = max(ended for _, ended in spans) - max(first for first, _ in spans)
            found[streams] = step_s / 23 * 1e6
        for tokens in READ:
            begun = CLOCK.monotonic()
            first, _ = await speak(self._engine, self._call(tokens, 2))
            found[tokens] = (first - begun) * 1e6
        return found

    def _call(self, tokens: int, output: int) -> Completion:
        self._calls += 1
        return call_of(tokens, output, self._calls)


def profile_of(*measured: dict[int, float]) -> StepProfile:
    """Return the mean of some measurements as a profile; a larger step is never faster."""
    points: list[tuple[int, int]] = []
    for size in (*DECODED, *READ):
        mean_us = round(fmean(each[size] for each in measured))
        points.append((size, max(mean_us, points[-1][1] + 1 if points else 0)))
    per_token_us = points[-1][1] / points[-1][0]
    return StepProfile("this machine", (*points, (2_048, round(2_048 * per_token_us))), 0, 0, 0)


@dataclass(frozen=True, slots=True)
class World:
    """The engine, and what is promised of it: objectives in microseconds, as for the accelerator but slower."""

    engine: XllamacppEngine
    classes: Classes

    @classmethod
    def of(cls, engine: XllamacppEngine, service_s: float) -> "World":
        slower = service_s * TTFT_SERVICES
        return cls(engine, {
            each: replace(
                rules, ttft_us=round(rules.ttft_us * slower),
                tpot_us=None if rules.tpot_us is None else round(rules.tpot_us * slower),
            )
            for each, rules in CLASSES.items()
        })  # fmt: skip

    def objectives(self) -> dict[ServiceClass, ClassObjective]:
        return {
            each: ClassObjective(rules.ttft_us // 1_000, None if rules.tpot_us is None else rules.tpot_us // 1_000)
            for each, rules in self.classes.items()
        }

    def simulated(self, policy: str, requests: list[Offered], profile: StepProfile) -> float:
        rules = PoolRules(
            POOL, self.objectives(), queue_seats_max=10_000, tenant_seats_max=2_500, queue_wait_factor=3.0,
            lease_us=10_000_000, policy=policy,
        )  # fmt: skip
        rates = Rates.declared(profile.prefill_tps)
        rates.tightest_us = min(each.ttft_us for each in self.classes.values())
        hardware = Hardware(profile, 1, SLOTS, SLOTS * 2_048)
        run = Simulation(build_order(rules, rates, {}), hardware, classes=self.classes).run(requests)
        return fmean(each.is_success for each in run.outcomes)

    async def live(self, policy: str, requests: list[Offered], profile: StepProfile) -> list[Outcome]:
        """Ask for a grant for each request when it arrives, and use it; without a policy the engine is by itself."""
        if policy == ALONE:
            return await self._arriving(requests, self._use_alone)
        spec = EngineSpec("http://127.0.0.1:1", "embedded", SLOTS, 2_048, prefill_tps=profile.prefill_tps)
        pool = PoolSpec(POOL, self.objectives(), (spec,), policy=policy)
        front = FrontService(
            [pool], clock=CLOCK, ids=IdFactory(CLOCK, SystemDice()), config=SchedulerConfig(lease_s=LEASE_S)
        )
        front.engine_changed(POOL, replace(front.engines(POOL)[0], condition=EngineCondition.READY))
        looking = asyncio.create_task(front.run())

        async def use(outcome: Outcome, begun: float) -> None:
            await self._use_granted(front, outcome, begun)

        found = await self._arriving(requests, use)
        looking.cancel()
        return found

    async def _arriving(self, requests: list[Offered], use: Use) -> list[Outcome]:
        begun = CLOCK.monotonic()
        found = [Outcome(each, rules=self.classes[each.service_class]) for each in requests]
        async with asyncio.TaskGroup() as group:
            for outcome in found:
                await CLOCK.sleep(max(0.0, begun + outcome.offered.at_us / 1e6 - CLOCK.monotonic()))
                group.create_task(use(outcome, begun))
        return found

    async def _use_alone(self, outcome: Outcome, begun: float) -> None:
        offered = outcome.offered
        call = call_of(offered.input_tokens, offered.output_tokens, offered.index)
        note(outcome, begun, await speak(self.engine, call))

    async def _use_granted(self, front: FrontService, outcome: Outcome, begun: float) -> None:
        offered = outcome.offered
        organization, workspace = OrganizationId(UUID(int=int(offered.tenant[1:]))), WorkspaceId(UUID(int=1))
        sizes = (offered.service_class, offered.input_tokens, offered.output_tokens)
        asked = GrantRequest(f"req_{offered.index}", POOL, organization, workspace, None, *sizes)
        granted = await front.acquire(asked)
        if not isinstance(granted, Granted):
            return
        given = CLOCK.monotonic()

        async def report(pieces: int, first: float) -> None:
            await front.progress([GrantProgress(granted.grant_id, pieces, round((first - given) * 1_000))])

        call = call_of(offered.input_tokens, offered.output_tokens, offered.index)
        first, ended = await speak(self.engine, call, report)
        note(outcome, begun, (first, ended))
        took = (round((first - given) * 1_000), round((ended - given) * 1_000))
        figures = (offered.input_tokens, 0, offered.output_tokens, *took)
        await front.settle(granted.grant_id, Settlement(SettleOutcome.OK, *figures))


def note(outcome: Outcome, begun: float, seen: tuple[float, float]) -> None:
    """Note when the first token and the last came."""
    outcome.first_us, outcome.ended_us = (round((each - begun) * 1e6) for each in seen)


def drawn(part: list[TraceRow], seed: int) -> list[Offered]:
    """Return requests of the trace's shape, one class, nine tenants."""
    rows = [
        replace(
            each,
            input_tokens=min(INPUT_MAX, max(4, each.input_tokens // INPUT_PART)),
            output_tokens=max(2, each.output_tokens // OUTPUT_PART),
        )
        for each in part
    ]
    return offer(rows, Mix(tenants=9, classes=((INTERACTIVE, 1.0),)), Random(seed))


async def one_round(engine: XllamacppEngine, number: int) -> dict[tuple[str, float], tuple[float, float | None]]:
    """Return live and simulated attainment by policy and load; the order of the runs differs from round to round."""
    parts, _ = trace_parts()
    offered, watch = drawn(parts[number % len(parts)], number + 1), Stopwatch(engine)
    runs = [("interlock", load) for load in LOADS] + [(PEER, OVERLOAD), (ALONE, OVERLOAD)]
    found: dict[tuple[str, float], tuple[float, float | None]] = {}
    before = await watch.points()
    for policy, load in runs[number:] + runs[:number]:
        profile = profile_of(before)
        rps = capacity_rps(offered[:200], Hardware(profile, 1, SLOTS, SLOTS * 2_048))
        services = min(SERVICES, max(SERVICES_MIN, round(RUN_S * rps)))
        requests = stretched(offered[: round(services * load)], load * rps)
        world = World.of(engine, 1 / rps)
        outcomes = await world.live(policy, requests, profile)
        after = await watch.points()
        simulated = None if policy == ALONE else world.simulated(policy, requests, profile_of(before, after))
        kept = fmean(each.is_success for each in outcomes)
        ended = [each for each in outcomes if each.ended_us is not None]
        told = f"{fmean(each.is_success for each in ended):.3f} of {len(ended)} accepted" if ended else "none accepted"
        beside = "" if simulated is None else f", {simulated:.3f} simulated"
        print(f"round {number + 1}: {policy} at {load}, {rps:.2f} requests/s, {len(requests)} requests: ", end="")
        print(f"{kept:.3f} live{beside}; {told}; a step of 8 took {before[8]:.0f}, then {after[8]:.0f} us", flush=True)
        found[policy, load], before = (kept, simulated), after
    return found


async def measured() -> bool:
    cells = defaultdict(list)
    begun = CLOCK.monotonic()
    with tempfile.TemporaryDirectory(prefix="il-") as folder:
        engine = XllamacppEngine.load(
            find_model(), listener_path=Path(folder, "inner.sock"), config=EngineConfig(slots=SLOTS), dice=SystemDice()
        )
        for number in range(ROUNDS_MAX):
            if number and CLOCK.monotonic() - begun > ENOUGH_S * number / (number + 1):
                break
            for cell, figures in (await one_round(engine, number)).items():
                cells[cell].append(figures)
        engine.close()
    means = {cell: fmean(kept for kept, _ in found) for cell, found in cells.items()}
    met = True
    for load in LOADS:
        found = cells["interlock", load]
        simulated = fmean(each or 0.0 for _, each in found)
        print(f"{load}: {means['interlock', load]:.3f} live, {simulated:.3f} simulated, means of {len(found)} rounds")
        difference = abs(simulated - means["interlock", load])
        met &= record(f"scheduler_live difference at {load}", difference, "share", "lower", 0.10)
    for peer, goal in ((PEER, None), (ALONE, 3.0)):
        ratio = means["interlock", OVERLOAD] / max(means[peer, OVERLOAD], 1e-9)
        print(f"{OVERLOAD}: {peer} {means[peer, OVERLOAD]:.3f}")
        name = "the engine alone" if peer == ALONE else peer
        met &= record(f"scheduler_live goodput over {name} at {OVERLOAD}", ratio, "ratio", "higher", goal)
    return met


def main() -> int:
    met = asyncio.run(measured())
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
