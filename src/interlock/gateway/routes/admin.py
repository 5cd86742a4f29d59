"""What control serves of providers, deployments, routes and their weights.

Opens no transaction of its own for a change: the call's holds the change, its audit row and its idempotency.
"""

from typing import Annotated, Any, Final

import msgspec

from interlock.contracts.rollouts import WeightInForce, WeightMode, WeightRefused
from interlock.foundation.control import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.gateway.domain.arms import LEASE_S_MAX
from interlock.gateway.domain.directory import (
    Capabilities,
    Fallback,
    Gate,
    ProviderKind,
    RouteSpec,
    Strategy,
    Target,
    Timeouts,
    Trouble,
)
from interlock.gateway.routes.prices import PriceBody, price_of
from interlock.gateway.service.route_versions import RouteService, RouteWanted, in_force_json
from interlock.gateway.service.upstreams import DeploymentWanted, ProviderWanted, UpstreamService
from interlock.gateway.service.weights import LEASE_S_MIN, Weights, WeightWanted

_WEIGHT_MAX: Final = 1e6
_TIMEOUT_MS_MAX: Final = 3_600_000
_TARGETS_MAX: Final = 32
_TOKEN_CHARS_MAX: Final = 8_192
_WEIGHT_CODES: Final = (
    "verdict_required", "verdict_invalid", "verdict_expired", "verdict_digest_mismatch", "verdict_not_pass",
    "verdict_weight_exceeded",
)  # fmt: skip
_Ms = Annotated[int, msgspec.Meta(gt=0, le=_TIMEOUT_MS_MAX)]


class ProviderBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/providers`."""

    name: str
    kind: ProviderKind
    base_url: str
    secret: str | None = None
    allow_http: bool = False
    platform: bool = False


class CapabilitiesBody(msgspec.Struct, forbid_unknown_fields=True):
    """What a model can do; what is left out is not known."""

    context_tokens: Annotated[int, msgspec.Meta(gt=0, le=1 << 30)] | None = None
    tools: bool | None = None
    vision: bool | None = None
    json_schema: bool | None = None
    embeddings: bool | None = None


class DeploymentBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/deployments`; `price_of` is `PROVIDER/MODEL` of a list of prices that was added."""

    name: str
    provider: str
    upstream_model: str
    price: PriceBody | None = None
    price_of: Annotated[str, msgspec.Meta(min_length=3, max_length=401, pattern="^[\\x21-\\x7e]+$")] | None = None
    max_concurrent: Annotated[int, msgspec.Meta(gt=0, le=1_000_000)] | None = None
    capabilities: CapabilitiesBody = msgspec.field(default_factory=CapabilitiesBody)


class TargetBody(msgspec.Struct, forbid_unknown_fields=True):
    """A deployment of a version."""

    deployment: str
    weight: float = 1.0


class TimeoutsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Bounds of a call, milliseconds."""

    connect: _Ms | None = None
    ttft: _Ms | None = None
    idle: _Ms | None = None
    total: _Ms | None = None


class FallbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """A deployment that is asked when no target answered, and the troubles for which it is."""

    deployment: str
    on: Annotated[list[Trouble], msgspec.Meta(min_length=1, max_length=5)]


class RetryBody(msgspec.Struct, forbid_unknown_fields=True):
    """How often model servers are called for one request, the first call included."""

    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=3)] | None = None


class RouteBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/routes`: a version of an alias."""

    alias: str
    targets: list[TargetBody]
    gate: Gate = Gate.REQUIRED
    timeouts_ms: TimeoutsBody = msgspec.field(default_factory=TimeoutsBody)
    objective_ttft_ms: _Ms | None = None
    strategy: Strategy = Strategy.WEIGHTED
    fallbacks: Annotated[list[FallbackBody], msgspec.Meta(max_length=_TARGETS_MAX)] = []
    degrade_to: str | None = None
    retry: RetryBody = msgspec.field(default_factory=RetryBody)


class WeightBody(msgspec.Struct, forbid_unknown_fields=True):
    """`PUT /admin/v1/routes/{alias}/weights`; `weight` in percent, of units or, in the shadow, of requests to copy."""

    version: int
    weight: float
    mode: WeightMode = WeightMode.CANARY
    verdict_token: str | None = None
    lease_s: float = 60.0


class ProviderObject(msgspec.Struct):
    """A provider as it is answered; its secret never is."""

    id: str
    name: str
    kind: str
    base_url: str | None
    pool: str | None
    has_secret: bool
    platform: bool
    created_at: str
    secret_last4: str | msgspec.UnsetType | None = msgspec.UNSET


class DeploymentObject(msgspec.Struct):
    """A deployment as it is answered."""

    id: str
    name: str
    provider: str
    upstream_model: str
    price: dict[str, str | None] | None
    max_concurrent: int | None
    capabilities: dict[str, Any]
    platform: bool
    created_at: str


class RouteObject(msgspec.Struct):
    """A route as it is answered, with what it gives to whom and all its versions."""

    id: str
    alias: str
    platform: bool
    created_at: str
    stable_version: int
    candidate_version: int | None
    mode: str | None
    weight: float
    effective_weight: float
    expires_at: str | None
    verdict_id: str | None
    epoch: int
    versions: list[dict[str, Any]]


class WeightObject(msgspec.Struct):
    """What holds after a weight was changed."""

    alias: str
    version: int
    effective_weight: float
    expires_at: str | None
    epoch: int


def admin_routes(upstreams: UpstreamService, versions: RouteService, weights: Weights) -> list[Route]:
    """Return the routes of providers, deployments, routes and weights."""
    served = _Served(upstreams, versions, weights)
    weight_path = "/admin/v1/routes/{alias}/weights"
    return [
        _listing("providers", served.providers, list[ProviderObject]),
        _adding("providers", served.add_provider, ProviderBody, ProviderObject),
        _deleting("providers", served.delete_provider, ProviderObject),
        _listing("deployments", served.deployments, list[DeploymentObject]),
        _adding("deployments", served.add_deployment, DeploymentBody, DeploymentObject),
        _deleting("deployments", served.delete_deployment, DeploymentObject),
        _listing("routes", served.routes, list[RouteObject]),
        _adding("routes", served.add_route, RouteBody, None),
        Route(
            "GET", "/admin/v1/routes/{alias}", Level.ORGANIZATION, served.route, "One route with its versions",
            action="admin:read", answer=RouteObject,
        ),
        Route(
            "PUT", weight_path, Level.ORGANIZATION, served.put_weight,
            "Give a version a share of the sticky units, with a live verdict, for as long as the lease is renewed",
            action="admin:write", body=WeightBody, answer=WeightObject, is_mutation=True, codes=_WEIGHT_CODES,
        ),
        Route(
            "DELETE", weight_path, Level.ORGANIZATION, served.rollback, "Give everything to the stable version",
            action="admin:write", answer=WeightObject, is_mutation=True,
        ),
    ]  # fmt: skip


def _listing(kind: str, handler: Any, answer: Any) -> Route:
    path, summary = f"/admin/v1/{kind}", f"All {kind}"
    query = ("organization_id",)
    return Route("GET", path, Level.ORGANIZATION, handler, summary, action="admin:read", answer=answer, query=query)


def _adding(kind: str, handler: Any, body: Any, answer: Any) -> Route:
    return Route(
        "POST", f"/admin/v1/{kind}", Level.ORGANIZATION, handler, f"Add to the {kind}", action="admin:write",
        body=body, answer=answer, status=201, is_mutation=True, codes=("name_taken",),
    )  # fmt: skip


def _deleting(kind: str, handler: Any, answer: Any) -> Route:
    return Route(
        "DELETE", f"/admin/v1/{kind}/{{id}}", Level.ORGANIZATION, handler, f"Delete one of the {kind}, by id or name",
        action="admin:write", answer=answer, is_mutation=True, codes=("in_use",),
    )  # fmt: skip


class _Served:
    def __init__(self, upstreams: UpstreamService, versions: RouteService, weights: Weights) -> None:
        self._upstreams = upstreams
        self._versions = versions
        self._weights = weights

    async def providers(self, call: Call) -> Reply:
        return await _page(call, self._upstreams.providers, "name")

    async def deployments(self, call: Call) -> Reply:
        return await _page(call, self._upstreams.deployments, "name")

    async def routes(self, call: Call) -> Reply:
        return await _page(call, self._versions.page, "alias")

    async def add_provider(self, call: Call) -> Reply:
        body: ProviderBody = call.body
        wanted = ProviderWanted(
            body.name, body.kind, body.base_url, body.secret, allow_http=body.allow_http, is_platform=body.platform
        )
        return Reply(status=201, body=await self._upstreams.add_provider(call.tx, wanted))

    async def add_deployment(self, call: Call) -> Reply:
        body: DeploymentBody = call.body
        if body.price is not None and body.price_of is not None:
            raise _wrong("price_of", "A price is given, or taken from a list.")
        price = body.price_of if body.price is None else price_of(body.price)
        can = Capabilities(**msgspec.structs.asdict(body.capabilities))
        wanted = DeploymentWanted(body.name, body.provider, body.upstream_model, price, body.max_concurrent, can)
        return Reply(status=201, body=await self._upstreams.add_deployment(call.tx, wanted))

    async def add_route(self, call: Call) -> Reply:
        body: RouteBody = call.body
        return Reply(status=201, body=await self._versions.add(call.tx, RouteWanted(body.alias, _spec(body))))

    async def route(self, call: Call) -> Reply:
        return Reply(body=await self._versions.get(call.within, call.params["alias"]))

    async def delete_provider(self, call: Call) -> Reply:
        return Reply(body=await self._upstreams.delete_provider(call.tx, call.params["id"]))

    async def delete_deployment(self, call: Call) -> Reply:
        return Reply(body=await self._upstreams.delete_deployment(call.tx, call.params["id"]))

    async def put_weight(self, call: Call) -> Reply:
        body: WeightBody = call.body
        if not 0 <= body.weight <= 100 or not 0 <= body.version < 2**31:
            raise _wrong("weight", "`weight` is a percentage from 0 to 100, `version` the number of a version.")
        if not LEASE_S_MIN <= body.lease_s <= LEASE_S_MAX:
            raise _wrong("lease_s", f"`lease_s` is from {LEASE_S_MIN:g} to {LEASE_S_MAX:g}.")
        if body.verdict_token is not None and len(body.verdict_token) > _TOKEN_CHARS_MAX:
            raise InterlockError("verdict_invalid")
        wanted = WeightWanted(body.version, body.weight, body.mode, body.verdict_token, body.lease_s)
        return _weighed(await self._weights.set(call.tx, call.params["alias"], wanted))

    async def rollback(self, call: Call) -> Reply:
        return _weighed(await self._weights.rollback(call.tx, call.params["alias"], None))


def _spec(body: RouteBody) -> RouteSpec:
    """Return a version as it was asked for. Raises `invalid_request`."""
    names = [each.deployment for each in body.targets]
    if not 1 <= len(names) <= _TARGETS_MAX or len(set(names)) != len(names):
        raise _wrong("targets", f"A version has 1 to {_TARGETS_MAX} targets, each deployment once.")
    if not all(0 < each.weight < _WEIGHT_MAX for each in body.targets):
        raise _wrong("targets", f"The `weight` of a target is a number above 0 and below {_WEIGHT_MAX:g}.")
    spares = [each.deployment for each in body.fallbacks]
    if len(set(spares)) != len(spares):
        raise _wrong("fallbacks", "Each deployment falls back once.")
    if body.degrade_to == body.alias:
        raise _wrong("degrade_to", "`degrade_to` is another alias.")
    # Of one target the weight says nothing, and two versions that differ in it would be one artifact with two digests.
    weights = [each.weight for each in body.targets] if len(names) > 1 else [1.0]
    return RouteSpec(
        targets=tuple(Target(name, weight) for name, weight in zip(names, weights, strict=True)),
        timeouts_ms=Timeouts(**msgspec.structs.asdict(body.timeouts_ms)),
        gate=body.gate,
        objective_ttft_ms=body.objective_ttft_ms,
        strategy=body.strategy,
        fallbacks=tuple(Fallback(each.deployment, tuple(dict.fromkeys(each.on))) for each in body.fallbacks),
        degrade_to=body.degrade_to,
        attempts_max=body.retry.attempts_max,
    )


async def _page(call: Call, read: Any, name: str) -> Reply:
    page = call.page
    after = str(page.after[0]) if page.after else ""
    found = await read(call.within, call.query.get("organization_id"), after, page.limit_plus_one)
    kept, position = page.cut(found, lambda each: (each[name],))
    return call.listed(kept, position)


def _weighed(found: WeightInForce | WeightRefused) -> Reply:
    if isinstance(found, WeightRefused):
        raise InterlockError(found.code, found.message, detail=found.detail)
    return Reply(body=in_force_json(found))


def _wrong(field: str, message: str) -> InterlockError:
    return InterlockError("invalid_request", message, detail={"field": field})
