"""Routes, deployments, providers and limits as the edge holds them in memory; one value, replaced whole.

Reads no store; `store.py` builds it from rows and a snapshot carries its bytes.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.gateway.domain.betas import Beta, BetaBook

NEAR_ALIASES_MAX: Final = 5


class ProviderKind(StrEnum):
    """How a deployment is reached."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    POOL = "pool"
    OFFLINE = "offline"


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
    INPUT_TOKENS = "input_tokens_per_minute"
    OUTPUT_TOKENS = "output_tokens_per_minute"
    CONCURRENCY = "concurrent_requests"
    USD_DAY = "usd_per_day"
    USD_MONTH = "usd_per_month"

    @property
    def is_usd(self) -> bool:
        """Whether it counts dollars, which are kept in millionths."""
        return self in (Dimension.USD_DAY, Dimension.USD_MONTH)

    @property
    def is_a_minute(self) -> bool:
        """Whether it refills by and by."""
        return self.endswith("_per_minute")


class LimitMode(StrEnum):
    """Whether a limit refuses or only records that it would have."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class Gate(StrEnum):
    """Whether a version needs a verdict before it takes traffic."""

    REQUIRED = "required"
    OFF = "off"


class Strategy(StrEnum):
    """How a route chooses among its healthy targets."""

    WEIGHTED = "weighted"
    PRIORITY = "priority"
    LEAST_BUSY = "least_busy"
    LATENCY = "latency"
    COST = "cost"


class Trouble(StrEnum):
    """Why a fallback is asked."""

    ERROR = "error"
    TIMEOUT = "timeout"
    OVERLOADED = "overloaded"
    LIMITED = "limited"
    CONTEXT_TOO_LONG = "context_too_long"


class Provider(msgspec.Struct, frozen=True):
    """Where deployments live; `pool` of kind pool, `base_url` of the others. `secret` names an envelope.

    Kind `offline` is a chat server of the platform's own behind a socket. One that may not be private is reached at
    public addresses only.
    """

    organization_id: UUID
    name: str
    kind: ProviderKind
    base_url: str | None = None
    pool: str | None = None
    secret: str | None = None
    may_be_private: bool = True

    @property
    def is_own(self) -> bool:
        """Whether the platform runs its servers: engines of a pool, and what only an operator has asked in clear."""
        return self.base_url is None or (self.may_be_private and not self.base_url.startswith("https:"))


class Capabilities(msgspec.Struct, frozen=True):
    """What a model can do; None is not known, and excludes nothing."""

    context_tokens: int | None = None
    tools: bool | None = None
    vision: bool | None = None
    json_schema: bool | None = None
    embeddings: bool | None = None


class Deployment(msgspec.Struct, frozen=True):
    """One model of one provider. Prices are millionths of a dollar a million tokens, None where none is known.

    Input from an upstream's cache costs as other input where it has no price of its own. `price_version` is the list
    that the prices were taken from, None where they were given. `max_concurrent` bounds the calls of one edge.
    """

    organization_id: UUID
    name: str
    provider: str
    upstream_model: str
    input_price_micro: int | None = None
    output_price_micro: int | None = None
    max_concurrent: int | None = None
    capabilities: Capabilities = Capabilities()
    cached_input_price_micro: int | None = None
    price_version: str | None = None


class Timeouts(msgspec.Struct, frozen=True):
    """Bounds of a call in milliseconds; None takes the edge's default."""

    connect: int | None = None
    ttft: int | None = None
    idle: int | None = None
    total: int | None = None


NO_TIMEOUTS: Final = Timeouts()


class Target(msgspec.Struct, frozen=True):
    """A deployment and its share of a route."""

    deployment: str
    weight: float = 1.0


class Fallback(msgspec.Struct, frozen=True):
    """A deployment that is asked when no target answered, and the troubles for which it is."""

    deployment: str
    on: tuple[Trouble, ...]


class RouteSpec(msgspec.Struct, frozen=True):
    """What a version of a route says; immutable. `gate` off lets it take traffic without a verdict.

    `objective_ttft_ms` is the first token's time above which an answer counts as slow, `attempts_max` the calls of
    model servers for one request, the first included; None takes the edge's. `degrade_to` is another alias.
    """

    targets: tuple[Target, ...]
    timeouts_ms: Timeouts = NO_TIMEOUTS
    gate: Gate = Gate.REQUIRED
    objective_ttft_ms: int | None = None
    strategy: Strategy = Strategy.WEIGHTED
    fallbacks: tuple[Fallback, ...] = ()
    degrade_to: str | None = None
    attempts_max: int | None = None

    @property
    def deployments(self) -> tuple[str, ...]:
        """Names of all deployments that the version may ask, each once."""
        names = [each.deployment for each in self.targets] + [each.deployment for each in self.fallbacks]
        return tuple(dict.fromkeys(names))


