"""A pool as operators see it, in the fields of scheduler.md, section 4.2.

Hides nothing: whoever shows it to a tenant leaves the others out.
"""

from typing import Any
from uuid import UUID

from interlock.foundation.ids import format_id
from interlock.scheduler.domain.refusals import standing_view
from interlock.scheduler.domain.types import EngineStatistics, PoolStatistics, TenantStatistics

_COUNTERS = (
    "is_draining", "policy", "queue_seats_max", "tenant_seats_max", "arrived", "grants", "settled", "in_slo", "lost",
    "canceled", "displaced", "refused", "settle_mismatch", "engine_overrun", "wasted_tokens", "at_risk",
    "queued_by_class", "input_tokens", "cached_tokens",
)  # fmt: skip
_KINDS = ("org", "ws", "key")
_NO_STANDING = {"demand_tps": None, "share_tps": None, "over_share": None, "debt_tokens": None}


def pool_view(statistics: PoolStatistics, leader: str) -> dict[str, Any]:
    """Return the pool; what its policy does not measure is null."""
    level = statistics.water_level
    return {
        "name": statistics.name,
        "leader": leader,
        "policy": statistics.policy,
        "queued": statistics.queued,
        "queued_tokens": statistics.queued_tokens,
        "granted": statistics.granted,
        "slots": statistics.slots,
        "kv_reserved_share": statistics.kv_reserved_share,
        "prefill_tps": round(statistics.prefill_tps),
        "weighted_tps": round(statistics.weighted_tps),
        "water_level": None if level is None else round(level, 1),
        "objectives": {
            each.value: {"ttft_ms": found.ttft_ms, "tpot_ms": found.tpot_ms}
            for each, found in statistics.objectives.items()
        },
        "engines": [_engine_view(each) for each in statistics.engines],
        "tenants": [_tenant_view(each) for each in statistics.tenants],
        "statistics": {name: getattr(statistics, name) for name in _COUNTERS},
    }


def _engine_view(engine: EngineStatistics) -> dict[str, Any]:
    state = engine.state
    return {
        "engine_id": state.engine_id,
        "url": state.url,
        "model": state.model,
        "adapter": None if state.dialect is None else state.dialect.value,
        "state": state.condition.value,
        "slots": state.slots,
        "sequences_max": engine.sequences_max,
        "granted": engine.granted,
        "others": engine.others,
        "context_tokens": state.context_tokens,
        "kv_tokens": state.kv_tokens,
        "kv_reserved": engine.kv_reserved,
        "kv_limit_share": engine.kv_limit_share,
        "prefill_left": engine.prefill_left,
        "prefill_tps": engine.prefill_tps,
        "ttft_ms": engine.ttft_ms,
        "tpot_ms": engine.tpot_ms,
        "price_usd_hour": state.price_usd_hour,
        "idle_usd": round(engine.idle_usd, 9),
    }


def _tenant_view(tenant: TenantStatistics) -> dict[str, Any]:
    names = [format_id(kind, UUID(part)) for kind, part in zip(_KINDS, tenant.path, strict=False)]
    held = {"path": "/".join(names), "queued": tenant.queued, "granted": tenant.granted}
    return held | (standing_view(tenant.standing) or _NO_STANDING)
