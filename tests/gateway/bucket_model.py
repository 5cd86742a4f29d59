"""Limits as the design page states them, written a second time: plain buckets and leases, no store, no batches.

Units are millionths; time is in microseconds and comes in.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from math import floor

from interlock.gateway.domain.leasing import Landed

MICRO = 1_000_000
GRACE_US = 10 * MICRO


@dataclass
class Lease:
    amount: int = 0
    expires_us: int = 0
    fence: int = -1


@dataclass
class Bucket:
    rate: int
    burst: int
    is_slots: bool = False
    level: int = None
    refilled_us: int = 0
    leases: dict = field(default_factory=dict)

    @property
    def leased(self):
        return sum(each.amount for each in self.leases.values())

    def level_at(self, now_us):
        room = self.burst - self.leased
        if self.is_slots:
            return room
        if self.level is None:
            return self.burst
        return min(room, self.level + floor(Fraction(max(0, now_us - self.refilled_us) * self.rate, 60 * MICRO)))


@dataclass
class Model:
    """What `gateway_lease` does, one flight after the other."""

    buckets: dict = field(default_factory=dict)
    spent: dict = field(default_factory=dict)
    is_reaping: bool = True

    def fly(self, flight, now_us, ttl_us):
        found = [self.bucket(each) for each in flight.buckets]
        if any(each.leases.get(flight.owner, Lease()).fence >= flight.fence for each in found):
            return None
        levels = [self.told(bucket, flight, at, now_us) for at, bucket in enumerate(found)]
        shorts = [self.asked(ask, flight, found, levels) for ask in flight.asks]
        granted = []
        for at, bucket in enumerate(found):
            granted.append(max(0, min(flight.leases[at], levels[at] - bucket.burst // 10)))
            levels[at] -= granted[at]
            lease = bucket.leases.setdefault(flight.owner, Lease())
            lease.amount += granted[at]
            lease.fence = flight.fence
            lease.expires_us = now_us + GRACE_US + (0 if bucket.is_slots else ttl_us)
            bucket.level, bucket.refilled_us = levels[at], max(bucket.refilled_us, now_us)
        return Landed(levels, granted, shorts)

    def bucket(self, given):
        made = Bucket(given.rate_micro, given.burst_micro, given.is_slots)
        return self.buckets.setdefault(given.id, made)

    def told(self, bucket, flight, at, now_us):
        """Reap who is late, then take in what the owner settles and gives back; return the level."""
        level = bucket.level_at(now_us)
        for owner, lease in bucket.leases.items():
            if self.is_reaping and owner != flight.owner and lease.expires_us < now_us:
                lease.amount = 0
        lease = bucket.leases.setdefault(flight.owner, Lease())
        if bucket.is_slots:
            lease.amount = flight.held[at]
            return bucket.level_at(now_us)
        back = 0 if lease.expires_us < now_us else min(flight.backs[at], lease.amount)
        lease.amount = min(lease.amount - back, flight.held[at])
        self.spend(flight.buckets[at].id, -flight.credits[at])
        level += back + flight.credits[at]
        return max(-bucket.burst, min(level, bucket.burst - bucket.leased))

    def asked(self, ask, flight, found, levels):
        """All buckets are checked, then all are debited or none; one that only observes never refuses."""
        places = [flight.buckets.index(each) for each in ask.buckets]
        shorts = [levels[place] < need for place, need in zip(places, ask.needs, strict=True)]
        if not any(short and must for short, must in zip(shorts, ask.enforced, strict=True)):
            for place, need, short in zip(places, ask.needs, shorts, strict=True):
                if not short:
                    levels[place] -= need
                    self.spend(flight.buckets[place].id, need)
                    if found[place].is_slots:
                        found[place].leases[flight.owner].amount += need
        return shorts

    def spend(self, bucket_id, amount):
        self.spent[bucket_id] = self.spent.get(bucket_id, 0) + amount
