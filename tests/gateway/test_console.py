"""The pages of the front door: routes with their arms, limits with their fill, usage and cost, kill switches."""

import re
from html import unescape
from urllib.parse import urlencode

import pytest

from interlock.console.gateway import GatewayPages, explain_sentence, gateway_pages, told_limit, totals
from interlock.console.gateway_forms import GatewayForms, gateway_forms
from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.flags import FlagsConfig, Kill, KillService
from interlock.foundation.identity import authorize
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import Attempt, Cost, Outcome, RequestRecord, Usage, tallied
from interlock.gateway import LimitsService, Stories, UsageConfig, UsageService, kill_targets, routes, usage_routes
from interlock.gateway.store.usage import roll_up
from tests.console.worlds import make_world
from tests.gateway.test_routes import LIMIT, Desk, made_routing
from tests.gateway.test_routes_admin import DEPLOYMENT, PROVIDER, ROUTE, post
from tests.support.store import IDS

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
async def desk(store, tmp_path):
    world = await make_world(store, tmp_path)
    audit = AuditLog(world.clock, Redactor())
    kit = Kit(
        store=store, audit=audit, gate=Gate(world.authenticator, None, authorize), ids=IDS, clock=world.clock,
        dice=SystemDice(), key=b"k" * 32, error_page=world.console().error_page,
    )  # fmt: skip
    limits = LimitsService(world.identity, audit, world.clock, IDS)
    upstreams, versions, weights = made_routing(world, audit, tmp_path)
    kills = KillService(store, audit, world.clock, IDS, FlagsConfig(), finders=kill_targets())
    usage = UsageService(store, world.clock, UsageConfig())
    pages = GatewayPages(world.console().frame, versions, upstreams, limits, usage, kills, world.clock, world.keys)
    forms = gateway_forms(GatewayForms(limits, weights))
    served = [*routes(Stories(store, audit), limits, upstreams, versions, weights), *usage_routes(usage)]
    served += [*gateway_pages(pages), *forms]
    made = Desk(world, build_app(served, kit))
    yield made
    await made.http.aclose()


async def page(desk, path, status=200):
    reply = await desk.call("GET", path)
    assert reply.status_code == status, reply.text
    assert not re.findall(r"\sstyle=|\son[a-z]+=|javascript:|<style", reply.text)
    if status == 200 and "<main" in reply.text:
        assert len(re.findall(r"<h1[ >]", reply.text)) == 1
    return reply.text


async def form(desk, path, **fields):
    headers = {
        "authorization": f"Bearer {desk.world.owner_key}", "content-type": "application/x-www-form-urlencoded",
        "sec-fetch-site": "same-origin",
    }  # fmt: skip
    return await desk.http.post(path, content=urlencode(fields), headers=headers)


async def test_limits_come_as_csv_with_what_is_used_of_them(desk):
    for number, dimension in enumerate(("requests_per_minute", "tokens_per_minute"), 1):
        await post(desk, "limits", {**LIMIT, "target": desk.workspace, "dimension": dimension, "limit": number * 10})
    names, *lines = (line.split(",") for line in (await page(desk, "/console/limits.csv")).splitlines())
    told = [dict(zip(names, line, strict=True)) for line in lines]
    assert [(each["dimension"], float(each["limit"])) for each in told] == [
        ("requests_per_minute", 10),
        ("tokens_per_minute", 20),
    ]
    assert {(each["target"], each["state"], each["retry_at"]) for each in told} == {(desk.workspace, "free", "")}
    assert 'href="/console/limits.csv"' in await page(desk, "/console/limits")


async def test_an_empty_page_names_the_command_that_would_fill_it(desk):
    assert "interlock routes create" in await page(desk, "/console/routes")
    assert "interlock limits set" in await page(desk, "/console/limits")
    assert "curl $INTERLOCK_URL" in await page(desk, "/console/usage")
    assert "interlock kill on" in await page(desk, "/console/kills")


