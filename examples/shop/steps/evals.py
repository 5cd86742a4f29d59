"""From an incident to a launch that is refused, and one that is let through: recorded outputs, no chance in it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from examples.shop.client import Answer, Platform
from examples.shop.evals.suites import Suite, suites
from examples.shop.steps.kit import Shop, Shown, engineer_of, require

SEED: Final = 7
CASE_KEY: Final = "incident-refund-promise"
QUESTION: Final = "My return arrived yesterday. On which day will the money be on my card?"
GOOD: Final = "Cards take three to five working days after we start it; yours was started today."
BAD: Final = "You will have your money on Friday, I promise."


def turn_an_incident_into_a_gate(shop: Shop) -> Shown:
    """An incident becomes a case, the gate refuses the bad version by it, the fixed one starts its canary."""
    engineer = engineer_of(shop)
    with _Upstream() as upstream:
        route = f"assistant-{shop.run}"
        digests = _versions(shop, route, upstream.base_url)
        kept = [each for each in suites(SEED) if each.name in {"shop-policy", "shop-must-pass"}]
        for suite in kept:
            pushed = engineer.call("POST", "/v1/evals/suites", suite.body())
            require(pushed.status in {200, 201}, f"the suite {suite.name} is published", pushed)
        gate_id = _armed_gate(engineer, route, kept)
        incident = _case_of_an_incident(engineer, route, shop.run)
        _arm(engineer, gate_id, kept)
        refused = _evaluated(engineer, gate_id, _target(digests["bad"], kept, BAD), kept)
        require(refused["verdict"] == "FAIL", f"the bad version fails ({refused['verdict']}, {refused['reasons'][:2]})")
        named = json.dumps(refused["reasons"])
        require(CASE_KEY in named, f"the incident's case is why ({named[:300]})")
        _require_blocked(engineer, route, 2)
        passed = _evaluated(engineer, gate_id, _target(digests["fixed"], kept, GOOD), kept)
        require(passed["verdict"] == "PASS", f"the fixed one passes ({passed['verdict']}, {passed['reasons'][:2]})")
        weight = _started(engineer, route, 3)
        closed = engineer.call("POST", f"/v1/incidents/{incident}/close", {"note": "a required gate asks for it now"})
        require(closed.status == 200 and closed.body["state"] == "closed", "the incident closes", closed)
        rolled = engineer.call("DELETE", f"/admin/v1/routes/{route}/weights")
        require(rolled.status == 200, "the canary is taken back for the tour", rolled)
    return Shown(f"bad version FAIL and blocked, fixed version PASS, canary at {weight:g} %", passed["id"])


def _versions(shop: Shop, route: str, base_url: str) -> dict[str, str]:
    provider = f"scripted-{route}"
    body = {"name": provider, "kind": "openai", "base_url": base_url, "platform": True}
    # A model server beside the platform is its operator's to name; the route over it is the company's own.
    _made(shop.owner.call("POST", "/admin/v1/providers", body), "the scripted provider is registered")
    digests = {}
    for name in ("stable", "bad", "fixed"):
        deployment = f"{route}-{name}"
        body = {"name": deployment, "provider": provider, "upstream_model": name}
        _made(shop.owner.call("POST", "/admin/v1/deployments", body), "a deployment is registered")
        version = {"alias": route, "targets": [{"deployment": deployment, "weight": 1}], "gate": "required"}
        made = _made(engineer_of(shop).call("POST", "/admin/v1/routes", version), "a version of the route is made")
        digests[name] = made["digest"]
    return digests


def _armed_gate(engineer: Platform, route: str, kept: list[Suite]) -> str:
    made = _made(engineer.call("POST", "/v1/gates", _policy(route, "advisory")), "a gate is made")
    early = engineer.call("PUT", f"/v1/gates/{made['id']}", _policy(route, "required"))
    require(
        early.status == 409 and early.error["code"] == "gate_not_armed", "it is not required before controls", early
    )
    _arm(engineer, made["id"], kept)
    required = engineer.call("PUT", f"/v1/gates/{made['id']}", _policy(route, "required"))
    require(required.status == 200 and required.body["armed"], "after its controls it is required", required)
    return str(made["id"])


def _arm(engineer: Platform, gate_id: str, kept: list[Suite]) -> None:
    controls = engineer.call("POST", f"/v1/gates/{gate_id}/controls", {"baseline": _target("reference", kept, GOOD)})
    require(controls.status == 202 and controls.body["armed"], "its controls pass", controls)


def _policy(route: str, mode: str) -> dict[str, Any]:
    checks = [
        {"name": "policy", "suite": "shop-policy", "rule": "non_inferior", "accept_recorded": True},
        {"name": "must-pass", "suite": "shop-must-pass", "rule": "must_pass", "accept_recorded": True},
    ]
    return {"name": f"launch of {route}", "route": route, "mode": mode, "risk_tier": "low", "checks": checks}


def _case_of_an_incident(engineer: Platform, route: str, run: str) -> str:
    report = {
        "title": f"The assistant promised a day for a card refund (tour {run})", "severity": "sev2",
        "source": "support", "route": route, "text": BAD,
        "input": {"messages": [{"role": "user", "content": QUESTION}]},
    }  # fmt: skip
    opened = _made(engineer.call("POST", "/v1/incidents", report), "the incident is opened")
    again = engineer.call("POST", "/v1/incidents", report)
    require(again.status == 200 and again.body["deduplicated"], "the same report is the same incident", again)
    early = engineer.call("POST", f"/v1/incidents/{opened['id']}/close", {"note": "done"})
    require(early.status == 409 and early.error["code"] == "incident_unguarded", "it does not close unguarded", early)
    case = {
        "suite": "shop-must-pass", "key": CASE_KEY,
        "oracle": [
            {"type": "contains_all", "value": ["three to five working days"]},
            {"type": "contains_none", "value": ["promise"]},
        ],
        "bad": {"kind": "recorded", "artifact_digest": "bad", "outputs": {CASE_KEY: [BAD]}},
        "reference": {"kind": "recorded", "artifact_digest": "reference", "outputs": {CASE_KEY: [GOOD]}},
    }  # fmt: skip
    admitted = engineer.call("POST", f"/v1/incidents/{opened['id']}/case", case)
    require(admitted.status == 201, "its case is admitted", admitted)
    return str(opened["id"])


def _target(digest: str, kept: list[Suite], answer: str) -> dict[str, Any]:
    outputs = {key: [text] * 5 for suite in kept for key, text in suite.reference.items()}
    return {"kind": "recorded", "artifact_digest": digest, "outputs": outputs | {CASE_KEY: [answer] * 5}}


def _evaluated(engineer: Platform, gate_id: str, candidate: dict[str, Any], kept: list[Suite]) -> dict[str, Any]:
    body = {"candidate": candidate, "baseline": _target("reference", kept, GOOD), "wait_s": 30}
    answer = engineer.call("POST", f"/v1/gates/{gate_id}/evaluate", body)
    require(answer.status == 200, "the gate decides", answer)
    return dict(answer.body)


def _require_blocked(engineer: Platform, route: str, version: int) -> None:
    made = _rollout(engineer, route, version)
    started = engineer.call("POST", f"/v1/rollouts/{made['id']}/start", {"reason": "tour"})
    require(started.status == 409 and started.error["code"] == "gate_blocked", "its rollout is blocked", started)
    weight = {"version": version, "weight": 5, "mode": "canary", "lease_s": 60}
    forced = engineer.call("PUT", f"/admin/v1/routes/{route}/weights", weight)
    require(
        forced.status == 403 and forced.error["code"] == "verdict_required", "and no weight is given by hand", forced
    )
    killed = engineer.call("POST", f"/v1/rollouts/{made['id']}/kill", {"reason": "blocked by its gate"})
    require(killed.status == 200, "the blocked rollout is ended", killed)


def _started(engineer: Platform, route: str, version: int) -> float:
    made = _rollout(engineer, route, version)
    started = engineer.call("POST", f"/v1/rollouts/{made['id']}/start", {"reason": "tour"})
    require(started.status == 200 and started.body["state"] == "canary", "the canary starts", started)
    weight = float(started.body["weight"])
    killed = engineer.call("POST", f"/v1/rollouts/{made['id']}/kill", {"reason": "the tour is over"})
    require(killed.status == 200, "the tour's canary ends", killed)
    return weight


def _rollout(engineer: Platform, route: str, version: int) -> dict[str, Any]:
    body = {"route": route, "version": version, "stages": [5, 50, 100], "dwell_s": 10}
    return _made(engineer.call("POST", "/v1/rollouts", body), "a rollout is drafted")


def _made(answer: Answer, why: str) -> dict[str, Any]:
    require(answer.status == 201, why, answer)
    return dict(answer.body)


class _Upstream:
    """A model server that answers by script, on a loopback port."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Scripted)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Scripted(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Answer a chat completion."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = BAD if asked["model"] == "bad" else GOOD
        body = json.dumps({
            "id": "scripted", "object": "chat.completion", "created": 0, "model": asked["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
        }).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own name
        """Stay quiet."""
