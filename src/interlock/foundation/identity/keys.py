"""Use cases of API keys: create, rotate, revoke, and when they were last used.

The text of a key leaves this module once, in the answer of `create` or `rotate`.
"""

import ipaddress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.identity.authenticate import Authenticator
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.domain.bounds import CLASSES
from interlock.foundation.identity.domain.keys import TASK, NewKey, hash_key, make_key
from interlock.foundation.identity.domain.policy import ALL_SCOPES, roles_of, scopes_held
from interlock.foundation.identity.service import NO_ID, IdentityService, Row
from interlock.foundation.ids import IdFactory, MalformedIdError, format_id, parse_id
from interlock.foundation.scope import ALL_WORKSPACES, Membership, Role, Scope
from interlock.foundation.store import Store, Transaction

_LIST_MAX: Final = 100
_ALIAS_CHARS_MAX: Final = 128
_MOMENT_US_MAX: Final = 253_402_300_799_000_000
_log = structlog.get_logger("interlock.identity")


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


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What shall change of a key; None stays. `has_end` says that `expires_us` is meant, None being no end."""

    name: str | None = None
    models: tuple[str, ...] | None = None
    cidrs: tuple[str, ...] | None = None
    class_max: str | None = None
    has_end: bool = False
    expires_us: int | None = None


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
        _check(wanted, self._clock.now_us())
        workspace = await self._identity.get(tx, "workspace", wanted.workspace)
        made = make_key("live", self._dice)
        is_new = wanted.service_account is None
        if wanted.service_account is None:
            account = await self._identity.add_account(tx, workspace["id"], f"{wanted.name} {made.lookup}")
        else:
            account = await self._identity.get(tx, "service_account", wanted.service_account)
        await self._require_roles(tx, account["id"], workspace["id"], wanted.scopes)
        row = await self._insert(tx, workspace["id"], (account["id"], "service_account"), wanted, made)
        await (self._identity.raised(tx, "keys") if is_new else bump(tx, "keys"))
        return row, made.text

    async def create_for_person(
        self, tx: Transaction, user: str, workspace: str, name: str, expires_us: int | None
    ) -> tuple[Row, str]:
        """Return the row and the text of a key that acts as a person, to hand to them.

        It may what their roles allow in the workspace right now. Whoever makes it gets its text, so the person holds
        no role above the maker's. Raises `role_denied`, `state_conflict`, `not_found`.
        """
        where = await self._identity.get(tx, "workspace", workspace)
        person = await self._identity.get(tx, "user", user)
        rows = await self._identity.roles_within_rank(tx, person["id"])
        scopes = scopes_held((Membership(Role(row["role"]), row["workspace_id"]) for row in rows), where["id"])
        if not scopes:
            message = "No role of theirs counts in this workspace, so a key of theirs could do nothing."
            raise InterlockError("state_conflict", message)
        wanted = KeyWanted(workspace, name, tuple(sorted(scopes)), expires_us=expires_us)
        _check(wanted, self._clock.now_us())
        return await self.insert_for(tx, (person["id"], "user"), where["id"], wanted)

    async def listed(self, scope: Scope, after: UUID, limit: int, workspace: str | None = None) -> list[Row]:
        """Return a page of keys, without secrets, of one workspace by id or name if one is given."""
        async with self._identity.store.transaction(scope) as tx:
            where = None if workspace is None else (await self._identity.get(tx, "workspace", workspace))["id"]
            return await tx.fetch(SQL.list_keys, scope.organization_id, after, limit, where)

    async def get(self, tx: Transaction, named: str) -> Row:
        """Return a key by id or look-up part. Raises `not_found`."""
        row = await tx.fetchrow(SQL.get_key, tx.scope.organization_id, _key_id(named) or NO_ID, named)
        if row is None:
            raise InterlockError("not_found")
        return row

    async def rotate(self, tx: Transaction, named: str, overlap_s: int) -> tuple[Row, str]:
        """Return a new key with the same rights; the old one goes on for `overlap_s`.

        Raises `in_use`, `role_denied`, `not_found`.
        """
        old = await self.get(tx, named)
        if old["revoked_us"] is not None:
            raise InterlockError("in_use", "A revoked key cannot be rotated.")
        _require_lasting(old)
        if old["replaced_by"] is not None:
            raise InterlockError("in_use", "The key was rotated before; rotate the one that replaced it.")
        # Whoever rotates a key gets its text, and with it what its owner may.
        await self._identity.roles_within_rank(tx, old["owner_id"])
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
        row = await self._insert(tx, old["workspace_id"], owner, wanted, made)
        end_us = self._clock.now_us() + overlap_s * 1_000_000
        if await tx.fetchrow(SQL.retire_key, tx.scope.organization_id, old["id"], end_us, row["id"]) is None:
            raise InterlockError("in_use", "The key was revoked or rotated in this moment.")
        detail = {"overlap_s": overlap_s, "replaced_by": format_id("key", row["id"])}
        await self._told(tx, "key.rotate", old["id"], detail)
        await bump(tx, "keys")
        return row, made.text

    async def revoke(self, tx: Transaction, named: str) -> Row:
        """Refuse a key everywhere within a second; doing it twice changes nothing more."""
        key = (await self.get(tx, named))["id"]
        row = await tx.fetchrow(SQL.revoke_key, tx.scope.organization_id, key, self._clock.now_us())
        await self._told(tx, "key.revoke", key, {})
        await bump(tx, "keys")
        return row

    async def change(self, tx: Transaction, named: str, wanted: KeyChange, version: int | None) -> Row:
        """Change what a key is called and may reach; what it may do stays.

        Raises `invalid_request`, `version_conflict`, `in_use`, `not_found`.
        """
        if wanted.models is not None:
            _check_models(wanted.models)
        if wanted.expires_us is not None and not 0 < wanted.expires_us < _MOMENT_US_MAX:
            raise InterlockError("invalid_request", "`expires_at` is out of range.", detail={"field": "expires_at"})
        _check_reach(wanted.cidrs or (), wanted.class_max)
        old = await self.get(tx, named)
        _require_lasting(old)
        key = old["id"]
        models, cidrs = (None if each is None else list(each) for each in (wanted.models, wanted.cidrs))
        values = (wanted.name, models, cidrs, wanted.class_max, wanted.has_end, wanted.expires_us)
        row = await self._identity.change(tx, SQL.change_key, key, version, *values)
        await bump(tx, "keys")
        return row

    async def insert_for(
        self, tx: Transaction, owner: tuple[UUID, str], workspace_id: UUID, wanted: KeyWanted
    ) -> tuple[Row, str]:
        """Return a new key of a given owner; the roles are the caller's business."""
        made = make_key("live", self._dice)
        row = await self._insert(tx, workspace_id, owner, wanted, made)
        await bump(tx, "keys")
        return row, made.text

    async def _insert(
        self, tx: Transaction, workspace_id: UUID, owner: tuple[UUID, str], wanted: KeyWanted, made: NewKey
    ) -> Row:
        key = self._ids.new()
        await self._identity.hold(tx, owner[0])
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
        return row

    async def _told(self, tx: Transaction, action: str, key: UUID, detail: dict[str, Any]) -> None:
        await self._audit.append(tx, AuditEntry(action, "key", format_id("key", key), detail=detail))

    async def _require_roles(
        self, tx: Transaction, owner_id: UUID, workspace_id: UUID, scopes: tuple[str, ...]
    ) -> None:
        """Refuse a scope above the roles of the key's owner in the workspace, and an owner above the caller."""
        rows = await self._identity.roles_within_rank(tx, owner_id)
        held = tuple(Membership(Role(row["role"]), row["workspace_id"]) for row in rows)
        above = sorted(set(scopes) - scopes_held(held, workspace_id))
        if above:
            roles = sorted(str(role) for role in roles_of(above[0]))
            raise InterlockError("role_denied", detail={"action": above[0], "roles": roles})


