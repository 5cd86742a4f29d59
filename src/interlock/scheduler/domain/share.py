"""Who gets how much of a pool: offered demand, the water level, and debt in weighted tokens.

Decides no order and refuses nothing; `promises.py` asks whether a tenant is over its share and how deep in debt.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

Path = tuple[str, ...]
DEMAND_TAU_US: Final = 10_000_000
_ACTIVE_DEMAND: Final = 1.0


def water_level(demands: Sequence[tuple[float, float]], capacity: float) -> float:
    """Return w with `sum(min(demand, w x weight)) = capacity` over (demand, weight) pairs; infinite when all fit.

    Max-min fairness by progressive filling (Bertsekas and Gallager, Data Networks, section 6.5.2).
    """
    left, weights = capacity, sum(weight for _, weight in demands)
    if sum(demand for demand, _ in demands) <= capacity:
        return math.inf
    for demand, weight in sorted(demands, key=lambda each: each[0] / each[1]):
        level = left / weights
        if demand / weight > level:
            return level
        left -= demand
        weights -= weight
    return math.inf


@dataclass(slots=True)
class Node:
    """One tenant of one level. `held` counts what it has queued and granted, `counter` its weighted service."""

    weight: float = 1.0
    demand: float = 0.0
    demand_at_us: int = 0
    held: int = 0
    counter: float = 0.0

    def demand_now(self, now_us: int) -> float:
        """Return the offered weighted tokens a second, decayed to now."""
        return self.demand * math.exp((self.demand_at_us - now_us) / DEMAND_TAU_US)

    def offer(self, now_us: int, cost: int) -> None:
        """Add what a request would cost."""
        self.demand = self.demand_now(now_us) + cost * 1_000_000 / DEMAND_TAU_US
        self.demand_at_us = now_us


@dataclass(slots=True)
class Shares:
    """The tree organization, workspace, key of one pool; `weights` by path, 1 where none is set."""

    share_level: float = 0.8
    weights: Mapping[Path, float] = field(default_factory=dict)
    _levels: dict[Path, dict[str, Node]] = field(default_factory=dict)

    def offer(self, now_us: int, path: Path, cost: int) -> None:
        """Note an arrival, refused ones included."""
        for node in self._along(path):
            node.offer(now_us, cost)

    def enter(self, path: Path) -> None:
        """Note a request that is queued. A node that becomes active saves no credit from its idle time."""
        for depth, node in enumerate(self._along(path)):
            if node.held == 0:
                others = [
                    each.counter for each in self._levels[path[:depth]].values() if each.held and each is not node
                ]
                node.counter = max(node.counter, min(others, default=node.counter))
            node.held += 1

    def leave(self, path: Path) -> None:
        """Note that a request is neither queued nor granted any more."""
        for node in self._along(path):
            node.held -= 1

    def charge(self, path: Path, cost: int) -> None:
        """Charge weighted tokens at the grant; a negative cost refunds."""
        for node in self._along(path):
            node.counter += cost / node.weight

    def debt(self, path: Path) -> float:
        """Return the largest lead over the least served active sibling on the path, weighted tokens."""
        worst = 0.0
        for depth, node in enumerate(self._along(path)):
            least = min(
                (each.counter for each in self._levels[path[:depth]].values() if each.held), default=node.counter
            )
            worst = max(worst, node.counter - least)
        return worst

    def excess(self, now_us: int, path: Path, capacity: float) -> float:
        """Return the largest `demand / (share_level x w x weight)` on the path; above 1 is over-share.

        Each level divides what the level above gives; a node without active siblings passes its parent's share on.
        """
        worst, share = 0.0, capacity
        for depth, node in enumerate(self._along(path)):
            active = self._active(now_us, path[:depth])
            level = water_level([(each.demand_now(now_us), each.weight) for each in active], share)
            if math.isinf(level):
                return worst
            if len(active) > 1:
                worst = max(worst, node.demand_now(now_us) / (self.share_level * level * node.weight))
            share = min(node.demand_now(now_us), level * node.weight)
        return worst

    def _active(self, now_us: int, parent: Path) -> list[Node]:
        return [
            each
            for each in self._levels[parent].values()
            if each.held or each.demand_now(now_us) > _ACTIVE_DEMAND
        ]  # fmt: skip

    def _along(self, path: Path) -> Iterable[Node]:
        for depth, name in enumerate(path):
            level = self._levels.setdefault(path[:depth], {})
            node = level.get(name)
            if node is None:
                node = level[name] = Node(self.weights.get(path[: depth + 1], 1.0))
            yield node