async def test_routes_show_targets_fallbacks_and_which_version_answers(desk):
    await post(desk, "providers", PROVIDER)
    for name in ("small", "large"):
        await post(desk, "deployments", {**DEPLOYMENT, "name": name, "max_concurrent": 7})
    spare = [{"deployment": "large", "on": ["error", "timeout"]}]
    await post(desk, "routes", {**ROUTE, "fallbacks": spare, "strategy": "priority"})
    await post(desk, "routes", {**ROUTE, "gate": "off"})
    listed = await page(desk, "/console/routes")
    assert '<a href="/console/routes/shop">shop</a>' in listed
    assert "<code>large</code>" in listed
    assert "priority" in listed
    assert '<td class="number">7</td>' in listed
    shown = await page(desk, "/console/routes/shop")
    assert "large on error, timeout" in shown
    assert '<span class="state state-stop">off</span>' in shown, "a version without a gate is red"
    assert "Version 1 answers everybody" in " ".join(shown.split())
    await page(desk, "/console/routes/nothing", 404)
    route_id = (await desk.call("GET", "/admin/v1/routes/shop")).json()["id"]
    await page(desk, f"/console/routes/{route_id}")


async def test_limits_show_their_fill_and_the_rows_come_alone_again(desk):
    await post(desk, "limits", {**LIMIT, "target": desk.workspace})
    whole = await page(desk, "/console/limits")
    assert 'hx-get="/console/limits/fill"' in whole
    assert "0 %</meter>" in whole
    rows = await page(desk, "/console/limits/fill")
    assert "<main" not in rows
    assert rows.count("<tr>") == 1


async def test_a_limit_is_set_replaced_and_deleted_by_forms(desk):
    fields = {"scope": "workspace", "target": desk.workspace, "dimension": "usd_per_day", "mode": "observe"}
    made = await form(desk, "/console/limits", **fields, limit="1,000.50", model="")
    assert (made.status_code, made.headers["location"]) == (303, "/console/limits")
    await form(desk, "/console/limits", **fields, limit="20", model="*")
    shown = await page(desk, "/console/limits")
    assert "$ 20.00" in shown
    assert "$ 1,000.50" not in shown, "the same scope, target, dimension and model replaces"
    for wrong in ({"limit": "many"}, {"limit": "nan"}, {"limit": "-1"}, {"limit": "1", "scope": "planet"}):
        refused = await form(desk, "/console/limits", **{**fields, **wrong})
        assert refused.status_code == 400, wrong
    delete = re.search(r'action="(/console/limits/limit_[a-z0-9]+/delete)"', shown)[1]
    assert (await form(desk, delete)).status_code == 303
    assert "No limit yet" in await page(desk, "/console/limits")


async def test_what_holds_for_a_key_and_a_model_is_told_as_the_api_tells_it(desk):
    key = format_id("key", desk.world.owner.id)
    empty = await page(desk, "/console/limits")
    assert f'<option value="{key}">owner …' in empty
    assert "Limits of the key" not in empty
    named = urlencode({"key": key, "model": SCRIPT})
    assert "No limit holds for this key and &lt;script&gt;" in await page(desk, f"/console/limits?{named}")
    for dimension, mode in (("requests_per_minute", "enforce"), ("usd_per_day", "observe")):
        await post(
            desk, "limits", {**LIMIT, "target": desk.workspace, "dimension": dimension, "mode": mode, "limit": 7}
        )
    named = urlencode({"key": key, "model": "shop"})
    shown = await page(desk, f"/console/limits?{named}")
    assert "A call of shop passes the 2 limits that hold for this key." in shown
    assert f'<option value="{key}" selected>' in shown
    told = (await desk.call("GET", unescape(re.search(r'href="(/admin/v1/limits/explain\?[^"]+)"', shown)[1]))).json()
    cells = (await page(desk, unescape(re.search(r'href="(/console/limits/explain.csv[^"]+)"', shown)[1]))).splitlines()
    assert [line.split(",")[0] for line in cells[1:]] == [each["id"] for each in told["data"]]
    assert cells[0].endswith("retry_at,refused_24h")
    await page(desk, "/console/limits?key=key_00000000000000000000000000&model=shop", 404)
    await page(desk, "/console/limits/explain.csv", 400)


