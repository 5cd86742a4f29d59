"""What the task engine counts, in the words of the design page.

Decides nothing, and holds no label that names a tenant or a task.
"""

from collections.abc import Callable

from interlock.agents.domain.journal import Step, StepKind
from interlock.agents.store.journal import Outcome
from interlock.agents.store.rows import Task
from interlock.foundation.telemetry import Metrics


class TaskMetrics:
    """Legs, steps and ends of one worker."""

    def __init__(self, metrics: Metrics) -> None:
        self._waits = metrics.histogram("agents_queue_wait_seconds", "From the submission of a task to its first leg.")
        self._legs = metrics.counter("agents_legs_total", "Legs by the state that they left.", ("outcome",))
        self._steps = metrics.counter("agents_steps_total", "Steps that ended.", ("kind", "status"))
        self._tools = metrics.histogram("agents_tool_seconds", "Time of a tool.", ("tool",))
        self._cancels = metrics.histogram("agents_cancel_confirm_seconds", "From a cancel's request to its proof.")
        self._takeovers = metrics.counter("agents_lease_takeovers_total", "Legs that took a task over.")
        self._decisions = metrics.counter("agents_policy_decisions_total", "Decisions about calls.", ("outcome",))
        self._redactions = metrics.counter("agents_redactions_total", "Secrets that were taken out of what tools said.")
        self._checks = metrics.counter("agents_verify_total", "Checks by what they came to.", ("outcome",))
        self._live = metrics.gauge("agents_live_namespaces", "Sandboxes that run now.")

    def claimed(self, task: Task, now_us: int, *, is_recovered: bool) -> None:
        """Count the begin of a leg."""
        if is_recovered:
            self._takeovers.inc()
        elif task.row["started_us"] is None:
            self._waits.observe(max(0.0, (now_us - task.row["created_us"]) / 1e6))

    def ended(self, step: Step, outcome: Outcome) -> None:
        """Count the end of a step."""
        self._steps.labels(str(step.kind), str(outcome.status)).inc()
        self._redactions.inc(outcome.redactions)
        if step.decision is not None:
            self._decisions.labels(str(step.decision.outcome)).inc()
        if step.kind is StepKind.TOOL:
            self._tools.labels(step.tool or "").observe(outcome.ms / 1e3)
        if outcome.verify_state is not None:
            self._checks.labels(outcome.verify_state).inc()

    def left(self, task: Task) -> None:
        """Count the end of a leg by the state that its task is in now."""
        self._legs.labels(str(task.state)).inc()
        asked_us, confirmed_us = task.row["cancel_requested_us"], task.row["cancel_confirmed_us"]
        if asked_us is not None and confirmed_us is not None:
            self._cancels.observe(max(0.0, (confirmed_us - asked_us) / 1e6))

    def watch_namespaces(self, live: Callable[[], float]) -> None:
        """Show how many sandboxes run."""
        self._live.set_function(live)
