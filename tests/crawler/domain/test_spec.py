"""What a crawl's spec may say: a glob is taken only if the rules can be built of it.

Does not test seeds, whose form is `test_urls.py`'s.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.crawler.domain.scope import ScopeRules
from interlock.crawler.domain.spec import CrawlSpec, ScopeSpec, problem_of

_SEEDS = ["http://shop.example/"]


def _spec(glob: str) -> CrawlSpec:
    return CrawlSpec(seeds=_SEEDS, scope=ScopeSpec(include=[glob]))


@pytest.mark.parametrize("glob", ["[z-a]", "http://shop.example/[9-0]*", "[a", ""])
def test_a_glob_that_says_nothing_is_refused_with_its_field(glob: str) -> None:
    problem = problem_of(_spec(glob))
    assert problem is not None
    assert problem.field == "scope.include"


@given(st.text(alphabet="ab-z!^[]*?\\/.&~|", min_size=1, max_size=12))
def test_a_glob_that_is_taken_makes_rules(glob: str) -> None:
    spec = _spec(glob)
    if problem_of(spec) is None:
        ScopeRules(spec.scope, [])


def test_a_class_of_a_glob_is_taken() -> None:
    assert problem_of(_spec("http://shop.example/[a-z]*")) is None
