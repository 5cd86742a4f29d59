"""One script of what happens to a pool, and the three hosts of the core that live through it.

A script is about requests and an engine, not about calls: which calls a host makes of its core, when and in which
order, is what is compared. Times are whole microseconds of one clock that begins at 0.
"""

import asyncio
from dataclasses import dataclass
from uuid import UUID

import msgspec

from interlock.contracts.scheduling import Granted, GrantProgress, ServiceClass, Settlement, SettleOutcome
from interlock.foundation.ids import IdFactory, OrganizationId
from interlock.foundation.sim import simulate
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.decisions import RecordedPolicy
from interlock.scheduler.domain.hosting import Turns
from interlock.scheduler.domain.step_host import StepHost
from interlock.scheduler.domain.types import ClassObjective, EngineCondition
from interlock.scheduler.service import EngineSpec, FrontService, PoolSpec
from interlock.scheduler.service.specs import rules_of, state_of
from tests.scheduler.calls import grant_request

POOL = "p"
OBJECTIVES = {
    ServiceClass.INTERACTIVE: ClassObjective(ttft_ms=1_500, tpot_ms=200),
    ServiceClass.STANDARD: ClassObjective(ttft_ms=4_000, tpot_ms=None),
    ServiceClass.BATCH: ClassObjective(ttft_ms=20_000, tpot_ms=None),
}
ENGINE = EngineSpec("unix:/e", "m", slots=2, context_tokens=2_048, kv_tokens=6_000, prefill_tps=1_000)
SPEC = PoolSpec(POOL, OBJECTIVES, (ENGINE,))
CONFIG = SchedulerConfig(queue_seats_max=6, tenant_seat_share=0.67, lease_s=3.0)
TICK_US = round(CONFIG.tick_s * 1_000_000)
# The chunk is the step loop's own account of what a step can read; here the core alone decides.
NO_CHUNK = 1 << 40


