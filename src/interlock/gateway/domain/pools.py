"""What one worker holds of each bucket, and the check of a request against all of its buckets at once.

Talks to nobody; the limiter asks the broker for what is missing here.
"""

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from interlock.foundation import native
from interlock.gateway.domain.buckets import Bucket, bucket_of
from interlock.gateway.domain.directory import Dimension, Limit, LimitMode

# A lease is at most this part of the burst, and there is none at all where a burst is less than so much a worker.
_LEASE_PART: Final = 20
_UNITS_A_WORKER: Final = 20 * 1_000_000
# Use beyond it is not told apart: a level and a lease are far below.
_USED_MAX: Final = 8 * 10**18
AMOUNTS: Final = tuple(Dimension)
_compiled: Final = native.load("interlock.gateway.domain._native_rules")


class _State:
    """The figures of a pool, where no compiled form holds them."""

    __slots__ = (
        "_mark", "_rate", "_used", "back", "bucket", "credit", "ends_at", "half", "is_renewing", "left", "level",
        "level_us", "passed", "slots", "spent", "workers",
    )  # fmt: skip


if not TYPE_CHECKING and _compiled is not None:
    _State = _compiled.PoolState


class Pool(_State):
    """A worker's part of one bucket. `left` may be spent until `ends_at`; `level` is what the source last told.

    `passed` counts the requests that its lease let through.
    """

    __slots__ = ("dimension",)

    def __init__(self, bucket: Bucket, dimension: Dimension, now: float) -> None:
        self.bucket = bucket
        self.dimension = dimension
        self.left = 0
        self.ends_at = 0.0
        self.half = 0
        self.level = bucket.burst_micro
        self.level_us = 0
        self.credit = self.back = self.spent = 0
        self.slots = self.passed = 0
        self.workers = 1
        self.is_renewing = False
        self._mark = now
        self._used = 0
        self._rate = 0.0

    def spend(self, amount: int) -> None:
        """Take from the lease what is known to be there."""
        self.left -= amount
        self.spent += amount
        self.note_use(amount)

    def note_use(self, amount: int) -> None:
        """Count what was taken, for the size of the next lease."""
        self._used = min(self._used + amount, _USED_MAX)

    def wanted(self, now: float) -> int:
        """Return the lease to ask for: a second of the worker's own use, a twentieth of the burst at most."""
        burst = self.bucket.burst_micro
        elapsed = now - self._mark
        if elapsed >= 1:
            self._rate = self._used / elapsed
            self._used, self._mark = 0, now
        if burst < _UNITS_A_WORKER * self.workers:
            return 0
        lease = min(burst // _LEASE_PART, max(round(self._rate), self._used))
        # Slots come one by one.
        return lease // 1_000_000 * 1_000_000 if self.bucket.is_slots else lease

    def refill(self, leased: int, level: int, now_us: int, ends_at: float) -> None:
        """Take in what the source answered; a lease that goes on takes the old one's rest with it."""
        self.level, self.level_us = level, now_us
        if leased:
            self.left += leased
            self.half = self.left // 2
            self.ends_at = ends_at

    def expire(self) -> None:
        """Give up what was not used in time."""
        self.back += self.left
        self.left = self.half = 0

    def level_now(self, now_us: int) -> int:
        """Return what may be left in the bucket, as far as this worker knows."""
        level = self.bucket.level_at(self.level, self.level_us, now_us) if self.level_us else self.level
        return min(self.bucket.burst_micro, level + self.left)


class Plan:
    """The buckets of one set of limits in their order, and for each which amount of a request it counts."""

    __slots__ = ("enforced", "leases", "limits", "places", "pools", "steps", "stories", "tenant")

    # The compiled form of what is taken from leases; None where there is none.
    leases: Any

    def __init__(self, tenant: UUID, limits: tuple[Limit, ...], pools: list[Pool]) -> None:
        self.tenant = tenant
        self.limits = limits
        self.pools = pools
        self.places = [AMOUNTS.index(limit.dimension) for limit in limits]
        self.steps = list(zip(pools, self.places, strict=True))
        self.enforced = [limit.mode is LimitMode.ENFORCE for limit in limits]
        self.stories = [limit.words for limit in limits]
        self.leases = self._compiled_leases()

    def spend(self, amounts: tuple[int, ...], now: float) -> bool:
        """Take a request's amounts from the worker's own leases, from all of them or from none."""
        for pool, place in self.steps:
            amount = amounts[place]
            if amount > pool.left or now > pool.ends_at:
                return False
        for pool, place in self.steps:
            amount = amounts[place]
            pool.left -= amount
            pool.spent += amount
            pool._used = min(pool._used + amount, _USED_MAX)  # noqa: SLF001 - the one loop of the hot path
            pool.passed += 1
        return True

    def _compiled_leases(self) -> Any:
        if _compiled is None or not 0 < len(self.limits) <= _compiled.LIMITS_MAX:
            return None
        told = [limit_header(limit) for limit in self.limits]
        scopes = [scope_header(limit) for limit in self.limits]
        return _compiled.Leases(self.pools, self.places, self.enforced, self.stories, told, scopes)


def limit_header(limit: Limit) -> tuple[bytes, bytes]:
    """Return the header that tells a limit itself."""
    dimension = limit.dimension.removesuffix("_per_minute").replace("_", "-")
    return b"x-ratelimit-limit-" + dimension.encode(), b"%d" % limit.limit


def scope_header(limit: Limit) -> tuple[bytes, bytes]:
    """Return the header that tells whose use a limit counts."""
    return b"x-interlock-limit-scope", limit.scope.encode()


def pool_of(tenant: UUID, limit: Limit, now: float) -> Pool:
    """Return an empty pool of a limit's bucket."""
    return Pool(bucket_of(tenant, limit), limit.dimension, now)
