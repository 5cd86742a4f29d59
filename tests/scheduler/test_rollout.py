"""A pool's settings have versions with a way back; a candidate goes from the shadow to a share and to all, or ends."""

import asyncio
from dataclasses import replace

import pytest

from interlock.foundation.audit import AuditLog
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import Evaluation
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.redaction import Redactor
from interlock.foundation.store import Query
from interlock.scheduler import SchedulerConfig
from interlock.scheduler.domain.classes import ACCELERATOR_OBJECTIVES
from interlock.scheduler.domain.leading import Candidate as Stands
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.versions import Candidate, PoolSettings, changed, flat, with_setting
from interlock.scheduler.service.leading import StoredLeaders
from interlock.scheduler.service.pools import PoolService, declared
from interlock.scheduler.service.rollout import NEWEST, PoolRollouts, TrialEnds
from interlock.scheduler.service.specs import rules_of
from interlock.scheduler.service.trials import Ended
from interlock.scheduler.store import SQL
from tests.scheduler.calls import grant_request
from tests.scheduler.test_policy import READY, SECOND, arrive, code, granted, read_prompt, tenant
from tests.support.store import make_system, scope_of

AUDITED = Query(
    "audited", "what was told", "SELECT action, reason, detail::text AS detail FROM audit_events"
    " WHERE target_kind = 'pool' AND target_id = $1 ORDER BY seq",
)  # fmt: skip
LEFT = Query(
    "left", "what is told next", "SELECT event[4] AS action, event[8] AS reason, event[10] AS detail"
    " FROM audit_pending WHERE event[6] = $1 ORDER BY 1",
)  # fmt: skip
FCFS = PoolSettings("fcfs", 0.8, ACCELERATOR_OBJECTIVES)


class Kept:
    """The use cases on a real store, and one pool in it."""

    def __init__(self, store, clock, ids):
        self.store, self.clock = store, clock
        audit = AuditLog(clock, Redactor([]))
        self.pools = PoolService(audit, clock, ids)
        self.rollouts = PoolRollouts(self.pools, audit, clock)
        self.name = f"pool-{ids.new().hex}"
        self.scope = scope_of(SYSTEM_ORGANIZATION_ID)

    async def do(self, act):
        async with self.store.transaction(self.scope) as tx:
            return await act(tx)

    async def refused(self, act):
        with pytest.raises(InterlockError) as caught:
            await self.do(act)
        return caught.value.code

    async def versions(self):
        return await self.do(lambda tx: self.rollouts.versions(tx, self.name, NEWEST, 99))

    async def set(self, **settings):
        return await self.do(lambda tx: self.pools.set(tx, self.name, settings, None))

    async def attempt(self, **settings):
        return await self.do(lambda tx: self.rollouts.attempt(tx, self.name, settings))

    async def candidate(self):
        return await self.do(lambda tx: self.rollouts.candidate(tx, self.name))

    async def told(self):
        async with self.store.ops("what was told") as tx:
            return [each["action"] for each in await tx.fetch(AUDITED, self.name)]

    async def spec(self, flags=None):
        found = await declared(self.store, flags or FlagsAre({}))
        return next(each for each in found if each.name == self.name)


class FlagsAre:
    """The platform's flags, as a process has them in memory."""

    def __init__(self, values):
        self.values = values

    def evaluate(self, name, organization_id, _workspace_id):
        assert organization_id == SYSTEM_ORGANIZATION_ID
        return Evaluation(self.values[name], "set", "default") if name in self.values else None


@pytest.fixture
async def kept(store, clock, ids):
    await make_system(store)
    found = Kept(store, clock, ids)
    await found.do(lambda tx: found.pools.add(tx, found.name, ACCELERATOR_OBJECTIVES))
    yield found
    await found.do(lambda tx: found.pools.remove(tx, found.name))


