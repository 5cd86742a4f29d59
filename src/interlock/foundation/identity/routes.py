"""HTTP of identity: organizations, workspaces, people, programs, roles, groups, keys, effective views.

Parses, makes one service call, renders; the policy was asked before.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from interlock.foundation.control.route import Call, Handler, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import views
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.domain.names import email_of, name_of
from interlock.foundation.identity.effective import explain
from interlock.foundation.identity.keys import KeyChange, KeyService, KeyWanted
from interlock.foundation.identity.service import NO_ID, IdentityService, Row
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.store import Query, Transaction

_OVERLAP_S_MAX = 90 * 86_400
_ADMIN = "/admin/v1"
_PLACE_QUERY = ("organization_id",)
_LIST_QUERY = ("limit", "cursor", *_PLACE_QUERY)
_TOKEN_HEADER = "x-interlock-consistency-token"  # noqa: S105 - the name of a header
Show = Callable[[Row], dict[str, Any]]


class Handlers:
    """The calls of identity. `organization_id` of a query or body names another organization, for the operator."""

    def __init__(self, identity: IdentityService, keys: KeyService) -> None:
        self._identity = identity
        self._keys = keys

    def listing(self, kind: str, show: Show) -> Handler:
        """Return the handler that lists a kind."""

        async def handle(call: Call) -> Reply:
            scope = await self._identity.scope_in(call.within, call.query.get("organization_id"))
            rows = await self._identity.listed(scope, kind, _after(call), call.page.limit_plus_one)
            return _listed(call, rows, show)

        return handle

    def getting(self, kind: str, prefix: str, show: Show) -> Handler:
        """Return the handler that shows one object."""

        async def handle(call: Call) -> Reply:
            scope = await self._identity.scope_in(call.within, await self._place(call, prefix))
            async with call.store.transaction(scope) as tx:
                return _one(show, await self._identity.get(tx, kind, call.params["id"]))

        return handle

    def changing(self, query: Query, prefix: str, show: Show) -> Handler:
        """Return the handler that renames one object."""

        async def handle(call: Call) -> Reply:
            key = _id(prefix, call.params["id"])
            name = None if call.body.name is None else name_of(call.body.name)
            async with self._identity.acting(call.tx, await self._place(call, prefix)) as tx:
                return _one(show, await self._identity.change(tx, query, key, call.if_match, name))

        return handle

    def deleting(self, kind: str, prefix: str, show: Show) -> Handler:
        """Return the handler that deletes a kind."""

        async def handle(call: Call) -> Reply:
            key = _id(prefix, call.params["id"])
            async with self._identity.acting(call.tx, await self._place(call, prefix)) as tx:
                if kind in {"user", "service_account"}:
                    row = await self._identity.delete_principal(tx, kind, key)
                else:
                    row = await self._identity.delete(tx, kind, key)
                return Reply(200, show(row), headers=await self._token(tx))

        return handle

    async def list_organizations(self, call: Call) -> Reply:
        """List the caller's organization, or all of them for the operator."""
        rows = await self._identity.list_organizations(call.within, _after(call), call.page.limit_plus_one)
        return _listed(call, rows, views.organization)

    async def create_organization(self, call: Call) -> Reply:
        """Make an organization."""
        name = name_of(call.body.name)
        return Reply(201, views.organization(await self._identity.create_organization(call.tx, name, call.body.tier)))

    async def get_organization(self, call: Call) -> Reply:
        """Show an organization."""
        scope = await self._identity.scope_in(call.within, call.params["id"])
        async with call.store.transaction(scope) as tx:
            named = format_id("org", scope.organization_id)
            return _one(views.organization, await self._identity.get(tx, "organization", named))

    async def change_organization(self, call: Call) -> Reply:
        """Rename an organization, set its tier, or take back that it was given up."""
        body: views.ChangeOrganizationBody = call.body
        name = None if body.name is None else name_of(body.name)
        if body.tier is not None and not call.within.principal.is_platform_operator:
            # The limits of a tier are the platform's, so nobody picks their own.
            raise InterlockError("role_denied", detail={"action": "admin:write", "roles": ["platform operator"]})
        async with self._identity.acting(call.tx, call.params["id"]) as tx:
            version = call.if_match
            if body.state is not None:
                row = await self._identity.reopen_organization(tx, version)
                version = row["version"]
            key = tx.scope.organization_id
            row = await self._identity.change(tx, SQL.change_organization, key, version, name, body.tier)
            return _one(views.organization, row)

    async def close_organization(self, call: Call) -> Reply:
        """Give an organization up."""
        async with self._identity.acting(call.tx, call.params["id"]) as tx:
            return Reply(200, views.organization(await self._identity.close_organization(tx)))

    async def create_workspace(self, call: Call) -> Reply:
        """Make a workspace."""
        async with self._identity.acting(call.tx, call.body.organization_id) as tx:
            row = await self._identity.create_workspace(tx, name_of(call.body.name))
        return Reply(201, views.workspace(row))

    async def create_user(self, call: Call) -> Reply:
        """Make a person."""
        email = email_of(call.body.email)
        name = name_of(call.body.name) if call.body.name else email.partition("@")[0]
        async with self._identity.acting(call.tx, call.body.organization_id) as tx:
            row = await self._identity.create_user(tx, email, name)
        return Reply(201, views.user(row))

    async def create_service_account(self, call: Call) -> Reply:
        """Make a program."""
        body: views.ServiceAccountBody = call.body
        organization = body.organization_id or await self._identity.owner_of(call.within, "ws", body.workspace_id)
        async with self._identity.acting(call.tx, organization) as tx:
            workspace = await self._identity.get(tx, "workspace", body.workspace_id)
            row = await self._identity.create_service_account(tx, workspace["id"], name_of(body.name))
            return Reply(201, views.service_account(row), headers=await self._token(tx))

    async def create_group(self, call: Call) -> Reply:
        """Make a group."""
        async with self._identity.acting(call.tx, call.body.organization_id) as tx:
            row = await self._identity.create_group(tx, name_of(call.body.name))
        return Reply(201, views.group(row))

    async def create_membership(self, call: Call) -> Reply:
        """Give a role."""
        body: views.MembershipBody = call.body
        async with self._identity.acting(call.tx, body.organization_id) as tx:
            row = await self._identity.create_membership(tx, body.principal, body.role, body.workspace_id)
            return Reply(201, views.membership(row), headers=await self._token(tx))

    async def change_membership(self, call: Call) -> Reply:
        """Give another role in place of one."""
        key = _id("mem", call.params["id"])
        async with self._identity.acting(call.tx, await self._place(call, "mem")) as tx:
            row = await self._identity.change_membership(tx, key, call.body.role, call.if_match)
            return Reply(200, views.membership(row), headers={**_etag(row), **await self._token(tx)})

    async def delete_membership(self, call: Call) -> Reply:
        """Take a role away."""
        key = _id("mem", call.params["id"])
        async with self._identity.acting(call.tx, await self._place(call, "mem")) as tx:
            row = await self._identity.delete_membership(tx, key)
            return Reply(200, views.membership(row), headers=await self._token(tx))

    async def add_member(self, call: Call) -> Reply:
        """Put somebody into a group."""
        return await self._set_member(call, is_member=True)

    async def remove_member(self, call: Call) -> Reply:
        """Take somebody out of a group."""
        return await self._set_member(call, is_member=False)

    async def effective(self, call: Call) -> Reply:
        """Show what a principal is and may, and through which groups."""
        named = call.params["id"]
        scope = await self._identity.scope_in(call.within, await self._place(call, named.partition("_")[0]))
        return Reply(200, (await self._identity.effective(scope, named)).public())

    async def explain(self, call: Call) -> Reply:
        """Say whether somebody may do something, and by which rule."""
        body: views.ExplainBody = call.body
        where = None if body.workspace_id is None else _id("ws", body.workspace_id)
        prefix = body.principal_id.partition("_")[0]
        scope = await self._identity.scope_in(
            call.within, await self._identity.owner_of(call.within, prefix, body.principal_id)
        )
        return Reply(200, explain(await self._identity.effective(scope, body.principal_id), body.action, where))

    async def list_keys(self, call: Call) -> Reply:
        """List keys."""
        workspace = call.query.get("workspace_id")
        place = call.query.get("organization_id")
        if place is None and workspace is not None:
            place = await self._identity.owner_of(call.within, "ws", workspace)
        scope = await self._identity.scope_in(call.within, place)
        rows = await self._keys.listed(scope, _after(call), call.page.limit_plus_one, workspace)
        return _listed(call, rows, views.key)

    async def get_key(self, call: Call) -> Reply:
        """Show a key without its secret."""
        scope = await self._identity.scope_in(call.within, await self._place(call, "key"))
        async with call.store.transaction(scope) as tx:
            return _one(views.key, await self._keys.get(tx, call.params["id"]))

    async def create_key(self, call: Call) -> Reply:
        """Make a key; its text is in this answer and nowhere else."""
        body: views.KeyBody = call.body
        wanted = KeyWanted(
            workspace=body.workspace_id,
            name=name_of(body.name),
            scopes=tuple(dict.fromkeys(body.scopes)),
            models=tuple(body.models),
            cidrs=tuple(body.cidrs),
            expires_us=_moment(body.expires_at),
            class_max=body.class_max,
            service_account=body.service_account,
        )
        organization = body.organization_id or await self._identity.owner_of(call.within, "ws", body.workspace_id)
        async with self._identity.acting(call.tx, organization) as tx:
            row, text = await self._keys.create(tx, wanted)
        return Reply(201, {**views.key(row), "key": text})

    async def rotate_key(self, call: Call) -> Reply:
        """Make a key with the same rights; the old one goes on for a while."""
        if not 0 <= call.body.overlap_s <= _OVERLAP_S_MAX:
            raise InterlockError("invalid_request", detail={"field": "overlap_s", "maximum": _OVERLAP_S_MAX})
        async with self._identity.acting(call.tx, await self._place(call, "key")) as tx:
            row, text = await self._keys.rotate(tx, call.params["id"], call.body.overlap_s)
        return Reply(201, {**views.key(row), "key": text})

    async def revoke_key(self, call: Call) -> Reply:
        """Refuse a key from now on."""
        async with self._identity.acting(call.tx, await self._place(call, "key")) as tx:
            return Reply(200, views.key(await self._keys.revoke(tx, call.params["id"])))

    async def change_key(self, call: Call) -> Reply:
        """Change what a key is called and may reach."""
        body: views.ChangeKeyBody = call.body
        has_end = not isinstance(body.expires_at, msgspec.UnsetType)
        wanted = KeyChange(
            name=None if body.name is None else name_of(body.name),
            models=None if body.models is None else tuple(body.models),
            cidrs=None if body.cidrs is None else tuple(body.cidrs),
            class_max=body.class_max,
            has_end=has_end,
            expires_us=None if isinstance(body.expires_at, msgspec.UnsetType) else _moment(body.expires_at),
        )
        async with self._identity.acting(call.tx, await self._place(call, "key")) as tx:
            return _one(views.key, await self._keys.change(tx, call.params["id"], wanted, call.if_match))

    async def _set_member(self, call: Call, *, is_member: bool) -> Reply:
        async with self._identity.acting(call.tx, await self._place(call, "grp")) as tx:
            change = await self._identity.set_member(
                tx, call.params["id"], call.params["principal"], is_member=is_member
            )
        body = {"group_id": format_id("grp", change.group_id), "member": change.member, "epoch": change.epoch}
        token = change.consistency_token
        return Reply(200, {**body, "consistency_token": token}, headers={_TOKEN_HEADER: token})

    async def _place(self, call: Call, prefix: str) -> str | None:
        """Return the organization that a call with an id is about: the named one, or for the operator the id's."""
        named = call.query.get("organization_id")
        return named or await self._identity.owner_of(call.within, prefix, call.params["id"])

    async def _token(self, tx: Transaction) -> dict[str, str]:
        return {_TOKEN_HEADER: await self._identity.current_token(tx)}


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
        Route("POST", path, Level.PLATFORM, handlers.create_organization, "Make an organization.",
              action="admin:write", body=views.OrganizationBody, status=201, is_mutation=True, codes=("name_taken",)),
        Route("GET", f"{path}/{{id}}", level, handlers.get_organization, "One organization.", action="admin:read"),
        Route("PATCH", f"{path}/{{id}}", level, handlers.change_organization, "Change an organization.",
              action="admin:write", body=views.ChangeOrganizationBody, is_mutation=True,
              codes=("version_conflict", "name_taken", "role_denied")),
        Route("DELETE", f"{path}/{{id}}", level, handlers.close_organization,
              "Give an organization up: its keys are refused; nothing is deleted yet.", action="admin:write",
              is_mutation=True, codes=("in_use",)),
        Route("GET", f"{_ADMIN}/principals/{{id}}/effective", level, handlers.effective,
              "What a principal is and may, and through which groups.", action="admin:read", query=_PLACE_QUERY),
        Route("POST", f"{_ADMIN}/policy/explain", level, handlers.explain, "Whether an action is allowed, and why.",
              action="admin:read", body=views.ExplainBody),
    ]  # fmt: skip


