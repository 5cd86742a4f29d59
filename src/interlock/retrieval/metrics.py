"""What retrieval counts, in the words of the design page.

Decides nothing, and holds no label that names a tenant or a document.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from interlock.foundation.telemetry import Metrics

_EDGES: Final = (0, 100, 2_000, 10_000, 100_000, 1_000_000)


class SearchMetrics:
    """Searches and answers of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._search = metrics.histogram("retrieval_search_seconds", "Time of a search by plan.", ("plan",))
        self._legs = metrics.histogram("retrieval_leg_seconds", "Time of a part of a search.", ("leg",))
        self._eligible = metrics.counter(
            "retrieval_eligible_chunks_total", "Searches by how many passages the reader may see, at most.", ("bucket",)
        )
        self._degraded = metrics.counter("retrieval_degraded_total", "Searches that gave less, by reason.", ("reason",))
        self.guard_trips = metrics.counter("retrieval_guard_trips_total", "Searches dropped by the second path.")
        self.abstained = metrics.counter("retrieval_abstained_total", "Questions that got no answer.")
        self.unsupported = metrics.counter(
            "retrieval_unsupported_sentences_total", "Sentences that their source did not support."
        )

    def searched(self, plan: str, eligible: int, timing_ms: Mapping[str, float], degraded: Sequence[str]) -> None:
        """Count one search."""
        self._search.labels(plan).observe(timing_ms.get("total", 0.0) / 1e3)
        for leg in ("resolve", "lexical", "vector", "rerank", "guard"):
            if leg in timing_ms:
                self._legs.labels(leg).observe(timing_ms[leg] / 1e3)
        self._eligible.labels(next((str(edge) for edge in _EDGES if eligible <= edge), "more")).inc()
        for reason in degraded:
            self._degraded.labels(reason).inc()
