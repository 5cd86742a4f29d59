"""Rows of identity as the API answers them, and the bodies that it takes.

Decides nothing; unknown fields of a body are refused by the kit.
"""

from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from interlock.foundation.clock import rfc3339
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Role

Row = Any
_PRINCIPALS: Final = {"user": "usr", "sa": "sa", "group": "grp"}


class OrganizationBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/organizations`."""

    name: str
    tier: str | None = None


class NamedBody(msgspec.Struct, forbid_unknown_fields=True):
    """A workspace or group; `organization_id` is the caller's where it is absent."""

    name: str
    organization_id: str | None = None


class UserBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/users`."""

    email: str
    name: str = ""
    organization_id: str | None = None


class ServiceAccountBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/service-accounts`."""

    name: str
    workspace_id: str
    organization_id: str | None = None


class MembershipBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/memberships`."""

    principal: str
    role: Role
    workspace_id: str | None = None
    organization_id: str | None = None


class ChangeBody(msgspec.Struct, forbid_unknown_fields=True):
    """`PATCH` of an object with a name."""

    name: str | None = None


class ChangeOrganizationBody(msgspec.Struct, forbid_unknown_fields=True):
    """`PATCH /admin/v1/organizations/{id}`; `state` takes back that it was given up."""

    name: str | None = None
    tier: str | None = None
    state: Literal["active"] | None = None


class ChangeMembershipBody(msgspec.Struct, forbid_unknown_fields=True):
    """`PATCH /admin/v1/memberships/{id}`."""

    role: Role


class ChangeKeyBody(msgspec.Struct, forbid_unknown_fields=True):
    """`PATCH /admin/v1/keys/{id}`: what a key is called and may reach; its scopes stay."""

    name: str | None = None
    models: list[str] | None = None
    cidrs: list[str] | None = None
    class_max: str | None = None
    expires_at: str | msgspec.UnsetType | None = msgspec.UNSET


class KeyBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/keys`."""

    workspace_id: str
    name: str = "key"
    scopes: list[str] = msgspec.field(default_factory=lambda: ["inference"])
    models: list[str] = msgspec.field(default_factory=lambda: ["*"])
    cidrs: list[str] = []
    expires_at: str | None = None
    class_max: str | None = None
    service_account: str | None = None
    organization_id: str | None = None


class RotateBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/keys/{id}/rotate`."""

    overlap_s: int = 86_400


class ExplainBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/policy/explain`."""

    principal_id: str
    action: str
    workspace_id: str | None = None


def organization(row: Row) -> dict[str, Any]:
    """Return an organization."""
    closing_us = row["closing_us"]
    return {
        "id": format_id("org", row["id"]),
        "name": row["name"],
        "tier": row["tier"],
        "state": "active" if closing_us is None else "closing",
        "closing_at": _moment(closing_us),
        **_base(row),
    }


def workspace(row: Row) -> dict[str, Any]:
    """Return a workspace."""
    return {"id": format_id("ws", row["id"]), "name": row["name"], **_tenant(row), **_base(row)}


def user(row: Row) -> dict[str, Any]:
    """Return a person."""
    return {"id": format_id("usr", row["id"]), "email": row["email"], "name": row["name"], **_tenant(row), **_base(row)}


def service_account(row: Row) -> dict[str, Any]:
    """Return a program."""
    where = format_id("ws", row["workspace_id"])
    return {"id": format_id("sa", row["id"]), "name": row["name"], "workspace_id": where, **_tenant(row), **_base(row)}


def group(row: Row) -> dict[str, Any]:
    """Return a group."""
    return {"id": format_id("grp", row["id"]), "name": row["name"], **_tenant(row), **_base(row)}


def membership(row: Row) -> dict[str, Any]:
    """Return a role."""
    return {
        "id": format_id("mem", row["id"]),
        "principal_id": format_id(_PRINCIPALS[row["principal_kind"]], row["principal_id"]),
        "role": row["role"],
        "workspace_id": _optional("ws", row["workspace_id"]),
        **_tenant(row),
        **_base(row),
    }


def key(row: Row) -> dict[str, Any]:
    """Return a key without its secret."""
    return {
        "id": format_id("key", row["id"]),
        "name": row["name"],
        "last4": row["last4"],
        "lookup": row["lookup"],
        "kind": row["kind"],
        "workspace_id": format_id("ws", row["workspace_id"]),
        "owner": format_id("usr" if row["owner_kind"] == "user" else "sa", row["owner_id"]),
        "scopes": row["scopes"],
        "models": row["models"],
        "cidrs": row["cidrs"],
        "class_max": row["class_max"],
        "expires_at": _moment(row["expires_us"]),
        "revoked_at": _moment(row["revoked_us"]),
        "replaced_by": _optional("key", row["replaced_by"]),
        "last_used_at": _moment(row["last_used_us"]),
        **_tenant(row),
        **_base(row),
    }


def _base(row: Row) -> dict[str, Any]:
    return {"version": row["version"], "created_at": rfc3339(row["created_us"])}


def _tenant(row: Row) -> dict[str, Any]:
    return {"organization_id": format_id("org", row["organization_id"])}


def _optional(kind: str, value: UUID | None) -> str | None:
    return None if value is None else format_id(kind, value)


def _moment(at_us: int | None) -> str | None:
    return None if at_us is None else rfc3339(at_us)
