"""By how much first tokens come later than predicted, which is what a plan keeps back of a promise.

Predicts nothing itself.
"""

from bisect import bisect_left, insort
from collections import deque
from typing import Final

RESIDUALS_KEPT: Final = 64
RESIDUALS_MIN: Final = 10


class Residuals:
    """How much later than predicted first tokens came: the last 64, microseconds."""

    def __init__(self) -> None:
        self._late_us: deque[int] = deque()
        self._ranked: list[int] = []

    def add(self, late_us: int) -> None:
        """Take in actual less predicted."""
        self._late_us.append(late_us)
        insort(self._ranked, late_us)
        if len(self._ranked) > RESIDUALS_KEPT:
            del self._ranked[bisect_left(self._ranked, self._late_us.popleft())]

    @property
    def margin_us(self) -> int:
        """The P90, 0 before ten observations and where predictions were on the safe side."""
        if len(self._ranked) < RESIDUALS_MIN:
            return 0
        return max(0, self._ranked[(9 * len(self._ranked)) // 10])
