"""HTTP of crawls: start, change, read, follow, explain, preview.

Every other workspace's crawl is answered like one that never was.
"""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.crawler.domain.frontier import CrawlRef
from interlock.crawler.domain.spec import Budgets, CrawlSpec, Politeness, Recrawl, ScopeSpec
from interlock.crawler.domain.states import UrlState
from interlock.crawler.domain.types import CanonicalUrl
from interlock.crawler.domain.urls import canonicalise
from interlock.crawler.routes.views import crawl_host_view, crawl_view, document_view, safe, url_view
from interlock.crawler.service.control import ControlCrawl
from interlock.crawler.service.explain import Explain
from interlock.crawler.service.reading import ReadCrawls
from interlock.crawler.service.start import StartCrawl
from interlock.crawler.store import SQL
from interlock.crawler.store.crawls import rules_of
from interlock.foundation.clock import Clock
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.control.stream import follow, last_event_id
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, parse_id

_PATH: Final = "/v1/crawls"
_ONE: Final = f"{_PATH}/{{id}}"
_SPEC_CODES: Final = (
    "invalid_url", "invalid_spec", "politeness_below_floor", "contact_missing", "crawl_limit", "killed",
)  # fmt: skip


class ReasonBody(msgspec.Struct, forbid_unknown_fields=True):
    """Why."""

    reason: str | None = None


class ChangeBody(msgspec.Struct, forbid_unknown_fields=True):
    """The parts of a spec that may change while a crawl is there; fields that are not named stay."""

    budgets: Budgets | None = None
    scope: ScopeSpec | None = None
    politeness: Politeness | None = None
    recrawl: Recrawl | None = None
    weight: float | None = None


class UrlsBody(msgspec.Struct, forbid_unknown_fields=True):
    """URLs to add."""

    urls: list[str]
    priority: int = 0


class RecrawlBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which URLs to visit again."""

    urls: list[str] = []
    all: bool = False


class RequeueBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which dead letters to try again."""

    state: str = "dead"
    reason: str | None = None


class PreviewBody(CrawlSpec, forbid_unknown_fields=True, kw_only=True):
    """A spec, and URLs to try it on."""

    urls: list[str]


