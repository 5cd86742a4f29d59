"""Usage: rows of it, added to with the stories that are new in the store, and read in pages.

Opens no transactions; the shipper and the service do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.store import Queries, Transaction
from interlock.foundation.telemetry import Tally
from interlock.gateway.domain.usage import GroupBy, Span, rolled_up

SQL = Queries("interlock.gateway")


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """What is asked for: from `start` to before `end`, rows behind `after`."""

    group_by: GroupBy
    span: Span
    start: datetime
    end: datetime
    after: tuple[datetime, str] | None = None


async def roll_up(tx: Transaction, tallies: Sequence[Tally]) -> None:
    """Add what new requests used, by the minute and by the hour."""
    rows = sorted(rolled_up(tallies).items())
    if not rows:
        return
    columns: list[list[Any]] = [
        [each.organization_id for each, _ in rows],
        [datetime.fromtimestamp(each.bucket_us / 1_000_000, tz=UTC) for each, _ in rows],
        [each.workspace_id for each, _ in rows],
        [each.key_id for each, _ in rows],
        *([getattr(each, name) for each, _ in rows] for name in _WORDS),
        *([getattr(added, name) for _, added in rows] for name in FIGURES),
    ]
    await tx.execute(SQL.add_usage, *columns)


async def read_usage(scope: Scope, tx: Transaction, asked: UsageQuery, count: int) -> list[Any]:
    """Return rows of usage in the order of time and group."""
    query = SQL.usage_of_minutes if asked.span is Span.MINUTE else SQL.usage_of_hours
    workspace = None if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
    after_at, after_group = asked.after or (datetime(1970, 1, 1, tzinfo=UTC), "")
    return await tx.fetch(
        query,
        scope.organization_id,
        workspace,
        asked.start,
        asked.end,
        asked.span,
        asked.group_by,
        after_at,
        after_group,
        count,
    )


_WORDS = ("alias", "deployment", "price_version", "tag_set")
FIGURES = (
    "requests",
    "refused",
    "unpriced",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd_micros",
)
