"""`SearchService`: one search from its words to what leaves, in the order of the design page.

Answers are made from the same look by `answers.py`; explanations read what is recorded here.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.contracts.retrieval import FoundDocument, FoundPassage, SearchMode, SearchQuery, SearchResult
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity.domain import tokens
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.asking import Reader, query_problem
from interlock.retrieval.domain.embedding import NO_EMBEDDER, Embedder, EmbedderUnavailableError, Embedding
from interlock.retrieval.domain.fuse import Hit
from interlock.retrieval.domain.profile import DEFAULT, profile_digest
from interlock.retrieval.domain.types import embedder_no
from interlock.retrieval.metrics import SearchMetrics
from interlock.retrieval.service.emitting import Emitter, Leaving
from interlock.retrieval.service.lane import Lane, LaneStatistics
from interlock.retrieval.service.looking import Eye, Look, Trace
from interlock.retrieval.service.readers import Members, reader_of
from interlock.retrieval.service.samples import Samples
from interlock.retrieval.service.stops import Stops
from interlock.retrieval.store.reading.search import epoch_of

_FRESH_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class SearchParts:
    """What a search needs. `embedder` None leaves words alone, `stops` None is never stopped.

    `samples` None keeps no search for a comparison with the exact answer.
    """

    store: Store
    members: Members
    embedder: Embedder | None
    emitter: Emitter
    metrics: SearchMetrics
    clock: Clock
    ids: IdFactory
    token_key: bytes
    config: RetrievalConfig
    stops: Stops | None = None
    samples: Samples | None = None


@dataclass(frozen=True, slots=True)
class Searched:
    """A result, and how it came about; `kept` are the documents that may still be told of."""

    result: SearchResult
    look: Look
    kept: frozenset[UUID]


class SearchService:
    """Searches of one process."""

    def __init__(self, parts: SearchParts) -> None:
        self.parts = parts
        self._lane = Lane(parts.config.searches_max, parts.config.search_waiting_max)
        self._vectors: OrderedDict[tuple[UUID, str], Embedding] = OrderedDict()
        embedder = parts.embedder
        self.embedder_no = None if embedder is None else embedder_no(embedder.id)
        # A statement ends before the search has to, so that what the other leg found can still be answered.
        self._eye = Eye(parts.store, parts.clock, self.embedder_no, round(parts.config.search_deadline_s * 750))

    def profile_digest(self, name: str) -> str:
        """Return the digest of a profile. Raises `LookupError`."""
        if name != DEFAULT:
            raise LookupError(name)
        embedder = self.parts.embedder
        return profile_digest(NO_EMBEDDER if embedder is None else embedder.id)

    def statistics(self) -> LaneStatistics:
        """Return what runs and waits."""
        return self._lane.statistics()

    async def search(
        self, scope: Scope, principal: str | None, query: SearchQuery, trace: Trace | None = None
    ) -> Searched:
        """Search. Raises `invalid_query`, `delegation_denied`, `principal_not_found` .."""
        began_s = self.parts.clock.monotonic()
        trace = trace or Trace(self.parts.clock)
        request_id = scope.request_id or self.parts.ids.new()
        digest = self.checked_profile(query)
        async with self._lane.turn(), within(self.parts.config.search_deadline_s):
            look = await self.look(scope, principal, query, trace)
            leaving = Leaving(look, "search", request_id, digest, look.told())
            trace.timing_ms["total"] = round((self.parts.clock.monotonic() - began_s) * 1e3, 3)
            kept = await self.parts.emitter.leave(scope, leaving)
        trace.timing_ms["total"] = round((self.parts.clock.monotonic() - began_s) * 1e3, 3)
        self.count(look)
        if self.parts.samples is not None:
            self.parts.samples.offer(scope, look)
        return Searched(self._result(scope, look, leaving, kept), look, kept)

    async def look(self, scope: Scope, principal: str | None, query: SearchQuery, trace: Trace) -> Look:
        """Look for a reader, guarded on the epoch of the look; nothing of it has left yet."""
        self._require_open(scope)
        reader = await reader_of(self.parts.store, self.parts.members, scope, principal)
        return await self.look_for(scope, reader, query, trace)

    async def look_for(self, scope: Scope, reader: Reader, query: SearchQuery, trace: Trace) -> Look:
        """Look for a reader that is known already, as every search does."""
        shut = self._require_open(scope)
        await self._fresh_enough(scope, query)
        asked, problem = await self.embedded(scope, query)
        look = await self._eye.look(scope, Look(reader, query, trace, shut), asked)
        if problem and problem not in look.degraded:
            look.degraded.append(problem)
        await self.parts.emitter.checked(scope, look)
        return look

    def _require_open(self, scope: Scope) -> frozenset[UUID]:
        """Return the sources that a switch makes dark. Raises `killed` where one stops every search."""
        if self.parts.stops is None:
            return frozenset()
        self.parts.stops.require(scope)
        return self.parts.stops.shut(scope)

    def checked_profile(self, query: SearchQuery) -> str:
        """Return the digest of the query's profile. Raises `invalid_query` and `invalid_request`."""
        found = query_problem(query)
        if found:
            raise InterlockError(*found)
        try:
            return self.profile_digest(query.profile)
        except LookupError as error:
            raise InterlockError(
                "invalid_request", "There is no profile with this name.", detail={"field": "profile"}
            ) from error

    def token(self, scope: Scope, epoch: int) -> str:
        """Return the consistency token of an epoch."""
        return tokens.issue(scope.organization_id, epoch, self.parts.token_key)

    def count(self, look: Look) -> None:
        """Count a search that left."""
        self.parts.metrics.searched(str(look.plan.plan), look.seen.counts.chunks, look.trace.timing_ms, look.degraded)

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Return what waits for a turn and holds it. Entering raises `search_overloaded`."""
        return self._lane.turn()

    async def _fresh_enough(self, scope: Scope, query: SearchQuery) -> None:
        if query.at_least_as_fresh is None:
            return
        wanted = tokens.read(query.at_least_as_fresh, scope.organization_id, self.parts.token_key)
        until_s = self.parts.clock.monotonic() + self.parts.config.fresh_wait_s
        while True:
            async with self.parts.store.transaction(scope) as tx:
                if await epoch_of(tx) >= wanted:
                    return
            if self.parts.clock.monotonic() >= until_s:
                raise InterlockError("not_fresh_enough")
            await self.parts.clock.sleep(_FRESH_POLL_S)

    async def embedded(self, scope: Scope, query: SearchQuery) -> tuple[Embedding | None, str | None]:
        """Return the query's vector, before any transaction is open, or why there is none."""
        embedder = self.parts.embedder
        if query.mode is SearchMode.LEXICAL:
            return None, None
        if embedder is None:
            return None, "embedder_unavailable" if query.mode is SearchMode.VECTOR else None
        key = (scope.organization_id, query.text)
        if key in self._vectors:
            self._vectors.move_to_end(key)
            return self._vectors[key], None
        try:
            async with asyncio.timeout(self.parts.config.search_deadline_s / 2):
                (vector,) = await embedder.embed([query.text])
        except EmbedderUnavailableError:
            return None, "embedder_unavailable"
        except TimeoutError:
            # Words alone still find, and the model, if it was only being loaded, is there for the next query.
            return None, "deadline"
        self._vectors[key] = vector
        while len(self._vectors) > self.parts.config.query_vectors_max:
            self._vectors.popitem(last=False)
        return vector, None

    def _result(self, scope: Scope, look: Look, leaving: Leaving, kept: frozenset[UUID]) -> SearchResult:
        return SearchResult(
            request_id=leaving.request_id,
            hits=tuple(found_document(look, hit) for hit in look.hits if hit.document_id in kept),
            facets=facets(look, leaving) if look.query.with_facets else {"source": (), "kind": ()},
            epoch=look.epoch,
            consistency_token=self.token(scope, look.epoch),
            degraded=tuple(sorted(set(look.degraded))),
            profile_digest=leaving.profile_digest,
            timing_ms=dict(look.trace.timing_ms),
        )


