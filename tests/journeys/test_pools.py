"""A pool of an engine outside, declared at run time: promises, honest refusals, figures, and its log decided again."""

import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from click.testing import CliRunner

from interlock.cli.scheduler import command
from tests.journeys.engines import scripted_engine
from tests.journeys.processes import until

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
CHAT = {"model": "pooled", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


class Scheduler:
    """The calls of an edge, on the scheduler's own socket."""

    def __init__(self, platform, path=None, timeout_s=None):
        run = platform.directory / "run"
        self.socket, self.token = path or run / "scheduler.sock", (run / "internal.token").read_text().strip()
        self.timeout_s = timeout_s

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("scheduler")
        connection.sock = socket.socket(socket.AF_UNIX)
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        with closing(connection):
            connection.sock.settimeout(self.timeout_s)
            connection.sock.connect(str(self.socket))
            connection.request(method, f"/internal/{path}", json.dumps(body) if body else None, headers)
            with connection.getresponse() as answer:
                return answer.status, json.loads(answer.read())

    def acquire(self, name, **changes):
        ids = {"organization_id": f"{1:032x}", "workspace_id": f"{2:032x}"}
        return self.call("POST", "grants", {"request_id": name, "pool": "fast", **ids, **changes})

    def settle(self, grant_id):
        figures = {"input_tokens": 400, "output_tokens": 4, "ttft_ms": 300, "total_ms": 400}
        return self.call("POST", f"grants/{grant_id}/settle", {"outcome": "ok", **figures})


def cli(platform, *arguments):
    done = platform.cli(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def fast(scripted):
    with scripted_engine() as engine:
        cli(scripted, "scheduler", "pools", "add", "fast", "--engine", engine.url, "--adapter", "openai",
            "--model", "fake", "--prefill-tps", "1000", "--slots", "4")  # fmt: skip
        scheduler = Scheduler(scripted)
        until(lambda: scheduler.call("GET", "pools/fast")[1].get("slots") == 4)
        yield scheduler
        cli(scripted, "scheduler", "pools", "remove", "fast")


def try_a_policy(platform, owner):
    """Another policy hears what is decided, then decides for everybody, and the pool goes back to what it was."""

    def pools(*arguments):
        return json.loads(cli(platform, "scheduler", "pools", *arguments, "--json"))

    def told(path):
        # Looked at many times, and a command for each look would take its time.
        return platform.owner.call("GET", f"/admin/v1/pools/fast/{path}").body

    def seen():
        return told("candidate")["live"] or {}

    def ask():
        return owner.call("POST", "/v1/chat/completions", {**CHAT, "stream": True}).status == 200

    assert pools("set", "fast", "policy=fcfs", "--shadow")["stage"] == "shadow"
    until(lambda: seen().get("is_running"))
    assert pools("candidate", "fast")["live"]["is_running"]
    until(lambda: ask() and seen()["shadow"]["requests"] > 0)
    assert sum(seen()["shadow"]["differences"].values()) == 0
    assert pools("canary", "fast", "--share-bp", "10000")["stage"] == "canary"
    until(lambda: "canary" in seen())
    until(lambda: ask() and seen()["canary"]["candidate"]["judged"] > 0)
    assert seen()["canary"]["live"]["arrived"] == 0
    refused = platform.cli("scheduler", "pools", "promote", "fast", "--number", "1")
    assert (refused.returncode, "version_conflict" in refused.stderr) == (1, True)
    assert pools("promote", "fast", "--number", "2")["policy"] == "fcfs"
    until(lambda: told("status")["policy"] == "fcfs")
    assert pools("back", "fast", "2")["policy"] == "interlock"
    rows = pools("versions", "fast")["data"]
    assert [each["reason"] for each in rows] == ["back to version 2", "candidate 2 promoted", None, None]
    until(lambda: ask() and told("status")["policy"] == "interlock")
    assert pools("show", "fast")["policy"] == "interlock"


def test_a_pool_grants_what_it_can_keep_and_says_no_with_figures(scripted, fast):
    asked = {"class": "interactive", "input_tokens": 400, "max_tokens": 16}
    gate = threading.Barrier(10)

    def acquire(number):
        gate.wait(180)
        return fast.acquire(f"req_{number}", **asked)

    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(acquire, range(10)))
    granted = [answer for status, answer in answers if status == 200]
    refused = [answer["error"] for status, answer in answers if status == 429]
    # On a busy machine the ten do not come in one moment; the first two always fit, and never all of them.
    assert len(granted) >= 2
    assert len(granted) + len(refused) == 10
    assert refused
    for error in refused:
        assert error["code"] == "deadline_infeasible"
        assert error["retry_after_s"] >= 0.1
        assert error["detail"]["predicted_ttft_ms"] > error["detail"]["ttft_slo_ms"] == 1_000
    for grant in granted:
        assert fast.settle(grant["grant_id"])[0] == 200
    until(lambda: fast.call("GET", "pools/fast")[1]["granted"] == 0)
    cli(scripted, "routes", "add-provider", "pooled", "--kind", "pool", "--base-url", "pool:fast")
    cli(scripted, "routes", "add-deployment", "pooled", "--provider", "pooled", "--upstream-model", "fake")
    cli(scripted, "routes", "create", "pooled", "--target", "pooled")
    owner = scripted.owner
    until(lambda: owner.call("POST", "/v1/chat/completions", {**CHAT, "stream": True}).status == 200)
    figures = json.loads(cli(scripted, "scheduler", "metrics", "--pool", "fast", "--json"))
    names = {
        "time_to_first_token_s", "tokens_per_second", "queue_wait_time_s", "end_to_end_latency_s", "gpu_utilization",
        "error_rate", "overload_rejections", "cost_per_successful_request_usd",
    }  # fmt: skip
    assert names <= set(figures)
    assert figures["overload_rejections"]["deadline_infeasible"] == len(refused)
    status = json.loads(cli(scripted, "scheduler", "pools", "set", "fast", "interactive.ttft_ms=2000", "--json"))
    assert (status["objectives"]["interactive"]["ttft_ms"], status["version"]) == (2_000, 2)
    try_a_policy(scripted, owner)
    log = scripted.directory / "decisions" / "fast.jsonl"
    copy = scripted.directory / "copy.jsonl"
    copy.write_bytes(log.read_bytes())
    done = CliRunner().invoke(command, ["replay", "--decisions", str(copy)])
    assert (done.exit_code, "decided alike" in done.output) == (0, True)
    copy.write_bytes(log.read_bytes().replace(b'"promise":"final"', b'"promise":"provisional"', 1))
    done = CliRunner().invoke(command, ["replay", "--decisions", str(copy)])
    assert (done.exit_code, done.output.startswith("line ")) == (1, True)
    copy.unlink()


def test_an_engine_has_an_address_where_it_is_shown_changed_and_drained(scripted, fast):
    owner, engines = scripted.owner, "/admin/v1/pools/fast/engines"
    [engine] = owner.call("GET", engines).body["data"]
    one = f"{engines}/{engine['engine_id']}"
    assert owner.call("GET", one).body == engine
    changed = owner.call("PUT", one, {"price_usd_hour": 3.5, "slots": 6})
    assert (changed.status, changed.body) == (200, engine | {"price_usd_hour": 3.5, "slots": 6})
    assert owner.call("PUT", one, {"tpot_ms": None}).body["slots"] == 6
    assert owner.call("PUT", one, {"slots": 0}).status == 400
    assert owner.call("PUT", one, {"url": "http://127.0.0.1:1"}).status == 400
    until(lambda: fast.call("GET", "pools/fast")[1]["slots"] == 6)
    assert owner.call("POST", f"{one}/drain").status == 200
    until(lambda: fast.call("GET", "pools/fast")[1]["engines"][0]["state"] == "draining")
    assert owner.call("DELETE", f"{one}/drain").status == 204
    until(lambda: fast.call("GET", "pools/fast")[1]["engines"][0]["state"] == "ready")
    assert [owner.call(method, f"{engines}/none").status for method in ("GET", "PUT", "DELETE")] == [404] * 3
    assert owner.call("GET", "/admin/v1/pools/never/costs").status == 404
