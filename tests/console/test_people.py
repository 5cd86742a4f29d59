"""Members, groups and workspaces on pages: what they tell, what their forms really change, who may neither."""

import csv
import io
import re
from dataclasses import replace
from urllib.parse import urlencode
from uuid import UUID

import pytest

from interlock.foundation.identity import Authenticated
from interlock.foundation.identity import routes as identity_routes
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.people import People
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID as SYSTEM
from interlock.foundation.ids import format_id
from interlock.foundation.scope import ALL_WORKSPACES, Role
from interlock.foundation.store import Query
from tests.console.conftest import signed_in
from tests.console.test_pages import field, post, text
from tests.support.store import IDS, make_system, make_tenant, scope_of

LISTS = ["/console/members", "/console/members?kind=programs", "/console/groups", "/console/workspaces"]
EVIL = '<script>alert(1)</script>"onload=x'
CHAIN = Query("chain", "what was audited", "SELECT action FROM audit_events WHERE organization_id = $1 ORDER BY seq")


@pytest.fixture
def app(world):
    """With the API beside the pages: an id is found where its own call answers."""
    return world.app(*identity_routes(world.identity, world.keys))


@pytest.fixture
def people(world):
    return People(world.identity, 500)


@pytest.fixture
def inside(world):
    found = scope_of(world.owner.organization_id)
    return replace(found, workspace_id=ALL_WORKSPACES, principal=replace(found.principal, is_platform_operator=True))


@pytest.fixture
def workspace(world):
    return format_id("ws", world.owner.workspace_id)


async def done(client, path, page="/console/groups", **fields):
    """Post a form of a page, and return where it led."""
    answer = await post(client, path, page, **fields)
    assert answer.status == 303, text(answer)
    return answer.headers["location"]


async def invited(client, name="ada", role="developer", workspace=""):
    """Return the id of a person who was added by the form."""
    return (
        await done(client, "/console/members", email=f"{name}@example.com", name=name, role=role,
                   workspace_id=workspace)
    ).rpartition("/")[2]  # fmt: skip


async def grouped(client, name):
    return (await done(client, "/console/groups", name=name)).rpartition("/")[2]


async def actions_of(world, inside):
    async with world.store.transaction(inside) as tx:
        return [each["action"] for each in await tx.fetch(CHAIN, inside.organization_id)]


@pytest.mark.parametrize("path", LISTS)
async def test_a_list_has_one_heading_and_nothing_inline(owner, path):
    answer = await owner("GET", path)
    page = text(answer)
    assert answer.status == 200, page
    assert len(re.findall(r"<h1[ >]", page)) == 1
    assert re.findall(r"\sstyle=|\son[a-z]+=|hx-on|javascript:|<style", page) == []
    assert re.findall(r"<script(?![^>]*src=)", page) == []


async def test_empty_lists_say_which_command_fills_them(owner):
    assert "interlock groups create support" in text(await owner("GET", "/console/groups"))
    assert "interlock keys create" in text(await owner("GET", "/console/members?kind=programs"))


async def test_a_person_who_is_added_has_the_role_and_it_is_audited(world, owner, people, inside, workspace):
    ada = await invited(owner, "ada", "developer", workspace)
    found = await people.principal(inside, ada)
    assert (found.row["email"], [(each.role, each.workspace_id) for each in found.roles]) == (
        "ada@example.com", [(Role.DEVELOPER, workspace)],
    )  # fmt: skip
    assert (await actions_of(world, inside))[-2:] == ["user.create", "membership.create"]
    page = text(await owner("GET", f"/console/members/{ada}"))
    assert "Holds 1 role and is in no group" in page
    assert "ada@example.com" in text(await owner("GET", "/console/members"))
    again = await post(owner, "/console/members", "/console/groups", email="ADA@example.com", name="ada", role="viewer")
    assert (again.status, "name_taken" in text(again)) == (409, True)


