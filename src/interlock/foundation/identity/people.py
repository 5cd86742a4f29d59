"""Who is there and what they were given, by name: what pages tell of people, programs, groups and workspaces.

Changes nothing and decides nothing: `IdentityService` does, and the policy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.foundation.errors import InterlockError
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.domain.groups import closure
from interlock.foundation.identity.domain.policy import roles_of
from interlock.foundation.identity.effective import Effective, effective
from interlock.foundation.identity.service import LISTS, MEMBER_KINDS, IdentityService
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Role, Scope
from interlock.foundation.store import Transaction

Row = Any
_PREFIXES: Final = {"user": "usr", "service_account": "sa", "group": "grp"}
_FULL: Final = {"user": "user", "sa": "service_account", "group": "group"}


@dataclass(frozen=True, slots=True)
class RoleSeen:
    """A role by the names of its holder and its place; `workspace_id` None is the whole organization."""

    id: str
    role: Role
    workspace_id: str | None
    workspace: str
    holder_id: str
    holder: str

    def counts_in(self, workspace_id: str | None) -> bool:
        """Tell whether the role counts in a workspace; None asks for anywhere."""
        return workspace_id is None or self.workspace_id in {None, workspace_id}


@dataclass(frozen=True, slots=True)
class MemberSeen:
    """Somebody in a group. `via` names the groups between, from the group downwards; it is empty for a direct one."""

    id: str
    kind: str
    name: str
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A person, program or group in a list: its row, and the roles that were given to it directly."""

    row: Row
    roles: tuple[RoleSeen, ...]
    principals: int = 0
    groups: int = 0


@dataclass(frozen=True, slots=True)
class PrincipalSeen:
    """A person or program: what it is by itself and through groups. `roles` holds those of its groups too."""

    id: str
    row: Row
    effective: Effective
    roles: tuple[RoleSeen, ...]

    def bringing(self, action: str, workspace_id: str | None) -> list[RoleSeen]:
        """Return the roles that allow an action in a workspace."""
        wanted = roles_of(action)
        return [each for each in self.roles if each.role in wanted and each.counts_in(workspace_id)]


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """A group: whom it reaches through others, which groups hold it, and what it brings."""

    id: str
    row: Row
    indirect: tuple[MemberSeen, ...]
    above: tuple[MemberSeen, ...]
    roles: tuple[RoleSeen, ...]
    is_cut: bool


