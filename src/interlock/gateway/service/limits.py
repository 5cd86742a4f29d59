"""Limits as an administrator sees them: set, listed, deleted, explained.

Decides about no request; the store's function does, with the same figures.
"""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.identity import IdentityService
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, IdFactory, MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope
from interlock.foundation.store import Queries, Transaction
from interlock.gateway import store as rows
from interlock.gateway.domain.buckets import MICRO, bucket_of
from interlock.gateway.domain.directory import Dimension, Directory, DirectoryRows, Limit, LimitMode, LimitScope
from interlock.gateway.domain.limits import Fill, limit_units

SQL = Queries("interlock.gateway")
LIMIT_MAX: Final = 10**12
_FIRST: Final = UUID(int=0)
_KINDS: Final = {LimitScope.ORGANIZATION: "org", LimitScope.WORKSPACE: "ws", LimitScope.KEY: "key"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A limit as it was asked for."""

    scope: LimitScope
    target: str
    dimension: Dimension
    model: str
    limit: int
    burst: int
    mode: LimitMode


class LimitsService:
    """Use cases of `/admin/v1/limits`. The platform's operator may name what belongs to any organization."""

    def __init__(self, identity: IdentityService, audit: AuditLog, clock: Clock, ids: IdFactory) -> None:
        self._identity = identity
        self._store = identity.store
        self._audit = audit
        self._clock = clock
        self._ids = ids

    async def put(self, tx: Transaction, wanted: Wanted) -> Limit:
        """Add or replace a limit; every edge knows it within a second. Raises `not_found`, `role_denied`."""
        async with self._identity.acting(tx, await self._owner(tx.scope, wanted)) as inside:
            scope = inside.scope
            limit = await rows.put_limit(
                scope,
                inside,
                Limit(
                    id=self._ids.new(),
                    organization_id=scope.organization_id,
                    scope=wanted.scope,
                    target=await self._target(inside, wanted),
                    dimension=wanted.dimension,
                    model=wanted.model,
                    limit=wanted.limit,
                    burst=wanted.burst,
                    mode=wanted.mode,
                    version=1,
                ),
            )
            await self._changed(inside, "limit.set", limit)
        await bump(tx, "limits")
        return limit

    async def delete(self, tx: Transaction, limit_id: str) -> Limit:
        """Delete a limit. Raises `not_found`."""
        identity = _parsed("limit", limit_id)
        if identity is None:
            raise InterlockError("not_found")
        owner = None
        if tx.scope.principal.is_platform_operator:
            async with self._store.ops("where a limit belongs, for the platform's operator") as lookup:
                owner = await lookup.fetchval(SQL.limit_tenant, identity)
        async with self._identity.acting(tx, None if owner is None else format_id("org", owner)) as inside:
            limit = await rows.delete_limit(inside.scope, inside, identity)
            if limit is None:
                raise InterlockError("not_found")
            await self._changed(inside, "limit.delete", limit)
        await bump(tx, "limits")
        return limit

    async def page(self, scope: Scope, organization: str | None, after: UUID | None, count: int) -> list[Limit]:
        """Return up to `count` limits behind `after`: the caller's, or all of them for the platform's operator."""
        if organization is None and scope.principal.is_platform_operator:
            async with self._store.ops("limits, for the platform's operator") as tx:
                return await rows.all_limits(tx, after or _FIRST, count)
        within = await self._identity.scope_in(scope, organization)
        async with self._store.transaction(within) as tx:
            return await rows.list_limits(within, tx, after or _FIRST, count)

    async def filled(self, scope: Scope, after: UUID, count: int) -> list[dict[str, Any]]:
        """Return limits of the organization by id, those behind `after`, each with its fill."""
        async with self._store.transaction(scope) as tx:
            limits = await rows.list_limits(scope, tx, after, count)
            fills = await rows.fills(scope, tx, [limit.id for limit in limits])
        organization_id, now_us = scope.organization_id, self._clock.now_us()
        return [
            {**_explained(each, organization_id, fills.get(each.id), now_us), "target": limit_json(each)["target"]}
            for each in limits
        ]

    async def explain(self, scope: Scope, key: str, model: str) -> list[dict[str, Any]]:
        """Return the limits that apply to a key and a model, each with its fill. Raises `not_found`."""
        within = await self._identity.scope_in(scope, await self._identity.owner_of(scope, "key", key))
        organization_id = within.organization_id
        async with self._store.transaction(within) as tx:
            place = await tx.fetchrow(SQL.key_place, organization_id, _parsed("key", key), key)
            if place is None:
                raise InterlockError("not_found")
            tier = await tx.fetchval(SQL.organization_tier, organization_id)
        async with self._store.ops("limits of a tier are the platform's") as tx:
            limits = await rows.limits_of(within, tx, tier)
        tiers = {str(organization_id): tier} if tier is not None else {}
        directory = Directory(DirectoryRows(limits=tuple(limits), tiers=tiers))
        applicable = directory.limits_for(organization_id, place["workspace_id"], place["id"], model).limits
        async with self._store.transaction(within) as tx:
            fills = await rows.fills(within, tx, [limit.id for limit in applicable])
        now_us = self._clock.now_us()
        return [_explained(limit, organization_id, fills.get(limit.id), now_us) for limit in applicable]

    async def _owner(self, scope: Scope, wanted: Wanted) -> str | None:
        """Return the organization that the limit belongs to; None stands for the caller's own."""
        if wanted.scope is LimitScope.TIER:
            if not scope.principal.is_platform_operator:
                raise InterlockError("role_denied", "Limits of a tier are the platform operator's.")
            return format_id("org", SYSTEM_ORGANIZATION_ID)
        if wanted.scope is LimitScope.ORGANIZATION:
            return wanted.target
        return await self._identity.owner_of(scope, _KINDS[wanted.scope], wanted.target)

    async def _target(self, tx: Transaction, wanted: Wanted) -> str:
        """Return what the limit's row names: the uuid of an object that exists, or the name of a tier."""
        text, organization_id = wanted.target, tx.scope.organization_id
        if wanted.scope is LimitScope.TIER:
            return text
        if wanted.scope is LimitScope.ORGANIZATION:
            return str(organization_id)
        identity = _parsed(_KINDS[wanted.scope], text)
        if wanted.scope is LimitScope.KEY:
            row = await tx.fetchrow(SQL.key_place, organization_id, identity, text)
            found = row["id"] if row is not None else None
        else:
            found = await tx.fetchval(SQL.workspace_named, organization_id, identity, text)
        if found is None:
            raise InterlockError("not_found", f"No {wanted.scope} {text[:128]!r}.", detail={"field": "target"})
        return str(found)

    async def _changed(self, tx: Transaction, action: str, limit: Limit) -> None:
        detail = {name: value for name, value in limit_json(limit).items() if name != "id"}
        target_id = format_id("limit", limit.id)
        await self._audit.append(tx, AuditEntry(action, "limit", target_id, outcome="ok", detail=detail))


def limit_json(limit: Limit) -> dict[str, Any]:
    """Return the public object of a limit."""
    kind = _KINDS.get(limit.scope)
    return {
        "id": format_id("limit", limit.id),
        "scope": str(limit.scope),
        "target": format_id(kind, UUID(limit.target)) if kind is not None else limit.target,
        "dimension": str(limit.dimension),
        "model": limit.model,
        "limit": limit_units(limit),
        "burst": limit_units(limit, limit.burst),
        "mode": str(limit.mode),
        "version": limit.version,
    }


def _explained(limit: Limit, organization_id: UUID, filled: tuple[int, int] | None, now_us: int) -> dict[str, Any]:
    bucket = bucket_of(organization_id, limit)
    level_micro, observed = filled if filled is not None else (bucket.burst_micro, 0)
    least = 1 if limit.dimension.is_usd else MICRO
    fill = Fill(limit, bucket, least, level_micro, is_short=level_micro < least, at_us=now_us)
    return {
        **{name: value for name, value in limit_json(limit).items() if name not in ("target", "version")},
        "used": fill.used,
        "retry_at": rfc3339(now_us + round(fill.wait_s * MICRO)) if fill.is_short else None,
        "refused_24h": observed,
    }


def _parsed(kind: str, text: str) -> UUID | None:
    try:
        return parse_id(kind, text)
    except (MalformedIdError, IndexError):
        return None
