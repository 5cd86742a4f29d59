"""What a principal is and may: its groups and through which others, its roles and from where, and why not.

Changes nothing, and decides nothing of its own: the policy does.
"""

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from interlock.foundation.control.route import Level
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.domain.groups import closure
from interlock.foundation.identity.domain.policy import Denied, actions_of, authorize, roles_of
from interlock.foundation.ids import OrganizationId, PrincipalId, WorkspaceId, format_id
from interlock.foundation.scope import Membership, Principal, PrincipalKind, Role, Scope
from interlock.foundation.store import Store


@dataclass(frozen=True, slots=True)
class GroupHeld:
    """A group that a principal is in; `via` are the groups between, from the principal upwards."""

    id: UUID
    name: str
    via: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class RoleHeld:
    """A role that a principal has; `via` is the group that brings it, None for a role of its own."""

    role: Role
    workspace_id: UUID | None
    via: UUID | None


@dataclass(frozen=True, slots=True)
class Effective:
    """The whole of a principal. `kind` is `user` or `sa`."""

    id: UUID
    kind: str
    organization_id: UUID
    groups: tuple[GroupHeld, ...]
    roles: tuple[RoleHeld, ...]

    def principal(self, *scopes: str) -> Principal:
        """Return the principal as the policy sees it with these scopes."""
        return Principal(
            PrincipalId(self.id),
            PrincipalKind.USER if self.kind == "user" else PrincipalKind.SERVICE_ACCOUNT,
            OrganizationId(self.organization_id),
            None,
            tuple(
                Membership(each.role, None if each.workspace_id is None else WorkspaceId(each.workspace_id))
                for each in self.roles
            ),
            frozenset(each.id for each in self.groups),
            frozenset(scopes),
        )

    def actions(self) -> list[str]:
        """Return what its roles allow anywhere."""
        return actions_of(self.principal())

    def public(self) -> dict[str, Any]:
        """Return the answer of the effective view."""
        return {
            "principal": format_id("usr" if self.kind == "user" else "sa", self.id),
            "groups": [
                {"id": format_id("grp", each.id), "name": each.name, "via": [format_id("grp", up) for up in each.via]}
                for each in self.groups
            ],
            "roles": [
                {
                    "role": str(each.role),
                    "workspace_id": None if each.workspace_id is None else format_id("ws", each.workspace_id),
                    "via": "membership" if each.via is None else format_id("grp", each.via),
                }
                for each in self.roles
            ],
            "actions": self.actions(),
        }


async def effective(store: Store, scope: Scope, principal_id: UUID, kind: str) -> Effective:
    """Return the whole of a principal of the scope's organization, which the caller knows to exist."""
    tenant = scope.organization_id
    async with store.transaction(scope) as tx:
        edges = await tx.fetch(SQL.edges_above, tenant, principal_id)
        above = {each["group_id"]: each["name"] for each in edges}
        roles = await tx.fetch(SQL.memberships_of, tenant, [principal_id, *above])
    groups_of: dict[UUID, list[UUID]] = {}
    for each in edges:
        groups_of.setdefault(each["member_id"], []).append(each["group_id"])
    chains = closure(principal_id, groups_of)
    return Effective(
        principal_id,
        kind,
        tenant,
        tuple(GroupHeld(group, above[group], chain) for group, chain in chains.items()),
        tuple(
            RoleHeld(
                Role(row["role"]),
                row["workspace_id"],
                None if row["principal_id"] == principal_id else row["principal_id"],
            )
            for row in roles
        ),
    )


def explain(found: Effective, action: str, workspace_id: UUID | None) -> dict[str, Any]:
    """Return whether the roles of a principal allow an action, and by which rule. Raises `invalid_request`."""
    try:
        wanted = roles_of(action)
    except KeyError:
        raise InterlockError(
            "invalid_request", f"There is no action {action[:64]!r}.", detail={"field": "action"}
        ) from None
    verdict = authorize(replace(found.principal(action), workspace_id=None), action, Level.WORKSPACE, workspace_id)
    roles = sorted({str(each.role) for each in found.roles})
    if isinstance(verdict, Denied):
        missing = sorted(map(str, wanted))
        return {"allowed": False, "rule": f"{verdict.code}.{action}", "roles": roles, "missing": missing}
    return {"allowed": True, "rule": f"role.{action}", "roles": roles, "missing": []}
