"""What limits decided, as metrics; no tenant is ever a label.

Counts nothing itself.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from interlock.foundation.telemetry import Merge, Metrics
from interlock.gateway.domain.directory import Dimension
from interlock.gateway.domain.leasing import LeaseMode


class LimitMetrics(Collector):
    """Families of a limiter's own numbers."""

    def __init__(
        self,
        metrics: Metrics,
        verdicts: Callable[[], Mapping[tuple[Dimension, str], int]],
        modes: Callable[[], Mapping[LeaseMode, int]],
    ) -> None:
        self._verdicts = verdicts
        self._modes = modes
        metrics.collector(self, {family.name: Merge.SUM for family in self.collect()})

    def collect(self) -> Iterator[Metric]:
        """Yield the families as they stand."""
        decisions = CounterMetricFamily(
            "interlock_gateway_limit_decisions",
            "Decisions of limits by dimension and verdict.",
            labels=("dimension", "verdict"),
        )
        for labels, count in self._verdicts().items():
            if count:
                decisions.add_metric(tuple(map(str, labels)), count)
        yield decisions
        modes = CounterMetricFamily(
            "interlock_gateway_lease_mode",
            "Requests by who decided their limits: own lease, store, or the machine's share of a store that is away.",
            labels=("mode",),
        )
        for mode, count in self._modes().items():
            modes.add_metric((str(mode),), count)
        yield modes
