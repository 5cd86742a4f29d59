"""The circuit of a host: when it is left alone because it fails, and how it is tried again.

Does not count push-backs (429, 503): those name their own time, and a host that answers is not down.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

WINDOW: Final = 20
STREAK_MAX: Final = 5
JUDGED_MIN: Final = 10
OPENINGS_MAX: Final = 10
OPEN_S: Final = 60.0
OPEN_S_MAX: Final = 86_400.0
_MASK: Final = (1 << WINDOW) - 1


class CircuitState(StrEnum):
    """`half_open` lets exactly one request through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Circuit:
    """`bits` holds the last outcomes, newest lowest, 1 for a fault; `openings` counts those since the last success."""

    state: CircuitState = CircuitState.CLOSED
    streak: int = 0
    bits: int = 0
    size: int = 0
    openings: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether it opened so often without a success that nobody waits for the host any more."""
        return self.openings >= OPENINGS_MAX

    @property
    def open_s(self) -> float:
        """For how long the newest opening lasts."""
        return min(OPEN_S_MAX, OPEN_S * float(1 << max(0, min(self.openings, WINDOW) - 1)))


def after_success(circuit: Circuit) -> Circuit:
    """Return the circuit after the host answered; a half-open one closes and forgets."""
    if circuit.state is not CircuitState.CLOSED:
        return Circuit(size=1)
    bits, size = (circuit.bits << 1) & _MASK, min(WINDOW, circuit.size + 1)
    return Circuit(CircuitState.CLOSED, 0, bits, size, 0)


def after_fault(circuit: Circuit) -> Circuit:
    """Return the circuit after a fault of the host, open where that was one too many."""
    bits, size = (circuit.bits << 1 | 1) & _MASK, min(WINDOW, circuit.size + 1)
    streak = circuit.streak + 1
    is_many = size >= JUDGED_MIN and 2 * bits.bit_count() >= size
    if circuit.state is CircuitState.CLOSED and streak < STREAK_MAX and not is_many:
        return Circuit(CircuitState.CLOSED, streak, bits, size, circuit.openings)
    return Circuit(CircuitState.OPEN, streak, bits, size, circuit.openings + 1)
