"""What retrieval counts, in the words of the design page.

Decides nothing, and holds no label that names a tenant or a document.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import Gauge

from interlock.foundation.telemetry import Merge, Metrics
from interlock.retrieval.domain.probing import Probed
from interlock.retrieval.domain.types import Backlog, Standing

_EDGES: Final = (0, 100, 2_000, 10_000, 100_000, 1_000_000)


class IndexMetrics:
    """What waits to be indexed, over all organizations; every worker counts the same."""

    def __init__(self, metrics: Metrics) -> None:
        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return metrics.gauge(f"retrieval_{name}", text, labels, merge=Merge.MAX)

        self._documents = gauge("ingest_backlog_documents", "Documents that were taken in and are not stored yet.")
        self._bytes = gauge("ingest_backlog_bytes", "Bytes of the documents that wait to be stored.")
        self._vectors = gauge("vectors_pending", "Passages that words find and that have no vector yet.")
        self._lag = gauge("index_lag_seconds", "How long the oldest passage without a vector has waited.")
        self._confirmed = gauge(
            "acl_confirmed_share", "Share of the live documents whose access list was confirmed lately enough."
        )
        self._live = gauge("live_documents", "Documents that their lists show to somebody.")
        self._quarantined = gauge("quarantined_documents", "Documents that nobody is shown, by the reason.", ("code",))
        self._codes: frozenset[str] = frozenset()
        self._purges = gauge("purge_pending", "Removed sources whose rows are not deleted yet.")

    def counted(self, backlogs: Iterable[Backlog], lag_s: float) -> None:
        """Show the backlog of every organization together."""
        every = list(backlogs)
        self._documents.set(sum(each.organization_documents for each in every))
        self._bytes.set(sum(each.organization_bytes for each in every))
        self._vectors.set(sum(each.organization_vectors_pending for each in every))
        self._lag.set(lag_s)

    def stands(self, standings: Iterable[Standing]) -> None:
        """Show how the indexes of all organizations stand together; what was quarantined once keeps its line, at 0."""
        every = list(standings)
        live = sum(each.live for each in every)
        self._confirmed.set(sum(each.confirmed for each in every) / live if live else 1.0)
        self._live.set(live)
        self._purges.set(sum(each.purges for each in every))
        codes: Counter[str] = Counter(dict.fromkeys(self._codes, 0))
        for each in every:
            codes.update(each.quarantined)
        self._codes = frozenset(codes)
        for code, documents in codes.items():
            self._quarantined.labels(code).set(documents)


class ProbeMetrics:
    """Probes of revocation of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._effect = metrics.histogram(
            "retrieval_revoke_to_effect_seconds", "From the sending of a probe's revoke to an answer without it."
        )
        self._probes = metrics.counter(
            "retrieval_revoke_probes_total", "Probes of revocation by outcome.", ("outcome",)
        )

    def probed(self, probed: Probed) -> None:
        """Count one probe."""
        self._probes.labels(str(probed.outcome)).inc()
        if probed.effect_ms is not None:
            self._effect.observe(probed.effect_ms / 1e3)


class RecallMetrics:
    """Comparisons of approximate plans with exact ones, of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._share = metrics.gauge(
            "retrieval_recall_probe", "Mean recall@10 of the newest comparisons, by plan.", ("plan",), merge=Merge.MIN
        )
        self._probes = metrics.counter("retrieval_recall_probes_total", "Comparisons by outcome.", ("outcome",))

    def recall(self, plan: str, mean: float) -> None:
        """Show what the newest comparisons come to."""
        self._share.labels(plan).set(mean)

    def compared(self, outcome: str) -> None:
        """Count one comparison: `compared`, `skipped` or `unknown`."""
        self._probes.labels(outcome).inc()


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