async def test_each_change_is_a_version_with_its_author_and_one_command_goes_back(kept):
    await kept.set(policy="vtc", **{"interactive.ttft_ms": "2000"})
    await kept.set(draining="true")
    back = await kept.do(lambda tx: kept.rollouts.back(tx, kept.name, 1, None))
    # Going back is about the policy: a pool that drains goes on draining.
    assert (back.version, back.policy, back.is_draining) == (4, "interlock", True)
    assert back.objectives == ACCELERATOR_OBJECTIVES
    rows = await kept.versions()
    assert [each["version"] for each in rows] == [4, 3, 2, 1]
    assert [each["changed"] for each in rows] == [
        {"policy": ["vtc", "interlock"], "interactive.ttft_ms": [2_000, 1_000]},
        {"draining": [False, True]},
        {"policy": ["interlock", "vtc"], "interactive.ttft_ms": [1_000, 2_000]},
        {},
    ]
    assert [each["reason"] for each in rows] == ["back to version 1", None, None, None]
    assert {each["by"][:4] for each in rows} == {"usr_"}
    page = await kept.do(lambda tx: kept.rollouts.versions(tx, kept.name, 3, 1))
    assert [each["version"] for each in page] == [2]
    assert await kept.refused(lambda tx: kept.rollouts.back(tx, kept.name, 9, None)) == "not_found"
    assert await kept.refused(lambda tx: kept.rollouts.back(tx, kept.name, 1, 3)) == "version_conflict"
    assert await kept.refused(lambda tx: kept.rollouts.back(tx, "no-pool", 1, None)) == "pool_unknown"


async def test_a_candidate_begins_in_the_shadow_and_ends_as_a_version_or_not_at_all(kept):
    assert await kept.refused(lambda tx: kept.rollouts.canary(tx, kept.name, 500)) == "not_found"
    assert await kept.refused(lambda tx: kept.rollouts.candidate(tx, kept.name)) == "not_found"
    assert await kept.refused(lambda tx: kept.rollouts.attempt(tx, kept.name, {"policy": "luck"})) == "invalid_request"
    assert (
        await kept.refused(lambda tx: kept.rollouts.attempt(tx, kept.name, {"policy": "interlock"}))
        == "invalid_request"
    )
    found = await kept.attempt(policy="vtc")
    assert (found["number"], found["stage"], found["changed"]) == (1, "shadow", {"policy": ["interlock", "vtc"]})
    assert (await kept.spec()).candidate == Candidate(1, replace(FCFS, policy="vtc"))
    found = await kept.attempt(policy="fcfs")
    assert (found["number"], found["stage"]) == (2, "shadow")
    found = await kept.do(lambda tx: kept.rollouts.canary(tx, kept.name, 500))
    assert (found["number"], found["stage"], found["share_bp"]) == (3, "canary", 500)
    assert (await kept.spec()).candidate == Candidate(3, FCFS, 500)
    assert await kept.refused(lambda tx: kept.rollouts.attempt(tx, kept.name, {"policy": "vtc"})) == "rollout_active"
    assert await kept.refused(lambda tx: kept.rollouts.canary(tx, kept.name, 10_001)) == "invalid_request"
    assert (await kept.do(lambda tx: kept.rollouts.drop(tx, kept.name)))["stage"] == "dropped"
    assert (await kept.spec()).candidate is None
    assert await kept.refused(lambda tx: kept.rollouts.promote(tx, kept.name, None)) == "not_found"
    await kept.attempt(policy="fcfs", share_level="0.5")
    made = await kept.do(lambda tx: kept.rollouts.promote(tx, kept.name, None))
    assert (made.version, made.policy, made.share_level) == (2, "fcfs", 0.5)
    assert (await kept.versions())[0]["reason"] == "candidate 4 promoted"
    assert ((await kept.candidate())["stage"], (await kept.spec()).candidate) == ("promoted", None)


async def test_what_is_promoted_or_widened_is_what_its_operator_saw(kept):
    await kept.attempt(policy="vtc")
    await kept.do(lambda tx: kept.rollouts.canary(tx, kept.name, 500, 1))
    # Somebody else goes on meanwhile: another share, then another setting of the pool.
    assert await kept.refused(lambda tx: kept.rollouts.canary(tx, kept.name, 900, 1)) == "version_conflict"
    await kept.set(**{"interactive.ttft_ms": "2000"})
    assert await kept.refused(lambda tx: kept.rollouts.promote(tx, kept.name, 1)) == "version_conflict"
    assert await kept.refused(lambda tx: kept.rollouts.promote(tx, kept.name, 2, 1)) == "version_conflict"
    assert ((await kept.candidate())["stage"], len(await kept.versions())) == ("canary", 2)
    assert (await kept.do(lambda tx: kept.rollouts.promote(tx, kept.name, 2, 2))).version == 3