@dataclass(frozen=True, slots=True)
class WorkspaceSeen:
    """A workspace: the roles that were given in it, and its programs."""

    id: str
    row: Row
    roles: tuple[RoleSeen, ...]
    programs: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class People:
    """Reads. `rows_max` bounds the roles and the members through groups that one look tells."""

    identity: IdentityService
    rows_max: int

    async def listed(self, scope: Scope, kind: str, after: UUID, limit: int) -> list[Listed]:
        """Return a page of a kind (`user`, `service_account`, `group`), each with its roles, a group with its size."""
        tenant = scope.organization_id
        async with self.identity.store.transaction(scope) as tx:
            rows = await tx.fetch(LISTS[kind], tenant, after, limit)
            ids = [each["id"] for each in rows]
            roles = await self._roles(tx, ids, None)
            sizes = await tx.fetch(SQL.group_sizes, tenant, ids) if kind == "group" else []
        size_of = {each["group_id"]: (each["principals"], each["groups"]) for each in sizes}
        held: dict[str, list[RoleSeen]] = {}
        for each in roles:
            held.setdefault(each.holder_id, []).append(each)
        prefix = _PREFIXES[kind]
        return [
            Listed(row, tuple(held.get(format_id(prefix, row["id"]), ())), *size_of.get(row["id"], (0, 0)))
            for row in rows
        ]

    async def principal(self, scope: Scope, named: str) -> PrincipalSeen:
        """Return a person or program by its id, or a person by their address. Raises `not_found`."""
        async with self.identity.store.transaction(scope) as tx:
            key, kind = await self.identity.member(tx, named)
            if kind == "group":
                raise InterlockError("not_found")
            row = await self.identity.get(tx, _FULL[kind], format_id(MEMBER_KINDS[kind], key))
        found = await effective(self.identity.store, scope, key, kind)
        async with self.identity.store.transaction(scope) as tx:
            roles = await self._roles(tx, [key, *(each.id for each in found.groups)], None)
        return PrincipalSeen(format_id(MEMBER_KINDS[kind], key), row, found, roles)

    async def group(self, scope: Scope, named: str) -> GroupSeen:
        """Return a group by its id or name. Raises `not_found`."""
        tenant = scope.organization_id
        async with self.identity.store.transaction(scope) as tx:
            row = await self.identity.get(tx, "group", named)
            below = await tx.fetch(SQL.edges_below, tenant, row["id"], self.rows_max + 1)
            above = await tx.fetch(SQL.edges_above, tenant, row["id"])
            roles = await self._roles(tx, [row["id"], *(each["group_id"] for each in above)], None)
        return GroupSeen(
            format_id("grp", row["id"]),
            row,
            tuple(each for each in _reached(row["id"], below[: self.rows_max], "member_id") if each.via),
            tuple(_reached(row["id"], [{**each, "member_kind": "group"} for each in above], "group_id")),
            roles,
            is_cut=len(below) > self.rows_max,
        )

    async def members(self, scope: Scope, group_id: UUID, after: UUID, limit: int) -> list[Row]:
        """Return a page of who is in a group directly."""
        async with self.identity.store.transaction(scope) as tx:
            return await tx.fetch(SQL.members_of, scope.organization_id, group_id, after, limit)

    async def workspace(self, scope: Scope, named: str) -> WorkspaceSeen:
        """Return a workspace by its id or name. Raises `not_found`."""
        async with self.identity.store.transaction(scope) as tx:
            row = await self.identity.get(tx, "workspace", named)
            roles = await self._roles(tx, None, row["id"])
            programs = await tx.fetch(SQL.programs_of, scope.organization_id, row["id"], self.rows_max)
        return WorkspaceSeen(format_id("ws", row["id"]), row, roles, tuple(programs))

    async def _roles(
        self, tx: Transaction, holders: Sequence[UUID] | None, workspace_id: UUID | None
    ) -> tuple[RoleSeen, ...]:
        wanted = (None if holders is None else list(holders), workspace_id, self.rows_max)
        return tuple(_role(each) for each in await tx.fetch(SQL.roles_told, tx.scope.organization_id, *wanted))


def _role(row: Row) -> RoleSeen:
    where = row["workspace_id"]
    return RoleSeen(
        id=format_id("mem", row["id"]),
        role=Role(row["role"]),
        workspace_id=None if where is None else format_id("ws", where),
        workspace=row["workspace_name"] or "the whole organization",
        holder_id=format_id(MEMBER_KINDS[row["principal_kind"]], row["principal_id"]),
        holder=row["principal_name"] or "somebody who is gone",
    )


def _reached(start: UUID, edges: Iterable[Row], end: str) -> list[MemberSeen]:
    """Return who is reached from a group along edges, each once by the shortest way; `end` is where an edge leads."""
    begin = "group_id" if end == "member_id" else "member_id"
    next_of: dict[UUID, list[UUID]] = {}
    known: dict[UUID, Row] = {}
    for each in edges:
        next_of.setdefault(each[begin], []).append(each[end])
        known[each[end]] = each
    names = {identity: str(each["name"] or "") for identity, each in known.items()}
    return [
        MemberSeen(
            id=format_id(MEMBER_KINDS[known[found]["member_kind"]], found),
            kind=known[found]["member_kind"],
            name=names[found],
            via=tuple(names[between] for between in via),
        )
        for found, via in closure(start, next_of).items()
    ]
