"""The lines of a decision log, whichever host wrote it: one call, what it was given, what it came to.

Decides nothing again; `decisions.py` does for a live pool, `order_log.py` for the simulator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

Sink = Callable[[bytes], None]


class Line(msgspec.Struct):
    """One recorded call: `args` as they were given after the time, `result` as bytes to compare."""

    call: str
    at_us: int
    args: msgspec.Raw
    result: msgspec.Raw


class LogInvalidError(ValueError):
    """The file is not a decision log; the message says where."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first line that the core decides otherwise today."""

    line: int
    call: str
    recorded: str
    decided: str
