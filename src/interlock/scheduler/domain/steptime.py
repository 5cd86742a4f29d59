"""How long a step of an engine takes, learned online: `base + a x prefill + b x sequences + c x context`.

Recursive least squares with forgetting (Haykin, Adaptive Filter Theory, chapter 10). A front sees no steps of a
remote engine; it learns from times to first token and between tokens, which are sums and means of steps.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

FORGETTING: Final = 0.999
RESIDUALS_KEPT: Final = 64
RESIDUALS_MIN: Final = 10
_FEATURES: Final = 4
_UNCERTAINTY: Final = 1e3
# Features are scaled to about one, so that one starting uncertainty fits all of them.
_SCALES: Final = (1.0, 1e-3, 1e-1, 1e-5)


class StepModel:
    """Seconds of a step; None until it has seen enough."""

    def __init__(self) -> None:
        self._weights = [0.0] * _FEATURES
        self._spread = [[_UNCERTAINTY if i == j else 0.0 for j in range(_FEATURES)] for i in range(_FEATURES)]
        self._seen = 0

    def learn(self, prefill: int, sequences: int, context: int, seconds: float) -> None:
        """Take in one observation."""
        x = _scaled(prefill, sequences, context)
        gain_base = [sum(row[j] * x[j] for j in range(_FEATURES)) for row in self._spread]
        denominator = FORGETTING + sum(x[i] * gain_base[i] for i in range(_FEATURES))
        gain = [each / denominator for each in gain_base]
        error = seconds - self._apply(x)
        self._weights = [weight + gain[i] * error for i, weight in enumerate(self._weights)]
        self._spread = [
            [(self._spread[i][j] - gain[i] * gain_base[j]) / FORGETTING for j in range(_FEATURES)]
            for i in range(_FEATURES)
        ]
        self._bound_spread()
        self._seen += 1

    def step_s(self, prefill: int, sequences: int, context: int) -> float | None:
        """Return the seconds expected of a step, never negative; None before ten observations."""
        if self._seen < RESIDUALS_MIN:
            return None
        return max(0.0, self._apply(_scaled(prefill, sequences, context)))

    def _apply(self, x: Sequence[float]) -> float:
        return sum(weight * value for weight, value in zip(self._weights, x, strict=True))

    def _bound_spread(self) -> None:
        """Keep what nothing was learned about from growing for ever; forgetting alone would blow it up."""
        trace = sum(self._spread[i][i] for i in range(_FEATURES))
        limit = _FEATURES * _UNCERTAINTY
        if trace > limit or not math.isfinite(trace):
            scale = limit / trace if math.isfinite(trace) else 0.0
            self._spread = [[each * scale for each in row] for row in self._spread]


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


def _scaled(prefill: int, sequences: int, context: int) -> tuple[float, ...]:
    return (_SCALES[0], prefill * _SCALES[1], sequences * _SCALES[2], context * _SCALES[3])
