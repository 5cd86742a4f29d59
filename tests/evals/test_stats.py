"""Every formula against scipy or statsmodels, and the rules against what they promise."""

import math
import random

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from interlock.evals.domain.distributions import (
    binomial_at_least,
    incomplete_beta,
    student_t_at_most,
    student_t_quantile,
)
from interlock.evals.domain.rules import Rule, Thresholds, Verdict, needs_more, rule_on, worst
from interlock.evals.domain.stats import (
    Pair,
    arm_numbers,
    clean_upper,
    clopper_pearson,
    cluster_t,
    compare,
    mcnemar_worse,
    newcombe_paired,
    sign_flip,
    smallest_visible_drop,
    wilson,
)

GRID = [(0, 5), (1, 5), (5, 5), (3, 40), (20, 40), (59, 60), (117, 300), (0, 1000)]


def table(both, lost, won, neither):
    cells = [(True, True, both), (False, True, lost), (True, False, won), (False, False, neither)]
    return [Pair(f"{cand}{base}{number}", (cand,), (base,)) for cand, base, count in cells for number in range(count)]


def single(results, cluster=None):
    return [Pair(str(number), (each,), (True,), cluster) for number, each in enumerate(results)]


@pytest.mark.parametrize(("k", "n"), GRID)
def test_intervals_of_a_share_are_those_of_statsmodels(k, n):
    found = wilson(k, n, 1.959963984540054)
    assert (found.low, found.high) == pytest.approx(proportion_confint(k, n, 0.05, "wilson"), abs=1e-12)
    exact = clopper_pearson(k, n, 0.025)
    assert (exact.low, exact.high) == pytest.approx(proportion_confint(k, n, 0.05, "beta"), abs=1e-10)


@pytest.mark.parametrize("a", [0.5, 1, 3.5, 60])
@pytest.mark.parametrize("b", [0.5, 2, 40, 500])
@pytest.mark.parametrize("x", [0.001, 0.2, 0.5, 0.93])
def test_the_incomplete_beta_function_is_that_of_scipy(a, b, x):
    assert incomplete_beta(a, b, x) == pytest.approx(scipy.stats.beta.cdf(x, a, b), rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("degrees", [4, 9, 30, 499])
@pytest.mark.parametrize("p", [0.01, 0.05, 0.5, 0.975])
def test_student_is_that_of_scipy(degrees, p):
    t = student_t_quantile(p, degrees)
    assert t == pytest.approx(scipy.stats.t.ppf(p, degrees), abs=1e-9)
    assert student_t_at_most(t, degrees) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 2), (2, 5), (30, 0), (400, 380)])
def test_mcnemar_is_exact(b, c):
    assert mcnemar_worse(b, c) == pytest.approx(scipy.stats.binom.sf(b - 1, b + c, 0.5), abs=1e-12)
    two_sided = mcnemar([[10, b], [c, 10]], exact=True).pvalue
    if b > c:
        assert min(1.0, 2 * mcnemar_worse(b, c)) == pytest.approx(two_sided, abs=1e-10)
    assert binomial_at_least(b + c + 1, b + c, 0.5) == 0.0