@pytest.mark.parametrize(
    "fields", [{"email": "nobody"}, {"email": "a@b", "role": "king"}, {"email": "a@b", "name": "a\u0000b"}]
)
async def test_a_form_that_names_no_person_or_no_role_makes_nobody(owner, fields):
    answer = await post(owner, "/console/members", "/console/groups", **{"role": "viewer", **fields})
    assert answer.status == 400
    assert text(await owner("GET", "/console/members")).count("<tr>") == 2


async def test_a_key_that_was_made_for_a_person_signs_in_as_them_with_what_their_roles_allow(
    world, owner, app, workspace
):
    ada = await invited(owner, "ada", "auditor")
    made = await post(owner, f"/console/members/{ada}/keys", "/console/groups", workspace_id=workspace,
                      lifetime="30 days")  # fmt: skip
    assert made.status == 201, text(made)
    key = re.search(r"il_live_\w{46}", text(made))[0]
    await world.directory.reload()
    reader = await signed_in(world, app, key)
    page = text(await reader("GET", f"/console/members/{ada}"))
    assert "ada" in page
    assert "data-dialog" not in page
    checked = world.authenticator.check(key, None, world.clock.now_us())
    assert isinstance(checked, Authenticated)
    assert format_id("usr", checked.principal.id) == ada
    assert "admin:write" not in checked.principal.scopes


async def test_a_person_without_a_role_gets_no_key(owner, workspace):
    ada = await invited(owner, "ada", "")
    answer = await post(owner, f"/console/members/{ada}/keys", "/console/groups", workspace_id=workspace,
                        lifetime="never")  # fmt: skip
    assert (answer.status, "could do nothing" in text(answer)) == (409, True)


async def test_a_role_is_given_changed_and_taken_away(owner, people, inside, workspace):
    ada = await invited(owner, "ada", "viewer")
    where = await done(owner, "/console/roles", principal="user:ada@example.com", role="developer",
                       workspace_id=workspace, back=workspace)  # fmt: skip
    assert where == f"/console/workspaces/{workspace}"
    held = {each.role: each.id for each in (await people.principal(inside, ada)).roles}
    assert set(held) == {Role.VIEWER, Role.DEVELOPER}
    assert await done(owner, f"/console/roles/{held[Role.VIEWER]}/change", role="auditor") == f"/console/members/{ada}"
    await done(owner, f"/console/roles/{held[Role.DEVELOPER]}/take")
    assert [each.role for each in (await people.principal(inside, ada)).roles] == [Role.AUDITOR]


async def test_the_last_owner_stays_and_the_page_says_why(world, owner, people, inside):
    me = format_id("usr", world.owner.owner_id)
    (role,) = (await people.principal(inside, me)).roles
    for path, fields in (
        (f"/console/roles/{role.id}/take", {}),
        (f"/console/roles/{role.id}/change", {"role": "viewer"}),
        (f"/console/members/{me}/remove", {}),
    ):
        answer = await post(owner, path, "/console/groups", **fields)
        assert answer.status == 409, path
        assert "An organization keeps at least one owner." in text(answer)
    assert [each.role for each in (await people.principal(inside, me)).roles] == [Role.OWNER]


async def test_who_is_removed_loses_the_key_that_was_made_for_them(world, owner, app, workspace):
    ada = await invited(owner, "ada", "auditor")
    made = await post(owner, f"/console/members/{ada}/keys", "/console/groups", workspace_id=workspace,
                      lifetime="never")  # fmt: skip
    await world.directory.reload()
    reader = await signed_in(world, app, re.search(r"il_live_\w{46}", text(made))[0])
    assert (await reader("GET", "/console/members")).status == 200
    assert await done(owner, f"/console/members/{ada}/remove") == "/console/members"
    await world.directory.reload()
    assert (await reader("GET", "/console/members")).status == 401
    assert (await owner("GET", f"/console/members/{ada}")).status == 404


async def test_a_program_is_made_in_its_workspace(owner, workspace):
    where = await done(owner, "/console/members/programs", name="nightly", workspace_id=workspace)
    page = text(await owner("GET", where))
    assert ">program<" in page
    assert "Make a key to sign in" not in page
    assert "nightly" in text(await owner("GET", f"/console/workspaces/{workspace}"))


