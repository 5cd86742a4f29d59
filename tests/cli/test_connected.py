"""What the commands ask of a platform, and how they print its answers."""

import json
from importlib.metadata import version as version_of

import pytest
from click.testing import CliRunner

from interlock.cli import main
from interlock.foundation.supervisor import DataDirectory

STORY = {
    "id": "req_01", "complete": True, "outcome": "limited_requests", "status": 429, "rule": "limit_01",
    "alias": "default", "route_version": 1, "deployment": None,
    "usage": {"input_tokens": 3, "output_tokens": None}, "cost": {"usd": "0.00"}, "timing": {"total_ms": 1.25},
    "decisions": [
        {"seq": 0, "at_us": 1_000_000, "step": "identity", "rule": "key", "verdict": "ok", "detail": ""},
        {"seq": 1, "at_us": 1_001_500, "step": "limits", "rule": "limit_01", "verdict": "refused", "detail": "5\x1b[2"},
    ],
}  # fmt: skip


def test_an_organization_comes_with_a_workspace(platform):
    platform.on("POST", "/admin/v1/organizations", {"id": "org_1", "name": "acme", "tier": "free"}, status=201)
    platform.on("POST", "/admin/v1/workspaces", {"id": "ws_1", "name": "shop"}, status=201)
    found = platform.run("orgs", "create", "acme", "--workspace", "shop", "--json")
    assert json.loads(found.stdout) == {"id": "org_1", "name": "acme", "workspace_id": "ws_1"}
    assert platform.asked[1] == ("POST", "/admin/v1/workspaces", {}, {"organization_id": "org_1", "name": "shop"})
    assert set(platform.keys) == {"Bearer il_live_key"}


def test_a_key_is_printed_once_with_its_last_four(platform):
    platform.on(
        "POST", "/admin/v1/keys", {"id": "key_1", "key": "il_live_x", "last4": "wxyz", "scopes": []}, status=201
    )
    found = platform.run("keys", "create", "--workspace", "shop", "--scopes", "inference,console", "--json")
    assert json.loads(found.stdout) == {"id": "key_1", "key": "il_live_x", "last4": "wxyz"}
    assert platform.asked[0][3] == {"workspace_id": "shop", "name": "cli", "scopes": ["inference", "console"]}


def test_a_key_of_another_organization_names_it(platform):
    platform.on("POST", "/admin/v1/keys", {"id": "key_1", "key": "il_live_x", "last4": "wxyz"}, status=201)
    platform.on("DELETE", "/admin/v1/keys/key_1", {"id": "key_1", "revoked_at": "2026-01-01T00:00:00.000Z"})
    platform.run("keys", "create", "--org", "acme", "--workspace", "shop", "--expires", "30d")
    body = platform.asked[0][3]
    assert (body["organization_id"], body["workspace_id"]) == ("acme", "shop")
    assert body["expires_at"].endswith("Z")
    assert platform.run("keys", "revoke", "key_1", "--org", "acme").stdout.startswith("id: key_1\n")
    assert platform.asked[1][2] == {"organization_id": "acme"}


def test_a_list_is_read_to_its_end(platform):
    platform.on(
        "GET",
        "/admin/v1/organizations",
        {"data": [{"id": "org_1", "name": "a"}], "next_cursor": "c1"},
        {"data": [{"id": "org_2", "name": "b"}], "next_cursor": None},
    )
    found = json.loads(platform.run("orgs", "list", "--json").stdout)
    assert [row["id"] for row in found["data"]] == ["org_1", "org_2"]
    assert found["next_cursor"] is None
    assert platform.asked[1][2]["cursor"] == "c1"


def test_a_table_for_people_shows_nothing_that_moves_their_terminal(platform):
    row = {"id": "org_1", "name": "evil\x1b]0;name\x07", "tier": None, "created_at": "2026-01-01T00:00:00.000Z"}
    platform.on("GET", "/admin/v1/organizations", {"data": [row], "next_cursor": None})
    assert platform.run("orgs", "list").stdout.splitlines() == [
        "ID     NAME           TIER  CREATED_AT",
        "org_1  evil?]0;name?  -     2026-01-01T00:00:00.000Z",
    ]


def test_a_refusal_is_one_line_with_code_wait_and_request(platform):
    error = {"code": "admin_rate_limit", "message": "Too many.", "retry_after_s": 1, "detail": {"limit": 200}}
    platform.on("POST", "/admin/v1/groups", {"error": error}, status=429)
    found = platform.run("groups", "create", "night-shift")
    assert found.exit_code == 1
    assert found.stderr == "Error: admin_rate_limit: Too many.; limit=200; retry in 1 s; request req_1\n"


