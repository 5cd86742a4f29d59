"""The places of one edge: who gets one at once, who waits for one, and who is told how long that would take.

Reads no clock and wakes nobody; moments are seconds of the caller's monotonic clock.
"""

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interlock.foundation import native

# Whoever shares the places; an edge names organizations by the numbers of their ids, which are hashed faster.
Owner = Hashable
# This share of all places is for those that hold less than their own share; all others wait in line for the rest.
KEPT_SHARE: Final = 0.05
SHARE_MIN: Final = 0.1
_RATE_S: Final = 5.0
_RETRY_S_MIN: Final = 0.1
_RETRY_S_MAX: Final = 30.0
_JITTER: Final = 0.2
_compiled: Final = native.load("interlock.gateway.domain._native_rules")


@dataclass(eq=False, slots=True)
class Waiter:
    """A request in the queue. `verdict` is None while it waits; then it has a place, or was displaced by others."""

    organization_id: Owner
    verdict: bool | None = None


@dataclass(frozen=True, slots=True)
class Crowded:
    """No place: the rule that decided, and when one may be free."""

    code: str
    rule: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class SeatStatistics:
    """Places taken, requests that wait, organizations that have either, and places freed a second."""

    taken: int
    waiting: int
    organizations: int
    freed_per_s: float


class Rate:
    """Events a second over about 5 s: each counts 1/5 and fades; the first seconds are corrected for."""

    __slots__ = ("_at", "_began", "_value")

    def __init__(self, now: float) -> None:
        self._value = 0.0
        self._at = self._began = now

    def note(self, now: float) -> None:
        """Count one."""
        self._value = self._faded(now) + 1 / _RATE_S
        self._at = now

    def per_s(self, now: float) -> float:
        """Return the rate as it stands; infinite while there is nothing to judge by."""
        seen = 1 - math.exp(-(now - self._began) / _RATE_S)
        return self._faded(now) / seen if seen > 0.1 else math.inf

    def _faded(self, now: float) -> float:
        return self._value * math.exp(-(now - self._at) / _RATE_S)


class _Sitting:
    """Who has a place: `Seats` without its line."""

    taken: int
    _places: int
    _kept: int
    _taken: dict[Owner, int]
    _present: dict[Owner, int]
    _queue: deque[Waiter]
    _freed: Rate
    _is_crowded: bool

    def sit(self, organization_id: Owner, now: float) -> bool:
        """Take a place if one is free for an organization; tells whether it did."""
        if self._places - self.taken <= self._kept:
            return self._sit_inside(organization_id, now)
        self._take(organization_id, now)
        return True

    def leave(self, organization_id: Owner, now: float) -> None:
        """Give a place back to whoever is next."""
        self._freed.note(now)
        _lower(self._taken, organization_id)
        _lower(self._present, organization_id)
        self.taken -= 1
        if self._queue:
            self._seat_next(now)
        if self.taken < self._places / 2:
            self._is_crowded = False

    def _take(self, organization_id: Owner, now: float) -> None:
        _raise(self._taken, organization_id)
        _raise(self._present, organization_id)
        self.taken += 1
        if self.taken >= self._places - self._kept and not self._is_crowded:
            # How fast places come free is seen only while all are wanted; a quiet hour says nothing of it.
            self._is_crowded = True
            self._freed = Rate(now)

    def _sit_inside(self, organization_id: Owner, now: float) -> bool:
        """Give one of the last places, by shares that only `Seats` knows."""
        del organization_id, now
        return False

    def _seat_next(self, now: float) -> None:
        """Give free places to those in line, of whom only `Seats` knows."""


if not TYPE_CHECKING and _compiled is not None:
    Rate = _compiled.Rate
    _Sitting = _compiled.Sitting


