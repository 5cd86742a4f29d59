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
_MICRO: Final = 1_000_000
# What a plan keeps back of the measured prefill rate.
HEADROOM: Final = 0.95
# The columns of a plan; all of them are integers.
_ORDER, _KEY, _DEADLINE, _PREFILL, _COST, _PROVISIONAL, _RANK = range(7)
_COLUMNS: Final = 7
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pace:
    """What a plan counts on: granted tokens still to prefill, rho, free seats, and the waits for further ones.

    `rho` is of all replicas together. They share the queue, but each prompt is read by one of them alone, and a first
    token comes when the step ends that read the last of its prompt: `step_us` is what such steps take.
    """

    prefill_left: int
    rho: float
    seats: int
    seat_waits_us: Sequence[int] = ()
    replicas: int = 1
    step_us: int = 0


def order_key(tier: int, deadline_us: int) -> int:
    """Return what sorts a promised request: its tier, then its deadline."""
    return tier * _TIER + deadline_us


def late_from(slacks: Ints, begin: int) -> int | None:
    """Return the first place from `begin` on whose first token would be late."""
    late = np.flatnonzero(slacks[begin:] < 0)
    return begin + int(late[0]) if len(late) else None


class Plan:
    """The promised requests that wait, in order. Rows are named by the key of their ask, which only rises."""

    def __init__(self) -> None:
        self._table: Ints = np.empty((_COLUMNS, 0), np.int64)

    def __len__(self) -> int:
        return int(self._table.shape[1])

    @property
    def first(self) -> int | None:
        """The key of the next in order."""
        return int(self._table[_KEY, 0]) if len(self) else None

    @property
    def prefill(self) -> int:
        """All prompt tokens that wait."""
        return int(self._table[_PREFILL].sum())

    def first_of(self, rank: int) -> int | None:
        """The key of the next of a class, by the class's rank."""
        found = np.flatnonzero(self._table[_RANK] == rank)
        return int(self._table[_KEY, found[0]]) if len(found) else None

    def insert(self, order: int, row: tuple[int, int, int, int], *, is_provisional: bool, rank: int = 0) -> int:
        """Add (key, deadline_us, prefill, cost) behind its equals; return its place."""
        table = self._table
        at = int(table[_ORDER].searchsorted(order, side="right"))
        cells = np.array(((order,), *((each,) for each in row), (is_provisional,), (rank,)), np.int64)
        self._table = np.concatenate((table[:, :at], cells, table[:, at:]), axis=1)
        return at

    def remove(self, at: int) -> int:
        """Take out the row at a place; return its key."""
        key = int(self._table[_KEY, at])
        self._table = np.concatenate((self._table[:, :at], self._table[:, at + 1 :]), axis=1)
        return key

    def place_of(self, key: int) -> int:
        """Return where a row stands. Raises `KeyError`."""
        found = np.flatnonzero(self._table[_KEY] == key)
        if not len(found):
            raise KeyError(key)
        return int(found[0])

    def key_at(self, at: int) -> int:
        """Return the key of the row at a place."""
        return int(self._table[_KEY, at])

    def look(self, now_us: int, pace: Pace, at: int) -> tuple[bool, int]:
        """Return whether every first token would be in time, and when that of the row at a place is expected."""
        finishes = self._finishes(now_us, pace, self._table[_PREFILL])
        return bool((finishes <= self._table[_DEADLINE]).all()), int(finishes[at])

    def slacks(self, now_us: int, pace: Pace) -> Ints:
        """Return deadline less predicted first token of each row, microseconds."""
        slacks: Ints = self._table[_DEADLINE] - self._finishes(now_us, pace, self._table[_PREFILL])
        return slacks

    def late_count(self, now_us: int, pace: Pace) -> int:
        """Return how many first tokens would be late."""
        return int(np.count_nonzero(self.slacks(now_us, pace) < 0))

    def would_hold(self, now_us: int, pace: Pace, row: tuple[int, int, int], late_before: int) -> bool:
        """Tell whether (order, deadline_us, prefill) would be in time behind its equals, and make nobody else late."""
        order, deadline_us, prefill = row
        at = int(self._table[_ORDER].searchsorted(order, side="right"))
        prefills = np.insert(self._table[_PREFILL], at, prefill)
        finishes = self._finishes(now_us, pace, prefills)
        if finishes[at] > deadline_us:
            return False
        return int(np.count_nonzero(finishes > np.insert(self._table[_DEADLINE], at, deadline_us))) <= late_before

    def costliest_provisional(self, until: int) -> int | None:
        """Return the place of the costliest provisional row up to a place, the newest of equals; None without any."""
        found = np.flatnonzero(self._table[_PROVISIONAL, : until + 1])
        if not len(found):
            return None
        costs = self._table[_COST, found]
        tied = found[costs == costs.max()]
        return int(tied[np.argmax(self._table[_KEY, tied])])

    def would_jump_harm(self, now_us: int, pace: Pace, at: int) -> bool:
        """Tell whether granting the row at a place first makes anybody late that would not be late as it stands."""
        ahead = self.slacks(now_us, pace)[:at]
        delay_us = int(self._table[_PREFILL, at]) * _MICRO / (HEADROOM * pace.rho)
        return bool(((ahead >= 0) & (ahead < delay_us)).any())

    def _finishes(self, now_us: int, pace: Pace, prefills: Ints) -> Ints:
        rate = max(1, round(HEADROOM * pace.rho))
        ahead_us = now_us + pace.step_us + (pace.prefill_left * _MICRO) // max(1, round(pace.rho))
        tokens = np.cumsum(prefills)
        if pace.replicas > 1:
            tokens += (pace.replicas - 1) * prefills
        finishes = ahead_us + tokens * _MICRO // rate
        short = len(finishes) - pace.seats
        if short > 0 and pace.seat_waits_us:
            waits = np.asarray(pace.seat_waits_us[:short], np.int64)
            if len(waits) < short:
                waits = np.pad(waits, (0, short - len(waits)), mode="edge")
            finishes[len(finishes) - short :] += waits
        return finishes