def test_a_trace_tells_the_story_in_lines(platform):
    platform.on("GET", "/v1/requests/req_01", STORY, STORY)
    lines = platform.run("trace", "req_01").stdout.splitlines()
    assert lines[:5] == [
        "request: req_01",
        "outcome: limited_requests",
        "status: 429",
        "rule: limit_01",
        "route: default@1/-",
    ]
    assert [line.split(":")[0] for line in lines[5:8]] == ["usage", "cost", "timing"]
    assert lines[8].startswith("+0.0")
    assert lines[9] == "+1.500 limits limit_01 refused 5?[2"
    assert json.loads(platform.run("trace", "req_01", "--json").stdout) == STORY


def test_an_unknown_request_exits_1_and_says_how_long_stories_are_kept(platform):
    found = platform.run("trace", "req_unknown")
    assert found.exit_code == 1
    assert "14 days" in found.stderr


def test_a_switch_goes_on_and_off_with_a_reason(platform):
    made = {"id": "kill_1", "scope": "route", "target": "default", "mode": "reject", "propagation_ms": 12}
    platform.on("POST", "/admin/v1/kill-switches", made, status=201)
    platform.on("DELETE", "/admin/v1/kill-switches/kill_1", made)
    on = platform.run("kill", "on", "route", "default", "--mode", "reject", "--reason", "smoke", "--json")
    assert json.loads(on.stdout) == made
    assert platform.run("kill", "off", "kill_1", "--reason", "air").exit_code == 0
    assert platform.asked[0][3] == {"scope": "route", "target": "default", "mode": "reject", "reason": "smoke"}
    assert platform.asked[1][3] == {"reason": "air"}


def test_a_secret_comes_from_standard_input_and_is_not_printed(platform):
    platform.on("PUT", "/admin/v1/secrets/upstream", {"id": "sec_1", "name": "upstream", "last4": "cret"})
    found = platform.run("secrets", "set", "upstream", input="sk-top-secret\n")
    assert platform.asked[0][3] == {"value": "sk-top-secret"}
    assert "sk-top" not in found.output


def test_a_rotation_is_waited_for(platform):
    platform.on("POST", "/admin/v1/secrets/rotate", {"state": "wanted", "kek_id": None, "rewrapped": 0}, status=202)
    running = {"state": "running", "kek_id": "kek_2", "rewrapped": 500}
    platform.on("GET", "/admin/v1/secrets/rotate", running, {**running, "state": "done", "rewrapped": 700})
    found = platform.run("secrets", "rotate", "--json")
    assert json.loads(found.stdout) == {"state": "done", "kek_id": "kek_2", "rewrapped": 700}


@pytest.mark.parametrize("text", ["30", "x", "0d", "-1h", "1.5h"])
def test_a_span_of_time_is_a_number_and_a_unit(platform, text):
    assert platform.run("keys", "create", "--workspace", "w", "--expires", text).exit_code == 2
    assert platform.asked == []


def test_connection_options_have_an_order(platform, tmp_path):
    page = {"data": [], "next_cursor": None}
    platform.on("GET", "/admin/v1/organizations", page, page)
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    directory.url_file.write_text(f"{platform.url}\n")
    directory.owner_key.write_text("il_live_owner\n")
    elsewhere = {"INTERLOCK_URL": "http://127.0.0.1:1", "INTERLOCK_API_KEY": "il_live_other"}
    by_data = CliRunner().invoke(main, ["orgs", "list", "--data", str(directory.root)], env=elsewhere)
    assert by_data.exit_code == 0, by_data.output
    by_environment = {"INTERLOCK_URL": platform.url, "INTERLOCK_API_KEY": "il_live_env"}
    assert CliRunner().invoke(main, ["orgs", "list"], env=by_environment).exit_code == 0
    assert platform.keys == ["Bearer il_live_owner", "Bearer il_live_env"]


