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
from interlock.foundation.control.route import Level
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.identity.config import IdentityConfig
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.domain import tokens
from interlock.foundation.identity.domain.groups import closure
from interlock.foundation.identity.domain.policy import Denied, actions_of, authorize, roles_of
from interlock.foundation.ids import IdFactory, MalformedIdError, OrganizationId, PrincipalId, format_id, parse_id
from interlock.foundation.scope import ALL_WORKSPACES, Membership, Principal, PrincipalKind, Role, Scope
from interlock.foundation.store import ForeignKeyViolation, Query, Store, Transaction, UniqueViolation

Row = Any
NO_ID: Final = UUID(int=0)
MEMBER_KINDS: Final = {"user": "usr", "sa": "sa", "group": "grp"}
_RANK: Final = (Role.VIEWER, Role.AUDITOR, Role.SUPPORT, Role.DEVELOPER, Role.ADMIN, Role.OWNER)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object: how its ids begin, and the queries that list, get and delete it."""

    prefix: str
    listing: Query
    get: Query | None
    delete: Query | None


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

    async def list_organizations(self, scope: Scope, after: UUID, limit: int) -> list[Row]:
        """Return the caller's organization, or all of them for the platform's operator."""
        if scope.principal.is_platform_operator:
            async with self.store.ops("organizations, for the platform's operator") as tx:
                return await tx.fetch(SQL.all_organizations, after, limit)
        async with self.store.transaction(scope) as tx:
            rows = await tx.fetch(SQL.get_organization, scope.organization_id)
        return [row for row in rows if row["id"] > after]

    async def create_organization(self, tx: Transaction, name: str, tier: str | None) -> Row:
        """Make an organization whose owner is the caller. Raises `name_taken`."""
        own, made = tx.scope, OrganizationId(self._ids.new())
        await tx.fetchrow(SQL.set_tenant, str(made), "*")
        inside = tx.under(replace(own, organization_id=made, workspace_id=ALL_WORKSPACES))
        row = await _made(inside, SQL.add_organization, made, name, tier, self._clock.now_us())
        await inside.execute(SQL.start_epoch, made)
        values = (made, self._ids.new(), None, own.principal.id, Role.OWNER, self._clock.now_us())
        await inside.fetchrow(SQL.add_membership, *values)
        await bump(inside, "identity")
        await self._audited(inside, "organization.create", "organization", format_id("org", made), {"name": name})
        await tx.fetchrow(SQL.set_tenant, str(own.organization_id), "*")
        return row

    async def change(self, tx: Transaction, query: Query, key: UUID, version: int | None, *values: object) -> Row:
        """Change an object that was read at `version`. Raises `not_found`, `version_conflict`, `name_taken`."""
        known = (tx.scope.organization_id, key) if query is not SQL.change_organization else (key,)
        row = await _made(tx, query, *known, version, *values, is_required=False)
        if row is None:
            raise InterlockError("version_conflict" if version is not None else "not_found")
        action = query.name.removeprefix("change_")
        await self._audited(tx, f"{action}.change", action, str(key), {"version": row["version"]})
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
        made = self._ids.new()
        organization_id = tx.scope.organization_id
        values = (organization_id, made, workspace_id, name, self._clock.now_us())
        row = await _made(tx, SQL.add_service_account, *values)
        member = (organization_id, self._ids.new(), workspace_id, made, Role.DEVELOPER, self._clock.now_us())
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
        self._require_rank(tx.scope, role)
        principal_id, _ = await self.member(tx, named)
        workspace_id = None if workspace is None else (await self.get(tx, "workspace", workspace))["id"]
        values = (tx.scope.organization_id, self._ids.new(), workspace_id, principal_id, role, self._clock.now_us())
        row = await _made(tx, SQL.add_membership, *values)
        await self._changed(tx, "membership.create", "membership", format_id("mem", row["id"]), {"role": str(role)})
        return row

    async def delete_membership(self, tx: Transaction, key: UUID) -> Row:
        """Take a role away. Raises `last_owner`, `role_denied`, `not_found`."""
        organization_id = tx.scope.organization_id
        row = await tx.fetchrow(SQL.get_membership, organization_id, key)
        if row is None:
            raise InterlockError("not_found")
        self._require_rank(tx.scope, Role(row["role"]))
        await self._require_another_owner(tx, row["role"], row["workspace_id"], row["principal_id"])
        await tx.fetchrow(SQL.delete_membership, organization_id, key)
        await self._changed(tx, "membership.delete", "membership", format_id("mem", key), {"role": row["role"]})
        return row

    async def delete_principal(self, tx: Transaction, kind: str, key: UUID) -> Row:
        """Remove a person or program with its roles, groups and keys. Raises `last_owner`, `not_found`."""
        organization_id = tx.scope.organization_id
        for each in await tx.fetch(SQL.memberships_of, organization_id, key):
            self._require_rank(tx.scope, Role(each["role"]))
            await self._require_another_owner(tx, each["role"], each["workspace_id"], key)
        query = SQL.delete_user if kind == "user" else SQL.delete_service_account
        row = await tx.fetchrow(query, organization_id, key)
        if row is None:
            raise InterlockError("not_found")
        await tx.execute(SQL.delete_memberships_of, organization_id, key)
        await tx.execute(SQL.end_edges_of, organization_id, key)
        await tx.execute(SQL.revoke_keys_of, organization_id, key, self._clock.now_us())
        await bump(tx, "keys")
        prefix = "usr" if kind == "user" else "sa"
        await self._changed(tx, f"{kind}.delete", kind, format_id(prefix, key), {})
        return row

    async def delete(self, tx: Transaction, kind: str, key: UUID) -> Row:
        """Delete a workspace or group. Raises `in_use`, `not_found`."""
        query = SQL.delete_workspace if kind == "workspace" else SQL.delete_group
        try:
            row = await tx.fetchrow(query, tx.scope.organization_id, key)
        except ForeignKeyViolation:
            raise InterlockError("in_use") from None
        if row is None:
            raise InterlockError("not_found")
        prefix = "ws" if kind == "workspace" else "grp"
        await self._changed(tx, f"{kind}.delete", kind, format_id(prefix, key), {"name": row["name"]})
        return row

    async def set_member(self, tx: Transaction, group: str, named: str, *, is_member: bool) -> EdgeChange:
        """Put a principal or group into a group, or take it out; doing it twice changes nothing more."""
        group_id = (await self.get(tx, "group", group))["id"]
        member_id, kind = await self.member(tx, named)
        organization_id = tx.scope.organization_id
        if is_member:
            if await tx.fetchval(SQL.count_edges, organization_id) >= self._config.group_edges_max:
                raise InterlockError("group_limit", detail={"limit": self._config.group_edges_max})
            count = await tx.execute(SQL.add_edge, organization_id, group_id, member_id, kind)
        else:
            count = await tx.execute(SQL.end_edge, organization_id, group_id, member_id)
        member = f"{kind}:{format_id(MEMBER_KINDS[kind], member_id)}"
        if count:
            action = "group.add" if is_member else "group.remove"
            epoch = await self._changed(tx, action, "group", format_id("grp", group_id), {"member": member})
        else:
            epoch = await tx.fetchval(SQL.current_epoch, organization_id)
        return EdgeChange(group_id, member, epoch, tokens.issue(organization_id, epoch, self._token_key))

    async def member(self, tx: Transaction, named: str) -> tuple[UUID, str]:
        """Return id and kind of `user:ID|EMAIL`, `sa:ID`, `group:ID|NAME`, or of a bare id. Raises `not_found`."""
        kind, _, rest = named.partition(":")
        if not rest:
            kind = next((kind for kind, prefix in MEMBER_KINDS.items() if _parsed(prefix, named)), "")
            rest = named
        if kind not in MEMBER_KINDS:
            raise InterlockError("not_found")
        full = {"user": "user", "sa": "service_account", "group": "group"}[kind]
        return (await self.get(tx, full, rest))["id"], kind

    async def get(self, tx: Transaction, kind: str, named: str) -> Row:
        """Return an object by id or name. Raises `not_found`."""
        queries = {
            "workspace": (SQL.get_workspace, "ws"),
            "user": (SQL.get_user, "usr"),
            "group": (SQL.get_group, "grp"),
            "service_account": (SQL.get_service_account, "sa"),
        }
        query, prefix = queries[kind]
        row = await tx.fetchrow(query, tx.scope.organization_id, _parsed(prefix, named) or NO_ID, named)
        if row is None:
            raise InterlockError("not_found")
        return row

    async def listed(self, scope: Scope, query: Query, after: UUID, limit: int) -> list[Row]:
        """Return a page of one kind of object."""
        async with self.store.transaction(scope) as tx:
            return await tx.fetch(query, scope.organization_id, after, limit)

    async def principal(
        self, scope: Scope, key: UUID, kind: PrincipalKind
    ) -> tuple[Principal, dict[UUID, tuple[str, ...]]]:
        """Return a principal of the organization with its groups, each with the names of the groups between."""
        organization_id = scope.organization_id
        async with self.store.transaction(scope) as tx:
            get = SQL.get_user if kind is PrincipalKind.USER else SQL.get_service_account
            if await tx.fetchrow(get, organization_id, key, "") is None:
                raise InterlockError("not_found")
            roles = await tx.fetch(SQL.memberships_of, organization_id, key)
            edges = await tx.fetch(SQL.edges, organization_id)
            names = {row["id"]: row["name"] for row in await tx.fetch(SQL.group_names, organization_id)}
        groups_of: dict[UUID, list[UUID]] = {}
        for each in edges:
            groups_of.setdefault(each["member_id"], []).append(each["group_id"])
        via = {group: tuple(names[each] for each in chain) for group, chain in closure(key, groups_of).items()}
        memberships = tuple(Membership(Role(row["role"]), row["workspace_id"]) for row in roles)
        found = Principal(PrincipalId(key), kind, organization_id, None, memberships, frozenset(via))
        return found, via

    async def explain(
        self, scope: Scope, key: UUID, kind: PrincipalKind, action: str, where: UUID | None
    ) -> dict[str, Any]:
        """Return whether a principal's roles allow an action, by which rule. Raises `invalid_request`."""
        found, _ = await self.principal(scope, key, kind)
        try:
            wanted = sorted(roles_of(action))
        except KeyError:
            raise InterlockError(
                "invalid_request", f"There is no action {action!r}.", detail={"field": "action"}
            ) from None
        verdict = authorize(replace(found, scopes=frozenset({action})), action, Level.WORKSPACE, where)
        held = sorted({str(each.role) for each in found.memberships})
        is_allowed = not isinstance(verdict, Denied)
        rule = f"role.{action}" if is_allowed else f"{verdict.code}.{action}"  # type: ignore[union-attr] # Denied here
        return {
            "allowed": is_allowed,
            "rule": rule,
            "roles": held,
            "missing": [] if is_allowed else list(map(str, wanted)),
        }

    def actions(self, principal: Principal) -> list[str]:
        """Return what the roles of a principal allow."""
        return actions_of(principal)

    async def _changed(self, tx: Transaction, action: str, kind: str, target: str, detail: dict[str, Any]) -> int:
        """Audit, tell every process, and raise the epoch as the last statement."""
        await self._audited(tx, action, kind, target, detail)
        await bump(tx, "identity")
        return int(await tx.fetchval(SQL.raise_epoch, tx.scope.organization_id))

    async def _audited(self, tx: Transaction, action: str, kind: str, target: str, detail: dict[str, Any]) -> None:
        await self._audit.append(tx, AuditEntry(action, kind, target, detail=detail))

    @staticmethod
    def _require_rank(scope: Scope, role: Role) -> None:
        if scope.principal.is_platform_operator:
            return
        own = max((_RANK.index(each.role) for each in scope.principal.memberships), default=-1)
        if _RANK.index(role) > own:
            raise InterlockError("role_denied", detail={"action": "admin:write", "roles": [str(role)]})

    @staticmethod
    async def _require_another_owner(tx: Transaction, role: str, workspace_id: UUID | None, principal_id: UUID) -> None:
        is_owner = role == Role.OWNER and workspace_id is None
        if is_owner and not await tx.fetchval(SQL.owners, tx.scope.organization_id, principal_id):
            raise InterlockError("last_owner")


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


def _parsed(kind: str, text: str) -> UUID | None:
    try:
        return parse_id(kind, text)
    except MalformedIdError:
        return None