async def test_the_effective_view_names_the_groups_between_and_what_they_bring(owner, workspace):
    ada = await invited(owner, "ada", "viewer")
    team, division = await grouped(owner, "team"), await grouped(owner, "division")
    await done(owner, "/console/group-members", group=team, member=ada)
    await done(owner, "/console/group-members", group="division", member="group:team")
    await done(owner, "/console/roles", principal=division, role="developer", workspace_id=workspace)
    page = text(await owner("GET", f"/console/members/{ada}"))
    assert "Holds 2 roles and is in 2 groups" in page
    assert "through team" in page
    asked = text(await owner("GET", f"/console/members/{ada}?action=agents:write&place={workspace}"))
    assert "<strong>Yes:</strong>" in asked
    assert "that division brings" in asked
    assert "role.agents:write" in asked
    refused = text(await owner("GET", f"/console/members/{ada}?action=gates:write"))
    assert "<strong>No:</strong>" in refused
    assert "is allowed to admin, owner" in refused


async def test_a_question_can_be_asked_by_address_and_leads_to_its_answer(owner):
    ada = await invited(owner)
    answer = await owner("GET", "/console/members?who=ada%40example.com&action=console")
    assert (answer.status, answer.headers["location"]) == (303, f"/console/members/{ada}?action=console#answer")
    for query in ("who=nobody%40example.com", "who=group:x", f"who={'a' * 300}"):
        assert (await owner("GET", f"/console/members?{query}")).status == 404
    assert (await owner("GET", f"/console/members/{ada}?action=nonsense")).status == 400
    assert (await owner("GET", f"/console/members/{ada}?action=console&place=ws_x")).status == 404
    assert (await owner("GET", "/console/members?kind=robots")).status == 400


async def test_groups_nest_a_cycle_is_harmless_and_who_leaves_is_out(owner, people, inside):
    ada = await invited(owner)
    inner, outer = await grouped(owner, "inner"), await grouped(owner, "outer")
    for group, member in ((inner, ada), (outer, inner), (inner, outer)):
        assert await done(owner, "/console/group-members", group=group, member=member, back=group)
    page = text(await owner("GET", f"/console/groups/{outer}"))
    assert "In it through other groups" in page
    assert "through inner" in page
    assert "Groups that hold it" in page
    assert (await owner("GET", f"/console/groups/{inner}")).status == 200
    listed = text(await owner("GET", "/console/groups"))
    assert listed.count('<td class="number">1</td>') == 3
    await done(owner, "/console/group-members/remove", group=inner, member=ada, back=ada)
    assert (await people.principal(inside, ada)).effective.groups == ()
    assert await done(owner, f"/console/groups/{inner}/delete") == "/console/groups"
    assert (await owner("GET", f"/console/groups/{inner}")).status == 404


async def test_a_large_group_is_paged_and_says_where_the_walk_ended(world, inside, people):
    async with world.store.transaction(inside) as tx:
        await world.identity.create_group(tx, "all")
        for number in range(4):
            row = await world.identity.create_user(tx, f"u{number}@example.com", f"u{number}")
            await world.identity.set_member(tx, "all", format_id("usr", row["id"]), is_member=True)
        group = await world.identity.get(tx, "group", "all")
    seen, after = [], UUID(int=0)
    while page := await people.members(inside, group["id"], after, 3):
        seen += [each["name"] for each in page]
        after = page[-1]["member_id"]
    assert sorted(seen) == ["u0", "u1", "u2", "u3"]
    assert (await People(world.identity, 3).group(inside, "all")).is_cut
    assert not (await People(world.identity, 4).group(inside, "all")).is_cut


