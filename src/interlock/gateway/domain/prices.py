"""Prices of models, in millionths of a dollar a million tokens. Pure.

Knows no list of them; those are imported, each as a version that is never changed.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from interlock.gateway.domain.cost import dollars

_MILLION: Final = 1_000_000
DOLLARS_MAX: Final = 1_000_000
VERSIONS_MAX: Final = 1_000
_DOLLARS: Final = re.compile(r"[0-9]{1,7}(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost. `version` is the list that it was taken from, None for a price given by hand.

    Input from a cache costs as other input where `cached_micro` is None.
    """

    input_micro: int
    output_micro: int
    cached_micro: int | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """One row of a list: a model as its provider names it."""

    provider: str
    model: str
    price: Price


def price_micro(given: str | float) -> int | None:
    """Return dollars as millionths, exactly; None for what is no price, or has more than six decimals.

    A number is taken as it is written shortest, so that 0.1 is a tenth.
    """
    text = given if isinstance(given, str) else f"{Decimal(repr(given)):f}".removesuffix(".0")
    if _DOLLARS.fullmatch(text) is None:
        return None
    micros = int(Decimal(text) * _MILLION)
    return micros if micros <= DOLLARS_MAX * _MILLION else None


def listed_name(text: str) -> tuple[str, str]:
    """Return provider and model of `PROVIDER/MODEL`; a model may have slashes of its own."""
    provider, _, model = text.partition("/")
    return provider, model


def decimal_usd(micros: int) -> str:
    """Return dollars as a decimal string without zeros at its end."""
    return dollars(micros).rstrip("0").rstrip(".")
