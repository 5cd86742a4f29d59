"""The canary monitor: what it decides, what it refuses to decide, and that its bounds hold."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.evals.domain.canary import (
    LIVE_METRICS,
    ROLLBACK_RATIOS,
    ROLLBACK_WEIGHTS,
    ArmLook,
    Decision,
    Look,
    MetricRules,
    Rules,
    fresh,
    judge,
    monitor_state,
)
from interlock.evals.domain.replay import replay

RULES = Rules({"errors": MetricRules()})
LIVE = Rules(LIVE_METRICS, is_live=True)


def arm(units, bad, **more):
    return ArmLook(units, {"errors": bad}, **more)


def watch(looks, rules=RULES, state=None):
    """Judge looks one after the other; return the last state and all judgements."""
    state, found = state or fresh(rules), []
    for each in looks:
        state, judgement = judge(rules, state, each)
        found.append(judgement)
    return state, found


def codes(judgement):
    return [each.code for each in judgement.reasons]


def live_arm(units, requests=None, **bad):
    counts = {"errors": 0, "slow": 0, "flagged": 0, **bad}
    return ArmLook(units, counts, counts, requests)


def line(look, canary, control, weight=0.1, **more):
    shown = {"look": look, "weight": weight, "canary": canary, "control": control, **more}
    return json.dumps({key: value for key, value in shown.items() if value is not None})


def counts(units, bad):
    return {"units": units, "bad": bad}


def test_a_control_without_errors_does_not_excuse_the_canary():
    _, found = watch([Look(t, 0.1, arm(300, 9), arm(2700, 0)) for t in range(1, 4)])
    assert found[-1].decision is Decision.ROLLBACK


def test_a_missing_arm_holds():
    state, found = watch([Look(t, 0.5, arm(900, 0), None) for t in range(1, 40)])
    assert {each.decision for each in found} == {Decision.HOLD}
    assert codes(found[-1]) == ["counts_invalid"]
    assert state.canary_units == 0


def test_an_arm_that_never_has_units_promotes_nothing():
    _, found = watch([Look(t, 0.9, arm(50, 0), arm(0, 0)) for t in range(1, 40)])
    assert Decision.PROMOTE not in {each.decision for each in found}


def test_every_reason_has_statistic_n_and_threshold():
    streams = [
        [Look(1, 0.1, arm(300, 30), arm(2700, 20))],
        [Look(1, 0.1, arm(6, 6), arm(10, 0))],
        [Look(1, 0.1, arm(500, 0), arm(4500, 0))],
        [Look(1, 0.1, arm(20, 0), arm(180, 0))],
        [Look(1, 0.1, arm(2000, 0), arm(2000, 0))],
        [Look(1, 0.1, None, arm(10, 0))],
        [Look(1, 0.1, arm(0, 0), arm(0, 0))],
    ]
    seen = set()
    for looks in streams:
        _, found = watch(looks)
        for reason in found[-1].reasons:
            seen.add(reason.code)
            assert reason.statistic is not None
            assert reason.n is not None
            assert reason.threshold is not None
    assert seen == {
        "worse_than_control",
        "hard_floor",
        "shown_not_worse",
        "evidence_short",
        "sample_ratio_mismatch",
        "counts_invalid",
        "no_traffic",
    }


def test_low_traffic_holds():
    _, found = watch([Look(t, 0.05, arm(2, 0), arm(38, 0)) for t in range(1, 61)])
    assert {each.decision for each in found} == {Decision.HOLD}
    assert "evidence_short" in codes(found[-1])


def test_a_clean_canary_promotes_within_450_units():
    state, found = fresh(RULES), None
    for number in range(1, 100):
        state, found = judge(RULES, state, Look(number, 0.1, arm(10, 0), arm(90, 0)))
        if found.decision is Decision.PROMOTE:
            break
    assert 350 < state.canary_units <= 450


def test_rollback_wins_over_every_wait():
    clean = [Look(t, 0.1, arm(3, 0), arm(27, 0), is_dwelt=False) for t in range(1, 3)]
    bad = Look(3, 0.1, arm(40, 30), arm(360, 0), is_dwelt=False)
    state, found = watch([*clean, bad])
    assert found[-1].decision is Decision.ROLLBACK
    # A later look without counts does not take the decision back.
    _, again = watch([Look(4, 0.1, None, None)], state=state)
    assert again[0].decision is Decision.ROLLBACK


def test_a_wrong_split_holds_until_a_new_rollout():
    state, found = watch([Look(1, 0.1, arm(1000, 0), arm(1000, 0))])
    assert codes(found[0]) == ["sample_ratio_mismatch"]
    _, later = watch([Look(t, 0.5, arm(500, 0), arm(500, 0)) for t in range(2, 10)], state=state)
    assert {each.decision for each in later} == {Decision.HOLD}


def test_a_blind_live_monitor_rolls_back_after_twelve_looks_and_a_replay_holds():
    blind = [Look(t, 0.1, None, live_arm(10)) for t in range(1, 13)]
    _, found = watch(blind, LIVE)
    assert [each.decision for each in found] == [Decision.HOLD] * 11 + [Decision.ROLLBACK]
    assert codes(found[-1]) == ["monitor_blind"]
    _, replayed = watch(blind, Rules({"errors": MetricRules()}))
    assert {each.decision for each in replayed} == {Decision.HOLD}


def test_live_a_unit_may_turn_bad_in_a_look_without_new_units():
    looks = [Look(1, 0.1, live_arm(100), live_arm(900)), Look(2, 0.1, live_arm(0, errors=2), live_arm(0, errors=1))]
    _, found = watch(looks, LIVE)
    assert "counts_invalid" not in codes(found[-1])
    _, replayed = watch([Look(each.number, 0.1, each.canary, each.control) for each in looks])
    assert codes(replayed[-1]) == ["counts_invalid"]


def test_one_session_is_one_bad_unit():
    """Forty bad requests of one session reach the monitor as one bad unit, and one bad unit is no reason."""
    looks = [Look(t, 0.1, live_arm(30, 60, errors=1 if t == 3 else 0), live_arm(270, 540)) for t in range(1, 10)]
    state, found = watch(looks, LIVE)
    assert state.metrics["errors"].canary_bad == 1
    assert Decision.ROLLBACK not in {each.decision for each in found}


def test_promotion_needs_slow_as_well_as_errors_and_not_flagged():
    slow = [Look(t, 0.1, live_arm(500, slow=15 if t == 1 else 0), live_arm(4500, slow=100)) for t in range(1, 2)]
    _, found = watch(slow, LIVE)
    assert found[-1].decision is Decision.HOLD
    flagged = [Look(1, 0.1, live_arm(500, flagged=2), live_arm(4500, flagged=20))]
    _, fine = watch(flagged, LIVE)
    assert fine[-1].decision is Decision.PROMOTE


def test_a_stage_begins_anew_for_promotion_and_not_for_roll_back():
    state, _ = watch([Look(1, 0.05, arm(200, 4), arm(3800, 20))])
    raised, _ = watch([Look(2, 0.5, arm(10, 0), arm(10, 0))], state=state)
    assert raised.stage_canary_units == 10
    assert raised.metrics["errors"].stage_canary_bad == 0
    assert raised.metrics["errors"].rollback == state.metrics["errors"].rollback


def test_a_shared_brownout_adds_nothing_to_the_relative_part():
    state, found = watch([Look(1, 0.1, arm(300, 45), arm(2700, 405))])
    assert found[0].decision is Decision.HOLD
    assert state.metrics["errors"].relative == (0.0, 0.0, 0.0)
    assert state.metrics["errors"].rollback != (0.0,) * 6


def test_a_state_survives_the_store():
    state, _ = watch([Look(1, 0.1, arm(300, 3), arm(2700, 30)), Look(2, 0.1, None, arm(1, 0))])
    assert monitor_state(json.loads(json.dumps(state.public()))) == state
    assert len(state.metrics["errors"].rollback) == 6


@given(weight=st.floats(0.001, 0.999), ratio=st.sampled_from(ROLLBACK_RATIOS))
def test_the_likelihood_ratio_of_a_bad_unit_has_mean_one_without_a_difference(weight, ratio):
    state, _ = watch([Look(1, weight, arm(1, 1), arm(1, 0))])
    bad_canary = state.metrics["errors"].rollback[ROLLBACK_RATIOS.index(ratio)]
    state, _ = watch([Look(1, weight, arm(1, 0), arm(1, 1))])
    bad_control = state.metrics["errors"].rollback[ROLLBACK_RATIOS.index(ratio)]
    assert weight * math.exp(bad_canary) + (1 - weight) * math.exp(bad_control) == pytest.approx(1.0)


def test_the_weights_of_the_mixture_sum_to_one():
    assert sum(ROLLBACK_WEIGHTS) == pytest.approx(1.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), weight=st.sampled_from([0.05, 0.1, 0.5]))
def test_the_e_process_has_mean_at_most_one_under_the_null(seed, weight):
    """Exact, not simulated: over all splits of the bad units of two looks, whatever the base rates are."""
    rng = np.random.default_rng(seed)
    totals = [int(each) for each in rng.integers(0, 6, 2)]
    mean = 0.0
    for first in range(totals[0] + 1):
        for second in range(totals[1] + 1):
            looks = [
                Look(number, weight, arm(50, canary), arm(50, total - canary))
                for number, (canary, total) in enumerate(zip((first, second), totals, strict=True), start=1)
            ]
            _, found = watch(looks)
            chance = math.prod(
                math.comb(total, canary) * weight**canary * (1 - weight) ** (total - canary)
                for canary, total in zip((first, second), totals, strict=True)
            )
            mean += chance * found[-1].readings["errors"].e_rollback
    assert mean <= 1.0 + 1e-9


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(-2, 60)), max_size=30))
def test_no_counts_however_odd_promote_without_evidence_for_it(rows):
    """Whatever comes, a PROMOTE rests on at least 350 canary units or 20 bad units."""
    looks = [Look(number, 0.3, arm(units, bad), arm(units * 2, 0)) for units, bad, number in rows]
    state, found = watch(looks)
    if any(each.decision is Decision.PROMOTE for each in found):
        assert state.canary_units >= 350 or state.metrics["errors"].canary_bad >= 20


@pytest.mark.parametrize(
    ("bad_line", "said"),
    [
        (line(2, counts(300, 0), None), "control"),
        (line(2, None, counts(300, 0)), "canary"),
        (line(2, {"units": 300}, counts(2700, 0)), "bad"),
        (line(2, counts(3, 4), counts(2700, 0)), "more bad units"),
        (line(2, counts(-3, 0), counts(2700, 0)), "negative"),
        (line(2, counts(300, 0), counts(2700, 0), weight=0), "weight"),
        (line(2, counts(300, 0), counts(2700, 0), weight=1), "weight"),
        (line(1, counts(300, 0), counts(2700, 0)), "came after"),
        (line(2, counts(math.nan, 0), counts(2700, 0)), "Line 2"),
        ('{"look":2,"weight":NaN,"canary":{"units":1,"bad":0},"control":{"units":1,"bad":0}}', "Line 2"),
        ("not json", "not JSON"),
        (line(2, counts(10**15, 0), counts(2700, 0)), "beyond"),
    ],
)
def test_a_bad_line_holds_names_its_line_and_adds_no_evidence(bad_line, said):
    good = [line(1, counts(300, 0), counts(2700, 0)), line(3, counts(300, 0), counts(2700, 0))]
    promoted = replay(good, RULES)
    assert promoted[0]["decision"] == "PROMOTE"
    found = replay([good[0], bad_line, good[1]], RULES)
    assert [each["decision"] for each in found] == ["HOLD"]
    reason = found[0]["reasons"][0]
    assert (reason["code"], reason["line"]) == ("counts_invalid", 2)
    assert said in reason["text"]
    assert found[0]["e_promote"] == promoted[0]["e_promote"]


def test_a_stream_with_a_bad_line_still_rolls_back_on_what_is_good():
    lines = [line(1, counts(300, 60), counts(2700, 20)), "{", line(2, counts(300, 60), counts(2700, 20))]
    assert replay(lines, RULES)[0]["decision"] == "ROLLBACK"


def test_streams_are_judged_apart():
    lines = [
        line(t, counts(300, bad), counts(2700, 20), stream=name)
        for t in range(1, 4)
        for name, bad in (("good", 2), ("bad", 30))
    ]
    assert {each["stream"]: each["decision"] for each in replay(lines, RULES)} == {"good": "HOLD", "bad": "ROLLBACK"}
