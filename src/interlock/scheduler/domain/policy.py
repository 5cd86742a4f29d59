"""The policy core of one pool: arrival order, slots as credit, a queue bounded in time and in seats.

Holds no clock and does no I/O: every call gets `now_us`, so the same calls give the same answers.
"""

import heapq
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

from interlock.contracts.scheduling import AdoptedGrant, GrantRequest, Predicted, Refused, Settled, Settlement
from interlock.foundation.ids import OrganizationId
from interlock.scheduler.domain.books import Books, Running, objective_of, time_per_output_token_ms
from interlock.scheduler.domain.estimate import Mean
from interlock.scheduler.domain.refusals import refusal
from interlock.scheduler.domain.types import (
    EngineCondition,
    EngineState,
    EngineStatistics,
    Expired,
    Grant,
    Phase,
    PoolRules,
    PoolStatistics,
    Queued,
    Renewal,
    TenantStatistics,
)

_SERVABLE: Final = frozenset({EngineCondition.READY, EngineCondition.STARTING})


@dataclass(slots=True)
class _Waiting:
    request: GrantRequest
    arrived_us: int
    expires_us: int
    position: int
    predicted: Predicted


@dataclass(slots=True)
class _Engine:
    state: EngineState
    granted: int = 0
    ttft_ms: Mean = field(default_factory=Mean)
    tpot_ms: Mean = field(default_factory=Mean)

    @property
    def credit(self) -> int:
        if self.state.condition is not EngineCondition.READY:
            return 0
        return max(0, self.state.slots - self.granted)

    def fits(self, request: GrantRequest) -> bool:
        return request.input_tokens < self.state.context_tokens