class Moment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something happens at a time, to the request of a number or to the engine."""

    at_us: int
    what: str
    number: int = 0
    tokens: int = 0
    tenant: int = 1
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    condition: EngineCondition = EngineCondition.READY


@dataclass
class Stream:
    """What the edge, or the step loop, knows of a granted request."""

    request: object
    granted_us: int
    output: int = 0
    ttft_ms: int | None = None

    def more(self, now_us, tokens):
        """Generate; return the time to the first token where this is the first."""
        self.output += tokens
        if self.ttft_ms is None:
            self.ttft_ms = (now_us - self.granted_us) // 1_000
            return self.ttft_ms
        return None

    def end(self, now_us, outcome):
        total_ms = (now_us - self.granted_us) // 1_000
        return Settlement(outcome, self.request.input_tokens, 0, self.output, self.ttft_ms, total_ms)


def asked(moment):
    return grant_request(
        f"r{moment.number}", pool=POOL, organization=OrganizationId(UUID(int=moment.tenant)),
        input_tokens=moment.tokens, service_class=moment.service_class, max_tokens=64,
    )  # fmt: skip


def engine_in(condition):
    return state_of(POOL, ENGINE, condition)


class Simulated:
    """The core in virtual time: nothing waits and nobody is answered, only the turns are taken."""

    def __init__(self, log):
        self.turns = Turns(RecordedPolicy(rules_of(SPEC, CONFIG), {}, log.append), TICK_US)
        self.streams = {}
        self.looks = []
        self.note(self.turns.engine_is(0, engine_in(EngineCondition.STARTING)))

    def run(self, script):
        for moment in script:
            while self.turns.look_us is not None and self.turns.look_us <= moment.at_us:
                self.looks.append(self.turns.look_us)
                self.note(self.turns.looked(self.turns.look_us))
            self.note(self.lives(moment))
        return self

    def lives(self, moment):
        now_us, name = moment.at_us, f"r{moment.number}"
        stream = self.streams.get(name)
        if moment.what == "arrives" and stream is None:
            return self.turns.arrived(now_us, asked(moment))
        if moment.what == "generates" and stream is not None:
            ttft_ms = stream.more(now_us, moment.tokens)
            return self.turns.progressed(now_us, name, stream.output, ttft_ms)
        if moment.what in {"ends", "leaves"} and stream is not None:
            del self.streams[name]
            outcome = SettleOutcome.OK if moment.what == "ends" else SettleOutcome.CLIENT_GONE
            return self.turns.settled(now_us, name, stream.end(now_us, outcome))
        if moment.what == "leaves":
            return self.turns.gone(now_us, name)
        if moment.what == "engine":
            return self.turns.engine_is(now_us, engine_in(moment.condition))
        return self.turns.ticked(now_us) if moment.what == "ticks" else None

    def note(self, turn):
        if turn is None:
            return
        for grant in turn.grants:
            self.streams[grant.request.request_id] = Stream(grant.request, grant.granted_us)
        for name in turn.lost:
            self.streams.pop(name, None)


class Fronted:
    """The front of pools, asked over its own calls by edges that wait for it, on a loop of virtual time."""

    front_class = FrontService

    def __init__(self, log, clock, dice):
        self.clock = clock
        ids = IdFactory(clock, dice)
        journals = lambda _pool: log.append  # noqa: E731
        self.front = self.front_class([SPEC], clock=clock, ids=ids, config=CONFIG, journals=journals)
        self.calls = {}
        self.streams = {}

    async def run(self, script):
        for moment in script:
            await asyncio.sleep(moment.at_us / 1_000_000 - self.clock.monotonic())
            # Who was granted between two moments has its answer by now.
            await self.settled_down()
            await self.lives(moment)
            await self.settled_down()
        for call in self.calls.values():
            call.cancel()

    async def settled_down(self):
        """Let those who were answered go on; nothing of this takes time."""
        for _ in range(6):
            await asyncio.sleep(0)
        for name, call in list(self.calls.items()):
            if call.done():
                del self.calls[name]
                answer = call.result() if not call.cancelled() else None
                if isinstance(answer, Granted):
                    self.streams[name] = (answer.grant_id, Stream(call.request, self.granted_us(name)))
        running = self.front._pools[POOL].policy.running
        self.streams = {name: each for name, each in self.streams.items() if name in running}

    def granted_us(self, name):
        running = self.front._pools[POOL].policy.running.get(name)
        return 0 if running is None else running.granted_us

    async def lives(self, moment):
        now_us, name = moment.at_us, f"r{moment.number}"
        grant_id, stream = self.streams.get(name, (None, None))
        if moment.what == "arrives" and stream is None:
            request = asked(moment)
            call = asyncio.ensure_future(self.front.acquire(request))
            call.request = request
            if name in self.calls:
                # It asks a second time while it waits: this one is refused, the first goes on.
                await call
            else:
                self.calls[name] = call
        elif moment.what == "generates" and stream is not None:
            ttft_ms = stream.more(now_us, moment.tokens)
            await self.front.progress([GrantProgress(grant_id, stream.output, ttft_ms)])
        elif moment.what in {"ends", "leaves"} and stream is not None:
            outcome = SettleOutcome.OK if moment.what == "ends" else SettleOutcome.CLIENT_GONE
            await self.front.settle(grant_id, stream.end(now_us, outcome))
        elif moment.what == "leaves" and name in self.calls:
            self.calls[name].cancel()
        elif moment.what == "engine":
            self.front.engine_changed(POOL, engine_in(moment.condition))
        elif moment.what == "ticks":
            self.front.run_once()


class Stepped:
    """The step loop of our own engine, told what its steps made as the thread tells it."""

    host_class = StepHost

    def __init__(self, log):
        core = RecordedPolicy(rules_of(SPEC, CONFIG), {}, log.append)
        self.host = self.host_class(core, chunk_tokens=NO_CHUNK, tick_us=TICK_US, report_us=0)
        self.host.engine_is(0, engine_in(EngineCondition.STARTING))

    def run(self, script):
        for moment in script:
            while (look_us := self.host.turns.look_us) is not None and look_us <= moment.at_us:
                self.host.looked(look_us)
            self.lives(moment)
            self.host.given()

    def lives(self, moment):
        now_us, name = moment.at_us, f"r{moment.number}"
        if moment.what == "arrives" and not self.host.holds(name):
            self.host.submit(now_us, asked(moment))
        elif moment.what == "generates":
            self.host.made(now_us, name, self.host.tokens_of(name) + moment.tokens)
        elif moment.what == "ends":
            self.host.ended(now_us, name, SettleOutcome.OK)
        elif moment.what == "leaves":
            self.host.leave(now_us, name)
        elif moment.what == "engine":
            self.host.engine_is(now_us, engine_in(moment.condition))
        elif moment.what == "ticks":
            self.host.ticked(now_us)


def simulated(script):
    """Return the log of the core in virtual time, and when its host looked by itself."""
    log = []
    return log, Simulated(log).run(script).looks


def fronted(script, host=Fronted):
    """Return the log of the front of pools."""
    log = []

    async def live(dice, clock):
        await host(log, clock, dice).run(script)
        return tuple(log)

    return list(simulate(1, live))


def stepped(script, host=Stepped):
    """Return the log of the step loop."""
    log = []
    host(log).run(script)
    return log


def first_difference(left, right):
    """Return the first pair of lines in which two logs differ; None where they are byte for byte the same."""
    for number, pair in enumerate(zip(left, right, strict=False)):
        if pair[0] != pair[1]:
            return number, *(each.decode() for each in pair)
    return None if len(left) == len(right) else (min(len(left), len(right)), len(left), len(right))


def at_odd_moments(script):
    """Return the script with no two moments at the same time, which would be of no defined order for any host."""
    return [msgspec.structs.replace(each, at_us=each.at_us + number * 7 + 1) for number, each in enumerate(script)]
