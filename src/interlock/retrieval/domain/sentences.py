"""Sentences of a text by their offsets in code points. `text[start:end]` is a sentence, word for word.

Understands no grammar: a full stop, question or exclamation mark before a capital ends one, and so does a new block.
"""

import re
from collections.abc import Iterator
from typing import Final

SENTENCE_CHARS_MAX: Final = 600
_BLOCK: Final = re.compile(r"\n\s*\n|\n(?=[ \t]*(?:[-*+>#|]|\d+[.)])[ \t])|\n(?=[A-Z0-9])")
_END: Final = re.compile(r"[.!?]+[\"')\]\u201d\u2019]*(?=\s+[\"'(\[\u201c]*[A-Z0-9])")
_ABBREVIATED: Final = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|Dr|Mr|Mrs|Ms|Prof|St|No|Nr|Fig|approx|[A-Z])\.$")
_MARKS: Final = " \t\r\n>*-+|"


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each sentence that has a letter; headings and what is too long are left out."""
    at = 0
    for block in [*_BLOCK.finditer(text), None]:
        stop = len(text) if block is None else block.start()
        yield from _of_block(text, at, stop)
        at = stop if block is None else block.end()


def _of_block(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    at = start
    for mark in _END.finditer(text, start, stop):
        if not _ABBREVIATED.search(text, max(at, mark.end() - 12), mark.end()):
            yield from _trimmed(text, at, mark.end())
            at = mark.end()
    yield from _trimmed(text, at, stop)


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the span without the marks of a list before it and the blanks around it; a heading says nothing."""
    if text[start:end].lstrip().startswith("#"):
        return
    while start < end and text[start] in _MARKS:
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if end - start <= SENTENCE_CHARS_MAX and any(char.isalpha() for char in text[start:end]):
        yield start, end
