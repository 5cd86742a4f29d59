"""The front of all pools: turns seats into awaited answers, grants into ids, and the core's figures into decisions.

Talks to no engine: `worker.py` watches them and reports here.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from interlock.contracts.scheduling import (
    UNUSED,
    AdoptedGrant,
    AdoptReply,
    Granted,
    GrantProgress,
    GrantRequest,
    ProgressReply,
    Refused,
    Settled,
    Settlement,
)
from interlock.foundation.clock import Clock
from interlock.foundation.errors import ERRORS
from interlock.foundation.ids import IdFactory, format_id
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.books import path_of
from interlock.scheduler.domain.decisions import RecordedPolicy
from interlock.scheduler.domain.engines import Dialect, OwnAccount
from interlock.scheduler.domain.hosting import LOOK_US_MIN, counted
from interlock.scheduler.domain.log_lines import Sink
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.domain.replicas import Replica
from interlock.scheduler.domain.share import Standing
from interlock.scheduler.domain.steps import ended_step, granted_step, queued_steps, refused_steps
from interlock.scheduler.domain.types import (
    EngineCondition,
    EngineState,
    Grant,
    Phase,
    PoolStatistics,
    Renewal,
    Steps,
)
from interlock.scheduler.service.held import (
    Live,
    Seat,
    adopted_live,
    canceled_record,
    dated,
    granted_answer,
    lost_record,
    refused_record,
    settled_record,
)
from interlock.scheduler.service.measuring import Measuring
from interlock.scheduler.service.signs import Signs
from interlock.scheduler.service.specs import PoolSpec, candidate_rules_of, engine_id, rules_of, state_of
from interlock.scheduler.service.trials import Core, Trials

_log = structlog.get_logger(__name__)


class Observer(Protocol):
    """Hears of what becomes of requests, for metrics and records."""

    def granted(self, grant: Grant) -> None:
        """A seat became a grant."""
        ...

    def decided(self, pool: str, took_s: float) -> None:
        """An arrival was decided."""
        ...

    def ended(self, record: DecisionRecord) -> None:
        """A request ended: refused, canceled, settled or lost."""
        ...


@dataclass(slots=True)
class _Pool:
    spec: PoolSpec
    policy: Core
    seats: dict[str, Seat] = field(default_factory=dict)
    is_leaving: bool = False
    # A look at the moment at which an engine should have read enough to be given more.
    look: asyncio.TimerHandle | None = None

    def look_later(self, now_us: int, before_s: float, pump: Callable[["_Pool"], None]) -> None:
        """Grant as soon as an engine should have read enough, where that is before the next tick."""
        opens_us = self.policy.opens_in_us(now_us)
        if opens_us is not None and opens_us < before_s * 1_000_000:
            after_s = max(LOOK_US_MIN, opens_us) / 1_000_000
            self.look = asyncio.get_running_loop().call_later(after_s, pump, self)

    def take_engines(self, now_us: int, spec: PoolSpec) -> list[tuple[str, Refused]]:
        """Take the engines as they are declared now; return who waits in vain from now on."""
        refused: list[tuple[str, Refused]] = []
        known = {each.state.engine_id: each.state for each in self.policy.fleet.sorted()}
        wanted = {engine_id(spec.name, each.url): each for each in spec.engines}
        for each_id, engine in wanted.items():
            before = known.get(each_id)
            condition = EngineCondition.STARTING if before is None else before.condition
            if condition is EngineCondition.DRAINING and not engine.is_draining:
                condition = EngineCondition.STARTING
            state = state_of(spec.name, engine, condition)
            if state != before:
                refused += self.policy.engine_changed(now_us, state)
        for each_id in known.keys() - wanted.keys():
            refused += self.policy.engine_removed(now_us, each_id)
        return refused

    def leave(self, refusal: Refused) -> None:
        """Refuse all who wait, and look at nothing any more."""
        if self.look is not None:
            self.look.cancel()
        for seat in self.seats.values():
            if not seat.answer.done():
                seat.answer.set_result(refusal)


def _engines_of(pools: Iterable[_Pool]) -> set[str]:
    return {each for pool in pools for each in pool.policy.fleet.replicas}


Journals = Callable[[str], Sink]


class FrontService:
    """Implements `GrantBroker`. One event loop owns it; nothing in it blocks."""

    def __init__(
        self,
        pools: Iterable[PoolSpec],
        *,
        clock: Clock,
        ids: IdFactory,
        config: SchedulerConfig,
        observers: Sequence[Observer] = (),
        journals: Journals | None = None,
    ) -> None:
        self._clock = clock
        self.measuring = Measuring(clock)
        self._observers = (self.measuring, *observers)
        self._ids = ids
        self._config = config
        self._journals = journals
        self._may_grant: Callable[[str], bool] = lambda _pool: True
        self.trials = Trials(clock, config)
        self._pools: dict[str, _Pool] = {}
        self._live: dict[str, Live] = {}
        self._grant_of: dict[str, str] = {}
        self.signs = Signs(config)
        self._settled: OrderedDict[str, tuple[Settlement | None, Settled | None]] = OrderedDict()
        self._work_pending = asyncio.Event()
        for spec in pools:
            self.declare(spec)

    def ask_before_granting(self, may_grant: Callable[[str], bool]) -> None:
        """Grant nothing of a pool while this says no; whoever says it calls `run_once` when that has changed."""
        self._may_grant = may_grant

    async def acquire(self, request: GrantRequest) -> Granted | Refused:
        """Wait for a place. Cancelling the awaiting task gives the seat, or an unread grant, back."""
        pool = self._pools.get(request.pool)
        if pool is None:
            return _refused("pool_unknown", pool=request.pool)
        now_us = self._now_us()
        if request.request_id in self._grant_of:
            return _refused("grant_exists", pool=request.pool, rule="grant_exists")
        began_s = self._clock.monotonic()
        arrival = pool.policy.arrive(now_us, request)
        for observer in self._observers:
            observer.decided(request.pool, self._clock.monotonic() - began_s)
        self._answer(pool, arrival.displaced)
        if isinstance(arrival.outcome, Refused):
            # At the same moment as the decision: nothing of the shares has to be computed again.
            standing = pool.policy.standing(now_us, path_of(request))
            steps = refused_steps(request, arrival.outcome, standing)
            return self._refuse(request, arrival.outcome, steps, standing, None)
        answer = asyncio.get_running_loop().create_future()
        seat = Seat(request, answer, queued_steps(request, arrival.outcome), arrival.outcome)
        pool.seats[request.request_id] = seat
        self._pump(pool, now_us)
        self._work_pending.set()
        try:
            return await seat.answer
        except asyncio.CancelledError:
            self._abandon(pool, request.request_id, seat)
            raise

    async def progress(self, grants: Sequence[GrantProgress]) -> ProgressReply:
        """Renew leases; name the grants that are unknown and those whose engine went away."""
        now_us = self._now_us()
        unknown: list[str] = []
        revoked: list[str] = []
        drained: list[str] = []
        for each in grants:
            live = self._live.get(each.grant_id)
            renewal = Renewal.UNKNOWN if live is None else self._reported(now_us, live, each)
            if live is None or renewal is Renewal.UNKNOWN:
                unknown.append(each.grant_id)
            elif renewal is Renewal.REVOKED:
                revoked.append(each.grant_id)
                is_drained = _is_drained(self._pools[live.pool].policy, live.request.request_id)
                drained += [each.grant_id] if is_drained else []
        # A prompt that was read makes room for the next one.
        for pool in self._pools.values():
            if pool.seats:
                self._pump(pool, now_us)
        return ProgressReply(tuple(unknown), tuple(revoked), tuple(drained))

    async def settle(self, grant_id: str, settlement: Settlement) -> Settled | Refused:
        """End a grant. The same figures twice give the same answer."""
        live = self._live.get(grant_id)
        if live is None:
            return self._settled_before(grant_id, settlement)
        pool = self._pools[live.pool]
        now_us = self._now_us()
        running = pool.policy.running.get(live.request.request_id)
        if running is not None:
            self.signs.settled(now_us / 1_000_000, running.engine_id, settlement)
        # An edge counts from the arrival at its own door.
        known = counted(settlement, (now_us - live.granted_us) // 1_000, live.ttft_ms)
        settled = pool.policy.settle(now_us, live.request.request_id, known)
        self._forget(live, settlement, settled)
        self._pump(pool, now_us)
        if settled is None:
            return _refused("grant_unknown")
        self._tell(settled_record(live, known, settled, self._clock.now_us()))
        return settled

    async def cancel(self, request_id: str) -> None:
        """Give a held seat back, or the grant that its caller did not wait for; a no-op for an unknown request."""
        for pool in self._pools.values():
            seat = pool.seats.get(request_id)
            if seat is not None:
                seat.answer.cancel()
                self._abandon(pool, request_id, seat)
        grant_id = self._grant_of.get(request_id)
        if grant_id is not None:
            await self.settle(grant_id, UNUSED)

    async def adopt(self, worker: str, grants: Sequence[AdoptedGrant]) -> AdoptReply:
        """Take over the grants that `worker` still uses; they count against the slots from now on."""
        del worker
        now_us = self._now_us()
        rejected = [each.grant_id for each in grants if not self._adopt_one(now_us, each)]
        self._work_pending.set()
        return AdoptReply(len(grants) - len(rejected), tuple(rejected))

    def engine_changed(self, pool_name: str, state: EngineState) -> None:
        """Note what the watch found out about an engine."""
        pool = self._pools.get(pool_name)
        if pool is None or state.engine_id not in pool.policy.fleet.replicas:
            # It was taken out while somebody looked at it.
            return
        if state.condition is EngineCondition.READY:
            self.signs.acquit(state.engine_id)
        now_us = self._now_us()
        self._answer(pool, pool.policy.engine_changed(now_us, state))
        self._pump(pool, now_us)

    def engine_scraped(self, pool_name: str, scraped_id: str, others: int, kv_share: float) -> None:
        """Note what the believed gauges of an engine add to our own account of it."""
        pool, now_us = self._pools.get(pool_name), self._now_us()
        if pool is None:
            return
        pool.policy.engine_scraped(now_us, scraped_id, others, kv_share)
        self._pump(pool, now_us)

    def engine_paced(self, pool_name: str, paced_id: str, tokens: int, took_s: float) -> None:
        """Note how fast an engine was seen to read before it got work."""
        pool = self._pools.get(pool_name)
        if pool is not None:
            pool.policy.engine_paced(self._now_us(), paced_id, tokens, round(took_s * 1_000_000))

    def declare(self, spec: PoolSpec) -> None:
        """Take a pool as it is declared now: a new one, or other engines and settings of one that serves."""
        pool, now_us = self._pools.get(spec.name), self._now_us()
        rules = rules_of(spec, self._config)
        if pool is None:
            policy = RecordedPolicy(rules, spec.weights, self._journals and self._journals(spec.name))
            pool = self._pools[spec.name] = _Pool(spec, policy)
        elif (rules, spec.weights) != (pool.policy.rules, pool.policy.weights):
            self._answer(pool, pool.policy.configure(now_us, rules, spec.weights))
        self._answer(pool, pool.take_engines(now_us, spec))
        if spec.is_draining != pool.policy.is_draining:
            self._answer(pool, pool.policy.drain(now_us, is_draining=spec.is_draining))
        pool.spec, pool.is_leaving = spec, False
        tried = None if spec.candidate is None else candidate_rules_of(spec, spec.candidate, self._config)
        pool.policy = self.trials.declared(spec.name, pool.policy, spec.candidate, tried)
        self.signs.keep(_engines_of(self._pools.values()))
        self._pump(pool, now_us)

    def withdraw(self, pool_name: str) -> None:
        """Take a pool out: what waits is refused, what runs is settled as it ends."""
        pool = self._pools[pool_name]
        self._answer(pool, pool.policy.drain(self._now_us(), is_draining=True))
        pool.is_leaving = True
        if pool.policy.is_idle:
            del self._pools[pool_name]
            self.signs.keep(_engines_of(self._pools.values()))
            self.measuring.forget(pool_name)
            self.trials.forget(pool_name)

    def leave(self, pool_name: str) -> None:
        """Let go of a pool that another scheduler leads: who waits asks there, and edges hand over what runs."""
        pool = self._pools.pop(pool_name, None)
        if pool is None:
            return
        pool.leave(_refused("not_leader", pool=pool_name))
        for live in [each for each in self._live.values() if each.pool == pool_name]:
            self._drop(live)
        self.signs.keep(_engines_of(self._pools.values()))
        self.measuring.forget(pool_name)
        self.trials.forget(pool_name)

    def drain(self) -> None:
        """Grant nothing more; what waits is refused with `pool_draining`."""
        for pool in self._pools.values():
            self._answer(pool, pool.policy.drain(self._now_us(), is_draining=True))

    def look(self) -> None:
        """Grant what can be granted now, if anything waits or runs."""
        if self._work_pending.is_set():
            self.run_once()

    def run_once(self) -> None:
        """End the seats and leases whose time is over, and grant what that frees."""
        now_us = self._now_us()
        for name, pool in list(self._pools.items()):
            if pool.is_leaving and pool.policy.is_idle:
                self.withdraw(name)
                continue
            pool.policy = self.trials.looked(name, pool.policy)
            expired = pool.policy.expire(now_us)
            self._answer(pool, expired.refused)
            for request_id in expired.lost:
                self._lose(self._live[self._grant_of[request_id]])
            self._pump(pool, now_us)

    async def run(self) -> None:
        """Look at deadlines every `tick_s` while anything waits or runs; asleep otherwise."""
        while True:
            await self._work_pending.wait()
            if all(pool.policy.is_idle for pool in self._pools.values()):
                self._work_pending.clear()
                continue
            await self._clock.sleep(self._config.tick_s)
            self.run_once()

    async def is_busy(self) -> None:
        """Return once something waits or runs."""
        await self._work_pending.wait()

    def reading_engines(self) -> list[EngineState]:
        """Return our own engines that have unread prompts."""
        replicas = [each for pool in self._pools.values() for each in pool.policy.fleet.sorted()]
        return [each.state for each in replicas if each.state.dialect is Dialect.EMBEDDED and each.has_unread]

    def read(self, told: Iterable[tuple[str, int, int | None]]) -> None:
        """Note how far our own engine is: grant, output tokens, and the milliseconds since its prompt was read."""
        now_us, pools = self._now_us(), set()
        for grant_id, output_tokens, read_ms_ago in told:
            live = self._live.get(grant_id)
            if live is None or read_ms_ago is None or live.ttft_ms is not None:
                continue
            live.ttft_ms = max(0, (now_us - live.granted_us) // 1_000 - read_ms_ago)
            pools.add(live.pool)
            self._pools[live.pool].policy.progress(now_us, live.request.request_id, output_tokens, live.ttft_ms)
        # A prompt that was read makes room for the next one.
        for name in pools:
            self._pump(self._pools[name], now_us)

    def pool_names(self) -> tuple[str, ...]:
        """Return the pools that exist."""
        return tuple(sorted(self._pools))

    def engines(self, pool_name: str) -> list[EngineState]:
        """Return the engines of a pool."""
        pool = self._pools.get(pool_name)
        return [] if pool is None else [each.state for each in pool.policy.fleet.sorted()]

    def slots_of(self, pool_name: str, engine_id: str) -> tuple[int, int]:
        """Return how many slots of an engine grants use, and how many it has."""
        replica = self._replica(pool_name, engine_id)
        return (0, 0) if replica is None else (replica.granted, replica.state.slots)

    def is_silent(self, pool_name: str, engine_id: str, share: float = 1.0) -> bool:
        """Return whether an engine stands still, for a share of the time; reading a prompt gives it as long on top."""
        replica = self._replica(pool_name, engine_id)
        reading_s = 0.0 if replica is None else replica.reading_s
        return self.signs.is_silent(self._clock.monotonic(), engine_id, reading_s, share)

    def account(self, pool_name: str, engine_id: str) -> OwnAccount:
        """Return what we know of an engine without asking it, since the last time that this was asked."""
        replica = self._replica(pool_name, engine_id)
        streaming = self.signs.take_streaming(engine_id)
        return OwnAccount(0, 0, 0) if replica is None else OwnAccount(replica.granted, streaming, replica.events)

    def _replica(self, pool_name: str, engine_id: str) -> Replica | None:
        pool = self._pools.get(pool_name)
        return None if pool is None else pool.policy.fleet.replicas.get(engine_id)

    def statistics(self, pool_name: str) -> PoolStatistics | None:
        """Return a pool's figures; None for an unknown pool."""
        pool = self._pools.get(pool_name)
        return None if pool is None else pool.policy.statistics(self._now_us())

    def keep(self) -> dict[str, dict[str, Any]]:
        """Return a checkpoint of each pool."""
        return {name: pool.policy.keep() for name, pool in self._pools.items()}

    def recall(self, kept: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the checkpoints of a former leader."""
        for name, figures in kept.items():
            if name in self._pools:
                self._pools[name].policy.recall(self._now_us(), figures)

    def _pump(self, pool: _Pool, now_us: int) -> None:
        if not self._may_grant(pool.spec.name):
            return
        for grant in pool.policy.next_grants(now_us):
            seat = pool.seats.pop(grant.request.request_id)
            live = Live(pool.spec.name, format_id("gnt", self._ids.new()), grant.granted_us, grant.request, grant)
            live.standing = seat.queued.standing
            live.decision = [*seat.decision, granted_step(grant)]
            self._open(live)
            for observer in self._observers:
                observer.granted(grant)
            granted = granted_answer(live, grant, self._config.lease_s)
            if not seat.answer.done():
                seat.answer.set_result(granted)
        if pool.seats and pool.look is None:
            pool.look_later(now_us, self._config.tick_s, self._look_now)

    def _look_now(self, pool: _Pool) -> None:
        pool.look = None
        self._pump(pool, self._now_us())

    def _open(self, live: Live) -> None:
        self._live[live.grant_id] = live
        self._grant_of[live.request.request_id] = live.grant_id

    def _reported(self, now_us: int, live: Live, told: GrantProgress) -> Renewal:
        policy, request_id = self._pools[live.pool].policy, live.request.request_id
        has_grown = told.output_tokens > live.output_tokens
        live.output_tokens = max(live.output_tokens, told.output_tokens)
        live.ttft_ms = told.ttft_ms if live.ttft_ms is None else live.ttft_ms
        renewal = policy.progress(now_us, request_id, told.output_tokens, told.ttft_ms)
        if renewal is Renewal.RENEWED:
            self.signs.reported(now_us / 1_000_000, policy.running[request_id].engine_id, told, has_grown=has_grown)
        return renewal

    def _lose(self, live: Live) -> None:
        self._forget(live, None, None)
        _log.info("grant.lost", grant=live.grant_id, request=live.request.request_id, pool=live.pool)
        self._tell(lost_record(live, self._clock.now_us()))

    def _forget(self, live: Live, settlement: Settlement | None, settled: Settled | None) -> None:
        self._drop(live)
        self._settled[live.grant_id] = (settlement, settled)
        while len(self._settled) > self._config.settled_kept_max:
            self._settled.popitem(last=False)

    def _drop(self, live: Live) -> None:
        del self._live[live.grant_id]
        del self._grant_of[live.request.request_id]
        self.signs.forget(live.grant_id)

    def _settled_before(self, grant_id: str, settlement: Settlement) -> Settled | Refused:
        if grant_id not in self._settled:
            return _refused("grant_unknown")
        former, settled = self._settled[grant_id]
        return settled if settled is not None and former == settlement else _refused("grant_settled")

    def _abandon(self, pool: _Pool, request_id: str, seat: Seat) -> None:
        """The caller is gone: the seat goes back, and so does a grant that came in the same moment."""
        pool.seats.pop(request_id, None)
        phase = pool.policy.cancel(self._now_us(), request_id)
        if phase is Phase.QUEUED:
            self._tell(canceled_record(seat, self._clock.now_us()))
            # Whoever stood behind may go now.
            self._pump(pool, self._now_us())
        if phase is not Phase.GRANTED or not seat.answer.done() or seat.answer.cancelled():
            return
        answer = seat.answer.result()
        if isinstance(answer, Granted) and answer.grant_id in self._live:
            settled = pool.policy.settle(self._now_us(), request_id, UNUSED)
            self._forget(self._live[answer.grant_id], UNUSED, settled)
            self._pump(pool, self._now_us())

    def _adopt_one(self, now_us: int, grant: AdoptedGrant) -> bool:
        if grant.grant_id in self._live:
            return True
        pool = self._pools.get(grant.request.pool)
        # A grant that was written off as lost may come back: its edge was only slow.
        is_settled = self._settled.get(grant.grant_id, (None, None))[1] is not None
        if pool is None or is_settled or not pool.policy.adopt(now_us, grant):
            return False
        self._settled.pop(grant.grant_id, None)
        self._open(adopted_live(grant, now_us))
        return True

    def _answer(self, pool: _Pool, refused: Iterable[tuple[str, Refused]]) -> None:
        for request_id, refusal in refused:
            seat = pool.seats.pop(request_id, None)
            if seat is not None and not seat.answer.done():
                steps, queued = [*seat.decision, ended_step(refusal)], seat.queued
                seat.answer.set_result(self._refuse(seat.request, refusal, steps, queued.standing, queued.promise))

    def _refuse(
        self, request: GrantRequest, refusal: Refused, steps: Steps, standing: Standing | None, promise: str | None
    ) -> Refused:
        """Add the wall time of the retry, which the core does not know, and the steps that led here."""
        now_us = self._clock.now_us()
        refusal = dated(refusal, steps, now_us)
        self._tell(refused_record(request, refusal, now_us, standing, promise))
        return refusal

    def _tell(self, record: DecisionRecord) -> None:
        for observer in self._observers:
            observer.ended(record)

    def _now_us(self) -> int:
        return round(self._clock.monotonic() * 1_000_000)


def _is_drained(policy: Core, request_id: str) -> bool:
    """Whether the engine of a revoked grant was asked to end, and is not one that stands still."""
    replica = policy.fleet.replicas.get(policy.running[request_id].engine_id)
    return replica is not None and replica.state.condition is EngineCondition.DRAINING


def _refused(code: str, **detail: Any) -> Refused:
    spec = ERRORS[code]
    return Refused(code, spec.http_status, spec.retry_after_s, spec.message, detail)
