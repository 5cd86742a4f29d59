"""What `interlock trace` tells of evals, from what the API answers."""

from interlock.cli.trace_evals import STORIES
from tests.evals.eval_world import CHECK, answers, recorded
from tests.evals.test_incidents import REPORT


async def test_each_id_of_evals_tells_its_story(lab):
    await lab.push()
    gate = await lab.armed_gate([CHECK], answers())
    bad = await lab.verdict(
        gate["id"], recorded("bad", answers(wrong=set(range(12)))), baseline=recorded("base", answers())
    )
    run = await lab.ok("GET", f"/v1/evals/runs/{bad['checks'][0]['run_id']}")
    incident = await lab.ok("POST", "/v1/incidents", REPORT, 201)
    shown = {
        "gate": await lab.ok("GET", f"/v1/gates/{gate['id']}"), "vdt": bad, "run": run,
        "inc": await lab.ok("GET", f"/v1/incidents/{incident['id']}"),
    }  # fmt: skip
    told = {kind: "\n".join(STORIES[kind][1](each)) for kind, each in shown.items()}
    assert "expected FAIL, observed FAIL ok" in told["gate"]
    assert "worse: The candidate is 20.0 pp worse" in told["vdt"]
    assert "statistic=" in told["vdt"]
    assert "run.manifest policy@1 expected=120" in told["run"]
    assert "run.sealed sha256:" in told["run"]
    assert "incident.opened" in told["inc"]
    for kind, each in shown.items():
        assert each["id"].startswith(f"{kind}_")
