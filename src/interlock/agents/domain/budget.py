"""Budgets of a task: what is left, and how much of it one model call may take.

Knows no prices: money is settled by what the gateway says that a call cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

OUTPUT_TOKENS_MIN: Final = 256
_CHARS_A_TOKEN: Final = 3


@dataclass(frozen=True, slots=True)
class Measure:
    """One quantity of a budget."""

    limit: int
    used: int
    reserved: int = 0

    @property
    def left(self) -> int:
        """What may still be taken."""
        return max(0, self.limit - self.used - self.reserved)


@dataclass(frozen=True, slots=True)
class Budget:
    """All quantities; time of tools in milliseconds."""

    tokens: Measure
    usd_micros: Measure
    steps: Measure
    tool_ms: Measure


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one model call may take: `tokens` in all, `output_tokens` of them for the answer."""

    tokens: int
    output_tokens: int


def estimated_tokens(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> int:
    """Estimate the input of a call from its characters, on the high side."""
    return (len(str(messages)) + len(str(tools))) // _CHARS_A_TOKEN + 1


def reserve(budget: Budget, input_tokens: int, output_tokens_max: int) -> Reservation | None:
    """Return what a call may take, its answer shortened where little is left; None where it is too little."""
    room = budget.tokens.left - input_tokens
    output = min(output_tokens_max, room)
    if output < OUTPUT_TOKENS_MIN or budget.usd_micros.left <= 0:
        return None
    return Reservation(input_tokens + output, output)