class CrawlHandlers:
    """One method a call."""

    def __init__(
        self, start: StartCrawl, control: ControlCrawl, reading: ReadCrawls, explain: Explain, clock: Clock
    ) -> None:
        self._start = start
        self._control = control
        self._reading = reading
        self._explain = explain
        self._clock = clock

    async def start(self, call: Call) -> Reply:
        """Begin a crawl."""
        crawl = await self._start.start(call.tx, call.body)
        return Reply(status=201, body=await self._shown(call, crawl.crawl_id))

    async def listed(self, call: Call) -> Reply:
        """Answer a page of crawls."""
        page = call.page
        after = None if page.after is None else UUID(page.after[0])
        rows = await self._reading.listed(call.within, page.limit_plus_one, after)
        kept, following = page.cut(rows, lambda row: (row["crawl_id"],))
        return call.listed([crawl_view(row) for row in kept], following)

    async def one(self, call: Call) -> Reply:
        """Answer a crawl."""
        return Reply(body=crawl_view(await self._reading.one(call.within, crawl_id_of(call))))

    async def change(self, call: Call) -> Reply:
        """Change a crawl."""
        body: ChangeBody = call.body
        changes = {
            name: value if name == "weight" else msgspec.to_builtins(value)
            for name in ("budgets", "scope", "politeness", "recrawl", "weight")
            if (value := getattr(body, name)) is not None
        }
        crawl_id = crawl_id_of(call)
        await self._control.change(call.tx, crawl_id, changes)
        return Reply(body=await self._shown(call, crawl_id))

    async def pause(self, call: Call) -> Reply:
        """Stop visits."""
        crawl_id = crawl_id_of(call)
        await self._control.pause(call.tx, crawl_id, call.body.reason)
        return Reply(body=await self._shown(call, crawl_id))

    async def resume(self, call: Call) -> Reply:
        """Go on."""
        crawl_id = crawl_id_of(call)
        await self._control.resume(call.tx, crawl_id, call.body.reason)
        return Reply(body=await self._shown(call, crawl_id))

    async def cancel(self, call: Call) -> Reply:
        """End a crawl."""
        crawl_id = crawl_id_of(call)
        await self._control.cancel(call.tx, crawl_id, call.body.reason)
        return Reply(body=await self._shown(call, crawl_id))

    async def delete(self, call: Call) -> Reply:
        """Begin the end of a crawl and of its documents."""
        wanted = call.query.get("documents", "delete")
        if wanted not in {"delete", "keep"}:
            raise InterlockError("invalid_request", detail={"field": "documents"})
        tombstones = await self._control.delete(call.tx, crawl_id_of(call), keeps=wanted == "keep")
        return Reply(status=202, body={"id": call.params["id"], "state": "deleting", "tombstones": tombstones})

    async def add(self, call: Call) -> Reply:
        """Add URLs."""
        body: UrlsBody = call.body
        row = await self._control.locked(call.tx, crawl_id_of(call))
        if row["state"] not in {"running", "throttled", "paused"}:
            raise InterlockError("crawl_not_running", detail={"state": row["state"]})
        added = await self._start.add(call.tx, row, body.urls, max(-1_000, min(1_000, body.priority)))
        refused = [{"url": safe(url, 2_048), "code": code} for url, code in added.refused]
        return Reply(body={"added": added.added, "known": added.known, "refused": refused})

    async def recrawl(self, call: Call) -> Reply:
        """Queue URLs again."""
        body: RecrawlBody = call.body
        if body.all == bool(body.urls):
            raise InterlockError("invalid_request", 'Give either `urls` or `"all": true`.', detail={"field": "urls"})
        scheduled = await self._control.recrawl(call.tx, crawl_id_of(call), None if body.all else body.urls)
        return Reply(status=202, body={"scheduled": scheduled})

    async def requeue(self, call: Call) -> Reply:
        """Queue dead letters again."""
        body: RequeueBody = call.body
        if body.state != "dead":
            raise InterlockError("invalid_request", "Only dead letters are requeued.", detail={"field": "state"})
        scheduled = await self._control.requeue(call.tx, crawl_id_of(call), body.reason)
        return Reply(status=202, body={"scheduled": scheduled})

    async def urls(self, call: Call) -> Reply:
        """Answer a page of URLs."""
        page, wanted = call.page, {name: call.query.get(name) for name in ("state", "reason", "host")}
        if wanted["state"] is not None and wanted["state"] not in set(UrlState):
            raise InterlockError("invalid_request", detail={"field": "state"})
        rows = await self._reading.urls(
            call.within, crawl_id_of(call), wanted, _position(page.after), page.limit_plus_one
        )
        kept, after = page.cut(rows, lambda row: (row["host_hash"], row["url_key"]))
        return call.listed([url_view(row) for row in kept], after)

    async def documents(self, call: Call) -> Reply:
        """Answer a page of documents."""
        page, since = call.page, _moment(call.query.get("changed_since"))
        rows = await self._reading.documents(
            call.within, crawl_id_of(call), since, _position(page.after), page.limit_plus_one
        )
        kept, after = page.cut(rows, lambda row: (row["host_hash"], row["url_key"]))
        return call.listed([document_view(row) for row in kept], after)

    async def hosts(self, call: Call) -> Reply:
        """Answer a page of hosts."""
        page = call.page
        after = None if page.after is None else page.after[0]
        rows = await self._reading.hosts(call.within, crawl_id_of(call), after, page.limit_plus_one)
        kept, following = page.cut(rows, lambda row: (row.host_hash,))
        views = [crawl_host_view(row) for row in kept]
        state = call.query.get("state")
        return call.listed([view for view in views if state in {None, view["state"]}], following)

    async def events(self, call: Call) -> Reply:
        """Follow a crawl."""
        row = await self._reading.one(call.within, crawl_id_of(call))
        crawl = CrawlRef(row["organization_id"], row["workspace_id"], row["crawl_id"])
        scope = call.within

        async def read(after: int) -> Any:
            return await self._reading.events(scope, crawl, after)

        after = last_event_id(call.headers, call.query)
        return Reply(stream=follow(read, after, self._clock), media_type="text/event-stream")

    async def explain(self, call: Call) -> Reply:
        """Explain a URL."""
        row = await self._reading.one(call.within, crawl_id_of(call))
        url = call.query.get("url")
        if not url:
            raise InterlockError("invalid_request", detail={"field": "url"})
        return Reply(body=await self._explain.of(call.within, row, url))

    async def preview(self, call: Call) -> Reply:
        """Try a spec on URLs; nothing is stored and nothing is dialled."""
        body: PreviewBody = call.body
        spec = CrawlSpec(**{name: getattr(body, name) for name in CrawlSpec.__struct_fields__})
        self._start.checked(spec)
        rules = rules_of(spec)
        data = []
        for raw in body.urls[:1_000]:
            found = canonicalise(raw)
            if not isinstance(found, CanonicalUrl):
                told = {"canonical": None, "verdict": "refused", "rule": "invalid_url", "detail": {"why": found.rule}}
            else:
                ruling = self._explain.ruling(spec, rules, found)
                told = {
                    "canonical": found.url,
                    "verdict": "refused" if ruling.verdict == "refused" else "allowed",
                    "rule": ruling.rule,
                    "detail": ruling.detail,
                }
            data.append({"url": safe(raw, 2_048), **told})
        return Reply(body={"data": data, "next_cursor": None})

    async def _shown(self, call: Call, crawl_id: UUID) -> dict[str, Any]:
        row = await call.tx.fetchrow(SQL.get_crawl, call.within.organization_id, crawl_id)
        return crawl_view(row)