def leading(kept, holder):
    return StoredLeaders(kept.store).take([kept.name], Stands(holder, holder, "unix:/s:"), -1.0, from_late=True)


async def test_a_promotion_that_names_no_version_overwrites_nothing_that_was_set_since(kept):
    found = await kept.attempt(policy="vtc")
    assert (found["base_version"], found["pool_version"]) == (1, 1)
    # Draining is no part of what a candidate replaces.
    await kept.set(draining="true")
    await kept.do(lambda tx: kept.rollouts.canary(tx, kept.name, 500))
    await kept.set(**{"interactive.ttft_ms": "2000"})
    assert await kept.refused(lambda tx: kept.rollouts.promote(tx, kept.name, None)) == "version_conflict"
    found = await kept.candidate()
    assert (found["stage"], found["base_version"], found["pool_version"]) == ("canary", 1, 3)
    # Whoever names the version has seen what is overwritten.
    assert (await kept.do(lambda tx: kept.rollouts.promote(tx, kept.name, 3))).objectives == ACCELERATOR_OBJECTIVES
    # Tried anew it differs from what the pool has now.
    await kept.set(**{"interactive.ttft_ms": "3000"})
    await kept.attempt(policy="fcfs")
    await kept.set(draining="false")
    made = await kept.do(lambda tx: kept.rollouts.promote(tx, kept.name, None))
    assert (made.policy, flat(made.settings)["interactive.ttft_ms"]) == ("fcfs", 3_000)


async def test_a_leader_that_was_passed_ends_no_candidate(kept):
    fences = await leading(kept, "a")
    ends = TrialEnds(kept.store, kept.rollouts, kept.clock, lambda: kept.scope, lambda: fences)
    await kept.attempt(policy="vtc")
    assert await leading(kept, "b") == {kept.name: 2}
    await ends.tell(Ended(kept.name, 1, "rolled_back", {"reason": "by one who stood still"}))
    assert (await kept.candidate())["stage"] == "shadow"
    assert await leading(kept, "a") == {kept.name: 3}
    fences = {}
    await ends.tell(Ended(kept.name, 1, "rolled_back", {"reason": "by one who leads no more"}))
    assert (await kept.candidate())["stage"] == "shadow"
    # In name alone, until the store is back.
    told = [{kept.name: 0}, {kept.name: 0}, {kept.name: 3}]
    ends = TrialEnds(kept.store, kept.rollouts, kept.clock, lambda: kept.scope, lambda: told.pop(0))
    await ends.tell(Ended(kept.name, 1, "rolled_back", {"reason": "by its leader"}))
    assert ((await kept.candidate())["verdict"], told) == ({"reason": "by its leader"}, [])


async def test_what_a_leader_ended_is_written_with_its_numbers_and_an_older_try_ends_nobody(kept):
    fences = await leading(kept, "a")
    ends = TrialEnds(kept.store, kept.rollouts, kept.clock, lambda: kept.scope, lambda: fences)
    await kept.attempt(policy="vtc")
    await kept.attempt(policy="fcfs")
    await ends.tell(Ended(kept.name, 1, "rolled_back", {"reason": "late"}))
    assert (await kept.candidate())["stage"] == "shadow"
    numbers = {"reason": "fell", "live": {"kept": 990, "judged": 1_000}, "candidate": {"kept": 40, "judged": 50}}
    await ends.tell(Ended(kept.name, 2, "rolled_back", numbers))
    found = await kept.candidate()
    assert (found["stage"], found["verdict"]) == ("rolled_back", numbers)
    assert (await kept.spec()).candidate is None
    await ends.tell(Ended(kept.name, 2, "failed", {"reason": "twice"}))
    assert (await kept.candidate())["verdict"] == numbers


WAITS_FOR_ME = Query(
    "waits_for_me", "who waits for the end of this transaction",
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid",
)  # fmt: skip


