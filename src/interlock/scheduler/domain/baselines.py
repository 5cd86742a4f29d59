"""The orders that the platform's own is compared with: by arrival, length, class, deadline, service and share.

Each is as published or as commonly run; none refuses by prediction.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.asks import CLASSES, Ask, Fate, MayTake, Room, StepSeen, Take, Verdict
from interlock.scheduler.domain.rates import Rates, kv_tokens
from interlock.scheduler.domain.share import Path

QUEUE_BOUND: Final = 64
Key = Callable[[Ask], tuple[int, ...]]
_RANK: Final = {each: rank for rank, each in enumerate(CLASSES)}


class KeyOrder:
    """A queue ordered by a key that does not change while an ask waits; bounded in length where `bound` is given."""

    def __init__(self, rates: Rates, key: Key, *, has_credits: bool = True, bound: int | None = None) -> None:
        self.has_credits = has_credits
        self._rates = rates
        self._key = key
        self._bound = bound
        self._heap: list[tuple[tuple[int, ...], int, Ask]] = []

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._heap)

    def arrive(self, _now_us: int, ask: Ask, _room: Room) -> list[Verdict]:
        """Queue the ask unless the queue is full."""
        if self._bound is not None and len(self._heap) >= self._bound:
            return [Verdict(ask.key, Fate.QUEUE_FULL)]
        heapq.heappush(self._heap, (self._key(ask), ask.key, ask))
        return [Verdict(ask.key, Fate.QUEUED)]

    def expire(self, _now_us: int) -> list[Verdict]:
        """Let everybody wait."""
        return []

    def next_grant(self, _now_us: int, room: Room, may_take: MayTake | None = None) -> Ask | None:
        """Take the first of the order when it fits."""
        if not self._heap or not self._may_grant(room) or not _fits(self._heap[0][2], room, may_take):
            return None
        return heapq.heappop(self._heap)[2]

    def withdraw(self, key: int) -> None:
        """Take out an ask that still waits."""
        self._heap = [each for each in self._heap if each[1] != key]
        heapq.heapify(self._heap)

    def stepped(self, _now_us: int, seen: StepSeen) -> None:
        """Learn the rates, which give credit."""
        self._rates.learn(seen)

    def settled(self, _now_us: int, _ask: Ask, _output: int, _prefill: int | None = None) -> None:
        """Keep no account."""

    def adopted(self, _now_us: int, _ask: Ask) -> None:
        """Keep no account."""

    def _may_grant(self, room: Room) -> bool:
        return self._rates.has_credit(room) if self.has_credits else room.seats > 0


class FairOrder(KeyOrder):
    """VTC: the tenant that was served least goes first (Sheng et al., Fairness in Serving LLMs, OSDI 2024)."""

    def __init__(self, rates: Rates) -> None:
        super().__init__(rates, lambda ask: (ask.arrived_us,))
        self._queues: dict[Path, deque[Ask]] = {}
        self._counters: dict[Path, int] = {}

    @property
    def queued(self) -> int:
        """How many wait."""
        return sum(len(queue) for queue in self._queues.values())

    def arrive(self, _now_us: int, ask: Ask, _room: Room) -> list[Verdict]:
        """Queue the ask; a tenant that comes back is lifted to the least served of those that wait."""
        if ask.path not in self._queues:
            least = min((self._counters[path] for path in self._queues), default=0)
            self._counters[ask.path] = max(self._counters.get(ask.path, 0), least)
            self._queues[ask.path] = deque()
        self._queues[ask.path].append(ask)
        return [Verdict(ask.key, Fate.QUEUED)]

    def next_grant(self, _now_us: int, room: Room, may_take: MayTake | None = None) -> Ask | None:
        """Take the oldest ask of the least served tenant."""
        if not self._queues or not self._may_grant(room):
            return None
        path = min(self._queues, key=lambda each: (self._counters[each], each))
        queue = self._queues[path]
        if not _fits(queue[0], room, may_take):
            return None
        ask = queue.popleft()
        if not queue:
            del self._queues[path]
        self._counters[path] += ask.cost
        return ask

    def withdraw(self, key: int) -> None:
        """Take out an ask that still waits."""
        for path, queue in list(self._queues.items()):
            kept = deque(each for each in queue if each.key != key)
            if kept:
                self._queues[path] = kept
            else:
                del self._queues[path]

    def settled(self, _now_us: int, ask: Ask, output: int, prefill: int | None = None) -> None:
        """Replace what was predicted in the account by what was used."""
        self._counters[ask.path] += (prefill or ask.prefill) - ask.prefill + 2 * (output - ask.output)

    def adopted(self, _now_us: int, ask: Ask) -> None:
        """Charge what a former leader granted."""
        self._counters[ask.path] = self._counters.get(ask.path, 0) + ask.cost


class BandOrder(KeyOrder):
    """Bands: each class gets its reserved share of service, by arrival within the class (weighted fair queueing)."""

    def __init__(self, rates: Rates) -> None:
        super().__init__(rates, lambda ask: (ask.arrived_us,))
        self._bands: dict[ServiceClass, deque[Ask]] = {each: deque() for each in CLASSES}
        self._served = dict.fromkeys(CLASSES, 0.0)

    @property
    def queued(self) -> int:
        """How many wait."""
        return sum(len(band) for band in self._bands.values())

    def arrive(self, _now_us: int, ask: Ask, _room: Room) -> list[Verdict]:
        """Queue the ask in its band; a band that was empty saves no credit."""
        band = self._bands[ask.service_class]
        if not band:
            others = [self._served[each] for each, queue in self._bands.items() if queue]
            self._served[ask.service_class] = max(self._served[ask.service_class], min(others, default=0.0))
        band.append(ask)
        return [Verdict(ask.key, Fate.QUEUED)]

    def next_grant(self, _now_us: int, room: Room, may_take: MayTake | None = None) -> Ask | None:
        """Take the oldest ask of the band that is furthest behind its share."""
        waiting = [each for each, queue in self._bands.items() if queue]
        if not waiting or not self._may_grant(room):
            return None
        service_class = min(waiting, key=lambda each: (self._served[each], _RANK[each]))
        if not _fits(self._bands[service_class][0], room, may_take):
            return None
        ask = self._bands[service_class].popleft()
        self._served[service_class] += ask.cost / CLASSES[service_class].reserved_share
        return ask

    def withdraw(self, key: int) -> None:
        """Take out an ask that still waits."""
        for service_class, band in self._bands.items():
            self._bands[service_class] = deque(each for each in band if each.key != key)


def _fits(ask: Ask, room: Room, may_take: MayTake | None) -> bool:
    return kv_tokens(ask) <= room.kv_free and (may_take is None or may_take(ask) is Take.YES)


def fcfs(rates: Rates) -> KeyOrder:
    """Arrival order, every free sequence filled at once: what an engine does by itself."""
    return KeyOrder(rates, lambda ask: (ask.arrived_us,), has_credits=False)


def fcfs_bound(rates: Rates) -> KeyOrder:
    """Arrival order behind a queue of 64."""
    return KeyOrder(rates, lambda ask: (ask.arrived_us,), has_credits=False, bound=QUEUE_BOUND)


def sjf(rates: Rates) -> KeyOrder:
    """The least predicted work first."""
    return KeyOrder(rates, lambda ask: (ask.cost, ask.arrived_us))


def priority(rates: Rates) -> KeyOrder:
    """Classes strictly one before the other, by arrival within."""
    return KeyOrder(rates, lambda ask: (_RANK[ask.service_class], ask.arrived_us))


def edf(rates: Rates) -> KeyOrder:
    """The earliest deadline first, met or not."""
    return KeyOrder(rates, lambda ask: (ask.deadline_us,))
