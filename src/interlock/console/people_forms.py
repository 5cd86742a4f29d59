"""What the console changes of people: who is there, roles, groups, workspaces, a key to sign in with.

Decides nothing: who may give which role, and that an owner stays, is identity's to say, here as over the API.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.console.frame import Frame
from interlock.console.keys import LIFETIMES_S, key_row
from interlock.console.places import place_of_id
from interlock.console.render import sent_to
from interlock.foundation.clock import Clock
from interlock.foundation.control.route import Call, Reply
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import IdentityService, KeyService, email_of, name_of
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Role
from interlock.foundation.store import Transaction

_KIND_OF: Final = {"usr": "user", "sa": "service_account"}


@dataclass(frozen=True, slots=True)
class PeopleForms:
    """Serves the forms. Each acts where the object is that it names, as the API does."""

    frame: Frame
    identity: IdentityService
    keys: KeyService
    clock: Clock

    async def invite(self, call: Call) -> Reply:
        """Make a person with a first role, and go to their page.

        Raises `invalid_request`, `name_taken`, `role_denied`, `not_found`.
        """
        email = email_of(call.form.get("email", ""))
        name = name_of(call.form.get("name", "").strip() or email.partition("@")[0])
        user = await self.identity.create_user(call.tx, email, name)
        made = format_id("usr", user["id"])
        if call.form.get("role"):
            await self.identity.create_membership(call.tx, made, _role(call), call.form.get("workspace_id") or None)
        return _to(made)

    async def make_program(self, call: Call) -> Reply:
        """Make a program with the role developer in its workspace, and go to its page."""
        named = call.form.get("workspace_id", "")
        async with self._acting(call, named) as tx:
            workspace = await self.identity.get(tx, "workspace", named)
            row = await self.identity.create_service_account(tx, workspace["id"], name_of(call.form.get("name", "")))
        return _to(format_id("sa", row["id"]))

    async def remove_member(self, call: Call) -> Reply:
        """Remove a person or program with everything they have, and go to the list. Raises `last_owner`."""
        named = call.params["id"]
        prefix = named.partition("_")[0]
        if prefix not in _KIND_OF:
            raise InterlockError("not_found")
        async with self._acting(call, named) as tx:
            await self.identity.delete_principal(tx, _KIND_OF[prefix], _id(prefix, named))
        return sent_to("/console/members" if prefix == "usr" else "/console/members?kind=programs")

    async def make_key(self, call: Call) -> Reply:
        """Make a key with which a person signs in, and show it, once. It may what their roles allow right now."""
        named, lifetime = call.params["id"], call.form.get("lifetime", "")
        if lifetime not in LIFETIMES_S:
            raise InterlockError("invalid_request", "This lifetime is not known.", detail={"field": "lifetime"})
        lifetime_s, now_us = LIFETIMES_S[lifetime], self.clock.now_us()
        expires_us = None if lifetime_s is None else now_us + lifetime_s * 1_000_000
        async with self._acting(call, named) as tx:
            workspace = call.form.get("workspace_id", "")
            row, text = await self.keys.create_for_person(tx, named, workspace, "sign-in", expires_us)
        values = {"key": key_row(row, now_us), "text": text, "replaced": None}
        return self.frame.page(call, "keys", values, 201, template="key_made.html")

    async def give_role(self, call: Call) -> Reply:
        """Give a role, and go to the page of whoever got it. Raises `role_denied`, `name_taken`, `not_found`."""
        named = call.form.get("principal", "").strip()
        workspace = call.form.get("workspace_id") or None
        async with self._acting(call, named) as tx:
            row = await self.identity.create_membership(tx, named, _role(call), workspace)
            holder = format_id(_prefix(row["principal_kind"]), row["principal_id"])
        return _to(holder if not call.form.get("back") else call.form["back"])

    async def change_role(self, call: Call) -> Reply:
        """Give another role in place of one. Raises `last_owner`, `role_denied`, `name_taken`, `not_found`."""
        named = call.params["id"]
        async with self._acting(call, named) as tx:
            row = await self.identity.change_membership(tx, _id("mem", named), _role(call), None)
        return _to(format_id(_prefix(row["principal_kind"]), row["principal_id"]))

    async def take_role(self, call: Call) -> Reply:
        """Take a role away. Raises `last_owner`, `role_denied`, `not_found`."""
        named = call.params["id"]
        async with self._acting(call, named) as tx:
            row = await self.identity.delete_membership(tx, _id("mem", named))
        return _to(call.form.get("back") or format_id(_prefix(row["principal_kind"]), row["principal_id"]))

    async def make_group(self, call: Call) -> Reply:
        """Make a group, and go to its page. Raises `name_taken`, `invalid_request`."""
        row = await self.identity.create_group(call.tx, name_of(call.form.get("name", "")))
        return _to(format_id("grp", row["id"]))

    async def delete_group(self, call: Call) -> Reply:
        """Delete a group with the roles that it brings, and go to the list. Raises `role_denied`, `not_found`."""
        named = call.params["id"]
        async with self._acting(call, named) as tx:
            await self.identity.delete(tx, "group", _id("grp", named))
        return sent_to("/console/groups")

    async def add_member(self, call: Call) -> Reply:
        """Put somebody, or a group, into a group. Raises `not_found`, `group_limit`, `role_denied`."""
        return await self._set_member(call, is_member=True)

    async def leave_group(self, call: Call) -> Reply:
        """Take somebody, or a group, out of a group. Raises `not_found`, `role_denied`."""
        return await self._set_member(call, is_member=False)

    async def make_workspace(self, call: Call) -> Reply:
        """Make a workspace, and go to its page. Raises `name_taken`, `invalid_request`."""
        row = await self.identity.create_workspace(call.tx, name_of(call.form.get("name", "")))
        return _to(format_id("ws", row["id"]))

    async def _set_member(self, call: Call, *, is_member: bool) -> Reply:
        # The page of a group names its member in the form, that of a principal the group.
        group, member = call.form.get("group", "").strip(), call.form.get("member", "").strip()
        async with self._acting(call, call.form.get("back") or group) as tx:
            change = await self.identity.set_member(tx, group, member, is_member=is_member)
        return _to(call.form.get("back") or format_id("grp", change.group_id))

    @asynccontextmanager
    async def _acting(self, call: Call, named: str) -> AsyncIterator[Transaction]:
        owner = await self.identity.owner_of(call.within, named.partition("_")[0], named)
        async with self.identity.acting(call.tx, owner) as tx:
            yield tx


def _role(call: Call) -> Role:
    try:
        return Role(call.form.get("role", ""))
    except ValueError:
        raise InterlockError("invalid_request", "There is no such role.", detail={"field": "role"}) from None


def _prefix(kind: str) -> str:
    return {"user": "usr", "group": "grp"}.get(kind, "sa")


def _id(prefix: str, text: str) -> UUID:
    try:
        return parse_id(prefix, text)
    except (MalformedIdError, IndexError):
        raise InterlockError("not_found") from None


def _to(identity: str) -> Reply:
    return sent_to(place_of_id(identity) or "/console/members")
