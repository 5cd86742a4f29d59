"""Who may do what: the scopes of keys, the roles that hold them, and the one function that grants a `Scope`.

Pure: reads memberships, never a store. A key has the lesser of its scopes and its owner's roles.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Final
from uuid import UUID

from interlock.foundation.control.route import Level
from interlock.foundation.ids import RequestId, WorkspaceId
from interlock.foundation.scope import ALL_WORKSPACES, Membership, Principal, Role, Scope

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
# A role of these in the whole organization sees every workspace, also by a key that belongs to one of them.
_OVERSEERS: Final = frozenset({Role.OWNER, Role.ADMIN, Role.SUPPORT, Role.AUDITOR})


@dataclass(frozen=True, slots=True)
class Denied:
    """No. `code` is `scope_denied`, `role_denied` or `not_found`; `roles` would be allowed."""

    code: str
    action: str
    roles: tuple[Role, ...]


def roles_of(action: str) -> frozenset[Role]:
    """Return every role that holds an action."""
    return _CHIEFS | SCOPE_ROLES[action]


@cache
def _scopes_of(roles: frozenset[Role]) -> frozenset[str]:
    return frozenset(scope for scope in SCOPE_ROLES if roles & roles_of(scope))


def scopes_held(memberships: Iterable[Membership], workspace_id: UUID | None) -> frozenset[str]:
    """Return what roles allow in a workspace: those of the whole organization and those of the workspace itself."""
    return _scopes_of(frozenset(each.role for each in memberships if each.workspace_id in {None, workspace_id}))


def authorize(
    principal: Principal,
    action: str,
    level: Level,
    workspace_id: UUID | None = None,
    request_id: RequestId | None = None,
) -> Scope | Denied:
    """Return what the caller may see for this action, or why not.

    A role in a workspace sees that workspace. A role in the whole organization sees all of it, where the role is one
    that oversees; a developer or viewer who comes with a key sees the workspace of the key. A named workspace that
    the caller has no role in is answered like one that does not exist.
    """
    allowed = roles_of(action)
    held = [each for each in principal.memberships if each.role in allowed]
    refusal = Denied("role_denied", action, tuple(sorted(allowed)))
    if not held:
        return refusal
    if action not in principal.scopes:
        # The scopes of a key that belongs to one workspace do not count roles in another.
        is_held_here = action in scopes_held(principal.memberships, principal.workspace_id)
        return replace(refusal, code="scope_denied") if is_held_here else refusal
    if level is Level.PLATFORM and not principal.is_platform_operator:
        return replace(refusal, roles=(Role.OWNER,))
    everywhere = {each.role for each in held if each.workspace_id is None}
    if level is Level.ORGANIZATION and not everywhere:
        return refusal
    return _placed(principal, held, workspace_id, request_id) or replace(refusal, code="not_found")


def _placed(
    principal: Principal, held: list[Membership], workspace_id: UUID | None, request_id: RequestId | None
) -> Scope | None:
    everywhere = {each.role for each in held if each.workspace_id is None}
    if everywhere & _OVERSEERS or (everywhere and principal.workspace_id is None):
        where = ALL_WORKSPACES if workspace_id is None else WorkspaceId(workspace_id)
        return Scope(principal.organization_id, where, principal, request_id)
    own = {each.workspace_id for each in held if each.workspace_id is not None}
    if everywhere and principal.workspace_id is not None:
        own = {principal.workspace_id}
    default = principal.workspace_id if principal.workspace_id in own else min(own, key=str)
    wanted = WorkspaceId(workspace_id) if workspace_id is not None else default
    return Scope(principal.organization_id, wanted, principal, request_id) if wanted in own else None


def actions_of(principal: Principal) -> list[str]:
    """Return every action that the roles of a principal allow anywhere."""
    roles = {each.role for each in principal.memberships}
    return sorted(action for action in ALL_SCOPES if roles & roles_of(action))
