"""Buckets: what a limit lets through, as figures in millionths, and how they fill again.

Debits nothing; who holds a level does, by these rules, which are those of the store's `gateway_level`.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from interlock.gateway.domain.directory import Dimension, Limit

MICRO: Final = 1_000_000
_MINUTE_US: Final = 60 * MICRO


class Refill(StrEnum):
    """How a bucket fills: by and by, at once when a day or month begins in UTC, or as slots come back."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"
    SLOTS = "slots"


_REFILL: Final = {
    Dimension.CONCURRENCY: Refill.SLOTS,
    Dimension.USD_DAY: Refill.DAY,
    Dimension.USD_MONTH: Refill.MONTH,
}


class Bucket(msgspec.Struct, frozen=True, array_like=True):
    """One limit of one organization: `rate_micro` a minute, at most `burst_micro` at once."""

    organization_id: UUID
    id: UUID
    refill: Refill
    rate_micro: int
    burst_micro: int
    version: int

    @property
    def is_slots(self) -> bool:
        """Whether what is taken comes back when its request ends."""
        return self.refill is Refill.SLOTS

    def level_at(self, level_micro: int, since_us: int, now_us: int) -> int:
        """Return the level now of one that was `level_micro` at `since_us`; slots do not come back by themselves."""
        if self.refill is Refill.MINUTE:
            gained = max(0, now_us - since_us) * self.rate_micro // _MINUTE_US
            return min(self.burst_micro, level_micro + gained)
        if self.refill is Refill.SLOTS:
            return level_micro
        return self.burst_micro if period_start_us(self.refill, now_us) > since_us else level_micro

    def wait_us(self, missing_micro: int, now_us: int) -> int:
        """Return microseconds until so much more is there; for slots, which nobody knows, one second."""
        if missing_micro <= 0:
            return 0
        if self.refill is Refill.MINUTE:
            return -(-missing_micro * _MINUTE_US // self.rate_micro)
        if self.refill is Refill.SLOTS:
            return MICRO
        return period_end_us(self.refill, now_us) - now_us


def bucket_of(organization_id: UUID, limit: Limit) -> Bucket:
    """Return the bucket of a limit; a tier's limit has one in each organization."""
    refill = _REFILL.get(limit.dimension, Refill.MINUTE)
    unit = 1 if limit.dimension.is_usd else MICRO
    rate = limit.limit * unit if refill is Refill.MINUTE else 0
    return Bucket(organization_id, limit.id, refill, rate, limit.burst * unit, limit.version)


def period_start_us(refill: Refill, now_us: int) -> int:
    """Return when the running day or month began, in UTC."""
    now = datetime.fromtimestamp(now_us / MICRO, tz=UTC)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if refill is Refill.MONTH:
        start = start.replace(day=1)
    return round(start.timestamp()) * MICRO


def period_end_us(refill: Refill, now_us: int) -> int:
    """Return when the running day or month ends, in UTC."""
    start = datetime.fromtimestamp(period_start_us(refill, now_us) / MICRO, tz=UTC)
    # Any month has ended 32 days after its first, and the day after is in the next one.
    later = start + timedelta(days=32 if refill is Refill.MONTH else 1)
    return period_start_us(refill, round(later.timestamp()) * MICRO)
