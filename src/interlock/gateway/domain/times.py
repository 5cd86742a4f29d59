"""Times by how long they were: plain numbers on the way of a request, for a histogram to be made of.

Knows no metric's name; `metrics.py` does.
"""

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from interlock.foundation import native

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_compiled: Final = native.load("interlock.gateway.domain._native_scan")

if TYPE_CHECKING or _compiled is None:

    class Times:
        """Counts of times between the bounds, in seconds, and their sum."""

        __slots__ = ("counts", "sum_s")

        def __init__(self) -> None:
            self.counts = [0] * (len(BOUNDS_S) + 1)
            self.sum_s = 0.0

        def observe(self, seconds: float) -> None:
            """Count one."""
            self.counts[bisect_left(BOUNDS_S, seconds)] += 1
            self.sum_s += seconds

else:

    class Times(_compiled.Times):
        """Counts of times between the bounds, in seconds, and their sum."""

        __slots__ = ()

        def __init__(self) -> None:
            super().__init__(BOUNDS_S)
