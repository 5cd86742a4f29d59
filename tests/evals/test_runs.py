"""Suites and runs over HTTP: versions by content, manifests, retries, cancel, deadline, the stream, the bundle."""

import json

from interlock.evals.domain.evidence import verify_bundle
from tests.evals.eval_world import answers, case, recorded, refused


async def test_a_suite_is_a_version_by_its_content(lab):
    first = await lab.push(count=3)
    assert (first["version"], first["added"]) == (1, 3)
    same = await lab.call(
        "POST", "/v1/evals/suites", {"name": "policy", "kind": "quality", "cases": [case(n) for n in range(3)]}
    )
    assert (same.status_code, same.json()["version"]) == (200, 1)
    changed = [case(0), case(1, slices=["refunds"]), case(9)]
    second = await lab.ok("POST", "/v1/evals/suites", {"name": "policy", "kind": "quality", "cases": changed}, 201)
    assert {name: second[name] for name in ("version", "added", "changed", "removed")} == {
        "version": 2, "added": 1, "changed": 1, "removed": 1,
    }  # fmt: skip
    assert second["suite_digest"] != first["suite_digest"]
    old = await lab.ok("GET", "/v1/evals/suites/policy?version=1")
    assert old["suite_digest"] == first["suite_digest"]
    listed = (await lab.ok("GET", "/v1/evals/suites/policy/cases?version=2"))["data"]
    assert [each["key"] for each in listed] == ["c0", "c1", "c9"]


async def test_a_case_whose_oracle_cannot_fail_is_refused(lab):
    cases = [case(0), {**case(1), "oracle": [{"type": "regex", "value": "x*"}]}]
    body = {"name": "s", "kind": "quality", "cases": cases}
    assert await lab.refused("POST", "/v1/evals/suites", body) == (422, "oracle_cannot_fail", {"key": "c1"})
    twice = {"name": "s", "kind": "quality", "cases": [case(1), case(1)]}
    assert await lab.refused("POST", "/v1/evals/suites", twice) == (422, "duplicate_case_key", {"keys": ["c1"]})
    judged = {"name": "s", "kind": "quality", "cases": [{**case(1), "oracle": [{"type": "judge", "name": "tone"}]}]}
    assert (await lab.refused("POST", "/v1/evals/suites", judged))[0] == 422


async def test_a_paired_run_over_recordings_has_its_figures_and_its_bundle(lab):
    await lab.push()
    found = await lab.run(candidate=recorded("new", answers(wrong={0, 1, 2})), baseline=recorded("old", answers()))
    assert (found["state"], found["expected"]) == ("complete", 120)
    assert found["completeness"] == {"expected": 120, "scored": 120, "errored": 0, "missing": 0, "complete": True}
    assert (found["paired"]["only_baseline"], found["paired"]["diff_pp"]) == (3, -5.0)
    bundle = await lab.call("GET", f"/v1/evals/runs/{found['id']}/evidence")
    verified = verify_bundle(bundle.content)
    assert verified.ok
    assert verified.numbers["paired"] == found["paired"]
    keys = (await lab.ok("GET", "/v1/gates/keys"))["data"]
    assert json.loads(bundle.content.splitlines()[-1])["key_id"] == keys[0]["key_id"]
    failed = await lab.ok("GET", f"/v1/evals/runs/{found['id']}/samples?arm=candidate&outcome=fail")
    assert sorted(each["key"] for each in failed["data"]) == ["c0", "c1", "c2"]


async def test_an_output_that_was_not_recorded_is_never_a_pass(lab):
    await lab.push()
    outputs = answers()
    del outputs["c7"]
    found = await lab.run(candidate=recorded("new", outputs))
    assert found["completeness"] == {"expected": 60, "scored": 59, "errored": 1, "missing": 0, "complete": False}


async def test_a_run_over_a_route_asks_its_version_in_both_arms(lab):
    await lab.push(count=30)
    lab.models.answer = lambda text, version, _: f"answer {text[1:]}." if version == 1 or text != "q3" else "no"
    found = await lab.run(
        candidate={"kind": "route", "route": "shop", "version": 2}, baseline={"kind": "route", "route": "shop"}
    )
    assert (found["candidate_digest"], found["baseline_digest"]) == ("sha256:2", "sha256:1")
    assert found["paired"]["only_baseline"] == 1
    assert len(lab.models.asked) == 60
    assert lab.models.lent == 0


async def test_a_refusal_is_asked_again_within_the_budget_and_then_errored(lab):
    await lab.push(count=30)

    def answer(text, _version, tries):
        if text == "q1":
            return refused() if tries < 2 else "answer 1."
        if text == "q2":
            return refused("context_length_exceeded", 400, None)
        return f"answer {text[1:]}."

    lab.models.answer = answer
    found = await lab.run(candidate={"kind": "route", "route": "shop"})
    assert (found["completeness"]["scored"], found["completeness"]["errored"]) == (29, 1)
    assert lab.models.asked.count(("q1", 1)) == 3
    assert lab.models.asked.count(("q2", 1)) == 1


