"""The pages of runs, gates and incidents: what they show, what a lamp means, and that no output becomes markup."""

import csv
import io
import re
from urllib.parse import urlencode

import httpx2
import pytest

from interlock.console.evals import EvalPages, eval_pages, verdict_why
from interlock.console.standing import Standing
from interlock.console.views import CAUTION, GO
from interlock.foundation.ids import format_id
from tests.evals.eval_world import CHECK, answers, case, recorded
from tests.evals.test_incidents import REPORT
from tests.support.store import IDS

HOSTILE = "answer 3. <script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
async def pages(lab, store):
    console = lab.world.console()
    shown = EvalPages(console.frame, store, lab.runs, lab.gates, lab.incidents, lab.clock)
    app = lab.world.app(*eval_pages(shown))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://control") as http:

        async def read(path, status=200):
            reply = await http.get(path, headers={"authorization": f"Bearer {lab.world.owner_key}"})
            assert reply.status_code == status, reply.text[:500]
            assert reply.text.count("<h1>") == 1 or status != 200 or path.endswith(".csv")
            return reply.text

        async def send(path, **fields):
            headers = {
                "authorization": f"Bearer {lab.world.owner_key}", "content-type": "application/x-www-form-urlencoded",
                "sec-fetch-site": "same-origin",
            }  # fmt: skip
            return await http.post(path, content=urlencode(fields), headers=headers)

        read.form = send
        yield read


async def test_empty_pages_name_the_command_that_fills_them(pages):
    assert "interlock evals run" in await pages("/console/evals")
    assert "interlock gates apply" in await pages("/console/gates")
    assert "interlock incidents open" in await pages("/console/incidents")
    await pages("/console/evals/run_00000000000000000000000000", 404)
    await pages("/console/gates/nothing", 404)


async def test_a_run_shows_where_its_arms_disagree_and_escapes_what_a_model_said(lab, pages):
    cases = [case(n, slices=["refunds"] if n < 5 else []) for n in range(60)]
    await lab.ok("POST", "/v1/evals/suites", {"name": "policy", "kind": "quality", "cases": cases}, 201)
    outputs = answers(wrong={1})
    outputs["c2"] = [HOSTILE.replace("answer 3.", "no")]
    run = await lab.run(candidate=recorded("new", outputs), baseline=recorded("old", answers()))
    text = await pages(f"/console/evals/{run['id']}")
    assert text.count('class="card panel" aria-label="c') == 2
    assert "no idea" in text
    assert "answer 1." in text
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "refunds" in text
    assert "-3.3 pp" in text
    assert re.search(r'state state-go">complete', text) is None
    assert run["id"][-8:] in await pages("/console/evals")


async def test_a_run_that_lacks_results_is_not_green(lab, pages):
    await lab.push()
    outputs = answers()
    del outputs["c1"]
    run = await lab.run(candidate=recorded("new", outputs))
    text = await pages(f"/console/evals/{run['id']}")
    assert "state-caution" in text
    assert "it passes nothing" in text


async def test_a_lamp_is_green_only_for_an_armed_gate(lab, pages):
    await lab.push()
    gate = await lab.ok("POST", "/v1/gates", {"name": "g", "route": "shop", "checks": [CHECK]}, 201)
    bare = await pages(f"/console/gates/{gate['id']}")
    assert "is not armed and lets nothing through" in bare
    assert "state-go" not in bare
    await lab.ok("POST", f"/v1/gates/{gate['id']}/controls", {"baseline": recorded("base", answers())}, 202)
    found = await lab.verdict(
        gate["id"], recorded("art", answers(wrong=set(range(20)))), baseline=recorded("base", answers())
    )
    assert found["verdict"] == "FAIL"
    text = await pages(f"/console/gates/{gate['id']}")
    assert re.search(r'state state-go">armed', text)
    assert re.search(r'state state-stop">FAIL', text)
    assert "11.7 pp" in text
    assert "under 1 h" in text
    lab.clock.ahead_s += 30 * 3_600
    assert 'state state-go">armed' not in await pages(f"/console/gates/{gate['id']}")
    assert "not armed" in await pages("/console/gates")


