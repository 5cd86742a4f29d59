"""The engine's `/metrics`, under vLLM's names, so that what reads vLLM reads the embedded engine too.

A figure that the engine cannot know is absent, never 0.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()
_TTFT_BUCKETS_S: Final = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
_TPOT_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
_TOTAL_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)


class EngineMetrics:
    """Counts of one engine process."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        names = ("model_name",)
        self.running = self._gauge("vllm:num_requests_running", "Requests that the model works on.", model_name)
        self.waiting = self._gauge("vllm:num_requests_waiting", "Requests that wait for a slot.", model_name)
        self.kv_usage = self._gauge("vllm:kv_cache_usage_perc", "Share of the context in use, 0 to 1.", model_name)
        self.prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens.", names, registry=self._registry).labels(
            model_name
        )
        self.output_tokens = Counter(
            "vllm:generation_tokens", "Generated tokens.", names, registry=self._registry
        ).labels(model_name)
        self.prefix_hits = Counter(
            "vllm:prefix_cache_hits", "Prompt tokens found in the cache.", names, registry=self._registry
        ).labels(model_name)
        self.prefix_queries = Counter(
            "vllm:prefix_cache_queries", "Prompt tokens looked up in the cache.", names, registry=self._registry
        ).labels(model_name)
        self._finished = Counter(
            "vllm:request_success", "Finished requests.", ("model_name", "finished_reason"), registry=self._registry
        )
        self.ttft = self._histogram(
            "vllm:time_to_first_token_seconds", "Time to first token.", _TTFT_BUCKETS_S, model_name
        )
        self.tpot = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time per output token.", _TPOT_BUCKETS_S, model_name
        )
        self.total = self._histogram(
            "vllm:e2e_request_latency_seconds", "Time of a request.", _TOTAL_BUCKETS_S, model_name
        )
        self._model_name = model_name

    def finished(self, reason: str) -> None:
        """Count a request: `stop`, `length`, or `abort` for one that was canceled."""
        self._finished.labels(self._model_name, reason).inc()

    def render(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str, model_name: str) -> Gauge:
        return Gauge(name, text, ("model_name",), registry=self._registry).labels(model_name)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], model_name: str) -> Histogram:
        return Histogram(name, text, ("model_name",), registry=self._registry, buckets=buckets).labels(model_name)
