"""Use cases of identity: organizations, workspaces, people, programs, roles, groups. Each change with its audit row.

Keys are `keys.py`. A caller acts in its own organization; the platform's operator may act in any.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.identity.config import IdentityConfig
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.domain import tokens
from interlock.foundation.identity.effective import Effective, effective
from interlock.foundation.ids import (
    SYSTEM_ORGANIZATION_ID,
    IdFactory,
    MalformedIdError,
    OrganizationId,
    format_id,
    parse_id,
)
from interlock.foundation.scope import ALL_WORKSPACES, PrincipalKind, Role, Scope
from interlock.foundation.store import ForeignKeyViolation, Query, Store, Transaction, UniqueViolation

Row = Any
NO_ID: Final = UUID(int=0)
LISTS: Final = {
    "workspace": SQL.list_workspaces,
    "user": SQL.list_users,
    "group": SQL.list_groups,
    "service_account": SQL.list_service_accounts,
    "membership": SQL.list_memberships,
}
MEMBER_KINDS: Final = {"user": "usr", "sa": "sa", "group": "grp"}
_KIND_OF: Final = {PrincipalKind.USER: "user", PrincipalKind.SERVICE_ACCOUNT: "sa"}
_PREFIXES: Final = {
    "organization": "org",
    "workspace": "ws",
    "user": "usr",
    "service_account": "sa",
    "group": "grp",
    "membership": "mem",
    "key": "key",
}
_RANK: Final = (Role.VIEWER, Role.AUDITOR, Role.SUPPORT, Role.DEVELOPER, Role.ADMIN, Role.OWNER)


@dataclass(frozen=True, slots=True)
class EdgeChange:
    """What a change of a group's members answers with."""

    group_id: UUID
    member: str
    epoch: int
    consistency_token: str


