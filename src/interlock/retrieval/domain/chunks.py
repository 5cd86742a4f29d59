"""Passages of a text: by heading, paragraph and sentence, each a span `text[start:end]` in code points.

Pure, and changes no text: what a passage is called by is always a place in what is stored.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from interlock.retrieval.domain.types import Piece

Heading = tuple[int, int, str]

# A sentence ends at its mark and the blanks after it, at a line that starts a list, or at an empty line.
_SENTENCE_END: Final = re.compile(
    r"(?<=[.!?\u2026\u3002])[\"')\]\u201d\u2019]*\s+|\n[ \t]*(?=\n)|\n(?=[ \t]*(?:[-*+|>#]|\d+[.)])[ \t])"
)
_PARAGRAPH_END: Final = re.compile(r"\n[ \t]*\n")
_OVERLAP_SHARE: Final = 3


@dataclass(frozen=True, slots=True)
class _Sentence:
    start: int
    end: int
    ends_paragraph: bool


def cut(text: str, headings: Sequence[Heading], target: int = 900, longest: int = 1_200) -> list[Piece]:
    """Return the passages of a text. `headings` are (offset, level, title) by offset.

    A passage keeps to its section and overlaps the one before by a sentence; none is longer than `longest`.
    """
    found: list[Piece] = []
    for start, end, title in _sections(text, headings):
        found += [Piece(*span, title) for span in _passages(text, start, end, target, longest)]
    return found


def _sections(text: str, headings: Sequence[Heading]) -> Iterator[tuple[int, int, str | None]]:
    starts = [(0, None), *((offset, title) for offset, _, title in headings)]
    for number, (start, title) in enumerate(starts):
        end = starts[number + 1][0] if number + 1 < len(starts) else len(text)
        if text[start:end].strip():
            yield start, end, title


def _passages(text: str, start: int, end: int, target: int, longest: int) -> Iterator[tuple[int, int]]:
    sentences = list(_sentences(text, start, end, longest))
    first = 0
    while first < len(sentences):
        last = _last_of(sentences, first, target, longest)
        yield sentences[first].start, sentences[last].end
        if last + 1 == len(sentences):
            return
        first = _next_first(sentences, first, last, target)


def _last_of(sentences: Sequence[_Sentence], first: int, target: int, longest: int) -> int:
    """Return the last sentence of the passage that begins at `first`: a paragraph's end near the target if there is."""
    begin, last, paragraph = sentences[first].start, first, None
    for number in range(first, len(sentences)):
        size = sentences[number].end - begin
        if number > first and size > target:
            break
        last = number
        if sentences[number].ends_paragraph and size >= target // 2:
            paragraph = number
    rest = sentences[-1].end - begin
    if rest <= longest:
        return len(sentences) - 1
    return last if paragraph is None else paragraph


def _next_first(sentences: Sequence[_Sentence], first: int, last: int, target: int) -> int:
    overlap = sentences[last]
    is_short = overlap.end - overlap.start <= target // _OVERLAP_SHARE
    return last if last > first and is_short else last + 1


def _sentences(text: str, start: int, end: int, longest: int) -> Iterator[_Sentence]:
    at = start
    for mark in _SENTENCE_END.finditer(text, start, end):
        yield from _trimmed(text, at, mark.end(), longest)
        at = mark.end()
    yield from _trimmed(text, at, end, longest)


def _trimmed(text: str, start: int, end: int, longest: int) -> Iterator[_Sentence]:
    raw = text[start:end]
    bare = raw.strip()
    if not bare:
        return
    begin = start + len(raw) - len(raw.lstrip())
    stop = begin + len(bare)
    after = text[stop : stop + 80]
    ends = _PARAGRAPH_END.match(after.lstrip(" \t")) is not None or not after.strip()
    while stop - begin > longest:
        # A sentence that nobody could read in one go, or no sentence at all: cut at a blank, else anywhere.
        limit = begin + longest // 2
        blank = text.rfind(" ", begin + 1, limit)
        limit = blank if blank > begin else limit
        yield _Sentence(begin, limit, ends_paragraph=False)
        begin = limit + (text[limit : limit + 1] == " ")
    yield _Sentence(begin, stop, ends)
