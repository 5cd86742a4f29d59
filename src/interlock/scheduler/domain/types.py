"""What the policy core takes and gives: plain frozen values, times in microseconds of one monotonic clock.

Does not know grant ids: a live request is named by its request id, and the host maps grants onto it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from interlock.contracts.scheduling import GrantRequest, Predicted, Refused, ServiceClass
from interlock.foundation.ids import OrganizationId


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
    """The bounds and objectives of one pool."""

    name: str
    objectives: Mapping[ServiceClass, ClassObjective]
    queue_seats_max: int
    tenant_seats_max: int
    queue_wait_factor: float
    lease_us: int


@dataclass(frozen=True, slots=True)
class EngineState:
    """One engine as the host sees it. `slots` sequences of `context_tokens` run at once."""

    engine_id: str
    url: str
    model: str
    slots: int
    context_tokens: int
    condition: EngineCondition = EngineCondition.STARTING


@dataclass(frozen=True, slots=True)
class Queued:
    """A seat; `position` counts from 1, the seat is lost at `expires_us`."""

    position: int
    expires_us: int
    predicted: Predicted


@dataclass(frozen=True, slots=True)
class Grant:
    """A place given to a waiting request."""

    request: GrantRequest
    engine: EngineState
    arrived_us: int
    granted_us: int
    position: int
    predicted: Predicted

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
    """One engine with its own accounting."""

    state: EngineState
    granted: int
    ttft_ms: int | None
    tpot_ms: int | None


@dataclass(frozen=True, slots=True)
class TenantStatistics:
    """What one organization holds."""

    organization_id: OrganizationId
    queued: int
    granted: int


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """The figures that console, metrics and tests read alike. Counters run since the start of the process."""

    name: str
    is_draining: bool
    queued: int
    queued_tokens: int
    granted: int
    slots: int
    queue_seats_max: int
    tenant_seats_max: int
    engines: tuple[EngineStatistics, ...]
    tenants: tuple[TenantStatistics, ...]
    arrived: int = 0
    grants: int = 0
    settled: int = 0
    in_slo: int = 0
    lost: int = 0
    canceled: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    settle_mismatch: int = 0
    engine_overrun: int = 0
    wasted_tokens: int = 0