class within:  # noqa: N801 - reads as a phrase where it is used
    """`async with within(seconds)`: raises `deadline_exceeded` when the time is over."""

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)  # type: ignore[arg-type] # the traceback goes through
        except TimeoutError as late:
            raise InterlockError("deadline_exceeded") from late


def found_document(look: Look, hit: Hit) -> FoundDocument:
    """Return a hit with the text of its passages."""
    best = look.passages[hit.passages[0].chunk_id]
    return FoundDocument(
        document_id=hit.document_id,
        source_id=best.source_id,
        title=best.title,
        uri=best.uri,
        version=best.version,
        updated_us=best.updated_us,
        score=hit.score,
        passages=tuple(_passage(look, each.chunk_id, each.score) for each in hit.passages),
        lexical_rank=hit.passages[0].fused.lexical,
        vector_rank=hit.passages[0].fused.vector,
    )


def _passage(look: Look, chunk_id: int, score: float) -> FoundPassage:
    passage = look.passages[chunk_id]
    text = look.texts.get(chunk_id, "")
    if passage.snippet_chars_max is not None:
        text = text[: passage.snippet_chars_max]
    return FoundPassage(chunk_id, passage.start, passage.start + len(text), text, score)


def facets(look: Look, leaving: Leaving) -> Mapping[str, tuple[tuple[str, int], ...]]:
    """Return how many documents among the candidates are of each source and kind; all of them are eligible."""
    gone = {document for document, _, _ in leaving.dropped}
    shown = {each.document_id: each for each in look.passages.values() if each.document_id not in gone}
    by_source = Counter(format_id("src", each.source_id) for each in shown.values())
    by_kind = Counter(each.source_kind for each in shown.values())
    return {"source": _counted(by_source), "kind": _counted(by_kind)}


def _counted(counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda each: (-each[1], each[0])))
