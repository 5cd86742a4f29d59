"""Is the queue feasible in its order: when each first token would come, against when it was promised.

Sorted integer arrays, one cumulative sum a look; decides nothing about shares, which mark what may give way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Above any deadline in microseconds, so that the tier decides first and the deadline within it.
_TIER: Final = 1 << 52
MICRO: Final = 1_000_000
# What a plan keeps back of the measured prefill rate.
HEADROOM: Final = 0.95
# The columns of a plan; all of them are integers.
ORDER, KEY, DEADLINE, PREFILL, COST, PROVISIONAL, RANK, NOTED = range(8)
_COLUMNS: Final = 8
_ROWS_MIN: Final = 64
Ints = NDArray[np.int64]
_NOTHING: Final[Ints] = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class Pace:
    """What a plan counts on: granted tokens still to prefill, rho, free seats, and the waits for further ones.

    `rho` is of all replicas together. They share the queue, but each prompt is read by one of them alone, and a first
    token comes when the step ends that read the last of its prompt: `step_us` is what such steps take. Who is behind
    all that run now waits for those before it in the queue as well, each of whom holds its seat for `hold_us`.
    """

    prefill_left: int
    rho: float
    seats: int
    seat_waits_us: Sequence[int] = ()
    hold_us: int = 0
    replicas: int = 1
    step_us: int = 0


def order_key(tier: int, deadline_us: int) -> int:
    """Return what sorts a promised request: its tier, then its deadline."""
    return tier * _TIER + deadline_us


class Plan:
    """The promised requests that wait, in order. Rows are named by the key of their ask, which only rises."""

    def __init__(self) -> None:
        self._rows: Ints = np.empty((_COLUMNS, _ROWS_MIN), np.int64)
        self._table = self._rows[:, :0]
        self._orders: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._orders)

    @property
    def first(self) -> int | None:
        """The key of the next in order."""
        return self.key_at(0) if self._orders else None

    @property
    def rows(self) -> Ints:
        """The columns of what waits, in order; whoever reads them changes nothing."""
        return self._table

    @property
    def prefill(self) -> int:
        """All prompt tokens that wait."""
        return int(self._table[PREFILL].sum())

    def first_of(self, rank: int) -> int | None:
        """The key of the next of a class, by the class's rank."""
        found = np.flatnonzero(self._table[RANK] == rank)
        return self.key_at(int(found[0])) if len(found) else None

    def insert(self, order: int, row: tuple[int, int, int, int], *, is_provisional: bool, rank: int = 0) -> int:
        """Add (key, deadline_us, prefill, cost) behind its equals; return its place."""
        count, at = len(self), self._behind(order)
        if count == self._rows.shape[1]:
            self._rows = np.concatenate((self._rows, np.empty_like(self._rows)), axis=1)
        for column in self._rows:
            column[at + 1 : count + 1] = column[at:count]
        self._rows[:, at] = (order, *row, is_provisional, rank, False)
        self._orders[row[0]] = order
        self._table = self._rows[:, : count + 1]
        return at

    def remove(self, at: int) -> int:
        """Take out the row at a place; return its key."""
        key, count = self.key_at(at), len(self)
        for column in self._rows:
            column[at : count - 1] = column[at + 1 : count]
        del self._orders[key]
        self._table = self._rows[:, : count - 1]
        return key

    def place_of(self, key: int) -> int:
        """Return where a row stands: it is looked for among its equals, which are few. Raises `KeyError`."""
        at = int(self._table[ORDER].searchsorted(self._orders[key]))
        keys = self._table[KEY]
        while keys[at] != key:
            at += 1
        return at

    def raise_tier(self, key: int, tier: int) -> None:
        """Put a row of another tier into this one."""
        at = self.place_of(key)
        deadline_us, prefill, cost, provisional, rank = (int(each) for each in self._table[DEADLINE:NOTED, at])
        self.remove(at)
        row = (key, deadline_us, prefill, cost)
        self.insert(order_key(tier, deadline_us), row, is_provisional=bool(provisional), rank=rank)

    def note(self, places: Sequence[int]) -> int:
        """Mark rows; return how many of them were not marked before."""
        at = np.asarray(places, np.int64)
        fresh = len(at) - int(self._table[NOTED, at].sum())
        self._table[NOTED, at] = True
        return fresh

    def holds(self, key: int) -> bool:
        """Tell whether a row is there."""
        return key in self._orders

    def key_at(self, at: int) -> int:
        """Return the key of the row at a place."""
        return int(self._table[KEY, at])

    def up_to(self, tier: int) -> Ints:
        """Return the rows of the tiers up to one."""
        return self._table[:, : self._behind(order_key(tier + 1, -1))]

    def slacks(self, now_us: int, pace: Pace) -> Ints:
        """Return deadline less predicted first token of each row, microseconds."""
        tokens = np.cumsum(self._table[PREFILL])
        if pace.replicas > 1:
            tokens += (pace.replicas - 1) * self._table[PREFILL]
        slacks: Ints = self._table[DEADLINE] - tokens * MICRO // plan_rate(pace)
        slacks -= ahead_us(now_us, pace)
        slacks -= seat_waits(pace, len(self))
        return slacks

    def would_hold(self, now_us: int, pace: Pace, rows: Sequence[tuple[int, int, int]]) -> list[bool]:
        """Tell of each (order, deadline_us, prefill) whether it would be in time behind its equals, delaying none.

        What stands before such a row is untouched by it; what stands behind it comes later by its prompt, and waits for
        one seat more where seats are short.
        """
        rate, begins_us, prefills = plan_rate(pace), ahead_us(now_us, pace), self._table[PREFILL]
        waits = seat_waits(pace, len(self) + 1)
        left = self._table[DEADLINE] - begins_us
        before = np.cumsum(prefills)
        tokens = before + (pace.replicas - 1) * prefills
        is_late = tokens * MICRO // rate + waits[:-1] > left
        held = []
        for order, deadline_us, prefill in rows:
            at = self._behind(order)
            own = (int(before[at - 1]) if at else 0) + pace.replicas * prefill
            is_own_late = own * MICRO // rate + int(waits[at]) > deadline_us - begins_us
            is_behind_late = (tokens[at:] + prefill) * MICRO // rate + waits[at + 1 :] > left[at:]
            held.append(not is_own_late and bool((is_behind_late == is_late[at:]).all()))
        return held

    def first_broken(self, now_us: int, pace: Pace, kept: "Kept", row: tuple[int, int], *, is_in: bool) -> int | None:
        """Return when the first kept place comes that a row (order, prefill) makes late; None where all hold.

        `is_in` says that the row is in the plan already. A place that is late anyway is no reason against anybody, and
        one of a tenant over its share none against who is inside.
        """
        order, prefill = row
        places = kept.places.up_to(1 if order >= _TIER else 0)
        begin = int(places[ORDER].searchsorted(order, side="right"))
        if begin == places.shape[1]:
            return None
        before = np.concatenate((_NOTHING, np.cumsum(self._table[PREFILL])))
        tokens = before[self._table[ORDER].searchsorted(places[ORDER, begin:], side="right")]
        tokens += np.cumsum(places[PREFILL])[begin:] * kept.honoured_percent // 100 + (0 if is_in else prefill)
        rate, begins_us = plan_rate(pace), ahead_us(now_us, pace)
        left_us = places[DEADLINE, begin:] - begins_us
        broken = (tokens * MICRO // rate > left_us) & ((tokens - prefill) * MICRO // rate <= left_us)
        found = np.flatnonzero(broken)
        return None if not len(found) else begins_us + int(tokens[found[0]]) * MICRO // rate

    def would_jump_harm(self, now_us: int, pace: Pace, at: int) -> bool:
        """Tell whether granting the row at a place first makes anybody late that would not be late as it stands."""
        ahead = self.slacks(now_us, pace)[:at]
        delay_us = int(self._table[PREFILL, at]) * MICRO / (HEADROOM * pace.rho)
        return bool(((ahead >= 0) & (ahead < delay_us)).any())

    def _behind(self, order: int) -> int:
        return int(self._table[ORDER].searchsorted(order, side="right"))


@dataclass(frozen=True, slots=True)
class Kept:
    """Places that were told to callers who are to come back, and how many of a hundred such callers do."""

    places: Plan
    honoured_percent: int


def ahead_us(now_us: int, pace: Pace) -> int:
    """Return when the first waiting prompt can begin to be read."""
    return now_us + pace.step_us + (pace.prefill_left * MICRO) // max(1, round(pace.rho))


def plan_rate(pace: Pace) -> int:
    """Return the tokens a second that a plan counts on."""
    return max(1, round(HEADROOM * pace.rho))


def seat_waits(pace: Pace, count: int) -> Ints:
    """Return how long each of so many rows waits for a seat that is not free yet.

    The seats come free in the order of their waits, and again each `hold_us`; without that all behind the last known
    wait would be alike, and a queue longer than the seats be promised what only its beginning gets.
    """
    waits, seats = np.zeros(count, np.int64), max(0, pace.seats)
    if pace.seat_waits_us and count > seats:
        waits[seats:] = _free_us(pace.seat_waits_us, pace.hold_us, count - seats)
    return waits


def _free_us(waits_us: Sequence[int], hold_us: int, count: int) -> Ints:
    """Return when so many seats come free, in order: each of those in use, and again after each turn of all of them."""
    known = np.asarray(waits_us, np.int64)
    if count <= len(known):
        return known[:count]
    if not hold_us:
        return np.concatenate((known, np.full(count - len(known), known[-1])))
    turn_us = max(hold_us, int(known[-1] - known[0]))
    turns = np.arange(-(-count // len(known)), dtype=np.int64) * turn_us
    free: Ints = (turns[:, None] + known).ravel()
    return free[:count]
