"""Words: what a text is found by."""

from hypothesis import given
from hypothesis import strategies as st

from interlock.retrieval.domain.analyzer import (
    QUERY_TERMS_MAX,
    STOP_WORDS,
    TERM_CHARS_MAX,
    identifiers,
    index_terms,
    query_terms,
    terms,
)
from interlock.retrieval.domain.bm25 import part, weighed


def test_words_are_folded_stemmed_and_without_stop_words():
    assert terms("The Refunds of a Customer's ORDERS") == ["refund", "custom", "order"]
    assert terms("Straße STRASSE") == ["strass", "strass"]
    assert terms("\ufb01le \uff26\uff49\uff4c\uff45") == ["file", "file"]


def test_an_identifier_is_found_whole_and_by_its_parts():
    assert terms("W2378156") == ["w2378156", "w", "2378156"]
    assert terms("SKU-12/b") == ["sku-12/b", "sku", "12", "b"]
    assert terms("document_not_found") == ["document_not_found", "document", "found"]
    assert terms("heat-transfer e.g. ends.") == ["heat", "transfer", "e", "g", "end"]


def test_the_last_part_of_a_long_identifier_is_a_word_as_well():
    """An address with a day in it is one identifier, and what the page is about stands at its end."""
    address = "shop.example/2026/11/29/what-to-do-when-a-ship-is-late-and-how-much-is-paid-back-of-a-cruise/refund"
    assert {"cruis", "refund"} <= set(index_terms("", None, address)[0])


def test_words_are_found_where_a_script_puts_no_blank_between_them():
    found = set(
        index_terms("", None, "返品は三十日以内にお願いします。2026年11月29日に返金します。iPhone用のケース")[0]
    )
    for query in ("返品", "三十日以内", "返金", "iPhone", "ケース", "11"):
        assert set(query_terms(query)) <= found, query
    assert not found & set(query_terms("配送 送料"))
    assert terms("水") == ["水"]
    assert terms("환불 정책") == ["환불", "정책"], "Korean puts blanks"


def test_there_are_33_stop_words_and_none_of_them_is_a_term():
    assert len(STOP_WORDS) == 33
    assert terms(" ".join(STOP_WORDS)) == []


def test_identifiers_are_what_must_agree_exactly():
    assert identifiers("Order W2378156 costs 30 euros, as in 3.5") == {"w2378156", "30", "3.5"}


def test_a_query_counts_its_words_up_to_a_limit():
    assert query_terms("boat boat boats ship") == {"boat": 3, "ship": 1}
    many = query_terms(" ".join(f"wordnumber{'x' * n}" for n in range(QUERY_TERMS_MAX + 5)) + " wordnumber")
    assert len(many) <= QUERY_TERMS_MAX
    assert many["wordnumb"] >= 1 or many["wordnumber"] >= 1


def test_a_word_that_is_asked_for_again_and_again_stays_within_what_a_score_can_hold():
    """The scan adds integers of four bytes; a query of one letter two thousand times was an error of the database."""
    asked = query_terms("b " * 2_000)
    (term,) = weighed({1: 1}, {1: asked["b"]}, 2**31 - 1)
    assert asked["b"] > 1
    assert part(term.weight, 32_767, 1, 1_000.0) < 2**31


def test_a_passage_weighs_body_heading_and_title_in_halves():
    weighed, length = index_terms("Refund policy", "Returns", "Refunds are returned within 30 days")
    assert weighed == {"refund": 2 + 4, "return": 2 + 3, "within": 2, "30": 2, "day": 2, "polici": 4}
    assert length == 5
    assert index_terms("", None, "the")[1] == 1


@given(st.text(max_size=200))
def test_terms_are_bounded_and_equal_for_equal_text(text):
    found = terms(text)
    assert found == terms(text)
    assert all(1 <= len(term) <= TERM_CHARS_MAX for term in found)
    assert set(query_terms(text)) <= set(found)
    assert set(index_terms("", None, text)[0]) == set(found)


@given(st.text(alphabet="aB1_-/ .'", max_size=80))
def test_case_does_not_count(text):
    assert terms(text) == terms(text.upper())
