"""Limits as the design page states them, written a second time: plain buckets, no store, no batches.

Units are millionths; time is in microseconds and comes in.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from math import floor

MICRO = 1_000_000


@dataclass
class Bucket:
    per_minute: int
    burst: int
    level: int
    refilled_us: int
    is_enforced: bool = True
    is_tokens: bool = False

    def level_at(self, now_us):
        gained = floor(Fraction(max(0, now_us - self.refilled_us) * self.per_minute, 60))
        return min(self.burst * MICRO, self.level + gained)

    def move(self, amount, now_us):
        self.level = max(-self.burst * MICRO, min(self.burst * MICRO, self.level_at(now_us) + amount))
        self.refilled_us = max(self.refilled_us, now_us)


@dataclass
class Model:
    """All buckets are checked, then all are debited or none."""

    buckets: dict = field(default_factory=dict)
    holds: dict = field(default_factory=dict)
    admitted: dict = field(default_factory=dict)

    def refusing(self, amounts, now_us):
        return [
            name
            for name, amount in amounts.items()
            if self.buckets[name].is_enforced and self.buckets[name].level_at(now_us) < amount
        ]

    def debit(self, request, amounts, now_us):
        held = {}
        for name, amount in amounts.items():
            bucket = self.buckets[name]
            if bucket.level_at(now_us) >= amount:
                bucket.move(-amount, now_us)
                held[name] = amount
                self.admitted[name] = self.admitted.get(name, 0) + amount
        if held:
            self.holds[request] = held

    def credits(self, request, tokens, *, is_called):
        """Return what settling gives back, by bucket; nothing for a request that holds nothing."""
        found = {}
        for name, amount in self.holds.pop(request, {}).items():
            if not is_called:
                found[name] = amount
            elif self.buckets[name].is_tokens:
                found[name] = amount - tokens
        return {name: credit for name, credit in found.items() if credit}
