"""Two cores for one pool: what runs is known to both, nothing is given twice, and who keeps fewer promises goes."""

from collections import Counter
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.scheduler.domain.arms import ALPHA, BASIS_POINTS, Arm, ArmName, arm_of, is_worse
from interlock.scheduler.domain.canary import Canary
from interlock.scheduler.domain.decisions import RecordedPolicy, replay_decisions
from interlock.scheduler.domain.rates import CREDIT_SHARE
from interlock.scheduler.domain.types import Phase
from tests.scheduler.lived import ENGINE, RULES_OF_A_LIFE, Life, is_refused, recording
from tests.scheduler.test_policy import SECOND

LOOK_US = 20 * SECOND


def canary(rules=RULES_OF_A_LIFE, *, share_bp=2_000, live=None):
    return Canary(live or recording(), rules, share_bp=share_bp, salt="fast:1", now_us=0)


def holds(life):
    """Both accounts know all that runs, and neither gives an engine more than it has."""
    pool = life.core
    assert set(pool.live.running) == set(pool.core.running)
    assert not set(pool.live.waiting) & set(pool.core.waiting)
    for core in (pool.live, pool.core):
        for each in core.fleet.sorted():
            assert 0 <= each.granted <= each.state.slots
            assert each.granted <= 1 or each.kv_reserved <= each.kv_share * each.state.kv_tokens + 2 * 512
    for side in pool._sides.values():
        assert {name for queued in side.queued.values() for name in queued} == set(side.policy.waiting)
        assert all(
            side.tokens[each] == sum(prefill for _, prefill in queued.values()) for each, queued in side.queued.items()
        )


class Credited(Life):
    """Before a grant the unread prompts of its engine stay within its credit, in the account of who grants it."""

    def pump(self):
        tightest_us = self.core.live.rates.tightest_us
        for core in (self.core.live, self.core.core):
            self.watch(core, tightest_us)
        super().pump()

    def watch(self, core, tightest_us):
        if "grant_one" in vars(core):
            return
        asked = core.grant_one

        def grant_one(now_us):
            before = {each.state.engine_id: each.prefill_left(now_us) for each in core.fleet.sorted()}
            found = asked(now_us)
            for grant in found:
                rho = core.fleet.replicas[grant.engine.engine_id].rho
                assert before[grant.engine.engine_id] * SECOND <= CREDIT_SHARE * tightest_us * rho + SECOND
            return found

        core.grant_one = grant_one


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    load=st.sampled_from([0.6, 1.1, 1.8]),
    share_bp=st.sampled_from([0, 500, 5_000, 10_000]),
    policy=st.sampled_from(["interlock", "fcfs", "sjf", "vtc", "bands"]),
    slots=st.sampled_from([1, 4, 16]),
)
def test_no_engine_is_given_more_than_it_has_by_two_cores_together(seed, load, share_bp, policy, slots):
    engine = replace(ENGINE, slots=slots, kv_tokens=2_048)
    pool = canary(replace(RULES_OF_A_LIFE, policy=policy), share_bp=share_bp)
    life = Credited(pool, seed, load=load, engines=(engine, replace(engine, engine_id="eng_b"))).run(6, holds)
    assert pool.is_idle
    live, candidate = pool.arms()
    assert live.arrived + candidate.arrived == life.number
    assert share_bp or not candidate.arrived
    assert share_bp < BASIS_POINTS or not live.arrived
    assert live.judged + candidate.judged == len(life.granted) == len(life.in_slo)
    assert live.kept + candidate.kept == sum(life.in_slo.values())


@pytest.mark.parametrize("seed", range(4))
def test_who_decides_alike_is_not_rolled_back_and_keeps_as_many_promises(seed):
    pool, worse = canary(share_bp=3_000), []
    Life(pool, seed, load=1.2, workspaces=200).run(120, looking(pool, worse))
    live, candidate = pool.arms()
    assert not any(worse)
    assert live.attainment >= 0.98
    assert candidate.attainment >= 0.97


@pytest.mark.parametrize("planted", [{"policy": "fcfs"}, {"policy": "vtc"}, {"predicts": False}], ids=str)
def test_a_worse_policy_is_rolled_back_and_hurts_its_own_arm_alone(planted):
    pool, worse = canary(replace(RULES_OF_A_LIFE, **planted), share_bp=3_000), []
    Life(pool, 1, load=1.4, workspaces=200).run(120, looking(pool, worse))
    live, candidate = pool.arms()
    assert any(worse)
    assert live.attainment >= 0.98
    assert candidate.attainment < live.attainment - 0.01


def looking(pool, worse):
    def look(life):
        number = life.now_us // LOOK_US
        if number > len(worse):
            worse.append(is_worse(*pool.arms(), number))
            if worse[-1]:
                pool.close()

    return look


def test_a_log_of_a_canary_is_decided_alike_again():
    lines = []
    pool = canary(live=RecordedPolicy(RULES_OF_A_LIFE, {}, lines.append))
    Life(pool, 3, load=1.3).run(15)
    fed, difference = replay_decisions(lines)
    assert difference is None
    assert fed > 500
    assert {b"ahead", b"offered", b"adopt", b"grant_one"} <= {line.split(b'"')[3] for line in lines}