async def test_retries_are_a_tenth_of_the_samples_and_no_more(lab):
    await lab.push(count=30)
    lab.models.answer = lambda _text, _version, _tries: refused()
    found = await lab.run(candidate={"kind": "route", "route": "shop"}, attempts_max=4)
    assert found["completeness"]["errored"] == 30
    assert len(lab.models.asked) == 33


async def test_samples_in_flight_are_as_many_as_were_asked_for(lab):
    await lab.push(count=60)
    lab.models.answer = lambda text, _version, _tries: f"answer {text[1:]}."
    await lab.run(candidate={"kind": "route", "route": "shop"}, concurrency=5)
    assert 1 < lab.models.in_flight_max <= 5


async def test_a_run_that_waits_is_canceled_at_once(lab):
    await lab.push()
    started = await lab.ok("POST", "/v1/evals/runs", {"suite": "policy", "candidate": recorded("a", answers())}, 202)
    assert (await lab.ok("POST", f"/v1/evals/runs/{started['id']}/cancel", {}, 202))["state"] == "canceled"
    await lab.drain()
    assert (await lab.ok("GET", f"/v1/evals/runs/{started['id']}"))["state"] == "canceled"
    assert (await lab.refused("GET", f"/v1/evals/runs/{started['id']}/evidence"))[:2] == (409, "run_not_finished")


async def test_a_run_ends_at_its_deadline_with_what_it_has(lab):
    await lab.push(count=60)
    lab.models.answer = lambda text, _version, _tries: f"answer {text[1:]}."
    body = {"suite": "policy", "candidate": {"kind": "route", "route": "shop"}, "deadline_s": 1}
    started = await lab.ok("POST", "/v1/evals/runs", body, 202)
    lab.clock.ahead_s += 2
    await lab.drain()
    found = await lab.ok("GET", f"/v1/evals/runs/{started['id']}")
    assert (found["state"], found["reason"]) == ("failed", "deadline_exceeded")
    assert not found["completeness"]["complete"]


async def test_a_stream_tells_of_a_run_and_can_be_resumed(lab):
    await lab.push(count=4)
    found = await lab.run(candidate=recorded("a", answers()))
    whole = (await lab.call("GET", f"/v1/evals/runs/{found['id']}/events")).text
    assert "event: run.progress" in whole
    assert whole.rstrip().splitlines()[-1].startswith("data")
    assert "run.finished" in whole
    first = int(whole.split("id: ")[1].split()[0])
    rest = (await lab.call("GET", f"/v1/evals/runs/{found['id']}/events", **{"last-event-id": str(first)})).text
    assert f"id: {first}\n" not in rest
    assert "run.finished" in rest


async def test_kept_outputs_hold_no_personal_data_and_no_character_that_no_row_holds(lab):
    await lab.push(count=2)
    lab.models.answer = lambda text, _v, _t: (
        f"answer {text[1:]}. Write to jo@example.org\x00, IBAN DE89 3704 0044 0532 0130 00"
    )
    found = await lab.run(candidate={"kind": "route", "route": "shop"})
    assert found["completeness"]["scored"] == 2
    kept = (await lab.ok("GET", f"/v1/evals/runs/{found['id']}/samples"))["data"][0]["output"]["text"]
    assert "[email]" in kept
    assert "jo@example.org" not in kept
    assert "DE89" not in kept


async def test_targets_that_cannot_be_asked_are_refused(lab):
    await lab.push(count=2)
    for target in ({"kind": "agent", "profile": "p"}, {"kind": "url", "base_url": "http://10.0.0.1", "model": "m"}):
        assert (await lab.refused("POST", "/v1/evals/runs", {"suite": "policy", "candidate": target}))[:2] == (
            422,
            "unsupported_target",
        )
    body = {"suite": "policy", "candidate": {"kind": "route", "route": "nowhere"}}
    assert (await lab.refused("POST", "/v1/evals/runs", body))[:2] == (404, "not_found")
    body = {"suite": "absent", "candidate": recorded("a", {})}
    assert (await lab.refused("POST", "/v1/evals/runs", body))[:2] == (422, "unknown_suite")


async def test_a_queue_of_runs_is_bounded(lab):
    await lab.push(count=1)
    body = {"suite": "policy", "candidate": recorded("a", answers(1))}
    for _ in range(20):
        await lab.ok("POST", "/v1/evals/runs", body, 202)
    assert (await lab.refused("POST", "/v1/evals/runs", body))[:2] == (429, "runs_queue_full")
    await lab.drain(60)


async def test_repeats_bypass_caches(lab):
    """Each epoch of a case is asked for itself; none is answered by the one before."""
    await lab.push(count=5)
    lab.models.answer = lambda text, _version, tries: f"answer {text[1:]}." if tries else "no"
    found = await lab.run(candidate={"kind": "route", "route": "shop"}, epochs=3)
    assert len(lab.models.asked) == 15
    assert found["arms"]["candidate"]["pass_hat_k"]["1"] == 0.666667
