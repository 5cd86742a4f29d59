"""The figures of the pools as metrics: what grants waited for and came to, and what the pools hold.

Carries no tenants: those are in the stories and in the pool's own view.
"""

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from interlock.contracts.scheduling import GrantRequest, Settlement
from interlock.foundation.telemetry import Merge, Metrics
from interlock.scheduler.domain.types import EngineCondition, Grant, PoolStatistics

_LABELS = ("pool", "class")
_SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.0, 15.0, 30.0, 60.0)
_GAUGES = ("interlock_scheduler_queued", "interlock_scheduler_granted", "interlock_scheduler_engine_state")


class PoolMetrics:
    """Observes one front; see `service.Observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        buckets = _SECONDS_BUCKETS
        self._wait = metrics.histogram(
            "interlock_scheduler_queue_wait_time_seconds", "Time from arrival to grant.", _LABELS, buckets
        )
        self._ttft = metrics.histogram(
            "interlock_scheduler_time_to_first_token_seconds", "Time from arrival to first token.", _LABELS, buckets
        )
        self._total = metrics.histogram(
            "interlock_scheduler_end_to_end_latency_seconds", "Time from arrival to settlement.", _LABELS, buckets
        )
        self._rejections = metrics.counter(
            "interlock_scheduler_overload_rejections_total", "Refused requests.", (*_LABELS, "code")
        )
        self._settled = metrics.counter(
            "interlock_scheduler_settled_total", "Ended grants.", (*_LABELS, "outcome", "in_slo")
        )
        self._wasted = metrics.counter(
            "interlock_scheduler_wasted_tokens_total", "Tokens of requests that failed, missed or were left.", _LABELS
        )

    def pools(self, statistics: Callable[[], Iterable[PoolStatistics]]) -> None:
        """Show what the pools hold whenever the metrics are read."""
        self._metrics.collector(_Pools(statistics), dict.fromkeys(_GAUGES, Merge.SUM))

    def granted(self, grant: Grant) -> None:
        """Note a grant."""
        self._wait.labels(*_labels(grant.request)).observe(grant.queue_wait_ms / 1_000)

    def refused(self, request: GrantRequest, code: str) -> None:
        """Note a refusal."""
        self._rejections.labels(*_labels(request), code).inc()

    def settled(
        self, request: GrantRequest, settlement: Settlement, *, waited_ms: int, in_slo: bool, wasted_tokens: int
    ) -> None:
        """Note the end of a grant."""
        labels = _labels(request)
        self._settled.labels(*labels, settlement.outcome.value, str(in_slo).lower()).inc()
        self._wasted.labels(*labels).inc(wasted_tokens)
        self._total.labels(*labels).observe((waited_ms + settlement.total_ms) / 1_000)
        if settlement.ttft_ms is not None:
            self._ttft.labels(*labels).observe((waited_ms + settlement.ttft_ms) / 1_000)

    def lost(self, request: GrantRequest) -> None:
        """Note a grant that nobody renewed."""
        self._settled.labels(*_labels(request), "lost", "false").inc()


class _Pools(Collector):
    def __init__(self, statistics: Callable[[], Iterable[PoolStatistics]]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        queued = GaugeMetricFamily(_GAUGES[0], "Requests that wait.", labels=("pool",))
        granted = GaugeMetricFamily(_GAUGES[1], "Grants in use.", labels=("pool",))
        state = GaugeMetricFamily(_GAUGES[2], "1 for the state an engine is in.", labels=("pool", "engine", "state"))
        for pool in self._statistics():
            queued.add_metric((pool.name,), pool.queued)
            granted.add_metric((pool.name,), pool.granted)
            for engine in pool.engines:
                for condition in EngineCondition:
                    is_in = engine.state.condition is condition
                    state.add_metric((pool.name, engine.state.engine_id, condition.value), float(is_in))
        return (queued, granted, state)


def _labels(request: GrantRequest) -> tuple[str, str]:
    return (request.pool, request.service_class.value)