class Policy:
    """One pool. A request waits, then runs, then is gone; it is never in two of these."""

    def __init__(self, rules: PoolRules) -> None:
        self._rules = rules
        self._queue: OrderedDict[str, _Waiting] = OrderedDict()
        self._expiries: list[tuple[int, int, str]] = []
        self._running: dict[str, Running] = {}
        self._engines: dict[str, _Engine] = {}
        self._tenant_queued: Counter[OrganizationId] = Counter()
        self._tenant_granted: Counter[OrganizationId] = Counter()
        self._queued_tokens = 0
        self._is_draining = False
        self._service_ms = Mean()
        self._books = Books(rules)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs, so that no deadline is pending."""
        return not self._queue and not self._running

    def arrive(self, now_us: int, request: GrantRequest) -> Queued | Refused:
        """Give a seat, or refuse at once. A seat becomes a grant in `next_grants`."""
        self._books.arrived += 1
        predicted = self._predict()
        code = self._objection(request, predicted)
        if code is not None:
            return self._refuse(code, request, predicted)
        wait_ms = round(objective_of(self._rules, request).ttft_ms * self._rules.queue_wait_factor)
        if request.deadline_ms is not None:
            wait_ms = min(wait_ms, request.deadline_ms)
        waiting = _Waiting(request, now_us, now_us + wait_ms * 1_000, len(self._queue) + 1, predicted)
        self._queue[request.request_id] = waiting
        heapq.heappush(self._expiries, (waiting.expires_us, self._books.arrived, request.request_id))
        self._tenant_queued[request.organization_id] += 1
        self._queued_tokens += request.input_tokens
        return Queued(waiting.position, waiting.expires_us, predicted)

    def next_grants(self, now_us: int) -> list[Grant]:
        """Grant the oldest seats while an engine that fits the oldest has credit. Call `expire` before it."""
        grants: list[Grant] = []
        while self._queue and not self._is_draining:
            waiting = next(iter(self._queue.values()))
            engine = self._pick(waiting.request)
            if engine is None:
                break
            self._unseat(waiting)
            running = Running(
                waiting.request,
                engine.state.engine_id,
                granted_us=now_us,
                waited_us=now_us - waiting.arrived_us,
                lease_until_us=now_us + self._rules.lease_us,
            )
            self._start(running, engine)
            self._books.grants += 1
            grants.append(
                Grant(waiting.request, engine.state, waiting.arrived_us, now_us, waiting.position, waiting.predicted)
            )
        return grants

    def expire(self, now_us: int) -> Expired:
        """Refuse the seats whose time is over and write off the grants that nobody renewed."""
        refused: list[tuple[str, Refused]] = []
        while self._expiries and self._expiries[0][0] <= now_us:
            expires_us, _, request_id = heapq.heappop(self._expiries)
            waiting = self._queue.get(request_id)
            if waiting is None or waiting.expires_us != expires_us:
                continue
            self._unseat(waiting)
            is_deadline = waiting.request.deadline_ms == (expires_us - waiting.arrived_us) // 1_000
            code = "deadline_infeasible" if is_deadline else "queue_time_exceeded"
            refused.append((request_id, self._refuse(code, waiting.request, waiting.predicted)))
        lost = [request_id for request_id, each in self._running.items() if each.lease_until_us <= now_us]
        for request_id in lost:
            self._books.lose(self._finish(request_id))
        return Expired(tuple(refused), tuple(lost))

    def progress(self, now_us: int, request_id: str, output_tokens: int, ttft_ms: int | None) -> Renewal:
        """Renew a lease. A revoked grant keeps its slot until it is settled or its lease ends."""
        running = self._running.get(request_id)
        if running is None:
            return Renewal.UNKNOWN
        running.output_tokens = max(running.output_tokens, output_tokens)
        if running.ttft_ms is None and ttft_ms is not None:
            running.ttft_ms = ttft_ms
            self._engines[running.engine_id].ttft_ms.add(ttft_ms)
        if running.is_revoked:
            return Renewal.REVOKED
        running.lease_until_us = now_us + self._rules.lease_us
        return Renewal.RENEWED

    def settle(self, now_us: int, request_id: str, settlement: Settlement) -> Settled | None:
        """End a grant and charge it; None for a request that has none."""
        if request_id not in self._running:
            return None
        running = self._finish(request_id)
        settled = self._books.settle(running, settlement)
        self._service_ms.add((now_us - running.granted_us) / 1_000)
        engine = self._engines[running.engine_id]
        if running.ttft_ms is None and settlement.ttft_ms is not None:
            engine.ttft_ms.add(settlement.ttft_ms)
        tpot_ms = time_per_output_token_ms(settlement, settlement.output_tokens)
        if tpot_ms is not None:
            engine.tpot_ms.add(tpot_ms)
        return settled

    def cancel(self, request_id: str) -> Phase | None:
        """Give a seat back. A granted request is told apart and left alone: its grant has to be settled."""
        waiting = self._queue.get(request_id)
        if waiting is not None:
            self._unseat(waiting)
            self._books.canceled += 1
            return Phase.QUEUED
        return Phase.GRANTED if request_id in self._running else None

    def adopt(self, now_us: int, grant: AdoptedGrant) -> bool:
        """Take over a running grant of a former leader; False when its engine is gone or the request is live."""
        request_id = grant.request.request_id
        engine = self._engines.get(grant.engine_id)
        if engine is None or engine.state.condition is EngineCondition.DOWN:
            return False
        if request_id in self._running or request_id in self._queue:
            return False
        running = Running(
            grant.request,
            grant.engine_id,
            granted_us=now_us - grant.age_ms * 1_000,
            waited_us=0,
            lease_until_us=now_us + self._rules.lease_us,
            output_tokens=grant.output_tokens,
        )
        self._start(running, engine)
        return True

    def engine_changed(self, state: EngineState) -> list[tuple[str, Refused]]:
        """Note an engine's state. An engine that goes down revokes its grants; seats that none can serve end."""
        engine = self._engines.get(state.engine_id)
        if engine is None:
            engine = self._engines[state.engine_id] = _Engine(state)
        engine.state = state
        if state.condition is EngineCondition.DOWN:
            for running in self._running.values():
                running.is_revoked = running.is_revoked or running.engine_id == state.engine_id
        return self._refuse_stranded()

    def drain(self, *, is_draining: bool) -> list[tuple[str, Refused]]:
        """Stop or resume granting; what waits is refused, what runs goes on."""
        self._is_draining = is_draining
        if not is_draining:
            return []
        return [self._strand(waiting, "pool_draining") for waiting in list(self._queue.values())]

    def engines(self) -> list[EngineState]:
        """Return all engines by id."""
        return [self._engines[engine_id].state for engine_id in sorted(self._engines)]

    def engine_of(self, request_id: str) -> EngineState | None:
        """Return the engine that a granted request runs on."""
        running = self._running.get(request_id)
        return None if running is None else self._engines[running.engine_id].state

    def statistics(self) -> PoolStatistics:
        """Return what the pool holds and has done."""
        books = self._books
        engines = [self._engines[engine_id] for engine_id in sorted(self._engines)]
        tenants = sorted(set(self._tenant_queued) | set(self._tenant_granted))
        return PoolStatistics(
            name=self._rules.name,
            is_draining=self._is_draining,
            queued=len(self._queue),
            queued_tokens=self._queued_tokens,
            granted=len(self._running),
            slots=sum(each.state.slots for each in engines if each.state.condition is EngineCondition.READY),
            queue_seats_max=self._rules.queue_seats_max,
            tenant_seats_max=self._rules.tenant_seats_max,
            engines=tuple(
                EngineStatistics(each.state, each.granted, each.ttft_ms.rounded, each.tpot_ms.rounded)
                for each in engines
            ),
            tenants=tuple(
                TenantStatistics(each, self._tenant_queued[each], self._tenant_granted[each]) for each in tenants
            ),
            arrived=books.arrived,
            grants=books.grants,
            settled=books.settled,
            in_slo=books.in_slo,
            lost=books.lost,
            canceled=books.canceled,
            refused=dict(books.refused),
            settle_mismatch=books.settle_mismatch,
            engine_overrun=books.engine_overrun,
            wasted_tokens=books.wasted_tokens,
        )

    def _objection(self, request: GrantRequest, predicted: Predicted) -> str | None:
        """Return the code of the first rule that stands against a seat."""
        seats = self._tenant_queued[request.organization_id]
        is_fitting = not self._engines or any(engine.fits(request) for engine in self._engines.values())
        least_ms = predicted.ttft_ms
        rules = (
            ("grant_exists", request.request_id in self._queue or request.request_id in self._running),
            ("pool_draining", self._is_draining),
            ("request_exceeds_engine", not is_fitting),
            ("no_capacity", not self._is_servable(request)),
            # What the engine alone takes is the least that this request can take, so it needs no look at the queue.
            (
                "deadline_infeasible",
                request.deadline_ms is not None and least_ms is not None and request.deadline_ms <= least_ms,
            ),
            ("tenant_queue_full", seats >= self._rules.tenant_seats_max),
            ("overloaded", len(self._queue) >= self._rules.queue_seats_max),
        )
        return next((code for code, is_against in rules if is_against), None)

    def _is_servable(self, request: GrantRequest) -> bool:
        """Return whether an engine serves this request, or is about to: a starting one is decided on within moments."""
        return any(each.state.condition in _SERVABLE and each.fits(request) for each in self._engines.values())

    def _pick(self, request: GrantRequest) -> _Engine | None:
        """Return the engine with the fewest grants of those with credit and room, ties by id."""
        open_engines = [each for each in self._engines.values() if each.credit and each.fits(request)]
        return min(open_engines, key=lambda each: (each.granted, each.state.engine_id), default=None)

    def _predict(self) -> Predicted:
        """Return what was seen of the ready engine with the fewest grants; unknown figures are None."""
        ready = [each for each in self._engines.values() if each.state.condition is EngineCondition.READY]
        best = min(ready, key=lambda each: (each.granted, each.state.engine_id), default=None)
        if best is None:
            return Predicted(None, None, None, None)
        return Predicted(best.ttft_ms.rounded, best.tpot_ms.rounded, None, None)

    def _start(self, running: Running, engine: _Engine) -> None:
        self._running[running.request.request_id] = running
        self._tenant_granted[running.request.organization_id] += 1
        engine.granted += 1

    def _finish(self, request_id: str) -> Running:
        running = self._running.pop(request_id)
        self._engines[running.engine_id].granted -= 1
        _decrease(self._tenant_granted, running.request.organization_id)
        return running

    def _unseat(self, waiting: _Waiting) -> None:
        del self._queue[waiting.request.request_id]
        self._queued_tokens -= waiting.request.input_tokens
        _decrease(self._tenant_queued, waiting.request.organization_id)
        # Seats that ended early leave their expiry behind; the heap is rebuilt before it outgrows the queue.
        if len(self._expiries) > 2 * len(self._queue) + 64:
            self._expiries = [each for each in self._expiries if each[2] in self._queue]
            heapq.heapify(self._expiries)

    def _refuse_stranded(self) -> list[tuple[str, Refused]]:
        stranded = [each for each in self._queue.values() if not self._is_servable(each.request)]
        return [self._strand(waiting, "no_capacity") for waiting in stranded]

    def _strand(self, waiting: _Waiting, code: str) -> tuple[str, Refused]:
        self._unseat(waiting)
        return waiting.request.request_id, self._refuse(code, waiting.request, waiting.predicted)

    def _refuse(self, code: str, request: GrantRequest, predicted: Predicted) -> Refused:
        self._books.refused[code] += 1
        figures: dict[str, Any] = {
            "predicted_ttft_ms": predicted.ttft_ms,
            "ttft_slo_ms": objective_of(self._rules, request).ttft_ms,
            "queued": len(self._queue),
            "tenant": {
                "queued": self._tenant_queued[request.organization_id],
                "granted": self._tenant_granted[request.organization_id],
            },
        }
        if code == "request_exceeds_engine":
            figures["input_tokens"] = request.input_tokens
            figures["context_tokens"] = max(each.state.context_tokens for each in self._engines.values())
        return refusal(code, request, figures, self._drain_s())

    def _drain_s(self) -> float | None:
        """Return the seconds after which the queue as it stands should be empty; None before any service."""
        slots = sum(
            each.state.slots for each in self._engines.values() if each.state.condition is EngineCondition.READY
        )
        if self._service_ms.value is None or not slots:
            return None
        return (len(self._queue) + 1) * self._service_ms.value / 1_000 / slots


def _decrease(counter: Counter[OrganizationId], key: OrganizationId) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
