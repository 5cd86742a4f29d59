"""The policy core as a live pool hosts it: promises at arrival, credits, honest refusals, slots that never leak."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from interlock.contracts.scheduling import AdoptedGrant, Refused, ServiceClass, Settled, Settlement, SettleOutcome
from interlock.foundation.ids import OrganizationId
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.classes import ACCELERATOR_OBJECTIVES, EMBEDDED_OBJECTIVES
from interlock.scheduler.domain.engines import Dialect
from interlock.scheduler.domain.learning import DOUBT_US
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.types import EngineCondition, EngineState, Phase, PoolRules, Queued, Renewal
from interlock.scheduler.service import PoolSpec, rules_of
from tests.scheduler.calls import grant_request

RULES = PoolRules(
    name="fast",
    objectives=ACCELERATOR_OBJECTIVES,
    queue_seats_max=12,
    tenant_seats_max=4,
    queue_wait_factor=3.0,
    lease_us=10_000_000,
)
SLOW = replace(RULES, objectives=EMBEDDED_OBJECTIVES)
SECOND = 1_000_000
# Reads 1,000 prompt tokens a second.
READY = EngineState(
    "eng_a", "unix:/a", "m", slots=4, context_tokens=4_096, condition=EngineCondition.READY, prefill_tps=1_000
)
DONE = Settlement(SettleOutcome.OK, 10, 4, 5, 100, 200)


def pool(*engines, rules=RULES, weights=None):
    policy = Policy(rules, weights)
    for engine in engines or (READY,):
        policy.engine_changed(0, engine)
    return policy


def tenant(number):
    return OrganizationId(UUID(int=number))


def granted(policy, now_us=0):
    return [grant.request.request_id for grant in policy.next_grants(now_us)]


def arrive(policy, *names, now_us=0, **changes):
    return [policy.arrive(now_us, grant_request(name, **changes)).outcome for name in names]


def code(outcome):
    return outcome.code if isinstance(outcome, Refused) else outcome.promise


def read_prompt(policy, name, now_us, ttft_ms):
    policy.progress(now_us, name, 1, ttft_ms)


def test_of_ten_at_once_the_promise_can_be_kept_to_two():
    """Prompts of 400 tokens at 1,000 a second: the third first token would come after 1.2 s."""
    policy = pool()
    answers = arrive(policy, *"abcdefghij", input_tokens=400)
    assert [code(each) for each in answers] == ["final"] * 2 + ["deadline_infeasible"] * 8
    assert granted(policy) == ["a"]
    assert granted(policy, 350_000) == ["b"]


def test_our_own_engine_gets_no_prompt_more_before_it_says_that_it_read_those_it_has():
    """An engine that turned out slower than it was would else read all of them at once, and none in time."""
    tenth_s = SECOND // 10
    for dialect, given in ((Dialect.EMBEDDED, "abcd"), (Dialect.VLLM, "abcdefg")):
        rules = replace(SLOW, queue_seats_max=99, tenant_seats_max=99)
        policy = pool(replace(READY, dialect=dialect, slots=64), rules=rules)
        arrive(policy, *"abcdefg", input_tokens=1_000)
        assert [name for at in range(75) for name in granted(policy, at * tenth_s)] == list(given)
        for name in "abcd":
            read_prompt(policy, name, 8 * SECOND, 1_000)
        assert granted(policy, 8 * SECOND)[:1] == (["e"] if given == "abcd" else [])


def test_a_retry_after_the_time_that_it_was_told_is_queued():
    policy = pool(replace(READY, slots=64))
    answers = arrive(policy, *"abcdefghij", input_tokens=400)
    granted(policy)
    times = [each.retry_after_s for each in answers[2:]]
    assert times == sorted(times)
    clock_us, reading = 0, [("a", 400_000)]
    for name, again_s in zip("cdefghij", times, strict=True):
        due_us = round(again_s * SECOND)
        while clock_us < due_us:
            clock_us = min(clock_us + 20_000, due_us)
            while reading and reading[0][1] <= clock_us:
                read_prompt(policy, reading.pop(0)[0], clock_us, 400)
            for each in granted(policy, clock_us):
                reading.append((each, max(clock_us, reading[-1][1] if reading else 0) + 400_000))
        assert code(policy.arrive(clock_us, grant_request(name, input_tokens=400)).outcome) == "final"


def test_what_is_kept_of_a_late_prompt_is_not_read_of_the_next_one():
    """An engine would else be given a quarter more than it reads, and every promise of a long rush be broken."""
    policy = pool(replace(READY, slots=64))
    arrive(policy, "a", "b", input_tokens=400)
    assert (granted(policy), granted(policy, 300_000)) == (["a"], ["b"])
    read_prompt(policy, "a", 400_000, 400)
    assert policy.fleet.prefill_left(400_000) == 400
    assert policy.fleet.prefill_left(600_000) == 200


def test_newcomers_do_not_take_the_place_of_who_was_told_to_come_back():
    """The queue is full for a second; who was told first has the place that frees, whoever comes in between."""
    policy = pool(replace(READY, slots=64))
    told = arrive(policy, "a", "b", "c", "d", input_tokens=400)[2:]
    assert [code(each) for each in told] == ["deadline_infeasible"] * 2
    granted(policy)
    read_prompt(policy, "a", 400_000, 400)
    granted(policy, 400_000)
    [newcomer] = arrive(policy, "new", now_us=410_000, input_tokens=400)
    assert newcomer.detail["predicted_ttft_ms"] > 1_000
    assert newcomer.retry_after_s + 0.41 > told[1].retry_after_s
    for name, refusal in zip("cd", told, strict=True):
        at_us = round(refusal.retry_after_s * SECOND)
        assert code(policy.arrive(at_us, grant_request(name, input_tokens=400)).outcome) == "final"
        if name == "c":
            read_prompt(policy, "b", 800_000, 400)
            granted(policy, 800_000)


def test_nobody_waits_for_those_who_do_not_come_back():
    policy = pool(replace(READY, slots=64))
    for number in range(60):
        now_us = number * 4 * SECOND
        one, two, three = (f"r{number}{each}" for each in "abc")
        arrive(policy, one, two, three, now_us=now_us, input_tokens=400)
        for at_us in (0, 400_000, 800_000):
            for name in granted(policy, now_us + at_us):
                read_prompt(policy, name, now_us + at_us + 400_000, 400)
                policy.settle(now_us + at_us + 400_000, name, DONE)
    assert policy.retries.kept(241 * SECOND) is None
    arrive(policy, "a", "b", "c", now_us=300 * SECOND, input_tokens=400)
    granted(policy, 300 * SECOND)
    read_prompt(policy, "a", 300_400_000, 400)
    granted(policy, 300_400_000)
    [newcomer] = arrive(policy, "new", now_us=300_410_000, input_tokens=400)
    assert code(newcomer) == "final"


def test_a_repeat_before_its_time_is_refused_again_without_a_plan():
    policy = pool()
    first = arrive(policy, *"abc", input_tokens=400)[-1]
    again = policy.arrive(50_000, grant_request("c", input_tokens=400)).outcome
    assert (again.code, again.detail["predicted_ttft_ms"]) == (first.code, first.detail["predicted_ttft_ms"])
    assert again.retry_after_s == pytest.approx(first.retry_after_s - 0.05)


def test_defaults_refuse_early():
    """A pool as it is declared without a word about admission promises nothing that it cannot keep."""
    policy = Policy(rules_of(PoolSpec("fast", ACCELERATOR_OBJECTIVES, ()), SchedulerConfig()))
    policy.engine_changed(0, READY)
    answers = arrive(policy, *(f"r{n}" for n in range(50)), input_tokens=400)
    assert sum(isinstance(each, Refused) for each in answers) == 48


@pytest.mark.parametrize("prompts", [(400,) * 12, (1_200, 1), (90,) * 40])
def test_every_refusal_has_retry_and_fits(prompts):
    policy = pool()
    refusals = []
    for number, tokens in enumerate(prompts):
        outcome = policy.arrive(0, grant_request(f"r{number}", organization=tenant(number % 5), input_tokens=tokens))
        if isinstance(outcome.outcome, Refused):
            refusals.append(outcome.outcome)
        policy.next_grants(0)
    assert refusals
    for refusal in refusals:
        assert 0.1 <= refusal.retry_after_s <= 33
        assert refusal.detail["ttft_slo_ms"] == 1_000
        if refusal.code != "tenant_queue_full":
            assert refusal.detail["predicted_ttft_ms"] > 1_000
        assert set(refusal.detail["fits"]) == {"classes", "max_tokens"}
        assert {"demand_tps", "share_tps", "over_share", "debt_tokens"} == set(refusal.detail["tenant"])


def test_a_repeat_before_its_time_hears_what_the_first_refusal_said():
    policy = pool()
    told = arrive(policy, *"abc", input_tokens=400)[-1]
    [again] = arrive(policy, "c", input_tokens=400)
    assert isinstance(again, Refused)
    assert (again.code, again.detail) == (told.code, told.detail)
    assert again.detail["fits"]["classes"] == ["standard", "batch"]


def test_a_refusal_that_planned_nothing_says_where_its_tenant_stands():
    policy = pool()
    [refusal] = arrive(policy, "a", input_tokens=9_000)
    assert refusal.code == "request_exceeds_engine"
    assert refusal.detail["tenant"] == {"demand_tps": 0.0, "share_tps": 1_300.0, "over_share": False, "debt_tokens": 0}


def test_what_a_refusal_says_would_fit_is_queued():
    policy = pool()
    refusal = arrive(policy, *"abc", input_tokens=400)[-1]
    assert refusal.detail["fits"]["classes"] == ["standard", "batch"]
    [seat] = arrive(policy, "again", input_tokens=400, service_class=ServiceClass.STANDARD)
    assert isinstance(seat, Queued)


def test_a_queue_is_bounded_in_time():
    """The engine stalls: nobody waits longer than three times what was promised."""
    policy = pool(replace(READY, slots=1), rules=replace(RULES, predicts=False))
    arrive(policy, "runs", "waits")
    assert granted(policy) == ["runs"]
    policy.progress(2 * SECOND, "runs", 1, None)
    assert policy.expire(3 * SECOND - 1).refused == ()
    [(name, refusal)] = policy.expire(3 * SECOND).refused
    assert (name, refusal.code, refusal.http_status) == ("waits", "queue_time_exceeded", 429)


def test_engine_queue_stays_empty():
    """What is granted and not read yet stays under a tenth of the promise; the order of the rest stays ours."""
    policy = pool(replace(READY, slots=64), rules=replace(SLOW, queue_seats_max=99, tenant_seats_max=99))
    arrive(policy, *(f"r{number}" for number in range(20)), input_tokens=350)
    before, now_us = 0, 0
    while policy.waiting:
        for grant in policy.next_grants(now_us):
            before += 1
            left = policy.fleet.replicas["eng_a"].prefill_left(now_us)
            assert left - grant.request.input_tokens <= 0.1 * 8 * 1_000
        now_us += 50_000
        assert policy.fleet.replicas["eng_a"].granted < 64
    assert before == 20


def test_short_prompts_pass_a_long_prefill():
    """A long prompt of a class with more time does not hold back short ones that are due sooner."""
    policy = pool()
    arrive(policy, "first", input_tokens=150)
    assert granted(policy) == ["first"]
    arrive(policy, "long", input_tokens=2_000, service_class=ServiceClass.STANDARD)
    arrive(policy, "short", input_tokens=100)
    assert granted(policy, 100_000) == ["short"]


def test_reserved_seat_for_interactive():
    """Best effort leaves one seat of an engine free, so a promise does not wait for a long answer to end."""
    policy = pool()
    arrive(policy, *"abcd", service_class=ServiceClass.BATCH)
    assert len(granted(policy)) == 3
    arrive(policy, "now")
    assert granted(policy) == ["now"]
    assert granted(policy, SECOND) == []


@pytest.mark.parametrize("phase", ["queued", "granted", "prefill", "decode"])
def test_cancel_returns_slot(phase):
    """In each phase the place is free at once, and the unused part of the charge is given back."""
    policy = pool(replace(READY, slots=1))
    if phase == "queued":
        # Short enough for its seat to be promised to the next one.
        arrive(policy, "holds", input_tokens=50, max_tokens=4)
    else:
        arrive(policy, "goes", input_tokens=50)
    granted(policy)
    if phase == "queued":
        arrive(policy, "goes", input_tokens=50)
        assert policy.cancel(0, "goes") is Phase.QUEUED
        assert policy.statistics().queued == 0
        return
    if phase == "decode":
        policy.progress(60_000, "goes", 3, 55)
    assert policy.cancel(60_000, "goes") is Phase.GRANTED
    used = Settlement(
        SettleOutcome.CLIENT_GONE, 0 if phase == "granted" else 50, 0, 3 if phase == "decode" else 0, None, 60
    )
    settled = policy.settle(60_000, "goes", used)
    assert settled.charged_tokens == {"granted": 0, "prefill": 50, "decode": 56}[phase]
    assert settled.charged_tokens + settled.refunded_tokens == 50 + 2 * 20
    assert (policy.statistics().granted, policy.fleet.replicas["eng_a"].seats) == (0, 1)
    arrive(policy, "next")
    assert granted(policy, 60_000) == ["next"]


def test_a_tenant_over_its_share_gives_way_and_one_inside_does_not():
    policy = pool(replace(READY, slots=64), rules=replace(RULES, queue_seats_max=99, tenant_seats_max=99))
    policy.rates.capacity, policy.rates.measured_us = 60.0, 1
    arrive(policy, "runs", input_tokens=300, organization=tenant(1))
    granted(policy)
    flood = arrive(policy, *(f"hog{n}" for n in range(3)), input_tokens=200, max_tokens=400, organization=tenant(2))
    assert code(flood[0]) == "provisional"
    arrival = policy.arrive(0, grant_request("modest", input_tokens=100, max_tokens=4, organization=tenant(3)))
    assert code(arrival.outcome) == "final"
    [(name, refusal), *_] = arrival.displaced
    assert (name[:3], refusal.code, refusal.http_status) == ("hog", "displaced", 429)
    assert refusal.detail["tenant"]["over_share"]


def test_a_heavier_tenant_may_have_more():
    weights = {str(tenant(2)): 100.0}
    for given, promise in (({}, "provisional"), (weights, "final")):
        policy = pool(replace(READY, slots=64), weights=given)
        policy.rates.capacity, policy.rates.measured_us = 100.0, 1
        arrive(policy, "other", input_tokens=300, organization=tenant(1))
        granted(policy)
        assert code(arrive(policy, "big", input_tokens=500, max_tokens=200, organization=tenant(2))[0]) == promise


def test_a_workspace_shares_what_its_organization_has():
    """Two workspaces of one organization: the flood of one does not make the other provisional."""
    policy = pool(replace(READY, slots=64), rules=replace(RULES, queue_seats_max=99, tenant_seats_max=99))
    quiet, loud = UUID(int=71), UUID(int=72)
    asked = grant_request("q0", input_tokens=40, max_tokens=4)
    policy.arrive(0, replace(asked, workspace_id=quiet))
    policy.next_grants(0)
    for number in range(40):
        policy.arrive(0, replace(asked, request_id=f"l{number}", workspace_id=loud, input_tokens=200, max_tokens=900))
    outcome = policy.arrive(0, replace(asked, request_id="q1", workspace_id=quiet)).outcome
    assert code(outcome) == "final"


def test_a_prompt_goes_where_its_beginning_is_cached_until_that_engine_is_crowded():
    policy = pool(READY, replace(READY, engine_id="eng_b"), rules=replace(RULES, tenant_seats_max=99))
    chain = tuple(f"{number:016x}" for number in range(6))
    arrive(policy, "first", input_tokens=800, prefix=chain)
    [first] = policy.next_grants(0)
    read_prompt(policy, "first", 800_000, 800)
    arrive(policy, "again", now_us=SECOND, input_tokens=800, prefix=chain)
    [again] = policy.next_grants(SECOND)
    assert (again.engine.engine_id, again.reason) == (first.engine.engine_id, "prefix")
    assert again.predicted.cached_input_tokens == 6 * 128
    other = pool(READY, replace(READY, engine_id="eng_b"), rules=replace(RULES, routes_by_prefix=False))
    arrive(other, "first", input_tokens=800, prefix=chain)
    other.next_grants(0)
    read_prompt(other, "first", 800_000, 800)
    arrive(other, "again", now_us=SECOND, input_tokens=800, prefix=chain)
    assert other.next_grants(SECOND)[0].predicted.cached_input_tokens == 0


def test_a_prompt_waits_for_the_engine_that_knows_its_beginning_and_others_go_before_it():
    """Reading 32 tokens behind 300 others is sooner than reading 800; who comes behind takes the engine left alone."""
    policy = pool(READY, replace(READY, engine_id="eng_b"))
    chain = tuple(f"{number:016x}" for number in range(6))
    arrive(policy, "first", input_tokens=800, prefix=chain)
    policy.next_grants(0)
    read_prompt(policy, "first", 800_000, 800)
    policy.settle(SECOND, "first", DONE)
    arrive(policy, "longer", now_us=SECOND, input_tokens=1_068, prefix=chain)
    assert [each.engine.engine_id for each in policy.next_grants(SECOND)] == ["eng_a"]
    arrive(policy, "again", now_us=SECOND, input_tokens=800, prefix=chain)
    arrive(policy, "other", now_us=SECOND + 1, input_tokens=200)
    [other] = policy.next_grants(SECOND + 1)
    assert (other.request.request_id, other.engine.engine_id) == ("other", "eng_b")
    now_us = SECOND + 1
    while not (grants := policy.next_grants(now_us)):
        now_us += policy.opens_in_us(now_us)
    [again] = grants
    assert (again.request.request_id, again.engine.engine_id, again.reason) == ("again", "eng_a", "prefix")


def test_a_speed_is_learned_from_what_was_read_also_where_prefixes_do_not_route():
    """An engine that knew most of a prompt is not thought to read all of it in that time."""
    policy = pool(rules=replace(SLOW, routes_by_prefix=False))
    chain = tuple(f"{number:016x}" for number in range(6))
    for number in range(4):
        now_us = 2 * number * SECOND
        arrive(policy, f"r{number}", now_us=now_us, input_tokens=1_000, prefix=chain)
        [grant] = policy.next_grants(now_us)
        took_ms = 1_000 if number == 0 else 232
        assert grant.predicted.cached_input_tokens == (0 if number == 0 else 768)
        read_prompt(policy, f"r{number}", now_us + took_ms * 1_000, took_ms)
        policy.settle(now_us + took_ms * 1_000, f"r{number}", DONE)
    [engine] = policy.statistics().engines
    assert engine.prefill_tps == pytest.approx(1_000, rel=0.01)


def test_routing_survives_frozen_gauges():
    """Gauges that say that the engine is full take seats of others away, never our own count, and give none."""
    policy = pool()
    policy.engine_scraped(0, "eng_a", others=3, kv_share=0.9)
    arrive(policy, "a", "b")
    assert granted(policy) == ["a"]
    policy.engine_scraped(0, "eng_a", others=0, kv_share=0.9)
    assert granted(policy) == ["b"]
    policy.engine_scraped(0, "eng_a", others=-9, kv_share=0.9)
    arrive(policy, *"cdef", organization=tenant(5))
    granted(policy)
    assert policy.fleet.replicas["eng_a"].granted <= 4


def test_the_kv_of_an_engine_bounds_what_runs():
    policy = pool(replace(READY, kv_tokens=1_024, slots=8), rules=SLOW)
    arrive(policy, *"abc", input_tokens=300, max_tokens=20)
    assert granted(policy, 2 * SECOND) == ["a", "b"]
    policy.progress(3 * SECOND, "b", 1, 300)
    policy.settle(3 * SECOND, "a", DONE)
    assert granted(policy, 4 * SECOND) == ["c"]


def test_how_fast_an_engine_reads_is_learned_and_then_refused_by():
    policy = pool(rules=SLOW)
    now_us = 0
    for number in range(12):
        arrive(policy, f"r{number}", f"s{number}", now_us=now_us, input_tokens=1_000)
        for name in [*granted(policy, now_us), *granted(policy, now_us + SECOND)]:
            now_us += 4 * SECOND
            policy.progress(now_us, name, 1, (now_us - policy.running[name].granted_us) // 1_000)
        for name in (f"r{number}", f"s{number}"):
            if name in policy.running:
                policy.settle(now_us, name, replace(DONE, input_tokens=1_000, cached_input_tokens=0))
        policy.expire(now_us)
    assert policy.fleet.replicas["eng_a"].rho < 500
    arrive(policy, "first", now_us=now_us, input_tokens=1_000)
    granted(policy, now_us)
    [refusal] = arrive(policy, "second", now_us=now_us, input_tokens=2_900)
    assert refusal.code == "deadline_infeasible"


def test_an_idle_pool_that_learned_to_be_slow_still_lets_itself_be_proved_wrong():
    policy = pool()
    policy.fleet.replicas["eng_a"].rho = 50.0
    assert code(arrive(policy, "a", input_tokens=800)[0]) == "final"
    assert granted(policy) == ["a"]
    assert arrive(policy, "b", input_tokens=800)[0].code == "deadline_infeasible"


def test_how_long_answers_get_is_learned():
    policy = pool(rules=replace(RULES, tenant_seats_max=99))
    now_us = 0
    for number in range(40):
        now_us += SECOND
        arrive(policy, f"r{number}", now_us=now_us, max_tokens=1_000, route="faq")
        granted(policy, now_us)
        policy.settle(now_us, f"r{number}", replace(DONE, output_tokens=30))
    [seat] = arrive(policy, "next", now_us=now_us + SECOND, max_tokens=1_000, route="faq")
    assert seat.predicted.output_tokens == pytest.approx(30, rel=0.2)
    [short] = arrive(policy, "short", now_us=now_us + SECOND, max_tokens=8, route="faq")
    assert short.predicted.output_tokens == 8


def test_a_deadline_that_the_answer_cannot_meet_is_refused_with_nothing_queued():
    policy = pool(replace(READY, tpot_ms=20.0))
    [refusal] = arrive(policy, "a", max_tokens=200, deadline_ms=1_500)
    assert (refusal.code, policy.statistics().queued) == ("deadline_infeasible", 0)
    assert isinstance(arrive(policy, "b", max_tokens=200, deadline_ms=5_000)[0], Queued)


def test_a_deadline_ends_the_wait_with_its_own_code():
    policy = pool(replace(READY, slots=1), rules=replace(RULES, predicts=False))
    arrive(policy, "a")
    granted(policy)
    arrive(policy, "c", deadline_ms=2_000)
    [(_, refusal)] = policy.expire(2 * SECOND).refused
    assert refusal.code == "deadline_infeasible"


def test_a_ttft_of_the_caller_tightens_and_never_loosens():
    policy = pool()
    assert arrive(policy, "a", ttft_ms=900_000)[0].expires_us == 3 * SECOND
    assert arrive(policy, "b", ttft_ms=300, input_tokens=400)[0].code == "deadline_infeasible"


def test_one_tenant_cannot_take_all_the_seats_whatever_its_keys():
    policy = pool(replace(READY, slots=1), rules=replace(RULES, predicts=False))
    arrive(policy, "runs", organization=tenant(9))
    granted(policy)
    answers = [
        policy.arrive(0, replace(grant_request(f"r{n}", organization=tenant(1)), key_id=UUID(int=n))).outcome
        for n in range(5)
    ]
    assert isinstance(answers[-1], Refused)
    assert answers[-1].code == "tenant_queue_full"
    assert isinstance(arrive(policy, "other", organization=tenant(2))[0], Queued)


def test_the_queue_as_a_whole_is_bounded_too():
    policy = pool(replace(READY, slots=1), rules=replace(RULES, predicts=False))
    for number in range(12):
        arrive(policy, f"r{number}", organization=tenant(number // 4))
    [refusal] = arrive(policy, "one-more", organization=tenant(9))
    assert (refusal.code, refusal.http_status) == ("overloaded", 503)


def test_a_prompt_that_no_engine_can_hold_is_refused_for_good():
    [refusal] = arrive(pool(rules=SLOW), "a", input_tokens=4_096)
    assert (refusal.code, refusal.http_status, refusal.retry_after_s) == ("request_exceeds_engine", 413, None)
    assert isinstance(arrive(pool(rules=SLOW), "b", input_tokens=4_000)[0], Queued)


def test_a_prompt_that_one_engine_can_hold_waits_for_that_one_and_is_not_overtaken():
    big = replace(READY, engine_id="eng_big", slots=1, context_tokens=100_000, prefill_tps=100_000)
    policy = pool(READY, big)
    arrive(policy, "runs", input_tokens=10_000)
    assert granted(policy) == ["runs"]
    arrive(policy, "long", input_tokens=10_000)
    arrive(policy, "late", now_us=1)
    assert granted(policy, 1) == []
    policy.settle(SECOND, "runs", DONE)
    assert granted(policy, SECOND) == ["long", "late"]


def test_requests_wait_for_an_engine_that_is_starting():
    policy = pool(replace(READY, condition=EngineCondition.STARTING))
    arrive(policy, "a")
    assert granted(policy) == []
    policy.engine_changed(0, READY)
    assert granted(policy) == ["a"]


@pytest.mark.parametrize("condition", [EngineCondition.DOWN, EngineCondition.DRAINING])
def test_without_a_ready_engine_there_is_no_capacity(condition):
    [refusal] = arrive(pool(replace(READY, condition=condition)), "a")
    assert (refusal.code, refusal.http_status, refusal.retry_after_s) == ("no_capacity", 503, 5.0)


def test_when_the_last_engine_goes_down_seats_end_and_grants_are_revoked():
    policy = pool(replace(READY, slots=2))
    arrive(policy, "a", "b", "c")
    granted(policy)
    stranded = policy.engine_changed(0, replace(READY, condition=EngineCondition.DOWN))
    assert [(name, refusal.code) for name, refusal in stranded] == [("c", "no_capacity")]
    assert policy.progress(SECOND, "a", 1, None) is Renewal.REVOKED
    assert policy.expire(10 * SECOND).lost == ("a", "b")


def test_a_draining_pool_refuses_what_waits_and_lets_the_rest_end():
    policy = pool(replace(READY, slots=2))
    arrive(policy, "a", "b", "c")
    granted(policy)
    assert [refusal.code for _, refusal in policy.drain(0, is_draining=True)] == ["pool_draining"]
    assert arrive(policy, "d")[0].code == "pool_draining"
    assert isinstance(policy.settle(SECOND, "a", DONE), Settled)
    policy.drain(SECOND, is_draining=False)
    arrive(policy, "e", now_us=SECOND)
    assert granted(policy, SECOND) == ["e"]


def test_an_engine_that_is_taken_out_finishes_what_it_runs():
    policy = pool(READY, replace(READY, engine_id="eng_b"))
    arrive(policy, "a")
    granted(policy)
    policy.engine_removed(0, "eng_a")
    policy.engine_removed(0, "eng_b")
    assert list(policy.fleet.replicas) == ["eng_a"]
    assert arrive(policy, "b")[0].code == "no_capacity"
    assert policy.settle(SECOND, "a", DONE) is not None
    policy.expire(20 * SECOND)
    assert not policy.fleet.replicas


def test_the_same_request_is_not_queued_twice():
    policy = pool()
    arrive(policy, "a")
    assert arrive(policy, "a")[0].code == "grant_exists"
    granted(policy)
    assert arrive(policy, "a")[0].code == "grant_exists"
    policy.settle(0, "a", DONE)
    assert isinstance(arrive(policy, "a")[0], Queued)


def test_a_request_waits_for_a_living_engine_rather_than_for_the_free_seats_of_a_dead_one():
    """A dead engine gives back all its seats at once, and would be given everything that waits."""
    policy = pool(replace(READY, slots=1), replace(READY, slots=1, engine_id="eng_b"), rules=SLOW)
    arrive(policy, "cut", "runs", "asked", "waits", input_tokens=50)
    assert granted(policy) == ["cut", "runs"]
    read_prompt(policy, "cut", 50_000, 50)
    read_prompt(policy, "runs", 50_000, 50)
    policy.settle(60_000, "cut", replace(DONE, outcome=SettleOutcome.UPSTREAM_ERROR))
    [asked] = policy.next_grants(60_000)
    policy.settle(61_000, "asked", replace(DONE, outcome=SettleOutcome.UPSTREAM_ERROR, output_tokens=0, ttft_ms=None))
    assert granted(policy, 61_000) == []
    policy.settle(70_000, "runs", DONE)
    [waits] = policy.next_grants(70_000)
    assert waits.request.request_id == "waits"
    assert waits.engine.engine_id != asked.engine.engine_id
    # Where there is no other, or a moment later, it is asked again: one bad request takes no engine away.
    arrive(policy, "later", now_us=3 * SECOND, input_tokens=50)
    assert [each.engine.engine_id for each in policy.next_grants(3 * SECOND)] == [asked.engine.engine_id]


def test_the_only_engine_is_asked_again_after_a_grant_without_a_byte():
    policy = pool()
    arrive(policy, "a", "b", input_tokens=50)
    granted(policy)
    policy.settle(10_000, "a", replace(DONE, outcome=SettleOutcome.UPSTREAM_ERROR, output_tokens=0, ttft_ms=None))
    arrive(policy, "again", now_us=10_000, input_tokens=50)
    assert granted(policy, 10_000) == ["again"]


def test_a_silent_grant_is_lost_after_its_lease_and_its_slot_is_free():
    policy = pool(replace(READY, slots=2))
    arrive(policy, "a", "b")
    granted(policy)
    policy.progress(5 * SECOND, "b", 3, None)
    assert policy.expire(10 * SECOND).lost == ("a",)
    assert policy.settle(10 * SECOND, "a", DONE) is None
    assert (policy.statistics().lost, policy.statistics().granted) == (1, 1)


def test_the_time_of_an_engine_is_split_over_what_it_ran():
    """3.6 dollars an hour are a thousandth a second: 2 s with both, 1 s with one, 1 s idle."""
    policy = pool(replace(READY, price_usd_hour=3.6))
    arrive(policy, "a", "b")
    granted(policy)
    first = policy.settle(2 * SECOND, "a", DONE)
    second = policy.settle(3 * SECOND, "b", DONE)
    policy.expire(4 * SECOND)
    assert (float(first.cost_usd), float(second.cost_usd)) == (pytest.approx(0.001), pytest.approx(0.002))
    assert policy.statistics().engines[0].idle_usd == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("changes", "in_slo", "wasted"),
    [
        ({}, True, 0),
        ({"ttft_ms": 1_001, "total_ms": 1_101}, False, 11),
        ({"total_ms": 301}, False, 11),
        ({"outcome": SettleOutcome.CLIENT_GONE}, False, 11),
        ({"outcome": SettleOutcome.UPSTREAM_ERROR}, False, 11),
        ({"outcome": SettleOutcome.UNUSED, "output_tokens": 0}, False, 0),
        ({"ttft_ms": None}, True, 0),
        ({"ttft_ms": None, "total_ms": 1_201}, False, 11),
    ],
)
def test_only_an_answer_inside_both_objectives_is_a_success(changes, in_slo, wasted):
    policy = pool()
    arrive(policy, "a")
    granted(policy)
    settled = policy.settle(SECOND, "a", replace(DONE, **changes))
    assert (settled.in_slo, settled.wasted_tokens) == (in_slo, wasted)


def test_the_larger_of_settled_and_reported_output_is_charged():
    policy = pool()
    arrive(policy, "a", "b", max_tokens=10)
    granted(policy)
    policy.progress(SECOND, "a", 9, 100)
    assert policy.settle(SECOND, "a", DONE).charged_tokens == 6 + 2 * 9
    assert policy.settle(SECOND, "b", replace(DONE, output_tokens=12)).charged_tokens == 30
    assert (policy.statistics().settle_mismatch, policy.statistics().engine_overrun) == (1, 1)


def test_a_new_leader_adopts_grants_whose_engine_is_there_and_remembers_what_the_old_one_learned():
    former = pool()
    former.fleet.replicas["eng_a"].rho = 700.0
    for number in range(30):
        former.lengths.learn(("w", "", ""), 40 + number % 3)
    policy = pool(replace(READY, slots=2), replace(READY, engine_id="eng_dead", condition=EngineCondition.DOWN))
    policy.recall(0, former.keep())
    assert policy.fleet.replicas["eng_a"].rho == 700.0
    assert policy.lengths.expect(("other", "", ""), 500).p50 == pytest.approx(41, rel=0.2)
    adopted = AdoptedGrant(grant_request("a"), "gnt_a", "eng_a", age_ms=3_000, output_tokens=7)
    assert policy.adopt(0, adopted)
    assert not policy.adopt(0, adopted)
    assert not policy.adopt(0, replace(adopted, request=grant_request("b"), engine_id="eng_dead"))
    assert not policy.adopt(0, replace(adopted, request=grant_request("c"), engine_id="eng_gone"))
    arrive(policy, "d", "e")
    assert granted(policy) == ["d"]


@pytest.mark.parametrize("policy_name", ["fcfs", "vtc", "edf", "bands", "sjf"])
def test_another_order_takes_over_who_waits(policy_name):
    policy = pool(replace(READY, slots=1))
    arrive(policy, "a", "b", "c")
    assert granted(policy) == ["a"]
    assert policy.configure(0, replace(RULES, policy=policy_name), {}) == []
    policy.settle(SECOND, "a", DONE)
    assert granted(policy, SECOND) == ["b"]
    assert policy.cancel(SECOND, "c") is Phase.QUEUED
    assert policy.statistics().queued == 0


class Pool(RuleBasedStateMachine):
    """Random lives of requests; a model of what each is doing is held against the core after every step."""

    names = st.integers(0, 30).map("r{}".format)

    @initialize()
    def begin(self):
        self.now_us = 0
        self.policy = pool(replace(READY, slots=3), replace(READY, engine_id="eng_b", slots=1))
        self.queued: dict[str, bool] = {}
        self.running: dict[str, int] = {}

    def ends(self, ended):
        for name, refusal in ended:
            assert refusal.code != "displaced" or not self.queued[name], "a final request was displaced"
            del self.queued[name]

    @rule(
        name=names,
        owner=st.integers(0, 4),
        ttft_ms=st.sampled_from([None, 500, 2_000]),
        tokens=st.sampled_from([10, 200, 600]),
        service_class=st.sampled_from(ServiceClass),
    )
    def arrives(self, name, owner, ttft_ms, tokens, service_class):
        request = grant_request(
            name, organization=tenant(owner), ttft_ms=ttft_ms, input_tokens=tokens, service_class=service_class
        )
        arrival = self.policy.arrive(self.now_us, request)
        self.ends(arrival.displaced)
        if isinstance(arrival.outcome, Queued):
            assert name not in self.queued
            assert name not in self.running
            self.queued[name] = arrival.outcome.promise == "final"

    @rule()
    def grants(self):
        for name in granted(self.policy, self.now_us):
            del self.queued[name]
            self.running[name] = self.now_us + RULES.lease_us

    @rule(milliseconds=st.integers(1, 9_000))
    def time_passes(self, milliseconds):
        self.now_us += milliseconds * 1_000
        expired = self.policy.expire(self.now_us)
        self.ends(expired.refused)
        assert set(expired.lost) == {name for name, lease in self.running.items() if lease <= self.now_us}
        for name in expired.lost:
            del self.running[name]
        for waiting in self.policy.waiting.values():
            assert self.now_us - waiting.ask.arrived_us <= 3 * waiting.ask.ttft_us

    @rule(name=names, tokens=st.integers(0, 9), ttft_ms=st.sampled_from([None, 5, 300]))
    def reports(self, name, tokens, ttft_ms):
        renewal = self.policy.progress(self.now_us, name, tokens, ttft_ms)
        assert (renewal is Renewal.UNKNOWN) == (name not in self.running)
        if renewal is Renewal.RENEWED:
            self.running[name] = self.now_us + RULES.lease_us

    @rule(name=names, outcome=st.sampled_from(SettleOutcome))
    def settles(self, name, outcome):
        settled = self.policy.settle(self.now_us, name, replace(DONE, outcome=outcome))
        assert (settled is not None) == (name in self.running)
        if settled is not None:
            del self.running[name]
            assert settled.charged_tokens >= 0
            assert settled.refunded_tokens >= 0

    @rule(name=names)
    def cancels(self, name):
        phase = self.policy.cancel(self.now_us, name)
        expected = Phase.QUEUED if name in self.queued else Phase.GRANTED if name in self.running else None
        assert phase is expected
        if phase is Phase.QUEUED:
            del self.queued[name]

    @rule(condition=st.sampled_from(EngineCondition))
    def engine_changes(self, condition):
        self.ends(self.policy.engine_changed(self.now_us, replace(READY, slots=3, condition=condition)))

    @rule(name=names)
    def is_adopted(self, name):
        adopted = AdoptedGrant(grant_request(name), f"gnt_{name}", "eng_b", age_ms=10, output_tokens=0)
        if self.policy.adopt(self.now_us, adopted):
            assert name not in self.running
            assert name not in self.queued
            self.running[name] = self.now_us + RULES.lease_us

    @rule(policy_name=st.sampled_from(["interlock", "fcfs", "vtc"]))
    def changes_its_order(self, policy_name):
        for name, _ in self.policy.configure(self.now_us, replace(RULES, policy=policy_name), {}):
            del self.queued[name]
        self.queued = {name: waiting.promise == "final" for name, waiting in self.policy.waiting.items()}

    @invariant()
    def the_core_holds_what_the_model_holds(self):
        statistics = self.policy.statistics()
        assert set(self.policy.waiting) == set(self.queued)
        assert statistics.queued == len(self.queued) == self.policy.order.queued
        assert set(self.policy.running) == set(self.running)
        assert statistics.granted == sum(each.granted for each in statistics.engines)
        assert all(each.granted >= 0 for each in statistics.engines)
        assert all(each.kv_reserved >= 0 and each.prefill_left >= 0 for each in statistics.engines)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_who_is_asked_again_does_not_meet_the_engine_that_gave_nothing_while_there_is_another():
    broken = replace(DONE, outcome=SettleOutcome.UPSTREAM_ERROR, output_tokens=0, ttft_ms=None)
    policy = pool(READY, replace(READY, engine_id="eng_b"))

    def asked(now_us):
        arrive(policy, "again", now_us=now_us)
        (grant,) = policy.next_grants(now_us)
        return grant.engine.engine_id

    assert asked(0) == "eng_a"
    policy.settle(1, "again", broken)
    assert asked(2) == "eng_b"
    policy.settle(3, "again", DONE)
    # Only for a moment; who comes meanwhile waits for the other one, whose seats are in use.
    arrive(policy, *"wxyz", now_us=4)
    assert {each.engine.engine_id for each in policy.next_grants(4)} == {"eng_b"}
    arrive(policy, "again", "more", now_us=5)
    assert policy.next_grants(5) == []
    assert [each.engine.engine_id for each in policy.next_grants(1 + DOUBT_US)] == ["eng_a", "eng_a"]
    # A first token says that it was not the engine, and a caller that went away says nothing.
    policy.settle(12 + DOUBT_US, "more", broken)
    arrive(policy, "last", now_us=12 + DOUBT_US)
    assert policy.next_grants(12 + DOUBT_US) == []
    policy.progress(13 + DOUBT_US, "again", 1, 0)
    assert [each.engine.engine_id for each in policy.next_grants(13 + DOUBT_US)] == ["eng_a"]
    policy.settle(14 + DOUBT_US, "again", DONE)
    policy.settle(14 + DOUBT_US, "last", replace(broken, outcome=SettleOutcome.CLIENT_GONE))
    assert asked(15 + DOUBT_US) == "eng_a"
