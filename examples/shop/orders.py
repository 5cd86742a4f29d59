"""Orders with their shipments and returns: 2,400 of them over a year, made from a seed."""

import random
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from examples.shop.catalog import Product, products

ORDERS: Final = 2_400
FIRST_DAY: Final = date(2025, 11, 1)
DAYS: Final = 365
RETURN_SHARE: Final = 0.12
CARRIERS: Final = ("Harrier Post", "Milestone Parcel", "Greenline Freight")
REASONS: Final = ("too small", "too large", "other colour than expected", "arrived damaged", "changed my mind", "gift")


@dataclass(frozen=True, slots=True)
class Line:
    """One article of an order."""

    sku: str
    quantity: int
    price_cents: int


@dataclass(frozen=True, slots=True)
class Shipment:
    """A parcel; `delivered_on` is None while it is on its way."""

    carrier: str
    tracking: str
    shipped_on: date
    delivered_on: date | None


@dataclass(frozen=True, slots=True)
class Return:
    """Goods that came back; `refund_cents` is None while the warehouse still looks at them."""

    sku: str
    reason: str
    booked_on: date
    refund_cents: int | None


@dataclass(frozen=True, slots=True)
class Order:
    """A customer's order. `state` is paid, packed, shipped, delivered or canceled."""

    number: str
    customer: str
    ordered_on: date
    state: str
    lines: tuple[Line, ...]
    shipment: Shipment | None
    returned: Return | None

    @property
    def total_cents(self) -> int:
        """The sum of the lines, without shipping."""
        return sum(line.quantity * line.price_cents for line in self.lines)


def orders(seed: int) -> list[Order]:
    """Return all orders, oldest first; the same seed gives the same orders."""
    dice = random.Random(f"orders-{seed}")
    catalog = products(seed)
    days = sorted(dice.randrange(DAYS) for _ in range(ORDERS))
    return [_order(dice, catalog, number, FIRST_DAY + timedelta(days=day)) for number, day in enumerate(days)]


def _order(dice: random.Random, catalog: list[Product], number: int, ordered_on: date) -> Order:
    chosen = dice.sample(catalog, k=dice.choices((1, 2, 3, 4), weights=(60, 25, 10, 5))[0])
    lines = tuple(Line(each.sku, dice.choices((1, 2), weights=(9, 1))[0], each.price_cents) for each in chosen)
    age_days = (FIRST_DAY + timedelta(days=DAYS) - ordered_on).days
    state = _state(dice, age_days)
    shipment = _shipment(dice, number, ordered_on, state)
    returned = _returned(dice, lines, shipment)
    customer = f"customer-{dice.randrange(1, 900):04d}"
    return Order(f"FO-{240_000 + number}", customer, ordered_on, state, lines, shipment, returned)


def _state(dice: random.Random, age_days: int) -> str:
    if dice.random() < 0.02:
        return "canceled"
    if age_days < 1:
        return "paid"
    if age_days < 2:
        return "packed"
    return "shipped" if age_days < 5 else "delivered"


def _shipment(dice: random.Random, number: int, ordered_on: date, state: str) -> Shipment | None:
    if state not in {"shipped", "delivered"}:
        return None
    shipped_on = ordered_on + timedelta(days=dice.choice((0, 1, 1)))
    delivered_on = shipped_on + timedelta(days=dice.randint(1, 4)) if state == "delivered" else None
    return Shipment(dice.choice(CARRIERS), f"HP{700_000_000 + number * 37}", shipped_on, delivered_on)


def _returned(dice: random.Random, lines: tuple[Line, ...], shipment: Shipment | None) -> Return | None:
    if shipment is None or shipment.delivered_on is None or dice.random() >= RETURN_SHARE:
        return None
    line = dice.choice(lines)
    booked_on = shipment.delivered_on + timedelta(days=dice.randint(4, 40))
    refund_cents = line.price_cents if dice.random() < 0.9 else None
    return Return(line.sku, dice.choice(REASONS), booked_on, refund_cents)
