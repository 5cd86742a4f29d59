"""Pools and engines as they were declared, and the rules that come of them.

Declares no defaults of latency; `domain/classes.py` does.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from uuid import UUID

from interlock.contracts.scheduling import ServiceClass
from interlock.foundation.ids import format_id
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.engines import Dialect
from interlock.scheduler.domain.profiles import A100_LLAMA3_8B
from interlock.scheduler.domain.types import ClassObjective, EngineCondition, EngineState, PoolRules
from interlock.scheduler.domain.versions import Candidate


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine to watch. `url` is `unix:/path.sock` for one of our own, else an OpenAI-compatible base URL."""

    url: str
    model: str
    slots: int
    context_tokens: int
    kv_tokens: int | None = None
    prefill_tps: int = A100_LLAMA3_8B.prefill_tps
    tpot_ms: float | None = None
    price_usd_hour: float = 0.0
    dialect: Dialect | None = None
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags of a rollout as they are for a pool; see `PoolRules`."""

    predicts: bool = True
    displaces: bool = True
    routes_by_prefix: bool = True
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool and its engines, as they were declared."""

    name: str
    objectives: dict[ServiceClass, ClassObjective]
    engines: tuple[EngineSpec, ...]
    policy: str = "interlock"
    share_level: float = 0.8
    flags: Flags = field(default_factory=Flags)
    is_draining: bool = False
    weights: dict[str, float] = field(default_factory=dict)
    candidate: Candidate | None = None


def engine_id(pool_name: str, url: str) -> str:
    """Return the id of an engine: the same after every start, so that a new leader can adopt its grants."""
    digest = hashlib.sha256(f"{pool_name}\n{url}".encode()).digest()
    return format_id("eng", UUID(bytes=digest[:16]))


def without_killed(specs: Iterable[PoolSpec], killed: Collection[str]) -> list[PoolSpec]:
    """Return the pools with the engines of these ids drained: they get no grants as long as a switch is on."""
    return [
        replace(
            spec,
            engines=tuple(
                replace(each, is_draining=True) if engine_id(spec.name, each.url) in killed else each
                for each in spec.engines
            ),
        )
        for spec in specs
    ]


def state_of(pool_name: str, spec: EngineSpec, condition: EngineCondition = EngineCondition.STARTING) -> EngineState:
    """Return an engine that nobody has looked at yet, or in the condition that it is known to be in."""
    return EngineState(
        engine_id(pool_name, spec.url),
        spec.url,
        spec.model,
        spec.slots,
        spec.context_tokens,
        EngineCondition.DRAINING if spec.is_draining else condition,
        spec.kv_tokens,
        spec.prefill_tps,
        spec.tpot_ms,
        spec.price_usd_hour,
        spec.dialect,
    )


def rules_of(spec: PoolSpec, config: SchedulerConfig) -> PoolRules:
    """Return the rules of a pool."""
    return PoolRules(
        name=spec.name,
        objectives=spec.objectives,
        queue_seats_max=config.queue_seats_max,
        tenant_seats_max=max(1, int(config.queue_seats_max * config.tenant_seat_share)),
        queue_wait_factor=config.queue_wait_factor,
        lease_us=round(config.lease_s * 1_000_000),
        policy=spec.flags.policy or spec.policy,
        share_level=spec.share_level,
        predicts=spec.flags.predicts,
        displaces=spec.flags.displaces,
        routes_by_prefix=spec.flags.routes_by_prefix,
    )


def candidate_rules_of(spec: PoolSpec, candidate: Candidate, config: SchedulerConfig) -> PoolRules:
    """Return the rules that a candidate would give a pool; the flag that names a policy is about the live one."""
    settings = candidate.settings
    flags = replace(spec.flags, policy=None)
    tried = replace(spec, policy=settings.policy, share_level=settings.share_level, objectives=settings.objectives)
    return rules_of(replace(tried, flags=flags), config)
