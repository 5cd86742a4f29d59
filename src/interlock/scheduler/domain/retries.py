"""Who was told to come back when: a repeat before its time is refused at once, and each is given a time of its own.

Plans nothing; the times come from the plan of the order.
"""

import heapq
import math
import zlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from interlock.scheduler.domain.plan import Kept, Plan, order_key
from interlock.scheduler.domain.refusals import RETRY_S_MAX, RETRY_S_MIN
from interlock.scheduler.domain.share import Path, Standing

KEPT_MAX: Final = 20_000
DEMAND_TAU_S: Final = 10.0
_JITTER_SHARE: Final = 0.1
_GRACE_US: Final = 2_000_000
_HONOURED_WEIGHT: Final = 0.05
_MICRO: Final = 1_000_000
_MILLI: Final = 1_000


@dataclass(frozen=True, slots=True)
class KeptPlace:
    """What a caller who comes back will need: `prefill` tokens read within `ttft_us`. Tier 1 is over its share."""

    path: Path
    ttft_us: int
    prefill: int
    tier: int


@dataclass(frozen=True, slots=True)
class Telling:
    """A refusal: how late the plan saw its first token, and how long reading its prompt takes."""

    request_id: str
    code: str
    predicted_ttft_ms: int | None
    late_us: int
    service_us: int
    place: KeptPlace
    predicted_tpot_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a refused request was told, and the key of the place that is kept for it."""

    code: str
    retry_at_us: int
    predicted_ttft_ms: int | None
    key: int
    path: Path = ()
    standing: Standing | None = None
    fits: tuple[str, ...] = ()
    predicted_tpot_ms: int | None = None


class RetryBook:
    """The refusals of a pool that may come back.

    The same drained queue must not be promised to all who were refused in one moment: each time told is one service
    after the last one, as far as those who were told are seen to come back at all. What was told is a place in the
    plan, which newcomers do not take; those of a tenant over its share hold back only who is over its own, too.
    """

    def __init__(self) -> None:
        self._told: OrderedDict[str, Told] = OrderedDict()
        self._due: list[tuple[int, str, int]] = []
        self._places = Plan()
        self._horizons_us = [0, 0]
        self._honoured = 1.0
        self._keys = 0
        # What those who came back when they were told had to wait on, until they are granted.
        self._waited_on_us: OrderedDict[str, int] = OrderedDict()
        # The places of tenants inside their share, until a tenant is not any more.
        self._inside: dict[Path, set[int]] = {}

    def is_known(self, request_id: str) -> bool:
        """Tell whether a request was refused before under this id."""
        return request_id in self._told

    def kept(self, now_us: int) -> Kept | None:
        """Return the places of those who are to come back; None where there are none."""
        self._judge(now_us)
        return Kept(self._places, round(self._honoured * 100)) if len(self._places) else None

    def early(self, now_us: int, request_id: str) -> Told | None:
        """Return what a request was told that comes before its time."""
        told = self._told.get(request_id)
        if told is None:
            return None
        if now_us < told.retry_at_us:
            return told
        if now_us <= told.retry_at_us + _GRACE_US:
            self._note_honoured(1.0)
        self._drop(told)
        return None

    def tell(self, now_us: int, telling: Telling) -> float:
        """Return the seconds after which a request would be admitted: what it is late by, behind those told before."""
        self._judge(now_us)
        place, request_id = telling.place, telling.request_id
        behind_us = max(0, self._horizons_us[place.tier] - now_us)
        turn_us = behind_us + round(telling.service_us * self._honoured) if behind_us else 0
        wait_us = max(round(RETRY_S_MIN * _MICRO), telling.late_us, turn_us)
        # Whole milliseconds, upwards: one microsecond too early is refused once more. The jitter is of the step that
        # this one adds, so that it does not push those who are told next into each other.
        jitter = zlib.crc32(request_id.encode()) / 0xFFFFFFFF * _JITTER_SHARE
        wait_us += round((wait_us - min(behind_us, wait_us)) * jitter)
        wait_us = min(-(-wait_us // _MILLI) * _MILLI, round(RETRY_S_MAX * _MICRO))
        due_us = now_us + wait_us
        # Whoever is told again came back in time, and in vain.
        before_us = self._waited_on_us.pop(request_id, 0)
        self._waited_on_us[request_id] = before_us + wait_us if self.is_known(request_id) else 0
        if len(self._waited_on_us) > KEPT_MAX:
            self._waited_on_us.popitem(last=False)
        self._horizons_us[place.tier] = max(self._horizons_us[place.tier], due_us)
        told = Told(telling.code, due_us, telling.predicted_ttft_ms, self._keys, place.path)
        self._keep(request_id, replace(told, predicted_tpot_ms=telling.predicted_tpot_ms), place)
        return round(wait_us / _MICRO, 3)

    def note(self, request_id: str, standing: Standing | None, fits: tuple[str, ...]) -> None:
        """Note what else a request was told: a repeat before its time hears the same, and nothing is planned for it."""
        told = self._told.get(request_id)
        if told is not None:
            self._told[request_id] = replace(told, standing=standing, fits=fits)

    def demote(self, path: Path) -> None:
        """Note that a tenant is over its share: what it was told while a burst looked modest holds back no others."""
        for key in sorted(self._inside.pop(path, ())):
            if self._places.holds(key):
                self._places.raise_tier(key, 1)

    def forget(self, request_id: str) -> None:
        """Note that a request was admitted."""
        told = self._told.pop(request_id, None)
        if told is not None:
            self._drop(told)

    def granted(self, request_id: str, queued_us: int) -> int | None:
        """Return by how much the first time told was too early, the caller's own delay left out; None if none was."""
        before_us = self._waited_on_us.pop(request_id, None)
        return None if before_us is None else before_us + queued_us

    def _keep(self, request_id: str, told: Told, place: KeptPlace) -> None:
        before = self._told.pop(request_id, None)
        if before is not None:
            self._drop(before)
        self._keys += 1
        self._told[request_id] = told
        heapq.heappush(self._due, (told.retry_at_us, request_id, told.key))
        deadline_us = told.retry_at_us + place.ttft_us
        row = (told.key, deadline_us, place.prefill, 0)
        self._places.insert(order_key(place.tier, deadline_us), row, is_provisional=False)
        if place.tier == 0:
            self._inside.setdefault(place.path, set()).add(told.key)
        if len(self._told) > KEPT_MAX:
            self._drop(self._told.popitem(last=False)[1])

    def _drop(self, told: Told) -> None:
        inside = self._inside.get(told.path)
        if inside is not None:
            inside.discard(told.key)
            if not inside:
                del self._inside[told.path]
        if self._places.holds(told.key):
            self._places.remove(self._places.place_of(told.key))

    def _judge(self, now_us: int) -> None:
        """Count who did not come back in time, and keep their places no longer."""
        while self._due and self._due[0][0] + _GRACE_US < now_us:
            _, request_id, key = heapq.heappop(self._due)
            told = self._told.get(request_id)
            if told is not None and told.key == key and self._places.holds(key):
                self._note_honoured(0.0)
                self._drop(told)

    def _note_honoured(self, share: float) -> None:
        self._honoured += _HONOURED_WEIGHT * (share - self._honoured)


def share_wait_us(excess: float) -> int:
    """Return how long the demand of a tenant takes to decay to its share."""
    return round(DEMAND_TAU_S * math.log(excess) * _MICRO) if excess > 1 else 0