def _object_routes(handlers: Handlers) -> list[Route]:
    level, found = Level.ORGANIZATION, []
    kinds = (
        ("workspaces", "workspace", "ws", SQL.change_workspace, views.workspace,
         views.NamedBody, handlers.create_workspace),
        ("users", "user", "usr", SQL.change_user, views.user, views.UserBody, handlers.create_user),
        ("groups", "group", "grp", SQL.change_group, views.group, views.NamedBody,
         handlers.create_group),
        ("service-accounts", "service_account", "sa", SQL.change_service_account,
         views.service_account, views.ServiceAccountBody, handlers.create_service_account),
    )  # fmt: skip
    for name, kind, prefix, changed, show, body, create in kinds:
        path, word = f"{_ADMIN}/{name}", kind.replace("_", " ")
        found += [
            Route("GET", path, level, handlers.listing(kind, show), f"Every {word}.", action="admin:read",
                  query=_LIST_QUERY),
            Route("POST", path, level, create, f"Make a {word}.", action="admin:write", body=body, status=201,
                  is_mutation=True, codes=("name_taken", "not_found")),
            Route("GET", f"{path}/{{id}}", level, handlers.getting(kind, prefix, show), f"One {word}.",
                  action="admin:read", query=_PLACE_QUERY),
            Route("PATCH", f"{path}/{{id}}", level, handlers.changing(changed, prefix, show), f"Change a {word}.",
                  action="admin:write", body=views.ChangeBody, is_mutation=True,
                  codes=("version_conflict", "name_taken"), query=_PLACE_QUERY),
            Route("DELETE", f"{path}/{{id}}", level, handlers.deleting(kind, prefix, show), f"Remove a {word}.",
                  action="admin:write", is_mutation=True, codes=("in_use", "last_owner"), query=_PLACE_QUERY),
        ]  # fmt: skip
    return found


