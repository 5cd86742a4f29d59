"""Gates over HTTP: armed by sabotage, verdicts that are signed and spend attempts, and what a rollout is told."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from interlock.contracts.gates import Admitted, TokenUse
from interlock.evals.domain import policy, stats
from interlock.evals.domain.canonical import canonical
from interlock.evals.domain.rollout_gate import Blocked, LiveVerdict
from interlock.evals.domain.verdict import TokenVerifier
from interlock.foundation.scope import Role
from tests.console.worlds import make_world
from tests.evals.eval_world import CHECK, answers, case, recorded

HOUR_S = 3_600


def reasons(verdict):
    return [each["code"] for each in verdict["reasons"]]


async def test_a_gate_cannot_be_required_before_its_controls_passed(lab):
    await lab.push()
    body = {"name": "g", "route": "shop", "risk_tier": "low", "checks": [CHECK]}
    assert (await lab.refused("POST", "/v1/gates", {**body, "mode": "required"}))[:2] == (409, "gate_not_armed")
    gate = await lab.ok("POST", "/v1/gates", body, 201)
    assert (gate["mode"], gate["armed"], len(gate["armed_reasons"])) == ("advisory", False, 2)
    path = f"/v1/gates/{gate['id']}"
    assert (await lab.refused("PUT", path, {**body, "mode": "required"}))[:2] == (409, "gate_not_armed")
    await lab.ok("POST", f"{path}/controls", {"baseline": recorded("base", answers())}, 202)
    shown = await lab.ok("GET", path)
    assert (shown["armed"], shown["armed_reasons"]) == (True, [])
    assert [(each["kind"], each["observed"], each["ok"]) for each in shown["controls"]] == [
        ("negative", "PASS", True), ("positive", "FAIL", True),
    ]  # fmt: skip
    assert (await lab.ok("PUT", path, {**body, "mode": "required"}))["mode"] == "required"


async def test_a_recording_of_a_part_arms_nothing(lab):
    await lab.push()
    outputs = answers()
    del outputs["c5"]
    gate = await lab.ok("POST", "/v1/gates", {"name": "g", "route": "shop", "checks": [CHECK]}, 201)
    await lab.ok("POST", f"/v1/gates/{gate['id']}/controls", {"baseline": recorded("base", outputs)}, 202)
    shown = await lab.ok("GET", f"/v1/gates/{gate['id']}")
    assert not shown["armed"]
    assert {each["observed"] for each in shown["controls"]} == {"NO_BASELINE"}


async def test_swapped_arms_disarm_the_gate(lab, monkeypatch):
    """Were candidate and baseline taken for each other, the sabotaged control would not FAIL."""
    pair = stats.Pair
    monkeypatch.setattr(policy, "Pair", lambda key, cand, base, cluster, slices: pair(key, base, cand, cluster, slices))
    await lab.push()
    gate = await lab.ok("POST", "/v1/gates", {"name": "g", "route": "shop", "checks": [CHECK]}, 201)
    await lab.ok("POST", f"/v1/gates/{gate['id']}/controls", {"baseline": recorded("base", answers())}, 202)
    assert not (await lab.ok("GET", f"/v1/gates/{gate['id']}"))["armed"]


async def test_a_route_has_one_required_gate(lab):
    await lab.push()
    await lab.armed_gate([CHECK], answers())
    body = {"name": "second", "route": "shop", "checks": [CHECK]}
    second = await lab.ok("POST", "/v1/gates", body, 201)
    await lab.ok("POST", f"/v1/gates/{second['id']}/controls", {"baseline": recorded("base", answers())}, 202)
    found = await lab.refused("PUT", f"/v1/gates/{second['id']}", {**body, "mode": "required"})
    assert found[:2] == (409, "required_gate_exists")


async def test_a_bad_artifact_fails_and_a_good_one_passes_with_a_token_for_its_first_stage(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    base = recorded("base", answers())
    bad = await lab.verdict(gate["id"], recorded("sha256:bad", answers(wrong=set(range(12)))), baseline=base)
    assert (bad["verdict"], bad["admits"], bad["token"], reasons(bad)) == ("FAIL", False, None, ["worse"])
    good = await lab.verdict(gate["id"], recorded("sha256:good", answers()), baseline=base)
    assert (good["verdict"], good["admits"], good["attempt"]) == ("PASS", True, 1)
    use = TokenUse(lab.world.owner.organization_id, "shop", "sha256:good", 5.0, lab.clock.now_us())
    keys = await lab.keys.load()
    assert isinstance(TokenVerifier().verify(good["token"], use, keys), Admitted)
    said = {name: each for name, each in good.items() if name not in {"signature", "token", "state"}}
    Ed25519PublicKey.from_public_bytes(keys[good["key_id"]].public_key).verify(
        base64.b64decode(good["signature"]), canonical(said)
    )


async def test_a_verdict_counts_what_is_missing(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    outputs = answers()
    del outputs["c3"]
    found = await lab.verdict(gate["id"], recorded("a", outputs), baseline=recorded("base", answers()))
    assert (found["verdict"], found["token"], reasons(found)) == ("INCONCLUSIVE", None, ["incomplete"])
    whole = await lab.verdict(gate["id"], recorded("a", answers()), baseline=recorded("base", answers()))
    assert (whole["verdict"], whole["attempt"]) == ("PASS", 1)


async def test_a_recording_is_evidence_only_where_a_check_takes_it(lab):
    await lab.push()
    live = {**CHECK, "accept_recorded": False}
    gate = await lab.armed_gate([live], answers())
    found = await lab.verdict(gate["id"], recorded("a", answers()), baseline=recorded("base", answers()))
    assert (found["verdict"], reasons(found)) == ("INCONCLUSIVE", ["recorded_not_accepted"])


async def test_a_gate_that_is_not_armed_admits_nothing(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    lab.clock.ahead_s += 25 * HOUR_S
    assert not (await lab.ok("GET", f"/v1/gates/{gate['id']}"))["armed"]
    found = await lab.verdict(gate["id"], recorded("a", answers()), baseline=recorded("base", answers()))
    assert (found["verdict"], found["token"]) == ("INCONCLUSIVE", None)
    assert reasons(found)[0] == "gate_not_armed"


async def test_a_new_version_of_the_suite_disarms_and_makes_evidence_stale(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    base = recorded("base", answers())
    run = await lab.run(candidate=recorded("a", answers()), baseline=base)
    await lab.push(count=61)
    assert not (await lab.ok("GET", f"/v1/gates/{gate['id']}"))["armed"]
    await lab.ok("POST", f"/v1/gates/{gate['id']}/controls", {"baseline": recorded("base", answers(61))}, 202)
    found = await lab.verdict(gate["id"], recorded("a", answers()), baseline=base, runs=[run["id"]])
    assert (found["verdict"], reasons(found)) == ("INCONCLUSIVE", ["stale"])


async def test_the_same_runs_give_the_same_verdict_and_a_fourth_attempt_is_refused(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    base, bad = recorded("base", answers()), recorded("bad", answers(wrong=set(range(12))))
    run = await lab.run(candidate=bad, baseline=base)
    first = await lab.verdict(gate["id"], bad, baseline=base, runs=[run["id"]])
    assert (await lab.verdict(gate["id"], bad, baseline=base, runs=[run["id"]]))["id"] == first["id"]
    seen = [(await lab.verdict(gate["id"], bad, baseline=base))["attempt"] for _ in range(2)]
    assert [first["attempt"], *seen] == [1, 2, 3]
    body = {"candidate": bad, "baseline": base}
    found = await lab.refused("POST", f"/v1/gates/{gate['id']}/evaluate", body)
    assert found[:2] == (409, "attempts_exhausted")


async def test_alpha_is_spent_with_each_attempt(lab):
    """A drop that the first attempt calls a failure is no failure at a quarter of its alpha."""
    await lab.push(count=200)
    check = {**CHECK, "margin_pp": 5}
    gate = await lab.armed_gate([check], answers(200))
    base = recorded("base", answers(200))
    first = await lab.verdict(gate["id"], recorded("a", answers(200, wrong={0, 1, 2, 3, 4})), baseline=base)
    assert first["checks"][0]["numbers"]["power"]["alpha"] == 0.05
    second = await lab.verdict(gate["id"], recorded("a", answers(200, wrong={0, 1, 2, 3, 4})), baseline=base)
    assert second["checks"][0]["numbers"]["power"]["alpha"] == 0.0125


async def test_baseline_and_candidate_are_two_artifacts(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    body = {"candidate": recorded("a", answers()), "baseline": recorded("a", answers())}
    assert (await lab.refused("POST", f"/v1/gates/{gate['id']}/evaluate", body))[:2] == (422, "same_artifact")


@pytest.mark.parametrize(("field", "value"), [("margin_pp", 0), ("margin_pp", 21), ("alpha", 0.5), ("alpha", 0)])
async def test_figures_of_a_check_have_bounds(lab, field, value):
    await lab.push(count=1)
    body = {"name": "g", "route": "shop", "checks": [{**CHECK, field: value}]}
    assert (await lab.refused("POST", "/v1/gates", body))[:2] == (422, "margin_out_of_range")


async def test_must_pass_and_zero_tolerance_gates_arm_and_block_on_one_case(lab):
    await lab.push("must", 25)
    await lab.push("never", 60)
    checks = [
        {"name": "must", "suite": "must", "rule": "must_pass", "accept_recorded": True, "repeats": 3},
        {"name": "never", "suite": "never", "rule": "zero_tolerance", "accept_recorded": True},
    ]
    gate = await lab.armed_gate(checks, answers(60, epochs=3))
    good = await lab.verdict(gate["id"], recorded("good", answers(60, epochs=3)))
    assert good["verdict"] == "PASS"
    bad = await lab.verdict(gate["id"], recorded("bad", answers(60, wrong={40}, epochs=3)))
    assert (bad["verdict"], [each["verdict"] for each in bad["checks"]]) == ("FAIL", ["PASS", "FAIL"])


async def test_each_increase_checks_live_verdicts(lab):
    """What a rollout is told: nothing, FAIL, PASS, expired; the newest verdict counts and not the best one."""
    await lab.push(count=200)
    gate = await lab.armed_gate([CHECK], answers(200), controls_max_age_h=100)
    base, scope = recorded("base", answers(200)), lab.scope

    async def codes():
        found = await lab.required.live(scope, "shop", "art")
        return [each["code"] for each in found.reasons] if isinstance(found, Blocked) else found

    assert await codes() == ["no_verdict"]
    await lab.verdict(gate["id"], recorded("art", answers(200, wrong=set(range(40)))), baseline=base)
    assert await codes() == ["worse"]
    await lab.verdict(gate["id"], recorded("art", answers(200)), baseline=base)
    live = await codes()
    assert isinstance(live, LiveVerdict)
    token = await lab.required.token(scope, "shop", live, 50.0)
    use = TokenUse(scope.organization_id, "shop", "art", 50.0, lab.clock.now_us())
    assert isinstance(TokenVerifier().verify(token, use, await lab.keys.load()), Admitted)
    lab.clock.ahead_s += 25 * HOUR_S
    assert await codes() == ["verdict_expired"]
    elsewhere = await lab.required.live(scope, "other", "art")
    assert elsewhere.reasons[0]["code"] == "no_gate"


async def test_inconclusive_never_raises_a_weight(lab):
    await lab.push(count=40)
    gate = await lab.armed_gate([{**CHECK, "margin_pp": 20}], answers(40))
    outputs = answers(40)
    del outputs["c1"]
    found = await lab.verdict(gate["id"], recorded("art", outputs), baseline=recorded("base", answers(40)))
    assert (found["verdict"], found["token"]) == ("INCONCLUSIVE", None)
    live = await lab.required.live(lab.scope, "shop", "art")
    assert isinstance(live, Blocked)


async def test_an_easier_gate_beside_the_required_one_gives_no_token(lab):
    await lab.push()
    await lab.push("easy", 60, "zero_tolerance")
    await lab.armed_gate([CHECK], answers())
    easy = {"name": "easy", "suite": "easy", "rule": "zero_tolerance", "accept_recorded": True}
    body = {"name": "easy", "route": "shop", "risk_tier": "low", "checks": [easy]}
    gate = await lab.ok("POST", "/v1/gates", body, 201)
    await lab.ok("POST", f"/v1/gates/{gate['id']}/controls", {"baseline": recorded("base", answers())}, 202)
    found = await lab.verdict(gate["id"], recorded("art", answers()))
    assert (found["verdict"], found["token"]) == ("PASS", None)


async def test_a_developer_evaluates_and_makes_no_gate(lab):
    await lab.push(count=1)
    scopes = ("evals:read", "evals:run", "evals:write")
    key = await lab.world.sign_up("dev", Role.DEVELOPER, scopes)
    body = {"name": "g", "route": "shop", "checks": [CHECK]}
    assert (await lab.refused("POST", "/v1/gates", body, key=key))[0] == 403
    assert (await lab.call("GET", "/v1/gates", key=key)).status_code == 200


async def test_another_organizations_ids_name_nothing(lab, store, tmp_path):
    await lab.push()
    run = await lab.run(candidate=recorded("a", answers()))
    gate = await lab.ok("POST", "/v1/gates", {"name": "g", "route": "shop", "checks": [CHECK]}, 201)
    folder = tmp_path / "other"
    folder.mkdir()
    other = await make_world(store, folder)
    for path in (f"/v1/evals/runs/{run['id']}", f"/v1/evals/runs/{run['id']}/evidence", f"/v1/gates/{gate['id']}"):
        assert (await lab.call("GET", path, key=other.owner_key)).status_code in {401, 404}


async def test_controls_sabotage_what_a_case_forbids(lab):
    cases = [case(n, oracle=[{"type": "contains_none", "value": ["secret"]}]) for n in range(60)]
    await lab.ok("POST", "/v1/evals/suites", {"name": "never", "kind": "zero_tolerance", "cases": cases}, 201)
    check = {"name": "never", "suite": "never", "rule": "zero_tolerance", "accept_recorded": True}
    gate = await lab.armed_gate([check], answers())
    assert gate["armed"]


class Attack:
    """Ways to have a bad artifact pass a gate that wants live outputs of the route `shop`, version 2."""

    @staticmethod
    async def a_recorded_weakling_as_baseline(lab, gate):
        weak = recorded("weak", answers(wrong=set(range(60))))
        return await lab.verdict(gate["id"], BAD, baseline=weak)

    @staticmethod
    async def a_run_of_the_artifact_against_itself(lab, gate):
        run = await lab.run(candidate=BAD, baseline=BAD)
        return await lab.verdict(gate["id"], BAD, runs=[run["id"]])

    @staticmethod
    async def a_run_against_another_baseline_than_was_asked_for(lab, gate):
        run = await lab.run(candidate=BAD, baseline=recorded("weak", answers(wrong=set(range(60)))))
        return await lab.verdict(gate["id"], BAD, baseline=STABLE, runs=[run["id"]])

    @staticmethod
    async def an_older_run_against_a_weakling(lab, gate):
        await lab.run(candidate=BAD, baseline={"kind": "route", "route": "shop", "version": 3})
        return await lab.verdict(gate["id"], BAD, baseline=STABLE)

    @staticmethod
    async def a_version_of_another_route_as_baseline(lab, gate):
        return await lab.verdict(gate["id"], BAD, baseline={"kind": "route", "route": "weak", "version": 3})

    @staticmethod
    async def a_tampered_recording_under_the_digest_of_the_artifact(lab, gate):
        run = await lab.run(candidate=recorded("sha256:2", answers()), baseline=recorded("sha256:1", answers()))
        return await lab.verdict(gate["id"], BAD, baseline=STABLE, runs=[run["id"]])


BAD, STABLE = ({"kind": "route", "route": "shop", "version": number} for number in (2, 1))


@pytest.mark.parametrize("attack", [name for name in vars(Attack) if not name.startswith("_")])
async def test_a_bad_version_does_not_pass_by(lab, attack):
    # Only what has the number 1 answers rightly.
    lab.models.answer = lambda text, version, _tries: f"answer {text[1:]}." if version == 1 else "no"
    await lab.push()
    gate = await lab.armed_gate([{**CHECK, "accept_recorded": False}], answers())
    found = await getattr(Attack, attack)(lab, gate)
    assert (found["verdict"] == "PASS", found["admits"], found["token"]) == (False, False, None), found["reasons"]


async def test_controls_are_renewed_before_they_grow_old_from_what_they_were_built_from(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    # What ran since is no baseline: a bad artifact answered it.
    await lab.run(candidate=recorded("bad", answers(wrong=set(range(60)))))
    await lab.prover.run_once()
    assert (await lab.ok("GET", f"/v1/gates/{gate['id']}"))["controls"] == gate["controls"]
    for _ in range(5):
        lab.clock.ahead_s += 13 * HOUR_S
        assert await lab.prover.run_once() >= 1
    shown = await lab.ok("GET", f"/v1/gates/{gate['id']}")
    assert (shown["armed"], shown["armed_reasons"]) == (True, [])


async def test_a_new_case_disarms_until_the_renewal_finds_what_a_good_artifact_answers_to_it(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    await lab.push(count=61)
    assert await lab.prover.run_once() >= 1
    assert not (await lab.ok("GET", f"/v1/gates/{gate['id']}"))["armed"]
    await lab.run(candidate=recorded("good", answers(61)))
    lab.clock.ahead_s += 13 * HOUR_S
    assert await lab.prover.run_once() >= 1
    assert (await lab.ok("GET", f"/v1/gates/{gate['id']}"))["armed"]


@pytest.mark.parametrize(("fails_at", "verdict", "code"), [({2}, "PASS", "flaky"), ({2, 5}, "FAIL", "failed_case")])
async def test_a_case_that_failed_once_is_asked_again_by_itself(lab, fails_at, verdict, code):
    def said(text, _version, tries):
        return "no" if text == "q1" and tries in fails_at else f"answer {text[1:]}."

    lab.models.answer = said
    await lab.push("must", 3, "must_pass")
    check = {"name": "must", "suite": "must", "rule": "must_pass", "repeats": 3}
    gate = await lab.armed_gate([check], answers(3, epochs=3))
    found = await lab.verdict(gate["id"], BAD)
    assert (found["verdict"], reasons(found)) == (verdict, [code])
    # 3 x 3 first, then only the one case, twice as often.
    assert len(lab.models.asked) == 9 + 6
    more = await lab.ok("GET", f"/v1/evals/runs/{found['checks'][0]['numbers']['further_run_id']}")
    assert more["completeness"]["expected"] == 6
    again = await lab.verdict(gate["id"], BAD)
    assert (again["id"], len(lab.models.asked)) == (found["id"], 15)


async def test_the_same_idempotency_key_asks_for_one_verdict(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    body = {"candidate": recorded("a", answers()), "baseline": recorded("base", answers())}
    path = f"/v1/gates/{gate['id']}/evaluate"
    first, second = [await lab.ok("POST", path, body, **{"idempotency-key": "once"}) for _ in range(2)]
    assert first["id"] == second["id"]
    listed = await lab.ok("GET", "/v1/evals/runs")
    assert len(listed["data"]) == 1
