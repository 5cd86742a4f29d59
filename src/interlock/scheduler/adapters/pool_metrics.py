"""The figures of the pools as Prometheus reads them: the seven metrics, what the pools hold, what they would need.

Carries no tenants: those are in the stories and in the pool's own view.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from interlock.contracts.scheduling import GrantRequest, ServiceClass
from interlock.foundation.telemetry import Merge, Metrics
from interlock.scheduler.domain.engines import KV_LIMIT_FLOOR
from interlock.scheduler.domain.measures import SHED
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.domain.types import EngineCondition, Grant, PoolStatistics
from interlock.scheduler.service.measuring import Measuring

_LABELS = ("pool", "class")
_SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.0, 15.0, 30.0, 60.0)
_DECISION_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)
_PREFIX: Final = "interlock_scheduler_"
# Gauges of a pool and class that come straight from the figures of its window.
_OF_CLASS: Final = {
    "error_rate": "Share of accepted requests that failed.",
    "cost_per_successful_request_usd": "Cost of all requests over those in their objectives, US dollars.",
    "goodput": "Requests in their objectives a second.",
    "attainment": "Share of all requests in their objectives.",
    "accepted_attainment": "Share of accepted requests in their objectives.",
    "prefix_hit_share": "Share of prompt tokens that engines had cached.",
}
_OF_POOL: Final = {
    "queued": "Requests that wait.",
    "granted": "Grants in use.",
    "water_level": "Weighted tokens a second that a tenant of weight 1 may have; absent while all demands fit.",
    "over_share_tenants": "Organizations over their share.",
    "kv_reserved_share": "Share of the known KV that is reserved.",
    "backlog_seconds": "Queued work over the measured capacity.",
    "shed_rate": "Share of the last 30 s that was refused for load.",
    "slo_burn": "Miss rate of accepted requests over 1 %.",
    "desired_replicas": "Replicas that the pool should have.",
    "replicas": "Replicas that get work.",
}
# Counters of a pool that come from its statistics, by their fields.
_COUNTED: Final = {
    "at_risk": ("promises_at_risk", "Promises that a plan saw late before their time, each once."),
    "settle_mismatch": ("settle_mismatch", "Settlements of fewer output tokens than were reported before."),
    "engine_overrun": ("engine_overrun", "Settlements of more output tokens than were asked for."),
}
_OF_ENGINE: Final = {
    "kv_limit_share": "Share of an engine's KV that grants may reserve.",
    "kv_limit_floor_share": "The lowest that this share falls to.",
}
_KEYS: Final = {"goodput": "goodput_rps"}


class PoolMetrics:
    """Observes one front; see `front.Observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._wait = self._seconds("queue_wait_time", "Time from arrival to grant.")
        self._ttft = self._seconds("time_to_first_token", "Time from arrival to first token.")
        self._total = self._seconds("end_to_end_latency", "Time from arrival to settlement.")
        self._rejections = metrics.counter(
            f"{_PREFIX}overload_rejections_total", "Refused requests.", (*_LABELS, "code")
        )
        self._displaced = metrics.counter(f"{_PREFIX}displaced_total", "Seats that gave way to others.", _LABELS)
        self._settled = metrics.counter(f"{_PREFIX}settled_total", "Ended grants.", (*_LABELS, "outcome", "in_slo"))
        self._wasted = metrics.counter(
            f"{_PREFIX}wasted_tokens_total", "Tokens of requests that failed, missed or were left.", _LABELS
        )
        self._retries = self._seconds("retry_after_error", "How much later than told a returning request was granted.")
        self._in_share = metrics.counter(
            f"{_PREFIX}in_share_requests_total", "Ended requests of tenants inside their share.", (*_LABELS, "refused")
        )
        self._leaders = metrics.counter(
            f"{_PREFIX}leader_changes_total", "Pools that this scheduler took, or lost to another.", ("pool", "change")
        )
        self._decisions = metrics.histogram(
            f"{_PREFIX}decision_seconds", "Time of one decision at arrival.", ("pool",), _DECISION_BUCKETS
        )

    def leader_changed(self, change: str, pools: Iterable[str]) -> None:
        """Note that pools were `taken`, or `lost` to another scheduler."""
        for pool in pools:
            self._leaders.labels(pool, change).inc()

    def pools(self, statistics: Callable[[], Iterable[PoolStatistics]], measuring: Measuring) -> None:
        """Show what the pools hold whenever the metrics are read."""
        names = [
            *_OF_POOL,
            *_OF_CLASS,
            *_OF_ENGINE,
            *(name for name, _ in _COUNTED.values()),
            "tokens_per_second",
            "gpu_utilization",
            "engine_state",
            "prediction_error_ratio",
        ]
        merges = {f"{_PREFIX}{name}": Merge.MIN if name in _OF_ENGINE else Merge.SUM for name in names}
        self._metrics.collector(_Pools(statistics, measuring), merges)

    def leading(self, fences: Callable[[], Mapping[str, int]]) -> None:
        """Show the fences of the pools that are led: one rises with each leader, whoever of them has died since."""
        self._metrics.collector(_Fences(fences), {f"{_PREFIX}leader_fence": Merge.MAX})

    def granted(self, grant: Grant) -> None:
        """Note a grant."""
        self._wait.labels(*_labels(grant.request)).observe(grant.queue_wait_ms / 1_000)
        if grant.retry_error_us is not None:
            self._retries.labels(*_labels(grant.request)).observe(grant.retry_error_us / 1_000_000)

    def decided(self, pool: str, took_s: float) -> None:
        """Note how long a decision took."""
        self._decisions.labels(pool).observe(took_s)

    def ended(self, record: DecisionRecord) -> None:
        """Note the end of a request."""
        labels = _labels(record.request)
        self._note_share(record)
        if record.is_refused:
            self._rejections.labels(*labels, record.code).inc()
            if record.code == "displaced":
                self._displaced.labels(*labels).inc()
            return
        if record.outcome == "canceled":
            return
        self._settled.labels(*labels, record.outcome, str(record.is_in_slo).lower()).inc()
        self._wasted.labels(*labels).inc(record.wasted_tokens)
        if record.total_ms is not None:
            self._total.labels(*labels).observe(record.total_ms / 1_000)
        if record.ttft_ms is not None:
            self._ttft.labels(*labels).observe(record.ttft_ms / 1_000)

    def _note_share(self, record: DecisionRecord) -> None:
        """Count who was inside its share, but not whom the pool could not have served on any day."""
        is_judged = record.code in SHED or not record.is_refused
        if is_judged and record.standing is not None and not record.standing.is_over_share:
            self._in_share.labels(*_labels(record.request), str(record.is_refused).lower()).inc()

    def _seconds(self, name: str, text: str) -> Any:
        return self._metrics.histogram(f"{_PREFIX}{name}_seconds", text, _LABELS, _SECONDS_BUCKETS)


class _Fences(Collector):
    def __init__(self, fences: Callable[[], Mapping[str, int]]) -> None:
        self._fences = fences

    def collect(self) -> Iterator[Metric]:
        family = _family(
            "leader_fence", "Fence under which a pool is led; each new leader has a higher one.", ("pool",)
        )
        for pool, fence in dict(self._fences()).items():
            if fence:
                family.add_metric((pool,), fence)
        yield family


class _Pools(Collector):
    def __init__(self, statistics: Callable[[], Iterable[PoolStatistics]], measuring: Measuring) -> None:
        self._statistics = statistics
        self._measuring = measuring

    def collect(self) -> Iterator[Metric]:
        pools = list(self._statistics())
        yield from self._of_pools(pools)
        yield from self._of_classes(pools)
        yield from self._of_engines(pools)
        for field, (name, text) in _COUNTED.items():
            counter = CounterMetricFamily(f"{_PREFIX}{name}", text, labels=("pool",))
            for pool in pools:
                counter.add_metric((pool.name,), getattr(pool, field))
            yield counter

    def _of_engines(self, pools: Iterable[PoolStatistics]) -> Iterator[Metric]:
        state = _family("engine_state", "1 for the state an engine is in.", ("pool", "engine", "state"))
        limits = {name: _family(name, text, ("pool", "engine")) for name, text in _OF_ENGINE.items()}
        for name, engine in [(pool.name, each) for pool in pools for each in pool.engines]:
            place = (name, engine.state.engine_id)
            for condition in EngineCondition:
                state.add_metric((*place, condition.value), float(engine.state.condition is condition))
            limits["kv_limit_share"].add_metric(place, engine.kv_limit_share)
            limits["kv_limit_floor_share"].add_metric(place, KV_LIMIT_FLOOR)
        yield from (state, *limits.values())

    def _of_pools(self, pools: Iterable[PoolStatistics]) -> Iterator[Metric]:
        families = {name: _family(name, text, ("pool",)) for name, text in _OF_POOL.items()}
        tokens = _family("tokens_per_second", "Tokens a second.", ("pool", "kind"))
        busy = _family("gpu_utilization", "Share of time that engines were at work.", ("pool", "source"))
        errors = _family("prediction_error_ratio", "Mean error over the actual figure.", ("pool", "kind"))
        for pool in pools:
            figures = self._measuring.figures(pool.name)
            over = sum(each.standing.is_over_share for each in pool.tenants if len(each.path) == 1 and each.standing)
            values = self._measuring.signals(pool) | {
                "queued": pool.queued,
                "granted": pool.granted,
                "water_level": pool.water_level,
                "over_share_tenants": over,
                "kv_reserved_share": pool.kv_reserved_share,
                "replicas": sum(each.state.condition is EngineCondition.READY for each in pool.engines),
            }
            for name, family in families.items():
                _add(family, (pool.name,), values.get(name))
            for kind, value in figures["tokens_per_second"].items():
                tokens.add_metric((pool.name, kind), value)
            for kind, value in figures["prediction_error_ratio"].items():
                _add(errors, (pool.name, kind), value)
            _add(busy, (pool.name, figures["gpu_utilization_source"]), figures["gpu_utilization"])
        yield from (*families.values(), tokens, busy, errors)

    def _of_classes(self, pools: Iterable[PoolStatistics]) -> Iterator[Metric]:
        families = {name: _family(name, text, _LABELS) for name, text in _OF_CLASS.items()}
        for pool in pools:
            for service_class in ServiceClass:
                figures = self._measuring.figures(pool.name, service_class.value)
                for name, family in families.items():
                    _add(family, (pool.name, service_class.value), figures[_KEYS.get(name, name)])
        yield from families.values()


def _family(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=labels)


def _add(family: GaugeMetricFamily, labels: tuple[str, ...], value: float | None) -> None:
    """A figure that nobody knows is absent, never 0."""
    if value is not None:
        family.add_metric(labels, float(value))


def _labels(request: GrantRequest) -> tuple[str, str]:
    return (request.pool, request.service_class.value)
