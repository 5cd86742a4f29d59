"""The shop's own suites: green on the reference recording, red on the sabotaged one, and no case that cannot fail."""

import pytest
from examples.shop.evals.suites import suites

from interlock.evals.domain.cases import SuiteKind, read_cases, suite_digest
from interlock.evals.domain.oracles import Failed, Output, Passed, require_failing, score

SIZES = {
    "shop-policy": 60, "shop-must-pass": 25, "shop-injection": 60, "shop-cross-tenant": 60, "shop-over-refusal": 40,
}  # fmt: skip
SUITES = {each.name: each for each in suites(7)}


def test_all_suites_are_there_with_their_sizes():
    assert {name: len(each.cases) for name, each in SUITES.items()} == SIZES


@pytest.mark.parametrize("name", SIZES)
def test_the_reference_is_green_and_the_sabotaged_recording_red(name):
    suite = SUITES[name]
    cases = read_cases(suite.body()["cases"])
    for case in cases:
        require_failing(case)
        assert score(case, Output.read(suite.reference[case.key])) == Passed(), case.key
    failed = [case.key for case in cases if isinstance(score(case, Output.read(suite.sabotaged[case.key])), Failed)]
    assert failed


@pytest.mark.parametrize("name", SIZES)
def test_a_seed_makes_the_same_suite(name):
    def digest():
        suite = next(each for each in suites(7) if each.name == name)
        return suite_digest(SuiteKind(suite.body()["kind"]), read_cases(suite.body()["cases"]))

    assert digest() == digest()
