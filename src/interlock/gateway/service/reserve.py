"""Limits at a worker: a request is checked against what the worker leases, else by the machine's broker, and settled.

Waits for nothing but the broker, and only where a lease does not cover the request.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.foundation.clock import Clock
from interlock.foundation.telemetry import Metrics
from interlock.gateway.config import LimitsConfig
from interlock.gateway.domain import limits as rules
from interlock.gateway.domain.buckets import Bucket
from interlock.gateway.domain.directory import Dimension, Limit, LimitSet
from interlock.gateway.domain.leasing import Give, LeaseMode, LimitBroker, Take, Taken, Verdict
from interlock.gateway.domain.limits import Ask, Reservation, Used
from interlock.gateway.domain.pools import Plan, Pool, pool_of
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.service.limit_metrics import LimitMetrics
from interlock.gateway.service.passage import Passage

Adopted = Callable[[], Sequence[tuple[Bucket, int]]]
_RULES: Final = {mode: f"limits.{mode}" for mode in LeaseMode}
LEASED: Final = _RULES[LeaseMode.LEASED]
_PLANS_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """What was decided since the start, by whom, and what is still to be told to the broker."""

    settling: int
    reserved_total: int
    refused_total: int
    settled_total: int
    leased_total: int
    exact_total: int
    share_total: int
    slots_held: int


class Limiter:
    """All limits of all tenants at one worker. `worker` names this life of the process."""

    def __init__(self, broker: LimitBroker, worker: UUID, clock: Clock, config: LimitsConfig, metrics: Metrics) -> None:
        self._broker = broker
        self._worker = worker
        self._clock = clock
        self._config = config
        self._plans: dict[int, tuple[LimitSet, Plan]] = {}
        self.pools: dict[tuple[UUID, UUID], Pool] = {}
        # Of whom the broker has to be told; one set for good, as ways hold on to it.
        self.due: set[Pool] = set()
        self._has_due = asyncio.Event()
        # Plain numbers on the way of a request; metrics are made of them when somebody asks.
        self._leased = self._reserved = self._refused = self._settled = 0
        self._asked = dict.fromkeys(LeaseMode, 0)
        self._verdicts = {
            (dimension, verdict): 0 for dimension in Dimension for verdict in ("ok", "observed", "refused")
        }
        self._waits = metrics.histogram(
            "interlock_gateway_lease_wait_seconds", "Wait of a request for limits that this process did not lease."
        )
        LimitMetrics(metrics, self.verdicts, self.modes)

    async def reserve(self, passage: Passage, applicable: LimitSet, ask: Ask) -> Refusal | None:
        """Check all limits and debit all, or refuse and debit none."""
        if self.reserve_leased(passage, applicable, ask):
            return None
        plan, amounts = self.plan(passage.tenant, applicable), ask.amounts()
        refusal = rules.never_fits(plan.limits, plan.pools, amounts, ask)
        if refusal is None:
            refusal = await self._ask(passage, plan, amounts, ask)
        if refusal is not None:
            self._refused += 1
        return refusal

    def reserve_leased(self, passage: Passage, applicable: LimitSet, ask: Ask) -> bool:
        """Debit all limits at once if this worker's leases cover the request; else none is, and `reserve` decides."""
        plan, clock, was_due = self.plan(passage.tenant, applicable), self._clock, bool(self.due)
        reservation = rules.lease(plan, ask, clock.monotonic(), clock.now_us(), self.due)
        if reservation is None:
            return False
        self.note_leased(was_due)
        passage.reservation = reservation
        passage.decide("limits", LEASED, "reserved", reservation.described())
        return True

    def note_leased(self, was_due: bool) -> None:  # noqa: FBT001 - once a request
        """Count a request that leases covered; `was_due`: the broker had to be told of something before it."""
        self._leased += 1
        if not was_due and self.due:
            self._has_due.set()

    def plan(self, tenant: UUID, applicable: LimitSet) -> Plan:
        """Return the buckets of some limits, as this worker holds them."""
        known = self._plans.get(id(applicable))
        if known is not None and known[0] is applicable:
            return known[1]
        if len(self._plans) >= _PLANS_MAX:
            self._plans.clear()
        plan = Plan(tenant, applicable.limits, [self._pool(tenant, limit) for limit in applicable.limits])
        # The set is held beside its plan, so that no other one can take its id.
        self._plans[id(applicable)] = (applicable, plan)
        return plan

    def settle(self, passage: Passage, used: Used | None) -> None:
        """Give back, once, what a request reserved and did not use; None for one that called no model server."""
        reservation = passage.reservation
        if reservation is None:
            return
        passage.reservation = None
        self._settled += 1
        was_due = bool(self.due)
        for pool, amount in reservation.give_back(used, self.due):
            self._free_slot(pool, amount)
        if not was_due and self.due:
            self._has_due.set()

    async def run(self) -> None:
        """Tell the broker what is settled and unused, and renew leases, until cancelled."""
        # What is due is announced by who comes first; an earlier run may have been cancelled between that and its turn.
        if self.due:
            self._has_due.set()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._has_due.wait()
                self._has_due.clear()
                await self._clock.sleep(self._config.settle_s)
                for renewal in self._turn():
                    group.create_task(self._renew(renewal))

    def flush(self) -> None:
        """Tell the broker, at a drain, all that is settled, and give back every lease."""
        for pool in self.pools.values():
            pool.expire()
        self._tell(self.pools.values())
        self.due.clear()

    def adopted(self) -> Sequence[tuple[Bucket, int]]:
        """Return the slots that running requests hold, for a broker that does not know; free ones are forgotten."""
        found = []
        for pool in self.pools.values():
            if pool.bucket.is_slots:
                pool.left = pool.half = 0
                if pool.slots:
                    found.append((pool.bucket, pool.slots))
        return found

    def verdicts(self) -> dict[tuple[Dimension, str], int]:
        """Return how often limits of each dimension let pass, observed or refused."""
        found = dict(self._verdicts)
        for pool in self.pools.values():
            found[pool.dimension, "ok"] += pool.passed
        return found

    def modes(self) -> dict[LeaseMode, int]:
        """Return how many requests were decided by whom."""
        return {**self._asked, LeaseMode.LEASED: self._leased}

    def statistics(self) -> LimiterStatistics:
        """Return the figures that metrics and tests read."""
        return LimiterStatistics(
            settling=sum(1 for each in self.due if each.credit or each.back),
            reserved_total=self._leased + self._reserved,
            refused_total=self._refused,
            settled_total=self._settled,
            leased_total=self._leased,
            exact_total=self._asked[LeaseMode.EXACT],
            share_total=self._asked[LeaseMode.SHARE],
            slots_held=sum(pool.slots for pool in self.pools.values()),
        )

    def _pool(self, tenant: UUID, limit: Limit) -> Pool:
        place = (tenant, limit.id)
        pool = self.pools.get(place)
        if pool is None:
            pool = self.pools[place] = pool_of(tenant, limit, self._clock.monotonic())
        elif limit.version > pool.bucket.version:
            pool.bucket = pool_of(tenant, limit, 0.0).bucket
        return pool

    async def _ask(self, passage: Passage, plan: Plan, amounts: tuple[int, ...], ask: Ask) -> Refusal | None:
        passage.open()
        now = self._clock.monotonic()
        pools, places = plan.pools, plan.places
        needs = [amounts[place] for place in places]
        self._expire(pools, now)
        self._tell(pools)
        leases = [max(0, pool.wanted(now) - pool.left) for pool in pools]
        take = Take([pool.bucket for pool in pools], needs, plan.enforced, leases)
        taken = await self._broker.take(self._worker, take)
        self._waits.observe(self._clock.monotonic() - now)
        if taken.verdict is Verdict.UNAVAILABLE:
            self._asked[taken.mode] += 1
            return Refusal("limits_unavailable", "limits.store_away", step="limits", retry_after_s=1.0)
        now_us = self._clock.now_us()
        self._take_in(pools, taken, now, now_us)
        held = []
        if taken.verdict is Verdict.OK:
            for pool, place, short in zip(pools, places, taken.shorts, strict=True):
                if not short:
                    held.append((pool, place, amounts[place]))
                    pool.note_use(amounts[place])
                    pool.slots += amounts[place] if pool.bucket.is_slots else 0
        decided = Reservation(plan, amounts, taken.levels, taken.shorts, now_us, ask.tokens, taken.mode, held)
        if taken.verdict is Verdict.OK:
            self._decided(passage, decided)
            return None
        self._count(decided)
        passage.decide("limits", f"limits.{taken.mode}", "short", decided.described())
        return rules.refused(decided.fills, ask, now_us)

    def _decided(self, passage: Passage, reservation: Reservation) -> None:
        self._reserved += 1
        self._count(reservation)
        passage.reservation = reservation
        passage.decide("limits", _RULES[reservation.mode], "reserved", reservation.described())

    def _take_in(self, pools: list[Pool], taken: Taken, sent_at: float, now_us: int) -> None:
        for pool, level, leased in zip(pools, taken.levels, taken.leased, strict=True):
            pool.workers = taken.workers
            pool.refill(leased, level, now_us, sent_at + self._config.lease_s)
            if leased:
                self._touch(pool)

    def _free_slot(self, pool: Pool, amount: int) -> None:
        pool.slots -= amount
        now = self._clock.monotonic()
        # No more than is wanted: where another limit asks the broker each time, none of these would ever be spent.
        if pool.left < pool.wanted(now):
            pool.left += amount
            pool.ends_at = max(pool.ends_at, now + self._config.lease_s)
            self._touch(pool)
        else:
            # The next request may be for another worker, and be here at once.
            self._broker.give(self._worker, [Give(pool.bucket, back=amount)])

    def _turn(self) -> list[list[Pool]]:
        """Tell what is due; return which leases to renew, by organization."""
        now = self._clock.monotonic()
        due = list(self.due)
        self.due.clear()
        self._expire(due, now)
        self._tell(due)
        renewals: dict[UUID, list[Pool]] = {}
        for pool in due:
            if pool.left > 0:
                self._touch(pool)
                if pool.left < pool.half and not pool.is_renewing and pool.wanted(now):
                    renewals.setdefault(pool.bucket.organization_id, []).append(pool)
        return list(renewals.values())

    async def _renew(self, pools: list[Pool]) -> None:
        pools.sort(key=lambda pool: pool.bucket.id)
        now = self._clock.monotonic()
        leases = [max(0, pool.wanted(now) - pool.left) for pool in pools]
        nothing = [0] * len(pools)
        for pool in pools:
            pool.is_renewing = True
        try:
            take = Take([pool.bucket for pool in pools], nothing, [False] * len(pools), leases)
            taken = await self._broker.take(self._worker, take)
        finally:
            for pool in pools:
                pool.is_renewing = False
        if taken.verdict is Verdict.OK and taken.mode is LeaseMode.EXACT:
            self._take_in(pools, taken, now, self._clock.now_us())

    def _expire(self, pools: Collection[Pool], now: float) -> None:
        for pool in pools:
            if pool.left > 0 and now > pool.ends_at:
                pool.expire()

    def _tell(self, pools: Collection[Pool]) -> None:
        gives = []
        for pool in pools:
            if pool.credit or pool.back or pool.spent:
                spent = 0 if pool.bucket.is_slots else pool.spent
                gives.append(Give(pool.bucket, pool.credit, pool.back, spent))
                pool.credit = pool.back = pool.spent = 0
        if gives:
            self._broker.give(self._worker, gives)

    def _touch(self, pool: Pool) -> None:
        self.due.add(pool)
        self._has_due.set()

    def _count(self, decided: Reservation) -> None:
        self._asked[decided.mode] += 1
        for limit, must, short in zip(decided.plan.limits, decided.plan.enforced, decided.shorts, strict=True):
            self._verdicts[limit.dimension, ("refused" if must else "observed") if short else "ok"] += 1
