"""People and programs: the lists, what one of them is and may, and the workspaces that roles are given in.

Changes nothing; `people_forms.py` does. What a principal may is the policy's answer, never worked out here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Final
from urllib.parse import quote, urlencode
from uuid import UUID

from interlock.console.addresses import Sampler
from interlock.console.config import ConsoleConfig
from interlock.console.exports import all_rows, csv_of
from interlock.console.frame import Frame
from interlock.console.keys import LIFETIMES_S
from interlock.console.render import sent_to
from interlock.console.views import GO, STOP, ago
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.control.route import Call, Level, Reply
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import (
    ALL_SCOPES,
    IdentityService,
    Listed,
    People,
    PrincipalSeen,
    RoleSeen,
    authorize,
    explain,
)
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.foundation.scope import Scope

START: Final = UUID(int=0)
WORKSPACES_MAX: Final = 200
# The two lists of members: the kind that is read, the prefix of its ids, and where the API has it.
KINDS: Final = {
    "people": ("user", "usr", "/admin/v1/users"),
    "programs": ("service_account", "sa", "/admin/v1/service-accounts"),
}
CSV_COLUMNS: Final = ("id", "kind", "name", "email", "roles", "created_at")
WORKSPACE_COLUMNS: Final = ("id", "name", "created_at")
_WHO_CHARS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class PeoplePages:
    """Serves the pages that read."""

    frame: Frame
    people: People
    clock: Clock
    config: ConsoleConfig

    @property
    def identity(self) -> IdentityService:
        """Whose reads these are."""
        return self.people.identity

    async def members(self, call: Call) -> Reply:
        """Answer one of the two lists, or go on to whoever is asked for. Raises `not_found`, `invalid_cursor`."""
        who = call.query.get("who", "").strip()
        if who:
            return await self._sent_to(call, who)
        kind = _kind(call)
        query, prefix, json_url = KINDS[kind]
        page = call.page
        found = await self.people.listed(call.within, query, after_of(call), page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (str(each.row["id"]),))
        values = {
            "kind": kind,
            "kinds": list(KINDS),
            "members": [listed_row(prefix, each, self.clock.now_us()) for each in kept],
            "json_url": json_url,
            **pager(call, "/console/members", position, {"kind": kind}),
            **await self.choices(call, call.within),
        }
        return self.frame.page(call, "members", values)

    async def export(self, call: Call) -> Reply:
        """Answer people and programs as CSV, each with its own roles."""
        told: list[dict[str, Any]] = []
        for kind, (query, prefix, _) in KINDS.items():
            found = await self.all_listed(call.within, query, self.config.csv_rows_max - len(told))
            told += [{**exported_row(prefix, each, self.clock.now_us()), "kind": kind} for each in found]
        return csv_of("members.csv", CSV_COLUMNS, told)

    async def member(self, call: Call) -> Reply:
        """Answer the effective view of one principal, and whether it may what the query asks. Raises `not_found`."""
        scope = await self.scope_of(call, call.params["id"])
        found = await self.people.principal(scope, call.params["id"])
        choices = await self.choices(call, scope)
        values = {
            "member": told_member(found),
            "groups": told_groups(found),
            "roles": [told_role(each, found.id) for each in found.roles],
            "actions": actions_by_system(found),
            "lifetimes": list(LIFETIMES_S),
            "asked": asked_of(call.query),
            "answer": await self._answer(scope, found, call.query),
            **choices,
        }
        return self.frame.page(call, "member", values)

    async def workspaces(self, call: Call) -> Reply:
        """Answer the workspaces. Raises `invalid_cursor`."""
        page = call.page
        found = await self.identity.listed(call.within, "workspace", after_of(call), page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (str(each["id"]),))
        values = {
            "rows": [told_row("ws", each, self.clock.now_us()) for each in kept],
            "may_write": may_write(call),
            **pager(call, "/console/workspaces", position, {}),
        }
        return self.frame.page(call, "workspaces", values)

    async def export_workspaces(self, call: Call) -> Reply:
        """Answer the workspaces as CSV."""
        read = partial(self.identity.listed, call.within, "workspace")
        rows = await all_rows(read, START, itemgetter("id"), self.config.csv_rows_max)
        now_us = self.clock.now_us()
        return csv_of("workspaces.csv", WORKSPACE_COLUMNS, [told_row("ws", each, now_us) for each in rows])

    async def workspace(self, call: Call) -> Reply:
        """Answer one workspace: who has a role in it, and its programs. Raises `not_found`."""
        found = await self.people.workspace(await self.scope_of(call, call.params["id"]), call.params["id"])
        now_us = self.clock.now_us()
        values = {
            "workspace": told_row("ws", found.row, now_us),
            "roles": [told_role(each, "") for each in found.roles],
            "programs": [told_row("sa", each, now_us) for each in found.programs],
            "may_write": may_write(call),
            "roles_to_give": self.identity.roles_to_give(call.within),
        }
        return self.frame.page(call, "workspace", values)

    async def scope_of(self, call: Call, named: str) -> Scope:
        """Return the scope in which to look for an id; another organization's for the platform's operator alone."""
        prefix = named.partition("_")[0]
        return await self.identity.scope_in(call.within, await self.identity.owner_of(call.within, prefix, named))

    async def choices(self, call: Call, scope: Scope) -> dict[str, Any]:
        """Return what forms offer: roles up to the reader's own, and workspaces."""
        rows = await self.identity.listed(scope, "workspace", START, WORKSPACES_MAX)
        return {
            "may_write": may_write(call),
            "roles_to_give": self.identity.roles_to_give(call.within),
            "all_actions": sorted(ALL_SCOPES),
            "workspaces": [{"id": format_id("ws", each["id"]), "name": each["name"]} for each in rows],
        }

    async def all_listed(self, scope: Scope, kind: str, rows_max: int) -> list[Listed]:
        """Return people, programs or groups for an export."""
        return await all_rows(partial(self.people.listed, scope, kind), START, lambda each: each.row["id"], rows_max)

    @property
    def samplers(self) -> dict[str, Sampler]:
        """What the list of screens may show: the first person and the first workspace of a scope."""
        return {
            "member": first_of(self.identity, "user", "usr"),
            "workspace": first_of(self.identity, "workspace", "ws"),
        }

    async def _sent_to(self, call: Call, who: str) -> Reply:
        """Go to the page of a person or program, with the question that was asked about it."""
        if len(who) > _WHO_CHARS_MAX:
            raise InterlockError("not_found")
        found = await self.people.principal(await self.scope_of(call, who), who)
        asked = {name: text for name, text in asked_of(call.query).items() if text}
        path = f"/console/members/{quote(found.id)}"
        return sent_to(f"{path}?{urlencode(asked)}#answer" if asked.get("action") else path)

    async def _answer(self, scope: Scope, found: PrincipalSeen, query: Mapping[str, str]) -> dict[str, Any] | None:
        asked = asked_of(query)
        if not asked["action"]:
            return None
        place, where = "anywhere", None
        if asked["place"]:
            where = _workspace_id(asked["place"])
            async with self.identity.store.transaction(scope) as tx:
                place = f"in {(await self.identity.get(tx, 'workspace', asked['place']))['name']}"
        answer = explain(found.effective, asked["action"], where)
        by = found.bringing(asked["action"], asked["place"] or None) if answer["allowed"] else []
        return {
            **answer,
            "tone": GO if answer["allowed"] else STOP,
            "action": asked["action"],
            "place": place,
            "by": [told_role(each, found.id) for each in by],
        }


