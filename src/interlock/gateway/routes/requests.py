"""What control serves of requests: their stories, the search by any id, and limits.

Serves no inference; that is the edge's port.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from interlock.foundation.control import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, parse_id
from interlock.foundation.telemetry import Outcome, StoryFilters, story_json
from interlock.gateway.domain.directory import Dimension, LimitMode, LimitScope
from interlock.gateway.service.limits import LIMIT_MAX, LimitsService, Wanted, limit_json
from interlock.gateway.service.stories import Stories, as_curl

_TEXT_CHARS_MAX = 256
_SEARCH = (
    "client_request_id",
    "upstream_request_id",
    "trace_id",
    "key_id",
    "outcome",
    "alias",
    "endpoint",
    "from",
    "to",
    "workspace_id",
)


class LimitBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/limits`."""

    scope: LimitScope
    target: str
    dimension: Dimension
    limit: int | float
    model: str = "*"
    burst: int | float | None = None
    mode: LimitMode = LimitMode.ENFORCE


class LimitObject(msgspec.Struct):
    """A limit as it is answered."""

    id: str
    scope: str
    target: str
    dimension: str
    model: str
    limit: int | float
    burst: int | float
    mode: str
    version: int


def request_routes(stories: Stories, limits: LimitsService) -> list[Route]:
    """Return the routes of stories and limits."""
    served = _Served(stories, limits)
    return [
        _story_route("/v1/requests", served.search, "Search stories, newest first", query=_SEARCH),
        _story_route("/v1/requests/{id}", served.story, "The story of one request", codes=("request_not_found",)),
        _story_route(
            "/v1/requests/{id}/curl",
            served.curl,
            "One request as a curl line, without key and content",
            codes=("request_not_found",),
        ),
        _story_route("/v1/find", served.find, "What an id names", query=("id",), codes=("request_not_found",)),
        Route(
            "GET",
            "/admin/v1/limits",
            Level.ORGANIZATION,
            served.list_limits,
            "All limits",
            action="admin:read",
            answer=list[LimitObject],
            query=("organization_id",),
        ),
        Route(
            "GET",
            "/admin/v1/limits/explain",
            Level.ORGANIZATION,
            served.explain,
            "The limits that apply to a key and a model, and how full they are",
            action="admin:read",
            query=("key", "model"),
        ),
        Route(
            "POST",
            "/admin/v1/limits",
            Level.ORGANIZATION,
            served.put_limit,
            "Set a limit; the same scope, target, dimension and model replaces",
            action="admin:write",
            body=LimitBody,
            answer=LimitObject,
            status=201,
            is_mutation=True,
        ),
        Route(
            "DELETE",
            "/admin/v1/limits/{id}",
            Level.ORGANIZATION,
            served.delete_limit,
            "Delete a limit",
            action="admin:write",
            answer=LimitObject,
            is_mutation=True,
        ),
    ]


def _story_route(
    path: str, handler: Any, summary: str, *, query: tuple[str, ...] = (), codes: tuple[str, ...] = ()
) -> Route:
    return Route("GET", path, Level.WORKSPACE, handler, summary, action="requests:read", query=query, codes=codes)


