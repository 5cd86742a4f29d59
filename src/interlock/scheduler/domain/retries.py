"""Who was told to come back when: a repeat before its time is refused at once, and each is given a time of its own.

Plans nothing; the times come from the plan of the order.
"""

import math
import zlib
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from interlock.scheduler.domain.refusals import RETRY_S_MAX, RETRY_S_MIN

KEPT_MAX: Final = 20_000
DEMAND_TAU_S: Final = 10.0
_JITTER_SHARE: Final = 0.1
_GRACE_US: Final = 2_000_000
_HONOURED_WEIGHT: Final = 0.05
_MICRO: Final = 1_000_000
_MILLI: Final = 1_000


@dataclass(frozen=True, slots=True)
class Told:
    """What a refused request was told."""

    code: str
    retry_at_us: int
    predicted_ttft_ms: int | None


class RetryBook:
    """The refusals of a pool that may come back.

    The same drained queue must not be promised to all who were refused in one moment: each time told is one service
    after the last one, as far as those who were told are seen to come back at all.
    """

    def __init__(self) -> None:
        self._told: OrderedDict[str, Told] = OrderedDict()
        self._due: deque[tuple[int, str]] = deque()
        self._horizon_us = 0
        self._honoured = 1.0

    def is_known(self, request_id: str) -> bool:
        """Tell whether a request was refused before under this id."""
        return request_id in self._told

    def early(self, now_us: int, request_id: str) -> Told | None:
        """Return what a request was told that comes before its time."""
        told = self._told.get(request_id)
        if told is None:
            return None
        if now_us < told.retry_at_us:
            return told
        if now_us <= told.retry_at_us + _GRACE_US:
            self._note_honoured(1.0)
        return None

    def tell(self, now_us: int, request_id: str, told: tuple[str, int | None], late_us: int, service_us: int) -> float:
        """Return the seconds after which a request would be admitted: what it is late by, behind those told before."""
        self._judge(now_us)
        behind_us = max(0, self._horizon_us - now_us)
        turn_us = behind_us + round(service_us * self._honoured) if behind_us else 0
        wait_us = max(round(RETRY_S_MIN * _MICRO), late_us, turn_us)
        # Whole milliseconds, upwards: one microsecond too early is refused once more. The jitter is of the step that
        # this one adds, so that it does not push those who are told next into each other.
        jitter = zlib.crc32(request_id.encode()) / 0xFFFFFFFF * _JITTER_SHARE
        wait_us += round((wait_us - min(behind_us, wait_us)) * jitter)
        wait_us = min(-(-wait_us // _MILLI) * _MILLI, round(RETRY_S_MAX * _MICRO))
        self._horizon_us = max(self._horizon_us, now_us + wait_us)
        self._due.append((now_us + wait_us, request_id))
        self._told[request_id] = Told(told[0], now_us + wait_us, told[1])
        self._told.move_to_end(request_id)
        if len(self._told) > KEPT_MAX:
            self._told.popitem(last=False)
        return round(wait_us / _MICRO, 3)

    def _judge(self, now_us: int) -> None:
        """Count who did not come back in time."""
        while self._due and self._due[0][0] + _GRACE_US < now_us:
            due_us, request_id = self._due.popleft()
            told = self._told.get(request_id)
            if told is not None and told.retry_at_us == due_us:
                self._note_honoured(0.0)

    def _note_honoured(self, share: float) -> None:
        self._honoured += _HONOURED_WEIGHT * (share - self._honoured)

    def forget(self, request_id: str) -> None:
        """Note that a request was admitted."""
        self._told.pop(request_id, None)


def share_wait_us(excess: float) -> int:
    """Return how long the demand of a tenant takes to decay to its share."""
    return round(DEMAND_TAU_S * math.log(excess) * _MICRO) if excess > 1 else 0
