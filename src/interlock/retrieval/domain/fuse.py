"""From ranks to one order: reciprocal rank fusion (Cormack, Clarke and Buettcher 2009), features, documents.

Changes nobody's right to see something: what comes in is eligible, and nothing is added.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.retrieval.domain.analyzer import identifiers, placed_terms, terms

RRF_K: Final = 60
RERANKED_MAX: Final = 50
SCORE_DIGITS: Final = 6
WEIGHTS: Final = {"fused": 0.55, "cosine": 0.20, "bm25": 0.10, "title": 0.08, "identifier": 0.05, "window": 0.02}


@dataclass(frozen=True, slots=True)
class Fused:
    """A passage with its ranks (from 1) in the two legs, and its fused score, 0 to 1."""

    chunk_id: int
    score: float
    lexical: int | None
    vector: int | None


@dataclass(frozen=True, slots=True)
class Features:
    """What the reranker looks at, of one passage; `bm25` is its score in the lexical leg over the leg's best.

    `cosine` is None where the passage's vector is not made yet.
    """

    fused: float
    cosine: float | None
    bm25: float
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage in its place."""

    chunk_id: int
    document_id: UUID
    score: float
    fused: Fused


@dataclass(frozen=True, slots=True)
class Hit:
    """A document with its best passages, best first; its score is that of the best."""

    document_id: UUID
    score: float
    passages: tuple[Ranked, ...]


def fuse(lexical: Sequence[int], vector: Sequence[int], legs: int, pending: Collection[int] = ()) -> list[Fused]:
    """Return the union of two rankings, best first; `legs` is how many were asked, which is what 1 is scaled by.

    Where few vectors are made yet, those few fill the leg of meaning however far they are. A passage of `pending`
    stands there as well, in the place that its words gave it: what is not known of it must not put it behind them.
    """
    places = [{chunk: place for place, chunk in enumerate(leg, 1)} for leg in (lexical, vector)]
    best = max(1, legs) / (RRF_K + 1)
    found = []
    for chunk in {*lexical, *vector}:
        ranks = [places[0].get(chunk), places[1].get(chunk)]
        counted = (ranks[0], ranks[0]) if chunk in pending else ranks
        score = sum(1 / (RRF_K + rank) for rank in counted if rank is not None) / best
        found.append(Fused(chunk, score, ranks[0], ranks[1]))
    # Of two equal ones the newer passage has the higher number.
    return sorted(found, key=lambda each: (-each.score, -each.chunk_id))


def feature_score(query: "Asked", features: Features) -> float:
    """Return the weighed features of one passage, 0 to 1; one that is not known is left out of the weights."""
    values = {
        "fused": features.fused,
        "bm25": features.bm25,
        "title": query.cover(terms(features.title)),
        "identifier": query.identifier_share(features.text),
        "window": query.window(features.text),
    }
    if features.cosine is not None:
        values["cosine"] = min(1.0, max(0.0, features.cosine))
    return sum(WEIGHTS[name] * value for name, value in values.items()) / sum(WEIGHTS[name] for name in values)


class Asked:
    """A query as the features see it."""

    def __init__(self, text: str) -> None:
        self.terms = frozenset(terms(text))
        self._identifiers = identifiers(text)

    def cover(self, words: Sequence[str]) -> float:
        """Return the share of the query's words among these."""
        return len(self.terms.intersection(words)) / len(self.terms) if self.terms else 0.0

    def identifier_share(self, text: str) -> float:
        """Return the share of the query's identifiers and numbers that stand in a text as they are."""
        if not self._identifiers:
            return 0.0
        return len(self._identifiers & identifiers(text)) / len(self._identifiers)

    def window(self, text: str) -> float:
        """Return how close together the query's words stand: 1 where they are neighbours; a lone word has no window."""
        placed = [(place, term) for place, term in placed_terms(text) if term in self.terms]
        wanted = len({term for _, term in placed})
        if wanted < 2:
            return 0.0
        return wanted / shortest_window(placed, wanted) * (wanted / len(self.terms))


def shortest_window(placed: Sequence[tuple[int, str]], wanted: int) -> int:
    """Return the length in words of the shortest stretch that holds `wanted` different terms."""
    counts: dict[str, int] = {}
    shortest = placed[-1][0] - placed[0][0] + 1
    left = 0
    for place, term in placed:
        counts[term] = counts.get(term, 0) + 1
        while len(counts) == wanted:
            first_place, first = placed[left]
            shortest = min(shortest, place - first_place + 1)
            counts[first] -= 1
            if not counts[first]:
                del counts[first]
            left += 1
    return max(shortest, wanted)


def placed_in_order(
    fused: Sequence[Fused], documents: Mapping[int, UUID], scores: Mapping[int, float] | None
) -> list[Ranked]:
    """Return passages by their reranked score; those behind the reranked ones keep their order and stay below."""
    if scores is None:
        return [Ranked(each.chunk_id, documents[each.chunk_id], _round(each.score), each) for each in fused]
    head = sorted((each for each in fused if each.chunk_id in scores), key=lambda e: (-scores[e.chunk_id], -e.chunk_id))
    ranked = [Ranked(each.chunk_id, documents[each.chunk_id], _round(scores[each.chunk_id]), each) for each in head]
    tail = [each for each in fused if each.chunk_id not in scores]
    floor = scores[head[-1].chunk_id] if head else 1.0
    top = tail[0].score if tail else 1.0
    below = [Ranked(e.chunk_id, documents[e.chunk_id], _round(floor * e.score / top), e) for e in tail]
    return ranked + below


def collapse(ranked: Sequence[Ranked], hits: int, passages: int) -> list[Hit]:
    """Return documents in the order of their best passage, each with at most `passages` of them."""
    by_document: dict[UUID, list[Ranked]] = {}
    for each in ranked:
        kept = by_document.get(each.document_id)
        if kept is None:
            if len(by_document) >= hits:
                continue
            kept = by_document[each.document_id] = []
        if len(kept) < passages:
            kept.append(each)
    return [Hit(document, kept[0].score, tuple(kept)) for document, kept in by_document.items()]


def _round(score: float) -> float:
    return round(score, SCORE_DIGITS)
