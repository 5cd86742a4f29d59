"""The gate `scheduler-slo` on a running platform: one policy is stopped, another one goes through.

Real verdicts by a worker, evidence from the code that decides; requests of the canary come over the scheduler's socket.
"""

import json
import random
from uuid import UUID

import pytest

from interlock.scheduler.domain.arms import ArmName, arm_of
from tests.journeys.engines import scripted_engine
from tests.journeys.processes import until
from tests.journeys.test_pools import Scheduler, cli

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
POOL = "guarded"
FIRST_SHARE_BP = 500
JUDGED_MIN = 200
# Seeds of a load; each replays the trace once more.
REPEATS = "2"


class Pool:
    """The commands of an operator about one pool."""

    def __init__(self, platform, trace):
        self.platform, self.trace = platform, str(trace)

    def done(self, *arguments):
        return json.loads(cli(self.platform, "scheduler", "pools", *arguments, "--json"))

    def refused(self, *arguments):
        done = self.platform.cli("scheduler", "pools", *arguments)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def judged(self):
        done = self.platform.cli("scheduler", "pools", "evaluate", POOL, self.trace, "--repeats", REPEATS, "--json")
        return done.returncode, json.loads(done.stdout)

    def seen(self):
        return self.done("candidate", POOL)

    def canary(self):
        """What the leader has seen of the canary; asked over HTTP, as a command for each look would take its time."""
        found = self.platform.owner.call("GET", f"/admin/v1/pools/{POOL}/candidate").body
        return (found["live"] or {}).get("canary")

    def has_judged(self, count):
        canary = self.canary()
        return canary["looks"] >= 1 and canary["candidate"]["judged"] >= count


@pytest.fixture
def pool(scripted, tmp_path):
    dice, trace = random.Random(3), tmp_path / "trace.csv"
    rows = [f"{number / 10},{dice.randrange(1, 3_000)},{dice.randrange(1, 300)}" for number in range(150)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    with scripted_engine() as engine:
        cli(scripted, "scheduler", "pools", "add", POOL, "--engine", engine.url, "--adapter", "openai",
            "--model", "fake", "--prefill-tps", "100000", "--slots", "64")  # fmt: skip
        yield Pool(scripted, trace)
        cli(scripted, "scheduler", "pools", "remove", POOL)


def serve(scheduler, settings, count):
    """Let requests of workspaces that the canary has come, be granted and end in time."""
    salt = " ".join(f"{name}={value}" for name, value in settings.items())
    dice, done = random.Random(1), 0
    while done < count:
        workspace = UUID(int=dice.getrandbits(128))
        if arm_of(f"{POOL}:{salt}", workspace, FIRST_SHARE_BP) is not ArmName.CANDIDATE:
            continue
        name = f"req_slo_{done}"
        asked = {"pool": POOL, "class": "interactive", "input_tokens": 10, "max_tokens": 4}
        status, answer = scheduler.acquire(name, **asked, workspace_id=workspace.hex)
        assert status == 200, answer
        assert scheduler.settle(answer["grant_id"])[0] == 200
        done += 1


def test_a_policy_needs_the_verdict_of_its_gate(scripted, pool):
    scheduler = Scheduler(scripted)
    until(lambda: scheduler.call("GET", f"pools/{POOL}")[1].get("slots") == 64)
    made = pool.done("gate", POOL, pool.trace, "--repeats", REPEATS)
    assert (made["name"], made["route"], made["mode"], made["armed"]) == (
        "scheduler-slo", f"pool:{POOL}", "required", True,
    )  # fmt: skip

    assert "gate_blocked" in pool.refused("set", POOL, "policy=fcfs")
    pool.done("set", POOL, "policy=fcfs", "--shadow")
    assert "gate_blocked" in pool.refused("promote", POOL)
    code, verdict = pool.judged()
    assert (code, verdict["verdict"], verdict["admits"]) == (1, "FAIL", False), verdict
    assert "gate_blocked" in pool.refused("canary", POOL, "--share-bp", "100")
    assert (pool.seen()["gate"]["required"], pool.seen()["gate"]["admits"]) == (True, False)

    tried = pool.done("set", POOL, "share_level=0.7", "--shadow")
    code, verdict = pool.judged()
    assert (code, verdict["verdict"], verdict["artifact_digest"]) == (0, "PASS", tried["artifact_digest"]), verdict
    assert "verdict_weight_exceeded" in pool.refused("promote", POOL)
    assert "verdict_weight_exceeded" in pool.refused("canary", POOL, "--share-bp", str(FIRST_SHARE_BP + 1))
    assert pool.done("canary", POOL, "--share-bp", str(FIRST_SHARE_BP))["stage"] == "canary"
    until(lambda: pool.canary() is not None)
    assert "verdict_weight_exceeded" in pool.refused("promote", POOL)
    serve(scheduler, tried["settings"], JUDGED_MIN)
    until(lambda: pool.has_judged(JUDGED_MIN))
    promoted = pool.done("promote", POOL)
    assert (promoted["policy"], promoted["share_level"]) == ("interlock", 0.7)
    assert pool.seen()["verdict"]["verdicts"] == [verdict["id"]]
