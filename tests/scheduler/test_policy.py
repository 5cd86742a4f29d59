"""The policy core: arrival order, bounded seats and waits, and slots that are never leaked."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from interlock.contracts.scheduling import AdoptedGrant, Refused, Settled, Settlement, SettleOutcome
from interlock.foundation.ids import OrganizationId
from interlock.scheduler.domain.classes import EMBEDDED_OBJECTIVES
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.types import EngineCondition, EngineState, Phase, PoolRules, Queued, Renewal
from tests.scheduler.calls import grant_request

RULES = PoolRules(
    name="embedded",
    objectives=EMBEDDED_OBJECTIVES,
    queue_seats_max=12,
    tenant_seats_max=4,
    queue_wait_factor=3.0,
    lease_us=10_000_000,
)
SECOND = 1_000_000
READY = EngineState("eng_a", "unix:/a", "m", slots=2, context_tokens=100, condition=EngineCondition.READY)
DONE = Settlement(SettleOutcome.OK, 10, 4, 5, 100, 500)


def pool(*engines, rules=RULES):
    policy = Policy(rules)
    for engine in engines or (READY,):
        policy.engine_changed(engine)
    return policy


def tenant(number):
    return OrganizationId(UUID(int=number))


def granted(policy, now_us=0):
    return [grant.request.request_id for grant in policy.next_grants(now_us)]


def arrive(policy, *names, now_us=0, **changes):
    return [policy.arrive(now_us, grant_request(name, **changes)) for name in names]


def test_requests_are_granted_in_the_order_of_their_arrival():
    policy = pool()
    arrive(policy, "a", "b", "c", "d")
    assert granted(policy) == ["a", "b"]
    policy.settle(SECOND, "b", DONE)
    assert granted(policy) == ["c"]


def test_a_seat_tells_its_position_and_the_end_of_its_wait():
    policy = pool()
    first, second = arrive(policy, "a", "b")
    assert isinstance(first, Queued)
    assert (first.position, second.position) == (1, 2)
    assert first.expires_us == 24 * SECOND


def test_the_engine_with_the_fewest_grants_is_chosen():
    policy = pool(READY, replace(READY, engine_id="eng_b", slots=4))
    arrive(policy, *"abcd")
    assert [grant.engine.engine_id for grant in policy.next_grants(0)] == ["eng_a", "eng_b", "eng_a", "eng_b"]


def test_a_request_that_fits_one_engine_only_waits_for_that_one_and_is_not_overtaken():
    policy = pool(READY, replace(READY, engine_id="eng_big", slots=1, context_tokens=1_000))
    arrive(policy, "small")
    arrive(policy, "big", "big2", input_tokens=500)
    arrive(policy, "late")
    assert granted(policy) == ["small", "big"]
    policy.settle(SECOND, "big", DONE)
    assert granted(policy, SECOND) == ["big2", "late"]


def test_a_queue_is_bounded_in_time():
    policy = pool()
    arrive(policy, "a", "b")
    granted(policy)
    arrive(policy, "waits", now_us=SECOND)
    arrive(policy, "hurries", now_us=SECOND, ttft_ms=1_000)
    assert policy.expire(4 * SECOND - 1).refused == ()
    [(request_id, refusal)] = policy.expire(4 * SECOND).refused
    assert (request_id, refusal.code, refusal.http_status) == ("hurries", "queue_time_exceeded", 429)
    policy.progress(20 * SECOND, "a", 1, None)
    policy.progress(20 * SECOND, "b", 1, None)
    assert [request_id for request_id, _ in policy.expire(25 * SECOND).refused] == ["waits"]


def test_a_ttft_of_the_caller_tightens_and_never_loosens():
    policy = pool()
    [seat] = arrive(policy, "a", ttft_ms=900_000)
    assert seat.expires_us == 24 * SECOND


def test_a_deadline_ends_the_wait_with_its_own_code():
    policy = pool()
    arrive(policy, "a", "b")
    granted(policy)
    arrive(policy, "c", deadline_ms=2_000)
    [(_, refusal)] = policy.expire(2 * SECOND).refused
    assert refusal.code == "deadline_infeasible"


def test_a_deadline_below_what_the_engine_takes_is_refused_at_arrival():
    policy = pool()
    arrive(policy, "a")
    granted(policy)
    policy.progress(SECOND, "a", 1, 700)
    [refusal, seat] = [*arrive(policy, "b", deadline_ms=600), *arrive(policy, "c", deadline_ms=800)]
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.detail["predicted_ttft_ms"]) == ("deadline_infeasible", 700)
    assert isinstance(seat, Queued)


def test_one_tenant_cannot_take_all_the_seats():
    policy = pool()
    answers = arrive(policy, *"abcde", organization=tenant(1))
    assert [getattr(each, "code", "seat") for each in answers] == ["seat"] * 4 + ["tenant_queue_full"]
    assert isinstance(arrive(policy, "other", organization=tenant(2))[0], Queued)
    assert answers[-1].detail["tenant"] == {"queued": 4, "granted": 0}


def test_the_queue_as_a_whole_is_bounded_too():
    policy = pool()
    for number in range(12):
        arrive(policy, f"r{number}", organization=tenant(number // 4))
    [refusal] = arrive(policy, "one-more", organization=tenant(9))
    assert (refusal.code, refusal.http_status) == ("overloaded", 503)


def test_a_prompt_that_no_engine_can_hold_is_refused_for_good():
    [refusal] = arrive(pool(), "a", input_tokens=100)
    assert (refusal.code, refusal.http_status, refusal.retry_after_s) == ("request_exceeds_engine", 413, None)
    assert refusal.detail["context_tokens"] == 100
    assert isinstance(arrive(pool(), "b", input_tokens=99)[0], Queued)


def test_requests_wait_for_an_engine_that_is_starting():
    policy = pool(replace(READY, condition=EngineCondition.STARTING))
    arrive(policy, "a")
    assert granted(policy) == []
    policy.engine_changed(READY)
    assert granted(policy) == ["a"]


def test_requests_that_wait_for_an_engine_end_when_it_does_not_start():
    policy = pool(replace(READY, condition=EngineCondition.STARTING))
    arrive(policy, "a")
    [(_, refusal)] = policy.engine_changed(replace(READY, condition=EngineCondition.DOWN))
    assert refusal.code == "no_capacity"


@pytest.mark.parametrize("condition", [EngineCondition.DOWN, EngineCondition.DRAINING])
def test_without_a_ready_engine_there_is_no_capacity(condition):
    [refusal] = arrive(pool(replace(READY, condition=condition)), "a")
    assert (refusal.code, refusal.http_status, refusal.retry_after_s) == ("no_capacity", 503, 5.0)


def test_when_the_last_engine_goes_down_seats_end_and_grants_are_revoked():
    policy = pool()
    arrive(policy, "a", "b", "c")
    granted(policy)
    stranded = policy.engine_changed(replace(READY, condition=EngineCondition.DOWN))
    assert [(name, refusal.code) for name, refusal in stranded] == [("c", "no_capacity")]
    assert policy.progress(SECOND, "a", 1, None) is Renewal.REVOKED
    policy.engine_changed(READY)
    assert policy.statistics().granted == 2


def test_a_revoked_grant_is_not_renewed():
    policy = pool()
    arrive(policy, "a")
    granted(policy)
    policy.engine_changed(replace(READY, condition=EngineCondition.DOWN))
    policy.progress(9 * SECOND, "a", 3, None)
    assert policy.expire(10 * SECOND).lost == ("a",)


def test_a_draining_pool_refuses_what_waits_and_lets_the_rest_end():
    policy = pool()
    arrive(policy, "a", "b", "c")
    granted(policy)
    assert [refusal.code for _, refusal in policy.drain(is_draining=True)] == ["pool_draining"]
    assert arrive(policy, "d")[0].code == "pool_draining"
    assert isinstance(policy.settle(SECOND, "a", DONE), Settled)
    policy.drain(is_draining=False)
    arrive(policy, "e")
    assert granted(policy) == ["e"]


def test_the_same_request_is_not_queued_twice():
    policy = pool()
    arrive(policy, "a")
    assert arrive(policy, "a")[0].code == "grant_exists"
    granted(policy)
    assert arrive(policy, "a")[0].code == "grant_exists"
    policy.settle(0, "a", DONE)
    assert isinstance(arrive(policy, "a")[0], Queued)


def test_a_silent_grant_is_lost_after_its_lease_and_its_slot_is_free():
    policy = pool()
    arrive(policy, "a", "b", "c")
    granted(policy)
    policy.progress(5 * SECOND, "b", 3, None)
    assert policy.expire(10 * SECOND).lost == ("a",)
    assert granted(policy, 10 * SECOND) == ["c"]
    assert policy.settle(10 * SECOND, "a", DONE) is None
    assert policy.statistics().lost == 1


def test_settling_charges_uncached_input_and_twice_the_output():
    policy = pool()
    arrive(policy, "a")
    granted(policy)
    settled = policy.settle(SECOND, "a", DONE)
    assert settled == Settled(in_slo=True, charged_tokens=16, refunded_tokens=34, cost_usd="0", wasted_tokens=0)


@pytest.mark.parametrize(
    ("changes", "in_slo", "wasted"),
    [
        ({}, True, 0),
        ({"ttft_ms": 8_001, "total_ms": 9_000}, False, 11),
        ({"total_ms": 1_101}, False, 11),
        ({"outcome": SettleOutcome.CLIENT_GONE}, False, 11),
        ({"outcome": SettleOutcome.UPSTREAM_ERROR}, False, 11),
        ({"outcome": SettleOutcome.UNUSED, "output_tokens": 0}, False, 0),
        ({"ttft_ms": None}, False, 11),
    ],
)
def test_only_an_answer_inside_both_objectives_is_a_success(changes, in_slo, wasted):
    policy = pool()
    arrive(policy, "a")
    granted(policy)
    settled = policy.settle(SECOND, "a", replace(DONE, **changes))
    assert (settled.in_slo, settled.wasted_tokens) == (in_slo, wasted)


def test_the_wait_in_the_queue_counts_against_the_first_token():
    policy = pool(replace(READY, slots=1))
    arrive(policy, "a", "b")
    granted(policy)
    policy.progress(7 * SECOND, "a", 1, 100)
    policy.settle(7 * SECOND, "a", DONE)
    granted(policy, 7 * SECOND + 950_000)
    assert policy.settle(9 * SECOND, "b", DONE).in_slo is False


def test_the_larger_of_settled_and_reported_output_is_charged():
    policy = pool()
    arrive(policy, "a")
    granted(policy)
    policy.progress(SECOND, "a", 9, 100)
    assert policy.settle(SECOND, "a", DONE).charged_tokens == 6 + 2 * 9
    assert policy.statistics().settle_mismatch == 1


def test_an_engine_that_runs_over_is_counted_and_charged_as_reported():
    policy = pool()
    arrive(policy, "a", max_tokens=10)
    granted(policy)
    assert policy.settle(SECOND, "a", replace(DONE, output_tokens=12)).charged_tokens == 30
    assert policy.statistics().engine_overrun == 1


def test_figures_that_nobody_measured_are_unknown():
    policy = pool()
    [seat] = arrive(policy, "a")
    assert (seat.predicted.ttft_ms, seat.predicted.tpot_ms, seat.predicted.output_tokens) == (None, None, None)
    granted(policy)
    policy.progress(SECOND, "a", 1, 120)
    policy.settle(SECOND, "a", DONE)
    [seat] = arrive(policy, "b")
    assert (seat.predicted.ttft_ms, seat.predicted.tpot_ms) == (120, 100)


def test_a_new_leader_adopts_grants_whose_engine_is_there():
    policy = pool(READY, replace(READY, engine_id="eng_dead", condition=EngineCondition.DOWN))
    adopted = AdoptedGrant(grant_request("a"), "gnt_a", "eng_a", age_ms=3_000, output_tokens=7)
    assert policy.adopt(0, adopted)
    assert not policy.adopt(0, adopted)
    assert not policy.adopt(0, replace(adopted, request=grant_request("b"), engine_id="eng_dead"))
    assert not policy.adopt(0, replace(adopted, request=grant_request("c"), engine_id="eng_gone"))
    arrive(policy, "d", "e")
    assert granted(policy) == ["d"]


def test_a_refusal_says_when_the_queue_should_be_empty():
    policy = pool()
    arrive(policy, "a", "b", organization=tenant(7))
    granted(policy)
    policy.settle(4 * SECOND, "a", DONE)
    refusals = arrive(policy, *"cdefg", now_us=4 * SECOND)
    assert refusals[-1].retry_after_s == 10.0


class Pool(RuleBasedStateMachine):
    """Random lives of requests; a model of what each is doing is held against the core after every step."""

    names = st.integers(0, 30).map("r{}".format)

    @initialize()
    def begin(self):
        self.now_us = 0
        self.policy = pool(replace(READY, slots=3), replace(READY, engine_id="eng_b", slots=1))
        self.queued: dict[str, tuple[int, int]] = {}
        self.running: dict[str, int] = {}
        self.arrivals = self.outcomes = 0

    @rule(name=names, owner=st.integers(0, 4), ttft_ms=st.sampled_from([None, 500, 2_000]))
    def arrives(self, name, owner, ttft_ms):
        answer = self.policy.arrive(self.now_us, grant_request(name, organization=tenant(owner), ttft_ms=ttft_ms))
        self.arrivals += 1
        if isinstance(answer, Refused):
            self.outcomes += 1
            return
        assert name not in self.queued
        assert name not in self.running
        self.queued[name] = (self.now_us, answer.expires_us)

    @rule()
    def grants(self):
        waiting = list(self.queued)
        given = granted(self.policy, self.now_us)
        assert given == waiting[: len(given)]
        for name in given:
            del self.queued[name]
            self.running[name] = self.now_us + RULES.lease_us

    @rule(milliseconds=st.integers(1, 9_000))
    def time_passes(self, milliseconds):
        self.now_us += milliseconds * 1_000
        expired = self.policy.expire(self.now_us)
        ended = {name for name, _ in expired.refused}
        assert ended == {name for name, (_, expires_us) in self.queued.items() if expires_us <= self.now_us}
        assert set(expired.lost) == {name for name, lease in self.running.items() if lease <= self.now_us}
        for name in ended:
            del self.queued[name]
        for name in expired.lost:
            del self.running[name]
        self.outcomes += len(ended) + len(expired.lost)

    @rule(name=names)
    def reports(self, name):
        renewal = self.policy.progress(self.now_us, name, 1, None)
        assert (renewal is Renewal.UNKNOWN) == (name not in self.running)
        if renewal is Renewal.RENEWED:
            self.running[name] = self.now_us + RULES.lease_us

    @rule(name=names, outcome=st.sampled_from(SettleOutcome))
    def settles(self, name, outcome):
        settled = self.policy.settle(self.now_us, name, replace(DONE, outcome=outcome))
        assert (settled is not None) == (name in self.running)
        if settled is not None:
            del self.running[name]
            self.outcomes += 1
            assert settled.charged_tokens >= 0
            assert settled.refunded_tokens >= 0

    @rule(name=names)
    def cancels(self, name):
        phase = self.policy.cancel(name)
        expected = Phase.QUEUED if name in self.queued else Phase.GRANTED if name in self.running else None
        assert phase is expected
        if phase is Phase.QUEUED:
            del self.queued[name]
            self.outcomes += 1

    @rule(condition=st.sampled_from(EngineCondition))
    def engine_changes(self, condition):
        stranded = self.policy.engine_changed(replace(READY, slots=3, condition=condition))
        for name, refusal in stranded:
            assert refusal.code == "no_capacity"
            del self.queued[name]
            self.outcomes += 1

    @rule(name=names)
    def is_adopted(self, name):
        adopted = AdoptedGrant(grant_request(name), f"gnt_{name}", "eng_b", age_ms=10, output_tokens=0)
        if self.policy.adopt(self.now_us, adopted):
            assert name not in self.running
            assert name not in self.queued
            self.running[name] = self.now_us + RULES.lease_us
            self.arrivals += 1

    @invariant()
    def the_core_holds_what_the_model_holds(self):
        statistics = self.policy.statistics()
        assert statistics.queued == len(self.queued)
        assert statistics.queued_tokens == 10 * len(self.queued)
        assert statistics.granted == len(self.running) == sum(each.granted for each in statistics.engines)
        assert all(each.granted >= 0 for each in statistics.engines)
        assert sum(each.queued for each in statistics.tenants) == len(self.queued)
        assert sum(each.granted for each in statistics.tenants) == len(self.running)
        assert all(each.queued <= RULES.tenant_seats_max for each in statistics.tenants)
        assert self.arrivals == self.outcomes + len(self.queued) + len(self.running)
        assert self.policy.is_idle == (not self.queued and not self.running)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
