"""HTTP of reading: search, answers, verification of citations, explanations.

Every answer carries the consistency token of what it saw.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec

from interlock.contracts.retrieval import FoundDocument, Rerank, SearchMode, SearchQuery, SearchResult
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.retrieval.service.looking import Trace
from interlock.retrieval.service.search import SearchService

TOKEN_HEADER: Final = "x-interlock-consistency-token"  # noqa: S105 - the name of a header
READ: Final = "retrieval:read"
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class SearchBody(msgspec.Struct, forbid_unknown_fields=True):
    """One search."""

    query: str
    k: int = 10
    principal: str | None = None
    sources: list[str] = []
    labels: dict[str, str] = {}
    container_prefix: str | None = None
    updated_after: Moment | None = None
    mode: Literal["hybrid", "lexical", "vector"] = "hybrid"
    rerank: Literal["features", "none"] = "features"
    passages_per_document: int = 2
    at_least_as_fresh: str | None = None
    facets: bool = False
    profile: str = "default"


class PassageView(msgspec.Struct):
    """A passage: `document[start:end]` in code points."""

    chunk_id: str
    start: int
    end: int
    text: str
    score: float


class LegsView(msgspec.Struct):
    """Where the two legs had the best passage, from 1."""

    lexical: int | None
    vector: int | None


class HitView(msgspec.Struct):
    """A document with its best passages."""

    document_id: str
    source_id: str
    title: str
    uri: str
    version: int
    updated_at: str
    score: float
    passages: list[PassageView]
    legs: LegsView


class FacetView(msgspec.Struct):
    """How many of the documents that matched have a value."""

    value: str
    count: int


class FacetsView(msgspec.Struct):
    """Counts over eligible documents that matched."""

    source: list[FacetView]
    kind: list[FacetView]


class SearchView(msgspec.Struct):
    """Hits, best first; no match and nothing to match look alike."""

    request_id: str
    hits: list[HitView]
    facets: FacetsView
    consistency_token: str
    epoch: int
    degraded: list[str]
    profile_digest: str
    timing_ms: dict[str, float]


class SearchHandlers:
    """One method a call."""

    def __init__(self, service: SearchService, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    async def search(self, call: Call) -> Reply:
        """Search as the caller, or as somebody whom the caller may act as."""
        body: SearchBody = call.body
        trace = Trace(self._clock, call.decisions)
        found = await self._service.search(call.within, body.principal, query_of(body), trace)
        token = found.result.consistency_token
        return Reply(body=search_view(found.result), headers={TOKEN_HEADER: token})


def search_routes(service: SearchService, clock: Clock) -> list[Route]:
    """Return the route of search."""
    handlers = SearchHandlers(service, clock)
    return [
        Route(
            "POST", "/v1/retrieval/search", Level.WORKSPACE, handlers.search, "Search what the caller may read.",
            action=READ, body=SearchBody, answer=SearchView, codes=SEARCH_CODES,
        ),
    ]  # fmt: skip


SEARCH_CODES: Final = (
    "invalid_query", "invalid_consistency_token", "delegation_denied", "principal_not_found", "not_fresh_enough",
    "search_overloaded", "retrieval_guard_tripped", "killed", "deadline_exceeded",
)  # fmt: skip


def query_of(body: SearchBody) -> SearchQuery:
    """Return the query of a body. Raises `invalid_request` for an id that is none."""
    moment = body.updated_after
    return SearchQuery(
        text=body.query,
        hits=body.k,
        sources=tuple(parsed("src", each, "sources") for each in body.sources),
        labels=body.labels,
        container_prefix=body.container_prefix,
        updated_after_us=None if moment is None else round(moment.timestamp() * 1_000_000),
        mode=SearchMode(body.mode),
        rerank=Rerank(body.rerank),
        passages=body.passages_per_document,
        at_least_as_fresh=body.at_least_as_fresh,
        with_facets=body.facets,
        profile=body.profile,
    )


def parsed(kind: str, text: str, field: str) -> UUID:
    """Return the uuid of an id in a body. Raises `invalid_request`."""
    try:
        return parse_id(kind, text)
    except MalformedIdError as error:
        raise InterlockError("invalid_request", f"This is no id of kind {kind}.", detail={"field": field}) from error


def search_view(result: SearchResult) -> SearchView:
    """Return the answer of a search."""
    return SearchView(
        request_id=format_id("req", result.request_id),
        hits=[hit_view(each) for each in result.hits],
        facets=FacetsView(*([FacetView(*each) for each in result.facets[name]] for name in ("source", "kind"))),
        consistency_token=result.consistency_token,
        epoch=result.epoch,
        degraded=list(result.degraded),
        profile_digest=result.profile_digest,
        timing_ms=timing_view(result.timing_ms),
    )


def timing_view(timing_ms: Any) -> dict[str, float]:
    """Return the time of each part; 0 for one that was not needed."""
    return {name: timing_ms.get(name, 0.0) for name in ("resolve", "lexical", "vector", "rerank", "guard", "total")}


def hit_view(hit: FoundDocument) -> HitView:
    """Return a hit."""
    return HitView(
        document_id=format_id("doc", hit.document_id),
        source_id=format_id("src", hit.source_id),
        title=hit.title,
        uri=hit.uri,
        version=hit.version,
        updated_at=rfc3339(hit.updated_us),
        score=hit.score,
        passages=[
            PassageView(str(each.chunk_id), each.start, each.end, each.text, each.score) for each in hit.passages
        ],
        legs=LegsView(hit.lexical_rank, hit.vector_rank),
    )
