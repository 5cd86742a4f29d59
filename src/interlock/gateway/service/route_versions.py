"""Routes and their versions as an administrator sees them: added, listed, shown; a version is never changed.

Gives no version any traffic but the first of a new alias, which has no callers yet; `weights.py` does.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.contracts.rollouts import WeightInForce
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.identity import IdentityService
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory, format_id
from interlock.foundation.scope import Role, Scope
from interlock.foundation.store import Transaction
from interlock.gateway.domain.arms import state_of, weight_in_force_bp
from interlock.gateway.domain.directory import Gate, RouteSpec, Weight
from interlock.gateway.domain.versions import canonical_spec, digest_of
from interlock.gateway.service.upstreams import listing, require_name
from interlock.gateway.service.weights import Weights
from interlock.gateway.store import routes as rows

ALIASES_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class RouteWanted:
    """A version of an alias as it was asked for."""

    alias: str
    spec: RouteSpec


class RouteService:
    """Use cases of `/admin/v1/routes`."""

    def __init__(
        self, identity: IdentityService, weights: Weights, audit: AuditLog, clock: Clock, ids: IdFactory
    ) -> None:
        self._identity = identity
        self._weights = weights
        self._audit = audit
        self._clock = clock
        self._ids = ids

    async def add(self, tx: Transaction, wanted: RouteWanted) -> dict[str, Any]:
        """Add a version: the first of an alias is stable, a later one a draft. Raises `not_found`, `role_denied`."""
        require_name(wanted.alias, "alias")
        scope = tx.scope
        if wanted.spec.gate is Gate.OFF and not _is_owner(scope):
            raise InterlockError(
                "role_denied", "Only an owner turns the gate of a route off.", detail={"field": "gate"}
            )
        organization_id = scope.organization_id
        async with self._identity.store.ops("deployments of a new version, the platform's too") as looking:
            named = await rows.deployments_named(looking, organization_id, wanted.spec)
        if named is None:
            raise InterlockError("not_found", "There is no such deployment.", detail={"field": "targets"})
        lesser = wanted.spec.degrade_to
        if lesser is not None:
            async with self._identity.store.ops("the alias that a version degrades to") as looking:
                if not await rows.is_alias(looking, organization_id, lesser):
                    raise InterlockError("not_found", "There is no such alias.", detail={"field": "degrade_to"})
        content = (canonical_spec(wanted.spec), digest_of(wanted.spec, named))
        now_us = self._clock.now_us()
        place = (organization_id, wanted.alias)
        version, _ = await rows.add_version(tx, place, self._ids.new(), content, now_us)
        detail = {"version": version, "digest": content[1], "gate": str(wanted.spec.gate)}
        await self._audit.append(tx, AuditEntry("route.version", "route", wanted.alias, detail=detail))
        route = await rows.find_route(tx, organization_id, wanted.alias, None)
        if route is None:
            raise InterlockError("internal_error")
        await bump(tx, "routes")
        found = (await rows.versions_of(tx, organization_id, [wanted.alias]))[wanted.alias]
        return {
            **route_json(route, found, now_us),
            **_version_json(next(each for each in found if each.version == version), route.weight, now_us),
        }

    async def page(self, scope: Scope, organization: str | None, after: str, count: int) -> list[dict[str, Any]]:
        """Return routes by alias, those behind `after`, each with its versions."""
        async with listing(self._identity, scope, organization) as (tx, owners):
            found = await rows.list_routes(tx, owners, after, count)
        now_us = self._clock.now_us()
        return [route_json(each, versions, now_us) for each, versions in found]

    async def aliases(self, scope: Scope, allowed: Iterable[str]) -> list[str]:
        """Return what a key for these models may ask for: aliases of the organization and of the platform, by name."""
        names = frozenset(allowed)
        async with self._identity.store.ops("aliases that a caller may ask for, the platform's too") as tx:
            found = await rows.list_routes(tx, (scope.organization_id, SYSTEM_ORGANIZATION_ID), "", ALIASES_MAX)
        return [route.alias for route, _ in found if "*" in names or route.alias in names]

    async def get(self, scope: Scope, named: str) -> dict[str, Any]:
        """Return one route by alias or id. Raises `not_found`."""
        async with self._identity.store.transaction(scope) as tx, self._weights.found(tx, named) as (inside, route):
            if route is None:
                raise InterlockError("not_found")
            versions = await rows.versions_of(inside, route.organization_id, [route.alias])
        return route_json(route, versions.get(route.alias, []), self._clock.now_us())


def route_json(route: rows.RouteRow, versions: list[rows.VersionRow], now_us: int) -> dict[str, Any]:
    """Return the public object of a route, its newest version first."""
    weight = route.weight
    return {
        "id": format_id("route", route.id),
        "alias": route.alias,
        "platform": route.organization_id == SYSTEM_ORGANIZATION_ID,
        "created_at": rfc3339(route.created_us),
        "stable_version": weight.stable_version,
        **weight_json(weight, now_us),
        "versions": [_version_json(each, weight, now_us) for each in versions],
    }


def weight_json(weight: Weight, now_us: int) -> dict[str, Any]:
    """Return what a route gives to another version than the stable one, and until when."""
    return {
        "candidate_version": weight.candidate_version,
        "mode": weight.mode,
        "weight": weight.weight_bp / 100,
        "effective_weight": weight_in_force_bp(weight, now_us) / 100,
        "expires_at": None if weight.expires_us is None else rfc3339(weight.expires_us),
        "verdict_id": weight.verdict_id,
        "epoch": weight.epoch,
    }


def in_force_json(found: WeightInForce) -> dict[str, Any]:
    """Return the answer of a call that changed a weight."""
    return {
        "alias": found.route,
        "version": found.version,
        "effective_weight": found.weight,
        "expires_at": None if found.expires_at_us is None else rfc3339(found.expires_at_us),
        "epoch": found.epoch,
    }


def _version_json(version: rows.VersionRow, weight: Weight, now_us: int) -> dict[str, Any]:
    return {
        "version": version.version,
        "digest": version.digest,
        "state": state_of(version.version, weight, now_us),
        **{name: value for name, value in msgspec.to_builtins(version.spec).items() if name != "attempts_max"},
        "retry": {"attempts_max": version.spec.attempts_max},
        "created_at": rfc3339(version.created_us),
    }


def _is_owner(scope: Scope) -> bool:
    held: list[tuple[Role, UUID | None]] = [(each.role, each.workspace_id) for each in scope.principal.memberships]
    return (Role.OWNER, None) in held
