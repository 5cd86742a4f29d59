"""Providers, deployments, routes and weights over the API, inside the tenant of the caller."""

import asyncio
from types import SimpleNamespace

import asyncpg
import pytest

from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import ALL_SCOPES, authorize
from interlock.foundation.ids import format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Role
from interlock.foundation.store import Query
from interlock.foundation.wire import Headers
from interlock.gateway import LimitsService, Stories, routes
from interlock.gateway.domain.directory import Directory
from interlock.gateway.domain.envelope import decode_chat
from interlock.gateway.domain.prices import ListedPrice, Price
from interlock.gateway.service.arms import Arms
from interlock.gateway.service.prices import PriceService
from interlock.gateway.store import load_directory
from tests.console.worlds import make_world
from tests.gateway.test_routes import Desk, made_routing, make_operator
from tests.gateway.verdicts import Signer
from tests.support.store import IDS, make_tenant, scope_of

PROVIDER = {"name": "vendor", "kind": "openai", "base_url": "https://models.example/v1", "secret": "sk-1234567890abcd"}
DEPLOYMENT = {"name": "small", "provider": "vendor", "upstream_model": "m-1"}
ROUTE = {"alias": "shop", "targets": [{"deployment": "small"}]}
WEIGHTS = "/admin/v1/routes/shop/weights"


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
    signer = Signer(world.owner.organization_id)
    made = made_routing(world, audit, tmp_path, signer)
    desk = Desk(
        world,
        build_app(routes(Stories(store, audit), LimitsService(world.identity, audit, world.clock, IDS), *made), kit),
    )
    desk.signer = signer
    yield desk
    await desk.http.aclose()


async def post(desk, path, body, status=201, **options):
    reply = await desk.call("POST", f"/admin/v1/{path}", body, **options)
    assert reply.status_code == status, reply.text
    return reply.json()


async def make_route(desk):
    await post(desk, "providers", PROVIDER)
    await post(desk, "deployments", DEPLOYMENT)
    await post(desk, "deployments", {**DEPLOYMENT, "name": "large", "upstream_model": "m-2"})
    first = await post(desk, "routes", ROUTE)
    return first, await post(desk, "routes", {**ROUTE, "targets": [{"deployment": "large"}]})


async def refusal(desk, body, method="PUT", path=WEIGHTS, **options):
    reply = await desk.call(method, path, body, **options)
    return reply.status_code, reply.json()["error"]["code"]


async def test_a_provider_a_deployment_and_a_route_are_made_listed_and_shown(desk):
    provider = await post(desk, "providers", PROVIDER)
    assert (provider["secret_last4"], provider["has_secret"], provider["platform"]) == ("abcd", True, False)
    assert PROVIDER["secret"] not in str((await desk.call("GET", "/admin/v1/providers")).text)
    price = {"input_per_million_usd": "0.5", "output_per_million_usd": 1.25, "cached_input_per_million_usd": 0.05}
    deployment = await post(desk, "deployments", {**DEPLOYMENT, "price": price})
    assert deployment["price"] == {**{name: str(value) for name, value in price.items()}, "version": None}
    first = await post(desk, "routes", ROUTE)
    assert (first["version"], first["state"], first["digest"][:7]) == (1, "stable", "sha256:")
    second = await post(desk, "routes", {**ROUTE, "objective_ttft_ms": 800})
    assert (second["version"], second["state"], second["stable_version"]) == (2, "draft", 1)
    assert second["digest"] != first["digest"]
    for kind, name in (("providers", "vendor"), ("deployments", "small")):
        listed = (await desk.call("GET", f"/admin/v1/{kind}")).json()["data"]
        assert [each["name"] for each in listed] == [name]
    shown = (await desk.call("GET", "/admin/v1/routes/shop")).json()
    assert [each["version"] for each in shown["versions"]] == [2, 1]
    assert (await desk.call("GET", f"/admin/v1/routes/{shown['id']}")).json() == shown
    assert (await desk.call("GET", "/admin/v1/routes")).json()["data"] == [shown]
    for kind, identity in (("prov", provider["id"]), ("dep", deployment["id"]), ("route", shown["id"])):
        found = (await desk.call("GET", f"/v1/find?id={identity}")).json()
        assert found["kind"] == kind
        assert (await desk.call("GET", found["url"])).status_code == 200
        nobodys = (await desk.call("GET", f"/v1/find?id={format_id(kind, IDS.new())}")).status_code
        assert nobodys == 404


