"""HTTP of answers and of the verification of citations; an answer comes whole or as a stream of events.

Generative answers are not served: what asks for one is refused and never answered in another way.
"""

from collections.abc import AsyncIterator, Mapping
from itertools import count
from typing import Any, Final, Literal

import msgspec

from interlock.contracts.retrieval import Answer, AnswerQuery, AnswerSentence, Citation
from interlock.foundation.clock import Clock
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.control.story import StoryLink
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope
from interlock.foundation.wire.sse import encode_event
from interlock.retrieval.routes.search import READ, SEARCH_CODES, TOKEN_HEADER, SearchBody, hit_view, query_of
from interlock.retrieval.service.answers import Answered, AnswerService
from interlock.retrieval.service.citations import Cited, verify
from interlock.retrieval.service.looking import Trace
from interlock.retrieval.service.search import found_document

_encode: Final = msgspec.json.Encoder().encode


class AnswerBody(SearchBody, forbid_unknown_fields=True):
    """A search and how to answer from it; `k` is how many documents are looked at."""

    k: int = 8
    mode_answer: Literal["auto", "extractive"] = "auto"
    model: str = "default"
    max_sentences: int = 5
    stream: bool = False
    strict: bool = True


class CitationView(msgspec.Struct):
    """`quote` is `text[start:end]` of that version of the document, in code points."""

    n: int
    document_id: str
    source_id: str
    chunk_id: str
    version: int
    start: int
    end: int
    quote: str
    quote_sha256: str
    uri: str


class SentenceView(msgspec.Struct):
    """`answer[start:end]` and what it stands on."""

    start: int
    end: int
    citations: list[int]
    support: float


class RemovedView(msgspec.Struct):
    """A sentence that was taken out, and why."""

    reason: str


class AnswerView(msgspec.Struct):
    """An answer, or an abstention with its reason."""

    request_id: str
    answer_id: str
    answer: str | None
    mode: str
    abstained: bool
    abstain_reason: str | None
    citations: list[CitationView]
    sentences: list[SentenceView]
    removed: list[RemovedView]
    model_request_id: str | None
    consistency_token: str
    degraded: list[str]


class CitedBody(msgspec.Struct, forbid_unknown_fields=True):
    """One claim about a text."""

    document_id: str
    version: int
    start: int
    end: int
    quote_sha256: str


class VerifyBody(msgspec.Struct, forbid_unknown_fields=True):
    """Claims to verify as a reader."""

    citations: list[CitedBody]
    principal: str | None = None


class VerifiedView(msgspec.Struct):
    """Whether a claim holds."""

    verified: bool
    reason: str | None


class VerifyView(msgspec.Struct):
    """Results in the order of the claims."""

    results: list[VerifiedView]


class AnswerHandlers:
    """One method a call."""

    def __init__(self, service: AnswerService, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    async def answer(self, call: Call) -> Reply:
        """Answer as the caller, or as somebody whom the caller may act as."""
        body: AnswerBody = call.body
        fields = {name: getattr(body, name) for name in SearchBody.__struct_fields__}
        query = AnswerQuery(query_of(SearchBody(**fields)), body.max_sentences, body.strict)
        answered = await self._service.answer(call.within, body.principal, query, Trace(self._clock, call.decisions))
        answer = answered.answer
        call.links.append(StoryLink("answer", format_id("ans", answer.answer_id)))
        headers = {TOKEN_HEADER: answer.consistency_token}
        if body.stream:
            events = self._events(call.within, answered)
            return Reply(stream=events, media_type="text/event-stream", headers=headers)
        return Reply(body=answer_view(answer), headers=headers)

    async def verify(self, call: Call) -> Reply:
        """Verify citations as the caller, or as somebody whom the caller may act as."""
        body: VerifyBody = call.body
        search = self._service.search
        found = await verify(search.parts, call.within, body.principal, [_cited(each) for each in body.citations])
        results = [VerifiedView(each.is_verified, each.reason) for each in found.results]
        return Reply(body=VerifyView(results), headers={TOKEN_HEADER: search.token(call.within, found.epoch)})

    async def _events(self, scope: Scope, answered: Answered) -> AsyncIterator[bytes]:
        """Yield the answer piece by piece; each sentence leaves only if its source may still be read."""
        answer, look, numbers = answered.answer, answered.look, count(1)

        def event(name: str, content: Any) -> bytes:
            return encode_event(_encode(content), event=name, id=str(next(numbers)))

        cited = {each.number: each for each in answer.citations}
        documents = {each.document_id for each in answer.citations}
        hits = [hit_view(found_document(look, hit)) for hit in look.hits if hit.document_id in documents]
        emitter = self._service.search.parts.emitter
        try:
            await emitter.require(scope, look, documents)
            yield event("hits", {"hits": hits})
            for sentence in answer.sentences:
                needed = {cited[number].document_id for number in sentence.citations}
                await emitter.require(scope, look, needed)
                yield event("sentence", _sentence_event(answer, sentence))
                for number in sentence.citations:
                    yield event("citation", citation_view(cited[number]))
            await emitter.require(scope, look, documents)
            yield event("done", answer_view(answer))
        except InterlockError as error:
            yield event("error", {"error": {"code": error.code, "message": error.message}})


def answer_routes(service: AnswerService, clock: Clock) -> list[Route]:
    """Return the routes of answers and citations."""
    handlers = AnswerHandlers(service, clock)
    return [
        Route(
            "POST", "/v1/retrieval/answers", Level.WORKSPACE, handlers.answer,
            "Answer a question out of what the caller may read, every sentence cited.",
            action=READ, body=AnswerBody, answer=AnswerView, codes=(*SEARCH_CODES, "sources_revoked"),
            may_stream=True,
        ),
        Route(
            "POST", "/v1/retrieval/citations:verify", Level.WORKSPACE, handlers.verify,
            "Whether citations hold, for documents that the caller may read.",
            action=READ, body=VerifyBody, answer=VerifyView,
            codes=("delegation_denied", "principal_not_found", "killed"),
        ),
    ]  # fmt: skip


def answer_view(answer: Answer) -> AnswerView:
    """Return the object of an answer."""
    return AnswerView(
        request_id=format_id("req", answer.request_id),
        answer_id=format_id("ans", answer.answer_id),
        answer=answer.answer,
        mode=answer.mode,
        abstained=answer.answer is None,
        abstain_reason=answer.abstain_reason,
        citations=[citation_view(each) for each in answer.citations],
        sentences=[SentenceView(each.start, each.end, list(each.citations), each.support) for each in answer.sentences],
        removed=[RemovedView(each) for each in answer.removed],
        model_request_id=None,
        consistency_token=answer.consistency_token,
        degraded=list(answer.degraded),
    )


def citation_view(each: Citation) -> CitationView:
    """Return the object of a citation."""
    return CitationView(
        each.number,
        format_id("doc", each.document_id),
        format_id("src", each.source_id),
        str(each.chunk_id),
        each.version,
        each.start,
        each.end,
        each.quote,
        each.quote_sha256,
        each.uri,
    )


def _sentence_event(answer: Answer, sentence: AnswerSentence) -> Mapping[str, Any]:
    assert answer.answer is not None
    return {
        "text": answer.answer[sentence.start : sentence.end],
        "start": sentence.start,
        "end": sentence.end,
        "citations": list(sentence.citations),
        "support": sentence.support,
    }


def _cited(each: CitedBody) -> Cited:
    try:
        document_id = parse_id("doc", each.document_id)
    except MalformedIdError:
        document_id = None
    return Cited(document_id, each.version, each.start, each.end, each.quote_sha256)
