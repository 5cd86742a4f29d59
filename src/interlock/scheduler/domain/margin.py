"""How much of an objective a step may be planned to take, by how wrong predicted steps have been.

Predicts no step; `profiles.py` and `steptime.py` do.
"""

from collections import deque
from typing import Final

_KEPT: Final = 128
_EVERY: Final = 16
_START: Final = 0.98
_LEAST, _MOST = 0.80, 0.995
_QUANTILE: Final = 0.9


class StepMargin:
    """The share of the tightest time per output token that a step may be planned for; learned from what steps took."""

    def __init__(self) -> None:
        self._ratios: deque[float] = deque(maxlen=_KEPT)
        self._seen = 0
        self.share = _START

    def learn(self, predicted_us: int, took_us: int) -> None:
        """Take in a full step. The slowest tenth of them is left to the mean over an output, which evens it out."""
        if predicted_us <= 0:
            return
        self._ratios.append(took_us / predicted_us)
        self._seen += 1
        if self._seen % _EVERY == 0:
            worst = sorted(self._ratios)[int(_QUANTILE * (len(self._ratios) - 1))]
            self.share = min(_MOST, max(_LEAST, 1.0 / worst))
