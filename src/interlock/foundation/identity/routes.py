"""HTTP of identity: organizations, workspaces, people, programs, roles, groups, keys, effective views.

Parses, makes one service call, renders; the policy was asked before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from interlock.foundation.control.route import Call, Handler, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import views
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.keys import KeyService, KeyWanted
from interlock.foundation.identity.service import NO_ID, IdentityService, Row
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.scope import PrincipalKind, Role
from interlock.foundation.store import Query

_NAME_CHARS_MAX = 128
_OVERLAP_S_MAX = 90 * 86_400
_ADMIN = "/admin/v1"
_LIST_QUERY = ("limit", "cursor", "organization_id")


@dataclass(frozen=True, slots=True)
class Listing:
    """How one kind of object is listed and shown."""

    path: str
    prefix: str
    query: Query
    show: Callable[[Row], dict[str, Any]]


class Handlers:
    """The calls of identity."""

    def __init__(self, identity: IdentityService, keys: KeyService) -> None:
        self._identity = identity
        self._keys = keys

    def listing(self, kind: Listing) -> Handler:
        """Return the handler that lists a kind."""

        async def handle(call: Call) -> Reply:
            scope = await self._identity.scope_in(call.within, call.query.get("organization_id"))
            rows = await self._identity.listed(scope, kind.query, _after(call), call.page.limit_plus_one)
            return _listed(call, rows, kind.show)

        return handle

    async def list_organizations(self, call: Call) -> Reply:
        """List the caller's organization, or all of them for the operator."""
        rows = await self._identity.list_organizations(call.within, _after(call), call.page.limit_plus_one)
        return _listed(call, rows, views.organization)

    async def create_organization(self, call: Call) -> Reply:
        """Make an organization."""
        if not call.who.is_platform_operator:
            raise InterlockError("role_denied", detail={"action": "admin:write", "roles": ["platform operator"]})
        name = _name(call.body.name)
        return Reply(201, views.organization(await self._identity.create_organization(call.tx, name, call.body.tier)))

    async def create_workspace(self, call: Call) -> Reply:
        """Make a workspace."""
        async with self._identity.acting(call.tx, call.body.organization_id) as tx:
            row = await self._identity.create_workspace(tx, _name(call.body.name))
        return Reply(201, views.workspace(row))

    async def create_user(self, call: Call) -> Reply:
        """Make a person."""
        email = call.body.email.strip()
        if "@" not in email or len(email) > 254:
            raise InterlockError("invalid_request", "`email` is an address.", detail={"field": "email"})
        async with self._identity.acting(call.tx, call.body.organization_id) as tx:
            row = await self._identity.create_user(tx, email, call.body.name or email)
        return Reply(201, views.user(row))

    async def create_service_account(self, call: Call) -> Reply:
        """Make a program."""
        async with self._identity.acting(call.tx, call.body.organization_id) as tx:
            workspace = await self._identity.get(tx, "workspace", call.body.workspace_id)
            row = await self._identity.create_service_account(tx, workspace["id"], _name(call.body.name))
        return Reply(201, views.service_account(row))

    async def create_group(self, call: Call) -> Reply:
        """Make a group."""
        async with self._identity.acting(call.tx, call.body.organization_id) as tx:
            row = await self._identity.create_group(tx, _name(call.body.name))
        return Reply(201, views.group(row))

    async def create_membership(self, call: Call) -> Reply:
        """Give a role."""
        body: views.MembershipBody = call.body
        async with self._identity.acting(call.tx, body.organization_id) as tx:
            row = await self._identity.create_membership(tx, body.principal, Role(body.role), body.workspace_id)
        return Reply(201, views.membership(row))

    async def delete_membership(self, call: Call) -> Reply:
        """Take a role away."""
        async with self._identity.acting(call.tx, call.query.get("organization_id")) as tx:
            row = await self._identity.delete_membership(tx, _id("mem", call.params["id"]))
        return Reply(200, views.membership(row))

    def deleting(self, kind: str, prefix: str, show: Callable[[Row], dict[str, Any]]) -> Handler:
        """Return the handler that deletes a kind."""

        async def handle(call: Call) -> Reply:
            key = _id(prefix, call.params["id"])
            async with self._identity.acting(call.tx, call.query.get("organization_id")) as tx:
                if kind in {"user", "service_account"}:
                    return Reply(200, show(await self._identity.delete_principal(tx, kind, key)))
                return Reply(200, show(await self._identity.delete(tx, kind, key)))

        return handle

    def getting(self, kind: str, show: Callable[[Row], dict[str, Any]]) -> Handler:
        """Return the handler that shows one object."""

        async def handle(call: Call) -> Reply:
            scope = await self._identity.scope_in(call.within, call.query.get("organization_id"))
            async with call.store.transaction(scope) as tx:
                return Reply(200, show(await self._identity.get(tx, kind, call.params["id"])))

        return handle

    def changing(self, query: Query, prefix: str, show: Callable[[Row], dict[str, Any]]) -> Handler:
        """Return the handler that renames one object."""

        async def handle(call: Call) -> Reply:
            key = _id(prefix, call.params["id"])
            name = None if call.body.name is None else _name(call.body.name)
            extra = (call.body.tier,) if query is SQL.change_organization else ()
            organization = call.params["id"] if prefix == "org" else call.query.get("organization_id")
            async with self._identity.acting(call.tx, organization) as tx:
                return Reply(200, show(await self._identity.change(tx, query, key, call.if_match, name, *extra)))

        return handle

    async def get_organization(self, call: Call) -> Reply:
        """Show an organization."""
        key = await self._identity.organization_id(call.within, call.params["id"])
        after = UUID(int=key.int - 1)
        return Reply(200, views.organization((await self._identity.list_organizations(call.within, after, 1))[0]))

    async def add_member(self, call: Call) -> Reply:
        """Put somebody into a group."""
        return await self._set_member(call, is_member=True)

    async def remove_member(self, call: Call) -> Reply:
        """Take somebody out of a group."""
        return await self._set_member(call, is_member=False)

    async def effective(self, call: Call) -> Reply:
        """Show what a principal is and may, and through which groups."""
        key, kind = _principal(call.params["id"])
        found, via = await self._identity.principal(call.within, key, kind)
        groups = [{"id": format_id("grp", group), "via": list(chain)} for group, chain in via.items()]
        roles = [
            {
                "role": str(each.role),
                "workspace_id": None if each.workspace_id is None else format_id("ws", each.workspace_id),
                "via": "membership",
            }
            for each in found.memberships
        ]
        body = {"principal": call.params["id"], "groups": groups, "roles": roles}
        return Reply(200, {**body, "actions": self._identity.actions(found)})

    async def explain(self, call: Call) -> Reply:
        """Say whether somebody may do something, and by which rule."""
        key, kind = _principal(call.body.principal_id)
        where = None if call.body.workspace_id is None else _id("ws", call.body.workspace_id)
        return Reply(200, await self._identity.explain(call.within, key, kind, call.body.action, where))

    async def list_keys(self, call: Call) -> Reply:
        """List keys."""
        scope = await self._identity.scope_in(call.within, call.query.get("organization_id"))
        rows = await self._keys.listed(scope, _after(call), call.page.limit_plus_one)
        return _listed(call, rows, views.key)

    async def create_key(self, call: Call) -> Reply:
        """Make a key; its text is in this answer and nowhere else."""
        body: views.KeyBody = call.body
        wanted = KeyWanted(
            workspace=body.workspace_id,
            name=_name(body.name),
            scopes=tuple(dict.fromkeys(body.scopes)),
            models=tuple(body.models),
            cidrs=tuple(body.cidrs),
            expires_us=_moment(body.expires_at),
            class_max=body.class_max,
            service_account=body.service_account,
        )
        organization = body.organization_id or await self._organization_of(call, body.workspace_id)
        async with self._identity.acting(call.tx, organization) as tx:
            row, text = await self._keys.create(tx, wanted)
        return Reply(201, {**views.key(row), "key": text})

    async def rotate_key(self, call: Call) -> Reply:
        """Make a key with the same rights; the old one goes on for a while."""
        if not 0 <= call.body.overlap_s <= _OVERLAP_S_MAX:
            raise InterlockError("invalid_request", detail={"field": "overlap_s", "maximum": _OVERLAP_S_MAX})
        async with self._identity.acting(call.tx, call.query.get("organization_id")) as tx:
            row, text = await self._keys.rotate(tx, call.params["id"], call.body.overlap_s)
        return Reply(201, {**views.key(row), "key": text})

    async def revoke_key(self, call: Call) -> Reply:
        """Refuse a key from now on."""
        async with self._identity.acting(call.tx, call.query.get("organization_id")) as tx:
            return Reply(200, views.key(await self._keys.revoke(tx, call.params["id"])))

    async def change_key(self, call: Call) -> Reply:
        """Rename a key."""
        name = None if call.body.name is None else _name(call.body.name)
        return Reply(200, views.key(await self._keys.rename(call.tx, call.params["id"], name, call.if_match)))

    async def _set_member(self, call: Call, *, is_member: bool) -> Reply:
        organization = call.query.get("organization_id") or await self._organization_of(call, call.params["id"])
        async with self._identity.acting(call.tx, organization) as tx:
            change = await self._identity.set_member(
                tx, call.params["id"], call.params["principal"], is_member=is_member
            )
        body = {"group_id": format_id("grp", change.group_id), "member": change.member, "epoch": change.epoch}
        return Reply(200, {**body, "consistency_token": change.consistency_token})

    async def _organization_of(self, call: Call, named: str) -> str | None:
        """Return the organization of a workspace or group id, for the operator alone; None is the caller's own."""
        if not call.who.is_platform_operator:
            return None
        for kind in ("ws", "grp"):
            try:
                key = parse_id(kind, named)
            except MalformedIdError:
                continue
            async with call.store.ops("where an object belongs, for the platform's operator") as tx:
                found = await tx.fetchval(SQL.tenant_of, key)
            return None if found is None else format_id("org", found)
        return None