def test_a_full_limit_that_is_enforced_says_until_when_and_one_that_only_looks_on_refuses_nobody():
    row = {"scope": "workspace", "dimension": "tokens_per_minute", "mode": "enforce",
           "retry_at": "2026-01-01T00:00:30.000Z"}  # fmt: skip
    until = "A call of shop is refused until 2026-01-01 00:00:30.000 UTC: tokens per minute of the workspace."
    assert explain_sentence([row], "shop") == until
    assert explain_sentence([{**row, "mode": "observe"}], "shop").startswith(
        "A call of shop passes the one limit that holds"
    )


async def test_a_weight_that_is_in_force_is_kept_by_a_button_and_one_that_is_none_is_not(desk):
    await post(desk, "providers", PROVIDER)
    await post(desk, "deployments", DEPLOYMENT)
    await post(desk, "routes", ROUTE)
    assert "Freeze" not in await page(desk, "/console/routes/shop")
    assert (await form(desk, "/console/routes/shop/freeze")).status_code == 403, "there is no weight to keep"
    await post(desk, "routes", {**ROUTE, "gate": "off"})
    await form(desk, "/console/routes/shop/weights", version="2", weight="5", mode="canary", verdict_token="")
    before = (await desk.call("GET", "/admin/v1/routes/shop")).json()
    assert "Keep 5 % for version 2" in await page(desk, "/console/routes/shop")
    kept = await form(desk, "/console/routes/shop/freeze")
    assert (kept.status_code, kept.headers["location"]) == (303, "/console/routes/shop")
    after = (await desk.call("GET", "/admin/v1/routes/shop")).json()
    assert (after["candidate_version"], after["effective_weight"]) == (2, 5)
    assert after["expires_at"] > before["expires_at"]
    assert after["epoch"] > before["epoch"]
    assert (await form(desk, "/console/routes/nothing/freeze")).status_code == 404


async def test_a_weight_needs_its_verdict_in_the_console_too_and_is_rolled_back_without_one(desk):
    await post(desk, "providers", PROVIDER)
    await post(desk, "deployments", DEPLOYMENT)
    await post(desk, "routes", ROUTE)
    await post(desk, "routes", {**ROUTE, "objective_ttft_ms": 900})
    fields = {"version": "2", "weight": "5", "mode": "canary"}
    refused = await form(desk, "/console/routes/shop/weights", **fields, verdict_token="")
    assert refused.status_code == 403
    assert "A weight rises only with the token of a live verdict." in refused.text
    assert (await form(desk, "/console/routes/shop/weights", **{**fields, "weight": "all"})).status_code == 400
    await post(desk, "routes", {**ROUTE, "gate": "off"})
    given = await form(desk, "/console/routes/shop/weights", **{**fields, "version": "3"})
    assert (given.status_code, given.headers["location"]) == (303, "/console/routes/shop")
    assert "5 % to version 3" in await page(desk, "/console/routes/shop")
    assert (await form(desk, "/console/routes/shop/rollback")).status_code == 303
    assert "Version 1 answers everybody" in " ".join((await page(desk, "/console/routes/shop")).split())


def test_a_full_limit_is_red_and_a_nearly_full_one_is_marked():
    given = {"limit": 10, "burst": 10, "used": 3, "retry_at": None, "dimension": "requests_per_minute"}
    assert told_limit(given)["tone"] == "go"
    assert told_limit(given | {"used": 9})["state"] == "nearly full"
    full = told_limit(given | {"used": 12, "retry_at": "2026-01-01T00:00:00Z"})
    assert (full["tone"], full["percent"]) == ("stop", 100)
    assert told_limit(given | {"limit": 6_600_000})["limit_words"] == "6,600,000"
    dear = told_limit(given | {"dimension": "usd_per_day", "used": 7.8e-05, "limit": 5})
    assert (dear["used_words"], dear["limit_words"]) == ("$ 0.000078", "$ 5.00")


