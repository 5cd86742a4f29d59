"""Where a gate is required, no policy decides for anybody without its verdict, nor for many before its canary held."""

from dataclasses import replace

import pytest

from interlock.contracts.gates import Admitted, GateBlocked
from interlock.foundation.audit import AuditLog
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import FlagService, FlagSpec
from interlock.foundation.redaction import Redactor
from interlock.scheduler import SchedulerConfig
from interlock.scheduler.domain.classes import ACCELERATOR_OBJECTIVES
from interlock.scheduler.domain.versions import artifact_digest
from interlock.scheduler.service.gating import PolicyGate
from interlock.scheduler.service.policy_flag import POLICY_FLAG, PolicyFlagGuard
from interlock.scheduler.service.rollout import GateWatch, PoolRollouts
from tests.scheduler.test_rollout import AUDITED, FCFS, Kept
from tests.support.store import make_system

CONFIG = SchedulerConfig(gate_judged_min=50)
NOBODY = {"arrived": 0, "refused": 0, "judged": 0, "kept": 0, "accepted_attainment": None}


class Verdicts:
    """The gates of evals: what each guards, and the digests that they admit up to a weight in percent."""

    def __init__(self):
        self.guards, self.admits = set(), {}

    async def admit(self, guarded, subject):
        if guarded not in self.guards:
            return []
        if subject not in self.admits:
            return GateBlocked(({"code": "no_verdict", "text": "The gate has not decided about this version."},))
        return [Admitted("vdt_1", self.admits[subject], 1 << 60)]


class Leader:
    """The scheduler that leads a pool, as its view says; away while it says nothing."""

    def __init__(self):
        self.seen = None

    async def view(self, _name, part=""):
        assert part == "candidate"
        if self.seen is None:
            raise InterlockError("no_capacity", "The scheduler is away.")
        return self.seen

    def sees(self, number, judged, kept, *, looks=1, live=(1_000, 1_000), is_running=True):
        own = {**NOBODY, "judged": judged, "kept": kept, "accepted_attainment": kept / judged if judged else None}
        other = {**NOBODY, "judged": live[0], "kept": live[1], "accepted_attainment": live[1] / live[0]}
        arms = {"share_bp": 500, "looks": looks, "live": other, "candidate": own}
        self.seen = {"number": number, "stage": "canary", "is_running": is_running, "canary": arms}


class Gated(Kept):
    """The use cases with gates before them."""

    def __init__(self, store, clock, ids):
        super().__init__(store, clock, ids)
        audit = AuditLog(clock, Redactor([]))
        self.verdicts, self.leader = Verdicts(), Leader()
        gate = PolicyGate(self.verdicts, self.leader, store, audit, CONFIG)
        self.rollouts = PoolRollouts(self.pools, audit, clock, gate)
        self.watch = GateWatch(store, self.rollouts, self.verdicts, lambda: self.scope)

    async def canary(self, share_bp):
        return await self.do(lambda tx: self.rollouts.canary(tx, self.name, share_bp))

    async def no_canary(self, share_bp):
        return await self.refused(lambda tx: self.rollouts.canary(tx, self.name, share_bp))

    async def no_promotion(self):
        return await self.refused(lambda tx: self.rollouts.promote(tx, self.name, None))

    async def refusals(self):
        async with self.store.ops("what was told") as tx:
            rows = await tx.fetch(AUDITED, self.name)
        return [(each["action"], each["reason"]) for each in rows if each["reason"]]


@pytest.fixture
async def pool(store, clock, ids):
    await make_system(store)
    found = Gated(store, clock, ids)
    await found.do(lambda tx: found.pools.add(tx, found.name, ACCELERATOR_OBJECTIVES))
    found.verdicts.guards = {f"pool:{found.name}"}
    yield found
    await found.do(lambda tx: found.pools.remove(tx, found.name))


async def test_a_pool_without_a_gate_is_changed_by_whoever_may(pool):
    pool.verdicts.guards = set()
    await pool.attempt(policy="fcfs")
    assert (await pool.canary(9_000))["stage"] == "canary"
    assert (await pool.do(lambda tx: pool.rollouts.promote(tx, pool.name, None))).policy == "fcfs"


async def test_nothing_but_the_shadow_is_free_before_a_verdict(pool):
    assert (await pool.attempt(policy="fcfs"))["artifact_digest"] == artifact_digest(pool.name, FCFS)
    assert [await pool.no_canary(1), await pool.no_canary(10_000), await pool.no_promotion()] == ["gate_blocked"] * 3
    by_hand = {"policy": "fcfs"}
    assert await pool.refused(lambda tx: pool.rollouts.set(tx, pool.name, by_hand, None)) == "gate_blocked"
    assert (await pool.candidate())["stage"] == "shadow"
    assert (await pool.do(lambda tx: pool.pools.get(tx, pool.name))).version == 1
    stands = await pool.rollouts.gate(pool.name, artifact_digest(pool.name, FCFS))
    assert (stands["required"], stands["admits"], stands["reasons"][0]["code"]) == (True, False, "no_verdict")


async def test_what_is_no_policy_needs_no_verdict_and_the_way_back_waits_for_nobody(pool):
    pool.verdicts.guards = set()
    await pool.set(policy="fcfs")
    pool.verdicts.guards = {f"pool:{pool.name}"}
    drained = await pool.do(lambda tx: pool.rollouts.set(tx, pool.name, {"draining": "true"}, None))
    assert drained.is_draining
    back = await pool.do(lambda tx: pool.rollouts.back(tx, pool.name, 1, None))
    assert back.policy == "interlock"


