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
from interlock.foundation.ids import IdFactory, MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope
from interlock.foundation.store import Queries, Store, Transaction
from interlock.gateway import store as rows
from interlock.gateway.domain.directory import Dimension, Directory, DirectoryRows, Limit, LimitMode, LimitScope
from interlock.gateway.domain.limits import MICRO, Fill

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
    """Use cases of `/admin/v1/limits`."""

    def __init__(self, store: Store, audit: AuditLog, clock: Clock, ids: IdFactory) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._ids = ids

    async def put(self, tx: Transaction, scope: Scope, wanted: Wanted) -> Limit:
        """Add or replace a limit; every edge knows it within a second."""
        target = await self._target(tx, scope, wanted)
        limit = await rows.put_limit(
            scope,
            tx,
            Limit(
                id=self._ids.new(),
                organization_id=scope.organization_id,
                scope=wanted.scope,
                target=str(target),
                dimension=wanted.dimension,
                model=wanted.model,
                limit=wanted.limit,
                burst=wanted.burst,
                mode=wanted.mode,
                version=1,
            ),
        )
        await self._changed(tx, "limit.set", limit)
        return limit

    async def delete(self, tx: Transaction, scope: Scope, limit_id: str) -> Limit:
        """Delete a limit. Raises `not_found`."""
        try:
            limit = await rows.delete_limit(scope, tx, parse_id("limit", limit_id))
        except (MalformedIdError, IndexError) as error:
            raise InterlockError("not_found") from error
        if limit is None:
            raise InterlockError("not_found")
        await self._changed(tx, "limit.delete", limit)
        return limit

    async def page(self, scope: Scope, after: UUID | None, count: int) -> list[Limit]:
        """Return up to `count` limits behind `after`."""
        async with self._store.transaction(scope) as tx:
            return await rows.list_limits(scope, tx, after or _FIRST, count)

    async def explain(self, scope: Scope, key: str, model: str) -> list[dict[str, Any]]:
        """Return the limits that apply to a key and a model, each with its fill. Raises `not_found`."""
        async with self._store.transaction(scope) as tx:
            place = await tx.fetchrow(SQL.key_place, scope.organization_id, _parsed("key", key), key)
            if place is None:
                raise InterlockError("not_found")
            limits: list[Limit] = []
            while batch := await rows.list_limits(scope, tx, limits[-1].id if limits else _FIRST, 1_000):
                limits += batch
            directory = Directory(DirectoryRows(limits=tuple(limits)))
            applicable = directory.limits_for(
                scope.organization_id, UUID(int=place["workspace_id"].int), UUID(int=place["id"].int), model
            )
            fills = await rows.fills(scope, tx, [limit.id for limit in applicable])
        now_us = self._clock.now_us()
        return [_explained(limit, fills.get(limit.id), now_us) for limit in applicable]

    async def _target(self, tx: Transaction, scope: Scope, wanted: Wanted) -> UUID:
        text = wanted.target
        if wanted.scope is LimitScope.TIER:
            raise InterlockError("invalid_request", "Limits of a tier are set by the platform's own configuration.")
        identity = _parsed(_KINDS[wanted.scope], text)
        if wanted.scope is LimitScope.KEY:
            row = await tx.fetchrow(SQL.key_place, scope.organization_id, identity, text)
            found = row["id"] if row is not None else None
        elif wanted.scope is LimitScope.WORKSPACE:
            found = await tx.fetchval(SQL.workspace_named, scope.organization_id, identity, text)
        else:
            found = await tx.fetchval(SQL.organization_named, scope.organization_id, identity, text)
        if found is None:
            raise InterlockError("not_found", f"No {wanted.scope} {text[:128]!r}.", detail={"field": "target"})
        return UUID(int=found.int)

    async def _changed(self, tx: Transaction, action: str, limit: Limit) -> None:
        detail = {name: value for name, value in limit_json(limit).items() if name != "id"}
        await self._audit.append(
            tx,
            AuditEntry(
                action=action,
                target_kind="limit",
                target_id=format_id("limit", limit.id),
                outcome="ok",
                reason=None,
                detail=detail,
            ),
        )
        await bump(tx, "limits")


def limit_json(limit: Limit) -> dict[str, Any]:
    """Return the public object of a limit."""
    kind = _KINDS.get(limit.scope)
    return {
        "id": format_id("limit", limit.id),
        "scope": str(limit.scope),
        "target": format_id(kind, UUID(limit.target)) if kind is not None else limit.target,
        "dimension": str(limit.dimension),
        "model": limit.model,
        "limit": limit.limit,
        "burst": limit.burst,
        "mode": str(limit.mode),
        "version": limit.version,
    }


def _explained(limit: Limit, filled: tuple[int, int] | None, now_us: int) -> dict[str, Any]:
    level_micro, observed = filled if filled is not None else (limit.burst * MICRO, 0)
    fill = Fill(limit, 1, level_micro, is_short=level_micro < MICRO)
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
