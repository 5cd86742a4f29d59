"""Routes, deployments, providers and limits as the edge holds them in memory; one value, replaced whole.

Reads no store; `store.py` builds it from rows and a snapshot carries its bytes.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID

NEAR_ALIASES_MAX: Final = 5


class ProviderKind(StrEnum):
    """How a deployment is reached."""

    OPENAI = "openai"
    POOL = "pool"


class LimitScope(StrEnum):
    """Whose use a limit counts."""

    ORGANIZATION = "organization"
    WORKSPACE = "workspace"
    KEY = "key"
    TIER = "tier"


class Dimension(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"


class LimitMode(StrEnum):
    """Whether a limit refuses or only records that it would have."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class Provider(msgspec.Struct, frozen=True):
    """Where deployments live; `base_url` of kind openai, `pool` of kind pool. `secret` names an envelope."""

    organization_id: UUID
    name: str
    kind: ProviderKind
    base_url: str | None = None
    pool: str | None = None
    secret: str | None = None


class Deployment(msgspec.Struct, frozen=True):
    """One model of one provider."""

    organization_id: UUID
    name: str
    provider: str
    upstream_model: str


class Timeouts(msgspec.Struct, frozen=True):
    """Bounds of a call in milliseconds; None takes the edge's default."""

    connect: int | None = None
    ttft: int | None = None
    idle: int | None = None
    total: int | None = None


class Target(msgspec.Struct, frozen=True):
    """A deployment and its share of a route."""

    deployment: str
    weight: float = 1.0


class RouteSpec(msgspec.Struct, frozen=True):
    """What a version of a route says; immutable, `digest` is over its canonical JSON."""

    targets: tuple[Target, ...]
    timeouts_ms: Timeouts = Timeouts()


class Route(msgspec.Struct, frozen=True):
    """An alias and its stable version."""

    organization_id: UUID
    alias: str
    version: int
    created_us: int
    spec: RouteSpec


class Limit(msgspec.Struct, frozen=True):
    """One row of limits. `target` is a uuid, or the name of a tier; `model` an alias or `*`."""

    id: UUID
    organization_id: UUID
    scope: LimitScope
    target: str
    dimension: Dimension
    model: str
    limit: int
    burst: int
    mode: LimitMode
    version: int


@dataclass(frozen=True, slots=True)
class LimitSet:
    """The limits that a request must pass, by id, which is the order in which every process locks their buckets.

    `literals` are their ids, versions, rates, bursts, and whether each is enforced and counts tokens, as arrays in
    the store's own text form: made once, for a driver that takes its time over lists.
    """

    limits: tuple[Limit, ...]
    literals: tuple[str, str, str, str, str, str]

    @classmethod
    def of(cls, limits: Iterable[Limit]) -> "LimitSet":
        """Return the set of some limits."""
        ordered = tuple(sorted(limits, key=lambda each: each.id))
        return cls(
            ordered,
            (
                array_literal(each.id for each in ordered),
                array_literal(each.version for each in ordered),
                array_literal(each.limit for each in ordered),
                array_literal(each.burst for each in ordered),
                array_literal(each.mode is LimitMode.ENFORCE for each in ordered),
                array_literal(each.dimension is Dimension.TOKENS for each in ordered),
            ),
        )


def array_literal(values: Iterable[UUID | int | bool]) -> str:
    """Write numbers, truth values or uuids as an array of PostgreSQL."""
    return "{" + ",".join(map(str, values)) + "}"


