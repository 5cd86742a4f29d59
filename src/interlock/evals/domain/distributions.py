"""The few distributions that the statistics need: normal, Student's t, binomial. Draws nothing at random.

All rest on the regularized incomplete beta function, by its continued fraction (Lentz's method, as in Press et al.,
Numerical Recipes, 6.4).
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Final

_NORMAL: Final = NormalDist()
_TINY: Final = 1e-300
_STEPS_MAX: Final = 10_000
_PRECISION: Final = 1e-15


def normal_quantile(p: float) -> float:
    """Return z with P(Z <= z) = p."""
    return _NORMAL.inv_cdf(p)


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return I_x(a, b) for a, b > 0."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1.0) / (a + b + 2.0):
        return math.exp(log_front) * _fraction(a, b, x) / a
    return 1.0 - math.exp(log_front) * _fraction(b, a, 1.0 - x) / b


def binomial_at_least(k: float, n: float, p: float) -> float:
    """Return P(X >= k) for X ~ Bin(n, p)."""
    if k <= 0:
        return 1.0
    return 0.0 if k > n else incomplete_beta(k, n - k + 1, p)


def student_t_at_most(t: float, degrees: int) -> float:
    """Return P(T <= t)."""
    if math.isinf(t):
        return 1.0 if t > 0 else 0.0
    tail = 0.5 * incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + t * t))
    return 1.0 - tail if t > 0 else tail


def student_t_quantile(p: float, degrees: int) -> float:
    """Return t with P(T <= t) = p, for 0 < p < 1."""
    if p < 0.5:
        return -student_t_quantile(1.0 - p, degrees)
    top = 2.0
    while student_t_at_most(top, degrees) < p:
        top *= 2.0
    return bisect(lambda t: student_t_at_most(t, degrees) - p, 0.0, top)


def beta_quantile(p: float, a: float, b: float) -> float:
    """Return x with I_x(a, b) = p."""
    return bisect(lambda x: incomplete_beta(a, b, x) - p, 0.0, 1.0)


def bisect(f: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of a rising function between `low` and `high`, to the last bits."""
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in {low, high}:
            break
        if f(middle) < 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, _inverse(1.0 - (a + b) * x / (a + 1.0))
    found = d
    for step in range(1, _STEPS_MAX):
        even = step * (b - step) * x / ((a + 2 * step - 1.0) * (a + 2 * step))
        d, c = _inverse(1.0 + even * d), _away(1.0 + even / c)
        found *= d * c
        odd = -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1.0))
        d, c = _inverse(1.0 + odd * d), _away(1.0 + odd / c)
        found *= d * c
        if abs(d * c - 1.0) < _PRECISION:
            break
    return found


def _away(value: float) -> float:
    return _TINY if abs(value) < _TINY else value


def _inverse(value: float) -> float:
    return 1.0 / _away(value)
