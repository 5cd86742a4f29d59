"""When a dead role starts again, as a pure rule.

Does not start anything and does not look at a clock: both come from the caller.
"""

from collections import deque
from dataclasses import dataclass

from interlock.foundation.supervisor.config import SupervisorConfig


@dataclass(frozen=True, slots=True)
class Restart:
    """Start again after `delay_s`; a role that `is_failed` is named to operators until it stays up."""

    delay_s: float
    is_failed: bool


class RestartRule:
    """The record of one process: 0.1 s doubling to 5 s, and `failed` after six deaths within a minute."""

    def __init__(self, config: SupervisorConfig) -> None:
        self._config = config
        self._deaths: deque[float] = deque(maxlen=config.deaths_max)
        self._streak = 0
        self._is_failed = False

    def died(self, now_s: float, up_s: float) -> Restart:
        """Return what to do after a death at `now_s` (monotonic) that ended `up_s` of service."""
        config = self._config
        if up_s >= config.healthy_after_s:
            self._streak, self._is_failed = 0, False
            self._deaths.clear()
        self._deaths.append(now_s)
        self._streak += 1
        recent = sum(1 for at_s in self._deaths if now_s - at_s <= config.deaths_window_s)
        self._is_failed = self._is_failed or recent >= config.deaths_max
        if self._is_failed:
            return Restart(config.failed_retry_s, is_failed=True)
        doublings = min(self._streak - 1, 32)
        return Restart(min(config.backoff_max_s, config.backoff_first_s * 2**doublings), is_failed=False)