class _Served:
    def __init__(self, stories: Stories, limits: LimitsService) -> None:
        self._stories = stories
        self._limits = limits

    async def search(self, call: Call) -> Reply:
        page = call.page
        cursor = str(page.after[0]) if page.after else None
        records, after = await self._stories.search(call.within, _filters(call), cursor, page.limit)
        return call.listed([story_json(each) for each in records], None if after is None else (after,))

    async def story(self, call: Call) -> Reply:
        return Reply(body=story_json(await self._stories.get(call.within, call.params["id"])))

    async def curl(self, call: Call) -> Reply:
        record = await self._stories.get(call.within, call.params["id"])
        return Reply(content=as_curl(record).encode() + b"\n", media_type="text/plain; charset=utf-8")

    async def find(self, call: Call) -> Reply:
        wanted = call.query.get("id", "").strip()
        if not wanted or len(wanted) > _TEXT_CHARS_MAX:
            raise InterlockError("invalid_request", "`id` is what to look for.", detail={"field": "id"})
        found = await self._stories.find(call.within, wanted, call.sees, call.may_open)
        return Reply(body={"kind": found.kind, "url": found.url, "story_url": found.story_url})

    async def list_limits(self, call: Call) -> Reply:
        page = call.page
        after = UUID(str(page.after[0])) if page.after else None
        organization = call.query.get("organization_id")
        found = await self._limits.page(call.within, organization, after, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (str(each.id),))
        return call.listed([limit_json(each) for each in kept], position)

    async def explain(self, call: Call) -> Reply:
        key, model = call.query.get("key", ""), call.query.get("model", "")
        if not key or not model:
            raise InterlockError("invalid_request", "`key` and `model` are needed.", detail={"field": "key"})
        return call.listed(await self._limits.explain(call.within, key, model))

    async def put_limit(self, call: Call) -> Reply:
        return Reply(status=201, body=limit_json(await self._limits.put(call.tx, limit_wanted(call.body))))

    async def delete_limit(self, call: Call) -> Reply:
        return Reply(body=limit_json(await self._limits.delete(call.tx, call.params["id"])))


def limit_wanted(body: LimitBody) -> Wanted:
    """Return a limit as it was asked for. Raises `invalid_request`."""
    limit = _figure("limit", body.limit, body.dimension)
    burst = limit if body.burst is None else _figure("burst", body.burst, body.dimension)
    if burst != limit and not body.dimension.is_a_minute:
        raise InterlockError(
            "invalid_request", "Only limits of a minute have a burst of their own.", detail={"field": "burst"}
        )
    for name, text in (("target", body.target), ("model", body.model)):
        if not 0 < len(text) <= _TEXT_CHARS_MAX:
            raise InterlockError("invalid_request", f"`{name}` is missing or too long.", detail={"field": name})
    return Wanted(body.scope, body.target, body.dimension, body.model, limit, burst, body.mode)


def _figure(name: str, given: float, dimension: Dimension) -> int:
    """Return a limit in its own unit: whole, or millionths of a dollar. Raises `invalid_request`."""
    if not 0 < given <= LIMIT_MAX:
        raise InterlockError("invalid_request", f"`{name}` is a number from 1 to {LIMIT_MAX}.", detail={"field": name})
    value = round(given * 1_000_000) if dimension.is_usd else int(given)
    if value <= 0 or (not dimension.is_usd and value != given):
        raise InterlockError(
            "invalid_request",
            f"`{name}` is a whole number, but for dollars, which have at most six decimals.",
            detail={"field": name},
        )
    return value


def _filters(call: Call) -> StoryFilters:
    query = call.query
    outcome = query.get("outcome")
    if outcome is not None and outcome not in set(Outcome):
        raise InterlockError("invalid_request", "`outcome` is no outcome class.", detail={"field": "outcome"})
    return StoryFilters(
        client_request_id=query.get("client_request_id"),
        upstream_request_id=query.get("upstream_request_id"),
        trace_id=query.get("trace_id"),
        key_id=_id_of(query.get("key_id")),
        outcome=outcome,
        alias=query.get("alias"),
        endpoint=query.get("endpoint"),
        from_us=_moment(query, "from"),
        to_us=_moment(query, "to"),
    )


def _id_of(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return parse_id("key", text)
    except (MalformedIdError, IndexError) as error:
        raise InterlockError("invalid_request", "`key_id` is no id of a key.", detail={"field": "key_id"}) from error


def _moment(query: Any, name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InterlockError("invalid_request", f"`{name}` is an RFC 3339 time.", detail={"field": name})
    return round(moment.timestamp() * 1_000_000)
