"""Routes of a real platform from the command line: two versions, no weight without a verdict, everything audited."""

import json

import pytest

from tests.journeys.processes import await_each_edge

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
BODY = {"model": "shop", "messages": [{"role": "user", "content": "Where is my order?"}]}


def told(running, *arguments):
    found = running.cli(*arguments, "--json")
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@pytest.fixture(scope="module")
def shop(scripted, engine):
    """An alias of two versions, each on a model of the scripted server, made as an operator makes them."""
    url = f"{engine.url}/v1"
    told(scripted, "routes", "add-provider", "scripted", "--kind", "openai", "--base-url", url, "--platform")
    for name in ("shop-old", "shop-new"):
        told(scripted, "routes", "add-deployment", name, "--provider", "scripted", "--upstream-model", "fake")
        told(scripted, "routes", "create", "shop", "--target", name)
    return scripted


@pytest.fixture(scope="module")
def caller(shop):
    key = shop.key("routes-journey")["key"]
    await_each_edge(shop, key, BODY)
    return shop.as_key(key)


def test_a_route_that_was_just_made_answers_by_its_first_version(shop, caller):
    shown = told(shop, "routes", "show", "shop")
    assert [(each["version"], each["state"]) for each in shown["versions"]] == [(2, "draft"), (1, "stable")]
    answer = caller.call("POST", "/v1/chat/completions", BODY)
    assert answer.status == 200, answer
    assert answer.headers["x-interlock-route"] == "shop@1/shop-old"
    assert answer.headers["x-interlock-arm"] == "stable"
    story = shop.story(answer.headers["x-request-id"])
    assert (story["route_version"], story["deployment"], story["arm"]) == (1, "shop-old", "stable")


def test_no_weight_rises_without_a_verdict_and_every_try_is_in_the_audit_chain(shop, caller):
    path = "/admin/v1/routes/shop/weights"
    refused = shop.owner.call("PUT", path, {"version": 2, "weight": 5})
    assert (refused.status, refused.body["error"]["code"]) == (403, "verdict_required")
    forged = shop.owner.call("PUT", path, {"version": 2, "weight": 5, "verdict_token": "bm8.bm8"})
    assert (forged.status, forged.body["error"]["code"]) == (403, "verdict_invalid")
    found = shop.cli("routes", "weight", "shop", "--version", "2", "--weight", "5")
    assert found.returncode == 1
    assert "verdict_required" in found.stdout + found.stderr
    events = shop.owner.call("GET", "/admin/v1/audit?action=route.weight&limit=50").body["data"]
    # Other journeys on the same platform try routes of their own.
    tried = [each["reason"] for each in events if each["outcome"] == "refused" and each["target"]["id"] == "shop"]
    assert tried.count("verdict_required") == 2
    arms = {caller.call("POST", "/v1/chat/completions", BODY).headers["x-interlock-arm"] for _ in range(10)}
    assert arms == {"stable"}
    back = told(shop, "routes", "rollback", "shop")
    assert (back["version"], back["effective_weight"]) == (1, 100.0)


def test_a_rollout_without_live_evidence_does_not_start(shop):
    made = told(
        shop, "rollouts", "create", "--route", "shop", "--version", "2", "--stages", "5,50,100", "--dwell", "10"
    )
    assert made["state"] == "draft"
    found = shop.cli("rollouts", "start", made["id"])
    assert found.returncode == 1
    assert "gate_blocked" in found.stdout + found.stderr
    blocked = shop.owner.call("POST", f"/v1/rollouts/{made['id']}/start", {})
    assert (blocked.status, blocked.body["error"]["code"]) == (409, "gate_blocked")
    assert blocked.body["error"]["detail"]["reasons"]
    listed = told(shop, "rollouts", "list", "--state", "draft")["data"]
    assert made["id"] in [each["id"] for each in listed]
    assert told(shop, "rollouts", "kill", made["id"])["state"] == "killed"
