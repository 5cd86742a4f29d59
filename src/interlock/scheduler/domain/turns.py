"""When seats come free, so surely that it may be promised: how long answers turn out beside what was predicted.

Knows no queue; `plan.py` adds what it says to each row that has no free seat.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from interlock.scheduler.domain.estimate import Mean
from interlock.scheduler.domain.length import HALF_LIFE_REQUESTS, SAMPLES_MIN

# How sure a promise is of its seat: the share of promises that the platform means to keep.
SURE_SHARE: Final = 0.99
# Before anything ended: the log-normal error of a prediction that KV is reserved by, too.
_SIGMA_START: Final = 0.6
# A predictor that never errs is still not believed to the token.
_SIGMA_MIN: Final = 0.02
# The times that are looked at, nearer to each other the sooner they are, until the last of those that run has ended.
_POINTS: Final = 20
_CUBES: Final = (np.arange(_POINTS + 1) / _POINTS) ** 3
# Any of these makes a bound; the best is near the one that makes the least.
_TILTS: Final = np.array((0.001, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85))[:, None, None]
# Of more answers each second, third, and so on stands for those beside it.
_LOOKED_AT_MAX: Final = 32
# What keeps exponentials finite: an answer this far beyond its prediction is taken as no further.
_LOG_MAX: Final = 300.0
Floats = NDArray[np.float64]
# The tokens that were expected of an answer, those that it has made, and microseconds a token.
Decoding = tuple[int, int, int]


class SeatBook:
    """What a pool has seen of its seats: the error of predicted lengths, and for how long a seat is held."""

    def __init__(self) -> None:
        self._samples = float(SAMPLES_MIN)
        self._mean = 0.0
        self._square = _SIGMA_START**2
        self._hold_us = Mean()

    @property
    def hold_us(self) -> int:
        """How long a request holds its seat, on the mean; 0 before the first."""
        return round(self._hold_us.value or 0)

    @property
    def sigma(self) -> float:
        """The standard deviation of the logarithm of true over predicted length."""
        return max(_SIGMA_MIN, math.sqrt(max(0.0, self._square - self._mean**2)))

    def ended(self, predicted: int, made: int) -> None:
        """Take in the length of an answer."""
        error = math.log(max(1, made) / max(1, predicted))
        self._samples = min(self._samples + 1, HALF_LIFE_REQUESTS / math.log(2))
        self._mean += (error - self._mean) / self._samples
        self._square += (error * error - self._square) / self._samples

    def held(self, hold_us: int) -> None:
        """Take in how long a seat was held."""
        self._hold_us.add(hold_us)

    def waits_us(self, decoding: Sequence[Decoding]) -> tuple[int, ...]:
        """Return for one seat, two, and so on up to those in use, after how long as many have surely come free.

        A seat is free by a time with the chance that its answer has ended; who comes to it then holds it as long as
        seats are held. How many come free by then is a sum of small chances, of which the lower bound is taken.
        """
        if not decoding:
            return ()
        every = -(-len(decoding) // _LOOKED_AT_MAX)
        expected, made, pace_us = np.asarray(decoding[::every], np.float64).T
        # The first answers to end are the short ones: nothing is taken to be sooner than predicted, only later.
        expected *= math.exp(max(0.0, self._mean))
        errors = _Errors(math.pi / (math.sqrt(3) * self.sigma), expected, np.maximum(made, 0.5))
        times = float((errors.longest() * pace_us).max()) * _CUBES
        ended = errors.ended(times / pace_us[:, None])
        hold_us = max(1.0, self._hold_us.value or 0.0, float((expected * pace_us).mean()))
        sure = np.maximum.accumulate(_surely(ended, times / hold_us, len(decoding) / len(expected)))
        waits = np.interp(np.arange(1, len(decoding) + 1), sure, times)
        return tuple(waits.astype(np.int64).tolist())


class _Errors:
    """True over predicted length as log-logistic, of the spread that was seen.

    It has the tail that long answers have, and a closed form once a part is known.
    """

    def __init__(self, shape: float, expected: Floats, made: Floats) -> None:
        self._shape = shape
        self._expected = np.log(expected)
        self._made = made
        self._begun = np.minimum(shape * (np.log(made) - self._expected), _LOG_MAX)

    def ended(self, more: Floats) -> Floats:
        """Return the chance of each answer (row) to end within so many more tokens, given those it has made."""
        then = self._shape * (np.log(self._made[:, None] + more) - self._expected[:, None])
        chance: Floats = 1 - (1 + np.exp(self._begun))[:, None] / (1 + np.exp(np.minimum(then, 2 * _LOG_MAX)))
        return chance

    def longest(self) -> Floats:
        """Return after how many more tokens each has ended with ten times the certainty of a promise."""
        left = (1 - SURE_SHARE) / 10
        odds = (1 + np.exp(self._begun)) / left - 1
        tokens: Floats = np.exp(np.log(odds) / self._shape + self._expected) - self._made
        return np.maximum(tokens, 1.0)


def _surely(ended: Floats, holds: Floats, weight: float) -> Floats:
    """Return how many seats come free at least by each time, with the certainty of a promise.

    The bound of Chernoff (1952): for any tilt below 1 the chance of fewer than k is at most the product of what the
    tilt to the power of each seat's count is on the mean, over the tilt to the power of k - 1. A seat counts once when
    its answer ends and again each time that a hold ends, which a Poisson process stands for; `holds` are the times.
    """
    decay = np.exp(np.minimum((1 - _TILTS) * holds, _LOG_MAX))
    begins = np.concatenate((np.zeros_like(ended[:, :1]), np.diff(ended, axis=1)), axis=1)
    powers = 1 - ended + _TILTS * np.cumsum(begins * decay, axis=2) / decay
    least = -weight * np.log(powers).sum(axis=1) + math.log(1 - SURE_SHARE)
    counts: Floats = np.where(least >= 0, 1 + least / -np.log(_TILTS[:, 0]), 0.0).max(axis=0)
    return counts