def routes(identity: IdentityService, keys: KeyService) -> list[Route]:
    """Return the routes of identity."""
    handlers = Handlers(identity, keys)
    return [
        *_organization_routes(handlers),
        *_object_routes(handlers),
        *_group_routes(handlers),
        *_key_routes(handlers),
    ]


def _organization_routes(handlers: Handlers) -> list[Route]:
    level, path = Level.ORGANIZATION, f"{_ADMIN}/organizations"
    return [
        Route("GET", path, level, handlers.list_organizations, "Organizations that the caller may see.",
              action="admin:read", query=_LIST_QUERY),
        Route("POST", path, level, handlers.create_organization, "Make an organization.", action="admin:write",
              body=views.OrganizationBody, status=201, is_mutation=True, codes=("name_taken",)),
        Route("GET", f"{path}/{{id}}", level, handlers.get_organization, "One organization.", action="admin:read"),
        Route("PATCH", f"{path}/{{id}}", level, handlers.changing(SQL.change_organization, "org", views.organization),
              "Change an organization.", action="admin:write", body=views.ChangeBody, is_mutation=True,
              codes=("version_conflict", "name_taken")),
        Route("GET", f"{_ADMIN}/principals/{{id}}/effective", level, handlers.effective,
              "What a principal is and may, and through which groups.", action="admin:read"),
        Route("POST", f"{_ADMIN}/policy/explain", level, handlers.explain, "Whether an action is allowed, and why.",
              action="admin:read", body=views.ExplainBody),
    ]  # fmt: skip


