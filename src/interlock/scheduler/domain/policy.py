"""The policy core of one pool: who waits, who gives way, who is granted which engine, and what it came to.

The same order that the simulator runs decides here. Holds no clock and does no I/O: every call gets `now_us`, so the
same calls give the same answers, which `decisions.py` proves from a recorded log.
"""

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from interlock.contracts.scheduling import AdoptedGrant, GrantRequest, Predicted, Refused, Settled, Settlement
from interlock.contracts.scheduling import SettleOutcome as Ended
from interlock.scheduler.domain.asks import CLASSES, Ask, Fate, Order, Room, Take, Verdict
from interlock.scheduler.domain.books import Books, objective_of, path_of, time_per_output_token_ms
from interlock.scheduler.domain.checkpoint import kept_of, recall_into
from interlock.scheduler.domain.fleet import Choice, Fleet, Offer, take_of
from interlock.scheduler.domain.holding import hold_engines, late_verdict
from interlock.scheduler.domain.learning import note_output, note_silence, note_stream, note_whole
from interlock.scheduler.domain.length import LengthBook, Lengths
from interlock.scheduler.domain.orders import build_order
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.rates import Rates
from interlock.scheduler.domain.refusing import objection, refused, refused_again
from interlock.scheduler.domain.replicas import Replica, Running, blocks
from interlock.scheduler.domain.retries import RetryBook
from interlock.scheduler.domain.served import Served
from interlock.scheduler.domain.share import Path, Standing
from interlock.scheduler.domain.steptime import Residuals
from interlock.scheduler.domain.turns import SeatBook
from interlock.scheduler.domain.types import (
    Arrival,
    EngineCondition,
    EngineState,
    Expired,
    Grant,
    Phase,
    PoolRules,
    PoolStatistics,
    Queued,
    Renewal,
)
from interlock.scheduler.domain.views import statistics_of

_MICRO: Final = 1_000_000
KV_OPEN: Final = 1 << 50
_GRANTS_MAX: Final = 1 << 30
_SHARES_SWEEP_US: Final = 10 * _MICRO
# What a plan may at most keep back of a promise because predictions came too early.
MARGIN_SHARE_MAX: Final = 0.25
_CAPACITY_GUESS_US: Final = 5 * _MICRO
_CODES: Final = {Fate.QUEUE_FULL: "overloaded"}


@dataclass(slots=True)
class Waiting:
    """A seat: the request, what the order knows of it, and what it was told."""

    request: GrantRequest
    ask: Ask
    lengths: Lengths
    position: int
    predicted: Predicted
    first_us: int | None
    promise: str