def _group_routes(handlers: Handlers) -> list[Route]:
    level, path = Level.ORGANIZATION, f"{_ADMIN}/memberships"
    listing = handlers.listing("membership", views.membership)
    getting = handlers.getting("membership", "mem", views.membership)
    member = f"{_ADMIN}/groups/{{id}}/members/{{principal}}"
    return [
        Route("GET", path, level, listing, "Every role that was given.", action="admin:read", query=_LIST_QUERY),
        Route("POST", path, level, handlers.create_membership, "Give a role.", action="admin:write",
              body=views.MembershipBody, status=201, is_mutation=True, codes=("name_taken", "role_denied")),
        Route("GET", f"{path}/{{id}}", level, getting, "One role that was given.", action="admin:read",
              query=_PLACE_QUERY),
        Route("PATCH", f"{path}/{{id}}", level, handlers.change_membership, "Give another role in place of one.",
              action="admin:write", body=views.ChangeMembershipBody, is_mutation=True,
              codes=("version_conflict", "name_taken", "last_owner"), query=_PLACE_QUERY),
        Route("DELETE", f"{path}/{{id}}", level, handlers.delete_membership, "Take a role away.",
              action="admin:write", is_mutation=True, codes=("last_owner",), query=_PLACE_QUERY),
        Route("PUT", member, level, handlers.add_member, "Put a principal or group into a group.",
              action="admin:write", is_mutation=True, codes=("group_limit",), query=_PLACE_QUERY),
        Route("DELETE", member, level, handlers.remove_member, "Take a principal or group out of a group.",
              action="admin:write", is_mutation=True, query=_PLACE_QUERY),
    ]  # fmt: skip


