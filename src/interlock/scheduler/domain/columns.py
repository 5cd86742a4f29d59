"""The tenants of one large level as arrays, so that its water level costs a hundred microseconds and not a thousand.

Decides nothing; `share.py` says what a level is, and fills small ones one by one.
"""

import math
from collections.abc import Collection
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

COLUMNS_MIN: Final = 64
_DEMAND, _AT, _WEIGHT, _HELD, _COUNTER = range(5)


class Figures(Protocol):
    """What is kept of a tenant; `place` is its row."""

    weight: float
    demand: float
    demand_at_us: int
    held: int
    counter: float
    place: int


class Columns:
    """One row a tenant, in the order in which they came; there is room for as many again."""

    __slots__ = ("_count", "_table")

    def __init__(self, nodes: Collection[Figures]) -> None:
        self._table: NDArray[np.float64] = np.zeros((5, 2 * len(nodes)))
        self._count = 0
        for each in nodes:
            self.add(each)

    def add(self, node: Figures) -> None:
        """Give a tenant its row."""
        if self._count == self._table.shape[1]:
            self._table = np.concatenate((self._table, np.zeros_like(self._table)), axis=1)
        node.place = self._count
        self._count += 1
        self.note(node)

    def note(self, node: Figures) -> None:
        """Take in what changed of a tenant."""
        self._table[:, node.place] = (node.demand, node.demand_at_us, node.weight, node.held, node.counter)

    def fill(self, now_us: int, capacity: float, tau_us: float, active_demand: float) -> tuple[float, int]:
        """Return the water level of the active tenants, infinite where all of them fit, and how many they are.

        What they take together is a concave function of the level, so Newton's steps from below it end at it, after a
        few of them: each takes in the tenants that get all of what they asked for by then.
        """
        rows = self._table[:, : self._count]
        demands = rows[_DEMAND] * np.exp((rows[_AT] - now_us) / tau_us)
        active = (rows[_HELD] > 0) | (demands > active_demand)
        demands, weights = demands[active], rows[_WEIGHT][active]
        count = len(demands)
        if demands.sum() <= capacity:
            return math.inf, count
        ratios, level, met_before = demands / weights, capacity / float(weights.sum()), 0
        while True:
            is_met = ratios <= level
            met = int(np.count_nonzero(is_met))
            if met <= met_before or met == count:
                return level, count
            level = (capacity - float(demands[is_met].sum())) / float(weights[~is_met].sum())
            met_before = met

    def least(self) -> float:
        """Return the counter of the least served tenant that holds something; infinite where nobody does."""
        rows = self._table[:, : self._count]
        held = rows[_COUNTER][rows[_HELD] > 0]
        return float(held.min()) if len(held) else math.inf