async def test_nobody_gives_or_takes_a_role_above_their_own(world, owner, app, people, inside):
    key = await world.sign_up("chief", Role.ADMIN, ("admin:read", "admin:write", "console"),
                              scope_of(world.owner.organization_id, world.owner.workspace_id))  # fmt: skip
    admin = await signed_in(world, app, key)
    ada = await invited(admin, "ada", "developer")
    given = await post(admin, "/console/roles", "/console/groups", principal=ada, role="owner")
    me = format_id("usr", world.owner.owner_id)
    (role,) = (await people.principal(inside, me)).roles
    taken = await post(admin, f"/console/roles/{role.id}/take", "/console/groups")
    made = await post(
        admin, f"/console/members/{me}/keys", "/console/groups", lifetime="never",
        workspace_id=format_id("ws", world.owner.workspace_id),
    )  # fmt: skip
    removed = await post(admin, f"/console/members/{me}/remove", "/console/groups")
    assert (given.status, taken.status, made.status, removed.status) == (403, 403, 403, 403)
    page = text(await admin("GET", f"/console/members/{me}"))
    assert "<option>owner</option>" not in page
    assert f'data-dialog="take-{role.id}"' not in page


async def test_another_organization_finds_none_of_it_and_changes_none_of_it(world, owner, app):
    ada, group = await invited(owner), await grouped(owner, "team")
    other = scope_of(*await make_tenant(world.store))
    key = await world.sign_up("stranger", Role.OWNER, ("admin:read", "admin:write", "console"), other)
    stranger = await signed_in(world, app, key)
    workspace = format_id("ws", world.owner.workspace_id)
    for path in (f"/console/members/{ada}", f"/console/groups/{group}", f"/console/workspaces/{workspace}"):
        assert (await owner("GET", path)).status == 200
        assert (await stranger("GET", path)).status == 404
    assert (await stranger("GET", "/console/members?who=ada%40example.com")).status == 404
    for path, fields in (
        ("/console/roles", {"principal": ada, "role": "viewer"}),
        ("/console/group-members", {"group": group, "member": ada}),
        (f"/console/members/{ada}/remove", {}),
        (f"/console/members/{ada}/keys", {"workspace_id": workspace, "lifetime": "never"}),
        (f"/console/groups/{group}/delete", {}),
    ):
        assert (await post(stranger, path, "/console/groups", **fields)).status == 404, path
    assert "Holds 1 role and is in no group" in text(await owner("GET", f"/console/members/{ada}"))


async def test_the_platforms_operator_opens_and_changes_people_of_another_organization(world, owner, app, inside):
    group = await grouped(owner, "team")
    ada = await invited(owner)
    key = await world.sign_up("operator", Role.OWNER, ("admin:read", "admin:write", "console"),
                              scope_of(*await make_tenant(world.store)))  # fmt: skip
    person = world.authenticator.check(key, None, world.clock.now_us()).key.owner_id
    await make_system(world.store)
    async with world.store.transaction(replace(inside, organization_id=SYSTEM)) as tx:
        await tx.fetchrow(SQL.add_membership, SYSTEM, IDS.new(), None, person, "user", Role.OWNER, 0)
    await world.directory.reload()
    client = await signed_in(world, app, key)
    await done(client, "/console/group-members", group=group, member=ada, back=group)
    assert "ada" in text(await client("GET", f"/console/groups/{group}"))
    assert "is in 1 group" in text(await owner("GET", f"/console/members/{ada}"))


@pytest.mark.parametrize("path", [*LISTS, "/console/members.csv", "/console/groups.csv", "/console/workspaces.csv"])
async def test_who_may_not_see_people_is_told_which_roles_may(viewer, path):
    answer = await viewer("GET", path)
    assert (answer.status, "admin:read" in text(answer)) == (403, True)


async def test_who_may_only_read_is_offered_no_form_and_changes_nothing(world, owner, app):
    key = await world.sign_up("auditor", Role.AUDITOR, ("admin:read", "console"),
                              scope_of(world.owner.organization_id, world.owner.workspace_id))  # fmt: skip
    auditor = await signed_in(world, app, key)
    ada, group = await invited(owner), await grouped(owner, "team")
    for path in (*LISTS, f"/console/members/{ada}", f"/console/groups/{group}"):
        page = text(await auditor("GET", path))
        assert re.findall(r'<form[^>]*method="post"', page.partition("<main")[2]) == [], path
        assert "data-dialog" not in page
    assert (await post(auditor, f"/console/members/{ada}/remove", "/console")).status == 403
    assert (await owner("GET", f"/console/members/{ada}")).status == 200


