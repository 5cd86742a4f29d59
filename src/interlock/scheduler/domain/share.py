"""Who gets how much of a pool: offered demand, the water level, and debt in weighted tokens.

Decides no order and refuses nothing; `promises.py` asks whether a tenant is over its share and how deep in debt.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from interlock.scheduler.domain.columns import COLUMNS_MIN, Columns

Path = tuple[str, ...]
DEMAND_TAU_US: Final = 10_000_000
_ACTIVE_DEMAND: Final = 1.0
# A sum that was kept up to date may be off by its last digits.
_SURELY: Final = 1 - 1e-9


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
    place: int = -1

    def demand_now(self, now_us: int) -> float:
        """Return the offered weighted tokens a second, decayed to now."""
        return self.demand * math.exp((self.demand_at_us - now_us) / DEMAND_TAU_US)

    def is_active(self, now_us: int) -> bool:
        """Whether it holds something or asked for something not long ago."""
        return self.held > 0 or self.demand_now(now_us) > _ACTIVE_DEMAND

    def offer(self, now_us: int, cost: int) -> None:
        """Add what a request would cost."""
        self.demand = self.demand_now(now_us) + cost * 1_000_000 / DEMAND_TAU_US
        self.demand_at_us = now_us


@dataclass(frozen=True, slots=True)
class Standing:
    """How a tenant stands at the level where it is furthest over its share, or at the last one."""

    demand_tps: float
    share_tps: float
    debt_tokens: float
    excess: float

    @property
    def is_over_share(self) -> bool:
        """Whether its requests are provisional."""
        return self.excess > 1.0


@dataclass(slots=True)
class Shares:
    """The tree organization, workspace, key of one pool; `weights` by the id of a node, 1 where none is set."""

    share_level: float = 0.8
    weights: Mapping[str, float] = field(default_factory=dict)
    _levels: dict[Path, dict[str, Node]] = field(default_factory=dict)
    _columns: dict[Path, Columns] = field(default_factory=dict)
    _chains: dict[Path, tuple[tuple[Path, Node], ...]] = field(default_factory=dict)
    # All demand of a level and when that was so. It decays as one, so a level that fits is seen without a look at it.
    _totals: dict[Path, tuple[float, int]] = field(default_factory=dict)
    # What was last found of a level, as long as nothing in it changed: (now, capacity, water level, active).
    _fills: dict[Path, tuple[int, float, float, int]] = field(default_factory=dict)
    # The least counter of those below a parent that hold something, infinite where none does.
    _least: dict[Path, float] = field(default_factory=dict)

    def offer(self, now_us: int, path: Path, cost: int) -> None:
        """Note an arrival, refused ones included."""
        for parent, node in self._chain(path):
            total = self._total(now_us, parent)
            node.offer(now_us, cost)
            self._totals[parent] = (total + cost * 1_000_000 / DEMAND_TAU_US, now_us)
            self._changed(parent, node)

    def enter(self, path: Path) -> None:
        """Note a request that is queued. A node that becomes active saves no credit from its idle time."""
        for parent, node in self._chain(path):
            if node.held == 0:
                node.counter = max(node.counter, self._least_of(parent, node.counter))
                self._least[parent] = min(self._least[parent], node.counter)
            node.held += 1
            if node.held == 1:
                self._changed(parent, node, is_active_anyway=node.demand > _ACTIVE_DEMAND)

    def leave(self, path: Path) -> None:
        """Note that a request is neither queued nor granted any more."""
        for parent, node in self._chain(path):
            node.held -= 1
            if node.held == 0:
                if node.counter <= self._least.get(parent, -math.inf):
                    del self._least[parent]
                self._changed(parent, node)

    def charge(self, path: Path, cost: int) -> None:
        """Charge weighted tokens at the grant; a negative cost refunds."""
        for parent, node in self._chain(path):
            before = node.counter
            node.counter += cost / node.weight
            least = self._least.get(parent, -math.inf)
            # Who was the least served may be it no more; anybody else only by a refund.
            if before <= least or node.counter < least:
                del self._least[parent]
            columns = self._columns.get(parent)
            if columns is not None:
                columns.note(node)

    def debt(self, path: Path) -> float:
        """Return the largest lead over the least served active sibling on the path, weighted tokens."""
        worst = 0.0
        for parent, node in self._chain(path):
            worst = max(worst, node.counter - self._least_of(parent, node.counter))
        return worst

    def excess(self, now_us: int, path: Path, capacity: float) -> float:
        """Return the largest `demand / (share_level x w x weight)` on the path; above 1 is over-share.

        Each level divides what the level above gives; a node without active siblings passes its parent's share on.
        """
        return max((found[2] for found in self._levels_of(now_us, path, capacity)), default=0.0)

    def inside(self, now_us: int, paths: Iterable[Path], capacity: float) -> list[Path]:
        """Return those of the paths that are inside their share now; each level is filled once for all of them."""
        fills: dict[Path, tuple[float, bool]] = {}
        return [path for path in paths if self._is_inside(now_us, path, capacity, fills)]

    def _is_inside(self, now_us: int, path: Path, capacity: float, fills: dict[Path, tuple[float, bool]]) -> bool:
        share = capacity
        for parent, node in self._chain(path):
            if parent not in fills:
                level, count = self._fill(now_us, parent, share)
                fills[parent] = (level, count > 1)
            level, has_siblings = fills[parent]
            if math.isinf(level):
                return True
            demand, share = node.demand_now(now_us), level * node.weight
            if has_siblings and demand > self.share_level * share:
                return False
            share = min(demand, share)
        return True

    def standing(self, now_us: int, path: Path, capacity: float) -> Standing:
        """Return where a tenant stands, in the figures that its own refusals show."""
        levels = list(self._levels_of(now_us, path, capacity))
        if not levels:
            demand = self._chain(path)[0][1].demand_now(now_us)
            return Standing(demand, capacity, self.debt(path), 0.0)
        worst = max(levels, key=lambda found: found[2])
        return Standing(worst[0], worst[1], self.debt(path), worst[2])

    def own_standing(self, now_us: int, path: Path, capacity: float) -> Standing:
        """Return where one node stands among its siblings alone; what is above it on its path is in their own rows."""
        share = available = capacity
        demand = excess = 0.0
        for parent, node in self._chain(path):
            level, count = self._fill(now_us, parent, available)
            demand, share, excess = node.demand_now(now_us), available, 0.0
            if not math.isinf(level):
                share = level * node.weight
                excess = demand / (self.share_level * share) if count > 1 else 0.0
                available = min(demand, share)
        parent, node = self._chain(path)[-1]
        return Standing(demand, share, max(0.0, node.counter - self._least_of(parent, node.counter)), excess)

    def level(self, now_us: int, capacity: float) -> float:
        """Return the water level over all organizations; infinite while the demands fit."""
        return self._fill(now_us, (), capacity)[0]

    def active_paths(self, now_us: int) -> list[Path]:
        """Return the nodes that hold something or asked for something not long ago."""
        return [
            (*parent, name)
            for parent, level in self._levels.items()
            for name, node in level.items()
            if node.is_active(now_us)
        ]

    def dump(self) -> list[list[Any]]:
        """Return path, demand and counter of each node, those that ask for most first."""
        nodes: list[tuple[list[str], float, int, float]] = [
            ([*parent, name], node.demand, node.demand_at_us, node.counter)
            for parent, level in self._levels.items()
            for name, node in level.items()
        ]
        newest_us = max((each[2] for each in nodes), default=0)
        return [
            [path, demand * math.exp((at_us - newest_us) / DEMAND_TAU_US), counter]
            for path, demand, at_us, counter in sorted(nodes, key=lambda each: (-each[1], each[0]))
        ]

    def load(self, now_us: int, nodes: Sequence[Sequence[Any]]) -> None:
        """Take the nodes of a checkpoint."""
        for path, demand, counter in nodes:
            _, node = self._chain(tuple(path))[-1]
            node.demand, node.demand_at_us, node.counter = float(demand), now_us, float(counter)
        self._forget_columns()

    def reweigh(self, weights: Mapping[str, float]) -> None:
        """Take other weights from now on."""
        self.weights = weights
        for level in self._levels.values():
            for name, node in level.items():
                node.weight = weights.get(name, 1.0)
        self._forget_columns()

    def forget(self, now_us: int) -> None:
        """Drop the nodes that hold and ask for nothing and are owed nothing: they would come back the same."""
        for parent in list(self._levels):
            level = self._levels[parent]
            least = min((each.counter for each in level.values() if each.held), default=math.inf)
            for name in [name for name, node in level.items() if node.counter <= least and not node.is_active(now_us)]:
                del level[name]
            if not level:
                del self._levels[parent]
        self._chains.clear()
        self._forget_columns()

    def _levels_of(self, now_us: int, path: Path, capacity: float) -> Iterator[tuple[float, float, float]]:
        """Yield demand, share and excess of each level of a path at which there is less than is asked for."""
        share = capacity
        for parent, node in self._chain(path):
            level, count = self._fill(now_us, parent, share)
            demand = node.demand_now(now_us)
            if math.isinf(level):
                return
            share = level * node.weight
            yield demand, share, demand / (self.share_level * share) if count > 1 else 0.0
            share = min(demand, share)

    def _fill(self, now_us: int, parent: Path, capacity: float) -> tuple[float, int]:
        """Return the water level of the active nodes below a parent, and how many they are where it is finite."""
        if self._total(now_us, parent) <= capacity * _SURELY:
            return math.inf, 0
        found = self._fills.get(parent)
        if found is not None and found[:2] == (now_us, capacity):
            return found[2:]
        nodes = self._levels.get(parent, {})
        if len(nodes) < COLUMNS_MIN:
            active = [each for each in nodes.values() if each.is_active(now_us)]
            level = water_level([(each.demand_now(now_us), each.weight) for each in active], capacity)
            count = len(active)
        else:
            level, count = self._columns_of(parent).fill(now_us, capacity, DEMAND_TAU_US, _ACTIVE_DEMAND)
        self._fills[parent] = (now_us, capacity, level, count)
        return level, count

    def _least_of(self, parent: Path, default: float) -> float:
        """Return the counter of the least served node that holds something below a parent."""
        found = self._least.get(parent)
        if found is None:
            nodes = self._levels[parent]
            if len(nodes) < COLUMNS_MIN:
                found = min((each.counter for each in nodes.values() if each.held), default=math.inf)
            else:
                found = self._columns_of(parent).least()
            self._least[parent] = found
        return default if math.isinf(found) else found

    def _columns_of(self, parent: Path) -> Columns:
        columns = self._columns.get(parent)
        if columns is None:
            columns = self._columns[parent] = Columns(self._levels[parent].values())
        return columns

    def _changed(self, parent: Path, node: Node, *, is_active_anyway: bool = False) -> None:
        fill = self._fills.get(parent)
        # Who has just offered something counts before it holds it.
        if fill is not None and not (is_active_anyway and fill[0] == node.demand_at_us):
            del self._fills[parent]
        columns = self._columns.get(parent)
        if columns is not None:
            columns.note(node)

    def _forget_columns(self) -> None:
        self._columns.clear()
        self._totals.clear()
        self._fills.clear()
        self._least.clear()

    def _total(self, now_us: int, parent: Path) -> float:
        """Return the demand of all nodes below a parent, those included that are not active any more."""
        found = self._totals.get(parent)
        if found is None:
            total = sum(each.demand_now(now_us) for each in self._levels.get(parent, {}).values())
            self._totals[parent] = (total, now_us)
            return total
        total, at_us = found
        return total if at_us == now_us else total * math.exp((at_us - now_us) / DEMAND_TAU_US)

    def _chain(self, path: Path) -> tuple[tuple[Path, Node], ...]:
        """Return parent and node of each level of a path; who is new begins here."""
        chain = self._chains.get(path)
        if chain is None:
            chain = self._chains[path] = tuple(
                (path[:depth], self._node(path[:depth], name)) for depth, name in enumerate(path)
            )
        return chain

    def _node(self, parent: Path, name: str) -> Node:
        level = self._levels.setdefault(parent, {})
        node = level.get(name)
        if node is None:
            node = level[name] = Node(self.weights.get(name, 1.0))
            if parent in self._columns:
                self._columns[parent].add(node)
        return node
