"""Use cases of API keys: create, rotate, revoke, and when they were last used.

The text of a key leaves this module once, in the answer of `create` or `rotate`.
"""

import ipaddress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.identity.authenticate import Authenticator
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.domain.keys import NewKey, hash_key, make_key
from interlock.foundation.identity.domain.policy import ALL_SCOPES, roles_of
from interlock.foundation.identity.service import NO_ID, IdentityService, Row
from interlock.foundation.ids import IdFactory, MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Role, Scope
from interlock.foundation.store import Store, Transaction


@dataclass(frozen=True, slots=True)
class KeyWanted:
    """What a key shall be able to do. `service_account` None makes an account of the key's own."""

    workspace: str
    name: str
    scopes: tuple[str, ...] = ("inference",)
    models: tuple[str, ...] = ("*",)
    cidrs: tuple[str, ...] = ()
    expires_us: int | None = None
    class_max: str | None = None
    service_account: str | None = None


class KeyService:
    """Keys of workspaces."""

    def __init__(
        self,
        identity: IdentityService,
        audit: AuditLog,
        clock: Clock,
        dice: Dice,
        ids: IdFactory,
        pepper: bytes,
    ) -> None:
        self._identity = identity
        self._audit = audit
        self._clock = clock
        self._dice = dice
        self._ids = ids
        self._pepper = pepper

    async def create(self, tx: Transaction, wanted: KeyWanted) -> tuple[Row, str]:
        """Return the row and the text of a new key. Raises `role_denied`, `invalid_request`, `not_found`."""
        _check(wanted)
        workspace = await self._identity.get(tx, "workspace", wanted.workspace)
        made = make_key("live", self._dice)
        if wanted.service_account is None:
            name = f"{wanted.name} {made.lookup}"
            account = await self._identity.create_service_account(tx, workspace["id"], name)
        else:
            account = await self._identity.get(tx, "service_account", wanted.service_account)
        await self._require_roles(tx, account["id"], wanted.scopes)
        owner = (account["id"], "service_account")
        return await self._insert(tx, workspace["id"], owner, wanted, made)

    async def listed(self, scope: Scope, after: UUID, limit: int) -> list[Row]:
        """Return a page of keys, without secrets."""
        return await self._identity.listed(scope, SQL.list_keys, after, limit)

    async def get(self, tx: Transaction, named: str) -> Row:
        """Return a key by id or look-up part. Raises `not_found`."""
        row = await tx.fetchrow(SQL.get_key, tx.scope.organization_id, _key_id(named) or NO_ID, named)
        if row is None:
            raise InterlockError("not_found")
        return row

    async def rotate(self, tx: Transaction, named: str, overlap_s: int) -> tuple[Row, str]:
        """Return a new key with the same rights; the old one goes on for `overlap_s`."""
        old = await self.get(tx, named)
        if old["revoked_us"] is not None:
            raise InterlockError("in_use", "A revoked key cannot be rotated.")
        wanted = KeyWanted(
            workspace="",
            name=old["name"],
            scopes=tuple(old["scopes"]),
            models=tuple(old["models"]),
            cidrs=tuple(old["cidrs"]),
            expires_us=old["expires_us"],
            class_max=old["class_max"],
        )
        made = make_key(old["kind"], self._dice)
        owner = (old["owner_id"], old["owner_kind"])
        row, text = await self._insert(tx, old["workspace_id"], owner, wanted, made)
        end_us = self._clock.now_us() + overlap_s * 1_000_000
        await tx.fetchrow(SQL.retire_key, tx.scope.organization_id, old["id"], end_us, row["id"])
        detail = {"overlap_s": overlap_s, "replaced_by": format_id("key", row["id"])}
        await self._told(tx, "key.rotate", old["id"], detail)
        return row, text

    async def revoke(self, tx: Transaction, named: str) -> Row:
        """Refuse a key everywhere within a second; doing it twice changes nothing more."""
        key = (await self.get(tx, named))["id"]
        row = await tx.fetchrow(SQL.revoke_key, tx.scope.organization_id, key, self._clock.now_us())
        await self._told(tx, "key.revoke", key, {})
        return row

    async def rename(self, tx: Transaction, named: str, name: str | None, version: int | None) -> Row:
        """Change a key's name. Raises `version_conflict`."""
        key = (await self.get(tx, named))["id"]
        return await self._identity.change(tx, SQL.change_key, key, version, name)

    async def insert_for(
        self, tx: Transaction, owner: tuple[UUID, str], workspace_id: UUID, wanted: KeyWanted
    ) -> tuple[Row, str]:
        """Return a new key of a given owner; the roles are the caller's business."""
        return await self._insert(tx, workspace_id, owner, wanted, make_key("live", self._dice))

    async def _insert(
        self, tx: Transaction, workspace_id: UUID, owner: tuple[UUID, str], wanted: KeyWanted, made: NewKey
    ) -> tuple[Row, str]:
        key = self._ids.new()
        row = await tx.fetchrow(
            SQL.add_key,
            tx.scope.organization_id,
            workspace_id,
            key,
            made.lookup,
            made.kind,
            hash_key(made.text, self._pepper),
            made.last4,
            wanted.name,
            *owner,
            list(wanted.scopes),
            list(wanted.models),
            list(wanted.cidrs),
            wanted.class_max,
            wanted.expires_us,
            self._clock.now_us(),
        )
        await self._told(tx, "key.create", key, {"name": wanted.name, "scopes": ",".join(wanted.scopes)})
        return row, made.text

    async def _told(self, tx: Transaction, action: str, key: UUID, detail: dict[str, Any]) -> None:
        await bump(tx, "keys")
        await self._audit.append(tx, AuditEntry(action, "key", format_id("key", key), detail=detail))

    @staticmethod
    async def _require_roles(tx: Transaction, owner_id: UUID, scopes: tuple[str, ...]) -> None:
        rows = await tx.fetch(SQL.memberships_of, tx.scope.organization_id, owner_id)
        held = {Role(row["role"]) for row in rows}
        for scope in scopes:
            if not held & roles_of(scope):
                roles = sorted(str(role) for role in roles_of(scope))
                raise InterlockError("role_denied", detail={"action": scope, "roles": roles})


class LastUsed:
    """Writes when keys were last used, all of them at once."""

    def __init__(self, store: Store, authenticator: Authenticator) -> None:
        self._store = store
        self._authenticator = authenticator

    async def run_once(self) -> int:
        """Write what is known since the last time; return how many keys were used."""
        used = self._authenticator.take_used()
        if used:
            async with self._store.ops("when keys were last used") as tx:
                await tx.execute(SQL.mark_used, list(used), list(used.values()))
        return len(used)


def _check(wanted: KeyWanted) -> None:
    unknown = sorted(set(wanted.scopes) - ALL_SCOPES)
    if unknown or not wanted.scopes:
        detail = {"field": "scopes", "unknown": unknown, "known": sorted(ALL_SCOPES)}
        raise InterlockError("invalid_request", f"No scope is named {', '.join(unknown) or 'nothing'}.", detail=detail)
    if wanted.class_max not in {None, "interactive", "standard", "batch"}:
        raise InterlockError("class_unknown", detail={"field": "class_max"})
    for cidr in wanted.cidrs:
        try:
            ipaddress.ip_network(cidr)
        except ValueError:
            detail = {"field": "cidrs"}
            raise InterlockError("invalid_request", f"{cidr!r} is no network.", detail=detail) from None


def _key_id(named: str) -> UUID | None:
    try:
        return parse_id("key", named)
    except MalformedIdError:
        return None
