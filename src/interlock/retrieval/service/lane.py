"""How many searches run at once, and how many may wait for their turn; one more is refused.

Knows nothing of deadlines: a caller that gives up leaves the queue by being cancelled.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from interlock.foundation.errors import InterlockError


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """What runs and waits now, and how many were refused since the start."""

    running: int
    running_max: int
    waiting: int
    waiting_max: int
    refused: int


class Lane:
    """Turns in order of arrival."""

    def __init__(self, running_max: int, waiting_max: int) -> None:
        self._turns = asyncio.Semaphore(running_max)
        self._running_max = running_max
        self._waiting_max = waiting_max
        self._running = self._waiting = self._refused = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Raises `search_overloaded` where too many wait already."""
        if self._turns.locked() and self._waiting >= self._waiting_max:
            self._refused += 1
            raise InterlockError("search_overloaded")
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._turns.release()

    def statistics(self) -> LaneStatistics:
        return LaneStatistics(self._running, self._running_max, self._waiting, self._waiting_max, self._refused)
