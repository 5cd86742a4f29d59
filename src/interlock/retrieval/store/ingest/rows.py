"""The queries of this package, and what several of its modules do with values of the store.

Knows no rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.contracts.documents import AccessList
from interlock.foundation.store import Queries, Transaction
from interlock.retrieval.domain.access import acl_json, canonical, parse_acl

SQL: Final = Queries(__package__)
_PRINCIPALS_MAX: Final = 1_000_000


@dataclass(slots=True)
class Changes:
    """What the last statement of a transaction stamps with the epoch that it raises."""

    source_id: UUID | None = None
    bindings: dict[int, int] = field(default_factory=dict)
    containers: set[int] = field(default_factory=set)
    documents: set[UUID] = field(default_factory=set)
    sources: set[UUID] = field(default_factory=set)
    cause: str = "put"

    def __bool__(self) -> bool:
        return bool(self.bindings or self.containers or self.documents or self.sources)


async def stamp(tx: Transaction, changes: Changes, at_us: int) -> int:
    """Raise the epoch and write what begins with it; the last statement of the transaction. Returns the epoch."""
    slots = sorted(changes.bindings)
    return int(
        await tx.fetchval(
            SQL.stamp,
            tx.scope.organization_id,
            slots,
            [changes.bindings[each] for each in slots],
            changes.source_id,
            sorted(changes.containers),
            sorted(changes.documents),
            changes.cause,
            at_us,
            sorted(changes.sources),
        )
    )


async def current_epoch(tx: Transaction) -> int:
    """Return the epoch of the organization; 0 where nothing was ever changed."""
    return int(await tx.fetchval(SQL.current_epoch, tx.scope.organization_id) or 0)


def to_text(value: Any) -> str:
    """Return JSON as the store takes it."""
    return msgspec.json.encode(value).decode()


def from_text(text: str | None) -> Any:
    """Return the value of JSON of the store; None for none."""
    return None if text is None else msgspec.json.decode(text)


def acl_text(acl: AccessList | None) -> str | None:
    """Return the canonical JSON of a list."""
    return None if acl is None else to_text(acl_json(canonical(acl)))


def acl_of(text: str | None) -> AccessList | None:
    """Return the list that the store keeps."""
    value = from_text(text)
    return None if value is None else parse_acl(value, _PRINCIPALS_MAX)


def columns(rows: Sequence[Mapping[str, Any]], *names: str) -> list[list[Any]]:
    """Return one list a column, as `unnest` takes them."""
    return [[row[name] for row in rows] for name in names]
