"""The platform's own order: predicted admission at arrival, shares in tokens, promises that are kept.

A request inside its share is final once it is queued: nothing displaces it. One over its share is provisional until
it is granted. Holds no clock: every call gets `now_us`.
"""

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.asks import CLASSES, Ask, Classes, Fate, MayTake, Room, StepSeen, Take, Verdict
from interlock.scheduler.domain.plan import HEADROOM, Ints, Pace, Plan, order_key
from interlock.scheduler.domain.rates import Rates, kv_tokens
from interlock.scheduler.domain.scan import Scan
from interlock.scheduler.domain.share import Path, Shares

QUEUE_SEATS_MAX: Final = 10_000
TENANT_SEATS_SHARE: Final = 0.25
WAIT_FACTOR: Final = 3
TIERS_MAX: Final = 4
# Who is further over its share gives way before as costly a request of a tenant just over the line: up to this.
EXCESS_MAX: Final = 3.0
_DEBT_STEP_MIN: Final = 4_000
_DEBT_STEP_S: Final = 1.75
_SERVED_WINDOW_US: Final = 10_000_000
_AGING_US: Final = 30_000_000
# How often those who wait are judged again: a look at all tenants is dear beside one arrival.
_JUDGED_US: Final = 250_000
_LOOKED_AT_ONCE: Final = 64
# How many in order are asked whether they want the engine that who stands first leaves alone.
_LOOKED_PAST: Final = 16


@dataclass(frozen=True, slots=True)
class Rules:
    """What a pool promises, and which parts of the order are in use; the flags of a rollout turn them off one by one.

    `predicts` off: nothing is refused for its predicted first token, the bound in time alone ends a wait.
    `displaces` off: nobody gives way for a newcomer, who is refused instead.
    """

    classes: Classes = field(default_factory=lambda: CLASSES)
    predicts: bool = True
    displaces: bool = True
    seats_max: int = QUEUE_SEATS_MAX
    tenant_seats_max: int = round(QUEUE_SEATS_MAX * TENANT_SEATS_SHARE)
    wait_factor: float = WAIT_FACTOR


@dataclass(slots=True)
class _Waiting:
    ask: Ask
    is_provisional: bool
    tier: int
    # What it weighs when somebody has to give way: its cost, more where its tenant floods the pool.
    weight: int


