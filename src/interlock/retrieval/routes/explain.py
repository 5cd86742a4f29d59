"""HTTP of explanations: why somebody may read a document, and what a recorded search saw. Never text."""

from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.retrieval.routes.search import TOKEN_HEADER
from interlock.retrieval.service.explain import Explained, ExplainService, Inspected
from interlock.retrieval.service.search import SearchService

EXPLAIN: Final = "retrieval:explain"
_PATH: Final = "/v1/retrieval/explain"
_ZERO: Final = UUID(int=0)


class ExplainBody(msgspec.Struct, forbid_unknown_fields=True):
    """Whom and what to explain; `at` is an epoch, null is now."""

    document_id: str
    principal: str | None = None
    at: int | None = None


class ReasonView(msgspec.Struct):
    """One reason; `path` leads from the reader to the principal that the clause names."""

    rule: str
    acl_digest: str | None
    clause: list[str]
    path: list[str]
    container: str | None


class ExplainView(msgspec.Struct):
    """Whether the reader could read the document at the epoch, and why."""

    eligible: bool
    at_epoch: int
    reasons: list[ReasonView]
    live_now: bool


class InspectView(msgspec.Struct):
    """What a search saw: eligible, candidates, fused, emitted, dropped."""

    request_id: str
    principal: str
    epoch: int
    plan: str
    eligible_chunks: int
    eligible_documents: int
    candidates: dict[str, Any]
    fused: list[dict[str, Any]]
    emitted: list[dict[str, Any]]
    dropped: list[dict[str, str]]
    degraded: list[str]
    timing_ms: dict[str, float]
    profile_digest: str
    eligible_url: str


class EligibleList(msgspec.Struct):
    """A page of document ids."""

    data: list[str]
    next_cursor: str | None


class ExplainHandlers:
    """One method a call."""

    def __init__(self, service: ExplainService, search: SearchService) -> None:
        self._service = service
        self._search = search

    async def why(self, call: Call) -> Reply:
        """Explain one document for one reader."""
        body: ExplainBody = call.body
        try:
            document_id = parse_id("doc", body.document_id)
        except MalformedIdError as error:
            raise InterlockError("document_not_found") from error
        found = await self._service.why(call.within, body.principal, document_id, body.at)
        token = self._search.token(call.within, found.at_epoch)
        return Reply(body=explain_view(found), headers={TOKEN_HEADER: token})

    async def inspect(self, call: Call) -> Reply:
        """Answer what a recorded search saw, or what became of one document in it."""
        found = await self._service.inspect(call.within, _request_id(call))
        token = self._search.token(call.within, found.seen.epoch)
        wanted = call.query.get("document_id")
        return Reply(body=inspect_view(found, wanted), headers={TOKEN_HEADER: token})

    async def eligible(self, call: Call) -> Reply:
        """Answer a page of the documents that a recorded search could see."""
        page = call.page
        after = UUID(str(page.after[0])) if page.after else _ZERO
        found = await self._service.eligible(call.within, _request_id(call), after, page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (each,))
        return call.listed([format_id("doc", each) for each in kept], position)


def explain_routes(service: ExplainService, search: SearchService) -> list[Route]:
    """Return the routes of explanations."""
    handlers = ExplainHandlers(service, search)
    return [
        Route(
            "POST", _PATH, Level.WORKSPACE, handlers.why, "Why somebody may read a document, now or at an epoch.",
            action=EXPLAIN, body=ExplainBody, answer=ExplainView, codes=("principal_not_found", "document_not_found"),
        ),
        Route(
            "GET", _PATH, Level.WORKSPACE, handlers.inspect, "What a recorded search saw, step by step.",
            action=EXPLAIN, answer=InspectView, query=("request_id", "document_id"), codes=("request_not_found",),
        ),
        Route(
            "GET", f"{_PATH}/eligible", Level.WORKSPACE, handlers.eligible,
            "Every document that a recorded search could see.",
            action=EXPLAIN, answer=EligibleList, query=("request_id", "limit", "cursor"), codes=("request_not_found",),
        ),
    ]  # fmt: skip


def explain_view(found: Explained) -> ExplainView:
    """Return the answer of an explanation."""
    return ExplainView(
        eligible=found.is_eligible,
        at_epoch=found.at_epoch,
        reasons=[
            ReasonView(each.rule, each.acl_digest, list(each.clause), list(each.path), each.container)
            for each in found.reasons
        ],
        live_now=found.is_live_now,
    )


def inspect_view(found: Inspected, document: str | None = None) -> InspectView:
    """Return what a search saw, of one document where one is named."""
    seen = found.seen
    document_of = {chunk: doc for leg in seen.candidates.values() for chunk, doc, _ in leg}
    request_id = format_id("req", seen.request_id)

    def is_meant(other: str | None) -> bool:
        return document is None or other == document

    return InspectView(
        request_id=request_id,
        principal=seen.principal,
        epoch=seen.epoch,
        plan=seen.plan,
        eligible_chunks=seen.eligible_chunks,
        eligible_documents=seen.eligible_documents,
        candidates={
            leg: [
                {"rank": rank, "chunk_id": str(chunk), "document_id": doc, "score": score}
                for rank, (chunk, doc, score) in enumerate(ranked, 1)
                if is_meant(doc)
            ]
            for leg, ranked in seen.candidates.items()
        },
        fused=[
            {"rank": rank, "chunk_id": str(chunk), "document_id": document_of.get(chunk), "score": score}
            for rank, (chunk, score) in enumerate(seen.fused, 1)
            if is_meant(document_of.get(chunk))
        ],
        emitted=[
            {**each, "chunks": [str(chunk) for chunk in each["chunks"]]}
            for each in seen.emitted
            if is_meant(each["document_id"])
        ],
        dropped=[dict(each) for each in found.dropped if is_meant(each["document_id"])],
        degraded=seen.degraded,
        timing_ms=dict(seen.timing),
        profile_digest=seen.profile_digest,
        eligible_url=f"{_PATH}/eligible?request_id={request_id}",
    )


def _request_id(call: Call) -> UUID:
    try:
        return parse_id("req", call.query.get("request_id", ""))
    except MalformedIdError as error:
        raise InterlockError("request_not_found") from error
