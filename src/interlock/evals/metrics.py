"""What evals count, in the words of the design page.

Decides nothing, and holds no label that names a tenant, a suite or a route.
"""

from interlock.foundation.telemetry import Metrics


class EvalMetrics:
    """Samples, verdicts and proofs of one worker."""

    def __init__(self, metrics: Metrics) -> None:
        self._samples = metrics.counter("evals_samples_total", "Samples by what they came to.", ("outcome",))
        self._seconds = metrics.histogram("evals_sample_seconds", "Time of a target's answer to one sample.")
        self.retries = metrics.counter("evals_runner_retries_total", "Calls of a target beyond the first of a sample.")
        self._verdicts = metrics.counter("evals_verdicts_total", "Verdicts that were signed.", ("verdict",))
        self._armed = metrics.gauge("evals_gate_armed", "Armed gates by mode.", ("gate_mode",), "max")
        self.controls_age = metrics.gauge(
            "evals_controls_age_seconds", "Age of the oldest control of a required gate.", (), "max"
        )

    def sample(self, outcome: str, latency_ms: float | None) -> None:
        """Count one sample that was written."""
        self._samples.labels(outcome).inc()
        if latency_ms is not None:
            self._seconds.observe(latency_ms / 1e3)

    def verdict(self, verdict: str) -> None:
        """Count one verdict."""
        self._verdicts.labels(verdict).inc()

    def armed(self, counts: dict[str, int]) -> None:
        """Show how many gates of each mode are armed."""
        for mode in ("required", "advisory"):
            self._armed.labels(mode).set(counts.get(mode, 0))


class RolloutMetrics:
    """Looks of one worker's monitor."""

    def __init__(self, metrics: Metrics) -> None:
        self._decisions = metrics.counter("evals_rollout_decisions_total", "Looks by what they decided.", ("decision",))
        self.seconds = metrics.histogram("evals_look_seconds", "Time of one look with what followed from it.")
        self.blind = metrics.counter("evals_monitor_blind_total", "Looks whose counts could not be used.")

    def decided(self, decision: str, codes: list[str]) -> None:
        """Count one decision."""
        self._decisions.labels(decision).inc()
        if "counts_invalid" in codes or "monitor_blind" in codes:
            self.blind.inc()
