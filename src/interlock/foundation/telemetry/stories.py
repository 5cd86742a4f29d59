"""Reading stories: one by id, or a page by filters, always inside the tenant of a scope.

Another tenant's story is not told apart from one that never was. Writes nothing; the shipper does.
"""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.store import Queries, Store
from interlock.foundation.telemetry.config import TelemetryConfig
from interlock.foundation.telemetry.records import RequestRecord
from interlock.foundation.telemetry.story import decode_story

QUERIES: Final = Queries("interlock.foundation.telemetry")
_ID_MAX: Final = (1 << 128) - 1
_MS_MAX: Final = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class StoryFilters:
    """What a search asks for; at most one of the three foreign ids is used, in this order. Times are half open."""

    client_request_id: str | None = None
    upstream_request_id: str | None = None
    trace_id: str | None = None
    key_id: UUID | None = None
    outcome: str | None = None
    alias: str | None = None
    endpoint: str | None = None
    from_us: int | None = None
    to_us: int | None = None


@dataclass(frozen=True, slots=True)
class StoryPage:
    """Stories, newest first. `next_cursor` is the place to go on from, or None at the end."""

    records: list[RequestRecord]
    next_cursor: str | None


class StoryStore:
    """Stories as a scope may see them."""

    def __init__(self, store: Store, config: TelemetryConfig | None = None) -> None:
        self._store = store
        self._config = config or TelemetryConfig()

    async def get(self, scope: Scope, request_id: UUID) -> RequestRecord | None:
        """Return the story, or None when there is none that the scope may see."""
        async with self._store.transaction(scope) as tx:
            row = await tx.fetchrow(QUERIES.get_story, request_id)
        return None if row is None else decode_story(row["story"])

    async def search(
        self, scope: Scope, filters: StoryFilters, cursor: str | None = None, limit: int = 50
    ) -> StoryPage:
        """Return one page. Raises `invalid_cursor` for a cursor that no page of this list ended with."""
        rows_max = max(1, min(limit, self._config.search_rows_max))
        below = _position(cursor) if cursor is not None else _floor_id(filters.to_us, _ID_MAX)
        above = _floor_id(filters.from_us, 0)
        narrow = (filters.key_id, filters.outcome, filters.alias, filters.endpoint)
        foreign = (
            (QUERIES.search_client_request_id, filters.client_request_id),
            (QUERIES.search_upstream_request_id, filters.upstream_request_id),
            (QUERIES.search_trace_id, filters.trace_id),
        )
        organization = scope.organization_id
        async with self._store.transaction(scope) as tx:
            for query, value in foreign:
                if value is not None:
                    rows = await tx.fetch(query, organization, value, below, above, *narrow, rows_max + 1)
                    break
            else:
                asked = (organization, below, above, *narrow, rows_max + 1)
                if isinstance(scope.workspace_id, AllWorkspaces):
                    rows = await tx.fetch(QUERIES.search_organization, *asked)
                else:
                    rows = await tx.fetch(QUERIES.search_workspace, *asked, scope.workspace_id)
        return _page(rows, rows_max)


def _page(rows: list[Any], rows_max: int) -> StoryPage:
    kept = rows[:rows_max]
    next_cursor = UUID(int=kept[-1]["id"].int).hex if len(rows) > rows_max else None
    return StoryPage([decode_story(row["story"]) for row in kept], next_cursor)


def _position(cursor: str) -> UUID:
    try:
        return UUID(hex=cursor)
    except ValueError as error:
        raise InterlockError("invalid_cursor") from error


def _floor_id(at_us: int | None, otherwise: int) -> UUID:
    """Return the smallest id of a moment; ids begin with their time, so a range of time is a range of ids."""
    if at_us is None:
        return UUID(int=otherwise)
    return UUID(int=min(max(-(-at_us // 1_000), 0), _MS_MAX) << 80)
