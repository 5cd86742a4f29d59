"""What the edge counts, under the names of the product's metrics; no tenant is ever a label.

Computes nothing; passages and services bring the figures.
"""

from collections.abc import Callable
from typing import Any, Final

from interlock.foundation.telemetry import Merge, Metrics
from interlock.gateway.service.passage import Passage

_ENDPOINTS: Final = frozenset({"/v1/chat/completions", "/v1/models", "/healthz", "/readyz", "/metrics"})


class EdgeMetrics:
    """Counters and histograms of one edge process; label children are looked up once."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter(
            "interlock_gateway_requests_total", "Requests by endpoint and outcome class.", ("endpoint", "outcome")
        )
        tokens = metrics.counter("interlock_gateway_tokens_total", "Tokens by kind.", ("kind",))
        self._tokens_in, self._tokens_out = tokens.labels("input"), tokens.labels("output")
        self._overhead = metrics.histogram(
            "interlock_gateway_overhead_seconds", "Time of an inference request outside queue and model server."
        )
        self._ttft = metrics.histogram("interlock_gateway_ttft_seconds", "Time to the first event of an answer.")
        self._queue_wait = metrics.histogram(
            "interlock_gateway_queue_wait_seconds", "Time that a request waited for its grant."
        )
        self._retries = metrics.counter(
            "interlock_gateway_retries_total", "Repeated calls of model servers.", ("reason",)
        )
        self._inflight = metrics.gauge(
            "interlock_gateway_inflight", "Inference requests that are running.", (), Merge.SUM
        )
        self._counts: dict[tuple[str, str], Any] = {}

    def watch_inflight(self, running: Callable[[], int]) -> None:
        """Say where the number of running requests comes from."""
        self._inflight.set_function(running)

    def count(self, endpoint: str, outcome: str) -> None:
        """Count one request."""
        child = self._counts.get((endpoint, outcome))
        if child is None:
            child = self._counts[endpoint, outcome] = self._requests.labels(endpoint, outcome)
        child.inc()

    def finished(self, passage: Passage) -> None:
        """Count a request that has ended."""
        self.count(passage.endpoint if passage.endpoint in _ENDPOINTS else "other", passage.outcome)
        if passage.envelope is None:
            return
        waits_ms = (passage.queue_ms or 0.0) + (passage.upstream_ms or 0.0)
        self._overhead.observe(max(0.0, passage.elapsed_ms() - waits_ms) / 1_000)
        if passage.ttft_ms is not None:
            self._ttft.observe(passage.ttft_ms / 1_000)
        if passage.queue_ms is not None:
            self._queue_wait.observe(passage.queue_ms / 1_000)
        if len(passage.attempts) > 1:
            self._retries.labels("connect").inc(len(passage.attempts) - 1)
        usage = passage.usage
        if usage is not None:
            self._tokens_in.inc(usage.input_tokens or 0)
            self._tokens_out.inc(usage.output_tokens or 0)
