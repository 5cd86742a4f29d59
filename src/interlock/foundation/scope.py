"""Who acts, and in which tenant: `Principal` and `Scope`, the first argument of every store function.

Grants nothing: `identity.policy.authorize` and `LeaseSpec.scope_of` are the only builders of a `Scope`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from interlock.foundation.ids import KeyId, OrganizationId, PrincipalId, RequestId, WorkspaceId


class Role(StrEnum):
    """What a membership allows; the table is `identity/domain/policy.py`."""

    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    SUPPORT = "support"
    AUDITOR = "auditor"
    VIEWER = "viewer"


class PrincipalKind(StrEnum):
    """A person, a program, or the platform's own background work."""

    USER = "user"
    SERVICE_ACCOUNT = "service_account"
    SYSTEM = "system"


class AllWorkspaces:
    """The whole organization; a type of its own, so that a missing workspace is never taken for it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ALL_WORKSPACES"


ALL_WORKSPACES: Final = AllWorkspaces()


@dataclass(frozen=True, slots=True)
class Membership:
    """A role in one workspace, or in all of the organization where `workspace_id` is None."""

    role: Role
    workspace_id: WorkspaceId | None


@dataclass(frozen=True, slots=True)
class Principal:
    """A user or service account as one request presents it.

    `scopes` are those of the key or session, `groups` the transitive closure of its groups.
    `workspace_id` is the workspace that the key belongs to; None for a session or an organization key.
    """

    id: PrincipalId
    kind: PrincipalKind
    organization_id: OrganizationId
    workspace_id: WorkspaceId | None = None
    memberships: tuple[Membership, ...] = ()
    groups: frozenset[UUID] = frozenset()
    scopes: frozenset[str] = frozenset()
    key_id: KeyId | None = None
    session_id: UUID | None = None
    address: str | None = None
    is_platform_operator: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """The tenant that a statement may see, and on whose behalf."""

    organization_id: OrganizationId
    workspace_id: WorkspaceId | AllWorkspaces
    principal: Principal
    request_id: RequestId | None = None
