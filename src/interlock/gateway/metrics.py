"""What the edge counts, under the names of the product's metrics; no tenant is ever a label.

Plain numbers on the way of a request; families are made of them when somebody asks.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from interlock.foundation.telemetry import Merge, Metrics
from interlock.gateway.domain.breaker import BreakerState
from interlock.gateway.domain.seats import SeatStatistics
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.targets import TargetStatistics

_ENDPOINTS: Final = frozenset({
    "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/models", "/healthz", "/readyz", "/metrics",
})  # fmt: skip
_STATES: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_REASON_CHARS_MAX: Final = 32
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class _Times:
    """A histogram of seconds."""

    __slots__ = ("_counts", "_help", "_name", "_sum")

    def __init__(self, name: str, help_text: str) -> None:
        self._name = name
        self._help = help_text
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def observe_ms(self, milliseconds: float) -> None:
        seconds = milliseconds / 1_000
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def family(self) -> HistogramMetricFamily:
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*(str(each) for each in _SECONDS), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(self._name, self._help, buckets=buckets, sum_value=self._sum)


class EdgeMetrics(Collector):
    """Counters and histograms of one edge process."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests: dict[tuple[str, str], int] = {}
        self._tokens = {"input": 0, "output": 0}
        self._retries: dict[str, int] = {}
        self._arms: dict[str, int] = {}
        self._cost_usd_micros = 0
        self._estimated = self._misjudged = 0
        self._targets: Callable[[], Iterable[TargetStatistics]] = tuple
        self._skipped = 0
        self._seats: Callable[[], SeatStatistics] = lambda: SeatStatistics(0, 0, 0, 0.0)
        self._overhead = _Times(
            "interlock_gateway_overhead_seconds", "Time of an inference request outside queue and model server."
        )
        self._ttft = _Times("interlock_gateway_ttft_seconds", "Time to the first event of an answer.")
        self._queue_wait = _Times("interlock_gateway_queue_wait_seconds", "Time that a request waited for its grant.")
        worst = {"interlock_gateway_breaker_state", "interlock_gateway_estimate_error_ratio"}
        merges = {family.name: Merge.MAX if family.name in worst else Merge.SUM for family in self.collect()}
        metrics.collector(self, merges)

    def watch_seats(self, seats: Callable[[], SeatStatistics]) -> None:
        """Say where the numbers of requests that run and that wait come from."""
        self._seats = seats

    def watch_targets(self, targets: Callable[[], Iterable[TargetStatistics]]) -> None:
        """Say where the states of breakers come from."""
        self._targets = targets

    def count(self, endpoint: str, outcome: str) -> None:
        """Count one request."""
        place = (endpoint, outcome)
        self._requests[place] = self._requests.get(place, 0) + 1

    def finished(self, passage: Passage) -> None:
        """Count a request that has ended."""
        self.count(passage.endpoint if passage.endpoint in _ENDPOINTS else "other", passage.outcome)
        if passage.envelope is None:
            return
        waits_ms = (passage.queue_ms or 0.0) + (passage.upstream_ms or 0.0)
        self._overhead.observe_ms(max(0.0, passage.elapsed_ms() - waits_ms))
        if passage.ttft_ms is not None:
            self._ttft.observe_ms(passage.ttft_ms)
        if passage.queue_ms is not None:
            self._queue_wait.observe_ms(passage.queue_ms)
        if len(passage.attempts) > 1:
            self._note_retries(passage)
        self._skipped += passage.skipped
        if passage.placement is not None:
            arm = passage.arm or "stable"
            self._arms[arm] = self._arms.get(arm, 0) + 1
        self._cost_usd_micros += passage.cost_usd_micros or 0
        usage = passage.usage
        if usage is not None:
            self._tokens["input"] += usage.input_tokens or 0
            self._tokens["output"] += usage.output_tokens or 0
            if usage.input_tokens and not usage.estimated:
                self._estimated += usage.input_tokens
                self._misjudged += abs(usage.input_tokens - passage.input_estimate)

    def _note_retries(self, passage: Passage) -> None:
        """Count calls that were made again, by what the one before said."""
        for each in passage.decisions:
            if each.step == "retry" and each.verdict == "again":
                reason = each.rule.removeprefix("upstream.")[:_REASON_CHARS_MAX]
                self._retries[reason] = self._retries.get(reason, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Yield the families as they stand."""
        requests = CounterMetricFamily(
            "interlock_gateway_requests", "Requests by endpoint and outcome class.", labels=("endpoint", "outcome")
        )
        for place, count in self._requests.items():
            requests.add_metric(place, count)
        yield requests
        tokens = CounterMetricFamily("interlock_gateway_tokens", "Tokens by kind.", labels=("kind",))
        for kind, count in self._tokens.items():
            tokens.add_metric((kind,), count)
        yield tokens
        retries = CounterMetricFamily(
            "interlock_gateway_retries", "Repeated calls of model servers.", labels=("reason",)
        )
        for reason, count in self._retries.items():
            retries.add_metric((reason,), count)
        yield retries
        arms = CounterMetricFamily("interlock_gateway_arm_requests", "Requests by arm of their route.", labels=("arm",))
        for arm, count in self._arms.items():
            arms.add_metric((arm,), count)
        yield arms
        cost = CounterMetricFamily("interlock_gateway_cost_usd", "Dollars that answers cost, where a price is known.")
        cost.add_metric((), self._cost_usd_micros / 1_000_000)
        yield cost
        yield self._breakers()
        yield GaugeMetricFamily(
            "interlock_gateway_estimate_error_ratio",
            "How far estimates of input tokens were off, as a share of what was counted.",
            value=self._misjudged / self._estimated if self._estimated else 0.0,
        )
        skipped = CounterMetricFamily(
            "interlock_gateway_translation_skipped", "What model servers said that no translation understood."
        )
        skipped.add_metric((), self._skipped)
        yield skipped
        seats = self._seats()
        yield GaugeMetricFamily("interlock_gateway_inflight", "Inference requests that are running.", value=seats.taken)
        yield GaugeMetricFamily(
            "interlock_gateway_queue_depth", "Inference requests that wait for a place.", value=seats.waiting
        )
        yield from (each.family() for each in (self._overhead, self._ttft, self._queue_wait))

    def _breakers(self) -> Metric:
        """Return the state by deployment; of those of one name the worst, as no tenant is a label."""
        family = GaugeMetricFamily(
            "interlock_gateway_breaker_state", "Breaker: 0 closed, 1 half open, 2 open.", labels=("deployment",)
        )
        worst: dict[str, int] = {}
        for target in self._targets():
            worst[target.deployment] = max(worst.get(target.deployment, 0), _STATES[target.breaker])
        for deployment, state in worst.items():
            family.add_metric((deployment,), state)
        return family
