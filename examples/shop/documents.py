"""Every document of the shop with the groups that may read it: hand-written pages, products, return notes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.shop.catalog import products
from examples.shop.orders import Order, orders

FOLDER: Final = Path(__file__).parent / "documents"
RETURN_NOTES: Final = 80


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its readers: names of groups, and `public` for everybody."""

    path: str
    title: str
    readers: tuple[str, ...]
    text: str


def documents(seed: int) -> list[Document]:
    """Return all documents, hand-written ones first."""
    written = [_read(path) for path in sorted(FOLDER.rglob("*.md"))]
    sold = [
        Document(f"products/{each.sku.lower()}.md", each.name, ("all-staff", "public"), each.text)
        for each in products(seed)
    ]
    notes = [_note(order) for order in orders(seed) if order.returned][:RETURN_NOTES]
    return [*written, *sold, *notes]


def _read(path: Path) -> Document:
    _, front, text = path.read_text(encoding="utf-8").split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    readers = tuple(name.strip() for name in fields["readers"].split(","))
    return Document(str(path.relative_to(FOLDER)), fields["title"], readers, text.strip())


def _note(order: Order) -> Document:
    returned = order.returned
    if returned is None:
        raise ValueError(order.number)
    refund = f"{returned.refund_cents / 100:.2f} refunded" if returned.refund_cents else "the refund waits for a check"
    text = (
        f"Order {order.number} of {order.customer}: article {returned.sku} came back on {returned.booked_on}, "
        f"reason given: {returned.reason}; {refund}."
    )
    return Document(f"returns/{order.number.lower()}.md", f"Return of {order.number}", ("support",), text)
