"""How much a process does for callers that it does not know: a plain bucket a second.

Keeps no addresses; the count of failed keys by address is in `service/admit.py`.
"""


class RateMeter:
    """At most `per_second` events a second, with one second's worth at once."""

    __slots__ = ("_at", "_level", "_per_second", "refused")

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._level = float(per_second)
        self._at = 0.0
        self.refused = 0

    def take(self, now: float) -> bool:
        """Return whether one more event fits at `now`, in monotonic seconds."""
        self._level = min(self._per_second, self._level + max(0.0, now - self._at) * self._per_second)
        self._at = now
        if self._level < 1:
            self.refused += 1
            return False
        self._level -= 1
        return True
