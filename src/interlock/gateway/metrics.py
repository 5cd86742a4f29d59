"""What the edge counts, under the names of the product's metrics; no tenant is ever a label.

Plain numbers on the way of a request; families are made of them when somebody asks.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from interlock.foundation.telemetry import Merge, Metrics, step_of
from interlock.gateway.domain.arms import SHADOW
from interlock.gateway.domain.breaker import BreakerState
from interlock.gateway.domain.seats import SeatStatistics
from interlock.gateway.domain.times import BOUNDS_S, Times
from interlock.gateway.service.grants import GrantStatistics
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.targets import TargetStatistics

_ENDPOINTS: Final = frozenset({
    "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/models", "/healthz", "/readyz", "/metrics",
})  # fmt: skip
_STATES: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_REASON_CHARS_MAX: Final = 32


def _family(name: str, help_text: str, times: Times) -> HistogramMetricFamily:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*(str(each) for each in BOUNDS_S), "+Inf"), times.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(f"interlock_gateway_{name}_seconds", help_text, buckets=buckets, sum_value=times.sum_s)


class EdgeMetrics(Collector):
    """Counters and histograms of one edge process."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests: dict[tuple[str, str], int] = {}
        self._input_tokens = self._output_tokens = 0
        self._retries: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._arms: dict[str, int] = {}
        self._cost_usd_micros = 0
        self._estimated = self._misjudged = 0
        self._targets: Callable[[], Iterable[TargetStatistics]] = tuple
        self._skipped = self._unpriced = 0
        self._seats: Callable[[], SeatStatistics] = lambda: SeatStatistics(0, 0, 0, 0.0)
        self._turned_away: Callable[[], dict[str, int]] = dict
        self._grants: Callable[[], GrantStatistics | None] = lambda: None
        self._overhead, self._ttft, self._queue_wait, self._gaps = Times(), Times(), Times(), Times()
        worst = {"interlock_gateway_breaker_state", "interlock_gateway_estimate_error_ratio"}
        merges = {family.name: Merge.MAX if family.name in worst else Merge.SUM for family in self.collect()}
        metrics.collector(self, merges)

    def watch_seats(self, seats: Callable[[], SeatStatistics]) -> None:
        """Say where the numbers of requests that run and that wait come from."""
        self._seats = seats

    def watch_gaps(self, gaps: Times) -> None:
        """Say where the times between the pieces of streams are counted."""
        self._gaps = gaps

    def watch_targets(self, targets: Callable[[], Iterable[TargetStatistics]]) -> None:
        """Say where the states of breakers come from."""
        self._targets = targets

    def watch_grants(self, grants: Callable[[], GrantStatistics]) -> None:
        """Say where the numbers of settlements come from that wait for their schedulers or were given up."""
        self._grants = grants

    def watch_connections(self, turned_away: Callable[[], dict[str, int]]) -> None:
        """Say where the numbers of connections come from that were turned away, by reason."""
        self._turned_away = turned_away

    def count(self, endpoint: str, outcome: str) -> None:
        """Count one request."""
        place = (endpoint, outcome)
        self._requests[place] = self._requests.get(place, 0) + 1

    def refused(self, code: str) -> None:
        """Count what was no request, whether its story is stored or not."""
        self._refused[code] = self._refused.get(code, 0) + 1

    def finished(self, passage: Passage) -> None:
        """Count a request that has ended."""
        endpoint = passage.endpoint
        self.count(endpoint if endpoint in _ENDPOINTS else "other", passage.outcome)
        if passage.envelope is None:
            return
        queue_ms, ttft_ms, cost_usd_micros = passage.queue_ms, passage.ttft_ms, passage.cost_usd_micros
        within_ms = passage.elapsed_ms() - (queue_ms or 0.0) - (passage.upstream_ms or 0.0)
        self._overhead.observe(within_ms / 1_000 if within_ms > 0.0 else 0.0)
        if ttft_ms is not None:
            self._ttft.observe(ttft_ms / 1_000)
        if queue_ms is not None:
            self._queue_wait.observe(queue_ms / 1_000)
        if len(passage.attempts) > 1:
            self._note_retries(passage)
        if passage.skipped:
            self._skipped += passage.skipped
        is_placed = passage.placement is not None
        if is_placed:
            arms, arm = self._arms, passage.arm or "stable"
            arms[arm] = arms.get(arm, 0) + 1
        if cost_usd_micros is not None:
            self._cost_usd_micros += cost_usd_micros
        usage = passage.usage
        if usage is not None:
            self._unpriced += is_placed and cost_usd_micros is None
            input_tokens = usage.input_tokens or 0
            self._input_tokens += input_tokens
            self._output_tokens += usage.output_tokens or 0
            if input_tokens and not usage.estimated:
                self._estimated += input_tokens
                self._misjudged += abs(input_tokens - passage.input_estimate)

    def copied(self, copy: Passage) -> None:
        """Count a copy for a version in the shadow: no request of anybody's, but it has an arm and a price."""
        self._arms[SHADOW] = self._arms.get(SHADOW, 0) + 1
        self._cost_usd_micros += copy.cost_usd_micros or 0

    def _note_retries(self, passage: Passage) -> None:
        """Count calls that were made again, by what the one before said."""
        for each in passage.decisions:
            _, _, rule, verdict, _ = each
            if step_of(each) == "retry" and verdict == "again":
                reason = rule.removeprefix("upstream.")[:_REASON_CHARS_MAX]
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
        tokens.add_metric(("input",), self._input_tokens)
        tokens.add_metric(("output",), self._output_tokens)
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
        unpriced = CounterMetricFamily(
            "interlock_gateway_unpriced_requests", "Answers with usage whose deployment has no price."
        )
        unpriced.add_metric((), self._unpriced)
        yield unpriced
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
        turned_away = CounterMetricFamily(
            "interlock_gateway_connections_refused",
            "Connections turned away: too many are open, or too many new ones a second come from one address.",
            labels=("reason",),
        )
        for reason, count in self._turned_away().items():
            turned_away.add_metric((reason,), count)
        yield turned_away
        refused = CounterMetricFamily(
            "interlock_wire_refused", "Requests that were refused before their path was looked at.", labels=("code",)
        )
        for code, count in self._refused.items():
            refused.add_metric((code,), count)
        yield refused
        yield from self._settlements()
        seats = self._seats()
        yield GaugeMetricFamily("interlock_gateway_inflight", "Inference requests that are running.", value=seats.taken)
        yield GaugeMetricFamily(
            "interlock_gateway_queue_depth", "Inference requests that wait for a place.", value=seats.waiting
        )
        yield _family("overhead", "Time of an inference request outside queue and model server.", self._overhead)
        yield _family("ttft", "Time to the first event of an answer.", self._ttft)
        yield _family("queue_wait", "Time that a request waited for its grant.", self._queue_wait)
        yield _family("event_gap", "Time between two pieces of a stream, as model servers send them.", self._gaps)

    def _settlements(self) -> Iterator[Metric]:
        """Yield how many settlements wait, and how many no scheduler will hear of."""
        grants = self._grants()
        yield GaugeMetricFamily(
            "interlock_gateway_settlements_waiting",
            "Settlements that no scheduler has heard of yet.",
            value=0 if grants is None else grants.settling,
        )
        given_up = CounterMetricFamily(
            "interlock_gateway_settlements_given_up", "Settlements that no scheduler heard; leases end their grants."
        )
        given_up.add_metric((), 0 if grants is None else grants.dropped_total)
        yield given_up

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