class Policy:
    """One pool. A request waits, then runs, then is gone; it is never in two of these."""

    def __init__(self, rules: PoolRules, weights: Mapping[str, float] | None = None) -> None:
        self.rules = rules
        self.fleet = Fleet()
        self.books = Books(rules)
        self.lengths = LengthBook()
        self.retries = RetryBook()
        self.served = Served()
        self.residuals = Residuals()
        self.seats = SeatBook()
        tightest_us = min(each.ttft_us for each in rules.classes.values())
        self.rates = Rates(1.0, 1.3, tightest_us=tightest_us, guess_us=_CAPACITY_GUESS_US)
        self.weights = dict(weights or {})
        self.order: Order = build_order(rules, self.rates, self.weights)
        self.is_draining = False
        self.waiting: dict[str, Waiting] = {}
        self.running: dict[str, Running] = {}
        self.running_of: Counter[str] = Counter()
        self._names: dict[int, str] = {}
        self._bounds: list[tuple[int, int, Fate]] = []
        self._seen = 0
        # The waits for seats in use, until something that runs changes.
        self._seat_waits: tuple[int, ...] | None = None
        self._sweep_at_us = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs, so that no deadline is pending."""
        return not self.waiting and not self.running

    def arrive(self, now_us: int, request: GrantRequest) -> Arrival:
        """Queue, or refuse at once; somebody over its share may give way. A seat becomes a grant in `next_grants`."""
        self.books.arrived += 1
        self._advance(now_us)
        code = objection(self, request)
        if code is not None:
            return Arrival(refused(self, code, now_us, request, None))
        told = self.retries.early(now_us, request.request_id)
        if told is not None:
            return Arrival(refused_again(self, now_us, request, told))
        lengths = self.lengths.expect(length_key(request), request.max_tokens)
        cached, alone_us = self.fleet.soonest(now_us, request, by_prefix=self.rules.routes_by_prefix)
        ask = self._ask(now_us, request, lengths, cached)
        hold_engines(self, now_us, request.service_class)
        room = self._room(now_us)
        kept = None if ask.is_repeat else self.retries.kept(now_us)
        if kept is not None:
            room = replace(room, kept=kept)
        first_us = now_us + alone_us + round(room.prefill_left * _MICRO / self.rates.rho)
        verdict = late_verdict(self, now_us, request, ask, first_us)
        if verdict is not None:
            return Arrival(refused(self, _code(verdict), now_us, request, (verdict, ask, room)))
        return self._planned(now_us, request, (ask, lengths), room)

    def next_grants(self, now_us: int) -> list[Grant]:
        """Grant in order while an engine has credit that can take who is first. Call `expire` before it."""
        return self._granted(now_us, _GRANTS_MAX)

    def _granted(self, now_us: int, at_most: int) -> list[Grant]:
        self._advance(now_us)
        grants: list[Grant] = []
        while self.waiting and not self.is_draining and len(grants) < at_most:
            given = self.fleet.open(now_us, self.rates.tightest_us, has_credits=self.order.has_credits)
            if not given:
                break
            chosen: list[Choice] = []

            def may_take(ask: Ask, given: list[Replica] = given, chosen: list[Choice] = chosen) -> Take:
                choice = self._choose(now_us, ask, given)
                chosen[:] = [] if choice is None else [choice]
                return take_of(choice)

            least = min(each.prefill_left(now_us) for each in given)
            seats = sum(each.seats for each in given)
            room = self._room(now_us)
            room = Room(seats, least, KV_OPEN, room.seat_waits_us, room.hold_us)
            ask = self.order.next_grant(now_us, room, may_take)
            if ask is None:
                break
            grants.append(self._grant(now_us, ask, chosen[0]))
        return grants

    def opens_in_us(self, now_us: int) -> int | None:
        """Return after how long what waits may be granted though nothing happens until then; None where that is moot.

        Prompts are read while nobody reports it, so credit comes back between two events.
        """
        if not self.waiting or self.is_draining or not self.order.has_credits:
            return None
        return self.fleet.opens_in_us(now_us, self.rates.tightest_us)

    def expire(self, now_us: int) -> Expired:
        """Refuse the seats whose time is over and write off the grants that nobody renewed."""
        self._advance(now_us)
        for replica in self.fleet.sorted():
            replica.meter.advance(now_us)
        refused = [self._end_seat(now_us, each) for each in self.order.expire(now_us)]
        while self._bounds and self._bounds[0][0] <= now_us:
            _, key, fate = heapq.heappop(self._bounds)
            if key in self._names:
                self.order.withdraw(key)
                refused.append(self._end_seat(now_us, Verdict(key, fate)))
        lost = [request_id for request_id, each in self.running.items() if each.lease_until_us <= now_us]
        for request_id in lost:
            self.books.lose(running := self.running[request_id])
            self._finish(now_us, request_id)
            self.order.settled(now_us, running.ask, running.output_tokens)
        if now_us >= self._sweep_at_us:
            self._sweep_at_us = now_us + _SHARES_SWEEP_US
            self.fleet.sweep()
            if isinstance(self.order, PromiseOrder):
                self.order.shares.forget(now_us)
        return Expired(tuple(refused), tuple(lost))

    def progress(self, now_us: int, request_id: str, output_tokens: int, ttft_ms: int | None) -> Renewal:
        """Renew a lease. A revoked grant keeps its slot until it is settled or its lease ends."""
        running = self.running.get(request_id)
        if running is None:
            return Renewal.UNKNOWN
        self._advance(now_us)
        self._seat_waits = None
        note_output(self, now_us, running, output_tokens, ttft_ms)
        note_stream(self, now_us, running, output_tokens, is_ended=False)
        if running.is_revoked:
            return Renewal.REVOKED
        running.lease_until_us = now_us + self.rules.lease_us
        return Renewal.RENEWED

    def settle(self, now_us: int, request_id: str, settlement: Settlement) -> Settled | None:
        """End a grant, charge it and learn from it; None for a request that has none."""
        running = self.running.get(request_id)
        if running is None:
            return None
        self._advance(now_us)
        note_output(self, now_us, running, settlement.output_tokens, settlement.ttft_ms)
        note_stream(self, now_us, running, settlement.output_tokens, is_ended=True)
        if running.ttft_ms is None and settlement.outcome is Ended.OK:
            note_whole(self, now_us, running, settlement.output_tokens)
        note_silence(self, now_us, running, settlement.outcome)
        settled = self.books.settle(running, settlement, self._finish(now_us, request_id))
        output = max(settlement.output_tokens, running.output_tokens)
        read = max(0, settlement.input_tokens - settlement.cached_input_tokens)
        if settlement.outcome is Ended.UNUSED:
            self.order.settled(now_us, running.ask, 0, 0)
            return settled
        self.seats.held(now_us - running.granted_us)
        # A call that failed or was left before it was read says nothing of its prompt but what was not used.
        self.order.settled(now_us, running.ask, output, read)
        if settlement.outcome is Ended.OK and output:
            self.lengths.learn(length_key(running.request), output)
            self.seats.ended(running.ask.output, output)
        replica = self.fleet.replicas.get(running.engine_id)
        tpot_ms = time_per_output_token_ms(settlement, output)
        if replica is not None and tpot_ms is not None:
            replica.learn_tpot(tpot_ms)
        return settled

    def cancel(self, now_us: int, request_id: str) -> Phase | None:
        """Give a seat back. A granted request is told apart and left alone: its grant has to be settled."""
        waiting = self.waiting.get(request_id)
        if waiting is not None:
            self._advance(now_us)
            self.order.withdraw(waiting.ask.key)
            self._drop(request_id)
            self.books.canceled += 1
            return Phase.QUEUED
        return Phase.GRANTED if request_id in self.running else None

    def adopt(self, now_us: int, grant: AdoptedGrant) -> bool:
        """Take over a running grant of a former leader; False when its engine is gone or the request is live."""
        request = grant.request
        replica = self.fleet.replicas.get(grant.engine_id)
        if replica is None or replica.state.condition is EngineCondition.DOWN:
            return False
        if request.request_id in self.running or request.request_id in self.waiting:
            return False
        self._advance(now_us)
        lengths = self.lengths.expect(length_key(request), request.max_tokens)
        running = _adopted(grant, self._ask(now_us, request, lengths, 0), lengths, now_us + self.rules.lease_us, now_us)
        self._run(running)
        self.order.adopted(now_us, running.ask)
        replica.start(running, now_us)
        return True

    def engine_changed(self, now_us: int, state: EngineState) -> list[tuple[str, Refused]]:
        """Note an engine's state. An engine that goes down revokes its grants; seats that none can serve end."""
        self._advance(now_us)
        had_ready = bool(self.fleet.ready())
        self._seat_waits = None
        self.fleet.change(state)
        if not had_ready:
            self.rates.capacity, self.rates.measured_us = self.fleet.capacity(), 0
        if state.condition is EngineCondition.DOWN:
            for running in self.running.values():
                running.is_revoked = running.is_revoked or running.engine_id == state.engine_id
        return self._strand(now_us, "no_capacity")

    def engine_removed(self, now_us: int, engine_id: str) -> list[tuple[str, Refused]]:
        """Take an engine out of the pool: no new grants, what runs on it goes on."""
        self._advance(now_us)
        self._seat_waits = None
        self.fleet.remove(engine_id)
        return self._strand(now_us, "no_capacity")

    def engine_scraped(self, now_us: int, engine_id: str, others: int, kv_share: float) -> None:
        """Note what the believed gauges of an engine add to our own account of it."""
        self._advance(now_us)
        replica = self.fleet.replicas.get(engine_id)
        if replica is not None:
            replica.others, replica.kv_share = max(0, others), kv_share

    def engine_paced(self, now_us: int, engine_id: str, tokens: int, took_us: int) -> None:
        """Note how fast an engine read a prompt before it got work; what it does later says more."""
        self._advance(now_us)
        replica = self.fleet.replicas.get(engine_id)
        if replica is not None:
            replica.paced(tokens, took_us)

    def drain(self, now_us: int, *, is_draining: bool) -> list[tuple[str, Refused]]:
        """Stop or resume granting; what waits is refused, what runs goes on."""
        self.is_draining = is_draining
        return self._strand(now_us, "pool_draining") if is_draining else []

    def configure(self, now_us: int, rules: PoolRules, weights: Mapping[str, float]) -> list[tuple[str, Refused]]:
        """Take other rules and weights. Who waits is offered to the new order again, and may be refused by it."""
        self._advance(now_us)
        is_same_order = replace(rules, lease_us=self.rules.lease_us) == self.rules
        self.rules, self.books.rules, self.weights = rules, rules, dict(weights)
        if is_same_order:
            if isinstance(self.order, PromiseOrder):
                self.order.shares.reweigh(self.weights)
            return []
        self.rates.tightest_us = min(each.ttft_us for each in rules.classes.values())
        self.order = build_order(rules, self.rates, self.weights)
        for running in self.running.values():
            self.order.adopted(now_us, running.ask)
        waiting, self.waiting, self._names = list(self.waiting.values()), {}, {}
        ended: dict[str, Refused] = {}
        for each in waiting:
            ask = replace(each.ask, ttft_us=_due_in_us(self, each.request, each.lengths), is_repeat=True)
            arrival = self._planned(now_us, each.request, (ask, each.lengths), self._room(now_us))
            ended.update(arrival.displaced)
            if isinstance(arrival.outcome, Refused):
                ended[each.request.request_id] = arrival.outcome
        return list(ended.items())

    def keep(self) -> dict[str, Any]:
        """Return what a new leader should know at once: speeds, lengths, demand and debt."""
        return kept_of(self)

    def recall(self, now_us: int, kept: Mapping[str, Any]) -> None:
        """Take what a former leader kept."""
        recall_into(self, now_us, kept)

    def statistics(self, now_us: int | None = None) -> PoolStatistics:
        """Return what the pool holds and has done; with a time also where tenants stand. Decides nothing."""
        return statistics_of(self, now_us)

    def standing(self, now_us: int, path: Path) -> Standing | None:
        """Return where a tenant stands; None where the order knows no shares."""
        if not isinstance(self.order, PromiseOrder):
            return None
        return self.order.shares.standing(now_us, path, self.rates.capacity)

    def _advance(self, now_us: int) -> None:
        """Let time pass for what is measured by it: the speed of the engines, and what they serve while others wait."""
        self.rates.replicas = max(1, len(self.fleet.ready()))
        # Settlements come a moment after the answers; what counts is that nobody's prompt is before the next one.
        is_free = not self.waiting and not self.fleet.prefill_left(now_us)
        self.rates.rho = self.fleet.rho(is_idle=is_free)
        seen = self.served.advance(now_us, self.rates.replicas, is_backlogged=bool(self.waiting))
        if seen is not None:
            self.order.stepped(now_us, seen)
        if not self.rates.measured_us:
            self.rates.capacity = self.fleet.capacity()
        hold_engines(self, now_us)

    def _ask(self, now_us: int, request: GrantRequest, lengths: Lengths, cached: int) -> Ask:
        self._seen += 1
        return Ask(
            key=self._seen,
            path=path_of(request),
            service_class=request.service_class,
            arrived_us=now_us,
            ttft_us=_due_in_us(self, request, lengths),
            prefill=max(1, request.input_tokens - cached),
            output=lengths.p50,
            is_repeat=self.retries.is_known(request.request_id),
        )

    def _room(self, now_us: int) -> Room:
        if len(self.waiting) < self.fleet.seats():
            return self.fleet.room(now_us, (), 0)
        if self._seat_waits is None:
            self._seat_waits = self.seats.waits_us(self.fleet.decoding(self.running.values()))
        # Who runs on an engine that is held to fewer sequences leaves no seat before it is down to those.
        begin = max(0, min(self.fleet.crowd, len(self._seat_waits) - 1))
        return self.fleet.room(now_us, self._seat_waits[begin:], self.seats.hold_us)

    def _planned(self, now_us: int, request: GrantRequest, asked: tuple[Ask, Lengths], room: Room) -> Arrival:
        ask, lengths = asked
        self._names[ask.key] = request.request_id
        verdicts = self.order.arrive(now_us, ask, room)
        [own] = [each for each in verdicts if each.key == ask.key]
        displaced = [self._end_seat(now_us, each) for each in verdicts if each.key != ask.key]
        self.books.displaced += len(displaced)
        if own.fate is not Fate.QUEUED:
            del self._names[ask.key]
            return Arrival(refused(self, _code(own), now_us, request, (own, ask, room)), tuple(displaced))
        self.retries.forget(request.request_id)
        best = min(self.fleet.ready(), key=lambda each: (each.granted, each.state.engine_id), default=None)
        ttft_ms = None if own.first_us is None else max(0, own.first_us - ask.arrived_us) // 1_000
        predicted = Predicted(
            ttft_ms, None if best is None else best.predicted_tpot_ms, lengths.p50, request.input_tokens - ask.prefill
        )
        promise = "final" if own.was_final or not isinstance(self.order, PromiseOrder) else "provisional"
        if promise == "provisional":
            self.retries.demote(ask.path)
        waiting = Waiting(request, ask, lengths, own.place + 1, predicted, own.first_us, promise)
        self.waiting[request.request_id] = waiting
        factor = 1 if promise == "provisional" else self.rules.queue_wait_factor
        expires_us = ask.arrived_us + round(ask.ttft_us * factor)
        if not isinstance(self.order, PromiseOrder):
            # The compared orders let everybody wait; no queue of a live pool is without an end.
            heapq.heappush(self._bounds, (expires_us, ask.key, Fate.QUEUE_TIME_EXCEEDED))
        if request.deadline_ms is not None:
            due_us = ask.arrived_us + request.deadline_ms * 1_000
            heapq.heappush(self._bounds, (due_us, ask.key, Fate.DEADLINE_INFEASIBLE))
        queued = Queued(
            position=waiting.position,
            expires_us=expires_us,
            predicted=predicted,
            promise=promise,
            tier=own.tier,
            margin_ms=self.residuals.margin_us // 1_000,
            standing=self.standing(now_us, ask.path),
        )
        return Arrival(queued, tuple(displaced))

    def _end_seat(self, now_us: int, verdict: Verdict) -> tuple[str, Refused]:
        """End a seat that gave way or waited too long."""
        waiting = self._drop(request_id := self._names[verdict.key])
        planned = (verdict, waiting.ask, self._room(now_us))
        return request_id, refused(self, _code(verdict), now_us, waiting.request, planned)

    def _strand(self, now_us: int, code: str) -> list[tuple[str, Refused]]:
        """End the seats that nobody can serve."""
        stranded = []
        for waiting in list(self.waiting.values()):
            if self.is_draining or not self.fleet.is_servable(waiting.request):
                self.order.withdraw(waiting.ask.key)
                self._drop(waiting.request.request_id)
                stranded.append((waiting.request.request_id, refused(self, code, now_us, waiting.request, None)))
        return stranded

    def _choose(self, now_us: int, ask: Ask, given: list[Replica]) -> Choice | None:
        """Return the engine for an ask. The last free seat of an engine is kept for what was promised."""
        waiting = self.waiting[self._names[ask.key]]
        is_promised = CLASSES[ask.service_class].is_promised
        if not is_promised:
            given = [each for each in given if each.seats > 1 or each.state.slots == 1]
        offer = Offer(
            given, by_prefix=self.rules.routes_by_prefix, may_wait=is_promised and isinstance(self.order, PromiseOrder)
        )
        reserve = blocks(waiting.request.input_tokens + waiting.lengths.p90)
        return self.fleet.pick(now_us, waiting.request, reserve, offer)

    def _grant(self, now_us: int, ask: Ask, choice: Choice) -> Grant:
        waiting = self._drop(self._names[ask.key])
        request, replica = waiting.request, choice.replica
        running = _started(waiting, choice, now_us, now_us + self.rules.lease_us)
        self._run(running)
        replica.start(running, now_us)
        self.books.grants += 1
        predicted = waiting.predicted
        if predicted.cached_input_tokens != choice.cached_tokens:
            predicted = replace(predicted, cached_input_tokens=choice.cached_tokens)
        error_us = self.retries.granted(request.request_id, now_us - ask.arrived_us)
        place = (ask.arrived_us, now_us, waiting.position)
        return Grant(request, replica.state, *place, predicted, waiting.promise, choice.reason, error_us)

    def _run(self, running: Running) -> None:
        self.running[running.request.request_id] = running
        self.running_of[running.ask.service_class] += 1
        self._seat_waits = None

    def _finish(self, now_us: int, request_id: str) -> float:
        running = self.running.pop(request_id)
        self.running_of[running.ask.service_class] -= 1
        self._seat_waits = None
        replica = self.fleet.replicas.get(running.engine_id)
        return 0.0 if replica is None else replica.finish(running, now_us)

    def _drop(self, request_id: str) -> Waiting:
        waiting = self.waiting.pop(request_id)
        del self._names[waiting.ask.key]
        return waiting


