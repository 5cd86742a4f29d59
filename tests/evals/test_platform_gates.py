"""Gates of what is the platform's own: made by its operators alone, asked across organizations, verified by token."""

import random

import pytest

from interlock.contracts.gates import GateBlocked
from interlock.evals.domain.verdict import TokenVerifier
from interlock.evals.service.platform_gates import PlatformGates
from interlock.foundation.identity import ALL_SCOPES
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.scope import Role
from interlock.scheduler.domain.profiles import A100_LLAMA3_8B
from interlock.scheduler.domain.replay import ReplayOptions
from interlock.scheduler.domain.simulate import Hardware
from interlock.scheduler.domain.slo_evidence import Replayed, gate_of, outputs_of, recording_of, suite_of
from interlock.scheduler.domain.trace import TraceRow
from tests.evals.eval_world import CHECK
from tests.foundation.identity.worlds import NEW_OWNER
from tests.support.store import IDS, make_system, scope_of

HARDWARE = Hardware(A100_LLAMA3_8B)
HOUR_S = 3_600


def replayed(policy):
    dice = random.Random(3)
    rows = [TraceRow(number * 100_000, dice.randrange(1, 3_000), dice.randrange(1, 300)) for number in range(150)]
    return outputs_of(Replayed(rows, ReplayOptions((policy,), HARDWARE, loads=(0.8, 1.5)), repeats=2), random.Random)


@pytest.fixture(scope="module")
def shown():
    """What two policies make of the same trace."""
    return {policy: replayed(policy) for policy in ("interlock", "fcfs")}


@pytest.fixture
def pool():
    """A pool of this test alone: a gate of any operator counts."""
    return f"pool-{IDS.new().hex}"


async def make_operator(lab):
    """Make the owner of the world an operator of the platform, as the first start does with its owner."""
    await make_system(lab.store)
    owner = lab.world.owner.owner_id
    async with lab.store.transaction(scope_of(SYSTEM_ORGANIZATION_ID)) as tx:
        await tx.execute(NEW_OWNER, SYSTEM_ORGANIZATION_ID, IDS.new(), owner)
    await lab.world.directory.reload()


@pytest.fixture
async def guarded(lab, pool, shown):
    """A required gate on a pool, made by the platform's operator from what its policy of today shows."""
    await make_operator(lab)
    await lab.ok("POST", "/v1/evals/suites", suite_of("scheduler-slo", shown["interlock"]))
    body = {**gate_of("scheduler-slo", pool, 2), "mode": "advisory"}
    gate = await lab.ok("POST", "/v1/gates", body, 201)
    baseline = recording_of("sha256:today", shown["interlock"])
    proved = await lab.ok("POST", f"/v1/gates/{gate['id']}/controls", {"baseline": baseline}, 202)
    assert proved["armed"], proved["armed_reasons"]
    return await lab.ok("PUT", f"/v1/gates/{gate['id']}", {**body, "mode": "required"})


@pytest.fixture
def gates(lab):
    return PlatformGates(lab.store, lab.required, TokenVerifier(), lab.keys, lab.clock)


async def test_a_tenant_cannot_guard_a_pool(lab, pool):
    await lab.push()
    found = await lab.refused("POST", "/v1/gates", {"name": "mine", "route": f"pool:{pool}", "checks": [CHECK]})
    assert found[:2] == (403, "role_denied")


async def test_nobody_guards_it_and_nothing_is_asked(gates):
    assert list(await gates.admit("pool:nobody-guards-this", "sha256:a")) == []


async def test_what_keeps_its_promises_is_admitted_and_what_does_not_is_not(lab, guarded, gates, shown):
    name = guarded["route"]
    blocked = await gates.admit(name, "sha256:new")
    assert isinstance(blocked, GateBlocked)
    assert blocked.reasons[0]["code"] == "no_verdict"
    worse = await lab.verdict(guarded["id"], recording_of("sha256:fcfs", shown["fcfs"]))
    assert (worse["verdict"], worse["token"]) == ("FAIL", None)
    assert isinstance(await gates.admit(name, "sha256:fcfs"), GateBlocked)
    good = await lab.verdict(guarded["id"], recording_of("sha256:new", shown["interlock"]))
    assert good["verdict"] == "PASS", good["reasons"]
    [admitted] = await gates.admit(name, "sha256:new")
    assert (admitted.verdict_id, admitted.max_weight) == (good["id"], 5.0)
    # An admission is about this pool and these settings, and ends with its verdict.
    assert isinstance(await gates.admit(name, "sha256:other"), GateBlocked)
    lab.clock.ahead_s += 23 * HOUR_S
    assert not isinstance(await gates.admit(name, "sha256:new"), GateBlocked)
    lab.clock.ahead_s += 2 * HOUR_S
    assert isinstance(await gates.admit(name, "sha256:new"), GateBlocked)


async def test_the_gate_of_a_pool_is_moved_by_operators_alone(lab, guarded, pool):
    member = await lab.world.sign_up("member", Role.ADMIN, tuple(sorted(ALL_SCOPES)))
    body, path = {**gate_of("scheduler-slo", pool, 2), "mode": "advisory"}, f"/v1/gates/{guarded['id']}"
    asked = {"candidate": recording_of("sha256:mine", {})}
    for method, where, given in (
        ("PUT", path, body),
        ("POST", f"{path}/controls", {}),
        ("POST", f"{path}/evaluate", asked),
    ):
        found = await lab.refused(method, where, given, key=member)
        assert found[:2] == (403, "role_denied"), where
    assert (await lab.ok("GET", path, key=member))["mode"] == "required"