def _object_routes(handlers: Handlers) -> list[Route]:
    level, found = Level.ORGANIZATION, []
    kinds = (
        ("workspaces", "workspace", "ws", SQL.list_workspaces, views.workspace, views.NamedBody,
         handlers.create_workspace, SQL.change_workspace),
        ("users", "user", "usr", SQL.list_users, views.user, views.UserBody, handlers.create_user, SQL.change_user),
        ("groups", "group", "grp", SQL.list_groups, views.group, views.NamedBody, handlers.create_group,
         SQL.change_group),
        ("service-accounts", "service_account", "sa", SQL.list_service_accounts, views.service_account,
         views.ServiceAccountBody, handlers.create_service_account, None),
    )  # fmt: skip
    for name, kind, prefix, query, show, body, create, change in kinds:
        path, word = f"{_ADMIN}/{name}", kind.replace("_", " ")
        listing = handlers.listing(Listing(path, prefix, query, show))
        found += [
            Route("GET", path, level, listing, f"Every {word}.", action="admin:read", query=_LIST_QUERY),
            Route("POST", path, level, create, f"Make a {word}.", action="admin:write", body=body, status=201,
                  is_mutation=True, codes=("name_taken", "not_found")),
            Route("GET", f"{path}/{{id}}", level, handlers.getting(kind, show), f"One {word}.", action="admin:read",
                  query=("organization_id",)),
            Route("DELETE", f"{path}/{{id}}", level, handlers.deleting(kind, prefix, show), f"Remove a {word}.",
                  action="admin:write", is_mutation=True, codes=("in_use", "last_owner"), query=("organization_id",)),
        ]  # fmt: skip
        if change is not None:
            found.append(
                Route("PATCH", f"{path}/{{id}}", level, handlers.changing(change, prefix, show), f"Change a {word}.",
                      action="admin:write", body=views.ChangeBody, is_mutation=True,
                      codes=("version_conflict", "name_taken"), query=("organization_id",))
            )  # fmt: skip
    return found


