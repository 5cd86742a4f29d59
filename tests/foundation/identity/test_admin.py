"""The administrative calls as a customer, a colleague and a stranger make them."""

import asyncio

import pytest

from interlock.foundation.ids import format_id
from interlock.foundation.scope import Role
from interlock.foundation.store import Query
from tests.foundation.identity.worlds import uuid_of
from tests.support.store import IDS

LEFT = Query(
    "left",
    "roles, keys and groups of somebody",
    "SELECT (SELECT count(*) FROM identity_memberships WHERE principal_id = $1),"
    " (SELECT count(*) FROM identity_api_keys WHERE owner_id = $1 AND revoked_us IS NULL),"
    " (SELECT count(*) FROM identity_group_edges WHERE member_id = $1 AND to_epoch IS NULL)",
)
UNKNOWN = {
    "workspaces": "ws", "users": "usr", "groups": "grp", "service-accounts": "sa", "memberships": "mem", "keys": "key",
    "organizations": "org",
}  # fmt: skip


async def made(client, kind, body):
    answer = await client("POST", f"/admin/v1/{kind}", body)
    assert answer.status == 201, answer.content
    return answer.json


async def one_of_each(tenant):
    """Return an object of every kind, by kind."""
    client, place = tenant.owner, {"workspace_id": tenant.workspace_id}
    user = await made(client, "users", {"email": "ada@shop.example", "name": "Ada"})
    return {
        "workspaces": await made(client, "workspaces", {"name": "desk"}),
        "users": user,
        "groups": await made(client, "groups", {"name": "staff"}),
        "service-accounts": await made(client, "service-accounts", {"name": "bot", **place}),
        "memberships": await made(client, "memberships", {"principal": user["id"], "role": "viewer"}),
        "keys": await made(client, "keys", {"name": "k", **place}),
    }


async def test_every_kind_of_object_is_made_read_renamed_listed_and_removed(shop):
    for kind, made_object in (await one_of_each(shop)).items():
        path = f"/admin/v1/{kind}/{made_object['id']}"
        shown = await shop.owner("GET", path)
        wanted = {name: value for name, value in made_object.items() if name != "key"}
        assert (shown.status, shown.json) == (200, wanted), kind
        assert shown.headers["etag"] == '"1"'
        change = {"role": "auditor"} if kind == "memberships" else {"name": "renamed"}
        changed = await shop.owner("PATCH", path, change, if_match='"1"')
        assert (changed.status, changed.json["version"]) == (200, 2), (kind, changed.content)
        assert changed.json.items() >= change.items()
        stale = await shop.owner("PATCH", path, change, if_match='"1"')
        assert (stale.status, stale.code) == (412, "version_conflict")
        listed = (await shop.owner("GET", f"/admin/v1/{kind}?limit=200")).json["data"]
        assert made_object["id"] in [each["id"] for each in listed]
        if kind != "keys":
            gone = await shop.owner("DELETE", path)
            assert (gone.status, gone.json["id"]) == (200, made_object["id"]), (kind, gone.content)
            if kind not in {"users", "memberships"}:
                assert (await shop.owner("GET", path)).status == 404
        else:
            assert (await shop.owner("DELETE", path)).json["revoked_at"] is not None
        if kind == "users":
            # The person's membership went with it.
            break