class PromiseOrder:
    """One pool. `waiting` asks are in the plan when their class is promised, else among the best effort."""

    has_credits = True

    def __init__(self, rates: Rates, shares: Shares | None = None, rules: Rules | None = None) -> None:
        self.rates = rates
        self.shares = shares or Shares()
        self._rules = rules or Rules()
        self._classes = self._rules.classes
        self.at_risk = 0
        self._plan = Plan()
        self._waiting: dict[int, _Waiting] = {}
        self._best_effort: dict[int, _Waiting] = {}
        self._provisional: dict[Path, set[int]] = {}
        self._queued_of: Counter[ServiceClass] = Counter()
        self._ranks = {each: rank for rank, each in enumerate(self._classes)}
        self._renewed_us = -_JUDGED_US
        self._seats: Counter[Path] = Counter()
        self._expiries: list[tuple[int, int]] = []
        self._served: deque[tuple[int, ServiceClass, int]] = deque()
        self._served_sums = dict.fromkeys(self._classes, 0)
        self._is_debt_stale = False
        self._judged_us = -_JUDGED_US

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def has_queued(self, service_class: ServiceClass) -> bool:
        """Whether anybody of a class waits."""
        return self._queued_of[service_class] > 0

    def arrive(self, now_us: int, ask: Ask, room: Room) -> list[Verdict]:
        """Offer the cost to the tenant's demand, then plan: queue, refuse, or displace who is over its share."""
        if not ask.is_repeat:
            self.shares.offer(now_us, ask.path, ask.cost)
        if self._seats[ask.path[:1]] >= self._rules.tenant_seats_max:
            return [Verdict(ask.key, Fate.TENANT_QUEUE_FULL)]
        if len(self._waiting) >= self._rules.seats_max:
            return [Verdict(ask.key, Fate.QUEUE_FULL)]
        excess = self.shares.excess(now_us, ask.path, self.rates.capacity)
        is_provisional = excess > 1.0
        weight = round(ask.cost * min(max(excess, 1.0), EXCESS_MAX))
        waiting = _Waiting(ask, is_provisional, self._tier(ask.path) if is_provisional else 0, weight)
        if not self._classes[ask.service_class].is_promised:
            return [self._arrive_best_effort(now_us, waiting, room)]
        self._renew_tiers(now_us)
        self._seat(waiting)
        verdicts: list[Verdict] = []
        pace = self._pace(room)
        broken_us = self._broken_us(now_us, pace, room, waiting)
        if broken_us is not None:
            place = self._plan.place_of(ask.key)
            self._unseat(waiting)
            fate = Fate.FAIR_SHARE_EXCEEDED if is_provisional else Fate.DEADLINE_INFEASIBLE
            return [Verdict(ask.key, fate, first_us=broken_us, tier=waiting.tier, place=place)]
        slacks = self._plan.slacks(now_us, pace)
        if self._rules.predicts and (slacks < 0).any():
            verdicts, slacks = self._settle_plan(now_us, ask, pace, slacks)
            if ask.key not in self._waiting:
                return verdicts
        place = self._plan.place_of(ask.key)
        first_us = ask.deadline_us - int(slacks[place])
        self._watch(waiting)
        return [*verdicts, Verdict(ask.key, Fate.QUEUED, not is_provisional, first_us, waiting.tier, place)]

    def withdraw(self, key: int) -> None:
        """Give the seat of a caller who is gone back."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            self._unseat(waiting)

    def would_keep(self, now_us: int, asks: Sequence[Ask], room: Room) -> list[bool]:
        """Tell of each ask whether it would be queued now without anybody giving way; nothing is changed by asking."""
        pace = self._pace(room)
        promised = [each for each in asks if self._classes[each.service_class].is_promised]
        rows = [(order_key(0, each.deadline_us), each.deadline_us, each.prefill) for each in promised]
        held = iter(self._plan.would_hold(now_us, pace, rows))
        return [
            next(held) and self._broken_us(now_us, pace, room, _Waiting(each, False, 0, 0)) is None
            if self._classes[each.service_class].is_promised
            else self._best_effort_us(each, pace) <= each.ttft_us
            for each in asks
        ]

    def expire(self, now_us: int) -> list[Verdict]:
        """End provisional asks at their deadline, and any ask after three times its objective."""
        ended = []
        while self._expiries and self._expiries[0][0] <= now_us:
            _, key = heapq.heappop(self._expiries)
            waiting = self._waiting.get(key)
            if waiting is None or now_us < self._ends_us(waiting):
                continue
            self._unseat(waiting)
            fate = Fate.DISPLACED if waiting.is_provisional else Fate.QUEUE_TIME_EXCEEDED
            ended.append(Verdict(key, fate, was_final=not waiting.is_provisional))
        return ended

    def next_grant(self, now_us: int, room: Room, may_take: MayTake | None = None) -> Ask | None:
        """Take the first in order, or the first of the class that is furthest below its reserved share."""
        if not self._waiting or not self.rates.has_credit(room):
            return None
        self._renew_tiers(now_us)
        waiting = self._takeable(self._jumping(now_us, room), room, may_take)
        waiting = waiting or self._takeable(self._in_order(now_us), room, may_take)
        if waiting is None:
            return None
        ask = waiting.ask
        self._unseat(waiting, is_granted=True)
        self.shares.charge(ask.path, ask.cost)
        self._is_debt_stale = True
        self._note_served(now_us, ask)
        return ask

    def _takeable(self, asks: Iterable[_Waiting], room: Room, may_take: MayTake | None) -> _Waiting | None:
        """Return the first of them that goes now; those before it wait for engines that it does not take."""
        for each in asks:
            take = Take.NO if kv_tokens(each.ask) > room.kv_free else Take.YES
            if take is Take.YES and may_take is not None:
                take = may_take(each.ask)
            if take is not Take.WAITS:
                return each if take is Take.YES else None
        return None

    def stepped(self, _now_us: int, seen: StepSeen) -> None:
        """Learn the rates."""
        self.rates.learn(seen)

    def settled(self, _now_us: int, ask: Ask, output: int, prefill: int | None = None) -> None:
        """Replace what was predicted by what was used, and let the tenant's seat go."""
        read = ask.prefill if prefill is None else prefill
        self.shares.charge(ask.path, read - ask.prefill + 2 * (output - ask.output))
        self.shares.leave(ask.path)
        self._is_debt_stale = True

    def adopted(self, now_us: int, ask: Ask) -> None:
        """Charge what a former leader granted."""
        self.shares.enter(ask.path)
        self.shares.charge(ask.path, ask.cost)
        self._is_debt_stale = True
        self._note_served(now_us, ask)

    def _settle_plan(self, now_us: int, ask: Ask, pace: Pace, slacks: Ints) -> tuple[list[Verdict], Ints]:
        """Make room for the new ask in the plan: whom it needs gone is displaced, or it is refused and nobody is.

        Takes the slacks of the plan as it stands and returns them as it is left.
        """
        if self._promote(now_us):
            slacks = self._plan.slacks(now_us, pace)
        found = Scan(self._plan, now_us, pace, slacks).settle(ask.key, displaces=self._rules.displaces)
        self.at_risk += self._plan.note(found.at_risk)
        if found.own is not None:
            place, slack_us = found.own
            waiting = self._waiting[ask.key]
            self._unseat(waiting)
            fate = Fate.FAIR_SHARE_EXCEEDED if waiting.is_provisional else Fate.DEADLINE_INFEASIBLE
            first_us = ask.deadline_us - slack_us
            return [Verdict(ask.key, fate, first_us=first_us, tier=waiting.tier, place=place)], slacks
        verdicts = []
        for key, slack_us in found.displaced:
            waiting = self._waiting[key]
            self._unseat(waiting)
            verdicts.append(Verdict(key, Fate.DISPLACED, first_us=waiting.ask.deadline_us - slack_us))
        return verdicts, self._plan.slacks(now_us, pace) if verdicts else slacks

    def _broken_us(self, now_us: int, pace: Pace, room: Room, waiting: _Waiting) -> int | None:
        """Return when somebody's turn comes who was told to come back in time for it, where this one would take it.

        Who is inside its share gives way to those alone who are inside theirs.
        """
        if room.kept is None or not self._rules.predicts:
            return None
        ask = waiting.ask
        row = (order_key(waiting.tier, ask.deadline_us), ask.prefill)
        return self._plan.first_broken(now_us, pace, room.kept, row, is_in=ask.key in self._waiting)

    def _promote(self, now_us: int) -> bool:
        """Before anybody gives way: what waits of a tenant that is back inside its share is promised from now on.

        A burst makes a tenant look as greedy as a flood; a few seconds later only the flood still does. Returns
        whether anything moved.
        """
        if now_us - self._judged_us < _JUDGED_US:
            return False
        self._judged_us = now_us
        inside = self.shares.inside(now_us, list(self._provisional), self.rates.capacity)
        for path in inside:
            for key in sorted(self._provisional.pop(path)):
                waiting = self._waiting[key]
                waiting.is_provisional = False
                self._move(waiting, 0)
                self._watch(waiting)
        return bool(inside)

    def _best_effort_us(self, ask: Ask, pace: Pace) -> int:
        """Return how long everything before an ask of best effort takes, and the ask itself."""
        ahead = self._plan.prefill + sum(each.ask.prefill for each in self._best_effort.values())
        return round((pace.prefill_left + ahead + ask.prefill) * 1_000_000 / (HEADROOM * pace.rho))

    def _arrive_best_effort(self, now_us: int, waiting: _Waiting, room: Room) -> Verdict:
        ask = waiting.ask
        finish_us = self._best_effort_us(ask, self._pace(room))
        place = len(self._plan) + len(self._best_effort)
        if self._rules.predicts and finish_us > self._classes[ask.service_class].ttft_us:
            return Verdict(ask.key, Fate.DEADLINE_INFEASIBLE, first_us=now_us + finish_us, place=place)
        self._seat(waiting)
        self._watch(waiting)
        is_final = not waiting.is_provisional
        return Verdict(ask.key, Fate.QUEUED, is_final, now_us + finish_us, waiting.tier, place)

    def _in_order(self, now_us: int) -> Iterator[_Waiting]:
        """Name those whose turn it is: the first, and as far as it waits for an engine, a few behind it."""
        for place in range(min(len(self._plan), _LOOKED_PAST)):
            yield self._waiting[self._plan.key_at(place)]
        if not len(self._plan) and self._best_effort:
            yield min(self._best_effort.values(), key=lambda each: _best_effort_key(now_us, each))

    def _jumping(self, now_us: int, room: Room) -> Iterator[_Waiting]:
        """Name the first of the class furthest below its reserved share, where it may go before its turn."""
        waiting = [each for each, count in self._queued_of.items() if count]
        if len(waiting) < 2:
            return
        self._forget_served(now_us)
        total = sum(self._served_sums.values())
        behind = {
            each: self._classes[each].reserved_share * total - self._served_sums[each]
            for each in waiting
        }  # fmt: skip
        service_class = max(sorted(behind), key=lambda each: behind[each])
        if behind[service_class] <= 0:
            return
        first = self._first_of(now_us, service_class)
        if self._classes[service_class].is_promised:
            place = self._plan.place_of(first.ask.key)
            if self._plan.would_jump_harm(now_us, self._pace(room), place):
                return
        yield first

    def _first_of(self, now_us: int, service_class: ServiceClass) -> _Waiting:
        first = self._plan.first_of(self._ranks[service_class])
        if first is not None:
            return self._waiting[first]
        return min(self._best_effort.values(), key=lambda each: _best_effort_key(now_us, each))

    def _pace(self, room: Room) -> Pace:
        rho = self.rates.planned
        if self._best_effort:
            rho *= 1.0 - self._classes[ServiceClass.BATCH].reserved_share
        step_us = round(self.rates.step_us)
        waits = (room.seat_waits_us, room.hold_us)
        return Pace(room.prefill_left, rho, room.seats, *waits, self.rates.replicas, step_us)

    def _tier(self, path: Path) -> int:
        step = max(_DEBT_STEP_MIN, _DEBT_STEP_S * self.rates.capacity)
        return 1 + min(TIERS_MAX - 1, math.floor(self.shares.debt(path) / step))

    def _renew_tiers(self, now_us: int) -> None:
        """Move the provisional asks of tenants whose debt crossed a step since the last look.

        With many tenants a look at all of them is dear beside one decision, and a step of debt is seconds of service.
        """
        is_many = len(self._provisional) > _LOOKED_AT_ONCE
        if not self._is_debt_stale or (is_many and now_us - self._renewed_us < _JUDGED_US):
            return
        self._is_debt_stale, self._renewed_us = False, now_us
        for path, keys in self._provisional.items():
            tier = self._tier(path)
            for waiting in [self._waiting[key] for key in sorted(keys)]:
                if waiting.tier != tier:
                    self._move(waiting, tier)

    def _move(self, waiting: _Waiting, tier: int) -> None:
        waiting.tier = tier
        if waiting.ask.key not in self._best_effort:
            self._plan.remove(self._plan.place_of(waiting.ask.key))
            self._enter_plan(waiting)

    def _seat(self, waiting: _Waiting) -> None:
        ask = waiting.ask
        self.shares.enter(ask.path)
        self._waiting[ask.key] = waiting
        self._seats[ask.path[:1]] += 1
        self._queued_of[ask.service_class] += 1
        if waiting.is_provisional:
            self._provisional.setdefault(ask.path, set()).add(ask.key)
        if self._classes[ask.service_class].is_promised:
            self._enter_plan(waiting)
        else:
            self._best_effort[ask.key] = waiting

    def _enter_plan(self, waiting: _Waiting) -> None:
        ask = waiting.ask
        row = (ask.key, ask.deadline_us, ask.prefill, waiting.weight)
        rank = self._ranks[ask.service_class]
        order = order_key(waiting.tier, ask.deadline_us)
        self._plan.insert(order, row, is_provisional=waiting.is_provisional, rank=rank)

    def _unseat(self, waiting: _Waiting, *, is_granted: bool = False) -> None:
        key, path = waiting.ask.key, waiting.ask.path
        del self._waiting[key]
        self._seats[path[:1]] -= 1
        if self._best_effort.pop(key, None) is None:
            self._plan.remove(self._plan.place_of(key))
        self._queued_of[waiting.ask.service_class] -= 1
        if waiting.is_provisional:
            self._provisional[path].discard(key)
            if not self._provisional[path]:
                del self._provisional[path]
        if not is_granted:
            self.shares.leave(path)

    def _watch(self, waiting: _Waiting) -> None:
        heapq.heappush(self._expiries, (self._ends_us(waiting), waiting.ask.key))

    def _ends_us(self, waiting: _Waiting) -> int:
        factor = 1 if waiting.is_provisional else self._rules.wait_factor
        return waiting.ask.arrived_us + round(factor * waiting.ask.ttft_us)

    def _note_served(self, now_us: int, ask: Ask) -> None:
        self._served.append((now_us, ask.service_class, ask.cost))
        self._served_sums[ask.service_class] += ask.cost

    def _forget_served(self, now_us: int) -> None:
        while self._served and self._served[0][0] < now_us - _SERVED_WINDOW_US:
            _, service_class, cost = self._served.popleft()
            self._served_sums[service_class] -= cost


def _best_effort_key(now_us: int, waiting: _Waiting) -> tuple[int, float, int]:
    ask = waiting.ask
    return (waiting.tier, ask.cost / (1 + (now_us - ask.arrived_us) / _AGING_US), ask.key)
