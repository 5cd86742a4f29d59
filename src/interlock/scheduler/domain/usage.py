"""What tenants used of a pool, by the minute: requests, refusals by code, tokens, dollars.

Knows no prices; `cost.py` splits the time of an engine.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from interlock.scheduler.domain.records import DecisionRecord

MINUTE_US: Final = 60_000_000
NOBODY: Final = UUID(int=0)


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
    found: dict[tuple[UUID, UUID, UUID, str, str, int], UsageMinute] = {}
    for each in records:
        asked = each.request
        place = (
            asked.organization_id,
            asked.workspace_id,
            asked.key_id or NOBODY,
            asked.pool,
            asked.service_class.value,
            each.at_us // MINUTE_US * MINUTE_US,
        )
        minute = found.get(place)
        if minute is None:
            minute = found[place] = UsageMinute(*place)
        minute.requests += 1
        minute.successful += each.is_in_slo
        if each.is_refused:
            minute.refused[each.code or "refused"] += 1
        minute.tokens += each.input_tokens + each.output_tokens
        minute.charged += each.charged_tokens
        minute.wasted += each.wasted_tokens
        minute.cost_usd += each.cost_usd
    # Always in one order: two writers that meet wait for each other, and never both.
    return [found[place] for place in sorted(found)]
