"""By how much first tokens come later than predicted, which is what a plan keeps back of a promise.

Predicts nothing itself.
"""

from collections import deque
from typing import Final

RESIDUALS_KEPT: Final = 64
RESIDUALS_MIN: Final = 10


class Residuals:
    """How much later than predicted first tokens came: the last 64, microseconds."""

    def __init__(self) -> None:
        self._late_us: deque[int] = deque(maxlen=RESIDUALS_KEPT)

    def add(self, late_us: int) -> None:
        """Take in actual less predicted."""
        self._late_us.append(late_us)

    @property
    def margin_us(self) -> int:
        """The P90, 0 before ten observations and where predictions were on the safe side."""
        if len(self._late_us) < RESIDUALS_MIN:
            return 0
        ranked = sorted(self._late_us)
        return max(0, ranked[(9 * len(ranked)) // 10])