async def test_a_removed_person_loses_roles_groups_keys_and_sessions_at_once(world, shop):
    key = await world.person(shop.scope, Role.ADMIN)
    user = format_id("usr", world.check(key).principal.id)
    token = await world.sessions.sign_in(key, "10.0.0.1")
    await made(shop.owner, "groups", {"name": "staff"})
    await shop.owner("PUT", f"/admin/v1/groups/staff/members/{user}")
    assert (await shop.owner("DELETE", f"/admin/v1/users/{user}")).status == 200
    await world.feed.run_once()
    assert world.check(key).code == "key_revoked"
    with pytest.raises(Exception, match="session_expired"):
        await world.sessions.check(token, "10.0.0.1")
    assert user not in (await shop.owner("GET", "/admin/v1/memberships")).content.decode()
    (event,) = await world.audited(shop.scope, "user.delete")
    assert event.target_id == user


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_another_tenants_object_answers_like_one_that_does_not_exist(world, shop, rival, method):
    theirs = await one_of_each(rival)
    theirs["organizations"] = {"id": rival.organization_id}
    for kind, foreign in theirs.items():
        bodies = {"memberships": {"role": "viewer"}}
        body = bodies.get(kind, {"name": "taken over"}) if method == "PATCH" else None
        unknown = format_id(UNKNOWN[kind], IDS.new())
        answers = [
            await shop.owner(method, f"/admin/v1/{kind}/{named}", body, **extra)
            for named in (foreign["id"], unknown)
            for extra in ({}, {"if_match": '"1"'})
        ]
        assert {each.status for each in answers} == {404}, kind
        texts = {_without_request_id(each) for each in answers}
        assert len(texts) == 1, (kind, texts)
    assert (await rival.owner("GET", f"/admin/v1/users/{theirs['users']['id']}")).json["name"] == "Ada"


async def test_no_list_names_another_organization_and_no_query_reaches_one(shop, rival):
    await one_of_each(rival)
    for kind in UNKNOWN:
        mine = (await shop.owner("GET", f"/admin/v1/{kind}?limit=200")).content.decode()
        assert rival.organization_id not in mine
        for place in (rival.organization_id, "o-" + rival.scope.organization_id.hex, format_id("org", IDS.new())):
            answer = await shop.owner("GET", f"/admin/v1/{kind}?organization_id={place}")
            assert answer.status == (200 if kind == "organizations" else 404)
            if kind == "organizations":
                assert [each["id"] for each in answer.json["data"]] == [shop.organization_id]


@pytest.mark.parametrize("named", ["nothing", "usr_", "key_01m88e0cbce00rewc1sg1yheh5", "ws_" + "z" * 26, "..", "%00"])
async def test_an_id_of_another_kind_or_no_id_at_all_is_not_found(shop, named):
    for kind in ("workspaces", "users", "groups", "service-accounts", "memberships"):
        for method, body in (("GET", None), ("DELETE", None)):
            assert (await shop.owner(method, f"/admin/v1/{kind}/{named}", body)).status in {404, 405}


async def test_a_name_is_taken_once_in_an_organization_and_free_in_another(shop, rival):
    for kind, body in (
        ("workspaces", {"name": "desk"}),
        ("groups", {"name": "staff"}),
        ("users", {"email": "A@b.example"}),
    ):
        await made(shop.owner, kind, body)
        again = {"email": "a@B.example"} if kind == "users" else body
        taken = await shop.owner("POST", f"/admin/v1/{kind}", again)
        assert (taken.status, taken.code) == (409, "name_taken")
        await made(rival.owner, kind, body)


async def test_objects_are_named_by_name_or_id_wherever_another_one_names_them(shop):
    desk = await made(shop.owner, "workspaces", {"name": "desk"})
    bot = await made(shop.owner, "service-accounts", {"name": "bot", "workspace_id": "desk"})
    assert bot["workspace_id"] == desk["id"]
    by_name = await made(shop.owner, "keys", {"workspace_id": "desk", "service_account": "bot"})
    by_id = await made(shop.owner, "keys", {"workspace_id": desk["id"], "service_account": bot["id"]})
    assert by_name["owner"] == by_id["owner"] == bot["id"]
    assert (await shop.owner("GET", "/admin/v1/workspaces/desk")).json["id"] == desk["id"]
    listed = (await shop.owner("GET", f"/admin/v1/keys?workspace_id={desk['id']}")).json["data"]
    assert {each["id"] for each in listed} == {by_name["id"], by_id["id"]}


async def test_a_workspace_with_keys_is_in_use(shop):
    desk = await made(shop.owner, "workspaces", {"name": "desk"})
    await made(shop.owner, "keys", {"workspace_id": desk["id"]})
    refused = await shop.owner("DELETE", f"/admin/v1/workspaces/{desk['id']}")
    assert (refused.status, refused.code) == (409, "in_use")


