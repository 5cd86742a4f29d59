"""What a pool serves while somebody waits, in spans long enough to be a rate.

A front sees no steps of its engines; it counts the weighted tokens that edges report.
"""

from dataclasses import dataclass
from typing import Final

from interlock.scheduler.domain.asks import StepSeen

SPAN_US: Final = 250_000


@dataclass(slots=True)
class Served:
    """Counts one span after the other."""

    _weighted: int = 0
    _since_us: int | None = None
    _is_backlogged: bool = True

    def note(self, weighted: int) -> None:
        """Count prompt tokens once and output tokens twice."""
        self._weighted += weighted

    def advance(self, now_us: int, replicas: int, *, is_backlogged: bool) -> StepSeen | None:
        """Return the span that ended as a step of one of the replicas, None while it lasts.

        A span in which the queue was empty says nothing of a limit.
        """
        self._is_backlogged = self._is_backlogged and is_backlogged
        if self._since_us is None:
            self._since_us = now_us
        took_us = now_us - self._since_us
        if took_us < SPAN_US:
            return None
        seen = StepSeen(took_us, 0, self._weighted // replicas, self._is_backlogged)
        self._weighted, self._since_us, self._is_backlogged = 0, now_us, is_backlogged
        return seen
