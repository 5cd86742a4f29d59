"""The tenants of one large level as arrays, so that its water level costs a hundred microseconds and not a thousand.

Decides nothing; `share.py` says what a level is, and fills small ones one by one.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

COLUMNS_MIN: Final = 64
Floats = NDArray[np.float64]


class Figures(Protocol):
    """What is kept of a tenant; `place` is its row."""

    weight: float
    demand: float
    demand_at_us: int
    held: int
    place: int


@dataclass(slots=True)
class Columns:
    """One row a tenant, in the order in which they came."""

    demand: Floats
    at_us: Floats
    weight: Floats
    held: Floats

    @classmethod
    def of(cls, nodes: Iterable[Figures]) -> "Columns":
        """Number the tenants and return their columns."""
        rows = list(nodes)
        empty = [np.zeros(len(rows)) for _ in range(4)]
        made = cls(*empty)
        for place, each in enumerate(rows):
            each.place = place
            made.note(each)
        return made

    def note(self, node: Figures) -> None:
        """Take in what changed of a tenant."""
        at = node.place
        self.demand[at], self.at_us[at] = node.demand, node.demand_at_us
        self.weight[at], self.held[at] = node.weight, node.held

    def fill(self, now_us: int, capacity: float, tau_us: float, active_demand: float) -> tuple[float, int]:
        """Return the water level of the active tenants, infinite where all of them fit, and how many they are."""
        demands = self.demand * np.exp((self.at_us - now_us) / tau_us)
        active = (self.held > 0) | (demands > active_demand)
        demands, weights = demands[active], self.weight[active]
        count = len(demands)
        if demands.sum() <= capacity:
            return math.inf, count
        ratios = demands / weights
        order = np.argsort(ratios, kind="stable")
        demands, weights = demands[order], weights[order]
        left = capacity - (np.cumsum(demands) - demands)
        levels = left / np.maximum(weights.sum() - (np.cumsum(weights) - weights), 1e-12)
        above = np.flatnonzero(ratios[order] > levels)
        return (float(levels[above[0]]) if len(above) else math.inf), count