def test_newcombe_gives_the_published_example():
    """Newcombe 1998, table II: 43, 0, 8 won... the example of Fleiss (36, 12, 2, 0) has 95 % limits .0569 and .3404."""
    found = newcombe_paired(36, 2, 12, 0, 0.025)
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=5e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=5, max_size=9))
def test_the_sign_flip_test_is_that_of_scipy(means):
    _, p_value = sign_flip(means, 0.05)
    expected = scipy.stats.permutation_test(
        (means,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        alternative="less",
        n_resamples=math.inf,
    )
    assert p_value == pytest.approx(expected.pvalue, abs=2 / 2 ** len(means) if 0.0 in means else 1e-9)


def test_the_bounds_of_the_sign_flip_test_are_where_it_stops_to_reject():
    means = [-0.1, 0.05, 0.2, 0.22, 0.31, 0.4, 0.05]
    interval, _ = sign_flip(means, 0.05)

    def p_greater(center):
        return sign_flip([center - each for each in means], 0.05)[1]

    assert p_greater(interval.low - 1e-6) <= 0.05
    assert p_greater(interval.low + 1e-3) > 0.05


def test_t_over_clusters_is_that_of_scipy():
    means = [-0.2, 0.1, 0.0, -0.05, 0.3, -0.4, -0.1, 0.02, 0.0, -0.11]
    interval, p_value = cluster_t(means, 0.05)
    expected = scipy.stats.ttest_1samp(means, 0.0, alternative="less")
    assert p_value == pytest.approx(expected.pvalue)
    both = expected.confidence_interval(0.95)
    assert interval.high == pytest.approx(both.high)


@pytest.mark.parametrize(("n", "churn", "pp"), [(114, 0.06, 8.9), (60, 0.02, 11.7), (40, 0.02, 16.5), (500, 0.06, 3.4)])
def test_power_says_which_drop_a_size_shows(n, churn, pp):
    assert smallest_visible_drop(n, churn, 0.05) * 100 == pytest.approx(pp, abs=0.06)


def test_power_is_what_a_simulation_finds():
    """A drop of the size that power names is found in about four of five comparisons."""
    rng, n, churn = random.Random(7), 200, 0.06
    drop = smallest_visible_drop(n, churn, 0.05)
    lost, won = churn / 2 + drop, churn / 2
    found = 0
    for _ in range(400):
        draws = [rng.random() for _ in range(n)]
        b, c = sum(each < lost for each in draws), sum(lost <= each < lost + won for each in draws)
        found += mcnemar_worse(b, c) <= 0.05
    assert 0.70 <= found / 400 <= 0.90


def test_200_equal_pairs_pass_and_a_drop_of_15_pp_fails():
    assert rule_on(table(140, 0, 0, 60), Thresholds()).verdict is Verdict.PASS
    found = rule_on(table(130, 30, 0, 40), Thresholds())
    assert (found.verdict, found.findings[0].code) == (Verdict.FAIL, "worse")


@pytest.mark.parametrize("cells", [(40, 0, 0, 0), (20, 0, 0, 20)])
def test_40_equal_pairs_are_too_few_to_tell(cells):
    found = rule_on(table(*cells), Thresholds())
    assert (found.verdict, found.findings[0].code) == (Verdict.INCONCLUSIVE, "underpowered")


def test_60_equal_pairs_decide():
    assert rule_on(table(60, 0, 0, 0), Thresholds()).verdict is Verdict.PASS


def test_near_threshold_is_inconclusive():
    """A drop of about the margin is neither passed nor failed."""
    found = rule_on(table(177, 9, 4, 10), Thresholds())
    assert (found.verdict, found.findings[0].code) == (Verdict.INCONCLUSIVE, "margin_not_shown")


def test_a_drop_inside_the_margin_passes_and_is_named():
    found = rule_on(table(1950, 30, 0, 20), Thresholds())
    assert found.verdict is Verdict.PASS
    assert [each.code for each in found.findings] == ["not_inferior", "drop_within_margin"]


def test_a_protected_slice_fails_alone():
    good = [Pair(f"g{n}", (True,), (True,)) for n in range(400)]
    bad = [Pair(f"b{n}", (n > 7,), (True,), slices=("refunds",)) for n in range(20)]
    assert rule_on([*good, *bad], Thresholds()).verdict is Verdict.PASS
    found = rule_on([*good, *bad], Thresholds(protected_slices=("refunds",)))
    assert (found.verdict, found.findings[0].code) == (Verdict.FAIL, "slice_worse")
    empty = rule_on(good, Thresholds(protected_slices=("absent",)))
    assert (empty.verdict, empty.findings[0].code) == (Verdict.INCONCLUSIVE, "slice_empty")


def test_clusters_are_the_unit_and_few_of_them_cannot_be_compared():
    clumped = [Pair(f"{c}-{n}", (c > 1,), (True,), cluster=f"c{c}") for c in range(20) for n in range(10)]
    assert compare(clumped, 0.05).method == "cluster_t"
    assert compare(clumped, 0.05).units == 20
    four = [each for each in clumped if each.cluster in {"c0", "c1", "c2", "c3"}]
    found = rule_on(four, Thresholds())
    assert (found.verdict, found.findings[0].code) == (Verdict.INCONCLUSIVE, "too_few_clusters")


def test_must_pass_case_blocks_alone():
    """A hundred perfect cases do not outweigh one that fails twice; one that fails once has to prove itself."""
    good = [Pair(f"g{n}", (True,) * 5, (True,) * 5) for n in range(100)]
    limits = Thresholds(rule=Rule.MUST_PASS)
    assert rule_on(good, limits).verdict is Verdict.PASS
    twice = Pair("bad", (False, True, False, True, True), (True,) * 5)
    assert rule_on([*good, twice], limits).verdict is Verdict.FAIL
    once = Pair("bad", (False, True, True, True, True), (True,) * 5)
    found = rule_on([*good, once], limits)
    assert (found.verdict, found.findings[0].code) == (Verdict.INCONCLUSIVE, "repeats_missing")
    assert needs_more([*good, once], 5) == ("bad",)
    flaky = Pair("bad", (False, *(True,) * 14), (True,) * 15)
    found = rule_on([*good, flaky], limits)
    assert (found.verdict, found.findings[0].code) == (Verdict.PASS, "flaky")
    again = Pair("bad", (False, *(True,) * 13, False), (True,) * 15)
    assert rule_on([*good, again], limits).verdict is Verdict.FAIL


def test_zero_tolerance_counts_clean_cases():
    limits = Thresholds(rule=Rule.ZERO_TOLERANCE)
    assert clean_upper(59) <= 0.05 < clean_upper(58)
    assert clean_upper(299) <= 0.01 < clean_upper(298)
    assert rule_on(single([True] * 59), limits).verdict is Verdict.PASS
    assert rule_on(single([True] * 58), limits).findings[0].code == "too_few_cases"
    assert rule_on(single([True] * 500 + [False]), limits).verdict is Verdict.FAIL


def test_attack_rate_counts_families():
    limits = Thresholds(rule=Rule.ATTACK_RATE, upper_max=0.1)
    families = [Pair(f"{c}-{n}", (True,), (True,), cluster=f"f{c}") for c in range(40) for n in range(3)]
    assert rule_on(families, limits).verdict is Verdict.PASS
    few = [each for each in families if each.cluster in {f"f{n}" for n in range(10)}]
    assert rule_on(few, limits).verdict is Verdict.INCONCLUSIVE
    broken = [Pair(each.key, (each.key.endswith("-0"),), (True,), each.cluster) for each in families]
    assert rule_on(broken, limits).verdict is Verdict.FAIL


def test_no_result_at_all_is_not_fine():
    assert rule_on([], Thresholds()).verdict is Verdict.INCONCLUSIVE
    assert worst([]) is Verdict.INCONCLUSIVE
    assert worst([Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]) is Verdict.FAIL


results = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, "a", "b", "c", "d", "e", "f"])),
    min_size=1,
    max_size=80,
)


