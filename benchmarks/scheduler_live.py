"""The simulator against the embedded engine: the same requests under the same orders, in virtual time and for real.

Trace-shaped requests of one part of the trace a round, on the engine behind the scheduler and, at 1.5 x, by itself,
for as long as a part of the trace lasts: an unbounded queue takes time to fill. The steps of this machine are
measured right before and after each run and simulated as their mean, so that what else the machine does in these
minutes is in both. Objectives last as many services as on the accelerator of the trace: a slower machine does the
same run more slowly. A figure is the difference of the means over the rounds. Runs in which others used the machine,
or in which its steps changed, are named, and left out where a load has others. The front over step loops in virtual
time is shown beside: what it misses is the engine's, the rest the simulator's. LOADS and PEERS choose what is run (a
peer may be any order, such as `vtc`), RUN_S and OVERLOAD_S for how many seconds of arrivals below 1.5 x and at it.
All of it takes some 20 minutes.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, Final, Protocol
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
from interlock.foundation.clock import Clock, Dice, SystemClock, SystemDice
from interlock.foundation.ids import IdFactory, OrganizationId, WorkspaceId
from interlock.foundation.sim import simulate
from interlock.scheduler import (
    EngineConfig,
    EngineSpec,
    FrontService,
    PoolSpec,
    SchedulerConfig,
    XllamacppEngine,
    find_model,
)
from interlock.scheduler.adapters.fake_steps import StepLoop
from interlock.scheduler.domain.asks import CLASSES, Classes
from interlock.scheduler.domain.completion import Completion, CompletionKind
from interlock.scheduler.domain.length import LengthBook
from interlock.scheduler.domain.orders import build_order
from interlock.scheduler.domain.profiles import StepProfile
from interlock.scheduler.domain.rates import Rates
from interlock.scheduler.domain.replay import capacity_rps
from interlock.scheduler.domain.simulate import Hardware, Outcome, Simulation
from interlock.scheduler.domain.trace import Mix, Offered, TraceRow, offer, stretched
from interlock.scheduler.domain.types import ClassObjective, EngineCondition, PoolRules

LOADS: Final = tuple(float(each) for each in os.environ.get("LOADS", "0.8,1.2,1.5").split(","))
OVERLOAD: Final = 1.5
# What a run at 1.5 x is compared with: nothing in front of the engine.
ALONE: Final = "alone"
PEERS: Final = tuple(each for each in os.environ.get("PEERS", ALONE).split(",") if each)
# What a minute's run lasts in services; the first-token objective lasts as many as 1 s is on the accelerator.
SERVICES, TTFT_SERVICES = 80, 5.3
# A machine with much else to do gets fewer requests a run and fewer rounds, and the benchmark says how many.
SERVICES_MIN, ROUNDS_MAX, ENOUGH_S = 25, 3, 560.0
RUN_S, OVERLOAD_S = float(os.environ.get("RUN_S", "60")), float(os.environ.get("OVERLOAD_S", "400"))
# Cores that others may use during a run, and by how much its steps may change, before it counts as disturbed.
OTHERS_CORES, DRIFT = 0.25, 0.2
LEASE_S = 300.0
# The key of what a token of context adds to a step, microseconds, beside the sizes of steps.
CONTEXT: Final = 0
SLOTS = 8
# The trace's prompts and outputs, made small enough for a model on one core.
INPUT_PART, OUTPUT_PART, INPUT_MAX = 16, 4, 400
DECODED, READ = (1, 4, 8), (48, 160, 320)
# What the engine reads and writes in a step; its own setting.
STEP_TOKENS: Final = EngineConfig().batch_tokens
CLOCK, DICE = SystemClock(), SystemDice()
POOL = "live"
INTERACTIVE = ServiceClass.INTERACTIVE
Report = Callable[[int, float], Awaitable[None]]
Use = Callable[[Outcome, float], Coroutine[None, None, None]]


def hardware_of(profile: StepProfile) -> Hardware:
    """Return the engine as the simulator runs it."""
    return Hardware(profile, 1, SLOTS, SLOTS * 2_048, STEP_TOKENS)


def call_of(tokens: int, output: int, number: int) -> Completion:
    """Return a call whose prompt is about `tokens` long and shares its beginning with nobody's."""
    prompt = f"{number} " + "parcel " * max(1, tokens - 2)
    parameters = {"prompt": prompt, "max_tokens": output, "temperature": 0.0, "ignore_eos": True}
    return Completion(CompletionKind.TEXT, is_stream=True, includes_usage=True, parameters=parameters)


