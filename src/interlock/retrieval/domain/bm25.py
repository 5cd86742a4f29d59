"""What a word is worth: BM25 (Robertson and Zaragoza 2009) whose every number comes from the eligible set alone.

Reads no posting: `store` scans them under the same snapshot and uses the same formula.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

K1: Final = 1.2
B: Final = 0.75
# A part of a score is an integer, because a float sum depends on the order of rows, and equal worlds must answer with
# equal bytes.
PART_SCALE: Final = 100_000
COMMON_POSTINGS: Final = 10_000
COMMON_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class EligibleCounts:
    """How much a reader may see: documents, passages, and the words of these."""

    documents: int
    chunks: int
    tokens: int

    @property
    def average_tokens(self) -> float:
        """The mean length of a passage in words."""
        return self.tokens / self.chunks if self.chunks else 1.0


@dataclass(frozen=True, slots=True)
class WeighedTerm:
    """A word of a query with what one of its postings brings: `weight` is qtf x idf x (k1 + 1)."""

    term_id: int
    weight: float


def idf(chunks: int, frequency: int) -> float:
    """Return ln(1 + (N - df + .5) / (df + .5)); `frequency` is the number of eligible passages with the word."""
    return math.log(1 + (chunks - frequency + 0.5) / (frequency + 0.5))


def counted_at_most(chunks: int) -> int:
    """Return the df beyond which a word is common: there is no need to count on."""
    return max(COMMON_POSTINGS, math.floor(COMMON_SHARE * chunks))


def kept_terms(frequencies: Mapping[int, int], chunks: int) -> list[int]:
    """Return the words that are scanned: those that stand somewhere, without the common ones while a rarer one is left.

    `frequencies` may end at `counted_at_most` + 1. This bounds cost only; it looks at nothing but the eligible set.
    """
    found = {term: df for term, df in frequencies.items() if df > 0}
    limit = counted_at_most(chunks)
    rare = [term for term, df in found.items() if df <= limit]
    return sorted(rare or found)


def weighed(frequencies: Mapping[int, int], query: Mapping[int, int], chunks: int) -> list[WeighedTerm]:
    """Return the weights of words of which `frequencies` holds the whole df; `query` is how often each was asked."""
    return [
        WeighedTerm(term, query[term] * idf(chunks, frequencies[term]) * (K1 + 1))
        for term in sorted(frequencies)
        if frequencies[term] > 0
    ]


def part(weight: float, doubled_frequency: int, tokens: int, average_tokens: float) -> int:
    """Return the part of a score that one posting brings, as the scan computes it."""
    frequency = doubled_frequency / 2
    norm = K1 * (1 - B + B * tokens / average_tokens)
    return math.floor(weight * frequency / (frequency + norm) * PART_SCALE + 0.5)
