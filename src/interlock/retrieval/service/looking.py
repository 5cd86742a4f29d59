"""One look into the index: everything a search does inside its one snapshot, in the order of the design page.

Lets nothing out: what is found here is judged again by `emitting.py`.
"""

import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar
from uuid import UUID

from interlock.contracts.retrieval import Rerank, SearchMode, SearchQuery
from interlock.foundation.clock import Clock
from interlock.foundation.control.story import StoryDecision
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.domain.analyzer import query_terms
from interlock.retrieval.domain.asking import Reader
from interlock.retrieval.domain.embedding import Embedding
from interlock.retrieval.domain.fuse import (
    RERANKED_MAX,
    Asked,
    Features,
    Fused,
    Hit,
    Ranked,
    collapse,
    feature_score,
    fuse,
    placed_in_order,
)
from interlock.retrieval.domain.plan import Chosen, Plan, choose, spread, wider
from interlock.retrieval.store.reading import guard, search
from interlock.retrieval.store.reading.search import Eligible, Passage

# Plans are ours: a generic plan is never made anew for a reader with many slots, and no table is read from end to end.
SNAPSHOT_SETTINGS: Final = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
_CANCELLED: Final = "QueryCanceledError"
LATE: Final = "deadline"
# The part of the time of a statement below which no further look is begun.
_LOOK_SHARE_MIN: Final = 0.1
ResultT = TypeVar("ResultT")
ScoredT = TypeVar("ScoredT", tuple[int, int], tuple[int, float])


