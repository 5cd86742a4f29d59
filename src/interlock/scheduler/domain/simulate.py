"""A pool of engines under an order, step by step: continuous batching with chunked prefill, in virtual time.

Runs the very order that decides in production. Draws nothing: what is random was drawn with the requests.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.asks import CLASSES, Ask, Classes, ClassRules, Fate, Order, Room, StepSeen
from interlock.scheduler.domain.length import LengthBook
from interlock.scheduler.domain.margin import StepMargin
from interlock.scheduler.domain.prefix import PrefixCache
from interlock.scheduler.domain.profiles import CHUNK_MAX, CHUNK_STEP, StepProfile, chunk_of
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.rates import kv_tokens
from interlock.scheduler.domain.tempo import Tempo
from interlock.scheduler.domain.trace import Offered
from interlock.scheduler.domain.turns import Decoding, SeatBook

FIXED_BUDGET: Final = 512
_EWMA: Final = 0.1
_HEARS_EVERY: Final = 500
_MODEL: Final = "model"
_TOKENS_MAX: Final = 1 << 17
_AFFINITY_LOAD: Final = 1.25


@dataclass(frozen=True, slots=True)
class Hardware:
    """The engines of a run."""

    profile: StepProfile
    replicas: int = 1
    slots: int = 128
    kv_tokens: int = 427_000
    # What an engine reads of prompts in a step where it cuts them itself; 0 where the order plans each step.
    chunk_tokens: int = 0


@dataclass(slots=True)
class Outcome:
    """What became of one request; times are None where it never got so far."""

    offered: Offered
    fate: Fate | None = None
    was_final: bool = False
    decided_us: int | None = None
    granted_us: int | None = None
    first_us: int | None = None
    ended_us: int | None = None
    rules: ClassRules | None = None

    @property
    def is_success(self) -> bool:
        """Whether it ended and met both objectives of its class."""
        if self.ended_us is None or self.first_us is None:
            return False
        rules = self.rules or CLASSES[self.offered.service_class]
        if self.first_us - self.offered.at_us > rules.ttft_us:
            return False
        return rules.tpot_us is None or self.tpot_us <= rules.tpot_us

    @property
    def tpot_us(self) -> float:
        """Mean time between output tokens; 0 where there is one."""
        if self.ended_us is None or self.first_us is None or self.offered.output_tokens < 2:
            return 0.0
        return (self.ended_us - self.first_us) / (self.offered.output_tokens - 1)


@dataclass(slots=True)
class _Running:
    ask: Ask
    outcome: Outcome
    reserved: int
    # What its engine reads of the prompt, and what it knew of it.
    prefill: int
    cached: int
    done: int = 0
    begun_step: int = 0


@dataclass(slots=True)
class _Replica:
    """One engine: sequences in prefill in order of their grant, decoding ones by the step in which they end."""

    number: int
    prefix: PrefixCache
    prefilling: deque[_Running] = field(default_factory=deque)
    decoding: list[tuple[int, int, _Running]] = field(default_factory=list)
    by_class: dict[ServiceClass, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    steps: int = 0
    context: int = 0
    reserved: int = 0
    prefill_left: int = 0
    step_us: float = 20_000.0
    # Sequences that the step under way completes: no longer in either queue, but not gone yet.
    completing: int = 0
    # The step under way: when it began, how long it takes, and what it reads of prompts.
    begun_us: int = 0
    takes_us: int = 1
    reads: int = 0
    is_busy: bool = False
    busy_us: int = 0
    margin: StepMargin = field(default_factory=StepMargin)
    tempo: Tempo = field(default_factory=lambda: Tempo(1))
    # What the step in preparation was planned to take, where an objective bounds it.
    planned_us: int = 0

    @property
    def running(self) -> int:
        return len(self.prefilling) + len(self.decoding) + self.completing


@dataclass(slots=True)
class _Backlog:
    """How far apart the service of tenants gets while both wait: one counter each, lifted when a tenant comes back."""

    counters: dict[str, int] = field(default_factory=dict)
    queued: dict[str, int] = field(default_factory=dict)
    gap_tokens: int = 0

    def enter(self, tenant: str) -> None:
        if not self.queued.get(tenant):
            waiting = [self.counters[each] for each, count in self.queued.items() if count]
            self.counters[tenant] = max(self.counters.get(tenant, 0), min(waiting, default=0))
        self.queued[tenant] = self.queued.get(tenant, 0) + 1

    def leave(self, tenant: str, served: int) -> None:
        self.counters[tenant] += served
        self.queued[tenant] -= 1
        waiting = [self.counters[each] for each, count in self.queued.items() if count]
        if waiting:
            self.gap_tokens = max(self.gap_tokens, max(waiting) - min(waiting))


@dataclass(slots=True)
class Simulation:
    """One run. `outcomes` are in the order of the requests; `busy_us` sums the steps of all replicas."""

    order: Order
    hardware: Hardware
    classes: Classes = field(default_factory=lambda: CLASSES)
    outcomes: list[Outcome] = field(default_factory=list)
    now_us: int = 0
    late_decision_us: int = 0
    backlog: _Backlog = field(default_factory=_Backlog)
    # Hears now and then how many requests have come.
    hears: Callable[[int], None] | None = None
    # Learns lengths from what ended, as a live pool does, instead of believing what was drawn with the requests.
    lengths: LengthBook | None = None
    _replicas: list[_Replica] = field(default_factory=list)
    _events: list[tuple[int, int, int]] = field(default_factory=list)
    _seats: SeatBook = field(default_factory=SeatBook)
    # The times per output token that engines are held to.
    _gaps_us: tuple[int, ...] = ()
    _pending: dict[int, tuple[StepSeen, list[_Running], list[_Running]]] = field(default_factory=dict)

    def run(self, requests: Sequence[Offered]) -> "Simulation":
        """Let all requests arrive and run until nothing waits and nothing runs."""
        self.outcomes = [Outcome(each, rules=self.classes[each.service_class]) for each in requests]
        self._replicas = [
            _Replica(number, PrefixCache(self.hardware.kv_tokens), tempo=Tempo(self.hardware.slots))
            for number in range(self.hardware.replicas)
        ]
        # Where the steps are planned here each keeps its objective by itself; a front of engines that cut prompts by
        # themselves holds those whose tokens come too late.
        is_held = bool(self.hardware.chunk_tokens) and isinstance(self.order, PromiseOrder)
        tpots = {each.tpot_us for each in self.classes.values() if each.tpot_us is not None}
        self._gaps_us = tuple(sorted(tpots)) if is_held else ()
        arrivals = iter(enumerate(requests))
        coming = next(arrivals, None)
        while coming is not None or self._events:
            if coming is not None and (not self._events or coming[1].at_us <= self._events[0][0]):
                self.now_us = coming[1].at_us
                self._arrive(*coming)
                coming = next(arrivals, None)
            else:
                self.now_us, _, number = heapq.heappop(self._events)
                self._finish_step(self._replicas[number])
            self._expire()
            self._feed()
        return self

    @property
    def busy_us(self) -> int:
        """Microseconds in steps, all replicas together."""
        return sum(each.busy_us for each in self._replicas)

    def _arrive(self, index: int, offered: Offered) -> None:
        if self.hears is not None and index % _HEARS_EVERY == 0:
            self.hears(index)
        rules = self.classes[offered.service_class]
        output = offered.predicted_tokens
        if self.lengths is not None:
            output = self.lengths.expect((offered.tenant, _MODEL), offered.max_tokens or _TOKENS_MAX).p50
        prefill = offered.input_tokens
        if offered.prefix:
            prefill -= _known(min(self._replicas, key=lambda each: _unread_with(each, offered)), offered)
        ask = Ask(index, (offered.tenant,), offered.service_class, offered.at_us, rules.ttft_us, prefill, output)
        if self._is_late(ask, rules):
            self._note(index, Fate.DEADLINE_INFEASIBLE, was_final=False)
            return
        for verdict in self.order.arrive(self.now_us, ask, self._room_of_all()):
            self._note(verdict.key, verdict.fate, was_final=verdict.was_final)

    def _is_late(self, ask: Ask, rules: ClassRules) -> bool:
        """Tell whether no engine makes tokens in the time of a class; its tenant asks for as much all the same."""
        if not self._gaps_us or rules.tpot_us is None or not isinstance(self.order, PromiseOrder):
            return False
        if any(each.tempo.seats(self.now_us, rules.tpot_us) for each in self._replicas):
            return False
        self.order.shares.offer(self.now_us, ask.path, ask.cost)
        return True

    def _sequences(self, replica: _Replica) -> int:
        """Return how many sequences an engine may run for the tightest class that waits or runs."""
        if not replica.tempo.is_held or not isinstance(self.order, PromiseOrder):
            return self.hardware.slots
        used = [
            rules.tpot_us
            for each, rules in self.classes.items()
            if rules.tpot_us and (self.order.has_queued(each) or any(one.by_class[each] for one in self._replicas))
        ]
        held = replica.tempo.seats(self.now_us, min(used)) if used else self.hardware.slots
        return max(1, held)

    def _expire(self) -> None:
        for verdict in self.order.expire(self.now_us):
            self._note(verdict.key, verdict.fate, was_final=verdict.was_final)

    def _note(self, key: int, fate: Fate, *, was_final: bool) -> None:
        outcome = self.outcomes[key]
        tenant, was_queued = outcome.offered.tenant, outcome.fate is Fate.QUEUED
        outcome.fate, outcome.was_final = fate, was_final
        if fate is Fate.QUEUED:
            self.backlog.enter(tenant)
        else:
            if was_queued:
                self.backlog.leave(tenant, 0)
            outcome.decided_us = self.now_us
            limit_us = self.classes[outcome.offered.service_class].ttft_us
            self.late_decision_us = max(self.late_decision_us, self.now_us - outcome.offered.at_us - limit_us)

    def _feed(self) -> None:
        """Grant while there is room, to the least loaded replica first, and start steps where there is work."""
        open_replicas = list(self._replicas)
        while open_replicas and self.order.queued:
            replica = min(open_replicas, key=lambda each: (each.prefill_left, each.running, each.number))
            ask = self.order.next_grant(self.now_us, self._room(replica))
            if ask is None:
                open_replicas.remove(replica)
                continue
            outcome = self.outcomes[ask.key]
            outcome.granted_us = self.now_us
            self.backlog.leave(outcome.offered.tenant, ask.cost)
            if outcome.offered.prefix:
                replica = self._knowing(replica, outcome.offered)
            self._take(replica, ask, outcome)
        for replica in self._replicas:
            if not replica.is_busy and replica.running:
                self._start_step(replica)

    def _knowing(self, least: _Replica, offered: Offered) -> _Replica:
        """Return the engine that has least to read until it has read this prompt: `least`, or one that knows it.

        As in a live pool a crowded engine gets nothing for what it knows.
        """
        crowd = _AFFINITY_LOAD * sum(each.running for each in self._replicas) / len(self._replicas) + 1
        kv_free = self.hardware.kv_tokens * 9 // 10 - offered.cost
        able = [
            each
            for each in self._replicas
            if each.running < min(self.hardware.slots, crowd) and each.reserved <= kv_free
        ]
        return min([least, *able], key=lambda each: _unread_with(each, offered))

    def _take(self, replica: _Replica, ask: Ask, outcome: Outcome) -> None:
        offered = outcome.offered
        cached = _known(replica, offered) if offered.prefix else 0
        replica.prefix.note(_MODEL, offered.prefix)
        whole = replace(ask, prefill=offered.input_tokens) if ask.prefill != offered.input_tokens else ask
        running = _Running(ask, outcome, kv_tokens(whole), offered.input_tokens - cached, cached)
        replica.prefilling.append(running)
        replica.prefill_left += running.prefill
        replica.reserved += running.reserved
        replica.context += cached
        if replica.tempo.is_held:
            replica.tempo.begun(self.now_us)

    def _start_step(self, replica: _Replica) -> None:
        budget, decoding = self._budget(replica), len(replica.decoding)
        used, pairs, finished = 0, 0, []
        while replica.prefilling and used < budget:
            running = replica.prefilling[0]
            taken = min(budget - used, running.prefill - running.done)
            pairs += taken * (running.cached + running.done + taken // 2)
            running.done += taken
            used += taken
            if running.done < running.prefill:
                break
            finished.append(replica.prefilling.popleft())
        duration_us = self.hardware.profile.step_us(used, decoding, replica.context, pairs)
        if used == budget:
            replica.margin.learn(replica.planned_us, duration_us)
        replica.steps += 1
        replica.context += used + decoding
        replica.is_busy = True
        replica.begun_us, replica.takes_us, replica.reads = self.now_us, max(duration_us, 1), used
        replica.busy_us += duration_us
        replica.step_us += _EWMA * (duration_us - replica.step_us)
        ended = []
        while replica.decoding and replica.decoding[0][0] <= replica.steps:
            ended.append(heapq.heappop(replica.decoding)[2])
        seen = StepSeen(duration_us, used, used + 2 * (decoding + len(finished)), self.order.queued > 0)
        replica.completing = len(finished) + len(ended)
        self._pending[replica.number] = (seen, finished, ended)
        heapq.heappush(self._events, (self.now_us + duration_us, 1, replica.number))

    def _finish_step(self, replica: _Replica) -> None:
        seen, prefilled, ended = self._pending.pop(replica.number)
        replica.is_busy, replica.completing = False, 0
        replica.prefill_left -= seen.prefill
        self.order.stepped(self.now_us, seen)
        if self._gaps_us:
            decoding = (seen.weighted - seen.prefill) // 2 - len(prefilled)
            beside = replica.running + len(prefilled) + len(ended)
            replica.tempo.stepped(self.now_us, seen.duration_us, decoding, beside, self._gaps_us)
        for running in ended:
            replica.by_class[running.ask.service_class] -= 1
            self._end(replica, running)
        for running in prefilled:
            running.outcome.first_us = self.now_us
            output = running.outcome.offered.output_tokens
            if output == 1:
                self._end(replica, running)
                continue
            running.begun_step = replica.steps
            replica.by_class[running.ask.service_class] += 1
            heapq.heappush(replica.decoding, (replica.steps + output - 1, running.ask.key, running))

    def _end(self, replica: _Replica, running: _Running) -> None:
        running.outcome.ended_us = self.now_us
        output = running.outcome.offered.output_tokens
        self._seats.held(self.now_us - (running.outcome.granted_us or 0))
        self._seats.ended(running.ask.output, output)
        replica.context -= running.outcome.offered.input_tokens + output - 1
        replica.reserved -= running.reserved
        if self.lengths is not None:
            self.lengths.learn((running.outcome.offered.tenant, _MODEL), output)
        read = None if running.prefill == running.ask.prefill else running.prefill
        self.order.settled(self.now_us, running.ask, output, read)

    def _budget(self, replica: _Replica) -> int:
        decoding = len(replica.decoding)
        replica.planned_us = 0
        fixed = self.hardware.chunk_tokens or (0 if self.order.has_credits else FIXED_BUDGET)
        if fixed:
            return max(fixed - decoding, CHUNK_STEP)
        tpots = [rules.tpot_us for each, rules in self.classes.items() if replica.by_class[each] and rules.tpot_us]
        if not tpots:
            return CHUNK_MAX
        # The prompt in front pays attention to what it has already read; this is what makes long prompts slow.
        depth = replica.prefilling[0].cached + replica.prefilling[0].done if replica.prefilling else 0
        profile, limit_us = self.hardware.profile, round(replica.margin.share * min(tpots))
        size = chunk_of(profile, limit_us, decoding, replica.context, depth)
        replica.planned_us = profile.step_us(size, decoding, replica.context, size * (depth + size // 2))
        return size

    def _room_of_all(self) -> Room:
        """Return what is left of all engines; the waits for seats only where the next to come would need them."""
        room = self._room(*self._replicas)
        return room if room.seats > self.order.queued else replace(room, seat_waits_us=self._waits(*self._replicas))

    def _room(self, *replicas: _Replica) -> Room:
        """Return what is left of these engines; the waits for seats only where some are free, but not for all."""
        seats = sum(max(0, self._sequences(each) - each.running) for each in replicas)
        kv_free = max(self.hardware.kv_tokens * 9 // 10 - each.reserved for each in replicas)
        waits = self._waits(*replicas) if 0 < seats < self.order.queued else ()
        return Room(seats, sum(self._unread(each) for each in replicas), kv_free, waits, self._seats.hold_us)

    def _waits(self, *replicas: _Replica) -> tuple[int, ...]:
        return self._seats.waits_us([one for each in replicas for one in self._decoding(each)])

    def _unread(self, replica: _Replica) -> int:
        left = replica.prefill_left
        if self.hardware.chunk_tokens and replica.is_busy:
            # Whoever does not plan the steps counts as read what should be read by now.
            left -= replica.reads * (self.now_us - replica.begun_us) // replica.takes_us
        return left

    def _decoding(self, replica: _Replica) -> list[Decoding]:
        pace_us = max(1, round(replica.step_us))
        found = [(each.ask.output, replica.steps - each.begun_step + 1, pace_us) for _, _, each in replica.decoding]
        _, read, ended = self._pending.get(replica.number, (None, (), ()))
        found += [(each.ask.output, replica.steps - each.begun_step, pace_us) for each in ended]
        return found + [(each.ask.output, 0, pace_us) for each in (*read, *replica.prefilling)]


def _known(replica: _Replica, offered: Offered) -> int:
    return replica.prefix.cached_tokens(_MODEL, offered.prefix, offered.input_tokens)


def _unread_with(replica: _Replica, offered: Offered) -> tuple[int, int, int]:
    return (replica.prefill_left + offered.input_tokens - _known(replica, offered), replica.running, replica.number)
