"""Is the queue feasible in its order: when each first token would come, against when it was promised.

Sorted integer arrays, one cumulative sum a look; decides nothing about shares, which mark what may give way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Above any deadline in microseconds, so that the tier decides first and the deadline within it.
_TIER: Final = 1 << 52
_MICRO: Final = 1_000_000
# What a plan keeps back of the measured prefill rate.
HEADROOM: Final = 0.95
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


class Plan:
    """The promised requests that wait, in order. Rows are named by the key of their ask, which only rises."""

    def __init__(self) -> None:
        self._orders: Ints = np.empty(0, np.int64)
        self._keys: Ints = np.empty(0, np.int64)
        self._deadlines: Ints = np.empty(0, np.int64)
        self._prefills: Ints = np.empty(0, np.int64)
        self._costs: Ints = np.empty(0, np.int64)
        self._ranks: Ints = np.empty(0, np.int64)
        self._provisional: NDArray[np.bool_] = np.empty(0, np.bool_)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def first(self) -> int | None:
        """The key of the next in order."""
        return int(self._keys[0]) if len(self._keys) else None

    @property
    def prefill(self) -> int:
        """All prompt tokens that wait."""
        return int(self._prefills.sum())

    def first_of(self, rank: int) -> int | None:
        """The key of the next of a class, by the class's rank."""
        found = np.flatnonzero(self._ranks == rank)
        return int(self._keys[found[0]]) if len(found) else None

    def insert(self, order: int, row: tuple[int, int, int, int], *, is_provisional: bool, rank: int = 0) -> int:
        """Add (key, deadline_us, prefill, cost) behind its equals; return its place."""
        at = int(np.searchsorted(self._orders, order, side="right"))
        key, deadline_us, prefill, cost = row
        self._orders = _with(self._orders, at, order)
        self._keys = _with(self._keys, at, key)
        self._deadlines = _with(self._deadlines, at, deadline_us)
        self._prefills = _with(self._prefills, at, prefill)
        self._costs = _with(self._costs, at, cost)
        self._ranks = _with(self._ranks, at, rank)
        self._provisional = _with(self._provisional, at, is_provisional)
        return at

    def remove(self, at: int) -> int:
        """Take out the row at a place; return its key."""
        key = int(self._keys[at])
        self._orders = _without(self._orders, at)
        self._keys = _without(self._keys, at)
        self._deadlines = _without(self._deadlines, at)
        self._prefills = _without(self._prefills, at)
        self._costs = _without(self._costs, at)
        self._ranks = _without(self._ranks, at)
        self._provisional = _without(self._provisional, at)
        return key

    def place_of(self, key: int) -> int:
        """Return where a row stands. Raises `KeyError`."""
        found = np.flatnonzero(self._keys == key)
        if not len(found):
            raise KeyError(key)
        return int(found[0])

    def key_at(self, at: int) -> int:
        """Return the key of the row at a place."""
        return int(self._keys[at])

    def slacks(self, now_us: int, pace: Pace) -> Ints:
        """Return deadline less predicted first token of each row, microseconds."""
        return self._deadlines - self._finishes(now_us, pace, self._prefills)

    def first_late(self, now_us: int, pace: Pace, begin: int) -> int | None:
        """Return the first place from `begin` on whose first token would be late."""
        late = np.flatnonzero(self.slacks(now_us, pace)[begin:] < 0)
        return begin + int(late[0]) if len(late) else None

    def late_count(self, now_us: int, pace: Pace) -> int:
        """Return how many first tokens would be late."""
        return int(np.count_nonzero(self.slacks(now_us, pace) < 0))

    def costliest_provisional(self, until: int) -> int | None:
        """Return the place of the costliest provisional row up to a place, the newest of equals; None without any."""
        found = np.flatnonzero(self._provisional[: until + 1])
        if not len(found):
            return None
        costs = self._costs[found]
        tied = found[costs == costs.max()]
        return int(tied[np.argmax(self._keys[tied])])

    def would_jump_harm(self, now_us: int, pace: Pace, at: int) -> bool:
        """Tell whether granting the row at a place first makes anybody late that would not be late as it stands."""
        ahead = self.slacks(now_us, pace)[:at]
        delay_us = int(self._prefills[at]) * _MICRO / (HEADROOM * pace.rho)
        return bool(((ahead >= 0) & (ahead < delay_us)).any())

    def predicted_us(self, now_us: int, pace: Pace, at: int) -> int:
        """Return when the first token of the row at a place is expected."""
        return int(self._finishes(now_us, pace, self._prefills)[at])

    def _finishes(self, now_us: int, pace: Pace, prefills: Ints) -> Ints:
        rate = max(1, round(HEADROOM * pace.rho))
        ahead_us = now_us + pace.step_us + (pace.prefill_left * _MICRO) // max(1, round(pace.rho))
        finishes = ahead_us + (np.cumsum(prefills) + (pace.replicas - 1) * prefills) * _MICRO // rate
        short = len(finishes) - pace.seats
        if short > 0 and pace.seat_waits_us:
            waits = np.asarray(pace.seat_waits_us[:short], np.int64)
            if len(waits) < short:
                waits = np.pad(waits, (0, short - len(waits)), mode="edge")
            finishes[len(finishes) - short :] += waits
        return finishes


def _with(column: Any, at: int, value: int | bool) -> Any:  # noqa: FBT001 - one cell of a column of either kind
    return np.concatenate((column[:at], np.asarray([value], column.dtype), column[at:]))


def _without(column: Any, at: int) -> Any:
    return np.concatenate((column[:at], column[at + 1 :]))
