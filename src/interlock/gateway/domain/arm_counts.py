"""What one edge process sees of the arms of routes, second by second, until it is shipped.

Knows no store. Every count is bounded: units remembered a route, bad units a second, seconds that wait.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from interlock.gateway.domain.arms import SHADOW

BAD_UNITS_MAX: Final = 4_096
ERRORS: Final = "errors"
SLOW: Final = "slow"
METRICS: Final = (ERRORS, SLOW)


@dataclass(frozen=True, slots=True)
class Counted:
    """A finished request of an arm. `bad` holds the metrics by which it was bad; `rose_us` dates the weight.

    A copy of arm `shadow` belongs to no unit.
    """

    organization_id: UUID
    alias: str
    version: int
    arm: str
    unit: bytes
    weight_bp: int
    rose_us: int
    bad: tuple[str, ...] = ()


@dataclass(slots=True)
class Bad:
    """Bad requests of one metric in one second, and the units they belong to."""

    requests: int = 0
    units: set[bytes] = field(default_factory=set)


# Organization, alias, second, version, arm and the arm's own share in hundredths of a percent: the second in which a
# weight changes is two, or what came by the old one would be taken for the new one's.
Place = tuple[UUID, str, int, int, str, int]


@dataclass(slots=True)
class ArmCount:
    """One arm in one second, by one weight."""

    units: int = 0
    requests: int = 0
    bad: dict[str, Bad] = field(default_factory=lambda: {name: Bad() for name in METRICS})


@dataclass(slots=True)
class _Seen:
    rose_us: int
    units: set[bytes] = field(default_factory=set)


class ArmBook:
    """Counts, by place."""

    def __init__(self, units_max: int, seconds_max: int) -> None:
        self._units_max = units_max
        self._seconds_max = seconds_max
        self._counts: dict[Place, ArmCount] = {}
        self._seen: dict[tuple[UUID, str], _Seen] = {}
        self.dropped = 0

    def note(self, counted: Counted, second: int) -> None:
        """Count a request in the second in which it ended."""
        where = (counted.organization_id, counted.alias, second)
        place = (*where, counted.version, counted.arm, counted.weight_bp)
        count = self._counts.get(place)
        if count is None:
            if len(self._counts) >= self._seconds_max:
                # The oldest goes: what a monitor has waited for longest helps it least.
                del self._counts[next(iter(self._counts))]
                self.dropped += 1
            count = self._counts[place] = ArmCount()
        count.requests += 1
        if counted.arm != SHADOW:
            count.units += self._is_new(counted)
        for name in counted.bad:
            bad = count.bad[name]
            bad.requests += 1
            if counted.arm != SHADOW and len(bad.units) < BAD_UNITS_MAX:
                bad.units.add(counted.unit)

    def take(self, before_second: int) -> dict[Place, ArmCount]:
        """Return what is complete, and forget it."""
        ready = {place: count for place, count in self._counts.items() if place[2] < before_second}
        for place in ready:
            del self._counts[place]
        return ready

    def give_back(self, counts: dict[Place, ArmCount]) -> None:
        """Keep what could not be shipped, as far as there is room; the newest goes first then."""
        room = max(0, self._seconds_max - len(self._counts))
        kept = dict(list(counts.items())[-room:]) if room else {}
        self.dropped += len(counts) - len(kept)
        self._counts = {**kept, **self._counts}

    def forget_units(self, live: set[tuple[UUID, str]]) -> None:
        """Forget the units of routes on which nothing is tried any more."""
        for place in [each for each in self._seen if each not in live]:
            del self._seen[place]

    def statistics(self) -> dict[str, int]:
        """Return what waits, what is remembered and what was lost."""
        remembered = sum(len(each.units) for each in self._seen.values())
        return {"waiting": len(self._counts), "units": remembered, "dropped": self.dropped}

    def __iter__(self) -> Iterator[Place]:
        return iter(self._counts)

    def _is_new(self, counted: Counted) -> bool:
        place = (counted.organization_id, counted.alias)
        seen = self._seen.get(place)
        if seen is None or counted.rose_us > seen.rose_us:
            seen = self._seen[place] = _Seen(counted.rose_us)
        # A request that was placed before the weight rose says nothing about who came since.
        is_late = counted.rose_us < seen.rose_us
        if is_late or counted.unit in seen.units or len(seen.units) >= self._units_max:
            return False
        seen.units.add(counted.unit)
        return True
