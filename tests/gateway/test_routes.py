"""What control serves of the gateway: stories by any id, and limits, inside the tenant of the caller."""

from pathlib import Path

import httpx2
import pytest

from interlock.foundation.audit import AuditFilter, AuditLog, AuditReader, CheckpointFile, CheckpointKeys
from interlock.foundation.clock import SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.identity import ALL_SCOPES, authorize
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Role
from interlock.foundation.secrets import MasterKeyFile, SecretBox, SecretService
from interlock.foundation.telemetry import Decision, Outcome, RequestRecord
from interlock.gateway import LimitsService, NoVerdicts, RouteService, Stories, UpstreamService, Weights, routes
from interlock.gateway.domain.directory import Directory
from interlock.gateway.store import load_directory
from tests.console.worlds import make_world
from tests.gateway.worlds import SYSTEM
from tests.support.store import IDS, make_system, make_tenant, scope_of

LIMIT = {"scope": "workspace", "dimension": "requests_per_minute", "model": "*", "limit": 20}


class Desk:
    """Control with the gateway's routes, and a caller for each key."""

    def __init__(self, world, app):
        self.world = world
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://control")

    async def call(self, method, path, body=None, *, key=None):
        headers = {"authorization": f"Bearer {key or self.world.owner_key}"}
        return await self.http.request(method, path, json=body, headers=headers)

    async def ship(self, **fields):
        now_us = self.world.clock.now_us()
        given = {
            "id": IDS.new(), "started_us": now_us, "method": "POST", "target": "/v1/chat/completions",
            "endpoint": "/v1/chat/completions", "outcome": Outcome.OK, "status": 200, "rule": "route.default",
            "alias": "default", "decisions": [Decision(now_us, "finished", "route.default", "ok")], **fields,
        }  # fmt: skip
        await self.world.ship(RequestRecord(**given))
        listed = await self.call("GET", "/v1/requests?limit=1")
        return listed.json()["data"][0]["id"]

    @property
    def workspace(self):
        return format_id("ws", self.world.owner.workspace_id)


def made_routing(world, audit, path, verdicts=None):
    """Providers and deployments, routes, and weights; nothing is admitted where nobody gives verdicts."""
    given = verdicts or NoVerdicts()
    file = MasterKeyFile(path / "master.key")
    file.ensure(SystemDice())
    secrets = SecretService(SecretBox(SystemDice(), file.read_public), audit, IDS, Redactor())
    weights = Weights(world.identity, getattr(given, "verifier", given), given, audit, world.clock)
    return (
        UpstreamService(world.identity, secrets, audit, world.clock, IDS),
        RouteService(world.identity, weights, audit, world.clock, IDS),
        weights,
    )


@pytest.fixture
async def desk(store, tmp_path):
    world = await make_world(store, tmp_path)
    audit = AuditLog(world.clock, Redactor())
    kit = Kit(
        store=store,
        audit=audit,
        gate=Gate(world.authenticator, None, authorize),
        ids=IDS,
        clock=world.clock,
        dice=SystemDice(),
        key=b"k" * 32,
    )
    served = routes(
        Stories(store, audit),
        LimitsService(world.identity, audit, world.clock, IDS),
        *made_routing(world, audit, tmp_path),
    )
    desk = Desk(world, build_app(served, kit))
    yield desk
    await desk.http.aclose()


async def test_a_story_is_found_by_every_id_it_is_known_by(desk):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    request_id = await desk.ship(client_request_id="mine", trace_id=trace)
    story = (await desk.call("GET", f"/v1/requests/{request_id}")).json()
    assert (story["id"], story["outcome"], story["rule"]) == (request_id, "ok", "route.default")
    for query in ("client_request_id=mine", f"trace_id={trace}", "outcome=ok", "alias=default"):
        listed = (await desk.call("GET", f"/v1/requests?{query}")).json()
        assert [each["id"] for each in listed["data"]] == [request_id], query
    assert (await desk.call("GET", "/v1/requests?alias=other")).json()["data"] == []
    found = (await desk.call("GET", f"/v1/find?id={trace}")).json()
    assert (found["kind"], found["story_url"]) == ("trace", f"/console/requests/{request_id}")
    found = (await desk.call("GET", f"/v1/find?id={request_id}")).json()
    assert (found["kind"], found["url"]) == ("request", f"/v1/requests/{request_id}")