def listed_price(model, given, made, cached=None, provider="vendor"):
    return {
        "provider": provider, "model": model, "input_per_million_usd": given, "output_per_million_usd": made,
        "cached_input_per_million_usd": cached,
    }  # fmt: skip


async def test_a_deployment_takes_its_price_from_a_list_and_names_the_version(desk):
    await post(desk, "providers", PROVIDER)
    old = {"version": "list-1", "prices": [listed_price("m-1", "0.5", 1.25), listed_price("org/m-2", 1, 2, "0.1")]}
    added = await post(desk, "prices", old)
    assert (added["version"], added["prices"], added["platform"]) == ("list-1", 2, False)
    first = await post(desk, "deployments", {**DEPLOYMENT, "price_of": "vendor/m-1"})
    assert first["price"] == {
        "input_per_million_usd": "0.5", "output_per_million_usd": "1.25", "cached_input_per_million_usd": None,
        "version": "list-1",
    }  # fmt: skip
    await post(desk, "prices", {"version": "list-2", "prices": [listed_price("m-1", "0.25", "1")]})
    later = {"version": "list-3", "prices": [listed_price("m-1", 0, 0)], "effective_from": "2999-01-01"}
    await post(desk, "prices", later)
    second = await post(desk, "deployments", {**DEPLOYMENT, "name": "second", "price_of": "vendor/m-1"})
    assert (second["price"]["version"], second["price"]["input_per_million_usd"]) == ("list-2", "0.25")
    slashed = await post(desk, "deployments", {**DEPLOYMENT, "name": "third", "price_of": "vendor/org/m-2"})
    assert slashed["price"]["cached_input_per_million_usd"] == "0.1"
    shown = (await desk.call("GET", "/admin/v1/deployments")).json()["data"]
    assert {each["name"]: each["price"]["version"] for each in shown} == {
        "small": "list-1", "second": "list-2", "third": "list-1",
    }, "a later list changes no deployment"  # fmt: skip


async def test_of_two_who_add_the_same_version_at_once_one_does(desk, store):
    prices = PriceService(desk.world.identity, AuditLog(desk.world.clock, Redactor()), desk.world.clock)
    owner = desk.world.owner
    async with store.transaction(scope_of(owner.organization_id, owner.workspace_id)) as tx:
        await prices.add(tx, "list-1", None, [ListedPrice("vendor", "m-1", Price(1, 2))])
        body = {"version": "list-1", "prices": [listed_price("m-1", 9, 9)]}
        other = asyncio.create_task(desk.call("POST", "/admin/v1/prices", body))
        # It waits for this one; were it not to, it would have been added by then.
        await asyncio.wait([other], timeout=0.5)
    assert (await other).status_code == 409
    shown = (await desk.call("GET", "/admin/v1/prices")).json()["data"]
    assert [each["input_per_million_usd"] for each in shown] == ["0.000001"]


