"""What the policy core takes and gives: plain frozen values, times in microseconds of one monotonic clock.

Does not know grant ids: a live request is named by its request id, and the host maps grants onto it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from interlock.contracts.scheduling import GrantRequest, Predicted, Refused, ServiceClass
from interlock.scheduler.domain.asks import CLASSES, ClassRules
from interlock.scheduler.domain.engines import Dialect
from interlock.scheduler.domain.profiles import A100_LLAMA3_8B
from interlock.scheduler.domain.share import Path, Standing


class EngineCondition(StrEnum):
    """Whether an engine gets work: only `ready` does. Requests wait for a `starting` one, and for no other."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class ClassObjective:
    """What a class promises: time to first token, and time per output token where it is promised."""

    ttft_ms: int
    tpot_ms: int | None


@dataclass(frozen=True, slots=True)
class PoolRules:
    """The bounds and objectives of one pool, and which order decides in it.

    The last three are flags of a rollout: off, nothing is refused by prediction, nobody gives way, prompts go anywhere.
    """

    name: str
    objectives: Mapping[ServiceClass, ClassObjective]
    queue_seats_max: int
    tenant_seats_max: int
    queue_wait_factor: float
    lease_us: int
    policy: str = "interlock"
    share_level: float = 0.8
    predicts: bool = True
    displaces: bool = True
    routes_by_prefix: bool = True

    @property
    def gaps_us(self) -> tuple[int, ...]:
        """The times per output token that are promised, the tightest first."""
        return tuple(sorted({each.tpot_ms * 1_000 for each in self.objectives.values() if each.tpot_ms is not None}))

    @property
    def classes(self) -> Mapping[ServiceClass, ClassRules]:
        """What an order has to know of the classes; the shares are the platform's, the objectives the pool's."""
        return {
            each: replace(
                CLASSES[each],
                ttft_us=found.ttft_ms * 1_000,
                tpot_us=None if found.tpot_ms is None else found.tpot_ms * 1_000,
            )
            for each, found in self.objectives.items()
        }


@dataclass(frozen=True, slots=True)
class EngineState:
    """One engine as the host sees it. `slots` sequences of `context_tokens` run at once.

    `prefill_tps` and `tpot_ms` are what was declared, which counts until it was measured; `kv_tokens` is None where
    nobody knows it.
    """

    engine_id: str
    url: str
    model: str
    slots: int
    context_tokens: int
    condition: EngineCondition = EngineCondition.STARTING
    kv_tokens: int | None = None
    prefill_tps: int = A100_LLAMA3_8B.prefill_tps
    tpot_ms: float | None = None
    price_usd_hour: float = 0.0
    dialect: Dialect | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """A seat; `position` counts from 1, the seat is lost at `expires_us`."""

    position: int
    expires_us: int
    predicted: Predicted
    promise: str
    tier: int
    margin_ms: int
    standing: Standing | None


@dataclass(frozen=True, slots=True)
class Arrival:
    """What an arrival came to, and who gave way for it."""

    outcome: Queued | Refused
    displaced: tuple[tuple[str, Refused], ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """A place given to a waiting request; `reason` says why on this engine.

    `retry_error_us` is how much later this is than a request was told that it could come back; None if it was not told.
    """

    request: GrantRequest
    engine: EngineState
    arrived_us: int
    granted_us: int
    position: int
    predicted: Predicted
    promise: str
    reason: str
    retry_error_us: int | None = None

    @property
    def queue_wait_ms(self) -> int:
        """Milliseconds between arrival and grant."""
        return (self.granted_us - self.arrived_us) // 1_000


@dataclass(frozen=True, slots=True)
class Expired:
    """What time took: seats with their refusals, and requests whose grant nobody renewed."""

    refused: tuple[tuple[str, Refused], ...]
    lost: tuple[str, ...]


class Renewal(StrEnum):
    """What a progress report meets."""

    RENEWED = "renewed"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


class Phase(StrEnum):
    """Where a request was when it was canceled."""

    QUEUED = "queued"
    GRANTED = "granted"


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """One engine with its own accounting; `prefill_left` are granted prompt tokens without a first token."""

    state: EngineState
    granted: int
    ttft_ms: int | None
    tpot_ms: int | None
    others: int = 0
    prefill_left: int = 0
    prefill_tps: int = 0
    kv_reserved: int = 0
    kv_limit_share: float = 0.9
    sequences_max: int = 0
    busy_us: int = 0
    since_us: int | None = None
    idle_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class TenantStatistics:
    """What one organization, workspace or key holds, and where it stands; no standing where the order has no shares."""

    path: Path
    queued: int
    granted: int
    standing: Standing | None = None


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """The figures that console, metrics and tests read alike. Counters run since the start of the process."""

    name: str
    policy: str
    is_draining: bool
    queued: int
    queued_tokens: int
    queued_by_class: Mapping[str, int]
    granted: int
    slots: int
    queue_seats_max: int
    tenant_seats_max: int
    engines: tuple[EngineStatistics, ...]
    tenants: tuple[TenantStatistics, ...]
    prefill_tps: float
    weighted_tps: float
    water_level: float | None
    kv_reserved_share: float | None
    objectives: Mapping[ServiceClass, ClassObjective]
    at_risk: int = 0
    arrived: int = 0
    grants: int = 0
    settled: int = 0
    in_slo: int = 0
    lost: int = 0
    canceled: int = 0
    displaced: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    settle_mismatch: int = 0
    engine_overrun: int = 0
    wasted_tokens: int = 0
    cached_tokens: int = 0
    input_tokens: int = 0


Steps = list[dict[str, Any]]