async def test_an_incident_shows_its_way_and_what_was_said(lab, pages):
    report = {**REPORT, "title": "It said <b>so</b>", "text": HOSTILE}
    found = await lab.ok("POST", "/v1/incidents", report, 201)
    await lab.ok("POST", f"/v1/incidents/{found['id']}/triage", {"note": "mine", "owner": "ana"})
    text = await pages(f"/console/incidents/{found['id']}")
    assert "It said &lt;b&gt;so" in text
    assert "<script>alert" not in text
    assert "ana has taken it on" in text
    assert text.count("<time") == 2
    assert found["id"][-8:] in await pages("/console/incidents")


async def test_runs_gates_and_incidents_come_as_csv(lab, pages):
    await lab.push()
    run = await lab.run(candidate=recorded("new", answers()))
    gate = await lab.ok("POST", "/v1/gates", {"name": "g", "route": "shop", "checks": [CHECK]}, 201)
    incident = await lab.ok("POST", "/v1/incidents", {**REPORT, "title": "=1+1"}, 201)

    async def rows(path):
        return list(csv.DictReader(io.StringIO(await pages(path), newline="")))

    (told,) = await rows("/console/evals.csv")
    assert (told["id"], told["state"], told["baseline_digest"]) == (run["id"], "complete", "")
    (told,) = await rows("/console/gates.csv")
    assert (told["id"], told["name"], told["armed"]) == (gate["id"], "g", "False")
    assert "no positive control of this policy has run; " in told["armed_reasons"]
    (told,) = await rows("/console/incidents.csv")
    assert (told["id"], told["title"], told["occurrences"]) == (incident["id"], "'=1+1", "1")


def test_a_failed_verdict_gives_the_reason_of_the_check_that_failed():
    reasons = [
        {"check": "policy", "text": "Not worse."},
        {"check": "must-pass", "text": "One case fails 5 of 5."},
    ]
    checks = [{"name": "policy", "verdict": "PASS"}, {"name": "must-pass", "verdict": "FAIL"}]
    assert verdict_why({"verdict": "FAIL", "checks": checks, "reasons": reasons}) == "One case fails 5 of 5."
    assert verdict_why({"verdict": "INCONCLUSIVE", "checks": [], "reasons": reasons[:1]}) == "Not worse."
    assert verdict_why({"verdict": "PASS", "checks": checks, "reasons": []}) == "-"


async def test_an_incident_that_nobody_took_on_and_a_gate_that_cannot_judge_want_a_look(lab, store):
    pages = EvalPages(lab.world.console().frame, store, lab.runs, lab.gates, lab.incidents, lab.clock)
    assert await pages.incidents_standing(lab.scope) == Standing(GO, "none is open")
    assert await pages.gates_standing(lab.scope) == Standing("", "none yet")
    found = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    stands = await pages.incidents_standing(lab.scope)
    assert stands == Standing(CAUTION, f"1 is open that nobody has taken on, up to {found['severity']}")
    await lab.ok("POST", f"/v1/incidents/{found['id']}/triage", {"note": "mine"}, 200)
    assert await pages.incidents_standing(lab.scope) == Standing(GO, "none is open")


async def test_a_story_becomes_an_incident_that_names_it(lab, pages):
    request_id = format_id("req", IDS.new())
    fields = {"request_id": request_id, "route": "shop", "title": "It promised a day", "severity": "sev2", "text": ""}
    made = await pages.form("/console/incidents", **fields)
    assert made.status_code == 303, made.text
    shown = await pages(made.headers["location"])
    assert f"/console/requests/{request_id}" in shown
    assert "sev2" in shown
    again = await pages.form("/console/incidents", **fields)
    assert again.headers["location"] == made.headers["location"], "a known one counts one more occurrence"
    for wrong in ({"request_id": "req_x"}, {"severity": "sev9"}, {"title": " "}):
        assert (await pages.form("/console/incidents", **{**fields, **wrong})).status_code == 400
