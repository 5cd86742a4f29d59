"""What the time of an engine costs, split over the requests that it ran by their weighted tokens; idle time apart.

Knows no currency rates: a price is US dollars an hour of one engine.
"""

from dataclasses import dataclass
from typing import Final

_HOUR_US: Final = 3_600_000_000


@dataclass(slots=True)
class Meter:
    """One engine. `per_weight_usd` is what one weighted token of work in flight has cost since the start.

    A request pays its weight times the growth of that figure while it ran: one addition an event, and the shares of all
    requests and the idle time sum to the bill.
    """

    price_usd_hour: float
    per_weight_usd: float = 0.0
    weights: int = 0
    idle_usd: float = 0.0
    busy_us: int = 0
    since_us: int | None = None
    at_us: int = 0

    def advance(self, now_us: int) -> None:
        """Let the time since the last event pass."""
        if self.since_us is None:
            self.since_us = self.at_us = now_us
        passed_us = max(0, now_us - self.at_us)
        usd = passed_us * self.price_usd_hour / _HOUR_US
        if self.weights:
            self.per_weight_usd += usd / self.weights
            self.busy_us += passed_us
        else:
            self.idle_usd += usd
        self.at_us = max(self.at_us, now_us)

    def begin(self, now_us: int, weight: int) -> float:
        """Start a request; return the reading that `end` takes."""
        self.advance(now_us)
        self.weights += weight
        return self.per_weight_usd

    def end(self, now_us: int, weight: int, began_usd: float) -> float:
        """End a request; return what it cost."""
        self.advance(now_us)
        self.weights -= weight
        return weight * (self.per_weight_usd - began_usd)


def dollars(usd: float) -> str:
    """Return an amount as the API writes it: at most nine decimals, no trailing zeros."""
    text = f"{usd:.9f}".rstrip("0").rstrip(".")
    return text or "0"
