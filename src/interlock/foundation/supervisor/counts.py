"""What the supervisor measures about its roles, as metrics.

Does not keep a history: a scrape sees what holds when it asks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from interlock.foundation.telemetry import Metrics


@dataclass(frozen=True, slots=True)
class RoleCounts:
    """Restarts after a death, and whether it is up, by process."""

    restarts: Mapping[str, int]
    up: Mapping[str, bool]


class _Families(Collector):
    def __init__(self, counts: RoleCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        restarts = CounterMetricFamily(
            "interlock_supervisor_role_restarts", "Starts of a role after a death.", labels=["role"]
        )
        for tag, count in self._counts.restarts.items():
            restarts.add_metric([tag], count)
        up = GaugeMetricFamily("interlock_supervisor_role_up", "Whether a role serves.", labels=["role"])
        for tag, is_up in self._counts.up.items():
            up.add_metric([tag], int(is_up))
        yield restarts
        yield up


def snapshot_of(counts: RoleCounts) -> bytes:
    """Return the counts in the form that roles send theirs."""
    metrics = Metrics()
    metrics.collector(_Families(counts), {})
    return metrics.snapshot()