def _group_routes(handlers: Handlers) -> list[Route]:
    level, path = Level.ORGANIZATION, f"{_ADMIN}/memberships"
    listing = handlers.listing(Listing(path, "mem", SQL.list_memberships, views.membership))
    member = f"{_ADMIN}/groups/{{id}}/members/{{principal}}"
    return [
        Route("GET", path, level, listing, "Every role that was given.", action="admin:read", query=_LIST_QUERY),
        Route("POST", path, level, handlers.create_membership, "Give a role.", action="admin:write",
              body=views.MembershipBody, status=201, is_mutation=True, codes=("name_taken", "role_denied")),
        Route("DELETE", f"{path}/{{id}}", level, handlers.delete_membership, "Take a role away.",
              action="admin:write", is_mutation=True, codes=("last_owner",), query=("organization_id",)),
        Route("PUT", member, level, handlers.add_member, "Put a principal or group into a group.",
              action="admin:write", is_mutation=True, codes=("group_limit",), query=("organization_id",)),
        Route("DELETE", member, level, handlers.remove_member, "Take a principal or group out of a group.",
              action="admin:write", is_mutation=True, query=("organization_id",)),
    ]  # fmt: skip


def _key_routes(handlers: Handlers) -> list[Route]:
    level, path = Level.ORGANIZATION, f"{_ADMIN}/keys"
    return [
        Route("GET", path, level, handlers.list_keys, "Keys, without their secrets.", action="admin:read",
              query=_LIST_QUERY),
        Route("POST", path, level, handlers.create_key, "Make a key; its text is shown once.", action="admin:write",
              body=views.KeyBody, status=201, is_mutation=True, codes=("role_denied", "not_found", "class_unknown")),
        Route("PATCH", f"{path}/{{id}}", level, handlers.change_key, "Rename a key.", action="admin:write",
              body=views.ChangeBody, is_mutation=True, codes=("version_conflict",)),
        Route("POST", f"{path}/{{id}}/rotate", level, handlers.rotate_key, "Replace a key, with an overlap.",
              action="admin:write", body=views.RotateBody, status=201, is_mutation=True, codes=("in_use",),
              query=("organization_id",)),
        Route("DELETE", f"{path}/{{id}}", level, handlers.revoke_key, "Revoke a key everywhere within a second.",
              action="admin:write", is_mutation=True, query=("organization_id",)),
    ]  # fmt: skip


def _after(call: Call) -> UUID:
    after = call.page.after
    return NO_ID if after is None else UUID(str(after[0]))


def _listed(call: Call, rows: list[Row], show: Callable[[Row], dict[str, Any]]) -> Reply:
    kept, position = call.page.cut(rows, lambda row: (str(row["id"]),))
    return call.listed([show(row) for row in kept], position)


def _name(text: str) -> str:
    if not 0 < len(text.strip()) <= _NAME_CHARS_MAX:
        message = f"`name` has 1 to {_NAME_CHARS_MAX} characters."
        raise InterlockError("invalid_request", message, detail={"field": "name"})
    return text


def _id(kind: str, text: str) -> UUID:
    try:
        return parse_id(kind, text)
    except MalformedIdError:
        raise InterlockError("not_found") from None


def _principal(text: str) -> tuple[UUID, PrincipalKind]:
    is_user = text.startswith("usr_")
    return _id("usr" if is_user else "sa", text), PrincipalKind.USER if is_user else PrincipalKind.SERVICE_ACCOUNT


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = "`expires_at` is a time in RFC 3339."
        raise InterlockError("invalid_request", message, detail={"field": "expires_at"}) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1_000_000)