async def test_stories_come_page_by_page_newest_first(desk):
    made = [await desk.ship(started_us=desk.world.clock.now_us()) for _ in range(5)]
    seen, cursor = [], ""
    while True:
        page = (await desk.call("GET", f"/v1/requests?limit=2{cursor}")).json()
        seen += [each["id"] for each in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == made[::-1]
    assert (await desk.call("GET", "/v1/requests?cursor=nonsense")).status_code == 400


async def test_another_tenants_story_is_like_none_at_all(desk, store):
    request_id = await desk.ship()
    scope = scope_of(*await make_tenant(store))
    stranger = await desk.world.sign_up("stranger", Role.OWNER, tuple(sorted(ALL_SCOPES)), scope)
    answers = [
        await desk.call("GET", f"/v1/requests/{each}", key=stranger)
        for each in (request_id, format_id("req", IDS.new()), "req_x", "org_1")
    ]
    assert {(each.status_code, each.json()["error"]["code"]) for each in answers} == {(404, "request_not_found")}
    assert (await desk.call("GET", f"/v1/find?id={request_id}", key=stranger)).status_code == 404


@pytest.mark.parametrize("query", ["outcome=fine", "key_id=key_1", "from=yesterday", "to=2026-01-01", "limit=0", "x=1"])
async def test_a_search_that_means_nothing_is_refused(desk, query):
    assert (await desk.call("GET", f"/v1/requests?{query}")).status_code == 400


async def test_a_request_can_be_sent_again_from_its_curl_line(desk):
    request_id = await desk.ship(client_request_id="it's", stream=True)
    line = (await desk.call("GET", f"/v1/requests/{request_id}/curl")).text
    assert line.startswith('curl --request POST "$INTERLOCK_URL/v1/chat/completions"')
    assert '"authorization: Bearer $INTERLOCK_API_KEY"' in line
    assert "'x-client-request-id: it'\"'\"'s'" in line
    assert '"stream":true' in line
    request_id = await desk.ship(endpoint="/v1/messages", target="/v1/messages")
    line = (await desk.call("GET", f"/v1/requests/{request_id}/curl")).text
    assert "anthropic-version: 2023-06-01" in line
    assert '"content":"..."' in line


async def test_a_target_cannot_break_out_of_its_curl_line(desk):
    request_id = await desk.ship(target='/x?a="; rm -rf $HOME `id`', endpoint="/x", client_request_id=None)
    line = (await desk.call("GET", f"/v1/requests/{request_id}/curl")).text
    assert '"$INTERLOCK_URL/x?a=\\"; rm -rf \\$HOME \\`id\\`"' in line


async def test_a_limit_is_set_replaced_listed_explained_and_deleted(desk):
    made = await desk.call("POST", "/admin/v1/limits", {**LIMIT, "target": desk.workspace})
    assert made.status_code == 201, made.text
    limit = made.json()
    assert (limit["limit"], limit["burst"], limit["mode"], limit["version"]) == (20, 20, "enforce", 1)
    assert limit["target"] == desk.workspace
    again = await desk.call("POST", "/admin/v1/limits", {**LIMIT, "target": desk.workspace, "limit": 30, "burst": 5})
    assert (again.json()["id"], again.json()["version"], again.json()["burst"]) == (limit["id"], 2, 5)
    listed = (await desk.call("GET", "/admin/v1/limits")).json()
    assert [each["id"] for each in listed["data"]] == [limit["id"]]
    key = format_id("key", desk.world.owner.id)
    explained = (await desk.call("GET", f"/admin/v1/limits/explain?key={key}&model=default")).json()["data"]
    assert [(each["id"], each["used"], each["retry_at"], each["refused_24h"]) for each in explained] == [
        (limit["id"], 0, None, 0)
    ]
    assert (await desk.call("GET", f"/v1/find?id={limit['id']}")).json()["kind"] == "limit"
    gone = await desk.call("DELETE", f"/admin/v1/limits/{limit['id']}")
    assert gone.json()["id"] == limit["id"]
    assert (await desk.call("DELETE", f"/admin/v1/limits/{limit['id']}")).status_code == 404
    assert (await desk.call("GET", "/admin/v1/limits")).json()["data"] == []


async def test_a_limit_may_name_its_target(desk, store):
    async with store.ops("names of a test") as tx:
        name = await tx._connection.fetchval(
            "SELECT name FROM identity_workspaces WHERE id = $1", desk.world.owner.workspace_id
        )
    made = await desk.call("POST", "/admin/v1/limits", {**LIMIT, "target": name})
    assert made.json()["target"] == desk.workspace
    key = format_id("key", desk.world.owner.id)
    by_key = await desk.call("POST", "/admin/v1/limits", {**LIMIT, "scope": "key", "target": key})
    assert by_key.json()["target"] == key
    organization = format_id("org", desk.world.owner.organization_id)
    made = await desk.call("POST", "/admin/v1/limits", {**LIMIT, "scope": "organization", "target": organization})
    assert made.json()["target"] == organization


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"limit": 0}, 400),
        ({"limit": 10**13}, 400),
        ({"burst": -1}, 400),
        ({"dimension": "requests_per_year"}, 400),
        ({"scope": "planet"}, 400),
        ({"model": ""}, 400),
        ({"extra": 1}, 400),
        ({"target": "nobody"}, 404),
        ({"target": format_id("ws", IDS.new())}, 404),
        ({"scope": "tier", "target": "gold"}, 403),
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused(desk, change, status):
    answer = await desk.call("POST", "/admin/v1/limits", {**LIMIT, "target": desk.workspace, **change})
    assert answer.status_code == status, answer.text
    assert (await desk.call("GET", "/admin/v1/limits")).json()["data"] == []


