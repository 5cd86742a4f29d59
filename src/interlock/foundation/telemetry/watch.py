"""What telemetry says of itself: fill and drops of the spool, suppressed log lines, redactions.

Reads `statistics()` when it is asked; keeps no count of its own but those that nobody else has.
"""

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from interlock.foundation.telemetry.metrics import Merge, Metrics
from interlock.foundation.telemetry.shipper import Shipper
from interlock.foundation.telemetry.spool import Spool


class SpoolWatch(Collector):
    """The series `interlock_telemetry_*` of one spool and its shipper."""

    def __init__(self, metrics: Metrics, spool: Spool, shipper: Shipper | None = None) -> None:
        self._spool = spool
        self._shipper = shipper
        metrics.collector(self, {"interlock_telemetry_spool_bytes": Merge.SUM})

    def collect(self) -> Iterator[Metric]:
        """Yield the families as they are now."""
        held = self._spool.statistics()
        yield GaugeMetricFamily(
            "interlock_telemetry_spool_bytes",
            "Bytes of records that wait for the store.",
            held.ring_bytes_used + held.segment_bytes,
        )
        yield GaugeMetricFamily(
            "interlock_telemetry_spool_bytes_max",
            "Bytes that the spool may take.",
            held.ring_bytes + held.segment_bytes_max,
        )
        yield GaugeMetricFamily(
            "interlock_telemetry_spool_pending", "Closed records that are not in the store yet.", held.pending
        )
        drops = CounterMetricFamily(
            "interlock_telemetry_spool_dropped", "Records that gave up their details, or were lost.", labels=["kind"]
        )
        drops.add_metric(["detail"], held.dropped_detail)
        drops.add_metric(["usage"], held.dropped_usage)
        yield drops
        if self._shipper is not None:
            shipped = self._shipper.statistics()
            frames = CounterMetricFamily(
                "interlock_telemetry_shipped", "Records that reached the store, by result.", labels=["result"]
            )
            for result, count in (("new", shipped.records), ("merged", shipped.merged), ("refused", shipped.refused)):
                frames.add_metric([result], count)
            yield frames


class TelemetryCounters:
    """Callbacks for `configure_logs` and the redactor of a process."""

    def __init__(self, metrics: Metrics) -> None:
        self._suppressed = metrics.counter("telemetry_logs_suppressed_total", "Log lines over the bound of a request.")
        self._hits = metrics.counter("redaction_hits_total", "Secrets that were hidden, by kind.", ("kind",))

    def on_suppressed(self) -> None:
        """Count a suppressed line."""
        self._suppressed.inc()

    def on_hit(self, kind: str) -> None:
        """Count a redaction."""
        self._hits.labels(kind).inc()