def may_write(call: Call) -> bool:
    """Tell whether the reader is offered forms."""
    return isinstance(authorize(call.who, "admin:write", Level.ORGANIZATION), Scope)


def after_of(call: Call) -> UUID:
    """Return the id after which the page of a list begins."""
    after = call.page.after
    return START if after is None else UUID(str(after[0]))


def pager(call: Call, path: str, position: tuple[Any, ...] | None, query: dict[str, str]) -> dict[str, Any]:
    """Return the addresses of the first and the next page of a list."""
    cursor = call.listed([], position).body["next_cursor"]
    return {
        "first_url": f"{path}?{urlencode(query)}" if query else path,
        "next_url": None if cursor is None else f"{path}?{urlencode({**query, 'cursor': cursor})}",
        "is_first_page": call.page.after is None,
    }


def first_of(identity: IdentityService, kind: str, prefix: str) -> Sampler:
    """Return what finds the first object of a kind."""

    async def first(scope: Scope) -> str | None:
        found = await identity.listed(scope, kind, START, 1)
        return format_id(prefix, found[0]["id"]) if found else None

    return first


def asked_of(query: Mapping[str, str]) -> dict[str, str]:
    """Return the question of a query: an action, and the id of a workspace or nothing."""
    return {name: query.get(name, "").strip() for name in ("action", "place")}