async def test_limits_are_for_administrators(desk):
    developer = await desk.world.sign_up("dev", Role.DEVELOPER, ("inference", "requests:read"))
    answer = await desk.call("POST", "/admin/v1/limits", {**LIMIT, "target": desk.workspace}, key=developer)
    assert answer.status_code == 403
    assert (await desk.call("GET", "/v1/requests", key=developer)).status_code == 200


async def test_the_audit_chain_knows_who_changed_a_limit(desk, store):
    made = (await desk.call("POST", "/admin/v1/limits", {**LIMIT, "target": desk.workspace})).json()
    async with store.ops("audit of a test") as tx:
        rows = await tx._connection.fetch(
            "SELECT action, detail::text FROM audit_events WHERE organization_id = $1 AND target_id = $2",
            desk.world.owner.organization_id,
            made["id"],
        )
    assert [row["action"] for row in rows] == ["limit.set"]
    assert '"limit": 20' in rows[0]["detail"]


async def make_operator(desk, store):
    """Make the owner of this desk an owner of `system`, which is what the platform's operator is."""
    await make_system(store)
    async with store.transaction(SYSTEM) as tx:
        await tx._connection.execute(
            "INSERT INTO identity_memberships (organization_id, id, principal_id, principal_kind, role)"
            " VALUES ($1, $2, $3, 'user', 'owner')",
            *(SYSTEM_ORGANIZATION_ID, IDS.new(), desk.world.owner.owner_id),
        )
    await desk.world.directory.reload()


async def test_the_operator_limits_and_finds_what_is_another_organizations(desk, store):
    scope = scope_of(*await make_tenant(store))
    theirs = format_id("ws", scope.workspace_id)
    assert (await desk.call("POST", "/admin/v1/limits", {**LIMIT, "target": theirs})).status_code == 404
    await make_operator(desk, store)
    made = await desk.call("POST", "/admin/v1/limits", {**LIMIT, "target": theirs})
    assert made.status_code == 201, made.text
    assert made.json()["target"] == theirs
    async with store.transaction(scope) as tx:
        found = await tx._connection.fetchval(
            "SELECT id FROM gateway_limits WHERE target = $1", str(scope.workspace_id)
        )
    assert format_id("limit", found) == made.json()["id"]
    listed = (await desk.call("GET", "/admin/v1/limits?limit=200")).json()["data"]
    assert made.json()["id"] in [each["id"] for each in listed]
    assert (await desk.call("GET", f"/v1/find?id={theirs}")).json()["kind"] == "ws"
    assert (await desk.call("DELETE", f"/admin/v1/limits/{made.json()['id']}")).status_code == 200


