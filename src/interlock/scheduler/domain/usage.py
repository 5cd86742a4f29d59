"""What tenants used of a pool, by the minute: requests, refusals by code, tokens, dollars.

Knows no prices; `cost.py` splits the time of an engine.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from interlock.scheduler.domain.records import DecisionRecord

MINUTE_US: Final = 60_000_000
NOBODY: Final = UUID(int=0)
# Organization, workspace, key, pool, class and minute: what tells one sum from another.
Place = tuple[UUID, UUID, UUID, str, str, int]


@dataclass(slots=True)
class UsageMinute:
    """One row. `key_id` is `NOBODY` where no key was used."""

    organization_id: UUID
    workspace_id: UUID
    key_id: UUID
    pool: str
    service_class: str
    minute_us: int
    requests: int = 0
    successful: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    charged: int = 0
    wasted: int = 0
    cost_usd: float = 0.0
    idle_usd: float = 0.0


def minutes_of(records: Iterable[DecisionRecord]) -> list[UsageMinute]:
    """Return the sums of some ended requests."""
    found: dict[Place, UsageMinute] = {}
    for each in records:
        add(found, each)
    return in_order(found)


def add(sums: dict[Place, UsageMinute], record: DecisionRecord) -> None:
    """Add an ended request to the sum of its place."""
    asked = record.request
    place = (
        asked.organization_id,
        asked.workspace_id,
        asked.key_id or NOBODY,
        asked.pool,
        asked.service_class.value,
        record.at_us // MINUTE_US * MINUTE_US,
    )
    minute = sums.get(place)
    if minute is None:
        minute = sums[place] = UsageMinute(*place)
    minute.requests += 1
    minute.successful += record.is_in_slo
    if record.is_refused:
        minute.refused[record.code or "refused"] += 1
    minute.tokens += record.input_tokens + record.output_tokens
    minute.charged += record.charged_tokens
    minute.wasted += record.wasted_tokens
    minute.cost_usd += record.cost_usd


def in_order(sums: Mapping[Place, UsageMinute]) -> list[UsageMinute]:
    """Return the rows always in one order: two writers that meet wait for each other, and never both."""
    return [sums[place] for place in sorted(sums)]