@pytest.mark.parametrize("second", ["promote", "canary"])
async def test_what_its_leader_ends_at_the_same_moment_is_neither_promoted_nor_widened(kept, second):
    await kept.attempt(policy="fcfs")
    given = {"promote": (kept.rollouts.promote, None), "canary": (kept.rollouts.canary, 9_000)}
    act, value = given[second]
    async with kept.store.transaction(kept.scope) as tx:
        await tx.execute(SQL.end_candidate, SYSTEM_ORGANIZATION_ID, kept.name, 1, "rolled_back", 1, "{}", None)
        late = asyncio.ensure_future(kept.refused(lambda own: act(own, kept.name, value)))
        while not await tx.fetchval(WAITS_FOR_ME) and not late.done():
            await asyncio.sleep(0.01)
    assert await late == "not_found"
    assert (await kept.candidate())["stage"] == "rolled_back"
    assert [each["version"] for each in await kept.versions()] == [1]


@pytest.mark.parametrize("before", [FCFS, replace(FCFS, policy="vtc", share_level=0.3)])
@pytest.mark.parametrize(
    ("key", "text"), [("policy", "sjf"), ("share_level", "0.25"), ("batch.tpot_ms", "40"), ("standard.tpot_ms", "none")]
)
def test_what_was_set_is_what_differs(before, key, text):
    after = with_setting(before, key, text)
    assert list(changed(before, after)) == [key]
    assert changed(after, after) == {}


@pytest.mark.parametrize(
    ("key", "text"),
    [("policy", "luck"), ("share_level", "0"), ("share_level", "1e-320"), ("share_level", "nan"),
     ("batch.ttft_ms", "none"), ("batch.ttft_ms", "0"),
     ("nobody.ttft_ms", "5"), ("batch.size", "5"), ("interactive.ttft_ms", "3600001"),
     ("interactive.ttft_ms", "\u0663\u0660\u0660")],
)  # fmt: skip
def test_what_is_no_setting_is_refused(key, text):
    assert with_setting(FCFS, key, text) is None


def burst(policy):
    """Ten prompts of which two can be promised, all of them inside their share."""
    return [code(each) for each in arrive(policy, *"abcdefghij", input_tokens=400)].count("deadline_infeasible")


def gives_way(policy):
    """A flood that is over its share, and a modest tenant that comes when the queue is full."""
    policy.rates.capacity, policy.rates.measured_us = 100.0, 1
    arrive(policy, "other", input_tokens=100, max_tokens=4, organization=tenant(1))
    arrive(policy, *(f"hog{each}" for each in range(9)), input_tokens=100, max_tokens=200, organization=tenant(2))
    asked = grant_request("modest", input_tokens=100, max_tokens=4, organization=tenant(3))
    return len(policy.arrive(0, asked).displaced)


def cached(policy):
    """The tokens of a prompt that its engine need not read again."""
    policy.engine_changed(0, replace(READY, engine_id="eng_b"))
    chain = tuple(f"{number:016x}" for number in range(6))
    arrive(policy, "first", input_tokens=600, prefix=chain)
    granted(policy)
    read_prompt(policy, "first", 600_000, 600)
    arrive(policy, "again", now_us=SECOND, input_tokens=600, prefix=chain)
    return policy.next_grants(SECOND)[0].predicted.cached_input_tokens


@pytest.mark.parametrize(
    ("flag", "value", "act", "on", "off"),
    [
        ("scheduler.policy", "fcfs", burst, 8, 0),
        ("scheduler.predictive_admission", False, burst, 8, 0),
        ("scheduler.displacement", False, gives_way, 1, 0),
        ("scheduler.prefix_routing", False, cached, 600 - 1, 0),
    ],
)
async def test_each_flag_of_a_rollout_has_its_effect(kept, flag, value, act, on, off):
    def policy_of(spec):
        found = Policy(replace(rules_of(spec, SchedulerConfig()), tenant_seats_max=99))
        found.engine_changed(0, READY)
        return found

    assert act(policy_of(await kept.spec())) == on
    assert act(policy_of(await kept.spec(FlagsAre({flag: value})))) == off
    # What is no policy changes nothing.
    assert (await kept.spec(FlagsAre({"scheduler.policy": "luck"}))).flags.policy is None
