"""Settlements on their way to the schedulers, in a lane a pool: one whose scheduler is slow or away delays no other.

Asks nobody; `grants.py` does, and says here whether the scheduler has heard. What is given up is counted, logged and
told to `given_up`; the scheduler ends such a grant when its lease is over.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

import structlog

from interlock.contracts.scheduling import GrantRequest, Settlement
from interlock.foundation.clock import Clock
from interlock.gateway.config import EdgeConfig
from interlock.gateway.service.passage import HeldGrant

log = structlog.get_logger("interlock.gateway")


@dataclass(frozen=True, slots=True)
class Closed:
    """A grant that is given back, until the scheduler knows; `at` is when, by the monotonic clock.

    Without a grant: whoever asked left before the answer came, and it may have been given meanwhile.
    """

    asked: GrantRequest
    grant: HeldGrant | None
    at: float
    settlement: Settlement
    request_id: UUID
    organization_id: UUID | None
    workspace_id: UUID | None

    @property
    def lane(self) -> str:
        """Who has to hear of it: the scheduler of its pool, or this edge alone, where it gave the place itself."""
        is_own = self.grant is not None and self.grant.granted.promise == "none"
        return f"{self.asked.pool} without its scheduler" if is_own else self.asked.pool


@dataclass(slots=True)
class _Lane:
    """What waits of one pool, oldest first, beside the one that is on its way."""

    waiting: deque[Closed] = field(default_factory=deque)
    in_hand: Closed | None = None
    is_running: bool = False
    given_up: int = 0
    has_told: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def length(self) -> int:
        return len(self.waiting) + (self.in_hand is not None)

    def hurry(self, request_id: UUID) -> bool:
        """Let those of a request go first; return whether there are any."""
        for each in [each for each in self.waiting if each.request_id == request_id]:
            self.waiting.remove(each)
            self.waiting.appendleft(each)
        ahead = (self.in_hand, *islice(self.waiting, 1))
        return any(each is not None and each.request_id == request_id for each in ahead)


Tell = Callable[[Closed], Awaitable[bool]]


class Settlements:
    """Lanes of all pools. `tell` returns False where the scheduler has to be told again."""

    def __init__(self, tell: Tell, given_up: Callable[[Closed], None], clock: Clock, config: EdgeConfig) -> None:
        self._tell = tell
        self._given_up = given_up
        self._clock = clock
        self._config = config
        self._lanes: dict[str, _Lane] = {}
        self._group: asyncio.TaskGroup | None = None
        self._requests: Counter[UUID] = Counter()
        self.dropped_total = 0

    @property
    def waiting(self) -> int:
        """Settlements that no scheduler has heard of, of all pools."""
        return sum(each.length for each in self._lanes.values())

    def longest(self) -> int:
        """Return how many wait of the pool of which most do."""
        return max((each.length for each in self._lanes.values()), default=0)

    def add(self, closed: Closed) -> None:
        """Take one in. At the bound of its pool, or of all, the oldest is given up, of all pools where most wait.

        What is on its way is not given up: where nothing else is left, one more is held than the bound of all.
        """
        pool = closed.lane
        lane = self._lanes.setdefault(pool, _Lane())
        if lane.length >= self._config.settlements_pool_max:
            self._give_up(pool, lane)
        elif self.waiting >= self._config.grants_held_max:
            most, longest = max(self._lanes.items(), key=lambda each: len(each[1].waiting))
            if longest.waiting:
                self._give_up(most, longest)
        lane.waiting.append(closed)
        self._requests[closed.request_id] += 1
        self._start(pool, lane)

    def holds(self, request_id: UUID) -> bool:
        """Return whether something is left to be told of a request."""
        return request_id in self._requests

    async def heard(self, request_id: UUID) -> None:
        """Wait until nothing is left to be told of a request, which goes first; a scheduler has one grant of each."""
        while self.holds(request_id):
            lane = next((each for each in self._lanes.values() if each.hurry(request_id)), None)
            if lane is None:
                return
            lane.has_told.clear()
            await lane.has_told.wait()

    async def run(self) -> None:
        """Tell the schedulers until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for pool, lane in list(self._lanes.items()):
                    self._start(pool, lane)
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    def _start(self, pool: str, lane: _Lane) -> None:
        if self._group is None or lane.is_running:
            return
        lane.is_running = True
        emptying = self._empty(pool, lane)
        try:
            self._group.create_task(emptying)
        except RuntimeError:
            # The group ends, and with it this worker.
            emptying.close()

    async def _empty(self, pool: str, lane: _Lane) -> None:
        while lane.waiting:
            lane.in_hand = closed = lane.waiting.popleft()
            is_heard = await self._tell(closed)
            lane.in_hand = None
            if is_heard:
                self._end(closed, lane)
            else:
                lane.waiting.appendleft(closed)
                await self._clock.sleep(self._config.progress_interval_s)
        if lane.given_up:
            log.warning("settlements_heard_again", pool=pool, given_up=lane.given_up)
        del self._lanes[pool]

    def _give_up(self, pool: str, lane: _Lane) -> None:
        """Give up the oldest: its lease is the first to end."""
        if not lane.given_up:
            log.warning("settlements_given_up", pool=pool, waiting=lane.length)
        lane.given_up += 1
        self.dropped_total += 1
        closed = lane.waiting.popleft()
        self._end(closed, lane)
        self._given_up(closed)

    def _end(self, closed: Closed, lane: _Lane) -> None:
        self._requests[closed.request_id] -= 1
        if not self._requests[closed.request_id]:
            del self._requests[closed.request_id]
        lane.has_told.set()
