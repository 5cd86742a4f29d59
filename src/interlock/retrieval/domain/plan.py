"""How candidates by meaning are found: chosen by how much the reader may see, never by the database's planner.

Runs nothing; each plan is one statement of `store/reading`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from interlock.retrieval.domain.bm25 import EligibleCounts

# Up to here every eligible vector is compared, which costs about what the codes would.
EXACT_CHUNKS_MAX: Final = 2_000
LEG_DEPTH_MIN: Final = 100
RESCORED_MIN: Final = 400
RESCORED_A_HIT: Final = 8
# A document has more than one passage among the candidates.
_DEPTH_A_HIT: Final = 3
# Eight of the longest documents there may be, with a passage in every place; behind those nothing is looked for.
WIDTH_MAX: Final = 10_000
WIDENED: Final = 10


class Plan(StrEnum):
    """`none` asks nothing, `exact` compares every eligible vector, `bits` the nearest codes and then their vectors."""

    NONE = "none"
    EXACT = "exact"
    BITS = "bits"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A plan with its depths: candidates of a leg, and vectors that `bits` rescores."""

    plan: Plan
    reason: str
    depth: int
    rescored: int


@dataclass(frozen=True, slots=True)
class Spread:
    """How many passages of one document may stand behind the first `depth` of a leg, and how many there altogether."""

    a_document: int
    passages: int


def spread(chosen: Chosen, hits: int) -> Spread:
    """Return what lets `hits` documents stand behind those that fill a leg."""
    return Spread(chosen.depth // hits, chosen.depth)


def wider(width: int) -> int:
    """Return how far to look where few documents fill all of `width`; the same where that is far enough."""
    return max(width, min(width * WIDENED, WIDTH_MAX))


def choose(counts: EligibleCounts, hits: int) -> Chosen:
    """Return the plan for `hits` documents out of what a reader may see."""
    depth = max(LEG_DEPTH_MIN, _DEPTH_A_HIT * hits)
    rescored = max(RESCORED_MIN, RESCORED_A_HIT * hits)
    if counts.chunks == 0:
        return Chosen(Plan.NONE, "nothing is eligible", depth, rescored)
    if counts.chunks <= EXACT_CHUNKS_MAX:
        return Chosen(Plan.EXACT, f"at most {EXACT_CHUNKS_MAX} passages are eligible", depth, rescored)
    return Chosen(Plan.BITS, f"more than {EXACT_CHUNKS_MAX} passages are eligible", depth, rescored)