def test_a_pool_changes_by_a_try_and_goes_back_by_a_number(platform):
    tried = {"pool": "fast", "number": 1, "stage": "shadow", "share_bp": 0, "by": "usr_1", "began_at": "now",
             "ended_at": None, "artifact_digest": "sha256:1", "verdict": None,
             "changed": {"policy": ["interlock", "vtc"]}}  # fmt: skip
    seen = {"requests": 9, "differences": {"refused": 2}, "newest": [
        {"request_id": "req_1", "kind": "refused", "live": "final", "candidate": "displaced"}]}  # fmt: skip
    pool = {"name": "fast", "policy": "vtc", "share_level": 0.8, "draining": False, "version": 3, "engines": []}
    path = "/admin/v1/pools/fast"
    platform.on("PUT", f"{path}/candidate", tried)
    platform.on("GET", f"{path}/candidate", {**tried, "live": {"shadow": seen}})
    arm = {"judged": 5, "accepted_attainment": None}
    platform.on("POST", f"{path}/candidate/canary", {**tried, "live": {"canary": {"live": arm, "candidate": arm}}})
    platform.on("POST", f"{path}/candidate/promote", pool)
    platform.on("DELETE", f"{path}/candidate", {**tried, "verdict": {"reason": "by hand"}})
    platform.on("POST", f"{path}/back", pool)
    version = {"version": 2, "at": "now", "by": "usr_1", "changed": {"policy": ["interlock", "vtc"]}, "reason": None}
    platform.on("GET", f"{path}/versions", {"data": [version], "has_more": False, "next_cursor": None})

    def run(*arguments):
        done = platform.run("scheduler", "pools", *arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "changed: policy interlock -> vtc" in run("set", "fast", "policy=vtc", "--shadow")
    assert "req_1 refused: final, candidate displaced" in run("candidate", "fast")
    assert "candidate: judged 5, accepted_attainment -" in run("canary", "fast", "--share-bp", "500")
    assert "version: 3" in run("promote", "fast")
    assert "verdict: by hand" in run("drop", "fast")
    assert "version: 3" in run("back", "fast", "2")
    assert "policy interlock -> vtc" in run("versions", "fast")
    bodies = [each[3] for each in platform.asked if each[3]]
    assert bodies == [{"settings": {"policy": "vtc"}}, {"share_bp": 500}, {"version": 2}]


def deployed(**price):
    made = {"id": "dep_1", "name": "small", "provider": "vendor", "upstream_model": "m", "platform": False}
    return {**made, "price": price or None}


def test_a_deployment_has_a_price_by_hand_or_by_a_list(platform):
    given = {"input_per_million_usd": "2.5", "output_per_million_usd": "10", "cached_input_per_million_usd": None}
    platform.on("POST", "/admin/v1/deployments", deployed(**given, version="list-1"), status=201)
    named = ("routes", "add-deployment", "small", "--provider", "vendor", "--upstream-model", "m")
    shown = platform.run(*named, "--input-price", "2.5", "--output-price", "10")
    assert "input_per_million_usd: 2.5" in shown.stdout
    assert "price_version: list-1" in shown.stdout
    platform.run(*named, "--price-of", "openai/gpt-4o")
    platform.run(*named)
    bodies = [each[3] for each in platform.asked]
    assert [(each.get("price"), each.get("price_of")) for each in bodies] == [
        (given, None), (None, "openai/gpt-4o"), (None, None),
    ]  # fmt: skip
    for wrong in (("--input-price", "1"), ("--price-of", "a/b", "--input-price", "1", "--output-price", "1")):
        assert platform.run(*named, *wrong).exit_code == 2


def test_the_list_that_comes_with_the_platform_is_imported_as_a_version(platform):
    path, answer = "/admin/v1/prices", {"version": "v", "prices": 1, "effective_from": "now", "platform": False}
    platform.on("POST", path, answer, status=201)
    platform.run("routes", "import-prices", "--provider", "openai", "--provider", "anthropic")
    body = platform.asked[0][3]
    assert body["version"] == f"genai-prices-{version_of('genai-prices')}"
    found = {(each["provider"], each["model"]): each for each in body["prices"]}
    assert {provider for provider, _ in found} == {"openai", "anthropic"}
    assert len(found) == len(body["prices"]) > 50
    dear = found["openai", "gpt-4o"]
    assert 0 < float(dear["cached_input_per_million_usd"]) < float(dear["input_per_million_usd"])
    assert float(dear["input_per_million_usd"]) < float(dear["output_per_million_usd"])
    assert "text-embedding-3-small" in {model for _, model in found}
    wrong = platform.run("routes", "import-prices", "--provider", "nobody")
    assert wrong.exit_code == 2
    assert "it has anthropic" in wrong.output


def test_a_list_of_ones_own_is_a_file_with_a_version(platform, tmp_path):
    file = tmp_path / "prices.json"
    rows = [{"provider": "ours", "model": "m", "input_per_million_usd": "1", "output_per_million_usd": "2"}]
    file.write_text(json.dumps(rows))
    platform.on("POST", "/admin/v1/prices", {"version": "2026-12", "prices": 1}, status=201)
    platform.run(
        "routes", "import-prices", "--file", str(file), "--version", "2026-12", "--effective-from", "2026-12-01"
    )
    assert platform.asked[0][3] == {
        "version": "2026-12", "prices": rows, "effective_from": "2026-12-01", "platform": False,
    }  # fmt: skip
    assert platform.run("routes", "import-prices", "--file", str(file)).exit_code == 2
