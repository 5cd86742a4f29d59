"""The addresses of members, groups and workspaces, each with who may open it.

Renders nothing; a role in one workspace opens none of them, as over the API.
"""

from interlock.console.addresses import HTML, as_type
from interlock.console.groups import GroupPages
from interlock.console.people import PeoplePages
from interlock.console.people_forms import PeopleForms
from interlock.foundation.control.route import Handler, Level, Route

_BODY_BYTES_MAX = 65_536


def people_routes(pages: PeoplePages, forms: PeopleForms) -> list[Route]:
    """Return the routes of the pages and their forms."""
    groups = GroupPages(pages)
    return [
        _page("/members", pages.members, "People and programs.", ("kind", "cursor", "who", "action", "place")),
        as_type(_page("/members.csv", pages.export, "People and programs as CSV."), "text/csv"),
        _page("/members/{id}", pages.member, "What a principal is and may.", ("action", "place")),
        _page("/groups", groups.groups, "Groups.", ("cursor",)),
        as_type(_page("/groups.csv", groups.export, "Groups as CSV."), "text/csv"),
        _page("/groups/{id}", groups.group, "One group.", ("cursor",)),
        _page("/workspaces", pages.workspaces, "Workspaces.", ("cursor",)),
        as_type(_page("/workspaces.csv", pages.export_workspaces, "Workspaces as CSV."), "text/csv"),
        _page("/workspaces/{id}", pages.workspace, "One workspace."),
        _form("/members", forms.invite, "Make a person with a first role.", ("name_taken", "role_denied")),
        _form("/members/programs", forms.make_program, "Make a program.", ("name_taken", "not_found")),
        _form("/members/{id}/remove", forms.remove_member, "Remove a person or program.", ("last_owner",)),
        _form("/members/{id}/keys", forms.make_key, "Make a key to sign in with; it is shown once.",
              ("state_conflict",)),
        _form("/roles", forms.give_role, "Give a role.", ("name_taken", "role_denied")),
        _form("/roles/{id}/change", forms.change_role, "Give another role in place of one.",
              ("name_taken", "last_owner")),
        _form("/roles/{id}/take", forms.take_role, "Take a role away.", ("last_owner",)),
        _form("/groups", forms.make_group, "Make a group.", ("name_taken",)),
        _form("/groups/{id}/delete", forms.delete_group, "Delete a group."),
        _form("/group-members", forms.add_member, "Put a principal or group into a group.", ("group_limit",)),
        _form("/group-members/remove", forms.leave_group, "Take a principal or group out of a group."),
        _form("/workspaces", forms.make_workspace, "Make a workspace.", ("name_taken",)),
    ]  # fmt: skip


def _page(path: str, handler: Handler, summary: str, query: tuple[str, ...] = ()) -> Route:
    codes = ("invalid_cursor",) if "cursor" in query else ()
    return Route("GET", f"/console{path}", Level.ORGANIZATION, handler, summary, action="admin:read", is_html=True,
                 query=query, codes=codes, media_type=HTML)  # fmt: skip


def _form(path: str, handler: Handler, summary: str, codes: tuple[str, ...] = ()) -> Route:
    return Route("POST", f"/console{path}", Level.ORGANIZATION, handler, summary, action="admin:write", is_html=True,
                 is_mutation=True, body_bytes_max=_BODY_BYTES_MAX, codes=codes, media_type=HTML)  # fmt: skip