def crawl_id_of(call: Call) -> UUID:
    """Return the crawl that a path names. Raises `crawl_not_found` for a text that is no id."""
    try:
        return parse_id("crawl", call.params["id"])
    except MalformedIdError:
        raise InterlockError("crawl_not_found") from None


def _position(after: Any) -> tuple[int, UUID] | None:
    return None if after is None else (after[0], UUID(after[1]))


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InterlockError("invalid_request", detail={"field": "changed_since"}) from None
    if moment.tzinfo is None:
        raise InterlockError("invalid_request", "Times name their zone.", detail={"field": "changed_since"})
    return moment


_AT: Final = Level.WORKSPACE
_FOUND: Final = ("crawl_not_found",)
_LIVE: Final = ("crawl_not_found", "crawl_not_running")


def routes(handlers: CrawlHandlers) -> list[Route]:
    """Return the routes of crawls."""
    return [*_changing(handlers), *_reading(handlers)]


def _changing(handlers: CrawlHandlers) -> list[Route]:
    at, write, found, live = _AT, "crawls:write", _FOUND, _LIVE
    return [
        Route(
            "POST", _PATH, at, handlers.start, "Start a crawl.", action=write, body=CrawlSpec, status=201,
            is_mutation=True, codes=_SPEC_CODES, query=("workspace_id",),
        ),
        Route(
            "PATCH", _ONE, at, handlers.change, "Change a crawl.", action=write, body=ChangeBody, is_mutation=True,
            codes=(*live, *_SPEC_CODES),
        ),
        Route(
            "DELETE", _ONE, at, handlers.delete, "Delete a crawl, with or without its documents.", action=write,
            status=202, is_mutation=True, codes=found, query=("documents",),
        ),
        Route(
            "POST", f"{_ONE}/pause", at, handlers.pause, "Stop visits.", action=write, body=ReasonBody,
            is_mutation=True, codes=live,
        ),
        Route(
            "POST", f"{_ONE}/resume", at, handlers.resume, "Go on.", action=write, body=ReasonBody, is_mutation=True,
            codes=live,
        ),
        Route(
            "POST", f"{_ONE}/cancel", at, handlers.cancel, "End a crawl; its documents stay.", action=write,
            body=ReasonBody, is_mutation=True, codes=live,
        ),
        Route(
            "POST", f"{_ONE}/urls", at, handlers.add, "Add URLs to a crawl.", action=write, body=UrlsBody,
            is_mutation=True, codes=(*live, "too_many_urls"), body_bytes_max=4 << 20,
        ),
        Route(
            "POST", f"{_ONE}/recrawl", at, handlers.recrawl, "Visit URLs again.", action=write, body=RecrawlBody,
            status=202, is_mutation=True, codes=(*live, "invalid_url", "too_many_urls"), body_bytes_max=4 << 20,
        ),
        Route(
            "POST", f"{_ONE}/requeue", at, handlers.requeue, "Try dead letters again.", action=write, body=RequeueBody,
            status=202, is_mutation=True, codes=live,
        ),
    ]  # fmt: skip


def _reading(handlers: CrawlHandlers) -> list[Route]:
    at, read, found = _AT, "crawls:read", _FOUND
    return [
        Route(
            "GET", _PATH, at, handlers.listed, "Crawls, the newest first.", action=read,
            query=("limit", "cursor", "workspace_id"),
        ),
        Route(
            "POST", f"{_PATH}/preview", at, handlers.preview, "Try a spec on URLs, without any network.", action=read,
            body=PreviewBody, codes=_SPEC_CODES,
        ),
        Route("GET", _ONE, at, handlers.one, "A crawl.", action=read, codes=found),
        Route(
            "GET", f"{_ONE}/urls", at, handlers.urls, "URLs of a crawl.", action=read, codes=found,
            query=("limit", "cursor", "state", "reason", "host"),
        ),
        Route(
            "GET", f"{_ONE}/events", at, handlers.events, "Events of a crawl, as they come.", action=read, codes=found,
            query=("after",), media_type="text/event-stream",
        ),
        Route(
            "GET", f"{_ONE}/explain", at, handlers.explain, "Why a URL is, or is not, in the index.", action=read,
            codes=(*found, "invalid_url"), query=("url",),
        ),
        Route(
            "GET", f"{_ONE}/hosts", at, handlers.hosts, "Hosts of a crawl.", action=read, codes=found,
            query=("limit", "cursor", "state"),
        ),
        Route(
            "GET", f"{_ONE}/documents", at, handlers.documents, "Documents of a crawl.", action=read, codes=found,
            query=("limit", "cursor", "changed_since"),
        ),
    ]  # fmt: skip
