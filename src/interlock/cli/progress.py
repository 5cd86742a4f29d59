"""How far something long is, on standard error: a line that is written over on a terminal, else one now and then."""

from typing import Final, TextIO

from interlock.foundation.clock import Clock

_TERMINAL_S: Final = 0.2
_LINES_S: Final = 10.0


class Progress:
    """Hears how far a simulation is. What is done before the first line is due says nothing."""

    def __init__(self, clock: Clock, stream: TextIO) -> None:
        self._clock = clock
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._interval_s = _TERMINAL_S if self._is_terminal else _LINES_S
        self._told_s = clock.monotonic()
        self._width = 0

    def __call__(self, replicas: int, come: int, total: int) -> None:
        """Say it where it is time to."""
        if self._clock.monotonic() - self._told_s < self._interval_s:
            return
        self._told_s = self._clock.monotonic()
        told = f"{replicas} replicas: {come:,} of {total:,} requests simulated"
        if not self._is_terminal:
            print(told, file=self._stream, flush=True)
            return
        print(f"\r{told:<{self._width}}", end="", file=self._stream, flush=True)
        self._width = len(told)

    def clear(self) -> None:
        """Leave the terminal as it was."""
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=self._stream, flush=True)
