"""Weights of route versions: what a rollout may ask of the front door.

Given by the gateway, used by evals. The states of a rollout belong to evals, the weight in force to the gateway.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from interlock.foundation.scope import Scope


class WeightMode(StrEnum):
    """Whether a version answers callers or only sees copies of their requests."""

    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class RouteVersion:
    """One immutable version of a route; `digest` names the artifact that a verdict is about.

    `state` is `draft`, `shadow`, `canary`, `stable` or `retired`.
    """

    route: str
    version: int
    digest: str
    state: str
    stable_version: int
    objective_ttft_ms: int | None = None


@dataclass(frozen=True, slots=True)
class WeightInForce:
    """What holds now: percent of units on the version, until when (None: no lease), and the epoch that tells edges."""

    route: str
    version: int
    weight: float
    expires_at_us: int | None
    epoch: int


@dataclass(frozen=True, slots=True)
class WeightRefused:
    """Nothing changed; `code` is one of the weight refusals of the gateway, or `not_found`."""

    code: str
    http_status: int
    message: str
    detail: dict[str, Any] = field(default_factory=dict)


class RolloutActuator(Protocol):
    """Every call commits by itself, with its audit row, before it returns."""

    async def resolve(self, scope: Scope, route: str, version: int | None = None) -> RouteVersion | None:
        """Return a version of a route, the stable one where none is named; None where the scope has no such route."""
        ...

    async def set_weight(
        self, scope: Scope, version: RouteVersion, weight: float, *, token: str, lease_s: float, mode: WeightMode
    ) -> WeightInForce | WeightRefused:
        """Put a weight in percent into force; 100 makes the version stable, without a lease."""
        ...

    async def freeze(self, scope: Scope, route: str, lease_s: float) -> WeightInForce | WeightRefused:
        """Keep the weight and renew its lease, never beyond the expiry of the verdict that admitted it."""
        ...

    async def rollback(self, scope: Scope, route: str, reason: str) -> WeightInForce | WeightRefused:
        """Give everything to the stable version. Needs no token and waits for nobody."""
        ...