def _key_routes(handlers: Handlers) -> list[Route]:
    level, path = Level.ORGANIZATION, f"{_ADMIN}/keys"
    return [
        Route("GET", path, level, handlers.list_keys, "Keys, without their secrets.", action="admin:read",
              query=(*_LIST_QUERY, "workspace_id")),
        Route("POST", path, level, handlers.create_key, "Make a key; its text is shown once.", action="admin:write",
              body=views.KeyBody, status=201, is_mutation=True, codes=("role_denied", "not_found", "class_unknown")),
        Route("GET", f"{path}/{{id}}", level, handlers.get_key, "One key, without its secret.", action="admin:read",
              query=_PLACE_QUERY),
        Route("PATCH", f"{path}/{{id}}", level, handlers.change_key, "Change what a key is called and may reach.",
              action="admin:write", body=views.ChangeKeyBody, is_mutation=True,
              codes=("version_conflict", "class_unknown"), query=_PLACE_QUERY),
        Route("POST", f"{path}/{{id}}/rotate", level, handlers.rotate_key, "Replace a key, with an overlap.",
              action="admin:write", body=views.RotateBody, status=201, is_mutation=True, codes=("in_use",),
              query=_PLACE_QUERY),
        Route("DELETE", f"{path}/{{id}}", level, handlers.revoke_key, "Revoke a key everywhere within a second.",
              action="admin:write", is_mutation=True, query=_PLACE_QUERY),
    ]  # fmt: skip


def _after(call: Call) -> UUID:
    after = call.page.after
    return NO_ID if after is None else UUID(str(after[0]))


def _listed(call: Call, rows: list[Row], show: Callable[[Row], dict[str, Any]]) -> Reply:
    kept, position = call.page.cut(rows, lambda row: (str(row["id"]),))
    return call.listed([show(row) for row in kept], position)


def _one(show: Show, row: Row) -> Reply:
    return Reply(200, show(row), headers=_etag(row))


def _etag(row: Row) -> dict[str, str]:
    return {"etag": f'"{row["version"]}"'}


def _id(kind: str, text: str) -> UUID:
    try:
        return parse_id(kind, text)
    except MalformedIdError:
        raise InterlockError("not_found") from None


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        message = "`expires_at` is a time in RFC 3339."
        raise InterlockError("invalid_request", message, detail={"field": "expires_at"}) from None
