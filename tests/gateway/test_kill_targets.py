"""A switch is refused where what it names cannot exist: it would be believed to stop something."""

from types import SimpleNamespace

import pytest

from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.flags import FlagService, KillService
from interlock.foundation.flags.routes import routes as flag_routes
from interlock.foundation.identity import authorize
from interlock.foundation.redaction import Redactor
from interlock.gateway import LimitsService, Stories, kill_targets, routes
from tests.console.worlds import make_world
from tests.gateway.test_routes import Desk, made_routing, make_operator
from tests.gateway.test_routes_admin import DEPLOYMENT, PROVIDER, ROUTE, post
from tests.support.store import IDS, make_tenant, scope_of

BETA = {"name": "tools", "kind": "beta", "match": {"header": "tools-1"}, "reason": "to be tried"}


@pytest.fixture
async def desk(store, tmp_path):
    world = await make_world(store, tmp_path)
    audit = AuditLog(world.clock, Redactor())
    kit = Kit(
        store=store, audit=audit, gate=Gate(world.authenticator, None, authorize), ids=IDS, clock=world.clock,
        dice=SystemDice(), key=b"k" * 32,
    )  # fmt: skip
    limits = LimitsService(world.identity, audit, world.clock, IDS)
    kills = KillService(store, audit, world.clock, IDS, finders=kill_targets())
    served = [*routes(Stories(store), limits, *made_routing(world, audit, tmp_path))]
    served += flag_routes(kills, FlagService(store, audit, world.clock, IDS))
    desk = Desk(world, build_app(served, kit))
    yield desk
    await desk.http.aclose()


async def stop(desk, scope, target, **options):
    body = {"scope": scope, "target": target, "mode": "reject", "reason": "it misbehaves"}
    reply = await desk.call("POST", "/admin/v1/kill-switches", body, **options)
    return SimpleNamespace(status=reply.status_code, json=reply.json())


@pytest.mark.parametrize("scope", ["organization", "workspace", "key", "route", "deployment", "provider", "beta"])
async def test_what_is_not_there_cannot_be_stopped(desk, scope):
    found = await stop(desk, scope, "nobody-has-this")
    assert (found.status, found.json["error"]["code"]) == (404, "not_found")
    assert found.json["error"]["message"] == f"There is no {scope} 'nobody-has-this'."
    assert found.json["error"]["detail"] == {"field": "target"}
    assert (await stop(desk, scope, "no\0body")).status in {400, 404}


async def test_what_is_there_is_stopped_by_its_name_or_its_id(desk):
    made = {
        "provider": await post(desk, "providers", PROVIDER),
        "deployment": await post(desk, "deployments", DEPLOYMENT),
        "route": await post(desk, "routes", ROUTE),
        "beta": await post(desk, "flags", BETA),
    }
    for scope, found in made.items():
        name = found["alias"] if scope == "route" else found["name"]
        named = await stop(desk, scope, name)
        assert (named.status, named.json["target"]) == (201, name), named.json
        if "id" in found:
            again = await stop(desk, scope, found["id"])
            assert (again.status, again.json["target"], again.json["id"]) == (201, name, named.json["id"])


async def test_what_another_organization_has_is_not_there_but_for_the_operator(desk, store):
    stranger = scope_of(*await make_tenant(store))
    mark = f"vendor-{IDS.new().hex}"
    async with store.transaction(stranger) as tx:
        await tx._connection.execute(
            "INSERT INTO gateway_providers (organization_id, name, id, kind, base_url, created_us)"
            " VALUES ($1, $2, $3, 'openai', 'https://models.example/v1', 0)",
            *(stranger.organization_id, mark, IDS.new()),
        )
        await tx._connection.execute(
            "INSERT INTO gateway_deployments (organization_id, name, id, provider, upstream_model, created_us)"
            " VALUES ($1, $2, $3, $2, 'm-1', 0)",
            *(stranger.organization_id, mark, IDS.new()),
        )
        await tx._connection.execute(
            "INSERT INTO gateway_routes (organization_id, alias, id, stable_version, created_us)"
            " VALUES ($1, $2, $3, 1, 0)",
            *(stranger.organization_id, mark, IDS.new()),
        )
    scopes = ("provider", "deployment", "route")
    assert [(await stop(desk, each, mark)).status for each in scopes] == [404] * 3
    await make_operator(desk, store)
    assert [(await stop(desk, each, mark)).status for each in scopes] == [201] * 3