async def test_the_last_owner_stays_whichever_way_somebody_tries(world, shop):
    owner = format_id("usr", world.check(shop.owner_key).principal.id)
    (membership,) = (await shop.owner("GET", "/admin/v1/memberships")).json["data"]
    path = f"/admin/v1/memberships/{membership['id']}"
    for method, target, body in (
        ("DELETE", path, None),
        ("PATCH", path, {"role": "admin"}),
        ("DELETE", f"/admin/v1/users/{owner}", None),
    ):
        refused = await shop.owner(method, target, body)
        assert (refused.status, refused.code) == (409, "last_owner")
    other = await made(shop.owner, "users", {"email": "second@shop.example"})
    group = await made(shop.owner, "groups", {"name": "owners"})
    await made(shop.owner, "memberships", {"principal": group["id"], "role": "owner"})
    assert (await shop.owner("DELETE", path)).code == "last_owner"
    second = await made(shop.owner, "memberships", {"principal": other["id"], "role": "owner"})
    assert (await shop.owner("DELETE", path)).status == 200
    await world.feed.run_once()
    assert "admin:write" not in world.check(shop.owner_key).principal.scopes
    assert second["principal_id"] == other["id"]


async def test_of_two_owners_who_leave_at_once_one_stays(world, shop):
    second = await world.person(shop.scope, Role.OWNER)
    paths = [
        f"/admin/v1/memberships/{each['id']}"
        for each in (await shop.owner("GET", "/admin/v1/memberships")).json["data"]
    ]
    answers = await asyncio.gather(shop.owner("DELETE", paths[0]), world.client(second)("DELETE", paths[1]))
    assert sorted(each.status for each in answers) == [200, 409]


async def test_nobody_gives_a_role_or_a_key_above_their_own(world, shop):
    admin = world.client(await world.person(shop.scope, Role.ADMIN))
    user = await made(admin, "users", {"email": "friend@shop.example"})
    refused = await admin("POST", "/admin/v1/memberships", {"principal": user["id"], "role": "owner"})
    assert (refused.status, refused.code) == (403, "role_denied")
    await made(admin, "memberships", {"principal": user["id"], "role": "admin"})
    (owners,) = [each for each in (await admin("GET", "/admin/v1/memberships")).json["data"] if each["role"] == "owner"]
    for method, body in (("DELETE", None), ("PATCH", {"role": "viewer"})):
        assert (await admin(method, f"/admin/v1/memberships/{owners['id']}", body)).code == "role_denied"
    keys = (await shop.owner("GET", "/admin/v1/keys")).json["data"]
    of_owner = next(each for each in keys if each["owner"] == owners["principal_id"])
    assert (await admin("POST", f"/admin/v1/keys/{of_owner['id']}/rotate", {})).code == "role_denied"
    bot = await made(shop.owner, "service-accounts", {"name": "root", "workspace_id": shop.workspace_id})
    await made(shop.owner, "memberships", {"principal": bot["id"], "role": "owner"})
    body = {"workspace_id": shop.workspace_id, "service_account": "root", "scopes": ["admin:write"]}
    assert (await admin("POST", "/admin/v1/keys", body)).code == "role_denied"
    assert (await shop.owner("POST", "/admin/v1/keys", body)).status == 201


