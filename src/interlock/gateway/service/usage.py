"""Usage and cost as a caller may see them: of its workspace, or of its whole organization.

Counts nothing; the shipper adds figures up with the stories.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store
from interlock.gateway.config import UsageConfig
from interlock.gateway.domain.cost import dollars
from interlock.gateway.domain.usage import GroupBy, Span
from interlock.gateway.store.usage import FIGURES, UsageQuery, read_usage

_KINDS: Final = {GroupBy.KEY: "key", GroupBy.WORKSPACE: "ws"}
_FIELD: Final = {GroupBy.KEY: "key_id", GroupBy.WORKSPACE: "workspace_id", GroupBy.MODEL: "model", GroupBy.TAG: "tag"}
Row = dict[str, Any]
Position = tuple[datetime, str]


class UsageService:
    """Use cases of `GET /v1/usage`."""

    def __init__(self, store: Store, clock: Clock, config: UsageConfig) -> None:
        self._store = store
        self._clock = clock
        self._config = config

    def query(
        self, group_by: GroupBy, span: Span, start: datetime | None, end: datetime | None, after: Position | None = None
    ) -> UsageQuery:
        """Return a query of the last day where it says nothing. Raises `invalid_request`."""
        now = datetime.fromtimestamp(self._clock.now_us() / 1_000_000, tz=UTC)
        until = end or now + timedelta(minutes=1)
        since = start or until - timedelta(days=1)
        days = self._config.minutes_days if span is Span.MINUTE else self._config.hours_days
        if not since < until or until - since > timedelta(days=days + 1):
            raise InterlockError(
                "invalid_request", f"`from` is before `to`, by {days} days at most.", detail={"field": "from"}
            )
        return UsageQuery(group_by, span, since, until, after)

    async def page(self, scope: Scope, asked: UsageQuery, count: int) -> list[tuple[Position, Row]]:
        """Return rows with their places in the order of time and group."""
        async with self._store.transaction(scope) as tx:
            rows = await read_usage(scope, tx, asked, count)
        return [((row["bucket_at"], row["grp"]), _usage_json(asked.group_by, row)) for row in rows]


def _usage_json(group_by: GroupBy, row: Any) -> Row:
    kind, group = _KINDS.get(group_by), row["grp"]
    figures = {name: int(row[name]) for name in FIGURES[:-1]}
    return {
        "bucket_at": rfc3339(round(row["bucket_at"].timestamp() * 1_000_000)),
        _FIELD[group_by]: format_id(kind, UUID(group)) if kind is not None else group,
        **figures,
        "cost_usd": dollars(int(row["cost_usd_micros"])),
    }
