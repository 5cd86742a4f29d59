"""What a probe of revocation means: when a search that still gives what was revoked is a breach, what is published.

A late answer is no late effect: only searches that began after the revoke was committed count. Runs no search.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from interlock.contracts.documents import AccessList
from interlock.contracts.retrieval import SearchQuery
from interlock.foundation.ids import format_id
from interlock.retrieval.domain.access import PROBE_KIND, external_id, external_name
from interlock.retrieval.domain.asking import Reader

# The published bound: a search that begins this long after the commit of a revoke gives nothing of it.
BOUND_S: Final = 1.0
RECENT_MAX: Final = 100
BREACH: Final = "revoke_probe_breach"
FAILED: Final = "revoke_probe_failed"


class Outcome(StrEnum):
    """`unknown` is a probe that found nothing out, as the store was away or the machine stood: it proves nothing."""

    CLEAN = "clean"
    BREACHED = "breached"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Probed:
    """How a probe ended; `effect_ms` is from the sending of the revoke to the first answer without the document."""

    outcome: Outcome
    reason: str | None = None
    effect_ms: float | None = None
    is_dark_already: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks at a revoke whose commit was acknowledged at `revoked_s`, of a monotonic clock."""

    revoked_s: float

    def verdict(self, began_s: float, *, is_seen: bool) -> Outcome | None:
        """Return what a search that began at `began_s` proves; None where the next one has to tell.

        A search that was slow began early, so what it saw late is no breach; one that began late and saw is.
        """
        if not is_seen:
            return Outcome.CLEAN
        return Outcome.BREACHED if began_s - self.revoked_s > BOUND_S else None


@dataclass(frozen=True, slots=True)
class Standing:
    """What is kept of a source's probes: failures in a row, and the newest effects, oldest first."""

    failures: int = 0
    recent_ms: tuple[float, ...] = ()

    def after(self, probed: Probed) -> "Standing":
        """Return what is kept once a probe has ended; one that found nothing out changes nothing."""
        if probed.outcome is Outcome.UNKNOWN:
            return self
        failures = self.failures + 1 if probed.outcome is Outcome.FAILED else 0
        added = () if probed.effect_ms is None else (round(probed.effect_ms, 3),)
        return Standing(failures, (*self.recent_ms, *added)[-RECENT_MAX:])

    def darkens(self, probed: Probed, failures_max: int) -> str | None:
        """Return why a source goes dark now, None where it stays. `self` is what is kept after the probe."""
        if probed.outcome is Outcome.BREACHED:
            return BREACH
        return FAILED if self.failures >= failures_max else None


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank quantile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def probe_reader(source_id: UUID, observers: Sequence[UUID]) -> Reader:
    """Return who the probe of a source reads as: a name that no list, mapping or delegation can have from outside.

    It holds itself alone, not even `everyone`. A source that only a few may search is searched as one of them.
    """
    name = external_name(source_id, f"{PROBE_KIND}:reader")
    return Reader(name, "ext", (), (external_id(name), *observers[:1]))


def probe_list(source_id: UUID) -> AccessList:
    """Return the list that lets the probe of a source read, and nobody else."""
    return AccessList(((probe_reader(source_id, ()).name,),))


def probe_text(source_id: UUID) -> str:
    """Return what the document of a probe says, which is also what is asked for."""
    return f"Interlock measures how soon a revoke takes effect in {format_id('src', source_id)}."


def probe_query(source_id: UUID) -> SearchQuery:
    """Return the search that gives the document of a probe to its reader: by words and by meaning."""
    return SearchQuery(probe_text(source_id), sources=(source_id,))