async def test_a_list_of_prices_is_never_changed_and_is_nobody_elses(desk, store):
    body = {"version": "list-1", "prices": [listed_price("m-1", 1, 2), listed_price("m-2", 3, 4)]}
    await post(desk, "prices", body)
    changed = {"version": "list-1", "prices": [listed_price("m-1", 9, 9)]}
    assert await refusal(desk, changed, "POST", "/admin/v1/prices") == (409, "name_taken")
    page = (await desk.call("GET", "/admin/v1/prices?version=list-1&limit=1")).json()
    rest = (await desk.call("GET", f"/admin/v1/prices?version=list-1&cursor={page['next_cursor']}")).json()
    rows = [*page["data"], *rest["data"]]
    assert [(each["model"], each["input_per_million_usd"]) for each in rows] == [("m-1", "1"), ("m-2", "3")]
    for statement in ("UPDATE gateway_prices SET input_price_micro = 0", "DELETE FROM gateway_prices"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with store.transaction(desk.world.owner) as tx:
                await tx.execute(Query("change", "nobody may", statement))
    other = scope_of(*await make_tenant(store))
    async with store.transaction(other) as tx:
        assert await tx.fetchval(Query("see", "nobody else", "SELECT count(*) FROM gateway_prices")) == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prices": [listed_price("m", -1, 1)]}, "input_per_million_usd"),
        ({"prices": [listed_price("m", 1, "dear")]}, "output_per_million_usd"),
        ({"prices": [listed_price("m", 1, 1, "inf")]}, "cached_input_per_million_usd"),
        ({"prices": [listed_price("m", 1, 1), listed_price("m", 2, 2)]}, "prices"),
        ({"prices": [listed_price("m", "0.0000001", 1)]}, "input_per_million_usd"),
        ({"prices": [listed_price("m", 1.0000001, 1)]}, "input_per_million_usd"),
        ({"prices": [listed_price("m", 1e-7, 1)]}, "input_per_million_usd"),
        ({"prices": [listed_price("m", "1_000", 1)]}, "input_per_million_usd"),
        ({"prices": [listed_price("m", "1e3", 1)]}, "input_per_million_usd"),
        ({"prices": [listed_price("m", " 1", 1)]}, "input_per_million_usd"),
        ({"prices": [listed_price("m", "1\n", 1)]}, "input_per_million_usd"),
        ({"prices": [listed_price("m", "\u0661", 1)]}, "input_per_million_usd"),
        ({"prices": [listed_price("m", "1000000.000001", 1)]}, "input_per_million_usd"),
        ({"version": "a b"}, "version"),
        ({"effective_from": "soon"}, "effective_from"),
    ],
)
async def test_prices_that_make_no_sense_are_refused(desk, change, field):
    reply = await desk.call("POST", "/admin/v1/prices", {"version": "v", "prices": [listed_price("m", 1, 1)], **change})
    assert (reply.status_code, reply.json()["error"]["detail"]) == (400, {"field": field})


async def test_six_decimals_are_kept_to_the_last(desk):
    given = [listed_price("m-1", "123456.000001", 0.000001), listed_price("m-2", 1000000, "0.1", 0.3)]
    await post(desk, "prices", {"version": "list-1", "prices": given})
    shown = (await desk.call("GET", "/admin/v1/prices")).json()["data"]
    assert [(each["input_per_million_usd"], each["output_per_million_usd"]) for each in shown] == [
        ("123456.000001", "0.000001"), ("1000000", "0.1"),
    ]  # fmt: skip
    assert shown[1]["cached_input_per_million_usd"] == "0.3"


async def test_versions_of_prices_are_bounded_for_each_organization(desk, store):
    prices = PriceService(desk.world.identity, AuditLog(desk.world.clock, Redactor()), desk.world.clock, 2)
    other = scope_of(*await make_tenant(store))
    two = [ListedPrice("vendor", name, Price(1, 2)) for name in ("m-1", "m-2")]
    for scope in (scope_of(desk.world.owner.organization_id), other):
        for version in ("list-1", "list-2"):
            async with store.transaction(scope) as tx:
                await prices.add(tx, version, None, two)
        with pytest.raises(InterlockError) as refused:
            async with store.transaction(scope) as tx:
                await prices.add(tx, "list-3", None, two)
        assert refused.value.safe_detail == {"field": "version", "versions_max": 2}


