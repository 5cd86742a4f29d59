"""Sentences by their offsets."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from interlock.retrieval.domain.sentences import SENTENCE_CHARS_MAX, sentences


def cut(text):
    return [text[start:end] for start, end in sentences(text)]


def test_sentences_end_at_marks_and_blocks():
    text = (
        "# Refunds\n\nThey take 3.5 days, e.g. for cruises. Ask 'Dr. Who?' Then wait!\n"
        "- Pets\n- Cats travel\nsoft wrap goes on."
    )
    assert cut(text) == [
        "They take 3.5 days, e.g. for cruises.",
        "Ask 'Dr. Who?'",
        "Then wait!",
        "Pets",
        "Cats travel\nsoft wrap goes on.",
    ]


def test_what_has_no_letter_or_is_too_long_is_none():
    assert cut("1234. --- 55") == []
    assert cut("word " * SENTENCE_CHARS_MAX) == []


@given(st.text(alphabet="aB.!? \n#-1'", max_size=200))
def test_spans_rise_and_are_trimmed(text):
    spans = list(sentences(text))
    assert spans == sorted(spans)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)