class Seats(_Sitting):
    """`taken` never passes `places`, the queue never `queue_max`; whoever is inside its share is first in line.

    Nobody waits or is refused while more places are free than are kept: `KEPT_SHARE`, rounded down.
    """

    def __init__(self, places: int, queue_max: int, wait_s_max: float, now: float) -> None:
        self._places = places
        self._kept = int(KEPT_SHARE * places)
        self._queue_max = queue_max
        self._wait_s_max = wait_s_max
        self._taken: dict[Owner, int] = {}
        self._in_line: dict[Owner, int] = {}
        self._present: dict[Owner, int] = {}
        self._queue: deque[Waiter] = deque()
        self._freed = Rate(now)
        self._is_crowded = False
        self.taken = 0

    def enter(self, organization_id: Owner, left_s: float, now: float, dice: float) -> Waiter | Crowded | None:
        """Take a place, which is None, or a place in the queue, or be told why neither. `dice` is from 0 to 1."""
        if self.sit(organization_id, now):
            return None
        wait_s = self._wait_s(organization_id, now)
        if wait_s > min(self._wait_s_max, left_s):
            return self._refused("edge.predicted_wait", wait_s, dice)
        if len(self._queue) >= self._queue_max and not self._displace(organization_id):
            return self._refused("edge.queue_max", wait_s, dice)
        waiter = Waiter(organization_id)
        self._queue.append(waiter)
        _raise(self._in_line, organization_id)
        _raise(self._present, organization_id)
        return waiter

    def give_up(self, waiter: Waiter) -> None:
        """Leave the queue; whoever has had a verdict is not in it any more."""
        if waiter.verdict is None:
            self._queue.remove(waiter)
            _lower(self._in_line, waiter.organization_id)
            _lower(self._present, waiter.organization_id)

    def too_late(self, organization_id: Owner, now: float, dice: float) -> Crowded:
        """Return what somebody is told who has waited as long as anybody may."""
        return self._crowded("overloaded", "edge.queue_s", self._wait_s(organization_id, now), dice)

    def displaced(self, organization_id: Owner, now: float, dice: float) -> Crowded:
        """Return what somebody is told who gave way to an organization inside its share."""
        return self._crowded("displaced", "edge.fair_share", self._wait_s(organization_id, now), dice)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def statistics(self, now: float) -> SeatStatistics:
        """Return what is taken and who waits."""
        rate = self._freed.per_s(now)
        return SeatStatistics(self.taken, len(self._queue), len(self._present), 0.0 if math.isinf(rate) else rate)

    def _sit_inside(self, organization_id: Owner, now: float) -> bool:
        """Take one of the last places, which are for those inside their share."""
        if self._places <= self.taken or not self._is_inside(organization_id):
            return False
        self._take(organization_id, now)
        return True

    def _is_inside(self, organization_id: Owner) -> bool:
        """Tell whether one place more is inside the share of an organization."""
        return self._taken.get(organization_id, 0) < max(1, self._share(organization_id) * self._places)

    def _share(self, organization_id: Owner) -> float:
        is_new = organization_id not in self._present
        return max(SHARE_MIN, 1 / (len(self._present) + is_new))

    def _wait_s(self, organization_id: Owner, now: float) -> float:
        """Return how long the line before a newcomer is: those that are inside their share, as it is, and its own."""
        ahead = len(self._queue)
        if self._is_inside(organization_id):
            waiting = self._in_line.items()
            ahead = sum(count for each, count in waiting if each == organization_id or self._is_inside(each))
        rate = self._freed.per_s(now)
        return (ahead + 1) / rate if rate > 0 else math.inf

    def _displace(self, organization_id: Owner) -> bool:
        """Make room for an organization inside its share of the line: the last of a longer line gives way."""
        longest, count = max(self._in_line.items(), key=lambda each: each[1])
        if count <= max(self._share(organization_id) * self._queue_max, self._in_line.get(organization_id, 0) + 1):
            return False
        last = next(each for each in reversed(self._queue) if each.organization_id == longest)
        self.give_up(last)
        last.verdict = False
        return True

    def _seat_next(self, now: float) -> None:
        """Give free places to those in line, in order, first inside their share; what is kept to nobody else."""
        while self._queue and self.taken < self._places:
            inside = {each for each in self._in_line if self._is_inside(each)}
            if not inside and self._places - self.taken <= self._kept:
                return
            found = next(each for each in self._queue if not inside or each.organization_id in inside)
            self.give_up(found)
            found.verdict = True
            self._take(found.organization_id, now)

    def _refused(self, rule: str, wait_s: float, dice: float) -> Crowded:
        """Return the refusal of one that may not wait; while places are kept for others, that is what it is told."""
        if self.taken < self._places:
            return self._crowded("fair_share_exceeded", "edge.fair_share", wait_s, dice)
        return self._crowded("overloaded", rule, wait_s, dice)

    @staticmethod
    def _crowded(code: str, rule: str, wait_s: float, dice: float) -> Crowded:
        after_s = min(_RETRY_S_MAX, max(_RETRY_S_MIN, wait_s)) * (1 + _JITTER * dice)
        return Crowded(code, rule, after_s)


def _raise(counts: dict[Owner, int], organization_id: Owner) -> None:
    counts[organization_id] = counts.get(organization_id, 0) + 1


def _lower(counts: dict[Owner, int], organization_id: Owner) -> None:
    left = counts[organization_id] - 1
    if left:
        counts[organization_id] = left
    else:
        del counts[organization_id]
