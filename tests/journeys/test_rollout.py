"""A launch on a real platform: refused by its gate, let through when mended, tried on callers, stable or taken back.

Recorded evidence, real verdicts, two edge processes and a worker of their own, a scripted upstream; sessions come
through the public port.
"""

import asyncio
import json
import time

import pytest

from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import Client, ClientLimits, Timeouts
from interlock.scheduler import Fault, Script
from tests.journeys.engines import scripted_engine
from tests.journeys.processes import await_each_edge, until

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
CALLERS = 32
PATIENT = Timeouts(connect_s=240.0, first_byte_s=300.0, idle_s=300.0)
SUITE = "launch-must-pass"
CASE = "promises-no-day"
GOOD, BAD = "three to five working days", "on Friday, I promise"
ORACLE = [{"type": "contains_all", "value": ["three to five"]}, {"type": "contains_none", "value": ["promise"]}]


class Launch:
    """A route of the default organization, its gate, and callers of it."""

    def __init__(self, running, upstreams, route):
        self.running = running
        self.owner = running.owner
        self.route = route
        self.upstreams = upstreams
        self.digests = {}
        self.sessions = 0
        self.key = running.key(f"callers-of-{route}")["key"]

    def made(self, path, body, status=(200, 201, 202)):
        answer = self.owner.call("POST", path, body)
        assert answer.status in status, answer
        return answer.body

    def add_version(self, name, upstream):
        provider, deployment = f"{self.route}-{name}", f"{self.route}-{name}"
        url = f"{self.upstreams[upstream].url}/v1"
        self.made("/admin/v1/providers", {"name": provider, "kind": "openai", "base_url": url, "platform": True})
        self.made("/admin/v1/deployments", {"name": deployment, "provider": provider, "upstream_model": "fake"})
        made = self.made("/admin/v1/routes", {"alias": self.route, "targets": [{"deployment": deployment}]})
        self.digests[made["version"]] = made["digest"]
        return made["version"]

    def guard(self):
        """Make a gate that is required, once it has proved that it can fail."""
        case = {"key": CASE, "input": {"messages": [{"role": "user", "content": "When do I get my money?"}]}}
        self.made("/v1/evals/suites", {"name": SUITE, "kind": "must_pass", "cases": [{**case, "oracle": ORACLE}]})
        check = {"name": "must-pass", "suite": SUITE, "rule": "must_pass", "accept_recorded": True}
        policy = {"name": f"launch of {self.route}", "route": self.route, "risk_tier": "low", "checks": [check]}
        self.gate = self.made("/v1/gates", {**policy, "mode": "advisory"})["id"]
        early = self.owner.call("PUT", f"/v1/gates/{self.gate}", {**policy, "mode": "required"})
        assert (early.status, early.body["error"]["code"]) == (409, "gate_not_armed")
        self.made(f"/v1/gates/{self.gate}/controls", {"baseline": self.target("reference", GOOD)})
        required = self.owner.call("PUT", f"/v1/gates/{self.gate}", {**policy, "mode": "required"})
        assert (required.status, required.body["armed"]) == (200, True), required

    def target(self, digest, text):
        return {"kind": "recorded", "artifact_digest": digest, "outputs": {CASE: [text] * 5}}

    def decide(self, version, text):
        body = {"candidate": self.target(self.digests[version], text), "baseline": self.target("reference", GOOD)}
        asked = self.made(f"/v1/gates/{self.gate}/evaluate", {**body, "wait_s": 30})
        path, found = f"/v1/gates/verdicts/{asked['id']}", []

        def is_decided():
            found.append(self.owner.call("GET", path))
            return found[-1].status == 200 and found[-1].body["state"] != "pending"

        until(is_decided, what="a verdict")
        return found[-1].body

    def draft(self, version):
        wanted = {"route": self.route, "version": version, "stages": [5, 50, 100], "dwell_s": 10}
        return self.made("/v1/rollouts", wanted)["id"]

    def rollout(self, rollout_id):
        return self.owner.call("GET", f"/v1/rollouts/{rollout_id}").body

    async def callers(self, is_over, within_s):
        """Let sessions come until a condition holds; return how many came and by which arm they were answered."""
        ends, done, arms = time.monotonic() + within_s, asyncio.Event(), {}
        client = Client(ClientLimits(), SystemClock())

        async def call():
            while not done.is_set():
                self.sessions += 1
                status, arm = await self.ask(client, f"s-{self.sessions}")
                arms[status, arm] = arms.get((status, arm), 0) + 1

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(call())
            while not await asyncio.to_thread(is_over):
                assert time.monotonic() < ends, (arms, await asyncio.to_thread(self.rollout, self.current))
                await asyncio.sleep(0.5)
            done.set()
        await client.close()
        return arms

    async def ask(self, client, session):
        body = json.dumps({"model": self.route, "messages": [{"role": "user", "content": "?"}]}).encode()
        headers = [(b"authorization", f"Bearer {self.key}".encode()), (b"x-interlock-session", session.encode())]
        url = f"{self.running.url}/v1/chat/completions"
        async with client.request("POST", url, headers, body, timeouts=PATIENT) as answer:
            await answer.read(1 << 20)
            return answer.status, (answer.headers.get(b"x-interlock-arm") or b"").decode()


