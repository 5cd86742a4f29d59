"""Verdicts and tokens used for what they were not given: another workspace's, an older suite's, another gate's."""

from dataclasses import replace

from interlock.contracts.gates import Admitted, TokenRefused, TokenUse
from interlock.evals.domain.rollout_gate import Blocked, LiveVerdict
from interlock.evals.domain.verdict import TokenVerifier
from interlock.foundation.scope import Role
from tests.evals.eval_world import CHECK, answers, case, recorded
from tests.support.store import IDS, scope_of

EASY = {"name": "easy", "suite": "easy", "rule": "zero_tolerance", "accept_recorded": True}
HOUR_US = 3_600_000_000
SCOPES = ("evals:read", "evals:run", "evals:write", "gates:write")


async def neighbour(lab):
    """Another workspace of the same organization; return its id and the key of an admin in it."""
    async with lab.store.transaction(lab.scope) as tx:
        workspace = await lab.world.identity.create_workspace(tx, f"other-{IDS.new().hex[-8:]}")
    scope = scope_of(lab.world.owner.organization_id, workspace["id"])
    return scope, await lab.world.sign_up("neighbour", Role.ADMIN, SCOPES, scope)


async def easy_gate(lab, key=None, mode="advisory"):
    """A gate of the same route that asks for less."""
    cases = [case(number) for number in range(60)]
    suite = {"name": "easy", "kind": "zero_tolerance", "cases": cases}
    await lab.ok("POST", "/v1/evals/suites", suite, key=key)
    body = {"name": f"easy of {key}"[:40], "route": "shop", "risk_tier": "low", "checks": [EASY], "mode": mode}
    gate = await lab.ok("POST", "/v1/gates", body, 201, key=key)
    path = f"/v1/gates/{gate['id']}/controls"
    await lab.ok("POST", path, {"baseline": recorded("base", answers())}, 202, key=key)
    return gate["id"], body


async def decided(lab, gate_id, digest, key=None):
    asked = await lab.ok("POST", f"/v1/gates/{gate_id}/evaluate", {"candidate": recorded(digest, answers())}, key=key)
    await lab.drain()
    return await lab.ok("GET", f"/v1/gates/verdicts/{asked['id']}", key=key)


async def test_an_easy_gate_of_another_workspace_gives_no_token_on_a_guarded_route(lab):
    await lab.push()
    await lab.armed_gate([CHECK], answers())
    scope, key = await neighbour(lab)
    gate_id, body = await easy_gate(lab, key)
    found = await decided(lab, gate_id, "art", key)
    assert (found["verdict"], found["token"]) == ("PASS", None)
    refused = await lab.refused("PUT", f"/v1/gates/{gate_id}", {**body, "mode": "required"}, key=key)
    assert refused[:2] == (409, "required_gate_exists")
    assert (await lab.required.live(scope, "shop", "art")).reasons[0]["code"] == "no_gate"


async def test_a_pass_does_not_outlive_the_case_that_its_suite_got_since(lab):
    """An incident's case would change nothing for a day, were what passed before it still let through."""
    await lab.push(count=200)
    gate = await lab.armed_gate([CHECK], answers(200))
    await lab.verdict(gate["id"], recorded("art", answers(200)), baseline=recorded("base", answers(200)))
    assert isinstance(await lab.required.live(lab.scope, "shop", "art"), LiveVerdict)
    await lab.push(count=201)
    base = recorded("base", answers(201))
    await lab.ok("POST", f"/v1/gates/{gate['id']}/controls", {"baseline": base}, 202)
    stale = await lab.required.live(lab.scope, "shop", "art")
    assert isinstance(stale, Blocked)
    assert stale.reasons[0]["code"] == "stale"
    await lab.verdict(gate["id"], recorded("art", answers(201)), baseline=base)
    assert isinstance(await lab.required.live(lab.scope, "shop", "art"), LiveVerdict)


async def test_a_gate_that_is_required_since_its_verdict_gives_a_token_of_its_own(lab):
    """Decided while another gate was the required one, so without a token; then that one stepped back."""
    await lab.push()
    first = await lab.armed_gate([CHECK], answers())
    gate_id, body = await easy_gate(lab)
    assert (await decided(lab, gate_id, "art"))["token"] is None
    policy = {name: first[name] for name in ("name", "route", "risk_tier", "checks")}
    await lab.ok("PUT", f"/v1/gates/{first['id']}", {**policy, "mode": "advisory"})
    await lab.ok("PUT", f"/v1/gates/{gate_id}", {**body, "mode": "required"})
    live = await lab.required.live(lab.scope, "shop", "art")
    token = await lab.required.token(lab.scope, "shop", live, 5.0)
    use = TokenUse(lab.scope.organization_id, "shop", "art", 5.0, lab.clock.now_us())
    assert isinstance(TokenVerifier().verify(token, use, await lab.keys.load()), Admitted)


async def test_a_real_token_is_good_for_one_use_only(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    good = await lab.verdict(gate["id"], recorded("art", answers()), baseline=recorded("base", answers()))
    keys, now_us = await lab.keys.load(), lab.clock.now_us()
    meant = TokenUse(lab.scope.organization_id, "shop", "art", 5.0, now_us)
    assert isinstance(TokenVerifier().verify(good["token"], meant, keys), Admitted)
    for change, code in (
        ({"subject": "sha256:other"}, "verdict_digest_mismatch"),
        ({"organization_id": IDS.new()}, "verdict_invalid"),
        ({"route": "weak"}, "verdict_invalid"),
        ({"weight": 5.01}, "verdict_weight_exceeded"),
        ({"now_us": now_us + 25 * HOUR_US}, "verdict_expired"),
        # Whose clock runs an hour behind does not know for how long the token holds.
        ({"now_us": now_us - HOUR_US}, "verdict_invalid"),
    ):
        assert TokenVerifier().verify(good["token"], replace(meant, **change), keys) == TokenRefused(code)