def as_pairs(rows):
    return [Pair(str(number), (cand,), (base,), cluster) for number, (cand, base, cluster) in enumerate(rows)]


@settings(max_examples=100, deadline=None)
@given(rows=results, rule=st.sampled_from(list(Rule)), seed=st.integers(0, 1000))
def test_the_order_of_samples_never_changes_a_ruling(rows, rule, seed):
    pairs = as_pairs(rows)
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    limits = Thresholds(rule=rule, repeats=1, margin_pp=15, mde_max_pp=60)
    assert rule_on(pairs, limits) == rule_on(shuffled, limits)


@settings(max_examples=150, deadline=None)
@given(rows=results, rule=st.sampled_from(list(Rule)), base=st.booleans())
def test_a_further_failing_result_never_turns_a_fail_into_a_pass(rows, rule, base):
    limits = Thresholds(rule=rule, repeats=1, margin_pp=20, mde_max_pp=80)
    before = rule_on(as_pairs(rows), limits).verdict
    after = rule_on(as_pairs([*rows, (False, base, None)]), limits).verdict
    if rule in {Rule.MUST_PASS, Rule.ZERO_TOLERANCE}:
        assert after is not Verdict.PASS
    if before is Verdict.FAIL:
        assert after is not Verdict.PASS


def test_the_figures_of_an_arm_count_epochs_and_clusters():
    found = arm_numbers({"a": (True, True), "b": (True, False), "c": (False, False)}, {"a": "x", "b": "x", "c": None})
    assert (found["n"], found["pass"], found["fail"], found["share"]) == (6, 3, 3, 0.5)
    assert found["pass_hat_k"] == {"1": 0.5, "2": 0.333333}
    assert found["se_clustered"] == pytest.approx(math.sqrt(2 * (1 + 1)) / 6, abs=1e-6)
