"""The engines of one pool together: what room they have, how fast they are, and which one a request goes to.

Keeps no queue; `policy.py` does.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from interlock.contracts.scheduling import GrantRequest
from interlock.scheduler.domain.asks import Room, Take
from interlock.scheduler.domain.plan import HEADROOM
from interlock.scheduler.domain.replicas import Replica, Running
from interlock.scheduler.domain.turns import Decoding
from interlock.scheduler.domain.types import EngineCondition, EngineState, EngineStatistics

_SERVABLE: Final = frozenset({EngineCondition.READY, EngineCondition.STARTING})
_MICRO: Final = 1_000_000
_KV_UNKNOWN: Final = 1 << 50
_AFFINITY_LOAD: Final = 1.25


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine for a request, what it has cached of the prompt, and why this one."""

    replica: Replica
    cached_tokens: int
    reason: str
    # It has no credit yet: the request waits for it.
    is_awaited: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """The engines that may be given something now, and whether a request may wait for one that knows its beginning."""

    open: Sequence[Replica]
    by_prefix: bool
    may_wait: bool


@dataclass(slots=True)
class Fleet:
    """Replicas by id. One that was taken out of the pool stays until its last grant ends."""

    replicas: dict[str, Replica] = field(default_factory=dict)
    _leaving: set[str] = field(default_factory=set)
    _sorted: list[Replica] = field(default_factory=list)
    _ready: list[Replica] = field(default_factory=list)
    _is_held: bool = False

    def sorted(self) -> list[Replica]:
        """Return all replicas by id."""
        return self._sorted

    def ready(self) -> list[Replica]:
        """Return the replicas that take work."""
        return self._ready

    def _note(self) -> None:
        self._sorted = [self.replicas[engine_id] for engine_id in sorted(self.replicas)]
        self._ready = [each for each in self._sorted if each.state.condition is EngineCondition.READY]

    def change(self, state: EngineState) -> None:
        """Note an engine's state; one that comes back has lost its cache, other figures declared start anew."""
        replica = self.replicas.get(state.engine_id)
        if replica is None or (replica.state.prefill_tps, replica.state.kv_tokens, replica.state.price_usd_hour) != (
            state.prefill_tps, state.kv_tokens, state.price_usd_hour
        ):  # fmt: skip
            fresh = Replica.of(state)
            if replica is not None:
                fresh = replace_figures(replica, fresh)
            self.replicas[state.engine_id] = fresh
            self._leaving.discard(state.engine_id)
            self._note()
            return
        if replica.state.condition is EngineCondition.DOWN and state.condition is not EngineCondition.DOWN:
            replica.prefix.clear()
        if state.engine_id in self._leaving:
            state = replace(state, condition=EngineCondition.DRAINING)
        replica.state = state
        self._note()

    def remove(self, engine_id: str) -> None:
        """Take an engine out of the pool; what runs on it goes on."""
        replica = self.replicas.get(engine_id)
        if replica is None:
            return
        replica.state = replace(replica.state, condition=EngineCondition.DRAINING)
        self._leaving.add(engine_id)
        self.sweep()

    def sweep(self) -> None:
        """Drop what was taken out and runs nothing any more."""
        for engine_id in [each for each in self._leaving if not self.replicas[each].granted]:
            self._leaving.discard(engine_id)
            del self.replicas[engine_id]
        self._note()

    def let_idle_time_pass(self, now_us: int) -> None:
        """Count up to now what engines cost that do nothing: no event would, for hours."""
        for each in self._sorted:
            if not each.granted:
                each.meter.advance(now_us)

    def fits(self, request: GrantRequest) -> bool:
        """Tell whether any engine could ever hold a request; nobody knows that before there are engines."""
        return not self.replicas or any(each.holds(request) for each in self.replicas.values())

    def is_servable(self, request: GrantRequest) -> bool:
        """Tell whether an engine serves a request, or is about to: a starting one is decided on within moments."""
        return any(each.state.condition in _SERVABLE and each.holds(request) for each in self.replicas.values())

    def max_tokens(self, request: GrantRequest) -> int | None:
        """Return the most that may be generated after a prompt of this length; None where no engine holds it."""
        fitting = [each.state for each in self.replicas.values()]
        limits = [min(each.context_tokens, each.kv_tokens or each.context_tokens) for each in fitting]
        left = max(limits, default=0) - request.input_tokens
        return left if left > 0 else None

    def rho(self, *, is_idle: bool) -> float:
        """Return the prompt tokens a second of all engines that serve.

        An idle pool counts on what was declared where that is more: one that learned to be slow while something else
        held the machine would refuse what could prove it wrong.
        """
        total = 0.0
        for each in self.replicas.values():
            if each.state.condition in _SERVABLE:
                total += max(each.rho, float(each.state.prefill_tps)) if is_idle else each.rho
        return max(1.0, total)

    def prefill_left(self, now_us: int) -> int:
        """Return granted prompt tokens without a first token."""
        return sum(each.prefill_left(now_us) for each in self.replicas.values())

    def capacity(self) -> float:
        """Return the weighted tokens a second to be expected of the speed at which prompts are read."""
        return 1.3 * max(1.0, sum(each.rho for each in self.ready()))

    def room(self, now_us: int, seat_waits_us: tuple[int, ...], hold_us: int) -> Room:
        """Return the room of the pool as a plan sees it."""
        seats = prefill_left = 0
        for each in self._ready:
            seats += each.seats
            prefill_left += each.unread(now_us)
        return Room(seats, prefill_left, _KV_UNKNOWN, seat_waits_us, hold_us)

    def seats(self) -> int:
        """Return the sequences that may still be granted."""
        return sum(each.seats for each in self._ready)

    @property
    def crowd(self) -> int:
        """Sequences that run beyond what engines may run whose tokens come too late."""
        return sum(each.crowd for each in self._ready)

    @property
    def is_held(self) -> bool:
        """Whether any engine is held to fewer sequences, or was at the last look."""
        return self._is_held or any(each.tempo.is_held for each in self._ready)

    def hold(self, now_us: int, gap_us: int | None) -> None:
        """Hold engines whose tokens come too late for an objective to fewer sequences; None: to none.

        What was promised is served all the same: where no engine could keep it each runs one sequence.
        """
        held = [each for each in self._ready if gap_us is not None and each.tempo.is_held]
        self._is_held = bool(held)
        fitting = [each.tempo.seats(now_us, gap_us or 0) for each in held]
        least = 1 if len(held) == len(self._ready) and not any(fitting) else 0
        for each in self._ready:
            each.sequences_max = None
        for each, seats in zip(held, fitting, strict=True):
            each.sequences_max = max(least, seats)

    def late_gap_us(self, now_us: int, gap_us: int) -> int | None:
        """Return the least time per output token of engines none of which could keep this one; None where one can."""
        if not self._ready or any(each.tempo.seats(now_us, gap_us) for each in self._ready):
            return None
        return min(each.tpot_us for each in self._ready)

    def tried_in_us(self, now_us: int) -> int:
        """Return after how long an engine that is too slow for an objective is tried again."""
        return min((each.tempo.tried_in_us(now_us) for each in self._ready), default=0)

    def open(self, now_us: int, tightest_us: int, *, has_credits: bool) -> list[Replica]:
        """Return the engines that may be given something now."""
        if not has_credits:
            return [each for each in self.ready() if each.seats]
        return [each for each in self.ready() if each.has_credit(now_us, tightest_us)]

    def opens_in_us(self, now_us: int, tightest_us: int) -> int | None:
        """Return after how long an engine with a free seat may have credit again; None where none lacks just that."""
        waits = (each.credit_in_us(now_us, tightest_us) for each in self._ready if each.seats)
        return min((each for each in waits if each), default=None)

    def turn_us(self, prefill: int, output: int) -> int:
        """Return how far apart requests of this length can be served: as prompts are read, or as seats come free."""
        read_us = prefill * _MICRO / (HEADROOM * self.rho(is_idle=False))
        slots = sum(each.places for each in self._ready)
        if not slots:
            return round(read_us)
        held_us = sum(each.places * (prefill * _MICRO / each.rho + output * each.tpot_us) for each in self._ready)
        return round(max(read_us, held_us / slots**2))

    def soonest(self, now_us: int, request: GrantRequest, *, by_prefix: bool) -> tuple[int, int]:
        """Return the cached tokens on the engine that would read a prompt soonest, and the time that this takes."""
        found = [(self._reading_us(now_us, each, request, by_prefix=by_prefix), each) for each in self.ready()]
        if not found:
            return 0, round(request.input_tokens * _MICRO / self.rho(is_idle=True))
        _, best = min(found, key=lambda each: (each[0], each[1].state.engine_id))
        cached = best.cached(request) if by_prefix else 0
        return cached, round((request.input_tokens - cached) * _MICRO / (HEADROOM * best.rho))

    def pick(self, now_us: int, request: GrantRequest, reserve: int, offer: "Offer") -> Choice | None:
        """Return the engine that reads a prompt soonest of those open that can hold it; None where none can.

        It may be one that knows the beginning and is not open: waiting for it is sooner than reading all elsewhere.
        One that just failed a grant is asked only where no other could ever answer: a dead engine has all seats free.
        """
        able = [each for each in self._ready if each.holds(request)]
        able = [each for each in able if each.doubted_until_us <= now_us] or able
        fitting = [each for each in able if each.seats and each.has_kv(reserve)]
        is_open = {each.state.engine_id: any(each is one for one in offer.open) for each in fitting}
        if not any(is_open.values()):
            return None
        crowd = _crowd(sum(each.granted for each in self._ready) / len(self._ready))
        found = []
        for each in fitting:
            cached = each.cached(request)
            is_known = offer.by_prefix and cached > 0 and each.granted <= crowd
            if is_open[each.state.engine_id] or (is_known and offer.may_wait):
                uncached = request.input_tokens - (cached if is_known else 0)
                reading_s = (uncached + each.prefill_left(now_us)) / each.rho
                reason = "prefix" if is_known else "least_backlog"
                choice = Choice(each, cached, reason, is_awaited=not is_open[each.state.engine_id])
                found.append(((reading_s, each.granted, each.state.engine_id), choice))
        return min(found, key=lambda one: one[0])[1]

    def statistics(self) -> tuple[EngineStatistics, ...]:
        """Return what each engine holds, as of its last event."""
        return tuple(each.statistics() for each in self.sorted())

    def _reading_us(self, now_us: int, replica: Replica, request: GrantRequest, *, by_prefix: bool) -> int:
        uncached = request.input_tokens - (replica.cached(request) if by_prefix else 0)
        return round((uncached + replica.prefill_left(now_us)) * _MICRO / replica.rho)

    def decoding(self, running: Iterable[Running]) -> list[Decoding]:
        """Return what is known of each answer that holds a seat of an engine that is still there."""
        paces = {engine_id: replica.tpot_us for engine_id, replica in self.replicas.items()}
        return [
            (each.ask.output, each.output_tokens, paces[each.engine_id]) for each in running if each.engine_id in paces
        ]


def take_of(choice: Choice | None) -> Take:
    """Return whether a request goes now, by the engine that was chosen for it."""
    if choice is None:
        return Take.NO
    return Take.WAITS if choice.is_awaited else Take.YES


def _crowd(mean: float) -> float:
    """Return how many in flight make an engine crowded: a popular prefix must not draw everybody to one.

    Where few are in flight, chance alone puts one engine above a quarter more than the mean.
    """
    return mean + 1 + max((_AFFINITY_LOAD - 1) * mean, math.sqrt(mean))


def replace_figures(old: Replica, new: Replica) -> Replica:
    """Carry what an engine holds over to the one with other declared figures."""
    old.state, old.rho, old.meter.price_usd_hour = new.state, new.rho, new.meter.price_usd_hour
    old.prefix = new.prefix
    return old


def kv_reserved_share(engines: Iterable[EngineStatistics]) -> float | None:
    """Return the share of the known KV that is reserved."""
    known = [(each.kv_reserved, each.state.kv_tokens) for each in engines if each.state.kv_tokens]
    total = sum(tokens or 0 for _, tokens in known)
    return round(sum(reserved for reserved, _ in known) / total, 6) if total else None
