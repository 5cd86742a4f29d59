"""Groups: the list, and one group: who is in it and through which others, what holds it, what it brings.

Changes nothing; `people_forms.py` does.
"""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interlock.console.addresses import Sampler
from interlock.console.exports import csv_of
from interlock.console.people import (
    PeoplePages,
    after_of,
    exported_row,
    first_of,
    listed_row,
    may_write,
    pager,
    told_role,
    told_row,
)
from interlock.foundation.control.route import Call, Reply
from interlock.foundation.identity import GroupSeen, MemberSeen
from interlock.foundation.ids import format_id

KIND_WORDS: Final = {"user": ("person", "usr"), "sa": ("program", "sa"), "group": ("group", "grp")}
CSV_COLUMNS: Final = ("id", "name", "members", "groups_within", "roles", "created_at")


@dataclass(frozen=True, slots=True)
class GroupPages:
    """Serves the pages; what it shares with the pages of people it asks them."""

    pages: PeoplePages

    async def groups(self, call: Call) -> Reply:
        """Answer the groups, each with how many are in it and what it brings. Raises `invalid_cursor`."""
        page, now_us = call.page, self.pages.clock.now_us()
        found = await self.pages.people.listed(call.within, "group", after_of(call), page.limit_plus_one)
        kept, position = page.cut(found, lambda each: (str(each.row["id"]),))
        values = {
            "rows": [listed_row("grp", each, now_us) for each in kept],
            "may_write": may_write(call),
            **pager(call, "/console/groups", position, {}),
        }
        return self.pages.frame.page(call, "groups", values)

    async def export(self, call: Call) -> Reply:
        """Answer the groups as CSV."""
        found = await self.pages.all_listed(call.within, "group", self.pages.config.csv_rows_max)
        now_us = self.pages.clock.now_us()
        told = [
            {**exported_row("grp", each, now_us), "members": each.principals, "groups_within": each.groups}
            for each in found
        ]
        return csv_of("groups.csv", CSV_COLUMNS, told)

    async def group(self, call: Call) -> Reply:
        """Answer one group with a page of its members. Raises `not_found`, `invalid_cursor`."""
        scope = await self.pages.scope_of(call, call.params["id"])
        found = await self.pages.people.group(scope, call.params["id"])
        page = call.page
        rows = await self.pages.people.members(scope, found.row["id"], after_of(call), page.limit_plus_one)
        kept, position = page.cut(rows, lambda each: (str(each["member_id"]),))
        values = {
            "group": told_row("grp", found.row, self.pages.clock.now_us()),
            "members": [_direct(each) for each in kept],
            "indirect": [_reached(each) for each in found.indirect],
            "above": [_reached(each) for each in found.above],
            "roles": [told_role(each, found.id) for each in found.roles],
            "is_cut": found.is_cut,
            "rows_max": self.pages.config.people_rows_max,
            "sentence": _sentence(found),
            **pager(call, f"/console/groups/{found.id}", position, {}),
            **await self.pages.choices(call, scope),
        }
        return self.pages.frame.page(call, "group", values)

    @property
    def samplers(self) -> dict[str, Sampler]:
        """What the list of screens may show: the first group of a scope."""
        return {"group": first_of(self.pages.identity, "group", "grp")}


def _direct(row: Any) -> dict[str, Any]:
    kind, prefix = KIND_WORDS[row["member_kind"]]
    return _named(UUID(str(row["member_id"])), kind, prefix, row["name"]) | {"email": row["email"] or ""}


def _named(identity: UUID, kind: str, prefix: str, name: str | None) -> dict[str, Any]:
    found = format_id(prefix, identity)
    return {"id": found, "kind": kind, "name": name or found, "url": _url(prefix, found)}


def _reached(member: MemberSeen) -> dict[str, Any]:
    kind, prefix = KIND_WORDS[member.kind]
    return {"id": member.id, "kind": kind, "name": member.name or member.id, "url": _url(prefix, member.id),
            "via": list(member.via)}  # fmt: skip


def _url(prefix: str, identity: str) -> str:
    return f"/console/{'groups' if prefix == 'grp' else 'members'}/{identity}"


def _sentence(found: GroupSeen) -> str:
    if not found.roles:
        return "It brings no role: being in it changes what documents somebody may find, and nothing else."
    words = sorted({f"{each.role} in {each.workspace}" for each in found.roles})
    return f"Whoever is in it, directly or through another group, has the role {'; '.join(words)}."
