"""Places for copies of requests: a bounded number, of which no organization holds more than its share.

Starts no copy and reads no clock; moments are seconds of the caller's monotonic clock.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Final

# Whoever asked so long ago still counts among those who share, so that places come free for it.
REMEMBERED_S: Final = 10.0
_ASKERS_MAX: Final = 1_024


class CopyPlaces:
    """At most `places` are taken; an organization has its equal share of them, and never less than one."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken: Counter[Hashable] = Counter()
        self._asked: dict[Hashable, float] = {}

    def take(self, owner: Hashable, now: float) -> bool:
        """Take a place, if there is one for this organization."""
        self._remember(owner, now)
        if self.taken >= self._places or self._taken[owner] >= self.share():
            return False
        self._taken[owner] += 1
        return True

    def give(self, owner: Hashable) -> None:
        """Give a place back."""
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]

    def share(self) -> int:
        """Return how many places one organization may hold now."""
        return max(1, self._places // max(1, len(self._asked.keys() | self._taken.keys())))

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken.total()

    def _remember(self, owner: Hashable, now: float) -> None:
        self._asked.pop(owner, None)
        self._asked[owner] = now
        # The oldest come first, as whoever asks again goes to the end.
        while (oldest := next(iter(self._asked))) != owner and (
            self._asked[oldest] <= now - REMEMBERED_S or len(self._asked) > _ASKERS_MAX
        ):
            del self._asked[oldest]
