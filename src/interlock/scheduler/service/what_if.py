"""What another load, or another number of engines, would have made of a pool's last hour.

The figures are those of `interlock scheduler replay` on the trace that the page offers. At most so many simulations
run at once; whoever comes then is told so. Changes nothing of the pool.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain import last_hour
from interlock.scheduler.domain.last_hour import Asked, Fleet, HourRow
from interlock.scheduler.service.reading import Decisions

HOUR_US = 3_600_000_000
Replayed = Callable[[str, Sequence[str], float], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Hour:
    """What came in the last hour, or in its end where that was more than may be simulated."""

    rows: Sequence[HourRow]
    rate_rps: float
    is_cut: bool

    @property
    def trace(self) -> str:
        """The trace for `scheduler replay`."""
        return last_hour.trace_of(self.rows)


class WhatIf:
    """Asks the simulator about pools."""

    def __init__(self, decisions: Decisions, replayed: Replayed, clock: Clock, config: SchedulerConfig) -> None:
        self._decisions = decisions
        self._replayed = replayed
        self._clock = clock
        self._config = config
        self._running = 0

    async def hour(self, pool: str) -> Hour | None:
        """Return the last hour of a pool; None where fewer than two requests came."""
        since_us, rows_max = self._clock.now_us() - HOUR_US, self._config.what_if_rows_max
        rows = await self._decisions.last_hour(pool, since_us, rows_max)
        return None if len(rows) < 2 else Hour(rows, last_hour.rate_rps(rows), len(rows) == rows_max)

    async def simulate(self, hour: Hour, fleet: Fleet, asked: Asked) -> dict[str, Any]:
        """Return the figures of the hour at a load. Raises `what_if_busy`, `deadline_exceeded`."""
        if self._running >= self._config.what_if_running_max:
            raise InterlockError("what_if_busy")
        self._running += 1
        try:
            options = last_hour.options(fleet, hour.rate_rps, asked)
            return last_hour.as_simulated(await self._replayed(hour.trace, options, self._config.what_if_s))
        finally:
            self._running -= 1

    def statistics(self) -> dict[str, int]:
        """Return how many simulations run, and how many may."""
        return {"running": self._running, "running_max": self._config.what_if_running_max}