class Route(msgspec.Struct, frozen=True):
    """One version of an alias; `created_us` is the alias's. `digest` names the version as an artifact."""

    organization_id: UUID
    alias: str
    version: int
    created_us: int
    spec: RouteSpec
    digest: str = ""


class Weight(msgspec.Struct, frozen=True):
    """What a route gives to whom: a row of `gateway_route_weights`. `weight_bp` is in hundredths of a percent."""

    organization_id: UUID
    alias: str
    stable_version: int
    candidate_version: int | None = None
    mode: str | None = None
    weight_bp: int = 0
    verdict_id: str | None = None
    verdict_token: str | None = None
    verdict_expires_us: int | None = None
    expires_us: int | None = None
    rose_us: int = 0
    epoch: int = 0


class Limit(msgspec.Struct, frozen=True):
    """One row of limits. `target` is a uuid, or the name of a tier; `model` an alias or `*`.

    `limit` and `burst` count requests, tokens, slots or millionths of a dollar.
    """

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

    @property
    def words(self) -> str:
        """`scope/dimension/model mode= limit=`, for stories."""
        figure = str(self.limit / 1_000_000 if self.dimension.is_usd else self.limit).removesuffix(".0")
        return f"{self.scope}/{self.dimension}/{self.model} mode={self.mode} limit={figure}"


@dataclass(frozen=True, slots=True)
class LimitSet:
    """The limits that a request must pass, by id, which is the order in which every process locks their buckets."""

    limits: tuple[Limit, ...]
    counts_usd: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts_usd", any(each.dimension.is_usd for each in self.limits))

    @classmethod
    def of(cls, limits: Iterable[Limit]) -> "LimitSet":
        """Return the set of some limits."""
        return cls(tuple(sorted(limits, key=lambda each: each.id)))


