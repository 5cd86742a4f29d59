"""`AnswerService`: extractive answers out of one search, each sentence a quotation that verifies; or none.

Generates nothing. Sentences are embedded when they are asked for, so vectors that are still pending do not matter.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from interlock.contracts.retrieval import Answer, AnswerQuery, AnswerSentence, Citation, SearchMode
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.retrieval.domain.answering import (
    NO_SUPPORT,
    Candidate,
    Weighed,
    chosen,
    idf_cover,
    may_be_answered_from,
)
from interlock.retrieval.domain.embedding import EmbedderUnavailableError
from interlock.retrieval.domain.sentences import sentences
from interlock.retrieval.service.emitting import Leaving
from interlock.retrieval.service.looking import Look, Trace
from interlock.retrieval.service.search import SearchService, within

SENTENCES_MAX: Final = 20
_MODE: Final = "extractive"
# A source that is lost while an answer is made is left out by one more try.
_TRIES: Final = 2


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer and the look that it was made from."""

    answer: Answer
    look: Look


class AnswerService:
    """Answers of one process; they take their turns with searches."""

    def __init__(self, search: SearchService) -> None:
        self.search = search

    async def answer(
        self, scope: Scope, principal: str | None, query: AnswerQuery, trace: Trace | None = None
    ) -> Answered:
        """Answer. Raises what a search raises, and `sources_revoked` where a source was lost twice."""
        if not 1 <= query.sentences_max <= SENTENCES_MAX:
            raise InterlockError("invalid_request", f"max_sentences is 1 to {SENTENCES_MAX}.")
        search, parts = self.search, self.search.parts
        digest = search.checked_profile(query.search)
        trace = trace or Trace(parts.clock)
        answer_id, request_id = parts.ids.new(), scope.request_id or parts.ids.new()
        began_s = parts.clock.monotonic()
        async with search.turn(), within(parts.config.answer_deadline_s):
            for _ in range(_TRIES):
                look, quoted = await self._drafted(scope, principal, query, trace)
                documents = list(dict.fromkeys(each.candidate.document_id for each in quoted))
                leaving = Leaving(look, "answer", request_id, digest, documents, answer_id)
                trace.timing_ms["total"] = round((parts.clock.monotonic() - began_s) * 1e3, 3)
                if len(await parts.emitter.leave(scope, leaving)) == len(documents):
                    break
                trace.add("guard.check", "source_lost", "again without it", "deny")
            else:
                raise InterlockError("sources_revoked")
        search.count(look)
        if not quoted:
            parts.metrics.abstained.inc()
        return Answered(self._answer(scope, look, leaving, quoted), look)

    async def _drafted(
        self, scope: Scope, principal: str | None, query: AnswerQuery, trace: Trace
    ) -> tuple[Look, list[Weighed]]:
        """Return what would be quoted, and the look it comes from; nothing of it has left."""
        # Words give the weights by which a sentence is judged, whatever leg finds it.
        wanted = query.search
        if wanted.mode is SearchMode.VECTOR:
            wanted = replace(wanted, mode=SearchMode.HYBRID)
        look = await self.search.look(scope, principal, wanted, trace)
        return look, chosen(await self._weighed(scope, look), query.sentences_max)

    async def _weighed(self, scope: Scope, look: Look) -> list[Weighed]:
        candidates = self._candidates(look)
        if not candidates:
            return []
        asked, _ = await self.search.embedded(scope, replace(look.query, mode=SearchMode.HYBRID))
        embedder = self.search.parts.embedder
        if asked is None or embedder is None:
            return [Weighed(each, 0.0, None) for each in candidates]
        try:
            vectors = await embedder.embed([each.text for each in candidates])
        except EmbedderUnavailableError:
            look.degraded.append("embedder_unavailable")
            return [Weighed(each, 0.0, None) for each in candidates]
        return [Weighed(each, asked.cosine(vector), vector) for each, vector in zip(candidates, vectors, strict=True)]

    def _candidates(self, look: Look) -> list[Candidate]:
        """Return the sentences worth embedding: those with the most of the question, then those of the best hits."""
        found: dict[tuple[UUID, int, int], Candidate] = {}
        for hit in look.hits:
            for ranked in hit.passages:
                for each in _sentences_of(look, ranked.chunk_id):
                    found.setdefault((each.document_id, each.start, each.end), each)
        order = sorted(enumerate(found.values()), key=lambda pair: (-pair[1].cover, pair[0]))
        return [each for _, each in order[: self.search.parts.config.answer_candidates_max]]

    def _answer(self, scope: Scope, look: Look, leaving: Leaving, quoted: Sequence[Weighed]) -> Answer:
        pieces: list[str] = []
        spans: list[AnswerSentence] = []
        citations: list[Citation] = []
        at = 0
        for number, each in enumerate(quoted, 1):
            text = each.candidate.text
            pieces.append(text)
            spans.append(AnswerSentence(at, at + len(text), (number,), 1.0))
            citations.append(_citation(look, number, each.candidate))
            at += len(text) + 1
        assert leaving.answer_id is not None
        return Answer(
            request_id=leaving.request_id,
            answer_id=leaving.answer_id,
            answer=" ".join(pieces) if pieces else None,
            mode=_MODE,
            abstain_reason=None if pieces else NO_SUPPORT,
            citations=tuple(citations),
            sentences=tuple(spans),
            removed=(),
            epoch=look.epoch,
            consistency_token=self.search.token(scope, look.epoch),
            degraded=tuple(sorted(set(look.degraded))),
            profile_digest=leaving.profile_digest,
        )


def _sentences_of(look: Look, chunk_id: int) -> list[Candidate]:
    passage = look.passages[chunk_id]
    if not may_be_answered_from(passage.signals):
        return []
    text, limit = look.texts.get(chunk_id, ""), passage.snippet_chars_max
    return [
        Candidate(
            chunk_id,
            passage.document_id,
            passage.start + start,
            passage.start + end,
            text[start:end],
            idf_cover(look.idf, text[start:end]),
        )
        for start, end in sentences(text)
        if limit is None or (end <= limit and end - start <= limit)
    ]


def _citation(look: Look, number: int, each: Candidate) -> Citation:
    passage = look.passages[each.chunk_id]
    return Citation(
        number=number,
        document_id=each.document_id,
        source_id=passage.source_id,
        chunk_id=each.chunk_id,
        version=passage.version,
        start=each.start,
        end=each.end,
        quote=each.text,
        quote_sha256=hashlib.sha256(each.text.encode()).hexdigest(),
        uri=passage.uri,
    )
