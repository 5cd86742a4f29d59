"""Requests and their stories: the list with its filters in the URL, the export, one story, the search by any id.

Reads through `Stories` only, so a page shows what the API shows to the same caller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from interlock.console.config import ConsoleConfig
from interlock.console.exports import csv_of
from interlock.console.filters import SavedFilters
from interlock.console.frame import Frame, place_of
from interlock.console.places import place_of_id, place_of_rule
from interlock.console.render import PAGE_HEADERS, fragment
from interlock.console.views import (
    CSV_COLUMNS,
    decision_rows,
    exported,
    is_of_console,
    marks,
    row,
    sentence,
    tokens,
    waterfall,
    waterfall_words,
)
from interlock.contracts.incidents import Severity
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.control.route import Call, Level, Reply
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import authorize
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope
from interlock.foundation.telemetry import Outcome, RequestRecord, StoryFilters, story_json
from interlock.gateway import Stories, as_curl

SPANS_S: Final = {"15 minutes": 900, "1 hour": 3_600, "24 hours": 86_400, "7 days": 604_800}
ANY_TIME: Final = "any time"
_NAMES: Final = ("outcome", "alias", "endpoint", "key_id", "client_request_id", "upstream_request_id", "trace_id")
_CHARS_MAX: Final = 256
_TITLE_CHARS: Final = 120
_PAGE_ROWS: Final = 200
_LIMITS: Final = "/console/limits"
_PLAYGROUND: Final = "/console/playground"
# What holds messages that the playground can ask.
_ASKED: Final = frozenset({"/v1/chat/completions", "/v1/messages", "/v1/responses"})


@dataclass(frozen=True, slots=True)
class Asked:
    """The filters of a page as its URL has them."""

    texts: Mapping[str, str]
    within: str
    filters: StoryFilters
    has_own: bool = False

    @property
    def query(self) -> dict[str, str]:
        """What of the URL is kept from page to page."""
        kept = {name: text for name, text in self.texts.items() if text}
        spans = {} if self.within == ANY_TIME else {"within": self.within}
        return kept | spans | ({"own": "1"} if self.has_own else {})


@dataclass(frozen=True, slots=True)
class Requests:
    """Serves the pages."""

    frame: Frame
    stories: Stories
    clock: Clock
    config: ConsoleConfig
    filters: SavedFilters

    async def show(self, call: Call) -> Reply:
        """Answer the list. Raises `invalid_request` for filters that name nothing, `invalid_cursor`."""
        asked = self._asked(call)
        cursor = call.query.get("cursor") or None
        after = None if cursor is None else call.page.after
        records, next_cursor = await self._page(call.within, asked, str(after[0]) if after else None)
        values = {
            "place": place_of(call.within),
            "records": [row(each, self.clock.now_us()) for each in records],
            "asked": asked,
            "outcomes": list(Outcome),
            "spans": [*SPANS_S, ANY_TIME],
            "is_filtered": bool(asked.query),
            "query": urlencode(asked.query),
            "saved": await self.filters.listed(call),
            "is_first_page": cursor is None,
            "csv_url": _url("/console/requests.csv", asked.query),
            "json_url": _url("/v1/requests", self._api_query(asked)),
            "fresh_url": _url(
                "/console/requests/fresh", {**asked.query, "after": row(records[0], 0).id if records else ""}
            ),
            "here_url": _url("/console/requests", asked.query),
            "next_url": self._next_url(call, asked, next_cursor),
        }
        return self.frame.page(call, "requests", values)

    async def fresh(self, call: Call) -> Reply:
        """Answer how many requests came in since the newest one on the page."""
        asked = self._asked(call)
        newest = call.query.get("after", "")
        records, more = await self._page(call.within, asked, None)
        known = [row(each, 0).id for each in records]
        count = known.index(newest) if newest in known else len(known)
        is_more = more is not None and count == len(known)
        html = fragment(
            "requests_fresh.html",
            {"count": count, "is_more": is_more, "here_url": _url("/console/requests", asked.query)},
        )
        return Reply(content=html.encode(), media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)

    async def export(self, call: Call) -> Reply:
        """Answer the rows of the filters as CSV, newest first."""
        asked = self._asked(call)
        told: list[dict[str, Any]] = []
        cursor, left = None, self.config.csv_rows_max
        while left > 0:
            records, cursor = await self.stories.search(call.within, asked.filters, cursor, min(left, _PAGE_ROWS))
            told += map(exported, _shown(records, asked))
            left -= len(records)
            if cursor is None:
                break
        return csv_of("requests.csv", CSV_COLUMNS, told)

    async def story(self, call: Call) -> Reply:
        """Answer the story of one request. Raises `request_not_found`."""
        record = await self.stories.get(call.within, call.params["id"])
        told = self._told(record)
        rules = {record.rule, *(each.rule for each in told["decisions"])}
        places = {rule: place_of_rule(rule) for rule in rules}
        may_report = isinstance(authorize(call.who, "incidents:write", Level.WORKSPACE), Scope)
        values = {
            **told,
            "rule_places": {rule: place for rule, place in places.items() if place and call.may_open(place)},
            "rerun_url": _rerun_url(call, record),
            "limits_url": _limits_url(call, record),
            "severities": list(Severity),
            "report_title": f"{record.outcome or 'open'} of {record.alias or record.endpoint}"[:_TITLE_CHARS],
            "may_report": may_report and record.organization_id is not None,
        }
        return self.frame.page(call, "story", values)

    async def find(self, call: Call) -> Reply:
        """Go to what an id names. Raises `not_found`."""
        wanted = call.query.get("id", "").strip()
        if not wanted or len(wanted) > _CHARS_MAX:
            raise InterlockError("not_found", "Type the id of a request, of a key or of a trace.")
        found = await self.stories.find(call.within, wanted, call.sees, call.may_open)
        places = {
            "request": found.story_url,
            "trace": _url("/console/requests", {"trace_id": wanted}),
            "key": _url("/console/requests", {"key_id": found.url.rpartition("/")[2]}),
            "limit": "/console/limits",
            "prov": "/console/routes",
            "dep": "/console/routes",
            "route": f"/console/routes/{wanted}",
            "kill": "/console/kills",
            "ws": place_of_id(found.url.rpartition("/")[2]) if call.may_open("/console/workspaces") else None,
        }
        # What has no page of its own yet is shown as the API tells it.
        return Reply(303, content=b"", headers={"location": places.get(found.kind) or found.story_url or found.url})

    async def _page(self, scope: Scope, asked: Asked, cursor: str | None) -> tuple[list[RequestRecord], str | None]:
        """Return at least a page of what the filters keep, as far as a bounded number of rows holds it."""
        kept: list[RequestRecord] = []
        for _ in range(self.config.searches_max):
            records, cursor = await self.stories.search(scope, asked.filters, cursor, self.config.rows)
            kept += _shown(records, asked)
            if cursor is None or len(kept) >= self.config.rows:
                break
        return kept, cursor

    def _told(self, record: RequestRecord) -> dict[str, Any]:
        bars = waterfall(record)
        return {
            "story": story_json(record),
            "row": row(record, self.clock.now_us()),
            "sentence": sentence(record),
            "tokens": tokens(record),
            "bars": bars,
            "bars_words": waterfall_words(bars),
            "marks": marks(record),
            "decisions": decision_rows(record),
            "curl": as_curl(record),
        }

    def _asked(self, call: Call) -> Asked:
        texts = {name: call.query.get(name, "").strip() for name in _NAMES}
        if any(len(text) > _CHARS_MAX for text in texts.values()):
            raise InterlockError("invalid_request", "A filter is too long.")
        if texts["outcome"] and texts["outcome"] not in set(Outcome):
            raise InterlockError("invalid_request", "No request ends in this outcome.", detail={"field": "outcome"})
        within = call.query.get("within") or ANY_TIME
        if within not in {*SPANS_S, ANY_TIME}:
            raise InterlockError("invalid_request", "This span of time is not known.", detail={"field": "within"})
        span_s = SPANS_S.get(within)
        named = {name: text or None for name, text in texts.items() if name != "key_id"}
        key_id = _key(texts["key_id"]) if texts["key_id"] else None
        from_us = None if span_s is None else self.clock.now_us() - span_s * 1_000_000
        filters = StoryFilters(**named, key_id=key_id, from_us=from_us)  # type: ignore[arg-type] # only texts are named
        return Asked(texts, within, filters, has_own=bool(call.query.get("own")))

    def _next_url(self, call: Call, asked: Asked, cursor: str | None) -> str | None:
        if cursor is None or call.cursors is None:
            return None
        signed = call.cursors.issue(call.route, call.within, (cursor,))
        return _url("/console/requests", {**asked.query, "cursor": signed})

    @staticmethod
    def _api_query(asked: Asked) -> dict[str, str]:
        query = {name: text for name, text in asked.query.items() if name not in {"within", "own"}}
        if asked.filters.from_us is not None:
            query["from"] = rfc3339(asked.filters.from_us)
        return query


def _rerun_url(call: Call, record: RequestRecord) -> str | None:
    """Return where a request of the reader's own organization is asked again, by a reader who may ask."""
    is_asked = record.endpoint in _ASKED and record.organization_id == call.who.organization_id
    if not is_asked or not call.may_open(_PLAYGROUND):
        return None
    return _url(_PLAYGROUND, {"request_id": format_id("req", record.id)})


def _limits_url(call: Call, record: RequestRecord) -> str | None:
    """Return where the limits are explained that hold for the key and the model of a request."""
    if record.key_id is None or not record.alias or not call.may_open(_LIMITS):
        return None
    return _url(_LIMITS, {"key": format_id("key", record.key_id), "model": record.alias}) + "#explain"


def _shown(records: list[RequestRecord], asked: Asked) -> list[RequestRecord]:
    return records if asked.has_own else [each for each in records if not is_of_console(each)]


def _key(text: str) -> Any:
    try:
        return parse_id("key", text)
    except (MalformedIdError, IndexError) as error:
        raise InterlockError(
            "invalid_request", "This is no id of a key; it begins with key_.", detail={"field": "key_id"}
        ) from error


def _url(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path