@pytest.fixture(scope="module")
def upstreams():
    with scripted_engine() as steady, scripted_engine() as moody:
        yield {"steady": steady, "moody": moody}


@pytest.fixture(scope="module")
def launch(scripted, upstreams):
    made = Launch(scripted, upstreams, "assistant")
    made.add_version("first", "steady")
    made.guard()
    await_each_edge(scripted, made.key, {"model": made.route, "messages": [{"role": "user", "content": "?"}]})
    return made


def test_a_bad_version_is_refused_and_a_mended_one_goes_through_its_canary_to_stable(launch):
    bad, fixed = launch.add_version("bad", "steady"), launch.add_version("fixed", "steady")
    verdict = launch.decide(bad, BAD)
    assert (verdict["verdict"], verdict["admits"], verdict["token"]) == ("FAIL", False, None)
    blocked = launch.owner.call("POST", f"/v1/rollouts/{launch.draft(bad)}/start", {})
    assert (blocked.status, blocked.body["error"]["code"]) == (409, "gate_blocked")
    forced = launch.owner.call("PUT", f"/admin/v1/routes/{launch.route}/weights", {"version": bad, "weight": 5})
    assert (forced.status, forced.body["error"]["code"]) == (403, "verdict_required")

    verdict = launch.decide(fixed, GOOD)
    assert (verdict["verdict"], verdict["admits"]) == ("PASS", True), verdict
    path = f"/admin/v1/routes/{launch.route}/weights"
    other = launch.owner.call("PUT", path, {"version": bad, "weight": 5, "verdict_token": verdict["token"]})
    assert (other.status, other.body["error"]["code"]) == (403, "verdict_digest_mismatch")
    more = launch.owner.call("PUT", path, {"version": fixed, "weight": 6, "verdict_token": verdict["token"]})
    assert (more.status, more.body["error"]["code"]) == (403, "verdict_weight_exceeded")

    launch.current = launch.draft(fixed)
    started = launch.owner.call("POST", f"/v1/rollouts/{launch.current}/start", {"reason": "mended"})
    assert (started.status, started.body["state"], started.body["weight"]) == (200, "canary", 5), started
    arms = asyncio.run(launch.callers(lambda: launch.rollout(launch.current)["state"] != "canary", within_s=800))
    done = launch.rollout(launch.current)
    assert (done["state"], done["weight"]) == ("promoted", 100), done
    assert {status for status, _ in arms} == {200}
    shown = launch.owner.call("GET", f"/admin/v1/routes/{launch.route}").body
    assert (shown["stable_version"], shown["candidate_version"]) == (fixed, None)
    looks = launch.owner.call("GET", f"/v1/rollouts/{launch.current}/looks?limit=200").body["data"]
    assert sum(each["counts"]["canary"]["units"] for each in looks if each["weight"] == 5) >= 400


def test_one_that_turns_bad_at_five_percent_is_rolled_back_and_becomes_an_incident(launch):
    turning = launch.add_version("turning", "moody")
    assert launch.decide(turning, GOOD)["admits"]
    launch.current = launch.draft(turning)
    assert launch.owner.call("POST", f"/v1/rollouts/{launch.current}/start", {}).body["state"] == "canary"
    asyncio.run(launch.callers(lambda: launch.rollout(launch.current)["look"] >= 2, within_s=800))
    with launch.upstreams["moody"].playing(Script(fault=Fault.SERVER_ERROR)):
        asyncio.run(launch.callers(lambda: launch.rollout(launch.current)["state"] != "canary", within_s=800))
    done = launch.rollout(launch.current)
    assert (done["state"], done["weight"], done["decision"]) == ("rolled_back", 0, "ROLLBACK"), done
    incidents = launch.owner.call("GET", "/v1/incidents").body["data"]
    assert any(launch.route in each["title"] for each in incidents), incidents