class DirectoryRows(msgspec.Struct, frozen=True):
    """All rows, as they stand in a snapshot. `tiers` maps an organization to the name of its tier."""

    providers: tuple[Provider, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    routes: tuple[Route, ...] = ()
    limits: tuple[Limit, ...] = ()
    tiers: dict[str, str] = {}
    weights: tuple[Weight, ...] = ()
    betas: tuple[Beta, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """A route with its chosen deployment and where that one lives. Made once, and asked for by every request.

    `label` is `ALIAS@VERSION/DEPLOYMENT`, as `header` and stories name it; `rule` names the route in them, `called` the
    deployment; `place` is where the deployment is counted; one that `can_all` is not known to lack anything.
    """

    route: Route
    deployment: Deployment
    provider: Provider
    label: str = field(init=False, compare=False)
    header: tuple[bytes, bytes] = field(init=False, compare=False)
    rule: str = field(init=False, compare=False)
    called: str = field(init=False, compare=False)
    place: tuple[int, str] = field(init=False, compare=False)
    can_all: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        route, deployment = self.route, self.deployment
        object.__setattr__(self, "label", f"{route.alias}@{route.version}/{deployment.name}")
        object.__setattr__(self, "header", (b"x-interlock-route", self.label.encode()))
        object.__setattr__(self, "rule", f"route.{route.alias}")
        object.__setattr__(self, "called", f"deployment.{deployment.name}")
        # Numbers of ids are hashed faster than ids.
        object.__setattr__(self, "place", (deployment.organization_id.int, deployment.name))
        object.__setattr__(self, "can_all", deployment.capabilities == Capabilities())


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias with its versions: `stable` answers but for what `weight` gives to another one."""

    stable: Placement
    versions: dict[int, Placement]
    weight: Weight | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a version may ask: its targets with their weights, and its fallbacks with their troubles."""

    targets: tuple[tuple[Placement, float], ...]
    fallbacks: tuple[tuple[Placement, frozenset[Trouble]], ...]


NO_LIMITS: Final = LimitSet.of(())
_encode: Final = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_decode: Final = msgspec.msgpack.Decoder(DirectoryRows).decode


class Directory:
    """Lookups by organization; rows of the system organization serve every tenant."""

    __slots__ = ("_aliases", "_applicable", "_deployments", "_limits", "_plans", "_providers", "betas", "rows")

    def __init__(self, rows: DirectoryRows | None = None) -> None:
        self.rows = rows or DirectoryRows()
        providers = {(each.organization_id, each.name): each for each in self.rows.providers}
        deployments = {(each.organization_id, each.name): each for each in self.rows.deployments}
        self._deployments = deployments
        self._providers = providers
        self._plans: dict[tuple[int, str, int], Plan] = {}
        versions: dict[tuple[UUID, str], dict[int, Placement]] = {}
        for route in self.rows.routes:
            placed = _placed(route, deployments, providers)
            if placed is not None:
                versions.setdefault((route.organization_id, route.alias), {})[route.version] = placed
        self.betas = BetaBook(self.rows.betas)
        weights = {(each.organization_id, each.alias): each for each in self.rows.weights}
        self._aliases: dict[tuple[int, str], Alias] = {}
        for place, found in versions.items():
            weight = weights.get(place)
            stable = found.get(weight.stable_version if weight is not None else max(found))
            if stable is not None:
                self._aliases[place[0].int, place[1]] = Alias(stable, found, weight)
        self._limits: dict[tuple[LimitScope, str], list[Limit]] = {}
        for limit in self.rows.limits:
            self._limits.setdefault((limit.scope, limit.target), []).append(limit)
        self._applicable: dict[tuple[int, int, int, str], LimitSet] = {}

    @classmethod
    def from_bytes(cls, content: bytes) -> "Directory":
        """Return the directory of a snapshot."""
        return cls(_decode(content))

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads."""
        return _encode(self.rows)

    def find(self, organization_id: UUID, alias: str) -> Placement | None:
        """Return where an alias of this organization leads when nothing is tried out."""
        found = self.alias(organization_id, alias)
        return None if found is None else found.stable

    def alias(self, organization_id: UUID, alias: str) -> Alias | None:
        """Return an alias with its versions; an organization's own rows go before the platform's."""
        aliases = self._aliases
        return aliases.get((organization_id.int, alias)) or aliases.get((SYSTEM_ORGANIZATION_ID.int, alias))

    def deployments_of(self, route: Route) -> list[Deployment] | None:
        """Return the deployments that a version names, as its digest counts them; None where one is missing."""
        found = [_deployment(route, name, self._deployments) for name in route.spec.deployments]
        return None if None in found else [each for each in found if each is not None]

    def plan(self, route: Route) -> Plan:
        """Return where a version of this directory may ask; what does not exist any more is left out."""
        place = (route.organization_id.int, route.alias, route.version)
        plan = self._plans.get(place)
        if plan is None:
            spec = route.spec
            targets = [(self._place(route, each.deployment), each.weight) for each in spec.targets]
            fallbacks = [(self._place(route, each.deployment), frozenset(each.on)) for each in spec.fallbacks]
            plan = self._plans[place] = Plan(
                tuple((placed, weight) for placed, weight in targets if placed is not None),
                tuple((placed, on) for placed, on in fallbacks if placed is not None),
            )
        return plan

    def _place(self, route: Route, name: str) -> Placement | None:
        return _place(route, name, self._deployments, self._providers)

    def tried(self) -> Iterable[tuple[Weight, Placement]]:
        """Yield each weight that gives something to another version, with that version."""
        for alias in self._aliases.values():
            weight = alias.weight
            if weight is not None and weight.candidate_version is not None:
                candidate = alias.versions.get(weight.candidate_version)
                if candidate is not None:
                    yield weight, candidate

    def aliases(self, organization_id: UUID, allowed: Iterable[str]) -> list[Route]:
        """Return the routes that a key of this organization may use, by alias."""
        names = frozenset(allowed)
        found = {
            alias: held.stable.route
            for owner in (SYSTEM_ORGANIZATION_ID.int, organization_id.int)
            for (each, alias), held in self._aliases.items()
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
        place = (organization_id.int, workspace_id.int, key_id.int, alias)
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
    found = (_place(route, target.deployment, deployments, providers) for target in route.spec.targets)
    return next((each for each in found if each is not None), None)


def _place(
    route: Route,
    name: str,
    deployments: dict[tuple[UUID, str], Deployment],
    providers: dict[tuple[UUID, str], Provider],
) -> Placement | None:
    deployment = _deployment(route, name, deployments)
    if deployment is None:
        return None
    provider = providers.get((deployment.organization_id, deployment.provider))
    return None if provider is None else Placement(route, deployment, provider)


def _deployment(route: Route, name: str, deployments: dict[tuple[UUID, str], Deployment]) -> Deployment | None:
    owners = (route.organization_id, SYSTEM_ORGANIZATION_ID)
    return next((deployments[owner, name] for owner in owners if (owner, name) in deployments), None)