async def test_a_key_of_its_own_account_is_a_developer_and_no_more(world, shop):
    body = {"workspace_id": shop.workspace_id, "name": "ci"}
    key = await made(shop.owner, "keys", body)
    await world.feed.run_once()
    found = world.check(key["key"])
    assert (found.principal.workspace_id, found.principal.scopes) == (uuid_of(shop.workspace_id), {"inference"})
    refused = await shop.owner("POST", "/admin/v1/keys", {**body, "scopes": ["inference", "admin:write"]})
    assert (refused.status, refused.code) == (403, "role_denied")
    assert refused.json["error"]["detail"] == {"action": "admin:write", "roles": ["admin", "owner"]}
    mine = world.client(key["key"])
    denied = await mine("GET", "/admin/v1/keys")
    assert (denied.status, denied.code) == (403, "role_denied")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []}, {"scopes": ["everything"]}, {"models": []}, {"models": [""]}, {"cidrs": ["10.0.0.1/8"]},
        {"cidrs": ["nowhere"]}, {"cidrs": ["10.0.0.0/8"] * 101}, {"class_max": "gold"}, {"expires_at": "yesterday"},
        {"expires_at": "2001-01-01T00:00:00Z"}, {"expires_at": "0001-01-01T00:00:00+23:00"}, {"name": ""},
        {"name": "x" * 129}, {"name": "line\nbreak"}, {"name": "nul\u0000"}, {"secret": "mine"},
    ],
)  # fmt: skip
async def test_a_key_that_makes_no_sense_is_refused_before_anything_is_made(shop, wrong):
    refused = await shop.owner("POST", "/admin/v1/keys", {"workspace_id": shop.workspace_id, **wrong})
    assert refused.status == 400, refused.content
    assert refused.code in {"invalid_request", "unknown_field", "class_unknown"}
    accounts = (await shop.owner("GET", "/admin/v1/service-accounts")).json["data"]
    assert accounts == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": []}, {"models": [""]}, {"models": ["x" * 129]}, {"models": ["x"] * 101}, {"cidrs": ["nowhere"]},
        {"expires_at": "9999-12-31T23:59:59.999999Z"}, {"expires_at": "9999-12-31T23:59:59-14:00"},
        {"expires_at": "0001-01-01T00:00:00Z"},
    ],
)  # fmt: skip
async def test_a_key_is_not_changed_to_what_could_not_have_been_made(shop, wrong):
    key = await made(shop.owner, "keys", {"workspace_id": shop.workspace_id})
    path = f"/admin/v1/keys/{key['id']}"
    refused = await shop.owner("PATCH", path, wrong)
    assert (refused.status, refused.code) == (400, "invalid_request")
    assert (await shop.owner("GET", path)).json["version"] == key["version"]


async def test_no_organization_picks_its_own_tier(world, shop):
    path = f"/admin/v1/organizations/{format_id('org', shop.scope.organization_id)}"
    refused = await shop.owner("PATCH", path, {"tier": "gold"})
    assert (refused.status, refused.code) == (403, "role_denied")
    assert (await (await world.operator())("PATCH", path, {"tier": "gold"})).json["tier"] == "gold"


async def test_a_key_in_a_workspace_of_somebody_else_is_not_found(shop, rival):
    for named in (rival.workspace_id, format_id("ws", IDS.new()), "no such"):
        refused = await shop.owner("POST", "/admin/v1/keys", {"workspace_id": named})
        assert (refused.status, refused.code) == (404, "not_found")


async def test_rotation_lets_both_keys_work_for_the_overlap_and_then_the_new_one_alone(world, shop):
    old = await made(shop.owner, "keys", {"workspace_id": shop.workspace_id, "models": ["tiny"]})
    new = (await shop.owner("POST", f"/admin/v1/keys/{old['id']}/rotate", {"overlap_s": 3_600})).json
    await world.feed.run_once()
    assert new["models"] == ["tiny"]
    assert world.check(old["key"]).principal.id == world.check(new["key"]).principal.id
    assert (await shop.owner("GET", f"/admin/v1/keys/{old['id']}")).json["replaced_by"] == new["id"]
    again = await shop.owner("POST", f"/admin/v1/keys/{old['id']}/rotate", {})
    assert (again.status, again.code) == (409, "in_use")
    world.clock.forward += 3_601
    assert world.check(old["key"]).code == "key_expired"
    assert world.check(new["key"]).key.last4 == new["last4"]