async def test_a_price_that_no_list_has_is_not_guessed(desk, store):
    await post(desk, "providers", PROVIDER)
    assert await refusal(desk, {**DEPLOYMENT, "price_of": "a/\0"}, "POST", "/admin/v1/deployments") == (
        400, "invalid_request",
    )  # fmt: skip
    for named in ("vendor/m-1", "vendor"):
        reply = await desk.call("POST", "/admin/v1/deployments", {**DEPLOYMENT, "price_of": named})
        assert (reply.status_code, reply.json()["error"]["detail"]) == (400, {"field": "price_of"})
    both = {**DEPLOYMENT, "price_of": "vendor/m-1", "price": {"input_per_million_usd": 1, "output_per_million_usd": 1}}
    assert await refusal(desk, both, "POST", "/admin/v1/deployments") == (400, "invalid_request")
    mark = f"list-{IDS.new().hex}"
    whole = {"version": mark, "prices": [listed_price("m-1", 7, 8, provider=mark)], "platform": True}
    assert await refusal(desk, whole, "POST", "/admin/v1/prices") == (403, "role_denied")
    await make_operator(desk, store)
    assert (await post(desk, "prices", whole))["platform"] is True
    made = await post(desk, "deployments", {**DEPLOYMENT, "price_of": f"{mark}/m-1"})
    assert (made["platform"], made["price"]["version"]) == (False, mark)
    agreed = {**whole, "version": "agreed", "platform": False, "effective_from": "2001-01-01"}
    await post(desk, "prices", agreed)
    own = await post(desk, "deployments", {**DEPLOYMENT, "name": "own", "price_of": f"{mark}/m-1"})
    assert own["price"]["version"] == "agreed", "an older list of one's own goes before the platform's"


async def test_names_are_taken_once_and_what_is_used_is_not_deleted(desk):
    await make_route(desk)
    await post(desk, "providers", PROVIDER, 409)
    await post(desk, "deployments", DEPLOYMENT, 409)
    assert await refusal(desk, None, "DELETE", "/admin/v1/providers/vendor") == (409, "in_use")
    assert await refusal(desk, None, "DELETE", "/admin/v1/deployments/small") == (409, "in_use")
    gone = await desk.call("DELETE", "/admin/v1/deployments/large")
    assert gone.json()["name"] == "large"
    assert (await desk.call("DELETE", "/admin/v1/deployments/large")).status_code == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"base_url": "http://models.example/v1"}, 400),
        ({"base_url": "unix:/tmp/x.sock:/v1"}, 400),
        ({"base_url": "ftp://models.example"}, 400),
        ({"base_url": "https://user:pw@models.example/v1"}, 400),
        ({"base_url": "https://models.example/v1?x=1"}, 400),
        ({"kind": "pool"}, 403),
        ({"kind": "offline"}, 400),
        ({"name": "a b"}, 400),
        ({"name": ""}, 400),
        ({"strategy": "x"}, 400),
        ({"platform": True}, 403),
    ],
)
async def test_a_provider_that_makes_no_sense_is_refused(desk, change, status):
    await post(desk, "providers", {**PROVIDER, **change}, status)


async def test_providers_of_the_platform_are_its_operators_and_may_be_private(desk, store):
    await make_operator(desk, store)
    name = f"p{IDS.new().hex[-12:]}"
    given = {"name": name, "kind": "openai", "platform": True}
    await post(desk, "providers", {**given, "base_url": "http://10.0.0.1:8000/v1"}, 400)
    made = await post(desk, "providers", {**given, "base_url": "http://10.0.0.1:8000/v1", "allow_http": True})
    assert made["platform"] is True
    other = f"{name}-loop"
    await post(desk, "providers", {**given, "name": other, "base_url": "http://127.0.0.1:8000/v1"})
    deployment = await post(desk, "deployments", {"name": f"d-{name}", "provider": name, "upstream_model": "m"})
    assert deployment["platform"] is True
    route = await post(desk, "routes", {"alias": "mine", "targets": [{"deployment": f"d-{name}"}]})
    assert route["platform"] is False
    assert {"platform": True, "name": name}.items() <= (await listed(desk, "providers", name)).items()
    assert (await listed(desk, "deployments", f"d-{name}"))["platform"] is True
    own = desk.world.owner.organization_id
    assert await listed(desk, f"providers?organization_id={format_id('org', own)}", name) is None


