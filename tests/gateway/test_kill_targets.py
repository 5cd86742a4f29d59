"""A switch is refused where what it names cannot exist: it would be believed to stop something."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import FlagService, KillService, KillSwitches
from interlock.foundation.flags.domain.kills import Kill
from interlock.foundation.flags.routes import routes as flag_routes
from interlock.foundation.identity import authorize
from interlock.foundation.ids import format_id, parse_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Membership, Role
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
    served = [*routes(Stories(store, audit), limits, *made_routing(world, audit, tmp_path))]
    served += flag_routes(kills, FlagService(store, audit, world.clock, IDS))
    desk = Desk(world, build_app(served, kit))
    desk.kills = kills
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
    await make_objects(store, stranger, mark)
    scopes = ("provider", "deployment", "route")
    assert [(await stop(desk, each, mark)).status for each in scopes] == [404] * 3
    await make_operator(desk, store)
    assert [(await stop(desk, each, mark)).status for each in scopes] == [201] * 3


SCOPES = {"provider": "prov", "deployment": "dep", "route": "route"}


async def test_an_operators_switch_on_an_id_stops_it_alone_and_is_not_its_owners_to_lift(desk, store):
    owner = desk.world.owner.organization_id
    one, other = [scope_of(*await make_tenant(store)) for _ in range(2)]
    mark = f"vendor-{IDS.new().hex}"
    found = [await make_objects(store, each, mark) for each in (one, other)]
    await make_operator(desk, store)
    switches = KillSwitches(store, desk.world.clock, None, b"k" * 32)
    for scope, kind in SCOPES.items():
        named = await stop(desk, scope, format_id(kind, found[0][scope]))
        assert (named.status, named.json["target"], named.json["platform"]) == (201, mark, True), named.json
        assert named.json["organization_id"] == format_id("org", one.organization_id)
        second = await stop(desk, scope, format_id(kind, found[1][scope]))
        assert second.json["organization_id"] == format_id("org", other.organization_id)
        reply = await desk.call("DELETE", f"/admin/v1/kill-switches/{second.json['id']}", {"reason": "it is well"})
        assert reply.status_code == 200
        await switches.reload()
        asked = (one.organization_id, other.organization_id, owner)
        assert [switches.check([(scope, mark)], each) is not None for each in asked] == [True, False, False], scope
        await owners_can_neither_lift_nor_soften(desk.kills, one, scope, mark, named.json["id"])
        everybody = await stop(desk, scope, mark)
        assert (everybody.json["organization_id"], everybody.json["platform"]) == (None, True)
        await switches.reload()
        assert switches.check([(scope, mark)], other.organization_id) is not None


async def owners_can_neither_lift_nor_soften(kills, stranger, scope, mark, kill_id):
    organization_id = stranger.organization_id
    memberships = (Membership(Role.ADMIN, None),)
    admin = replace(stranger, principal=replace(stranger.principal, memberships=memberships))
    wanted = Kill(
        id="", organization_id=organization_id, scope=scope, target=mark, mode="reject", reason="ours",
        actor="", created_us=0,
    )  # fmt: skip
    for act in (kills.lift(admin, parse_id("kill", kill_id), "ours again"), kills.turn_on(admin, wanted)):
        with pytest.raises(InterlockError) as refused:
            await act
        assert refused.value.code == "role_denied"


async def make_objects(store, stranger, mark):
    """Give an organization a provider, a deployment and a route of that name; return their ids."""
    found = {each: IDS.new() for each in ("provider", "deployment", "route")}
    async with store.transaction(stranger) as tx:
        await tx._connection.execute(
            "INSERT INTO gateway_providers (organization_id, name, id, kind, base_url, created_us)"
            " VALUES ($1, $2, $3, 'openai', 'https://models.example/v1', 0)",
            *(stranger.organization_id, mark, found["provider"]),
        )
        await tx._connection.execute(
            "INSERT INTO gateway_deployments (organization_id, name, id, provider, upstream_model, created_us)"
            " VALUES ($1, $2, $3, $2, 'm-1', 0)",
            *(stranger.organization_id, mark, found["deployment"]),
        )
        await tx._connection.execute(
            "INSERT INTO gateway_routes (organization_id, alias, id, stable_version, created_us)"
            " VALUES ($1, $2, $3, 1, 0)",
            *(stranger.organization_id, mark, found["route"]),
        )
    return found