async def test_a_form_without_its_token_changes_nothing(owner):
    token = field(await owner("GET", "/console/groups"), "csrf_token")
    site = {"sec_fetch_site": "same-origin", "content_type": "application/x-www-form-urlencoded"}
    missing = await owner("POST", "/console/groups", b"name=team", **site)
    body = urlencode({"csrf_token": token, "name": "team"}).encode()
    foreign = await owner("POST", "/console/groups", body, **{**site, "sec_fetch_site": "cross-site"})
    assert (missing.status, foreign.status) == (403, 403)
    assert "No group yet" in text(await owner("GET", "/console/groups"))


async def test_names_that_would_be_scripts_or_formulas_stay_text(owner):
    ada = (await done(owner, "/console/members", email="e@example.com", name=EVIL, role="viewer")).rpartition("/")[2]
    await done(owner, "/console/members", email="f@example.com", name="=cmd|'/c calc'!A1", role="viewer")
    group = await grouped(owner, EVIL)
    await done(owner, "/console/group-members", group=group, member=ada)
    where = await done(owner, "/console/workspaces", name=EVIL)
    await done(owner, "/console/roles", principal=group, role="viewer", workspace_id=where.rpartition("/")[2])
    for path in (*LISTS, f"/console/members/{ada}?action=requests:read", f"/console/groups/{group}", where):
        page = text(await owner("GET", path))
        assert "<script>alert" not in page, path
        assert "&lt;script&gt;alert(1)" in page or path == LISTS[1]
    exported = text(await owner("GET", "/console/members.csv"))
    rows = list(csv.DictReader(io.StringIO(exported)))
    assert [each["name"] for each in rows][1:] == [EVIL, "'=cmd|'/c calc'!A1"]
    groups = list(csv.DictReader(io.StringIO(text(await owner("GET", "/console/groups.csv")))))
    places = list(csv.DictReader(io.StringIO(text(await owner("GET", "/console/workspaces.csv")))))
    assert [each["name"] for each in places][1:] == [EVIL]
    assert (groups[0]["members"], groups[0]["roles"]) == ("1", f"viewer in {EVIL}")


async def test_pages_of_a_list_follow_each_other_without_a_gap(world, owner, inside):
    async with world.store.transaction(inside) as tx:
        for number in range(60):
            await world.identity.create_group(tx, f"g{number}")
    seen, path = [], "/console/groups"
    while path:
        page = text(await owner("GET", path))
        seen += re.findall(r'href="/console/groups/(grp_\w+)"', page)
        more = re.search(r'<a class="button" href="([^"]+)">More</a>', page)
        path = more and more[1].replace("&amp;", "&")
    assert (len(seen), len(set(seen))) == (60, 60)


async def test_an_id_opens_the_page_of_who_or_what_it_names(owner, workspace):
    ada, group = await invited(owner), await grouped(owner, "team")
    program = (await done(owner, "/console/members/programs", name="bot", workspace_id=workspace)).rpartition("/")[2]
    for named, path in ((ada, "members"), (program, "members"), (group, "groups"), (workspace, "workspaces")):
        answer = await owner("GET", f"/console/find?id={named}")
        assert answer.headers["location"] == f"/console/{path}/{named}"
        assert (await owner("GET", answer.headers["location"])).status == 200


async def test_each_screen_has_something_to_look_at(owner):
    await grouped(owner, "team")
    listed = {each["id"]: each["sample_path"] for each in (await owner("GET", "/console/screens.json")).json["data"]}
    for name in ("members", "member", "groups", "group", "workspaces", "workspace"):
        assert (await owner("GET", listed[name])).status == 200, name