class DirectoryRows(msgspec.Struct, frozen=True):
    """All rows, as they stand in a snapshot. `tiers` maps an organization to the name of its tier."""

    providers: tuple[Provider, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    routes: tuple[Route, ...] = ()
    limits: tuple[Limit, ...] = ()
    tiers: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Placement:
    """A route with its chosen deployment and where that one lives."""

    route: Route
    deployment: Deployment
    provider: Provider

    @property
    def label(self) -> str:
        """`ALIAS@VERSION/DEPLOYMENT`, as headers and stories name it."""
        return f"{self.route.alias}@{self.route.version}/{self.deployment.name}"


NO_LIMITS: Final = LimitSet.of(())
_encode: Final = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_decode: Final = msgspec.msgpack.Decoder(DirectoryRows).decode


class Directory:
    """Lookups by organization; rows of the system organization serve every tenant."""

    __slots__ = ("_applicable", "_limits", "_placements", "rows")

    def __init__(self, rows: DirectoryRows | None = None) -> None:
        self.rows = rows or DirectoryRows()
        providers = {(each.organization_id, each.name): each for each in self.rows.providers}
        deployments = {(each.organization_id, each.name): each for each in self.rows.deployments}
        self._placements: dict[tuple[UUID, str], Placement] = {}
        for route in self.rows.routes:
            placed = _placed(route, deployments, providers)
            if placed is not None:
                self._placements[route.organization_id, route.alias] = placed
        self._limits: dict[tuple[LimitScope, str], list[Limit]] = {}
        for limit in self.rows.limits:
            self._limits.setdefault((limit.scope, limit.target), []).append(limit)
        self._applicable: dict[tuple[UUID, UUID, UUID, str], LimitSet] = {}

    @classmethod
    def from_bytes(cls, content: bytes) -> "Directory":
        """Return the directory of a snapshot."""
        return cls(_decode(content))

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads."""
        return _encode(self.rows)

    def find(self, organization_id: UUID, alias: str) -> Placement | None:
        """Return where an alias of this organization leads; its own rows go before the platform's."""
        return self._placements.get((organization_id, alias)) or self._placements.get((SYSTEM_ORGANIZATION_ID, alias))

    def aliases(self, organization_id: UUID, allowed: Iterable[str]) -> list[Route]:
        """Return the routes that a key of this organization may use, by alias."""
        names = frozenset(allowed)
        found = {
            alias: placed.route
            for owner in (SYSTEM_ORGANIZATION_ID, organization_id)
            for (each, alias), placed in self._placements.items()
            if each == owner and ("*" in names or alias in names)
        }
        return [found[alias] for alias in sorted(found)]

    def near(self, organization_id: UUID, allowed: Iterable[str], alias: str) -> list[str]:
        """Return the aliases that somebody who typed `alias` may have meant."""
        names = [route.alias for route in self.aliases(organization_id, allowed)]
        return difflib.get_close_matches(alias[:256], names, n=NEAR_ALIASES_MAX, cutoff=0.5)

    def limits_for(self, organization_id: UUID, workspace_id: UUID, key_id: UUID, alias: str) -> LimitSet:
        """Return the limits that a request must pass."""
        if not self._limits:
            return NO_LIMITS
        place = (organization_id, workspace_id, key_id, alias)
        found = self._applicable.get(place)
        if found is None:
            if len(self._applicable) >= 65_536:
                self._applicable.clear()
            found = self._applicable[place] = self._collect(organization_id, workspace_id, key_id, alias)
        return found

    def _collect(self, organization_id: UUID, workspace_id: UUID, key_id: UUID, alias: str) -> LimitSet:
        own = [
            limit
            for scope, target in (
                (LimitScope.ORGANIZATION, organization_id),
                (LimitScope.WORKSPACE, workspace_id),
                (LimitScope.KEY, key_id),
            )
            for limit in self._limits.get((scope, str(target)), ())
            if limit.organization_id == organization_id and limit.model in ("*", alias)
        ]
        replaced = {(each.dimension, each.model) for each in own if each.scope is LimitScope.ORGANIZATION}
        tier = self.rows.tiers.get(str(organization_id))
        defaults = [
            limit
            for limit in self._limits.get((LimitScope.TIER, tier or ""), ())
            if limit.organization_id == SYSTEM_ORGANIZATION_ID
            and limit.model in ("*", alias)
            and (limit.dimension, limit.model) not in replaced
        ]
        return LimitSet.of(own + defaults) if own or defaults else NO_LIMITS


def _placed(
    route: Route,
    deployments: dict[tuple[UUID, str], Deployment],
    providers: dict[tuple[UUID, str], Provider],
) -> Placement | None:
    """Return the first target of a route that exists; an organization's route may name the platform's rows."""
    owners = (route.organization_id, SYSTEM_ORGANIZATION_ID)
    for target in route.spec.targets:
        deployment = next(
            (deployments[owner, target.deployment] for owner in owners if (owner, target.deployment) in deployments),
            None,
        )
        if deployment is None:
            continue
        provider = providers.get((deployment.organization_id, deployment.provider))
        if provider is not None:
            return Placement(route, deployment, provider)
    return None
