"""One organization's buckets at the machine's broker: what workers hold, what waits to be told, what was last heard.

Asks nobody; the broker flies what is planned here and lands what comes back.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from interlock.gateway.domain.buckets import Bucket, Refill
from interlock.gateway.domain.leasing import Flight, Give, Landed, LeaseMode, Take, Taken, Verdict

ASKS_MAX: Final = 64


@dataclass(slots=True, eq=False)
class Waiter:
    """An ask that waits for its flight, and where its answer goes."""

    worker: UUID
    take: Take
    answer: Taken | None = None
    is_gone: bool = False


@dataclass(slots=True)
class Held:
    """One bucket: the level as it was last read, and what has happened on this machine that the store does not know."""

    bucket: Bucket
    level_micro: int | None = None
    read_us: int = 0
    credit: int = 0
    back: int = 0
    asked: int = 0
    out: dict[UUID, int] = field(default_factory=dict)
    share_micro: int = 0
    share_us: int = 0

    @property
    def held(self) -> int:
        """What the workers hold and have not used, or the slots that they hold."""
        return sum(self.out.values())

    def level(self, now_us: int) -> int | None:
        """Return the level that one machine alone may assume: what it last read, and what it did since."""
        if self.level_micro is None:
            return None
        level = self.bucket.level_at(self.level_micro, self.read_us, now_us)
        if self.bucket.is_slots:
            return self.bucket.burst_micro - self.held - self.asked
        return min(self.bucket.burst_micro - self.held, level + self.credit + self.back - self.asked)

    def share(self, machines: int, away_us: int, now_us: int) -> int | None:
        """Return what is left of one machine's part of the rate since the store went away; it starts empty."""
        bucket = self.bucket
        if bucket.is_slots:
            return bucket.burst_micro // machines - self.held
        if self.share_us < away_us:
            self.share_micro, self.share_us = self._first_share(machines), away_us
        if bucket.refill is Refill.MINUTE:
            gained = (now_us - self.share_us) * bucket.rate_micro // (machines * 60_000_000)
            self.share_micro = min(bucket.burst_micro // machines, self.share_micro + gained)
            self.share_us = max(self.share_us, now_us)
        return None if self.level_micro is None and bucket.refill is not Refill.MINUTE else self.share_micro

    def _first_share(self, machines: int) -> int:
        if self.bucket.refill is Refill.MINUTE:
            return 0
        return max(0, self.level_micro or 0) // machines


class Desk:
    """The buckets of one organization and who waits for them."""

    __slots__ = ("_aboard", "_fence", "buckets", "due", "is_flying", "lost", "organization_id", "queue")

    def __init__(self, organization_id: UUID, first_fence: int) -> None:
        self.organization_id = organization_id
        self.buckets: dict[UUID, Held] = {}
        self.queue: deque[Waiter] = deque()
        self.due: set[UUID] = set()
        self.lost: Flight | None = None
        self.is_flying = False
        self._aboard: list[Waiter] = []
        self._fence = first_fence

    @property
    def has_work(self) -> bool:
        """Whether the store has to be asked or told something."""
        return bool(self.queue or self.due or self.lost)

    def held(self, bucket: Bucket) -> Held:
        """Return the entry of a bucket, which knows its newest version."""
        entry = self.buckets.get(bucket.id)
        if entry is None:
            entry = self.buckets[bucket.id] = Held(bucket)
        elif bucket.version > entry.bucket.version:
            entry.bucket = bucket
        return entry

    def give(self, worker: UUID, gives: Sequence[Give]) -> None:
        """Note what a worker reports."""
        for each in gives:
            entry = self.held(each.bucket)
            if each.bucket.is_slots:
                _lower(entry.out, worker, each.back)
            else:
                entry.credit += each.credit
                entry.back += min(each.back, entry.out.get(worker, 0))
                _lower(entry.out, worker, each.back + each.spent)
            if each.credit or each.back:
                self.due.add(each.bucket.id)

    def lose(self, worker: UUID) -> bool:
        """Forget a dead worker: its slots are free, its leases stay spent. Return whether it held anything."""
        found = False
        for entry in self.buckets.values():
            if entry.out.pop(worker, 0):
                self.due.add(entry.bucket.id)
                found = True
        return found

    def renew_slots(self) -> None:
        """Have the leases of slots that are held renewed."""
        self.due.update(each.bucket.id for each in self.buckets.values() if each.bucket.is_slots and each.out)

    def plan(self, owner: UUID) -> tuple[Flight, list[Waiter]]:
        """Return the next flight and who waits for it. One that was lost goes first, as what it settles must count."""
        if self.lost is not None:
            return self.lost, []
        waiters = [self.queue.popleft() for _ in range(min(len(self.queue), ASKS_MAX))]
        waiters = [each for each in waiters if not each.is_gone]
        named = {bucket.id for each in waiters for bucket in each.take.buckets}
        ids = sorted(named | self.due)
        self.due.clear()
        entries = [self.buckets[each] for each in ids]
        self._fence += 1
        flight = Flight(
            self.organization_id,
            owner,
            self._fence,
            [each.bucket for each in entries],
            [each.credit for each in entries],
            [each.back for each in entries],
            [each.held for each in entries],
            [0] * len(entries),
            [each.take for each in waiters],
        )
        place = {each: at for at, each in enumerate(ids)}
        for waiter in waiters:
            self._ask_more(waiter.take)
            for bucket, lease in zip(waiter.take.buckets, waiter.take.leases, strict=True):
                flight.leases[place[bucket.id]] += lease
        self._aboard = waiters
        return flight, waiters

    def land(self, flight: Flight, landed: Landed, waiters: list[Waiter], now_us: int, workers: int) -> None:
        """Take in an answer: what was told is known, and whoever waited has an answer. A repeat tells no level."""
        self._told(flight)
        if self.lost is flight:
            self.lost = None
            return
        self._unask(waiters)
        left = {}
        for bucket, level, leased in zip(flight.buckets, landed.levels, landed.leased, strict=True):
            entry = self.buckets[bucket.id]
            entry.level_micro, entry.read_us = level, now_us
            left[bucket.id] = leased
        for waiter, shorts in zip(waiters, landed.shorts, strict=True):
            self._answer(waiter, shorts, left, workers)

    def lose_flight(self, flight: Flight, waiters: list[Waiter]) -> None:
        """Note that nobody knows whether a flight was decided: what it settled is told again, under its fence."""
        self._unask(waiters)
        if self.lost is None:
            flight.asks, flight.leases = [], [0] * len(flight.buckets)
            self.lost = flight

    def forsake(self, waiter: Waiter) -> None:
        """Note that nobody waits for an ask any more: whatever its flight takes for it comes back."""
        if not waiter.is_gone:
            waiter.is_gone = True
            if waiter in self._aboard:
                self._ask_less(waiter.take)

    def share(self, waiter: Waiter, now_us: int, away_us: int, machines: int) -> Taken:
        """Decide an ask by what this machine may give without the store, to who came first before who came later."""
        behind = self._aboard[self._aboard.index(waiter) + 1 :] if waiter in self._aboard else []
        behind = [each for each in behind if not each.is_gone]
        for each in behind:
            self._ask_less(each.take)
        taken = self._shared(waiter.worker, waiter.take, now_us, away_us, machines)
        for each in behind:
            self._ask_more(each.take)
        return taken

    def _shared(self, worker: UUID, take: Take, now_us: int, away_us: int, machines: int) -> Taken:
        entries = [self.held(bucket) for bucket in take.buckets]
        levels = [each.level(now_us) if machines == 1 else each.share(machines, away_us, now_us) for each in entries]
        known = [each for each in levels if each is not None]
        if len(known) < len(levels):
            return Taken(Verdict.UNAVAILABLE, LeaseMode.SHARE)
        shorts = [level < need for level, need in zip(known, take.needs, strict=True)]
        verdict = _verdict(shorts, take.enforced)
        if verdict is Verdict.OK:
            for at, (entry, need) in enumerate(zip(entries, take.needs, strict=True)):
                if not shorts[at] and need:
                    self._spend_share(entry, worker, need)
                    known[at] -= need
        return Taken(verdict, LeaseMode.SHARE, known, shorts, [0] * len(levels))

    def _spend_share(self, entry: Held, worker: UUID, need: int) -> None:
        if entry.bucket.is_slots:
            entry.out[worker] = entry.out.get(worker, 0) + need
        else:
            entry.credit -= need
            entry.share_micro -= need
        self.due.add(entry.bucket.id)

    def _told(self, flight: Flight) -> None:
        for bucket, credit, back in zip(flight.buckets, flight.credits, flight.backs, strict=True):
            entry = self.buckets[bucket.id]
            entry.credit -= credit
            entry.back -= back

    def _unask(self, waiters: list[Waiter]) -> None:
        self._aboard = []
        for waiter in waiters:
            if not waiter.is_gone:
                self._ask_less(waiter.take)

    def _ask_more(self, take: Take) -> None:
        for bucket, need in zip(take.buckets, take.needs, strict=True):
            self.buckets[bucket.id].asked += need

    def _ask_less(self, take: Take) -> None:
        for bucket, need in zip(take.buckets, take.needs, strict=True):
            self.buckets[bucket.id].asked -= need

    def _answer(self, waiter: Waiter, shorts: list[bool], left: dict[UUID, int], workers: int) -> None:
        take = waiter.take
        verdict = _verdict(shorts, take.enforced)
        leased = []
        for bucket, need, short, lease in zip(take.buckets, take.needs, shorts, take.leases, strict=True):
            entry = self.buckets[bucket.id]
            given = min(lease, left[bucket.id])
            left[bucket.id] -= given
            leased.append(given)
            taken = need if verdict is Verdict.OK and not short else 0
            if waiter.is_gone:
                # Nobody waits any more. Slots that no worker holds are given up by not being held.
                if not bucket.is_slots:
                    entry.credit += taken + given
                self.due.add(bucket.id)
                continue
            kept = given + (taken if bucket.is_slots else 0)
            if kept:
                entry.out[waiter.worker] = entry.out.get(waiter.worker, 0) + kept
        levels = [self.buckets[bucket.id].level_micro or 0 for bucket in take.buckets]
        waiter.answer = Taken(verdict, LeaseMode.EXACT, levels, shorts, leased, workers)


def _verdict(shorts: list[bool], enforced: list[bool]) -> Verdict:
    is_refused = any(short and must for short, must in zip(shorts, enforced, strict=True))
    return Verdict.SHORT if is_refused else Verdict.OK


def _lower(out: dict[UUID, int], worker: UUID, amount: int) -> None:
    left = out.get(worker, 0) - amount
    if left > 0:
        out[worker] = left
    else:
        out.pop(worker, None)
