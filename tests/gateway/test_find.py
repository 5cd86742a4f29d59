"""Any id a caller has in hand leads to what it names, for who may see that, and to nothing for everybody else."""

import pytest

from interlock.contracts.places import PLACES
from interlock.foundation.audit import AuditLog
from interlock.foundation.control.route import Level, Route
from interlock.foundation.flags import FlagService, KillService
from interlock.foundation.flags.routes import routes as flag_routes
from interlock.foundation.identity import ALL_SCOPES
from interlock.foundation.identity import routes as identity_routes
from interlock.foundation.ids import KINDS, format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Role
from interlock.gateway import LimitsService, Stories
from interlock.gateway.routes.requests import request_routes
from tests.console.worlds import make_world
from tests.foundation.control.conftest import Client
from tests.support.policy_matrix import registry
from tests.support.store import IDS, make_tenant, scope_of

# Of these no call tells one alone: they are told with what they belong to, or are found by the gateway's own look-up.
TOLD_WITH_OTHERS = {
    "ans", "apr", "bg", "camp", "case", "dep", "eng", "gnt", "key", "kill", "limit", "pool", "prg", "prov", "req",
    "route", "rpl", "sec", "ses", "sync", "ws", "wvr",
}  # fmt: skip


@pytest.fixture
async def world(store, tmp_path):
    return await make_world(store, tmp_path)


@pytest.fixture
def app(world):
    audit = AuditLog(world.clock, Redactor())
    return world.app(
        *identity_routes(world.identity, world.keys),
        *flag_routes(
            KillService(world.store, audit, world.clock, IDS), FlagService(world.store, audit, world.clock, IDS)
        ),
        *request_routes(Stories(world.store, audit), LimitsService(world.identity, audit, world.clock, IDS))[:4],
    )  # fmt: skip


def caller(app, key):
    return Client(app, {"authorization": f"Bearer {key}"})


async def made(owner):
    """Return an id of each kind that identity and flags keep."""
    user = (await owner("POST", "/admin/v1/users", {"email": "ada@shop.example", "name": "Ada"})).json["id"]
    group = (await owner("POST", "/admin/v1/groups", {"name": "packers"})).json["id"]
    member = await owner("POST", "/admin/v1/memberships", {"principal": f"user:{user}", "role": "viewer"})
    flag = await owner("POST", "/admin/v1/flags", {"name": "new-basket", "reason": "a try", "rollout": 10})
    assert flag.status in {200, 201}, flag.content
    return {"usr": user, "grp": group, "mem": member.json["id"], "flag": flag.json["id"]}


async def test_what_another_system_keeps_is_found_by_its_id_and_its_own_call_answers(world, app):
    owner = caller(app, world.owner_key)
    for kind, identity in (await made(owner)).items():
        found = (await owner("GET", f"/v1/find?id={identity}")).json
        page = {"usr": f"/console/members/{identity}", "grp": f"/console/groups/{identity}"}.get(kind)
        assert (found["kind"], found["story_url"]) == (kind, page)
        assert (await owner("GET", found["url"])).json["id"] == identity


async def test_who_may_not_see_it_learns_as_much_as_of_an_id_that_never_was(world, app, store):
    ids = await made(caller(app, world.owner_key))
    elsewhere = scope_of(*await make_tenant(store))
    stranger = caller(app, await world.sign_up("stranger", Role.OWNER, tuple(sorted(ALL_SCOPES)), elsewhere))
    viewer = caller(app, await world.sign_up("reader", Role.VIEWER, ("requests:read",)))
    for kind, identity in ids.items():
        for who in (stranger, viewer):
            theirs = await who("GET", f"/v1/find?id={identity}")
            never = await who("GET", f"/v1/find?id={format_id(kind, IDS.new())}")
            assert theirs.status == never.status == 404
            assert {**theirs.json["error"], "request_id": ""} == {**never.json["error"], "request_id": ""}


@pytest.mark.parametrize("text", ["usr_", "usr_zz", "usr_../groups", "task_1", "grp_" + "u" * 26, "Ada"])
async def test_what_is_no_id_names_nothing(world, app, text):
    assert (await caller(app, world.owner_key)("GET", f"/v1/find?id={text}")).status == 404


async def test_the_page_of_a_thing_is_told_to_who_may_open_it(world, app):
    async def sees(path, named):
        return path == PLACES["task"].call and named == task

    task = format_id("task", IDS.new())
    scope = scope_of(world.owner.organization_id)
    told = await Stories(world.store, AuditLog(world.clock, Redactor())).find(
        scope, task, sees, lambda path: path == "/console/tasks/{id}"
    )
    assert (told.url, told.story_url) == (f"/v1/agents/tasks/{task}", f"/console/tasks/{task}")
    assert (
        await Stories(world.store, AuditLog(world.clock, Redactor())).find(scope, task, sees, lambda _path: False)
    ).story_url is None


def test_every_kind_of_id_has_a_place_that_is_a_route_or_is_told_with_something_else():
    assert set(PLACES) | TOLD_WITH_OTHERS == KINDS
    assert not set(PLACES) & TOLD_WITH_OTHERS
    read = {route.path: route for route in registry() if route.method == "GET"}
    for place in PLACES.values():
        assert isinstance(read[place.call], Route)
        assert not read[place.call].is_html
        assert read[place.call].level is not Level.PUBLIC
        assert not place.page or read[place.page].is_html