def _due_in_us(policy: Policy, request: GrantRequest, lengths: Lengths) -> int:
    """Return when the first token is due: the objective, sooner where the answer has to end by a deadline."""
    ttft_us = objective_of(policy.rules, request).ttft_ms * 1_000
    ttft_us -= min(policy.residuals.margin_us, round(MARGIN_SHARE_MAX * ttft_us))
    if request.deadline_ms is not None:
        tpots = [each.tpot_us for each in policy.fleet.ready()]
        ttft_us = min(ttft_us, request.deadline_ms * 1_000 - lengths.p50 * min(tpots, default=0))
    return ttft_us


def _started(waiting: Waiting, choice: Choice, now_us: int, lease_until_us: int) -> Running:
    request, ask = waiting.request, waiting.ask
    prefill = max(1, request.input_tokens - choice.cached_tokens)
    return Running(
        request=request,
        ask=ask if ask.prefill == prefill else replace(ask, prefill=prefill),
        engine_id=choice.replica.state.engine_id,
        arrived_us=ask.arrived_us,
        granted_us=now_us,
        lease_until_us=lease_until_us,
        first_due_us=waiting.first_us,
        cached_tokens=choice.cached_tokens,
        reserved_kv=blocks(request.input_tokens + waiting.lengths.p90),
        promise=waiting.promise,
    )


def _adopted(grant: AdoptedGrant, ask: Ask, lengths: Lengths, lease_until_us: int, now_us: int) -> Running:
    began_us = now_us - grant.age_ms * 1_000
    return Running(
        request=grant.request,
        ask=ask,
        engine_id=grant.engine_id,
        arrived_us=began_us,
        granted_us=began_us,
        lease_until_us=lease_until_us,
        first_due_us=None,
        cached_tokens=0,
        reserved_kv=blocks(grant.request.input_tokens + lengths.p90),
        promise="final",
        output_tokens=grant.output_tokens,
    )


def _code(verdict: Verdict) -> str:
    return _CODES.get(verdict.fate, verdict.fate.value)


def length_key(request: GrantRequest) -> tuple[str, ...]:
    """Return the requests whose answers tell how long this one's may get."""
    return (str(request.workspace_id), request.route or "", request.model or "")