def test_a_canary_that_is_closed_grants_what_it_promised_and_then_leaves_the_pool_alone():
    pool = canary(share_bp=5_000)
    life = Life(pool, 4, load=1.5)

    def close(life):
        if life.now_us > 3 * SECOND and not pool.is_closing and len(pool.core.waiting) > 1:
            pool.close()
            promised.extend(pool.core.waiting)
            before.append(pool.arms()[1].arrived)

    promised, before = [], []
    life.run(15, close)
    assert promised
    assert pool.is_over
    assert pool.arms()[1].arrived == before[0]
    assert {each.request.request_id for each in life.granted} & set(promised)
    assert pool.alone(life.now_us) is pool.live
    assert pool.live.is_idle


@pytest.mark.parametrize("call", ["arrive", "grant_one", "progress", "settle", "expire", "foremost", "adopt"])
def test_a_candidate_that_raises_decides_nothing_more_and_nobody_feels_it(call):
    pool = canary(share_bp=5_000)
    life = Life(pool, 7, load=1.3)

    def plant(life):
        if life.now_us > 5 * SECOND:
            setattr(pool.core, call, broken)

    def broken(*_arguments):
        raise ZeroDivisionError("planted")

    life.run(12, plant)
    assert pool.failure == "ZeroDivisionError: planted"
    assert pool.is_over
    assert pool.live.is_idle
    assert len(life.in_slo) == len(life.granted)


class Answers:
    """A pool whose answers are counted: each request gets one."""

    def __init__(self, pool):
        self.pool, self.asked, self.ended = pool, set(), Counter()

    def __getattr__(self, name):
        return getattr(self.pool, name)

    def arrive(self, now_us, request):
        self.asked.add(request.request_id)
        arrival = self.pool.arrive(now_us, request)
        self.ended.update(name for name, _ in arrival.displaced)
        self.ended[request.request_id] += is_refused(arrival)
        return arrival

    def next_grants(self, now_us):
        grants = self.pool.next_grants(now_us)
        self.ended.update(each.request.request_id for each in grants)
        return grants

    def expire(self, now_us):
        expired = self.pool.expire(now_us)
        self.ended.update(name for name, _ in expired.refused)
        return expired

    def cancel(self, now_us, request_id):
        phase = self.pool.cancel(now_us, request_id)
        self.ended[request_id] += phase is Phase.QUEUED
        return phase


@pytest.mark.parametrize("call", ["arrive", "grant_one", "progress", "settle", "expire", "cancel"])
def test_whoever_waits_while_a_candidate_breaks_in_the_midst_of_a_call_is_answered_once(call):
    pool = canary(replace(RULES_OF_A_LIFE, policy="fcfs", queue_wait_factor=1.0), share_bp=5_000)
    answers = Answers(pool)
    broke = []

    def breaking(act):
        def broken(*arguments):
            found = act(*arguments)
            if found and getattr(found, "refused", True):
                broke.append(call)
                raise ZeroDivisionError("planted")
            return found

        return broken

    def plant(life):
        if life.now_us > 3 * SECOND and call not in vars(pool.core):
            setattr(pool.core, call, breaking(getattr(pool.core, call)))
        if call in vars(pool.core) and call == "cancel" and pool.core.waiting:
            answers.cancel(life.now_us, next(iter(pool.core.waiting)))

    Life(answers, 7, load=1.6).run(12, plant)
    assert broke == [call]
    assert answers.ended == dict.fromkeys(answers.asked, 1)


def test_a_larger_share_only_adds_workspaces_and_is_met():
    spaces = [UUID(int=number) for number in range(4_000)]
    chosen = [{each for each in spaces if arm_of("fast:1", each, bp) is ArmName.CANDIDATE} for bp in (0, 500, 2_000)]
    assert not chosen[0]
    assert chosen[1] < chosen[2]
    assert 120 < len(chosen[1]) < 280
    assert chosen[1] != {each for each in spaces if arm_of("fast:2", each, 500) is ArmName.CANDIDATE}


@given(
    judged=st.integers(1, 5_000), missed=st.floats(0, 0.2), other=st.integers(1, 100_000), look=st.integers(1, 1_000)
)
def test_a_few_requests_are_no_evidence_and_many_are(judged, missed, other, look):
    live = Arm(judged=other, kept=round(other * (1 - missed)))
    same = Arm(judged=judged, kept=round(judged * (1 - live.missed_share)))
    assert not is_worse(live, same, look) or same.missed_share - live.missed_share >= 0.01
    assert not is_worse(live, Arm(judged=1, kept=0), look) or live.missed_share < ALPHA
    assert is_worse(Arm(judged=100_000, kept=99_900), Arm(judged=5_000, kept=4_800), look)
    assert not is_worse(Arm(judged=100_000, kept=99_900), Arm(judged=5_000, kept=4_960), look)
    assert not is_worse(Arm(), Arm(judged=50, kept=0), look)
