"""The front of all pools: turns seats into awaited answers, grants into ids, and the core's figures into decisions.

Talks to no engine: `worker.py` watches them and reports here.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import UUID

import structlog

from interlock.contracts.scheduling import (
    AdoptedGrant,
    AdoptReply,
    Granted,
    GrantProgress,
    GrantRequest,
    ProgressReply,
    Refused,
    ServiceClass,
    Settled,
    Settlement,
    SettleOutcome,
)
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.errors import ERRORS
from interlock.foundation.ids import IdFactory, format_id
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.steps import PROMISE, arrival_steps, granted_step
from interlock.scheduler.domain.types import (
    ClassObjective,
    EngineCondition,
    EngineState,
    Grant,
    Phase,
    PoolRules,
    PoolStatistics,
    Renewal,
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine to watch. `url` is `unix:/path.sock` for one of our own, else an OpenAI-compatible base URL."""

    url: str
    model: str
    slots: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool and its engines, as the platform was started with them."""

    name: str
    objectives: dict[ServiceClass, ClassObjective]
    engines: tuple[EngineSpec, ...]


class Observer(Protocol):
    """Hears of what becomes of requests, for the metrics."""

    def granted(self, grant: Grant) -> None:
        """A seat became a grant."""
        ...

    def refused(self, request: GrantRequest, code: str) -> None:
        """A request was refused at arrival or while it waited."""
        ...

    def settled(
        self, request: GrantRequest, settlement: Settlement, *, waited_ms: int, in_slo: bool, wasted_tokens: int
    ) -> None:
        """A grant ended."""
        ...

    def lost(self, request: GrantRequest) -> None:
        """The lease of a grant ran out."""
        ...


@dataclass(slots=True)
class _Live:
    pool: str
    request: GrantRequest
    grant_id: str
    granted_us: int
    waited_ms: int


@dataclass(slots=True)
class _Seat:
    request: GrantRequest
    answer: "asyncio.Future[Granted | Refused]"
    decision: list[dict[str, Any]]


@dataclass(slots=True)
class _Pool:
    spec: PoolSpec
    policy: Policy
    seats: dict[str, _Seat] = field(default_factory=dict)
    connect_errors: dict[str, int] = field(default_factory=dict)


class FrontService:
    """Implements `GrantBroker`. One event loop owns it; nothing in it blocks."""

    def __init__(
        self,
        pools: Iterable[PoolSpec],
        *,
        clock: Clock,
        ids: IdFactory,
        config: SchedulerConfig,
        observer: Observer | None = None,
    ) -> None:
        self._clock = clock
        self._observer = observer
        self._ids = ids
        self._config = config
        self._pools = {spec.name: _Pool(spec, Policy(_rules(spec, config))) for spec in pools}
        self._live: dict[str, _Live] = {}
        self._grant_of: dict[str, str] = {}
        self._settled: OrderedDict[str, tuple[Settlement | None, Settled | None]] = OrderedDict()
        self._work_pending = asyncio.Event()
        for pool in self._pools.values():
            for engine in pool.spec.engines:
                state = EngineState(
                    engine_id(pool.spec.name, engine.url), engine.url, engine.model, engine.slots, engine.context_tokens
                )
                pool.policy.engine_changed(state)

    async def acquire(self, request: GrantRequest) -> Granted | Refused:
        """Wait for a place. Cancelling the awaiting task gives the seat, or an unread grant, back."""
        pool = self._pools.get(request.pool)
        if pool is None:
            return _refused("pool_unknown", pool=request.pool)
        now_us = self._now_us()
        if request.request_id in self._grant_of:
            return _refused("grant_exists", pool=request.pool, rule="grant_exists")
        answer = pool.policy.arrive(now_us, request)
        if isinstance(answer, Refused):
            return self._refuse(request, answer)
        seat = _Seat(request, asyncio.get_running_loop().create_future(), arrival_steps(request, answer))
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
        for each in grants:
            live = self._live.get(each.grant_id)
            renewal = Renewal.UNKNOWN
            if live is not None:
                policy = self._pools[live.pool].policy
                renewal = policy.progress(now_us, live.request.request_id, each.output_tokens, each.ttft_ms)
            if renewal is Renewal.UNKNOWN:
                unknown.append(each.grant_id)
            elif renewal is Renewal.REVOKED:
                revoked.append(each.grant_id)
        return ProgressReply(tuple(unknown), tuple(revoked))

    async def settle(self, grant_id: str, settlement: Settlement) -> Settled | Refused:
        """End a grant. The same figures twice give the same answer."""
        live = self._live.get(grant_id)
        if live is None:
            return self._settled_before(grant_id, settlement)
        pool = self._pools[live.pool]
        now_us = self._now_us()
        self._watch_connects(pool, live, settlement)
        # An edge counts from the arrival at its own door; what the engine took is no longer than the grant was held.
        counted = replace(settlement, total_ms=min(settlement.total_ms, (now_us - live.granted_us) // 1_000))
        settled = pool.policy.settle(now_us, live.request.request_id, counted)
        self._forget(live, settlement, settled)
        self._pump(pool, now_us)
        if settled is None:
            return _refused("grant_unknown")
        if self._observer is not None:
            self._observer.settled(
                live.request,
                counted,
                waited_ms=live.waited_ms,
                in_slo=settled.in_slo,
                wasted_tokens=settled.wasted_tokens,
            )
        return settled

    async def cancel(self, request_id: str) -> None:
        """Give a held seat back; a no-op for an unknown or a granted request."""
        for pool in self._pools.values():
            if pool.policy.cancel(request_id) is Phase.QUEUED:
                seat = pool.seats.pop(request_id)
                seat.answer.cancel()

    async def adopt(self, worker: str, grants: Sequence[AdoptedGrant]) -> AdoptReply:
        """Take over the grants that `worker` still uses; they count against the slots from now on."""
        del worker
        now_us = self._now_us()
        rejected = [each.grant_id for each in grants if not self._adopt_one(now_us, each)]
        self._work_pending.set()
        return AdoptReply(len(grants) - len(rejected), tuple(rejected))

    def engine_changed(self, pool_name: str, state: EngineState) -> None:
        """Note what the watch found out about an engine."""
        pool = self._pools[pool_name]
        if state.condition is EngineCondition.READY:
            self.acquit(pool_name, state.engine_id)
        self._answer(pool, pool.policy.engine_changed(state))
        self._pump(pool, self._now_us())

    def drain(self) -> None:
        """Grant nothing more; what waits is refused with `pool_draining`."""
        for pool in self._pools.values():
            self._answer(pool, pool.policy.drain(is_draining=True))

    def run_once(self) -> None:
        """End the seats and leases whose time is over, and grant what that frees."""
        now_us = self._now_us()
        for pool in self._pools.values():
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

    def pool_names(self) -> tuple[str, ...]:
        """Return the pools that exist."""
        return tuple(sorted(self._pools))

    def engines(self, pool_name: str) -> list[EngineState]:
        """Return the engines of a pool."""
        return self._pools[pool_name].policy.engines()

    def is_suspect(self, pool_name: str, engine_id: str) -> bool:
        """Return whether so many grants in a row ended without a byte that the engine has to prove itself.

        It is not down yet: requests that no engine would answer look the same, and nobody may take an engine away
        from others by sending three of them.
        """
        return self._pools[pool_name].connect_errors.get(engine_id, 0) >= self._config.connect_errors_max

    def slots_of(self, pool_name: str, engine_id: str) -> tuple[int, int]:
        """Return how many slots of an engine grants use, and how many it has."""
        engines = self._pools[pool_name].policy.statistics().engines
        engine = next(each for each in engines if each.state.engine_id == engine_id)
        return engine.granted, engine.state.slots

    def acquit(self, pool_name: str, engine_id: str) -> None:
        """Note that a suspect has proved itself."""
        self._pools[pool_name].connect_errors.pop(engine_id, None)

    def statistics(self, pool_name: str) -> PoolStatistics | None:
        """Return a pool's figures; None for an unknown pool."""
        pool = self._pools.get(pool_name)
        return None if pool is None else pool.policy.statistics()

    def _pump(self, pool: _Pool, now_us: int) -> None:
        for grant in pool.policy.next_grants(now_us):
            seat = pool.seats.pop(grant.request.request_id)
            grant_id = format_id("gnt", self._ids.new())
            self._open(_Live(pool.spec.name, grant.request, grant_id, grant.granted_us, grant.queue_wait_ms))
            if self._observer is not None:
                self._observer.granted(grant)
            seat.decision.append(granted_step(grant))
            granted = Granted(
                grant_id=grant_id,
                engine_id=grant.engine.engine_id,
                engine_url=grant.engine.url,
                engine_model=grant.engine.model,
                expires_in_ms=round(self._config.lease_s * 1_000),
                queue_wait_ms=grant.queue_wait_ms,
                predicted=grant.predicted,
                promise=PROMISE,
                decision=tuple(seat.decision),
            )
            seat.answer.set_result(granted)

    def _open(self, live: _Live) -> None:
        self._live[live.grant_id] = live
        self._grant_of[live.request.request_id] = live.grant_id

    def _lose(self, live: _Live) -> None:
        self._forget(live, None, None)
        _log.info("grant.lost", grant=live.grant_id, request=live.request.request_id, pool=live.pool)
        if self._observer is not None:
            self._observer.lost(live.request)

    def _forget(self, live: _Live, settlement: Settlement | None, settled: Settled | None) -> None:
        del self._live[live.grant_id]
        del self._grant_of[live.request.request_id]
        self._settled[live.grant_id] = (settlement, settled)
        while len(self._settled) > self._config.settled_kept_max:
            self._settled.popitem(last=False)

    def _settled_before(self, grant_id: str, settlement: Settlement) -> Settled | Refused:
        if grant_id not in self._settled:
            return _refused("grant_unknown")
        former, settled = self._settled[grant_id]
        return settled if settled is not None and former == settlement else _refused("grant_settled")

    def _abandon(self, pool: _Pool, request_id: str, seat: _Seat) -> None:
        """The caller is gone: the seat goes back, and so does a grant that came in the same moment."""
        pool.seats.pop(request_id, None)
        if pool.policy.cancel(request_id) is not Phase.GRANTED or not seat.answer.done() or seat.answer.cancelled():
            return
        answer = seat.answer.result()
        if isinstance(answer, Granted) and answer.grant_id in self._live:
            unused = Settlement(SettleOutcome.UNUSED, 0, 0, 0, None, 0)
            settled = pool.policy.settle(self._now_us(), request_id, unused)
            self._forget(self._live[answer.grant_id], unused, settled)
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
        self._open(_Live(grant.request.pool, grant.request, grant.grant_id, now_us - grant.age_ms * 1_000, waited_ms=0))
        return True

    def _watch_connects(self, pool: _Pool, live: _Live, settlement: Settlement) -> None:
        """Count grants in a row that ended without a byte from their engine."""
        engine = pool.policy.engine_of(live.request.request_id)
        if engine is None or settlement.outcome in {SettleOutcome.UNUSED, SettleOutcome.CLIENT_GONE}:
            return
        is_silent = settlement.outcome is not SettleOutcome.OK and settlement.ttft_ms is None
        errors = pool.connect_errors.get(engine.engine_id, 0) + 1 if is_silent else 0
        pool.connect_errors[engine.engine_id] = errors

    def _answer(self, pool: _Pool, refused: Iterable[tuple[str, Refused]]) -> None:
        for request_id, refusal in refused:
            seat = pool.seats.pop(request_id, None)
            if seat is not None and not seat.answer.done():
                seat.answer.set_result(self._refuse(seat.request, refusal))

    def _refuse(self, request: GrantRequest, refusal: Refused) -> Refused:
        """Add the wall time of the retry, which the core does not know."""
        if self._observer is not None:
            self._observer.refused(request, refusal.code)
        if refusal.retry_after_s is None:
            return refusal
        retry_at = rfc3339(self._clock.now_us() + round(refusal.retry_after_s * 1_000_000))
        return replace(refusal, detail={**refusal.detail, "retry_at": retry_at})

    def _now_us(self) -> int:
        return round(self._clock.monotonic() * 1_000_000)


def engine_id(pool_name: str, url: str) -> str:
    """Return the id of an engine: the same after every start, so that a new leader can adopt its grants."""
    digest = hashlib.sha256(f"{pool_name}\n{url}".encode()).digest()
    return format_id("eng", UUID(bytes=digest[:16]))


def _rules(spec: PoolSpec, config: SchedulerConfig) -> PoolRules:
    return PoolRules(
        name=spec.name,
        objectives=spec.objectives,
        queue_seats_max=config.queue_seats_max,
        tenant_seats_max=max(1, int(config.queue_seats_max * config.tenant_seat_share)),
        queue_wait_factor=config.queue_wait_factor,
        lease_us=round(config.lease_s * 1_000_000),
    )


def _refused(code: str, **detail: Any) -> Refused:
    spec = ERRORS[code]
    return Refused(code, spec.http_status, spec.retry_after_s, spec.message, detail)