def told_row(prefix: str, row: Any, now_us: int) -> dict[str, Any]:
    """Return what every list tells of an object."""
    made_us = row["created_us"]
    return {
        "id": format_id(prefix, row["id"]),
        "name": row["name"],
        "created_at": rfc3339(made_us),
        "created": ago(made_us, now_us) if made_us else "-",
    }


def listed_row(prefix: str, each: Listed, now_us: int) -> dict[str, Any]:
    """Return the line of a person, program or group."""
    return {
        **told_row(prefix, each.row, now_us),
        "email": each.row.get("email") or "",
        "roles": [told_role(role, "") for role in each.roles],
        "principals": each.principals,
        "groups": each.groups,
    }


def exported_row(prefix: str, each: Listed, now_us: int) -> dict[str, Any]:
    """Return the line of a person, program or group as an export has it: its roles in one cell."""
    return {**listed_row(prefix, each, now_us), "roles": "; ".join(words_of(role) for role in each.roles)}


def told_role(role: RoleSeen, principal: str) -> dict[str, Any]:
    """Return a role in words; `via` is the group that brings it, empty where the principal has it directly."""
    via = "" if role.holder_id == principal else role.holder
    return {
        "id": role.id,
        "role": str(role.role),
        "workspace": role.workspace,
        "workspace_id": role.workspace_id,
        "holder": role.holder,
        "holder_id": role.holder_id,
        "via": via,
        "words": words_of(role),
    }


def words_of(role: RoleSeen) -> str:
    """Return a role in one word or three."""
    return str(role.role) if role.workspace_id is None else f"{role.role} in {role.workspace}"


def told_member(found: PrincipalSeen) -> dict[str, Any]:
    """Return what the head of the page says."""
    is_person = found.effective.kind == "user"
    held, groups, allowed = len(found.roles), len(found.effective.groups), len(found.effective.actions())
    return {
        "id": found.id,
        "kind": "person" if is_person else "program",
        "is_person": is_person,
        "name": found.row["name"],
        "email": found.row["email"] if is_person else "",
        "workspace_id": None if is_person else format_id("ws", found.row["workspace_id"]),
        "organization_id": format_id("org", found.effective.organization_id),
        "created_at": rfc3339(found.row["created_us"]),
        "sentence": f"Holds {counted(held, 'role')} and is in {counted(groups, 'group')}; its roles allow {allowed} of "
        f"the {len(ALL_SCOPES)} actions, each where the role was given. A key or session has the lesser of its scopes "
        "and this.",
    }


def counted(count: int, word: str) -> str:
    """Return a number of things in words."""
    return f"no {word}" if count == 0 else f"{count} {word}{'' if count == 1 else 's'}"


def told_groups(found: PrincipalSeen) -> list[dict[str, Any]]:
    """Return the groups of a principal, each with the way that leads to it."""
    names = {each.id: each.name for each in found.effective.groups}
    return [
        {"id": format_id("grp", each.id), "name": each.name, "via": [names[between] for between in each.via]}
        for each in found.effective.groups
    ]


def actions_by_system(found: PrincipalSeen) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return every action by the part of the platform that it is of, each with whether a role allows it anywhere."""
    allowed = set(found.effective.actions())
    return [
        (system, [{"name": name, "is_allowed": name in allowed} for name in names])
        for system, names in groupby(sorted(ALL_SCOPES), key=lambda name: name.partition(":")[0])
    ]


def _kind(call: Call) -> str:
    kind = call.query.get("kind") or "people"
    if kind not in KINDS:
        raise InterlockError("invalid_request", "There is no such list.", detail={"field": "kind"})
    return kind


def _workspace_id(text: str) -> UUID:
    try:
        return parse_id("ws", text)
    except (MalformedIdError, IndexError):
        raise InterlockError("not_found") from None