class IdentityService:
    """Everything but keys. `token_key` signs consistency tokens."""

    def __init__(
        self,
        store: Store,
        audit: AuditLog,
        clock: Clock,
        ids: IdFactory,
        token_key: bytes,
        config: IdentityConfig | None = None,
    ) -> None:
        self.store = store
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._token_key = token_key
        self._config = config or IdentityConfig()

    @asynccontextmanager
    async def acting(self, tx: Transaction, organization: str | None) -> AsyncIterator[Transaction]:
        """Yield the transaction as it acts in the named organization. Raises `not_found`.

        Only the platform's operator may name another one than its own; for everybody else it does not exist.
        """
        own = tx.scope
        target = await self.organization_id(own, organization)
        if target == own.organization_id:
            yield tx
            return
        await tx.fetchrow(SQL.set_tenant, str(target), "*")
        yield tx.under(replace(own, organization_id=target, workspace_id=ALL_WORKSPACES))
        where = "*" if own.workspace_id is ALL_WORKSPACES else str(own.workspace_id)
        await tx.fetchrow(SQL.set_tenant, str(own.organization_id), where)

    async def organization_id(self, scope: Scope, named: str | None) -> OrganizationId:
        """Return the organization that a caller means by an id or a name. Raises `not_found`."""
        if named is None:
            return scope.organization_id
        found = _parsed("org", named)
        if found is None:
            async with self.store.ops("an organization by its name") as tx:
                found = await tx.fetchval(SQL.organization_by_name, named)
        if found is None or (found != scope.organization_id and not scope.principal.is_platform_operator):
            raise InterlockError("not_found")
        return OrganizationId(found)

    async def scope_in(self, scope: Scope, named: str | None) -> Scope:
        """Return the scope of a read that may name another organization."""
        target = await self.organization_id(scope, named)
        return (
            scope
            if target == scope.organization_id
            else replace(scope, organization_id=target, workspace_id=ALL_WORKSPACES)
        )

    async def owner_of(self, scope: Scope, kind: str, named: str) -> str | None:
        """Return the organization of an id, for the platform's operator alone; None stands for the caller's own."""
        found = _parsed(kind, named) if scope.principal.is_platform_operator else None
        if found is None:
            return None
        async with self.store.ops("where an object belongs, for the platform's operator") as tx:
            tenant = await tx.fetchval(SQL.tenant_of, found)
        return None if tenant is None else format_id("org", tenant)

    async def list_organizations(self, scope: Scope, after: UUID, limit: int) -> list[Row]:
        """Return the caller's organization, or all of them for the platform's operator."""
        if scope.principal.is_platform_operator:
            async with self.store.ops("organizations, for the platform's operator") as tx:
                return await tx.fetch(SQL.all_organizations, after, limit)
        async with self.store.transaction(scope) as tx:
            rows = await tx.fetch(SQL.get_organization, scope.organization_id, "")
        return [row for row in rows if row["id"] > after]

    async def create_organization(self, tx: Transaction, name: str, tier: str | None) -> Row:
        """Make an organization whose owner is the caller. Raises `name_taken`."""
        own, made = tx.scope, OrganizationId(self._ids.new())
        await tx.fetchrow(SQL.set_tenant, str(made), "*")
        inside = tx.under(replace(own, organization_id=made, workspace_id=ALL_WORKSPACES))
        now_us = self._clock.now_us()
        row = await _made(inside, SQL.add_organization, made, name, tier, now_us)
        values = (made, self._ids.new(), None, own.principal.id, _KIND_OF[own.principal.kind], Role.OWNER, now_us)
        await inside.fetchrow(SQL.add_membership, *values)
        await self._changed(inside, "organization.create", "organization", format_id("org", made), {"name": name})
        await tx.fetchrow(SQL.set_tenant, str(own.organization_id), "*")
        return row

    async def close_organization(self, tx: Transaction) -> Row:
        """Give the transaction's organization up: its keys are refused from now on. Raises `role_denied`, `in_use`.

        Nothing of it is deleted yet, and `reopen_organization` takes it back.
        """
        organization_id = tx.scope.organization_id
        self.require_rank(tx.scope, Role.OWNER)
        if organization_id == SYSTEM_ORGANIZATION_ID:
            raise InterlockError("in_use", "The platform stands on this organization.")
        row = await _made(tx, SQL.close_organization, organization_id, self._clock.now_us())
        await self._changed(tx, "organization.close", "organization", format_id("org", organization_id), {})
        return row

    async def reopen_organization(self, tx: Transaction, version: int | None) -> Row:
        """Take back that an organization was given up. Raises `role_denied`, `version_conflict`."""
        organization_id = tx.scope.organization_id
        if not tx.scope.principal.is_platform_operator:
            raise InterlockError("role_denied", detail={"action": "admin:write", "roles": ["platform operator"]})
        row = await _made(tx, SQL.reopen_organization, organization_id, version, is_required=False)
        if row is None:
            raise InterlockError("version_conflict")
        await self._changed(tx, "organization.reopen", "organization", format_id("org", organization_id), {})
        return row

    async def change(self, tx: Transaction, query: Query, key: UUID, version: int | None, *values: object) -> Row:
        """Change an object that was read at `version`. Raises `not_found`, `version_conflict`, `name_taken`."""
        action = query.name.removeprefix("change_")
        known = (key,) if query is SQL.change_organization else (tx.scope.organization_id, key)
        row = await _made(tx, query, *known, version, *values, is_required=False)
        if row is None:
            # An object that is not there, or not the caller's, is not found, whatever version was named.
            if version is None or not await self._exists(tx, action, key):
                raise InterlockError("not_found")
            raise InterlockError("version_conflict")
        await self._audited(tx, f"{action}.change", action, format_id(_PREFIXES[action], key), _told(row))
        if query is SQL.change_organization:
            await bump(tx, "limits")
        return row

    async def create_workspace(self, tx: Transaction, name: str) -> Row:
        """Make a workspace. Raises `name_taken`."""
        made = self._ids.new()
        row = await _made(tx, SQL.add_workspace, tx.scope.organization_id, made, name, self._clock.now_us())
        await self._audited(tx, "workspace.create", "workspace", format_id("ws", made), {"name": name})
        return row

    async def create_user(self, tx: Transaction, email: str, name: str) -> Row:
        """Make a person. Raises `name_taken`."""
        made = self._ids.new()
        row = await _made(tx, SQL.add_user, tx.scope.organization_id, made, email, name, self._clock.now_us())
        await self._audited(tx, "user.create", "user", format_id("usr", made), {"email": email})
        return row

    async def create_service_account(self, tx: Transaction, workspace_id: UUID, name: str) -> Row:
        """Make a program with the role developer in its workspace. Raises `name_taken`, `not_found`."""
        row = await self.add_account(tx, workspace_id, name)
        await self.raised(tx, "identity")
        return row

    async def add_account(self, tx: Transaction, workspace_id: UUID, name: str) -> Row:
        """As `create_service_account`, for a caller who raises the epoch itself."""
        made, organization_id, now_us = self._ids.new(), tx.scope.organization_id, self._clock.now_us()
        maker = tx.scope.principal.id
        row = await _made(tx, SQL.add_service_account, organization_id, made, workspace_id, name, now_us, maker)
        member = (organization_id, self._ids.new(), workspace_id, made, "sa", Role.DEVELOPER, now_us)
        await tx.fetchrow(SQL.add_membership, *member)
        await self._audited(tx, "service_account.create", "service_account", format_id("sa", made), {"name": name})
        return row

    async def create_group(self, tx: Transaction, name: str) -> Row:
        """Make a group. Raises `name_taken`."""
        made = self._ids.new()
        row = await _made(tx, SQL.add_group, tx.scope.organization_id, made, name, self._clock.now_us())
        await self._audited(tx, "group.create", "group", format_id("grp", made), {"name": name})
        return row

    async def create_membership(self, tx: Transaction, named: str, role: Role, workspace: str | None) -> Row:
        """Give a role. Nobody gives a role above their own. Raises `role_denied`, `name_taken`, `not_found`."""
        self.require_rank(tx.scope, role)
        principal_id, kind = await self.member(tx, named)
        await self.hold(tx, principal_id)
        workspace_id = None if workspace is None else (await self.get(tx, "workspace", workspace))["id"]
        place = (tx.scope.organization_id, self._ids.new(), workspace_id)
        row = await _made(tx, SQL.add_membership, *place, principal_id, kind, role, self._clock.now_us())
        detail = {"role": str(role), "principal": format_id(MEMBER_KINDS[kind], principal_id)}
        await self._changed(tx, "membership.create", "membership", format_id("mem", row["id"]), detail)
        return row

    async def change_membership(self, tx: Transaction, key: UUID, role: Role, version: int | None) -> Row:
        """Give another role in place of one. Raises `last_owner`, `role_denied`, `version_conflict`, `not_found`."""
        old = await self._membership(tx, key)
        self.require_rank(tx.scope, role)
        if role is not Role.OWNER:
            await self._require_another_owner(tx, old["role"], old["workspace_id"], old["principal_id"])
        row = await _made(tx, SQL.change_membership, tx.scope.organization_id, key, version, role, is_required=False)
        if row is None:
            raise InterlockError("version_conflict")
        detail = {"role": str(role), "before": old["role"]}
        await self._changed(tx, "membership.change", "membership", format_id("mem", key), detail)
        return row

    async def delete_membership(self, tx: Transaction, key: UUID) -> Row:
        """Take a role away. Raises `last_owner`, `role_denied`, `not_found`."""
        row = await self._membership(tx, key)
        await self._require_another_owner(tx, row["role"], row["workspace_id"], row["principal_id"])
        await tx.fetchrow(SQL.delete_membership, tx.scope.organization_id, key)
        await self._changed(tx, "membership.delete", "membership", format_id("mem", key), {"role": row["role"]})
        return row

    async def _membership(self, tx: Transaction, key: UUID) -> Row:
        """Return a role that the caller may change. Raises `not_found`, `role_denied`."""
        row = await self.get(tx, "membership", format_id("mem", key))
        self.require_rank(tx.scope, Role(row["role"]))
        return row

    async def delete_principal(self, tx: Transaction, kind: str, key: UUID) -> Row:
        """Remove a person or program with its roles, groups, keys and sessions. Raises `last_owner`, `not_found`."""
        organization_id = tx.scope.organization_id
        for each in await self.roles_within_rank(tx, key):
            if each["principal_id"] == key:
                await self._require_another_owner(tx, each["role"], each["workspace_id"], key)
        query = SQL.delete_user if kind == "user" else SQL.delete_service_account
        row = await tx.fetchrow(query, organization_id, key)
        if row is None:
            raise InterlockError("not_found")
        await tx.execute(SQL.delete_memberships_of, organization_id, key)
        await tx.execute(SQL.revoke_keys_of, organization_id, key, self._clock.now_us())
        await self._gone(tx, kind, key)
        return row

    async def delete(self, tx: Transaction, kind: str, key: UUID) -> Row:
        """Delete a workspace or group. Raises `in_use`, `not_found`, `role_denied`."""
        organization_id = tx.scope.organization_id
        if kind == "group":
            await self.roles_within_rank(tx, key)
        query = SQL.delete_workspace if kind == "workspace" else SQL.delete_group
        try:
            row = await tx.fetchrow(query, organization_id, key)
        except ForeignKeyViolation:
            raise InterlockError("in_use") from None
        if row is None:
            raise InterlockError("not_found")
        if kind == "group":
            await tx.execute(SQL.delete_memberships_of, organization_id, key)
        await self._gone(tx, kind, key)
        return row

    async def _gone(self, tx: Transaction, kind: str, key: UUID) -> None:
        """Tell that an object is gone and end the edges that it had, as the last statement."""
        await self._audited(tx, f"{kind}.delete", kind, format_id(_PREFIXES[kind], key), {})
        await bump(tx, "identity")
        await tx.fetchval(SQL.end_edges_of, tx.scope.organization_id, key)

    async def set_member(self, tx: Transaction, group: str, named: str, *, is_member: bool) -> EdgeChange:
        """Put a principal or group into a group, or take it out; doing it twice changes nothing more.

        Nobody changes who is in a group that holds a role above their own. Raises `not_found`, `group_limit`,
        `role_denied`.
        """
        organization_id = tx.scope.organization_id
        group_id = (await self.get(tx, "group", group))["id"]
        await self.roles_within_rank(tx, group_id)
        member_id, kind = await self.member(tx, named)
        if is_member:
            await self.hold(tx, member_id)
        await tx.fetchval(SQL.lock_group, organization_id, group_id)
        member = f"{kind}:{format_id(MEMBER_KINDS[kind], member_id)}"
        state = await tx.fetchrow(SQL.group_state, organization_id)
        epoch, live_edges = (0, 0) if state is None else (state["epoch"], state["live_edges"])
        is_live = await tx.fetchval(SQL.live_edge, organization_id, group_id, member_id) is not None
        if is_live is not is_member:
            if is_member and live_edges >= self._config.group_edges_max:
                raise InterlockError("group_limit", detail={"limit": self._config.group_edges_max})
            action = "group.add" if is_member else "group.remove"
            await self._audited(tx, action, "group", format_id("grp", group_id), {"member": member})
            await bump(tx, "identity")
            edge = (organization_id, group_id, member_id)
            if is_member:
                epoch = int(await tx.fetchval(SQL.add_edge, *edge, kind))
            else:
                epoch = int(await tx.fetchval(SQL.end_edge, *edge))
        return EdgeChange(group_id, member, epoch, self.token(organization_id, epoch))

    def token(self, organization_id: UUID, epoch: int) -> str:
        """Return the consistency token of an epoch."""
        return tokens.issue(organization_id, epoch, self._token_key)

    async def current_token(self, tx: Transaction) -> str:
        """Return the token of the epoch that a transaction has reached; after its last change that is the new one."""
        state = await tx.fetchrow(SQL.group_state, tx.scope.organization_id)
        return self.token(tx.scope.organization_id, 0 if state is None else state["epoch"])

    async def member(self, tx: Transaction, named: str) -> tuple[UUID, str]:
        """Return id and kind of `user:ID|EMAIL`, `sa:ID|NAME`, `group:ID|NAME`, of a bare id or of a bare address.

        Raises `not_found`.
        """
        kind, _, rest = named.partition(":")
        if not rest:
            kind = next((kind for kind, prefix in MEMBER_KINDS.items() if _parsed(prefix, named)), "")
            kind, rest = kind or ("user" if "@" in named else ""), named
        if kind not in MEMBER_KINDS:
            raise InterlockError("not_found")
        full = {"user": "user", "sa": "service_account", "group": "group"}[kind]
        return (await self.get(tx, full, rest))["id"], kind

    async def hold(self, tx: Transaction, principal_id: UUID) -> None:
        """Keep a principal or group from being removed until the transaction ends. Raises `not_found`.

        What was read of one may be over by the time at which something is given to it, and its removal takes only
        what it finds.
        """
        if await tx.fetchval(SQL.hold_principal, tx.scope.organization_id, principal_id) is None:
            raise InterlockError("not_found")

    async def get(self, tx: Transaction, kind: str, named: str) -> Row:
        """Return an object by id or name. Raises `not_found`."""
        queries = {
            "workspace": (SQL.get_workspace, "ws"),
            "user": (SQL.get_user, "usr"),
            "group": (SQL.get_group, "grp"),
            "service_account": (SQL.get_service_account, "sa"),
            "membership": (SQL.get_membership, "mem"),
            "organization": (SQL.get_organization, "org"),
        }
        query, prefix = queries[kind]
        identity = _parsed(prefix, named) or NO_ID
        if kind == "membership":
            row = await tx.fetchrow(query, tx.scope.organization_id, identity)
        elif kind == "organization":
            row = await tx.fetchrow(query, identity, named)
        else:
            row = await tx.fetchrow(query, tx.scope.organization_id, identity, named)
        if row is None:
            raise InterlockError("not_found")
        return row

    async def listed(self, scope: Scope, kind: str, after: UUID, limit: int) -> list[Row]:
        """Return a page of one kind of object, by its word in `get`."""
        async with self.store.transaction(scope) as tx:
            return await tx.fetch(LISTS[kind], scope.organization_id, after, limit)

    async def effective(self, scope: Scope, named: str) -> Effective:
        """Return the whole of a person or program by id or name. Raises `not_found`."""
        async with self.store.transaction(scope) as tx:
            key, kind = await self.member(tx, named)
        if kind == "group":
            raise InterlockError("not_found")
        return await effective(self.store, scope, key, kind)

    async def raised(self, tx: Transaction, topic: str) -> int:
        """Tell every process that `topic` changed and raise the epoch, as the last statement."""
        await bump(tx, topic)
        return int(await tx.fetchval(SQL.raise_epoch, tx.scope.organization_id))

    async def _changed(self, tx: Transaction, action: str, kind: str, target: str, detail: dict[str, Any]) -> int:
        """Audit, tell every process, and raise the epoch as the last statement."""
        await self._audited(tx, action, kind, target, detail)
        return await self.raised(tx, "identity")

    async def _exists(self, tx: Transaction, kind: str, key: UUID) -> bool:
        if kind == "key":
            return await tx.fetchrow(SQL.get_key, tx.scope.organization_id, key, "") is not None
        try:
            await self.get(tx, kind, format_id(_PREFIXES[kind], key))
        except InterlockError:
            return False
        return True

    async def _audited(self, tx: Transaction, action: str, kind: str, target: str, detail: dict[str, Any]) -> None:
        await self._audit.append(tx, AuditEntry(action, kind, target, detail=detail))

    async def roles_within_rank(self, tx: Transaction, holder_id: UUID) -> list[Row]:
        """Return the roles of a principal or group, those of the groups above it included. Raises `role_denied`.

        Whoever changes it, or makes keys for it, gets at all of them: so none may be above the caller's own.
        """
        organization_id = tx.scope.organization_id
        above = {each["group_id"] for each in await tx.fetch(SQL.edges_above, organization_id, holder_id)}
        rows = await tx.fetch(SQL.memberships_of, organization_id, [holder_id, *above])
        for each in rows:
            self.require_rank(tx.scope, Role(each["role"]))
        return rows

    @staticmethod
    def roles_to_give(scope: Scope) -> tuple[Role, ...]:
        """Return the roles that the caller may give and take: those up to its own, the least first."""
        if scope.principal.is_platform_operator:
            return _RANK
        own = max((_RANK.index(each.role) for each in scope.principal.memberships if not each.workspace_id), default=-1)
        return _RANK[: own + 1]

    @classmethod
    def require_rank(cls, scope: Scope, role: Role) -> None:
        if role not in cls.roles_to_give(scope):
            raise InterlockError("role_denied", detail={"action": "admin:write", "roles": [str(role)]})

    @staticmethod
    async def _require_another_owner(tx: Transaction, role: str, workspace_id: UUID | None, principal_id: UUID) -> None:
        if role != Role.OWNER or workspace_id is not None:
            return
        await tx.fetchval(SQL.lock_organization, tx.scope.organization_id)
        if not await tx.fetchval(SQL.other_owners, tx.scope.organization_id, principal_id):
            raise InterlockError("last_owner")


async def person_behind(tx: Transaction, principal_id: UUID) -> UUID:
    """Return whom a principal counts as where two people are wanted: a program counts as whoever made it."""
    maker: UUID | None = await tx.fetchval(SQL.person_behind, tx.scope.organization_id, principal_id)
    return maker or principal_id


async def _made(tx: Transaction, query: Query, *values: object, is_required: bool = True) -> Row:
    try:
        row = await tx.fetchrow(query, *values)
    except UniqueViolation:
        raise InterlockError("name_taken") from None
    except ForeignKeyViolation:
        raise InterlockError("not_found") from None
    if row is None and is_required:
        raise InterlockError("internal_error")
    return row


def _told(row: Row) -> dict[str, Any]:
    """Return what an audit row says of a change: the version that it made, and the name that it has since."""
    return {"version": row["version"], "name": row["name"]}


def _parsed(kind: str, text: str) -> UUID | None:
    try:
        return parse_id(kind, text)
    except MalformedIdError:
        return None
