"""How much of the exact answer an approximate one holds, over the newest comparisons.

Runs neither of the two.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

RECALL_AT: Final = 10
WINDOW: Final = 100


def recall(approximate: Sequence[int], exact: Sequence[int]) -> float | None:
    """Return which share of the first ten of `exact` is among the first ten of `approximate`; None of nothing."""
    wanted = set(exact[:RECALL_AT])
    return len(wanted.intersection(approximate[:RECALL_AT])) / len(wanted) if wanted else None


class Window:
    """The mean of the newest comparisons, of which it keeps a bounded number."""

    def __init__(self) -> None:
        self._shares: deque[float] = deque(maxlen=WINDOW)

    def add(self, share: float) -> float:
        """Take one more and return the mean."""
        self._shares.append(share)
        return sum(self._shares) / len(self._shares)
