"""Analyzer v1: from a text to the words it is found by. Queries and documents go through the same rules.

Does not count: `index_terms` weighs the words of a passage, what they are worth is `bm25.py`.
"""

import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import snowballstemmer

ANALYZER_ID: Final = "words-v2"
# The English list that search engines have in common: 33 words.
_STOP: Final = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
"""
STOP_WORDS: Final = frozenset(_STOP.split())
QUERY_TERMS_MAX: Final = 64
# What one word adds to a score is an integer of four bytes.
QUERY_TIMES_MAX: Final = 100
TERM_CHARS_MAX: Final = 64
# Halves, so that frequencies stay integers: body 1, heading 1.5, title 2.
BODY_WEIGHT: Final = 2
HEADING_WEIGHT: Final = 3
TITLE_WEIGHT: Final = 4
_FREQUENCY_MAX: Final = 32_767
_STEMS_KEPT: Final = 65_536

_WORD: Final = re.compile(r"[^\W_]+(?:['_./#-][^\W_]+)*")
_SIMPLE: Final = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_PARTS: Final = re.compile(r"\d+|[^\W\d_]+")
# Han and Kana. The marks of Thai and its like are no letters here, so those words fall apart and are not found.
_UNSPACED: Final = re.compile(
    "([\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"
)
_DIGIT: Final = re.compile(r"\d")
_stemmer: Final = snowballstemmer.stemmer("english")
_turn: Final = threading.Lock()


def terms(text: str) -> list[str]:
    """Return the words of a text in their order: an identifier whole and then its parts, no stop words.

    An identifier is what holds a digit beside something else (`W2378156`, `SKU-12/b`, `3.5`) or an underscore.
    """
    return [term for _, term in placed_terms(text)]


def placed_terms(text: str) -> Iterator[tuple[int, str]]:
    """Yield (position, term); the parts of an identifier stand where it stands."""
    place = 0
    for word in _WORD.findall(normalized(text)):
        if is_identifier(word):
            for term in (word[:TERM_CHARS_MAX], *_parts(word)):
                yield place, term
            place += 1
            continue
        for piece in _SIMPLE.findall(word):
            for term in _words(piece):
                yield place, term
                place += 1


def normalized(text: str) -> str:
    """Return the text as it is cut into words: NFKC, casefold, one apostrophe."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).replace("\u2019", "'")


def is_identifier(word: str) -> bool:
    """Tell whether a word is found as it is written."""
    return "_" in word or (_DIGIT.search(word) is not None and not word.isdigit())


def identifiers(text: str) -> frozenset[str]:
    """Return the identifiers and numbers of a text, whole."""
    words = _WORD.findall(normalized(text))
    return frozenset(word[:TERM_CHARS_MAX] for word in words if is_identifier(word) or word.isdigit())


def query_terms(text: str) -> dict[str, int]:
    """Return the words of a query and how often each stands in it, to a bound; the first 64 distinct ones count."""
    counted: dict[str, int] = {}
    for term in terms(text):
        if term in counted or len(counted) < QUERY_TERMS_MAX:
            counted[term] = min(QUERY_TIMES_MAX, counted.get(term, 0) + 1)
    return counted


def index_terms(title: str, heading: str | None, body: str) -> tuple[dict[str, int], int]:
    """Return twice the weighted frequency of each word of a passage, and the passage's length in words."""
    words = terms(body)
    weighed: Counter[str] = Counter()
    for weight, found in ((BODY_WEIGHT, words), (HEADING_WEIGHT, terms(heading or "")), (TITLE_WEIGHT, terms(title))):
        for term in found:
            weighed[term] += weight
    return {term: min(weight, _FREQUENCY_MAX) for term, weight in weighed.items()}, max(1, len(words))


def _parts(word: str) -> Iterator[str]:
    for found in _PARTS.finditer(word):
        yield from _words(found[0])


def _words(piece: str) -> Iterator[str]:
    """Yield the stem of a word; where a script puts no blank between words, every two neighbours instead."""
    runs = [piece] if piece.isascii() else _UNSPACED.split(piece)
    for number, run in enumerate(runs):
        if number % 2:
            yield from (run[at : at + 2] for at in range(max(1, len(run) - 1)))
        elif run and run not in STOP_WORDS:
            yield _stem(run[:TERM_CHARS_MAX])


@lru_cache(maxsize=_STEMS_KEPT)
def _stem(word: str) -> str:
    if not word.isascii():
        return word
    # The stemmer keeps the word it works on in itself, and passages are read in more threads than one.
    with _turn:
        return str(_stemmer.stemWord(word))