async def listed(desk, kind, name):
    """What a list says of one name; the store is shared, so the list goes on over pages."""
    mark, cursor = "&" if "?" in kind else "?", ""
    while True:
        page = (await desk.call("GET", f"/admin/v1/{kind}{mark}limit=200{cursor}")).json()
        found = [each for each in page["data"] if each["name"] == name]
        if found or page["next_cursor"] is None:
            return found[0] if found else None
        cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"targets": []}, 400),
        ({"targets": [{"deployment": "small"}, {"deployment": "large"}]}, 201),
        ({"targets": [{"deployment": "small"}, {"deployment": "small"}]}, 400),
        ({"targets": [{"deployment": "small"}] * 33}, 400),
        ({"targets": [{"deployment": "small", "weight": 0}]}, 400),
        ({"targets": [{"deployment": "small", "weight": 100}]}, 201),
        ({"targets": [{"deployment": "nothing"}]}, 404),
        ({"alias": "a/b"}, 400),
        ({"gate": "maybe"}, 400),
        ({"timeouts_ms": {"ttft": 0}}, 400),
        ({"strategy": "random"}, 400),
        ({"fallbacks": [{"deployment": "large", "on": ["error", "limited"]}]}, 201),
        ({"fallbacks": [{"deployment": "large", "on": []}]}, 400),
        ({"fallbacks": [{"deployment": "large", "on": ["rain"]}]}, 400),
        ({"fallbacks": [{"deployment": "nothing", "on": ["error"]}]}, 404),
        ({"degrade_to": "shop"}, 400),
        ({"degrade_to": "nowhere"}, 404),
        ({"retry": {"attempts_max": 0}}, 400),
        ({"retry": {"attempts_max": 3}}, 201),
        ({"objective_ttft_ms": -1}, 400),
    ],
)
async def test_a_route_that_makes_no_sense_is_refused(desk, change, status):
    await make_route(desk)
    await post(desk, "routes", {**ROUTE, **change}, status)


async def test_a_weight_needs_a_verdict_and_moves_its_share_of_units_until_its_end(desk):
    _, second = await make_route(desk)
    wanted = {"version": 2, "weight": 5}
    stranger = Signer(desk.signer.organization_id)
    digest, sign = second["digest"], desk.signer.token
    for token, code in (
        (None, "verdict_required"),
        (stranger.token("shop", digest), "verdict_invalid"),
        ("no token", "verdict_invalid"),
        ("x" * 10_000, "verdict_invalid"),
        (sign("shop", digest, ttl_s=-1), "verdict_expired"),
        (sign("shop", "sha256:other"), "verdict_digest_mismatch"),
        (sign("shop", digest, max_weight=1), "verdict_weight_exceeded"),
    ):
        assert await refusal(desk, {**wanted, "verdict_token": token}) == (403, code), code
    events = await audited(desk)
    assert [each for each in events if each[0] == "route.weight"] == [
        ("route.weight", "refused", code)
        for code in (
            "verdict_required", "verdict_invalid", "verdict_invalid", "verdict_expired", "verdict_digest_mismatch",
            "verdict_weight_exceeded",
        )
    ]  # fmt: skip
    live = sign("shop", digest, max_weight=5, ttl_s=1_800)
    reply = await desk.call("PUT", WEIGHTS, {**wanted, "verdict_token": live, "lease_s": 600})
    assert reply.status_code == 200, reply.text
    assert (reply.json()["effective_weight"], reply.json()["version"]) == (5.0, 2)
    clock = Later(desk.world.clock)
    arms, found = Arms(desk.signer.verifier, clock), Directory(await load_directory(desk.world.store))
    arms.replace(found, desk.signer.keys)
    alias = found.alias(desk.world.owner.organization_id, "shop")
    assert abs(sum(chosen(arms, alias, f"s-{each}") == 2 for each in range(10_000)) - 500) < 100, "within 1 point"
    clock.forward_s = 601.0
    assert not any(chosen(arms, alias, f"s-{each}") == 2 for each in range(10_000)), "its lease has ended"
    shown = (await desk.call("GET", "/admin/v1/routes/shop")).json()
    assert (shown["candidate_version"], shown["weight"], shown["effective_weight"]) == (2, 5.0, 5.0)
    assert [each["state"] for each in shown["versions"]] == ["canary", "stable"]
    back = (await desk.call("DELETE", WEIGHTS)).json()
    assert (back["version"], back["effective_weight"], back["expires_at"]) == (1, 100.0, None)