async def test_what_was_left_by_going_back_asks_the_gate(pool):
    pool.verdicts.guards = set()
    await pool.set(policy="fcfs")
    await pool.set(policy="vtc")
    pool.verdicts.guards = {f"pool:{pool.name}"}

    def back(version):
        return lambda tx: pool.rollouts.back(tx, pool.name, version, None)

    assert (await pool.do(back(2))).version == 4
    assert await pool.refused(back(3)) == "gate_blocked", "it was rolled back from"
    assert ("pool.back", "gate_blocked") in await pool.refusals()
    assert (await pool.do(back(1))).policy == "interlock"
    pool.verdicts.guards = set()
    assert (await pool.do(back(3))).policy == "vtc", "where no gate is required any known version is taken"


async def test_what_was_skipped_by_going_back_asks_the_gate_as_well(pool):
    pool.verdicts.guards = set()
    for policy in ("fcfs", "vtc", "edf"):
        await pool.set(policy=policy)
    pool.verdicts.guards = {f"pool:{pool.name}"}

    def back(version):
        return lambda tx: pool.rollouts.back(tx, pool.name, version, None)

    assert (await pool.do(back(2))).policy == "fcfs"
    assert await pool.refused(back(3)) == "gate_blocked", "what lies between was left with the last one"
    assert await pool.refused(back(4)) == "gate_blocked"
    assert (await pool.do(back(1))).policy == "interlock"
    assert await pool.refused(back(2)) == "gate_blocked", "it was gone back to, and then back from"


async def test_the_flag_of_the_policy_asks_the_gate_of_each_pool(pool, store, clock, ids):
    audit = AuditLog(clock, Redactor([]))
    guard = PolicyFlagGuard(store, pool.pools, PolicyGate(pool.verdicts, pool.leader, store, audit, CONFIG))
    flags = FlagService(store, audit, clock, ids, guards={POLICY_FLAG: guard})
    pool.scope = replace(pool.scope, principal=replace(pool.scope.principal, is_platform_operator=True))

    def setting(**variants):
        spec = FlagSpec(salt="s", is_on=True, variants=variants)
        return lambda tx: flags.put_asked(tx, flags.new(tx, POLICY_FLAG, "an incident", spec, None))

    assert await pool.refused(setting(on="fcfs", off="none")) == "gate_blocked"
    assert await pool.refused(setting(on="none", off="fcfs")) == "gate_blocked", "whichever variant is given today"
    assert await pool.refusals() == [("flag.set", "gate_blocked")] * 2
    pool.verdicts.admits = {artifact_digest(pool.name, FCFS): 5.0}
    assert await pool.refused(setting(on="fcfs", off="none")) == "verdict_weight_exceeded", "it was not tried"
    # What every pool decides by anyway changes nothing, and without a gate nobody is asked.
    made = [await pool.do(setting(on="interlock", off="none"))]
    pool.verdicts.guards = set()
    made.append(await pool.do(setting(on="fcfs", off="none")))
    assert [each.spec.variants["on"] for each in made] == ["interlock", "fcfs"]
    await pool.do(lambda tx: flags.delete(tx, made[-1].id))


async def test_a_verdict_admits_its_first_share_and_more_once_the_canary_has_held(pool):
    pool.verdicts.admits = {artifact_digest(pool.name, FCFS): 5.0}
    await pool.attempt(policy="fcfs")
    assert await pool.no_canary(501) == "verdict_weight_exceeded"
    assert (await pool.canary(500))["share_bp"] == 500
    assert await pool.no_promotion() == "verdict_weight_exceeded"
    # Each share is a try of its own: what the shadow was told, or another share, shows nothing of this one.
    for seen in ((2, 49, 49, {}), (2, 50, 50, {"looks": 0}), (2, 500, 490, {}), (1, 500, 500, {}),
                 (2, 500, 500, {"is_running": False})):  # fmt: skip
        pool.leader.sees(*seen[:3], **seen[3])
        assert await pool.no_promotion() == "verdict_weight_exceeded", seen
    pool.leader.sees(2, 500, 496, live=(1_000, 1_000))
    made = await pool.do(lambda tx: pool.rollouts.promote(tx, pool.name, None))
    assert (made.policy, (await pool.candidate())["verdict"]) == ("fcfs", {"version": 2, "verdicts": ["vdt_1"]})


async def test_a_verdict_about_other_settings_or_another_pool_admits_nothing(pool):
    pool.verdicts.admits = {
        artifact_digest(pool.name, replace(FCFS, share_level=0.7)): 100.0,
        artifact_digest("another", FCFS): 100.0,
    }
    await pool.attempt(policy="fcfs")
    assert await pool.no_canary(100) == "gate_blocked"


async def test_every_refusal_is_audited(pool):
    await pool.attempt(policy="fcfs")
    await pool.no_canary(100)
    pool.verdicts.admits = {artifact_digest(pool.name, FCFS): 1.0}
    await pool.no_promotion()
    assert await pool.refusals() == [("pool.canary", "gate_blocked"), ("pool.promote", "verdict_weight_exceeded")]


async def test_a_canary_that_its_gate_admits_no_longer_is_rolled_back(pool):
    digest = artifact_digest(pool.name, FCFS)
    pool.verdicts.admits = {digest: 5.0}
    await pool.attempt(policy="fcfs")
    del pool.verdicts.admits[digest]
    assert await pool.watch.run_once() == 0, "a shadow decides for nobody"
    pool.verdicts.admits[digest] = 5.0
    await pool.canary(500)
    assert await pool.watch.run_once() == 0
    del pool.verdicts.admits[digest]
    assert await pool.watch.run_once() == 1
    found = await pool.candidate()
    assert (found["stage"], found["verdict"]["gate"][0]["code"]) == ("rolled_back", "no_verdict")
    assert (await pool.spec()).candidate is None
