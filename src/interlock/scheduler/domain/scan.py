"""Who gives way for a newcomer: the plan is read from its front until nobody is late who need not be.

Changes nothing in the plan; `promises.py` displaces whom it names.
"""

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np

from interlock.scheduler.domain.plan import (
    COST,
    DEADLINE,
    KEY,
    MICRO,
    PREFILL,
    PROVISIONAL,
    Ints,
    Pace,
    Plan,
    ahead_us,
    plan_rate,
    seat_waits,
)

# How many of the costliest are looked out at once, and how many rows that may be late are judged at once.
_COSTLIEST_AT_ONCE: Final = 32
_JUDGED_AT_ONCE: Final = 64
_FLOOR_START: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Found:
    """What a scan came to: places that are late and for which nobody gives way, and who does, as (key, slack) in order.

    `own` is the place and the slack of a newcomer that has to go itself; None where it may stay.
    """

    at_risk: list[int]
    displaced: list[tuple[int, int]]
    own: tuple[int, int] | None = None


class Scan:
    """One reading of a plan with a newcomer in it.

    Whoever gives way stands before the row that is late, so all that is read after it comes sooner by the same prompts
    and the same seats, and nothing that is in time becomes late: only what is late at the beginning is judged.
    """

    def __init__(self, plan: Plan, now_us: int, pace: Pace, slacks: Ints) -> None:
        self._plan = plan
        self._rows = plan.rows
        self._late = np.flatnonzero(slacks < 0)
        self._slacks = slacks
        self._now_us, self._pace = now_us, pace
        # Places of those who give way, in the order in which they were found.
        self._gone: list[int] = []
        self._gone_tokens = 0

    def settle(self, key: int, *, displaces: bool) -> Found:
        """Say who gives way for the newcomer of this key, or that it has to go."""
        place = self._plan.place_of(key)
        first = self._first_provisional() if displaces else len(self._plan)
        # Before the first who could give way, and before the newcomer, nobody can be helped.
        count = int(self._late.searchsorted(min(first, place)))
        at_risk = self._late[:count].tolist()
        if count == len(self._late):
            return Found(at_risk, [])
        if self._late[count] < first:
            return Found(at_risk, [], (place, int(self._slacks[place])))
        self._prepare(count)
        return self._read_on(at_risk, place, _Costliest(self._rows, first))

    def _first_provisional(self) -> int:
        provisional = self._rows[PROVISIONAL]
        first = int(provisional.argmax())
        return first if provisional[first] else len(provisional)

    def _read_on(self, at_risk: list[int], place: int, costliest: "_Costliest") -> Found:
        at = 0
        while (at := self._next_late(at)) < len(self._late):
            late = int(self._late[at])
            while self._slack(late) < 0:
                victim = costliest.take(late)
                if victim is None and late < place:
                    at_risk.append(late)
                    break
                if victim is None or victim == place:
                    [(before, slack_us)] = self._behind_those_gone([(place, len(self._gone))])
                    return Found(at_risk, [], (place - before, slack_us))
                self._gone.append(victim)
                self._gone_tokens += int(self._rows[PREFILL, victim])
                if victim == late:
                    break
            at += 1
        keys = self._rows[KEY]
        slacks = self._behind_those_gone([(each, number) for number, each in enumerate(self._gone)])
        displaced = [(int(keys[each]), slack_us) for each, (_, slack_us) in zip(self._gone, slacks, strict=True)]
        return Found(at_risk, displaced)

    def _prepare(self, begin: int) -> None:
        """Lay out what rows that may be late are judged by."""
        self._late = self._late[begin:]
        prefills = self._rows[PREFILL]
        self._tokens = np.cumsum(prefills)
        if self._pace.replicas > 1:
            self._tokens += (self._pace.replicas - 1) * prefills
        self._waits = seat_waits(self._pace, len(prefills))
        self._rate = plan_rate(self._pace)
        self._left = self._rows[DEADLINE, self._late] - ahead_us(self._now_us, self._pace)
        self._late_tokens = self._tokens[self._late]

    def _next_late(self, begin: int) -> int:
        """Return the next of those late at first who still is, though some are gone; their number if none is."""
        if not self._gone:
            return begin
        for at in range(begin, len(self._late), _JUDGED_AT_ONCE):
            some = slice(at, at + _JUDGED_AT_ONCE)
            came_us = (self._late_tokens[some] - self._gone_tokens) * MICRO // self._rate
            came_us += self._waits[self._late[some] - len(self._gone)]
            is_late = came_us > self._left[some]
            first = int(is_late.argmax())
            if is_late[first]:
                return at + first
        return len(self._late)

    def _slack(self, place: int) -> int:
        """Return the slack of a row behind all that are gone."""
        return self._slack_behind(place, len(self._gone), self._gone_tokens)

    def _behind_those_gone(self, asked: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return for each place how many had gone before it when so many had gone at all, and its slack then."""
        gone = np.array(self._gone, np.int64)
        prefills, found = self._rows[PREFILL, gone], []
        for place, number in asked:
            is_before = gone[:number] < place
            count = int(is_before.sum())
            found.append((count, self._slack_behind(place, count, int(prefills[:number] @ is_before))))
        return found

    def _slack_behind(self, place: int, seats: int, tokens: int) -> int:
        came_us = (int(self._tokens[place]) - tokens) * MICRO // self._rate + int(self._waits[place - seats])
        return int(self._rows[DEADLINE, place]) - ahead_us(self._now_us, self._pace) - came_us


class _Costliest:
    """Names provisional rows, the costliest up to a place first, the newest of equals."""

    def __init__(self, rows: Ints, first: int) -> None:
        self._first = first
        self._keys = rows[KEY]
        self._costs = np.where(rows[PROVISIONAL, first:], rows[COST, first:], -1)
        self._found: list[tuple[int, int, int]] = []
        self._seen = 0
        # What costs less is not among those found; at the beginning nothing is.
        self._floor = _FLOOR_START

    def take(self, until: int) -> int | None:
        """Return the place of the next, who is not named again; None where there is nobody up to the place."""
        begin, self._seen = self._seen, max(self._seen, until + 1 - self._first)
        self._add(begin, self._seen)
        if not self._found and self._floor:
            left = self._costs[: self._seen]
            left = left[left >= 0]
            most = len(left) - _COSTLIEST_AT_ONCE
            self._floor = int(np.partition(left, most)[most]) if most > 0 else 0
            self._add(0, self._seen)
        if not self._found:
            return None
        place = heapq.heappop(self._found)[2]
        self._costs[place - self._first] = -1
        return place

    def _add(self, begin: int, end: int) -> None:
        """Take in what costs as much as the least of those that were looked out."""
        for at in np.flatnonzero(self._costs[begin:end] >= self._floor).tolist():
            place = self._first + begin + at
            heapq.heappush(self._found, (-int(self._costs[begin + at]), -int(self._keys[place]), place))
