"""Retrieval in the console: a query run and looked into, a recorded search step by step, and why somebody may read.

Shows the text of passages only to who ran the query; records and explanations hold ids alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.console.addresses import Sampler, form_at, page_at
from interlock.console.frame import Frame
from interlock.console.views import CAUTION, GO, STOP
from interlock.contracts.retrieval import Rerank, SearchMode, SearchQuery
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import authorize
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope
from interlock.retrieval.public import ExplainService, Look, SearchSeen, SearchService, Trace

READ: Final = "retrieval:read"
EXPLAIN: Final = "retrieval:explain"
DELEGATE: Final = "retrieval:delegate"
_PATH: Final = "/retrieval"
_SHOWN: Final = 10
_RECENT: Final = 30
_CHARS_MAX: Final = 4_000
_CODES: Final = (
    "invalid_query", "delegation_denied", "principal_not_found", "search_overloaded", "retrieval_guard_tripped",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a search as a column: what came out of it, best first. A line is (rank, document, words)."""

    name: str
    count: int
    lines: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class RetrievalPages:
    """Serves the pages."""

    frame: Frame
    search: SearchService
    explain: ExplainService
    clock: Clock

    async def show(self, call: Call) -> Reply:
        """Answer the form, and the searches of late for who may explain them."""
        return self.frame.page(call, "retrieval", await self._values(call, {}))

    async def run(self, call: Call) -> Reply:
        """Run a query and lay it out. Raises what a search raises."""
        form = call.form
        principal = (form.get("principal") or "").strip()[:_CHARS_MAX] or None
        mode = form.get("mode") or "hybrid"
        if mode not in set(SearchMode):
            raise InterlockError("invalid_request", "There is no such mode.", detail={"field": "mode"})
        query = SearchQuery(
            form.get("query") or "", hits=_SHOWN, mode=SearchMode(mode), rerank=Rerank.FEATURES, with_facets=True
        )
        trace = Trace(self.clock, call.decisions)
        searched = await self.search.search(call.within, principal, query, trace)
        values = {
            "asked": dict(form),
            "found": searched,
            "stages": stages_of(searched.look, searched.kept),
            "as": principal,
        }
        return self.frame.page(call, "retrieval", await self._values(call, values))

    async def record(self, call: Call) -> Reply:
        """Answer what a recorded search saw. Raises `request_not_found`."""
        try:
            request_id = parse_id("req", call.params["id"])
        except MalformedIdError as error:
            raise InterlockError("request_not_found") from error
        found = await self.explain.inspect(call.within, request_id)
        seen = found.seen
        values = {
            "seen": seen,
            "id": format_id("req", seen.request_id),
            "stages": recorded_stages(seen),
            "dropped": found.dropped,
            "timing": sorted(seen.timing.items(), key=lambda each: -each[1]),
            "at": rfc3339(round(seen.created_at.timestamp() * 1e6)),
        }
        return self.frame.page(call, "retrieval_request", values)

    async def why(self, call: Call) -> Reply:
        """Answer the form, and the access path of one principal to one document where both are named."""
        principal = call.query.get("principal", "").strip()
        document, at = call.query.get("document_id", "").strip(), call.query.get("at", "").strip()
        values: dict[str, Any] = {"principal": principal, "document_id": document, "at": at, "found": None, "no": None}
        if principal and document:
            try:
                values["found"] = await self._explained(call, principal, document, at)
            except InterlockError as error:
                values["no"] = error.message
        return self.frame.page(call, "retrieval_why", values)

    async def newest(self, scope: Scope) -> str | None:
        """Return the request whose search is the newest, for the list of screens; None for who may not look into it."""
        if not isinstance(authorize(scope.principal, EXPLAIN, Level.WORKSPACE), Scope):
            return None
        found = await self.explain.newest(scope)
        return None if found is None else format_id("req", found)

    async def _explained(self, call: Call, principal: str, document: str, at: str) -> Any:
        try:
            document_id = parse_id("doc", document)
        except MalformedIdError as error:
            raise InterlockError("document_not_found") from error
        if at and not (at.isascii() and at.isdigit() and len(at) < 19):
            raise InterlockError("invalid_request", "An epoch is a number.", detail={"field": "at"})
        return await self.explain.why(call.within, principal, document_id, int(at) if at else None)

    async def _values(self, call: Call, values: Mapping[str, Any]) -> dict[str, Any]:
        may = {name: isinstance(authorize(call.who, name, Level.WORKSPACE), Scope) for name in (EXPLAIN, DELEGATE)}
        recent: list[Any] = []
        if may[EXPLAIN]:
            recent = [self._recent(each) for each in await self.explain.recent(call.within, _RECENT)]
        asked = {"query": "", "principal": "", "mode": str(SearchMode.HYBRID), **values.get("asked", {})}
        blank: dict[str, Any] = {"asked": asked, "found": None, "stages": (), "as": None}
        return {
            **blank, **values, "asked": asked, "recent": recent, "modes": list(SearchMode),
            "may_explain": may[EXPLAIN], "may_delegate": may[DELEGATE],
        }  # fmt: skip

    def _recent(self, row: Mapping[str, Any]) -> dict[str, Any]:
        tone = CAUTION if row["degraded"] else GO if row["emitted"] else STOP
        told_at = rfc3339(round(row["created_at"].timestamp() * 1e6))
        return {**row, "id": format_id("req", row["request_id"]), "told_at": told_at, "tone": tone}


