"""Token buckets, one an organization, in this process's memory.

Not the limits of model calls: those are the gateway's and hold over all processes.
"""

from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from interlock.foundation.clock import Clock


@dataclass(slots=True)
class _Bucket:
    level: float
    at_s: float


class Rate:
    """`per_s` calls a second with a burst of the same size. A refusal takes nothing."""

    def __init__(self, clock: Clock, per_s: int, remembered_max: int) -> None:
        self._clock = clock
        self._per_s = per_s
        self._remembered_max = remembered_max
        self._buckets: OrderedDict[UUID, _Bucket] = OrderedDict()
        self._refused = 0

    def take(self, organization_id: UUID) -> float:
        """Take one; return 0, or the seconds after which one is free."""
        now_s = self._clock.monotonic()
        bucket = self._buckets.get(organization_id)
        if bucket is None:
            bucket = self._buckets[organization_id] = _Bucket(self._per_s, now_s)
            if len(self._buckets) > self._remembered_max:
                self._buckets.popitem(last=False)
        bucket.level = min(self._per_s, bucket.level + (now_s - bucket.at_s) * self._per_s)
        bucket.at_s = now_s
        self._buckets.move_to_end(organization_id)
        if bucket.level >= 1:
            bucket.level -= 1
            return 0.0
        self._refused += 1
        return (1 - bucket.level) / self._per_s

    def statistics(self) -> dict[str, int]:
        """Return the organizations remembered and the calls refused since the start."""
        return {"organizations": len(self._buckets), "refused": self._refused}
