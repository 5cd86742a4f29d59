"""What control serves of usage and cost.

Adds nothing up; the shipper does, with the stories.
"""

from datetime import datetime
from typing import Final

from interlock.foundation.control import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.gateway.domain.usage import GroupBy, Span
from interlock.gateway.service.usage import UsageService

# A day before or behind a moment has to be one as well, in every zone.
_YEAR_MIN: Final = 1970
_YEAR_MAX: Final = 9_998


def usage_routes(usage: UsageService) -> list[Route]:
    """Return the route of usage."""

    async def read(call: Call) -> Reply:
        page = call.page
        after = (datetime.fromisoformat(str(page.after[0])), str(page.after[1])) if page.after else None
        asked = usage.query(
            GroupBy(_one_of(call, "group_by", GroupBy.MODEL, GroupBy)),
            Span(_one_of(call, "bucket", Span.HOUR, Span)),
            _moment(call, "from"),
            _moment(call, "to"),
            after,
        )
        rows = await usage.page(call.within, asked, page.limit_plus_one)
        kept, position = page.cut(rows, lambda each: (each[0][0].isoformat(), each[0][1]))
        return call.listed([row for _, row in kept], position)

    return [
        Route(
            "GET",
            "/v1/usage",
            Level.WORKSPACE,
            read,
            "Usage and cost by key, workspace, model or tag",
            action="requests:read",
            query=("group_by", "from", "to", "bucket", "workspace_id"),
        )
    ]


def _one_of(call: Call, name: str, default: str, allowed: type[GroupBy] | type[Span]) -> str:
    given = call.query.get(name, default)
    if given not in set(allowed):
        raise InterlockError("invalid_request", f"`{name}` is one of {', '.join(allowed)}.", detail={"field": name})
    return given


def _moment(call: Call, name: str) -> datetime | None:
    text = call.query.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not _YEAR_MIN <= moment.year <= _YEAR_MAX:
        raise InterlockError("invalid_request", f"`{name}` is an RFC 3339 time from 1970 on.", detail={"field": name})
    return moment