def retrieval_pages(pages: RetrievalPages, samples: dict[str, Sampler]) -> list[Route]:
    """Return the routes of the pages, and say what their screens can show."""
    samples["retrieval_request"] = pages.newest
    return [
        page_at(_PATH, pages.show, "A query, looked into.", action=READ),
        form_at(_PATH, pages.run, "Run a query as oneself or as somebody else.", action=READ, codes=_CODES),
        page_at(f"{_PATH}/requests/{{id}}", pages.record, "What a recorded search saw.", action=EXPLAIN,
                codes=("request_not_found",)),
        page_at(f"{_PATH}/why", pages.why, "Why somebody may read a document.", ("principal", "document_id", "at"),
                action=EXPLAIN),
    ]  # fmt: skip


def stages_of(look: Look, kept: frozenset[UUID]) -> tuple[Stage, ...]:
    """Return the stages of a search that was just run, without what may not be told of any more."""
    titles = {
        chunk: passage.title or passage.uri for chunk, passage in look.passages.items() if passage.document_id in kept
    }

    def stage(name: str, ranked: list[tuple[int, float]], form: str) -> Stage:
        told = [(titles[chunk], score) for chunk, score in ranked if chunk in titles]
        lines = tuple((rank, title, form.format(score)) for rank, (title, score) in enumerate(told[:_SHOWN], 1))
        return Stage(name, len(told), lines)

    return (
        stage("By words", [(chunk, score / 1e5) for chunk, score in look.lexical], "{:.2f}"),
        stage("By meaning", list(look.vector), "{:.3f}"),
        stage("Fused", [(each.chunk_id, each.score) for each in look.fused], "{:.3f}"),
        stage("Reranked", [(each.chunk_id, each.score) for each in look.ranked], "{:.3f}"),
    )


def recorded_stages(seen: SearchSeen) -> tuple[Stage, ...]:
    """Return the stages of a recorded search, by the ids of documents."""
    document_of = {chunk: document or "?" for leg in seen.candidates.values() for chunk, document, _ in leg}

    def lines(ranked: list[tuple[int, float]], form: str) -> tuple[tuple[int, str, str], ...]:
        shown = ranked[:_SHOWN]
        return tuple(
            (rank, document_of.get(chunk, "?"), form.format(score)) for rank, (chunk, score) in enumerate(shown, 1)
        )

    words = [(chunk, score / 1e5) for chunk, _, score in seen.candidates["lexical"]]
    meaning = [(chunk, score) for chunk, _, score in seen.candidates["vector"]]
    fused = [(chunk, score) for chunk, score in seen.fused]
    return (
        Stage("By words", len(words), lines(words, "{:.2f}")),
        Stage("By meaning", len(meaning), lines(meaning, "{:.3f}")),
        Stage("Fused", len(fused), lines(fused, "{:.3f}")),
        Stage(
            "Given",
            len(seen.emitted),
            tuple((rank, each["document_id"], f"{each['score']:.3f}") for rank, each in enumerate(seen.emitted, 1)),
        ),
    )
