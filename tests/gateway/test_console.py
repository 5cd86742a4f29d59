"""The pages of the front door: routes with their arms, limits with their fill, usage and cost, kill switches."""

import re
from urllib.parse import urlencode

import pytest

from interlock.console.gateway import GatewayPages, gateway_pages, told_limit, totals
from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.flags import FlagsConfig, KillService
from interlock.foundation.identity import authorize
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import Attempt, Cost, Outcome, RequestRecord, Usage
from interlock.gateway import LimitsService, Stories, UsageConfig, UsageService, kill_targets, routes
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
    pages = GatewayPages(world.console().frame, versions, upstreams, limits, usage, kills, world.clock)
    served = [*routes(Stories(store), limits, upstreams, versions, weights), *gateway_pages(pages)]
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


async def test_limits_show_their_fill_and_the_rows_come_alone_again(desk):
    await post(desk, "limits", {**LIMIT, "target": desk.workspace})
    whole = await page(desk, "/console/limits")
    assert 'hx-get="/console/limits/fill"' in whole
    assert "0 %</meter>" in whole
    rows = await page(desk, "/console/limits/fill")
    assert "<main" not in rows
    assert rows.count("<tr>") == 1


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
        await roll_up(tx, [
            RequestRecord(
                id=IDS.new(), started_us=desk.world.clock.now_us(), organization_id=owner.organization_id,
                workspace_id=owner.workspace_id, key_id=owner.workspace_id, alias=alias, outcome=Outcome.OK,
                status=200, attempts=[Attempt(n=1, deployment="d", status=200)], tags="team=<b>",
                usage=Usage(input_tokens=1_000, output_tokens=20), cost=Cost(usd="1.250000", price_version="a@1"),
            ) for alias in ("shop", "shop", "desk")
        ])  # fmt: skip
    shown = await page(desk, "/console/usage")
    assert shown.index(">shop<") < shown.index(">desk<"), "the dearest first"
    assert "$ 3.750000" in shown
    assert "3,000" in shown
    tagged = await page(desk, "/console/usage?group_by=tag&within=1%20hour")
    assert "team=&lt;b&gt;" in tagged
    await page(desk, "/console/usage?group_by=colour", 400)


def test_rows_of_the_same_group_are_one():
    row = {"model": "a", "requests": 1, "input_tokens": 2, "cached_input_tokens": 0, "output_tokens": 3,
           "cost_usd": "0.1"}  # fmt: skip
    found = totals([row, row, row | {"model": "b", "cost_usd": "0.5"}], "model")
    assert [(each["group"], each["requests"], str(each["cost_usd"])) for each in found] == [
        ("b", 1, "0.5"), ("a", 2, "0.2"),
    ]  # fmt: skip


async def test_a_switch_is_turned_on_shown_red_and_lifted(desk):
    unknown = await form(desk, "/console/kills", scope="route", target="shop", mode="drain", reason=SCRIPT)
    assert unknown.status_code == 404, "what nobody has cannot be stopped"
    await post(desk, "providers", PROVIDER)
    await post(desk, "deployments", DEPLOYMENT)
    await post(desk, "routes", ROUTE)
    made = await form(desk, "/console/kills", scope="route", target="shop", mode="drain", reason=SCRIPT)
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
    wrong = await form(desk, "/console/kills", scope="weather", target="x", mode="reject", reason="r")
    assert wrong.status_code == 400