class Later:
    """A clock, and as much later as the test says."""

    def __init__(self, clock):
        self.clock = clock
        self.forward_s = 0.0

    def now_us(self):
        return self.clock.now_us() + round(self.forward_s * 1e6)

    def monotonic(self):
        return self.clock.monotonic() + self.forward_s


def chosen(arms, alias, session):
    """The version that answers a session's request."""
    request = SimpleNamespace(headers=Headers([(b"x-interlock-session", session.encode())]))
    passage = SimpleNamespace(
        exchange=SimpleNamespace(request=request), tenant=alias.stable.route.organization_id, key_id=None,
        request_id=IDS.new(), decide=lambda *_: None,
    )  # fmt: skip
    return arms.choose(passage, alias, decode_chat(b'{"model":"shop","messages":[]}')).route.version


@pytest.mark.parametrize(
    "change",
    [{"weight": 101}, {"weight": -1}, {"lease_s": 0}, {"lease_s": 1e9}, {"mode": "both"}, {"version": -1}, {"x": 1}],
)
async def test_a_weight_that_makes_no_sense_is_refused(desk, change):
    await make_route(desk)
    assert (await refusal(desk, {"version": 2, "weight": 5, **change}))[0] == 400


async def test_another_tenants_route_does_not_exist_and_developers_change_nothing(desk, store):
    await make_route(desk)
    scope = scope_of(*await make_tenant(store))
    stranger = await desk.world.sign_up("stranger", Role.OWNER, tuple(sorted(ALL_SCOPES)), scope)
    assert await refusal(desk, {"version": 2, "weight": 5}, key=stranger) == (404, "not_found")
    assert await refusal(desk, None, "GET", "/admin/v1/routes/shop", key=stranger) == (404, "not_found")
    developer = await desk.world.sign_up("developer", Role.DEVELOPER, tuple(sorted(ALL_SCOPES)))
    assert (await refusal(desk, {"version": 2, "weight": 5}, key=developer))[0] == 403
    assert await refusal(desk, {"version": 9, "weight": 5}) == (404, "not_found")


async def test_only_an_owner_turns_a_gate_off(desk):
    await make_route(desk)
    admin = await desk.world.sign_up("admin", Role.ADMIN, tuple(sorted(ALL_SCOPES)))
    await post(desk, "routes", {**ROUTE, "gate": "off"}, 403, key=admin)
    made = await post(desk, "routes", {**ROUTE, "gate": "off"})
    reply = await desk.call("PUT", WEIGHTS, {"version": made["version"], "weight": 50})
    assert reply.json()["effective_weight"] == 50.0


async def audited(desk):
    async with desk.world.store.ops("audit of a test") as tx:
        rows = await tx._connection.fetch(
            "SELECT action, outcome, reason FROM audit_events WHERE organization_id = $1 ORDER BY seq",
            desk.world.owner.organization_id,
        )
    return [tuple(row.values()) for row in rows]
