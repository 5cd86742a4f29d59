"""Who may do what: the scopes of keys, the roles that hold them, and the one function that grants a `Scope`.

Pure: reads memberships, never a store. A key has the lesser of its scopes and its owner's roles.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.foundation.control.route import Level
from interlock.foundation.ids import RequestId, WorkspaceId
from interlock.foundation.scope import ALL_WORKSPACES, Principal, Role, Scope

_D, _S, _A, _V = Role.DEVELOPER, Role.SUPPORT, Role.AUDITOR, Role.VIEWER
_EVERYBODY: Final = frozenset({_D, _S, _A, _V})

# Roles that hold a scope besides owner and admin, who hold all.
SCOPE_ROLES: Final[dict[str, frozenset[Role]]] = {
    "inference": frozenset({_D, _S}),
    "requests:read": _EVERYBODY,
    "retrieval:read": frozenset({_D, _S, _V}),
    "retrieval:write": frozenset({_D}),
    "retrieval:admin": frozenset({_D}),
    "retrieval:delegate": frozenset(),
    "retrieval:explain": frozenset({_S, _A}),
    "agents:read": frozenset({_D, _A, _V}),
    "agents:write": frozenset({_D}),
    "agents:approve": frozenset({_D}),
    "evals:read": _EVERYBODY,
    "evals:run": frozenset({_D}),
    "evals:write": frozenset({_D}),
    "gates:write": frozenset(),
    "gates:waive": frozenset(),
    "rollouts:write": frozenset({_S}),
    "incidents:write": frozenset({_D, _S}),
    "crawls:read": _EVERYBODY,
    "crawls:write": frozenset({_D}),
    "crawls:admin": frozenset(),
    "admin:read": frozenset({_A}),
    "admin:write": frozenset(),
    "kill:write": frozenset({_S}),
    "audit:read": frozenset({_A}),
    "metrics:read": frozenset({_A}),
    "console": _EVERYBODY,
}
ALL_SCOPES: Final = frozenset(SCOPE_ROLES)
_CHIEFS: Final = frozenset({Role.OWNER, Role.ADMIN})


@dataclass(frozen=True, slots=True)
class Denied:
    """No. `code` is `scope_denied`, `role_denied` or `not_found`; `roles` would be allowed."""

    code: str
    action: str
    roles: tuple[Role, ...]


def roles_of(action: str) -> frozenset[Role]:
    """Return every role that holds an action."""
    return _CHIEFS | SCOPE_ROLES[action]


def authorize(
    principal: Principal,
    action: str,
    level: Level,
    workspace_id: UUID | None = None,
    request_id: RequestId | None = None,
) -> Scope | Denied:
    """Return what the caller may see for this action, or why not.

    A role in the whole organization sees all workspaces; a role in a workspace sees that one. A named workspace that
    the caller has no role in is answered like one that does not exist.
    """
    allowed = roles_of(action)
    if action not in principal.scopes:
        return Denied("scope_denied", action, tuple(sorted(allowed)))
    held = [each for each in principal.memberships if each.role in allowed]
    is_everywhere = principal.is_platform_operator or any(each.workspace_id is None for each in held)
    if level is Level.PLATFORM and not principal.is_platform_operator:
        return Denied("role_denied", action, (Role.OWNER,))
    if is_everywhere:
        where = ALL_WORKSPACES if workspace_id is None else WorkspaceId(workspace_id)
        return Scope(principal.organization_id, where, principal, request_id)
    if level is Level.ORGANIZATION or not held:
        return Denied("role_denied", action, tuple(sorted(allowed)))
    own = {each.workspace_id for each in held}
    wanted = workspace_id or principal.workspace_id or next(iter(sorted(own, key=str)), None)
    if wanted is None or wanted not in own:
        return Denied("not_found", action, tuple(sorted(allowed)))
    return Scope(principal.organization_id, WorkspaceId(wanted), principal, request_id)


def actions_of(principal: Principal) -> list[str]:
    """Return every action that the roles of a principal allow anywhere."""
    roles = {each.role for each in principal.memberships}
    return sorted(action for action in ALL_SCOPES if roles & roles_of(action))