async def test_a_revoked_key_is_refused_by_every_directory_after_its_next_look(world, shop):
    key = await made(shop.owner, "keys", {"workspace_id": shop.workspace_id})
    await world.feed.run_once()
    first = await shop.owner("DELETE", f"/admin/v1/keys/{key['id']}")
    second = await shop.owner("DELETE", f"/admin/v1/keys/{key['id']}")
    assert first.json["revoked_at"] == second.json["revoked_at"]
    assert await world.feed.run_once()
    assert world.check(key["key"]).code == "key_revoked"
    assert (await shop.owner("POST", f"/admin/v1/keys/{key['id']}/rotate", {})).code == "in_use"


async def test_the_same_idempotency_key_gives_the_same_key_and_no_second_account(shop):
    body = {"workspace_id": shop.workspace_id, "name": "once"}
    first = await shop.owner("POST", "/admin/v1/keys", body, idempotency_key="k-1")
    again = await shop.owner("POST", "/admin/v1/keys", body, idempotency_key="k-1")
    assert first.json == again.json
    assert again.headers["x-interlock-replayed"] == "true"
    assert len((await shop.owner("GET", "/admin/v1/service-accounts")).json["data"]) == 1


async def test_pages_of_a_list_hold_every_object_once(shop):
    names = {f"team {number}" for number in range(7)}
    for name in names:
        await made(shop.owner, "groups", {"name": name})
    seen, cursor = [], ""
    while True:
        page = (await shop.owner("GET", f"/admin/v1/groups?limit=3{cursor}")).json
        seen += [each["name"] for each in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(seen) == sorted(names)
    foreign = await shop.owner("GET", f"/admin/v1/users?limit=3{cursor}")
    assert (foreign.status, foreign.code) == (400, "invalid_cursor")


async def test_every_change_leaves_its_row_in_the_audit_chain(world, shop):
    objects = await one_of_each(shop)
    await shop.owner("PATCH", f"/admin/v1/users/{objects['users']['id']}", {"name": "Ada L."})
    events = await world.reader.events(shop.scope, _everything(), 200)
    actions = [event.action for event in reversed(events)]
    for action in ("workspace.create", "user.create", "group.create", "service_account.create", "membership.create",
                   "key.create", "user.change"):  # fmt: skip
        assert action in actions
    by_owner = [event for event in events if event.action == "workspace.create"]
    assert by_owner[0].actor["key_id"].startswith("key_")
    assert by_owner[0].request_id is not None


async def test_the_operator_makes_an_organization_and_works_in_it_as_in_its_own(world, rival):
    operator = await world.operator()
    name = f"Fernway {IDS.new().hex}"
    organization = await made(operator, "organizations", {"name": name, "tier": "demo"})
    within = {"organization_id": organization["id"]}
    desk = await made(operator, "workspaces", {"name": "desk", **within})
    user = await made(operator, "users", {"email": "ada@fernway.example", **within})
    await made(operator, "memberships", {"principal": user["id"], "role": "owner", "organization_id": name})
    group = await made(operator, "groups", {"name": "staff", **within})
    assert (await operator("PUT", f"/admin/v1/groups/{group['id']}/members/{user['id']}")).status == 200
    key = await made(operator, "keys", {"workspace_id": desk["id"]})
    assert key["organization_id"] == organization["id"]
    await world.feed.run_once()
    assert world.check(key["key"]).principal.organization_id == uuid_of(organization["id"])
    for path in (f"keys/{key['id']}", f"users/{user['id']}", f"organizations/{organization['id']}"):
        assert (await operator("GET", f"/admin/v1/{path}")).status == 200
    effective = await operator("GET", f"/admin/v1/principals/{user['id']}/effective")
    assert [each["id"] for each in effective.json["groups"]] == [group["id"]]
    assert (await operator("DELETE", f"/admin/v1/keys/{key['id']}")).status == 200
    listed = (await operator("GET", f"/admin/v1/users?organization_id={organization['id']}")).json["data"]
    assert [each["id"] for each in listed] == [user["id"]]
    refused = await rival.owner("POST", "/admin/v1/organizations", {"name": "mine"})
    assert (refused.status, refused.code) == (403, "role_denied")


async def test_after_acting_elsewhere_the_operators_call_is_still_its_own(world, shop):
    """The idempotency row is written last, in the caller's own organization; a leaked scope would lose it."""
    operator = await world.operator()
    body = {"name": "desk", "organization_id": shop.organization_id}
    first = await operator("POST", "/admin/v1/workspaces", body, idempotency_key="elsewhere")
    again = await operator("POST", "/admin/v1/workspaces", body, idempotency_key="elsewhere")
    assert (first.status, again.json["id"]) == (201, first.json["id"])
    (event,) = await world.audited(shop.scope, "workspace.create")
    assert event.target_id == first.json["id"]


async def test_an_organization_that_was_given_up_refuses_its_keys_until_it_is_taken_back(world, shop):
    operator = await world.operator()
    path = f"/admin/v1/organizations/{shop.organization_id}"
    admin = world.client(await world.person(shop.scope, Role.ADMIN))
    assert (await admin("DELETE", path)).code == "role_denied"
    closed = await shop.owner("DELETE", path)
    assert (closed.status, closed.json["state"]) == (200, "closing")
    await world.feed.run_once()
    assert world.check(shop.owner_key).code == "key_revoked"
    opened = await operator("PATCH", path, {"state": "active"})
    assert (opened.status, opened.json["state"]) == (200, "active")
    await world.feed.run_once()
    assert world.check(shop.owner_key).principal.id


async def test_policy_says_who_may_what_and_what_is_missing(world, shop, rival):
    key = await world.person(shop.scope, Role.SUPPORT)
    user = format_id("usr", world.check(key).principal.id)

    async def ask(action, **more):
        return await shop.owner("POST", "/admin/v1/policy/explain", {"principal_id": user, "action": action, **more})

    yes, no = (await ask("kill:write")).json, (await ask("admin:write")).json
    assert yes == {"allowed": True, "rule": "role.kill:write", "roles": ["support"], "missing": []}
    assert no == {
        "allowed": False,
        "rule": "role_denied.admin:write",
        "roles": ["support"],
        "missing": ["admin", "owner"],
    }
    assert (await ask("everything")).code == "invalid_request"
    assert (
        await rival.owner("POST", "/admin/v1/policy/explain", {"principal_id": user, "action": "inference"})
    ).status == 404


def _without_request_id(answer):
    return answer.content.replace(answer.headers["x-request-id"].encode(), b"")


def _everything():
    from interlock.foundation.audit import AuditFilter  # noqa: PLC0415 - one use

    return AuditFilter()


@pytest.mark.parametrize("given", ["keys", "memberships", "members"])
async def test_who_is_removed_while_they_are_given_something_has_nothing_left(world, shop, monkeypatch, given):
    """What is given was read to be allowed before; the removal, which ends in between, did not find it."""
    account = await made(shop.owner, "service-accounts", {"name": "bot", "workspace_id": shop.workspace_id})
    group, place = await made(shop.owner, "groups", {"name": "staff"}), {"workspace_id": shop.workspace_id}
    named = "roles_within_rank" if given == "keys" else "member"
    look, looks = getattr(world.identity, named), []

    async def look_and_meanwhile(tx, of):
        found = await look(tx, of)
        looks.append(of)
        if len(looks) == 1:
            assert (await shop.owner("DELETE", f"/admin/v1/service-accounts/{account['id']}")).status in {200, 204}
        return found

    monkeypatch.setattr(world.identity, named, look_and_meanwhile)
    asked = {
        "keys": ("POST", "/admin/v1/keys", {"name": "k", "service_account": account["id"]} | place),
        "memberships": ("POST", "/admin/v1/memberships", {"principal": account["id"], "role": "owner"}),
        "members": ("PUT", f"/admin/v1/groups/{group['id']}/members/{account['id']}", None),
    }
    late = await shop.owner(*asked[given])
    assert (late.status, late.code) == (404, "not_found"), late.content
    async with world.store.ops("test") as tx:
        assert list(await tx.fetchrow(LEFT, uuid_of(account["id"]))) == [0, 0, 0]
