"""BM25 against a table made by hand, and the rule that bounds its cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.retrieval.domain.bm25 import (
    COMMON_POSTINGS,
    EligibleCounts,
    counted_at_most,
    idf,
    kept_terms,
    part,
    weighed,
)

# Worked out with a desk calculator from the formula of the design page: N 10, average length 20.
TABLE = [
    # df, qtf, tf, dl, ln(1 + (N - df + .5) / (df + .5)), qtf * idf * tf * 2.2 / (tf + 1.2 * (.25 + .75 * dl / 20))
    (1, 1, 1, 20, 1.9924301646902063, 1.9924301646902063),
    (1, 1, 2, 20, 1.9924301646902063, 2.7395914764490337),
    (3, 1, 1, 10, 1.1451323043030026, 1.4395948968380605),
    (5, 2, 1.5, 40, 0.6931471805599453, 1.2707698310265664),
    (10, 1, 1, 20, 0.04652001563489282, 0.04652001563489282),
]


@pytest.mark.parametrize(("df", "qtf", "tf", "tokens", "expected_idf", "expected"), TABLE)
def test_a_part_is_what_the_table_says(df, qtf, tf, tokens, expected_idf, expected):
    assert idf(10, df) == pytest.approx(expected_idf)
    (term,) = weighed({7: df}, {7: qtf}, 10)
    assert part(term.weight, round(tf * 2), tokens, 20.0) == pytest.approx(expected * 100_000, abs=1)


def test_a_word_nobody_wrote_brings_nothing():
    assert weighed({1: 0, 2: 3}, {1: 1, 2: 1}, 10)[0].term_id == 2
    assert kept_terms({1: 0}, 10) == []


def test_a_common_word_is_left_out_while_a_rarer_one_is_there():
    limit = counted_at_most(100_000)
    assert limit == 20_000
    assert kept_terms({1: limit + 1, 2: limit, 3: 0}, 100_000) == [2]
    assert kept_terms({1: limit + 1, 3: 0}, 100_000) == [1]
    assert counted_at_most(40_000) == COMMON_POSTINGS


def test_the_average_of_nothing_divides_nothing():
    assert EligibleCounts(0, 0, 0).average_tokens == 1.0
    assert EligibleCounts(1, 4, 10).average_tokens == 2.5


@given(st.integers(1, 1_000_000), st.data())
def test_a_rarer_word_is_worth_more(chunks, data):
    rare = data.draw(st.integers(1, chunks))
    common = data.draw(st.integers(rare, chunks))
    assert idf(chunks, rare) >= idf(chunks, common) > 0


@given(st.integers(2, 1000), st.integers(1, 500), st.integers(1, 500))
def test_more_of_a_word_and_a_shorter_passage_never_score_less(doubled, tokens, average):
    assert part(3.0, doubled + 1, tokens, average) >= part(3.0, doubled, tokens, average)
    assert part(3.0, doubled, tokens, average) >= part(3.0, doubled, tokens + 1, average)
