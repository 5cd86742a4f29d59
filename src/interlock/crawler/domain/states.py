"""The states of a URL and of a crawl, and every step between them that there is.

Does not say when a step is taken. `TRANSITIONS` is the same table as the CHECKs of the schema and the design page.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class UrlState(StrEnum):
    """Where a URL of one crawl is; all but `queued` and `leased` rest until somebody asks for the URL again."""

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    DEAD = "dead"
    GONE = "gone"


class CrawlState(StrEnum):
    """`throttled` is a running crawl that the index, the disk or the memory slows down."""

    RUNNING = "running"
    THROTTLED = "throttled"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELED = "canceled"
    DELETING = "deleting"


_Q, _L, _D, _U, _R, _X, _G = UrlState

TRANSITIONS: Final[Mapping[UrlState, frozenset[UrlState]]] = {
    _Q: frozenset({_L, _R, _G}),
    _L: frozenset({_Q, _D, _U, _R, _X, _G}),
    _D: frozenset({_Q, _U, _R, _G}),
    _U: frozenset({_Q}),
    _R: frozenset({_Q}),
    _X: frozenset({_Q}),
    _G: frozenset({_Q}),
}

# What ends a visit; the counts of a crawl have one of each.
RESTING: Final = (_D, _U, _R, _X, _G)
ACTIVE_CRAWLS: Final = (CrawlState.RUNNING, CrawlState.THROTTLED)