class LastUsed:
    """Writes when keys were last used and who used one from outside its networks, all of them at once."""

    def __init__(self, store: Store, authenticator: Authenticator, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._authenticator = authenticator
        self._audit = audit
        self._clock = clock

    async def run(self, interval_s: float) -> None:
        """Write every `interval_s` until cancelled; what cannot be written now is lost, and the loop goes on."""
        while True:
            await self._clock.sleep(interval_s)
            try:
                await self.run_once()
            except Exception as error:  # noqa: BLE001 - the outer loop of a worker
                _log.warning("last_use_not_written", error=str(error))

    async def run_once(self) -> int:
        """Write what is known since the last time; return how many keys were used. Raises `store_unavailable`."""
        used, outside = self._authenticator.take_used(), self._authenticator.take_outside()
        if not used and not outside:
            return 0
        async with self._store.ops("when keys were last used") as tx:
            if used:
                uses = used.values()
                moments, hashes = [each.at_us for each in uses], [each.fresh_hmac for each in uses]
                await tx.execute(SQL.mark_used, list(used), moments, hashes)
            for principal, address in outside:
                key = format_id("key", principal.key_id) if principal.key_id else ""
                entry = AuditEntry("key.outside", "key", key, outcome="refused", detail={"address": address})
                await self._audit.append(tx, entry, Scope(principal.organization_id, ALL_WORKSPACES, principal))
        return len(used)


def _check(wanted: KeyWanted, now_us: int) -> None:
    unknown = sorted(set(wanted.scopes) - ALL_SCOPES)
    if unknown or not wanted.scopes:
        detail = {"field": "scopes", "unknown": unknown[:10], "known": sorted(ALL_SCOPES)}
        raise InterlockError("invalid_request", "A key has at least one scope, all of them known.", detail=detail)
    _check_models(wanted.models)
    if wanted.expires_us is not None and not now_us < wanted.expires_us < _MOMENT_US_MAX:
        raise InterlockError("invalid_request", "`expires_at` lies in the past.", detail={"field": "expires_at"})
    _check_reach(wanted.cidrs, wanted.class_max)


def _check_models(models: tuple[str, ...]) -> None:
    if not 0 < len(models) <= _LIST_MAX or not all(0 < len(each) <= _ALIAS_CHARS_MAX for each in models):
        raise InterlockError("invalid_request", "`models` is a list of aliases, or `*`.", detail={"field": "models"})


def _check_reach(cidrs: tuple[str, ...], class_max: str | None) -> None:
    if class_max is not None and class_max not in CLASSES:
        raise InterlockError("class_unknown", detail={"field": "class_max"})
    if len(cidrs) > _LIST_MAX:
        raise InterlockError("invalid_request", f"A key has at most {_LIST_MAX} networks.", detail={"field": "cidrs"})
    for cidr in cidrs:
        try:
            ipaddress.ip_network(cidr)
        except ValueError:
            message = f"{cidr[:64]!r} is no network."
            raise InterlockError("invalid_request", message, detail={"field": "cidrs"}) from None


def _require_lasting(row: Row) -> None:
    if row["kind"] == TASK:
        raise InterlockError("in_use", "A lent key belongs to its work: it is ended, never changed or rotated.")


def _key_id(named: str) -> UUID | None:
    try:
        return parse_id("key", named)
    except MalformedIdError:
        return None
