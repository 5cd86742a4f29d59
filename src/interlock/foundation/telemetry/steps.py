"""The steps of one request, as they are written down while it runs.

Decides nothing, and writes nothing to disk.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from interlock.foundation.native import load
from interlock.foundation.telemetry.names import STEP_NUMBER
from interlock.foundation.telemetry.records import ToldDecision


class StepsInPython:
    """A list of decisions with their moments, by the clock `_monotonic` and since `_received` on it, in seconds.

    A base: whoever is told of sets the three.
    """

    __slots__ = ("_monotonic", "_received", "decisions")

    _monotonic: Callable[[], float]
    _received: float
    decisions: list[ToldDecision]

    def decide(self, step: str, rule: str, verdict: str, detail: str = "") -> None:
        """Write down one step."""
        at_us = int((self._monotonic() - self._received) * 1e6)
        self.decisions.append((at_us, STEP_NUMBER.get(step, step), rule, verdict, detail))


_kernel = load("interlock.foundation.telemetry._native_story")
if TYPE_CHECKING:
    Steps = StepsInPython
else:
    Steps = StepsInPython if _kernel is None else _kernel.Steps