async def test_usage_is_added_up_by_what_was_asked_for(desk):
    owner = desk.world.owner
    async with desk.world.store.ops("usage of a test") as tx:
        await roll_up(tx, tallied([
            RequestRecord(
                id=IDS.new(), started_us=desk.world.clock.now_us(), organization_id=owner.organization_id,
                workspace_id=owner.workspace_id, key_id=owner.workspace_id, alias=alias, outcome=Outcome.OK,
                status=200, attempts=[Attempt(n=1, deployment="d", status=200)], tags="team=<b>",
                usage=Usage(input_tokens=1_000, output_tokens=20),
                cost=Cost(usd=None if alias == "free" else "1.250000", price_version="a@1"),
            ) for alias in ("shop", "shop", "desk", "free")
        ]))  # fmt: skip
    shown = await page(desk, "/console/usage")
    assert shown.index(">shop<") < shown.index(">desk<"), "the dearest first"
    assert "$3.750000" in shown
    assert "4,000" in shown
    assert "1 without a price" in shown
    assert '<td class="number">no price</td>' in shown, "nobody shall take it for free of charge"
    tagged = await page(desk, "/console/usage?group_by=tag&within=1%20hour")
    assert "team=&lt;b&gt;" in tagged
    await page(desk, "/console/usage?group_by=colour", 400)
    await page(desk, "/console/usage.csv?group_by=colour", 400)
    lines = (await page(desk, "/console/usage.csv?group_by=model")).splitlines()
    assert lines[:2] == [
        "model,requests,unpriced,input_tokens,cached_input_tokens,output_tokens,cost_usd",
        "shop,2,0,2000,0,40,2.500000",
    ]  # fmt: skip
    for ends in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "yesterday", "2026-01-01"):
        assert (await desk.call("GET", f"/v1/usage?to={ends}")).status_code == 400, ends
    told = await desk.call("GET", unescape(re.search(r'href="(/v1/usage\?[^"]+)"', shown)[1]))
    assert sum(each["requests"] for each in told.json()["data"]) == 4, "the span of the page is the span of its JSON"


def test_rows_of_the_same_group_are_one():
    row = {"model": "a", "requests": 1, "unpriced": 0, "input_tokens": 2, "cached_input_tokens": 0, "output_tokens": 3,
           "cost_usd": "0.1"}  # fmt: skip
    found = totals([row, row, row | {"model": "b", "cost_usd": "0.5"}], "model")
    assert [(each["group"], each["requests"], str(each["cost_usd"])) for each in found] == [
        ("b", 1, "0.5"), ("a", 2, "0.2"),
    ]  # fmt: skip


async def test_a_switch_is_turned_on_shown_red_and_lifted(desk):
    unknown = await form(desk, "/console/kills", scope="route", target="shop", mode="drain", reason="r", is_meant="1")
    assert unknown.status_code == 404, "what nobody has cannot be stopped"
    await post(desk, "providers", PROVIDER)
    await post(desk, "deployments", DEPLOYMENT)
    await post(desk, "routes", ROUTE)
    hasty = await form(desk, "/console/kills", scope="route", target="shop", mode="drain", reason=SCRIPT)
    assert hasty.status_code == 400, "it takes two steps"
    wanted = {"scope": "route", "target": "shop", "mode": "drain", "reason": SCRIPT, "is_meant": "1"}
    made = await form(desk, "/console/kills", **wanted)
    assert made.status_code == 201, made.text
    assert "route shop is stopped." in made.text
    assert SCRIPT not in made.text
    await desk.world.kills.reload()
    listed = await page(desk, "/console/kills")
    assert "Kill switch on: route" in listed, "the red bar is on every page"
    lift = re.search(r'action="(/console/kills/kill_[a-z0-9]+/lift)"', listed)[1]
    lifted = await form(desk, lift, reason="over")
    assert lifted.status_code == 200, lifted.text
    assert "route shop is served again." in lifted.text
    wrong = await form(desk, "/console/kills", scope="weather", target="x", mode="reject", reason="r", is_meant="1")
    assert wrong.status_code == 400


async def test_a_switch_of_a_file_is_listed_with_the_command_that_lifts_it(desk):
    kill = Kill(
        id="kill_01m8nhkxvre0095bp5h62dj03n", organization_id=SYSTEM_ORGANIZATION_ID, scope="gateway", target="*",
        mode="reject", reason="the store is away", actor="local", created_us=0, is_local=True,
    )  # fmt: skip
    desk.world.kills.kills = (kill,)
    listed = await page(desk, "/console/kills")
    assert "No switch is on" not in listed
    assert f"interlock kill off {kill.id} --local" in listed
    assert f"/console/kills/{kill.id}/lift" not in listed, "the store has none to lift"
