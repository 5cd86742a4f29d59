"""What an engine was seen to do: exponentially weighted means of its first-token and per-token times.

Predicts nothing before the first observation: an unknown figure is None, never 0.
"""

from typing import Final

_ALPHA: Final = 0.2


class Mean:
    """An exponentially weighted mean that starts at its first sample."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: float | None = None

    def add(self, sample: float) -> None:
        """Weigh one sample in."""
        self._value = sample if self._value is None else self._value + _ALPHA * (sample - self._value)

    @property
    def value(self) -> float | None:
        """The mean so far."""
        return self._value

    @property
    def rounded(self) -> int | None:
        """The mean as a whole number."""
        return None if self._value is None else round(self._value)