@dataclass(slots=True)
class Trace:
    """What was decided and how long it took."""

    clock: Clock
    decisions: list[StoryDecision] = field(default_factory=list)
    timing_ms: dict[str, float] = field(default_factory=dict)

    def add(self, step: str, rule: str, detail: str = "", verdict: str = "done") -> None:
        """Tell one step of the story."""
        self.decisions.append(StoryDecision(step, f"retrieval.{rule}", verdict, detail))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of a block to a name."""
        began_s = self.clock.monotonic()
        try:
            yield
        finally:
            spent_ms = (self.clock.monotonic() - began_s) * 1e3
            self.timing_ms[name] = round(self.timing_ms.get(name, 0.0) + spent_ms, 3)


@dataclass(slots=True)
class Look:
    """What one snapshot showed one reader."""

    reader: Reader
    query: SearchQuery
    trace: Trace
    shut: frozenset[UUID] = frozenset()
    now_us: int = 0
    epoch: int = 0
    eligible: Eligible | None = None
    chosen: Chosen | None = None
    lexical: list[tuple[int, int]] = field(default_factory=list)
    vector: list[tuple[int, float]] = field(default_factory=list)
    idf: Mapping[str, float] = field(default_factory=dict)
    fused: list[Fused] = field(default_factory=list)
    ranked: list[Ranked] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    passages: dict[int, Passage] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)
    began_s: float = 0.0
    judged: Mapping[UUID, guard.Judged] = field(default_factory=dict)

    @property
    def seen(self) -> Eligible:
        """What is eligible, after it was resolved."""
        assert self.eligible is not None
        return self.eligible

    @property
    def plan(self) -> Chosen:
        """The plan, after it was chosen."""
        assert self.chosen is not None
        return self.chosen

    def note_late(self) -> None:
        """Note that something was given up since there was no time for it."""
        if LATE not in self.degraded:
            self.degraded.append(LATE)

    def told(self) -> list[UUID]:
        """Return the documents that an answer tells of: the hits, and with facets every candidate, as they count it."""
        hits = [hit.document_id for hit in self.hits]
        counted = [each.document_id for each in self.passages.values()] if self.query.with_facets else []
        return list(dict.fromkeys([*hits, *counted]))

    def unreadable(self) -> list[UUID]:
        """Return the documents to be told of that the second path does not let through."""
        return [each for each in self.told() if (found := self.judged.get(each)) is None or not found.is_readable]


@dataclass(frozen=True, slots=True)
class Eye:
    """What looks. `timeout_ms` bounds each statement."""

    store: Store
    clock: Clock
    embedder_no: int | None
    timeout_ms: int

    async def look(self, scope: Scope, found: Look, asked: Embedding | None) -> Look:
        """Look once, in a snapshot of its own."""
        # Both paths judge by one moment: a list that grows too old between them is no disagreement.
        found.now_us, found.began_s = self.clock.now_us(), self.clock.monotonic()
        trace = found.trace
        settings = {**SNAPSHOT_SETTINGS, "statement_timeout": str(self.timeout_ms)}
        async with self.store.snapshot(scope, settings) as tx:
            await self._resolve(tx, found)
            await self._legs(tx, found, asked)
            with trace.timed("rerank"):
                await self._spread(tx, found, asked)
                await self._order(tx, found, asked)
            with trace.timed("guard"):
                closure = await guard.closure_of(tx, found.reader, found.epoch)
                found.judged = await guard.judge(tx, closure, found.told(), found.now_us)
        return found

    async def _resolve(self, tx: Transaction, found: Look) -> None:
        trace = found.trace
        with trace.timed("resolve"):
            found.epoch = await search.epoch_of(tx)
            trace.add("freshness.check", "epoch", f"epoch={found.epoch}")
            sources = found.query.sources or None
            seen = found.eligible = await search.resolve(tx, found.reader, sources, found.now_us, found.shut)
        counts = seen.counts
        trace.add(
            "principal.resolve",
            "closure",
            f"{found.reader.name} names={len(seen.held)} sets={seen.sets} slots={len(seen.acl_ids)}",
        )
        chosen = found.chosen = choose(counts, found.query.hits)
        trace.add("plan.choose", f"plan.{chosen.plan}", f"eligible_chunks={counts.chunks} {chosen.reason}")
        if seen.has_dark:
            found.degraded.append("source_dark")

    async def _legs(self, tx: Transaction, found: Look, asked: Embedding | None) -> None:
        query, trace, seen = found.query, found.trace, found.seen
        if found.plan.plan is Plan.NONE:
            return
        if query.mode is not SearchMode.VECTOR:
            with trace.timed("lexical"):
                words = query_terms(query.text)
                found.lexical, found.idf = await search.lexical(tx, seen, words, query, found.plan.depth)
            trace.add("lexical.candidates", "bm25", f"terms={len(words)} candidates={len(found.lexical)}")
        if query.mode is not SearchMode.LEXICAL and asked is not None and self.embedder_no is not None:
            with trace.timed("vector"):
                await self._vector(tx, found, asked, self.embedder_no)
            trace.add("vector.candidates", str(found.plan.plan), f"candidates={len(found.vector)}")
            if seen.pending_vectors:
                found.degraded.append("vectors_pending")

    async def _vector(self, tx: Transaction, found: Look, asked: Embedding, embedder_no: int) -> None:
        looking = search.vector(tx, found.seen, asked, embedder_no, found.query, found.plan)
        found.vector = await _in_time(tx, found, looking) or []

    async def _spread(self, tx: Transaction, found: Look, asked: Embedding | None) -> None:
        """Look behind those that fill a leg where they are of fewer documents than were asked for."""
        found.passages = await search.passages(tx, [chunk for chunk, _ in (*found.lexical, *found.vector)])
        words = query_terms(found.query.text)

        async def by_words(width: int) -> list[tuple[int, int]]:
            return (await search.lexical(tx, found.seen, words, found.query, width))[0]

        async def by_meaning(width: int) -> list[tuple[int, float]]:
            assert asked is not None
            assert self.embedder_no is not None
            wide = replace(found.plan, depth=width, rescored=max(width, found.plan.rescored))
            return await search.vector(tx, found.seen, asked, self.embedder_no, found.query, wide)

        found.lexical = await self._behind(tx, found, found.lexical, by_words)
        found.vector = await self._behind(tx, found, found.vector, by_meaning)

    async def _behind(
        self,
        tx: Transaction,
        found: Look,
        leg: list[ScoredT],
        look: Callable[[int], Coroutine[None, None, list[ScoredT]]],
    ) -> list[ScoredT]:
        """Return a leg, and behind it passages of other documents where few fill it; all that was in it stays."""
        depth, wanted = found.plan.depth, min(found.query.hits, found.seen.counts.documents)
        documents = {found.passages[chunk].document_id for chunk, _ in leg if chunk in found.passages}
        width, looked = depth, len(leg)
        while looked >= width and len(documents) < wanted and wider(width) > width:
            width = wider(width)
            wide = await self._in_what_is_left(tx, found, look(width))
            if wide is None:
                break
            placed = await search.spread(tx, [chunk for chunk, _ in wide], spread(found.plan, found.query.hits))
            leg = [each for place, each in enumerate(wide) if place < depth or each[0] in placed]
            documents, looked = set(placed.values()), len(wide)
            found.trace.add("plan.choose", "spread", f"width={width} documents={len(documents)}")
        return leg

    async def _in_what_is_left(
        self, tx: Transaction, found: Look, looking: Coroutine[None, None, ResultT]
    ) -> ResultT | None:
        """Return what is looked for in the time that the statements before have left, None where that is too short.

        A leg is an answer already, so a further look may cost what is to spare and never the search.
        """
        left_ms = self.timeout_ms - round((self.clock.monotonic() - found.began_s) * 1e3)
        if left_ms < self.timeout_ms * _LOOK_SHARE_MIN:
            looking.close()
            found.note_late()
            return None
        await search.bound_statements(tx, left_ms)
        wide = await _in_time(tx, found, looking)
        await search.bound_statements(tx, self.timeout_ms)
        return wide

    async def _order(self, tx: Transaction, found: Look, asked: Embedding | None) -> None:
        query = found.query
        legs = (query.mode is not SearchMode.VECTOR) + (query.mode is not SearchMode.LEXICAL and asked is not None)
        words, meaning = [chunk for chunk, _ in found.lexical], [chunk for chunk, _ in found.vector]
        pending = await self._pending(tx, found, asked) if legs > 1 and found.seen.pending_vectors else frozenset()
        found.fused = fuse(words, meaning, legs, pending)
        found.trace.add("fuse", "rrf", f"candidates={len(found.fused)} pending={len(pending)}")
        known = found.passages
        known |= await search.passages(tx, [each.chunk_id for each in found.fused if each.chunk_id not in known])
        found.passages = {each.chunk_id: known[each.chunk_id] for each in found.fused if each.chunk_id in known}
        documents = {chunk: passage.document_id for chunk, passage in found.passages.items()}
        present = [each for each in found.fused if each.chunk_id in documents]
        scores = None
        if query.rerank is Rerank.FEATURES:
            scores = await self._features(tx, found, present[:RERANKED_MAX], asked, pending)
            found.trace.add("rerank", "features", f"passages={len(scores)}")
        found.ranked = placed_in_order(present, documents, scores)
        found.hits = collapse(found.ranked, query.hits, query.passages)
        shown = [found.passages[each.chunk_id] for hit in found.hits for each in hit.passages]
        found.texts |= await search.passage_texts(tx, [each for each in shown if each.chunk_id not in found.texts])

    async def _pending(self, tx: Transaction, found: Look, asked: Embedding | None) -> frozenset[int]:
        """Return what words have found and has no vector yet."""
        if asked is None or self.embedder_no is None:
            return frozenset()
        unranked = {chunk for chunk, _ in found.lexical} - {chunk for chunk, _ in found.vector}
        return frozenset(unranked - (await search.cosines(tx, sorted(unranked), asked, self.embedder_no)).keys())

    async def _features(
        self, tx: Transaction, found: Look, head: list[Fused], asked: Embedding | None, pending: frozenset[int]
    ) -> dict[int, float]:
        known = dict(found.vector)
        missing = [each.chunk_id for each in head if each.chunk_id not in known]
        if asked is not None and self.embedder_no is not None:
            known |= await search.cosines(tx, missing, asked, self.embedder_no)
        found.texts |= await search.passage_texts(tx, [found.passages[each.chunk_id] for each in head])
        words, question = dict(found.lexical), Asked(found.query.text)
        best = max(words.values(), default=0) or math.inf
        return {
            each.chunk_id: feature_score(
                question,
                Features(
                    each.score,
                    None if each.chunk_id in pending else known.get(each.chunk_id, 0.0),
                    words.get(each.chunk_id, 0) / best,
                    found.passages[each.chunk_id].title,
                    found.texts.get(each.chunk_id, ""),
                ),
            )
            for each in head
        }


async def _in_time(tx: Transaction, found: Look, looking: Awaitable[ResultT]) -> ResultT | None:
    """Return what is looked for, None where that took too long."""
    try:
        async with tx.savepoint():
            return await looking
    except InterlockError as error:
        if error.safe_detail.get("cause") != _CANCELLED:
            raise
        # What was found by then is an answer; only the whole search has to end in time.
        found.note_late()
        return None
