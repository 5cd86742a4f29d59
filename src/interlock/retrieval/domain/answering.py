"""Extractive answers: which sentences of what a reader may read answer a question, and when none does.

Writes no word of its own: every sentence is copied as it stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.retrieval.domain.analyzer import terms
from interlock.retrieval.domain.embedding import Embedding

COSINE_WEIGHT: Final = 0.6
COVER_WEIGHT: Final = 0.4
RELEVANCE: Final = 0.7
COSINE_MIN: Final = 0.35
COVER_MIN: Final = 0.5
# A sentence far behind the best one is beside the point.
SHARE_OF_BEST: Final = 0.6
NO_SUPPORT: Final = "no_support"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence that may be quoted; offsets are those of its document's text."""

    chunk_id: int
    document_id: UUID
    start: int
    end: int
    text: str
    cover: float


@dataclass(frozen=True, slots=True)
class Weighed:
    """A candidate with its meaning; `cosine` is 0 where there is no embedder."""

    candidate: Candidate
    cosine: float
    embedding: Embedding | None

    @property
    def score(self) -> float:
        """How well it answers, 0 to 1."""
        return COSINE_WEIGHT * max(0.0, self.cosine) + COVER_WEIGHT * self.candidate.cover

    @property
    def is_enough(self) -> bool:
        """Whether it may be given as an answer."""
        return self.cosine >= COSINE_MIN or self.candidate.cover >= COVER_MIN


def idf_cover(idf: Mapping[str, float], text: str) -> float:
    """Return how much of the question's weight stands in a text, 0 to 1."""
    whole = sum(idf.values())
    if not whole:
        return 0.0
    return sum(idf[term] for term in idf.keys() & set(terms(text))) / whole


def chosen(weighed: Sequence[Weighed], sentences_max: int) -> list[Weighed]:
    """Return what is quoted, best first, by maximal marginal relevance; empty where the question has to stay open."""
    enough = [each for each in weighed if each.is_enough]
    if not enough:
        return []
    best = max(each.score for each in enough)
    left = sorted(
        (each for each in enough if each.score >= SHARE_OF_BEST * best),
        key=lambda each: (-each.score, each.candidate.chunk_id, each.candidate.start),
    )
    kept: list[Weighed] = []
    while left and len(kept) < sentences_max:
        best_at = max(range(len(left)), key=lambda at: (_marginal(left[at], kept), -at))
        if kept and _marginal(left[best_at], kept) <= 0:
            break
        kept.append(left.pop(best_at))
    return kept


def _marginal(each: Weighed, kept: Sequence[Weighed]) -> float:
    return RELEVANCE * each.score - (1 - RELEVANCE) * max((_likeness(each, other) for other in kept), default=0.0)


def _likeness(one: Weighed, other: Weighed) -> float:
    if one.candidate.text == other.candidate.text:
        return RELEVANCE / (1 - RELEVANCE)
    if one.embedding is None or other.embedding is None:
        mine, theirs = set(terms(one.candidate.text)), set(terms(other.candidate.text))
        return len(mine & theirs) / max(1, len(mine | theirs))
    return max(0.0, one.embedding.cosine(other.embedding))


def may_be_answered_from(signals: Mapping[str, Any]) -> bool:
    """Tell whether a publisher's wishes let a text into answers."""

    def value(name: str) -> str | None:
        found = signals.get(name)
        return str(found.get("value")) if isinstance(found, Mapping) else None

    return value("noai") is None and value("ai_input") != "no" and value("tdm_reservation") != "1"
