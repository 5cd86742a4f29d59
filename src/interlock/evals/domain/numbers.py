"""Sums of exponentials that neither overflow nor lose the small terms. Knows no statistics."""

import math
from collections.abc import Sequence
from typing import Final

EXPONENT_MAX: Final = 690.0


def log_mean_exp(logs: Sequence[float]) -> float:
    """Return ln of the plain mean of exp(logs)."""
    top = max(logs)
    if top == -math.inf:
        return top
    return top + math.log(sum(math.exp(each - top) for each in logs) / len(logs))


def log_weighted_exp(logs: Sequence[float], weights: Sequence[float]) -> float:
    """Return ln of the sum of weight x exp(log)."""
    top = max(logs)
    return top + math.log(sum(weight * math.exp(each - top) for each, weight in zip(logs, weights, strict=True)))


def safe_exp(log: float) -> float:
    """Return exp(log), at most about 1e299: an e-value beyond it says nothing more, and JSON has no infinity."""
    return math.exp(min(log, EXPONENT_MAX))
