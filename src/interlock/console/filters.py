"""Filters of the requests page that a person named: kept, listed, deleted; the address alone says what one does.

Searches nothing and judges no filter beyond its form; the page it leads to does.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from interlock.console.addresses import HTML
from interlock.console.render import sent_to
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.control.route import Call, Handler, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.store import Queries

SQL: Final = Queries("interlock.console")
FILTERS_MAX: Final = 30
NAME_CHARS_MAX: Final = 60
_QUERY_CHARS_MAX: Final = 2_000
_FIELDS_MAX: Final = 20
_PAGE: Final = "/console/requests"
# What a named filter may hold; neither a cursor nor a form's token belongs to it.
KEPT: Final = frozenset({
    "outcome", "alias", "endpoint", "key_id", "client_request_id", "upstream_request_id", "trace_id", "within", "own",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class SavedFilter:
    """One chip: a name and the address it leads to."""

    name: str
    query: str

    @property
    def url(self) -> str:
        """The page with this filter."""
        return f"{_PAGE}?{self.query}"


@dataclass(frozen=True, slots=True)
class SavedFilters:
    """The filters that people named, each their own."""

    audit: AuditLog
    clock: Clock

    async def listed(self, call: Call) -> list[SavedFilter]:
        """Return the reader's, by name."""
        async with call.store.transaction(call.within) as tx:
            rows = await tx.fetch(SQL.list_filters, call.who.organization_id, call.who.id, FILTERS_MAX)
        return [SavedFilter(row["name"], row["query"]) for row in rows]

    async def save(self, call: Call) -> Reply:
        """Keep a filter under a name, and go to it. Raises `invalid_request`."""
        name, query = call.form.get("name", "").strip(), kept_of(call.form.get("query", ""))
        if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
            raise InterlockError("invalid_request", f"A name has 1 to {NAME_CHARS_MAX} printable characters.")
        owner = (call.who.organization_id, call.who.id)
        if await call.tx.fetchval(SQL.count_filters, *owner, name) >= FILTERS_MAX:
            raise InterlockError("invalid_request", f"There are {FILTERS_MAX} filters already; delete one first.")
        await call.tx.execute(SQL.put_filter, *owner, name, query, self.clock.now_us())
        await self.audit.append(call.tx, AuditEntry("console.filter.save", "filter", name, detail={"query": query}))
        return sent_to(f"{_PAGE}?{query}")

    async def delete(self, call: Call) -> Reply:
        """Forget a filter, and go back to the list; one that is gone is gone."""
        name = call.form.get("name", "")
        if await call.tx.execute(SQL.delete_filter, call.who.organization_id, call.who.id, name):
            await self.audit.append(call.tx, AuditEntry("console.filter.delete", "filter", name))
        return sent_to(_PAGE)


def filter_routes(filters: SavedFilters) -> list[Route]:
    """Return the routes of the forms."""
    return [
        _form("/console/requests/filters", filters.save, "Keep a filter of the requests under a name."),
        _form("/console/requests/filters/delete", filters.delete, "Forget a filter."),
    ]


def kept_of(query: str) -> str:
    """Return what of an address a filter keeps. Raises `invalid_request` where that is nothing."""
    try:
        pairs = parse_qsl(query[: _QUERY_CHARS_MAX + 1], max_num_fields=_FIELDS_MAX)
    except ValueError:
        pairs = []
    found = urlencode([(name, value) for name, value in pairs if name in KEPT])
    if not 0 < len(found) <= _QUERY_CHARS_MAX:
        raise InterlockError("invalid_request", "There is no filter to keep.", detail={"field": "query"})
    return found


def _form(path: str, handler: Handler, summary: str) -> Route:
    return Route("POST", path, Level.SESSION, handler, summary, action="console", is_html=True, is_mutation=True,
                 status=303, body_bytes_max=16_384, media_type=HTML)  # fmt: skip
