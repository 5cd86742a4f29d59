"""The figures of a pool, read off its policy without changing it.

Renders nothing; routes and console do.
"""

import math
from collections import Counter
from typing import TYPE_CHECKING

from interlock.scheduler.domain.fleet import kv_reserved_share
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.share import Path, Standing
from interlock.scheduler.domain.types import EngineCondition, PoolStatistics, TenantStatistics

if TYPE_CHECKING:
    from interlock.scheduler.domain.policy import Policy

TENANTS_SHOWN_MAX = 500


def statistics_of(policy: "Policy", now_us: int | None = None) -> PoolStatistics:
    """Return what a pool holds and has done; tenants' demands, and what idle engines cost, are as of `now_us`."""
    if now_us is not None:
        policy.fleet.let_idle_time_pass(now_us)
    books, engines = policy.books, policy.fleet.statistics()
    level = None
    if isinstance(policy.order, PromiseOrder) and now_us is not None:
        level = policy.order.shares.level(now_us, policy.rates.capacity)
    waiting = policy.waiting.values()
    return PoolStatistics(
        name=policy.rules.name,
        policy=policy.rules.policy,
        is_draining=policy.is_draining,
        queued=len(policy.waiting),
        queued_tokens=sum(each.ask.prefill for each in waiting),
        queued_by_class=Counter(each.request.service_class.value for each in waiting),
        granted=len(policy.running),
        slots=sum(each.state.slots for each in engines if each.state.condition is EngineCondition.READY),
        queue_seats_max=policy.rules.queue_seats_max,
        tenant_seats_max=policy.rules.tenant_seats_max,
        engines=engines,
        tenants=_tenants(policy, now_us),
        prefill_tps=policy.rates.rho,
        weighted_tps=policy.rates.capacity,
        water_level=None if level is None or math.isinf(level) else level,
        kv_reserved_share=kv_reserved_share(engines),
        objectives=policy.rules.objectives,
        at_risk=policy.order.at_risk if isinstance(policy.order, PromiseOrder) else 0,
        arrived=books.arrived,
        grants=books.grants,
        settled=books.settled,
        in_slo=books.in_slo,
        lost=books.lost,
        canceled=books.canceled,
        displaced=books.displaced,
        refused=dict(books.refused),
        settle_mismatch=books.settle_mismatch,
        engine_overrun=books.engine_overrun,
        wasted_tokens=books.wasted_tokens,
        cached_tokens=books.cached_tokens,
        input_tokens=books.input_tokens,
    )


def _tenants(policy: "Policy", now_us: int | None) -> tuple[TenantStatistics, ...]:
    """Return the nodes of all levels that hold or lately asked for something."""
    queued: Counter[tuple[str, ...]] = Counter()
    granted: Counter[tuple[str, ...]] = Counter()
    for counts, asks in (
        (queued, [each.ask for each in policy.waiting.values()]),
        (granted, [each.ask for each in policy.running.values()]),
    ):
        for ask in asks:
            for depth in range(1, len(ask.path) + 1):
                counts[ask.path[:depth]] += 1
    paths = set(queued) | set(granted)
    if isinstance(policy.order, PromiseOrder) and now_us is not None:
        paths |= set(policy.order.shares.active_paths(now_us))
    return tuple(
        TenantStatistics(path, queued[path], granted[path], _own_standing(policy, now_us, path))
        for path in sorted(paths)[:TENANTS_SHOWN_MAX]
    )


def _own_standing(policy: "Policy", now_us: int | None, path: Path) -> Standing | None:
    if now_us is None or not isinstance(policy.order, PromiseOrder):
        return None
    return policy.order.shares.own_standing(now_us, path, policy.rates.capacity)