class Speaking(Protocol):
    """An engine as a call sees it."""

    def generate(self, completion: Completion) -> AsyncIterator[dict[str, Any]]: ...


class Stepping:
    """The engine in virtual time: steps of a profile instead of a model's."""

    def __init__(self, profile: StepProfile, clock: Clock) -> None:
        self._steps = StepLoop(profile, slots=SLOTS, speed=1.0, clock=clock, budget_tokens=STEP_TOKENS)

    async def generate(self, completion: Completion) -> AsyncIterator[dict[str, Any]]:
        tokens = completion.parameters["prompt"].count("parcel ") + 2
        async for _ in self._steps.tokens(tokens, completion.parameters["max_tokens"]):
            yield {"choices": [{"text": "parcel"}]}


def cores_used_s() -> tuple[float, float]:
    """Return the seconds that all cores worked since the machine began, and those that this process did."""
    stat = Path("/proc/stat")
    own_s = time.process_time()
    if not stat.exists():
        return own_s, own_s
    ticks = [int(each) for each in stat.read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK"), own_s


async def speak(
    engine: Speaking, completion: Completion, clock: Clock, report: Report | None = None
) -> tuple[float, float]:
    """Return when the first piece came and when the answer ended, on the monotonic clock; report as an edge does."""
    first, told, pieces = 0.0, 0.0, 0
    async for event in engine.generate(completion):
        if not any(choice.get("text") for choice in event.get("choices", ())):
            continue
        pieces += 1
        first = first or clock.monotonic()
        if report is not None and clock.monotonic() - told >= 0.25:
            told = clock.monotonic()
            await report(pieces, first)
    return first or clock.monotonic(), clock.monotonic()


class Stopwatch:
    """Measures the steps of the engine: of some sequences that decode, and of prompts of some lengths."""

    def __init__(self, engine: XllamacppEngine) -> None:
        self._engine = engine
        self._calls = 1_000_000

    async def points(self) -> dict[int, float]:
        """Return microseconds of a step by its tokens."""
        found: dict[int, float] = {}
        for streams in DECODED:
            spans = await asyncio.gather(*(speak(self._engine, self._call(8, 24), CLOCK) for _ in range(streams)))
            step_s = max(ended for _, ended in spans) - max(first for first, _ in spans)
            found[streams] = step_s / 23 * 1e6
        for tokens in READ:
            begun = CLOCK.monotonic()
            first, ended = await speak(self._engine, self._call(tokens, 12), CLOCK)
            found[tokens] = (first - begun) * 1e6
            # What a step takes beside this context, by which it costs more than beside none.
            found[CONTEXT] = max(0.0, ((ended - first) / 11 * 1e6 - found[1]) / tokens)
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
    context_ns = round(fmean(each[CONTEXT] for each in measured) * 1_000)
    return StepProfile("this machine", (*points, (2_048, round(2_048 * per_token_us))), 0, context_ns, 0)


@dataclass(frozen=True, slots=True)
class World:
    """The engine, and what is promised of it: objectives in microseconds, as for the accelerator but slower."""

    engine: Speaking
    classes: Classes
    clock: Clock = CLOCK
    dice: Dice = DICE

    @classmethod
    def of(cls, engine: Speaking, service_s: float) -> "World":
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
        order, lengths = build_order(rules, rates, {}), LengthBook()
        run = Simulation(order, hardware_of(profile), classes=self.classes, lengths=lengths).run(requests)
        return fmean(each.is_success for each in run.outcomes)

    def fronted(self, policy: str, requests: list[Offered], profile: StepProfile) -> float:
        """Return what the front itself makes of it in virtual time."""

        async def lived(dice: Dice, clock: Clock) -> list[Outcome]:
            return await World(Stepping(profile, clock), self.classes, clock, dice).live(policy, requests, profile)

        return fmean(each.is_success for each in simulate(1, lived))

    async def live(self, policy: str, requests: list[Offered], profile: StepProfile) -> list[Outcome]:
        """Ask for a grant for each request when it arrives, and use it; without a policy the engine is by itself."""
        if policy == ALONE:
            return await self._arriving(requests, self._use_alone)
        spec = EngineSpec("http://127.0.0.1:1", "embedded", SLOTS, 2_048, prefill_tps=profile.prefill_tps)
        pool = PoolSpec(POOL, self.objectives(), (spec,), policy=policy)
        front = FrontService(
            [pool], clock=self.clock, ids=IdFactory(self.clock, self.dice), config=SchedulerConfig(lease_s=LEASE_S)
        )
        front.engine_changed(POOL, replace(front.engines(POOL)[0], condition=EngineCondition.READY))
        looking = asyncio.create_task(front.run())

        async def use(outcome: Outcome, begun: float) -> None:
            await self._use_granted(front, outcome, begun)

        found = await self._arriving(requests, use)
        looking.cancel()
        return found

    async def _arriving(self, requests: list[Offered], use: Use) -> list[Outcome]:
        begun = self.clock.monotonic()
        found = [Outcome(each, rules=self.classes[each.service_class]) for each in requests]
        async with asyncio.TaskGroup() as group:
            for outcome in found:
                await self.clock.sleep(max(0.0, begun + outcome.offered.at_us / 1e6 - self.clock.monotonic()))
                group.create_task(use(outcome, begun))
        return found

    async def _use_alone(self, outcome: Outcome, begun: float) -> None:
        offered = outcome.offered
        call = call_of(offered.input_tokens, offered.output_tokens, offered.index)
        note(outcome, begun, await speak(self.engine, call, self.clock))

    async def _use_granted(self, front: FrontService, outcome: Outcome, begun: float) -> None:
        offered = outcome.offered
        tenant = UUID(int=int(offered.tenant[1:]))
        organization, workspace = OrganizationId(tenant), WorkspaceId(tenant)
        sizes = (offered.service_class, offered.input_tokens, offered.output_tokens)
        asked = GrantRequest(f"req_{offered.index}", POOL, organization, workspace, None, *sizes)
        granted = await front.acquire(asked)
        if not isinstance(granted, Granted):
            return
        given = self.clock.monotonic()

        async def report(pieces: int, first: float) -> None:
            await front.progress([GrantProgress(granted.grant_id, pieces, round((first - given) * 1_000))])

        call = call_of(offered.input_tokens, offered.output_tokens, offered.index)
        first, ended = await speak(self.engine, call, self.clock, report)
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
    offered = offer(rows, Mix(tenants=9, classes=((INTERACTIVE, 1.0),)), Random(seed))
    return [replace(each, max_tokens=each.output_tokens) for each in offered]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a policy at a load: attainment for real, simulated, and of the front in virtual time."""

    kept: float
    simulated: float | None
    fronted: float | None
    is_disturbed: bool


async def one_round(engine: XllamacppEngine, number: int) -> dict[tuple[str, float], Run]:
    """Return the runs of a round by policy and load; their order differs from round to round."""
    parts, _ = trace_parts()
    offered, watch = drawn(parts[number % len(parts)], number + 1), Stopwatch(engine)
    runs = [("interlock", load) for load in LOADS] + [(each, OVERLOAD) for each in PEERS]
    found: dict[tuple[str, float], Run] = {}
    before = await watch.points()
    for policy, load in runs[number:] + runs[:number]:
        profile = profile_of(before)
        rps = capacity_rps(offered[:200], hardware_of(profile))
        run_s = OVERLOAD_S if load == OVERLOAD else RUN_S
        services = min(round(SERVICES * run_s / 60), max(SERVICES_MIN, round(run_s * rps)))
        requests = stretched(offered[: round(services * load)], load * rps)
        world, begun_s, used = World.of(engine, 1 / rps), CLOCK.monotonic(), cores_used_s()
        outcomes = await world.live(policy, requests, profile)
        took_s, now_used = CLOCK.monotonic() - begun_s, cores_used_s()
        after = await watch.points()
        own = (now_used[1] - used[1]) / took_s
        others, drift = (now_used[0] - used[0]) / took_s - own, abs(after[8] - before[8]) / before[8]
        kept, mean = fmean(each.is_success for each in outcomes), profile_of(before, after)
        is_compared = policy != ALONE
        run = found[policy, load] = Run(
            kept,
            world.simulated(policy, requests, mean) if is_compared else None,
            await asyncio.to_thread(world.fronted, policy, requests, mean) if is_compared else None,
            is_disturbed=others > OTHERS_CORES or drift > DRIFT,
        )
        ended = [each for each in outcomes if each.ended_us is not None]
        told = f"{fmean(each.is_success for each in ended):.3f} of {len(ended)} accepted" if ended else "none accepted"
        beside = f", {run.simulated:.3f} simulated, {run.fronted:.3f} the front in virtual time" if is_compared else ""
        print(f"round {number + 1}: {policy} at {load}, {rps:.2f} requests/s, {len(requests)} requests: ", end="")
        print(f"{kept:.3f} live{beside}; {told}; a step of 8 took {before[8]:.0f}, then {after[8]:.0f} us; ", end="")
        print(f"{took_s:.0f} s, {own:.2f} cores used, {others:.2f} by others{' (disturbed)' * run.is_disturbed}")
        sys.stdout.flush()
        before = after
    return found


async def rounds() -> dict[tuple[str, float], list[Run]]:
    """Run as many rounds as there is time for; leave out what was disturbed where something was not."""
    cells, begun = defaultdict(list), CLOCK.monotonic()
    with tempfile.TemporaryDirectory(prefix="il-") as folder:
        engine = XllamacppEngine.load(
            find_model(), listener_path=Path(folder, "inner.sock"), config=EngineConfig(slots=SLOTS), dice=SystemDice()
        )
        for number in range(ROUNDS_MAX):
            if number and CLOCK.monotonic() - begun > ENOUGH_S * number / (number + 1):
                break
            for cell, run in (await one_round(engine, number)).items():
                cells[cell].append(run)
        engine.close()
    return {cell: [run for run in found if not run.is_disturbed] or found for cell, found in cells.items()}


async def measured() -> bool:
    cells, met = await rounds(), True
    for load in LOADS:
        found = cells["interlock", load]
        live = fmean(run.kept for run in found)
        simulated, fronted = (fmean(each or 0.0 for each in figures) for figures in zip(*(
            (run.simulated, run.fronted) for run in found
        ), strict=True))  # fmt: skip
        quality = "disturbed" if found[0].is_disturbed else "undisturbed"
        print(f"{load}: {live:.3f} live, {simulated:.3f} simulated, {fronted:.3f} the front in virtual time, ", end="")
        print(f"means of {len(found)} {quality} rounds")
        met &= record(f"scheduler_live difference at {load}", abs(simulated - live), "share", "lower", 0.10)
    for peer in PEERS if OVERLOAD in LOADS else ():
        ours = fmean(run.kept for run in cells["interlock", OVERLOAD])
        goal = 3.0 if peer == ALONE else None
        theirs = fmean(run.kept for run in cells[peer, OVERLOAD])
        print(f"{OVERLOAD}: {peer} {theirs:.3f}")
        name = "the engine alone" if peer == ALONE else peer
        met &= record(
            f"scheduler_live goodput over {name} at {OVERLOAD}", ours / max(theirs, 1e-9), "ratio", "higher", goal
        )
    return met


def main() -> int:
    met = asyncio.run(measured())
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
