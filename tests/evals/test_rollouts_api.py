"""Rollouts over the API: who may move them, what they answer, and a stream that can be followed."""

import httpx2
import pytest

from interlock.console.rollouts import RolloutPages, rollout_pages
from interlock.evals.routes.rollouts import rollout_routes
from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.identity import ALL_SCOPES, authorize
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Role
from interlock.foundation.wire import SseParser
from tests.console.worlds import make_world
from tests.evals.rollout_world import Lab
from tests.support.store import IDS, make_tenant, scope_of

WANTED = {"route": "shop", "version": 2, "stages": [5, 50, 100], "dwell_s": 10}


class Desk:
    """Control with the routes and pages of rollouts, and a caller for each role."""

    def __init__(self, world, lab, http):
        self.world = world
        self.lab = lab
        self.http = http

    async def call(self, method, path, body=None, *, key=None, **headers):
        named = {"authorization": f"Bearer {key or self.world.owner_key}", **headers}
        return await self.http.request(method, path, json=body, headers=named)

    async def post(self, path, body=None, status=200, **options):
        reply = await self.call("POST", f"/v1/rollouts{path}", {} if body is None else body, **options)
        assert reply.status_code == status, reply.text
        return reply.json()

    async def role(self, role):
        return await self.world.sign_up(str(role), role, tuple(sorted(ALL_SCOPES)))


@pytest.fixture
async def desk(store, tmp_path):
    world = await make_world(store, tmp_path)
    scope = scope_of(world.owner.organization_id, world.owner.workspace_id)
    lab = Lab(store, scope)
    await lab.make_route()
    pages = RolloutPages(world.console().frame, lab.rollouts)
    kit = Kit(
        store=store,
        audit=AuditLog(world.clock, Redactor()),
        gate=Gate(world.authenticator, None, authorize),
        ids=IDS,
        clock=world.clock,
        dice=SystemDice(),
        key=b"k" * 32,
        error_page=world.console().error_page,
    )
    routes = [*rollout_routes(lab.rollouts, lab.events, world.clock), *rollout_pages(pages)]
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(build_app(routes, kit)), base_url="http://control")
    yield Desk(world, lab, http)
    await http.aclose()


async def test_a_rollout_is_made_started_paused_rolled_back_listed_and_shown(desk):
    made = await desk.post("", WANTED, 201)
    assert (made["state"], made["stages"], made["to_version"]) == ("draft", [5, 50, 100], 2)
    assert (await desk.post(f"/{made['id']}/start", {"reason": "go"}))["state"] == "canary"
    assert (await desk.post(f"/{made['id']}/pause"))["state"] == "paused"
    assert (await desk.post(f"/{made['id']}/resume"))["state"] == "canary"
    back = await desk.post(f"/{made['id']}/rollback", {"reason": "enough"})
    assert (back["state"], back["weight"], back["reason"]) == ("rolled_back", 0, "enough")
    listed = (await desk.call("GET", "/v1/rollouts?state=rolled_back")).json()["data"]
    assert [each["id"] for each in listed] == [made["id"]]
    assert (await desk.call("GET", f"/v1/rollouts/{made['id']}")).json() == listed[0]
    assert (await desk.call("GET", "/v1/rollouts?state=fine")).status_code == 400
    again = await desk.call("POST", f"/v1/rollouts/{made['id']}/start", {})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "state_conflict")
    assert len(desk.lab.reports.filed) == 1


async def test_without_live_evidence_a_start_is_409_with_its_reasons(desk):
    made = await desk.post("", WANTED, 201)
    desk.lab.gate.is_live = False
    reply = await desk.call("POST", f"/v1/rollouts/{made['id']}/start", {})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (409, "gate_blocked")
    assert error["detail"]["reasons"][0]["code"] == "verdict_expired"


async def test_looks_and_events_tell_the_whole_way(desk):
    lab = desk.lab
    made = await desk.post("", WANTED, 201)
    await desk.post(f"/{made['id']}/start")
    for _ in range(2):
        lab.answer(await lab.get(made["id"]), units=30)
        await lab.look()
    lab.answer(await lab.get(made["id"]), units=60, bad=30)
    await lab.look()
    page = (await desk.call("GET", f"/v1/rollouts/{made['id']}/looks?limit=2")).json()
    assert [each["look"] for each in page["data"]] == [3, 2]
    assert (page["data"][0]["decision"], page["data"][0]["counts"]["canary"]["units"]) == ("ROLLBACK", 60)
    rest = (await desk.call("GET", f"/v1/rollouts/{made['id']}/looks?cursor={page['next_cursor']}")).json()
    assert [each["look"] for each in rest["data"]] == [1]
    reply = await desk.call("GET", f"/v1/rollouts/{made['id']}/events")
    events = SseParser().feed(reply.content)
    assert [each.event for each in events] == ["rollout.state", *["rollout.look"] * 3, "rollout.state"]
    behind = await desk.call("GET", f"/v1/rollouts/{made['id']}/events", **{"last-event-id": events[3].id})
    assert [each.id for each in SseParser().feed(behind.content)] == [events[4].id]


async def test_who_may_read_and_who_may_move(desk):
    made = await desk.post("", WANTED, 201)
    viewer, support, developer = [await desk.role(each) for each in (Role.VIEWER, Role.SUPPORT, Role.DEVELOPER)]
    assert (await desk.call("GET", f"/v1/rollouts/{made['id']}", key=viewer)).status_code == 200
    for key in (viewer, developer):
        assert (await desk.call("POST", f"/v1/rollouts/{made['id']}/kill", {}, key=key)).status_code == 403
    assert (await desk.post(f"/{made['id']}/kill", key=support))["state"] == "killed"
    scope = scope_of(*await make_tenant(desk.world.store))
    stranger = await desk.world.sign_up("stranger", Role.OWNER, tuple(sorted(ALL_SCOPES)), scope)
    assert (await desk.call("GET", f"/v1/rollouts/{made['id']}", key=stranger)).status_code == 404
    assert (await desk.call("GET", "/v1/rollouts/rol_x")).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"shadow_s": -5},
        {"stages": []},
        {"stages": ["a"]},
        {"x": 1},
        {"metrics": {"errors": {"alpha": 1}}},
        {"route": 1},
    ],
)
async def test_a_rollout_that_makes_no_sense_is_400(desk, change):
    await desk.post("", {**WANTED, **change}, 400)


async def test_pages_show_the_list_and_the_curves_and_escape_what_strangers_wrote(desk):
    empty = await desk.call("GET", "/console/rollouts")
    assert "interlock rollouts create" in empty.text
    made = await desk.post("", WANTED, 201)
    page = await desk.call("GET", f"/console/rollouts/{made['id']}")
    assert "The monitor has not looked yet" in page.text
    await desk.post(f"/{made['id']}/start")
    for _ in range(3):
        desk.lab.answer(await desk.lab.get(made["id"]), units=40)
        await desk.lab.look()
    page = await desk.call("GET", f"/console/rollouts/{made['id']}")
    assert page.status_code == 200
    assert page.text.count("<h1") == 1
    assert page.text.count('<polyline class="curve curve-stop"') == 2
    assert "answers 5 % of the sticky units, stage 1 of 3" in page.text
    await desk.post(f"/{made['id']}/rollback", {"reason": "<script>alert(1)</script>"})
    listed = await desk.call("GET", "/console/rollouts")
    assert "<script>alert(1)" not in listed.text
    assert made["id"][-8:] in listed.text
    assert (await desk.call("GET", "/console/rollouts/rol_x")).status_code == 404
