"""What a route gives to whom: weights that rise with a live verdict only, hold by lease, and fall by themselves.

Decides no rollout; whoever does calls this. Every refusal is audited, in a transaction of its own.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from interlock.contracts.arms import ArmSecond
from interlock.contracts.gates import Admitted, TokenRefused, TokenUse, VerdictVerifier, VerifyingKeys
from interlock.contracts.rollouts import RouteVersion, WeightInForce, WeightMode, WeightRefused
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.errors import ERRORS
from interlock.foundation.flags import bump
from interlock.foundation.identity import IdentityService
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, OrganizationId
from interlock.foundation.scope import Scope
from interlock.foundation.store import Transaction
from interlock.gateway.domain.arms import WHOLE_BP, state_of, weight_in_force_bp
from interlock.gateway.domain.directory import Gate, Weight
from interlock.gateway.domain.versions import digest_of
from interlock.gateway.service.upstreams import PLATFORM, parsed
from interlock.gateway.store import routes as rows
from interlock.gateway.store.arms import read_counts

LEASE_S_MIN: Final = 1.0


@dataclass(frozen=True, slots=True)
class WeightWanted:
    """A weight in percent for a version, as it was asked for."""

    version: int
    weight: float
    mode: WeightMode
    token: str | None
    lease_s: float


class Weights:
    """The weights of routes, within the transaction of whoever changes them."""

    def __init__(
        self,
        identity: IdentityService,
        verifier: VerdictVerifier,
        verifying: VerifyingKeys,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._identity = identity
        self._verifier = verifier
        self._verifying = verifying
        self._audit = audit
        self._clock = clock

    @asynccontextmanager
    async def found(
        self, tx: Transaction, named: str, *, is_locked: bool = False
    ) -> AsyncIterator[tuple[Transaction, rows.RouteRow | None]]:
        """Yield a route by alias or id, and the transaction that acts where it lives.

        The caller's own goes before the platform's, which are there for the platform's operator only.
        """
        route_id = parsed("route", named)
        route = await rows.find_route(tx, tx.scope.organization_id, named, route_id, is_locked=is_locked)
        if route is not None or not tx.scope.principal.is_platform_operator:
            yield tx, route
            return
        async with self._identity.acting(tx, PLATFORM) as inside:
            owner = SYSTEM_ORGANIZATION_ID
            yield inside, await rows.find_route(inside, owner, named, route_id, is_locked=is_locked)

    async def set(self, tx: Transaction, named: str, wanted: WeightWanted) -> WeightInForce | WeightRefused:
        """Put a weight into force, or say why not. A lower weight of the same version needs no token."""
        async with self.found(tx, named, is_locked=True) as (inside, route):
            if route is None:
                return _not_found(named)
            version = await self._version(inside, route, wanted.version)
            if version is None:
                return _not_found(f"{named}@{wanted.version}")
            if wanted.version == route.weight.stable_version:
                return await self._set_stable(inside, route, wanted)
            verdict = await self._admit(route, version, wanted)
            if isinstance(verdict, WeightRefused):
                await self._refused(tx.scope, route, wanted, verdict)
                return verdict
            return await self._put(inside, self._raised(route.weight, wanted, verdict), "route.weight", None)

    async def freeze(self, tx: Transaction, named: str, lease_s: float) -> WeightInForce | WeightRefused:
        """Renew the lease of the weight that is in force. One that has lapsed needs a verdict again."""
        async with self.found(tx, named, is_locked=True) as (inside, route):
            if route is None:
                return _not_found(named)
            now_us, weight = self._clock.now_us(), route.weight
            if not weight_in_force_bp(weight, now_us):
                return _refusal("verdict_required", "No weight is in force; its lease has ended.")
            ends_us = now_us + round(lease_s * 1e6)
            if weight.verdict_expires_us is not None:
                ends_us = min(ends_us, weight.verdict_expires_us)
            return await self._put(inside, msgspec.structs.replace(weight, expires_us=ends_us), "route.freeze", None)

    async def rollback(self, tx: Transaction, named: str, reason: str | None) -> WeightInForce | WeightRefused:
        """Give everything to the stable version."""
        async with self.found(tx, named, is_locked=True) as (inside, route):
            if route is None:
                return _not_found(named)
            fresh = Weight(route.organization_id, route.alias, route.weight.stable_version)
            detail = {"from_version": route.weight.candidate_version}
            return await self._put(inside, fresh, "route.rollback", reason, detail)

    async def resolve(self, tx: Transaction, named: str, version: int | None) -> RouteVersion | None:
        """Return a version of a route, the stable one where none is named."""
        async with self.found(tx, named) as (inside, route):
            if route is None:
                return None
            wanted = route.weight.stable_version if version is None else version
            found = await self._version(inside, route, wanted)
            if found is None:
                return None
            state = state_of(wanted, route.weight, self._clock.now_us())
            stable, objective_ms = route.weight.stable_version, found.spec.objective_ttft_ms
            return RouteVersion(route.alias, wanted, found.digest, state, stable, objective_ms)

    async def _version(self, tx: Transaction, route: rows.RouteRow, version: int) -> rows.VersionRow | None:
        found = await rows.versions_of(tx, route.organization_id, [route.alias])
        return next((each for each in found.get(route.alias, ()) if each.version == version), None)

    async def _set_stable(
        self, tx: Transaction, route: rows.RouteRow, wanted: WeightWanted
    ) -> WeightInForce | WeightRefused:
        """A weight for the version that has everything anyway: 100 is what is, less would be for nobody."""
        if wanted.weight != 100 or wanted.mode is WeightMode.SHADOW:
            return WeightRefused("invalid_request", 400, "The stable version has what no other one is given.")
        fresh = Weight(route.organization_id, route.alias, route.weight.stable_version)
        return await self._put(tx, fresh, "route.weight", None)

    async def _admit(
        self, route: rows.RouteRow, version: rows.VersionRow, wanted: WeightWanted
    ) -> Admitted | WeightRefused | None:
        """Return the verdict that admits the weight, None where none is needed, or the refusal."""
        now_us, held = self._clock.now_us(), route.weight
        in_force_bp = weight_in_force_bp(held, now_us) if held.candidate_version == wanted.version else 0
        is_rising = _basis_points(wanted.weight) > in_force_bp or wanted.mode != held.mode
        if version.spec.gate is Gate.OFF or (not is_rising and wanted.token is None):
            return None
        if wanted.token is None:
            return _refusal("verdict_required")
        async with self._identity.store.ops("deployments of a version, the platform's too") as looking:
            named = await rows.deployments_named(looking, route.organization_id, version.spec)
        if named is None or digest_of(version.spec, named) != version.digest:
            return _refusal("verdict_digest_mismatch", "A deployment of the version is not what it was.")
        use = TokenUse(OrganizationId(route.organization_id), route.alias, version.digest, wanted.weight, now_us)
        found = self._verifier.verify(wanted.token, use, await self._verifying.load())
        return _refusal(found.code) if isinstance(found, TokenRefused) else found

    def _raised(self, held: Weight, wanted: WeightWanted, verdict: Admitted | None) -> Weight:
        """Return the row as it shall be."""
        now_us, weight_bp = self._clock.now_us(), _basis_points(wanted.weight)
        place = (held.organization_id, held.alias)
        if weight_bp >= WHOLE_BP and wanted.mode is WeightMode.CANARY:
            return Weight(*place, stable_version=wanted.version)
        if weight_bp == 0:
            return Weight(*place, stable_version=held.stable_version)
        is_same = held.candidate_version == wanted.version and held.mode == wanted.mode
        is_rising = not is_same or weight_bp > weight_in_force_bp(held, now_us)
        ends_us = now_us + round(wanted.lease_s * 1e6)
        proof: tuple[str | None, str | None, int | None] = (None, None, None)
        if verdict is not None:
            proof = (verdict.verdict_id, wanted.token, verdict.expires_at_us)
        elif is_same:
            proof = (held.verdict_id, held.verdict_token, held.verdict_expires_us)
        verdict_id, token, verdict_ends_us = proof
        if verdict_ends_us is not None:
            ends_us = min(ends_us, verdict_ends_us)
        return Weight(
            *place,
            held.stable_version,
            wanted.version,
            str(wanted.mode),
            weight_bp,
            verdict_id,
            token,
            verdict_ends_us,
            ends_us,
            now_us if is_rising else held.rose_us,
        )

    async def _put(
        self, tx: Transaction, weight: Weight, action: str, reason: str | None, detail: dict[str, Any] | None = None
    ) -> WeightInForce:
        epoch = await bump(tx, "routes")
        weight = msgspec.structs.replace(weight, epoch=epoch)
        await rows.put_weight(tx, weight)
        told = {
            "version": weight.candidate_version or weight.stable_version,
            "weight": weight.weight_bp / 100 if weight.candidate_version else 100,
            "mode": weight.mode,
            "verdict_id": weight.verdict_id,
            "expires_at": None if weight.expires_us is None else rfc3339(weight.expires_us),
            **(detail or {}),
        }
        await self._audit.append(tx, AuditEntry(action, "route", weight.alias, reason=reason, detail=told))
        return in_force(weight)

    async def _refused(self, scope: Scope, route: rows.RouteRow, wanted: WeightWanted, refusal: WeightRefused) -> None:
        detail = {
            "version": wanted.version,
            "weight": wanted.weight,
            "code": refusal.code,
            "platform": route.organization_id == SYSTEM_ORGANIZATION_ID,
        }
        entry = AuditEntry("route.weight", "route", route.alias, outcome="refused", reason=refusal.code, detail=detail)
        async with self._identity.store.transaction(scope) as tx:
            await self._audit.append(tx, entry)


class Actuator:
    """`contracts.rollouts.RolloutActuator` and `contracts.arms.ArmCounts`: each call is a transaction of its own."""

    def __init__(self, weights: Weights, identity: IdentityService) -> None:
        self._weights = weights
        self._store = identity.store

    async def resolve(self, scope: Scope, route: str, version: int | None = None) -> RouteVersion | None:
        """Return a version of a route, the stable one where none is named; None where the scope has no such route."""
        async with self._store.transaction(scope) as tx:
            return await self._weights.resolve(tx, route, version)

    async def set_weight(
        self, scope: Scope, version: RouteVersion, weight: float, *, token: str, lease_s: float, mode: WeightMode
    ) -> WeightInForce | WeightRefused:
        """Put a weight in percent into force; 100 makes the version stable, without a lease."""
        wanted = WeightWanted(version.version, weight, mode, token or None, lease_s)
        return await self._store.run(scope, lambda tx: self._weights.set(tx, version.route, wanted))

    async def freeze(self, scope: Scope, route: str, lease_s: float) -> WeightInForce | WeightRefused:
        """Keep the weight and renew its lease, never beyond the expiry of the verdict that admitted it."""
        return await self._store.run(scope, lambda tx: self._weights.freeze(tx, route, lease_s))

    async def rollback(self, scope: Scope, route: str, reason: str) -> WeightInForce | WeightRefused:
        """Give everything to the stable version. Needs no token and waits for nobody."""
        return await self._store.run(scope, lambda tx: self._weights.rollback(tx, route, reason))

    async def read(self, scope: Scope, route: str, *, since_second: int, until_second: int) -> list[ArmSecond]:
        """Return `since_second <= second < until_second`, oldest first; a second is complete two seconds later."""
        async with self._store.transaction(scope) as tx:
            async with self._weights.found(tx, route) as (inside, found):
                if found is None:
                    return []
                return await read_counts(inside, found.organization_id, found.alias, since_second, until_second)


def in_force(weight: Weight) -> WeightInForce:
    """Return what a row puts into force."""
    if weight.candidate_version is None:
        return WeightInForce(weight.alias, weight.stable_version, 100.0, None, weight.epoch)
    share = weight.weight_bp / 100
    return WeightInForce(weight.alias, weight.candidate_version, share, weight.expires_us, weight.epoch)


def _basis_points(percent: float) -> int:
    return round(percent * 100)


def _refusal(code: str, message: str | None = None) -> WeightRefused:
    return WeightRefused(code, ERRORS[code].http_status, message or ERRORS[code].message)


def _not_found(named: str) -> WeightRefused:
    return WeightRefused("not_found", 404, f"There is no route {named[:128]!r}.")
