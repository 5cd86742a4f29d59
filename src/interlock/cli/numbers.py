"""Numbers that options take: finite ones alone, within bounds, one or several with commas.

Knows no command; each says its own bounds.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import click

from interlock.contracts.scheduling import ServiceClass

RATE_RPS_MAX: Final = 100_000.0
SPAN_S_MAX: Final = 366 * 86_400.0
PRICE_USD_HOUR_MAX: Final = 100_000.0
# A load beyond these says nothing that they do not: nothing waits, or all of it does.
LOAD_MIN: Final = 0.001
LOAD_MAX: Final = 1_000.0
HOG_MAX: Final = 100.0
ZIPF_MAX: Final = 100.0
TOKENS_MEAN_MAX: Final = 10_000_000.0
_SEED_CHARS_MAX: Final = 20


class Finite(click.FloatRange):
    """A number within bounds. What is not a number compares with no bound, so a range alone lets it pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


Callback = Callable[[click.Context, click.Parameter, str], Any]


def listed(least: float, most: float) -> Callback:
    """Return how an option reads several numbers within bounds."""

    def read(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            raise click.BadParameter("write numbers with commas between them") from None
        if not all(least <= each <= most for each in numbers):
            raise click.BadParameter(f"each is a number from {least:g} to {most:g}")
        return numbers

    return read


def seeds(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Return the seeds of an option."""
    parts = [part.strip() for part in text.split(",")]
    try:
        if max(map(len, parts)) <= _SEED_CHARS_MAX:
            return tuple(int(part) for part in parts)
    except ValueError:
        pass
    raise click.BadParameter(f"write whole numbers of at most {_SEED_CHARS_MAX} digits with commas between them")


def class_shares(
    _context: click.Context, _parameter: click.Parameter, text: str
) -> tuple[tuple[ServiceClass, float], ...]:
    """Return the shares of the classes as an option gives them; they need not sum to 1, but to more than 0."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        shares = tuple((ServiceClass(name.strip()), float(share)) for name, share in pairs)
    except ValueError:
        raise click.BadParameter("write it as interactive=0.7,standard=0.3") from None
    if not all(0 <= share < math.inf for _, share in shares) or not 0 < sum(share for _, share in shares) < math.inf:
        raise click.BadParameter("shares are numbers from 0, and one of them is more")
    return shares