async def test_the_operator_reads_anybodys_story_and_its_organization_is_told(desk, store):
    scope = scope_of(*await make_tenant(store))
    owner = await desk.world.sign_up("theirs", Role.OWNER, tuple(sorted(ALL_SCOPES)), scope)
    own = await desk.ship()
    await desk.world.ship(their_story(desk, scope))
    theirs = (await desk.call("GET", "/v1/requests?limit=1", key=owner)).json()["data"][0]["id"]
    assert (await desk.call("GET", f"/v1/requests/{theirs}")).status_code == 404
    assert await told_of(store, scope) == []
    await make_operator(desk, store)
    for path in (f"/v1/requests/{theirs}", f"/v1/find?id={theirs}"):
        assert (await desk.call("GET", path)).status_code == 200
    assert (await desk.call("GET", f"/v1/requests/{own}")).status_code == 200
    assert (await desk.call("GET", f"/v1/requests/{theirs}", key=owner)).status_code == 200
    reader = format_id("usr", desk.world.owner.owner_id)
    assert await told_of(store, scope) == [(theirs, reader), (theirs, reader)]
    assert await told_of(store, scope_of(desk.world.owner.organization_id)) == []


def their_story(desk, scope):
    now_us = desk.world.clock.now_us()
    return RequestRecord(
        id=IDS.new(), started_us=now_us, method="POST", target="/v1/chat/completions",
        endpoint="/v1/chat/completions", outcome=Outcome.OK, status=200, rule="route.default",
        organization_id=scope.organization_id, workspace_id=scope.workspace_id, alias="default",
        decisions=[Decision(now_us, "finished", "route.default", "ok")],
    )  # fmt: skip


async def told_of(store, scope):
    """Return which stories of an organization its chain says were read, and by whom."""
    reader = AuditReader(store, CheckpointKeys([]), CheckpointFile(Path("none")))
    found = await reader.events(scope, AuditFilter(action="story.read"), 9)
    return [(each.target_id, each.actor["id"]) for each in found]


async def test_a_limit_of_a_tier_is_the_operators_and_a_default_for_each_organization(desk, store):
    tier = f"gold-{IDS.new().hex}"
    body = {**LIMIT, "scope": "tier", "target": tier, "limit": 7}
    assert (await desk.call("POST", "/admin/v1/limits", body)).status_code == 403
    await make_operator(desk, store)
    made = (await desk.call("POST", "/admin/v1/limits", body)).json()
    assert (made["scope"], made["target"]) == ("tier", tier)
    owner = desk.world.owner
    async with store.transaction(scope_of(owner.organization_id)) as tx:
        await tx._connection.execute(
            "UPDATE identity_organizations SET tier = $2 WHERE id = $1", owner.organization_id, tier
        )
    directory = Directory(await load_directory(store))
    applies = directory.limits_for(owner.organization_id, owner.workspace_id, owner.id, "default").limits
    assert [each.limit for each in applies] == [7]
    key = format_id("key", owner.id)
    explained = (await desk.call("GET", f"/admin/v1/limits/explain?key={key}&model=default")).json()["data"]
    assert [each["id"] for each in explained] == [made["id"]]
    own = {**LIMIT, "scope": "organization", "target": format_id("org", owner.organization_id)}
    await desk.call("POST", "/admin/v1/limits", own)
    directory = Directory(await load_directory(store))
    applies = directory.limits_for(owner.organization_id, owner.workspace_id, owner.id, "default").limits
    assert [each.limit for each in applies] == [20]
    assert (await desk.call("DELETE", f"/admin/v1/limits/{made['id']}")).status_code == 200
