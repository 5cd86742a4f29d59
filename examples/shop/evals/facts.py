"""What the shop's assistant has to know: sixty facts of its pages, read from `facts.md`.

The words that an answer must have are what a customer or colleague would act on: a number, a deadline, a step.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Fact:
    """A question whose right answer holds all of `words`; `page` is the document that says so."""

    key: str
    page: str
    question: str
    answer: str
    words: tuple[str, ...]


def _read(path: Path) -> tuple[Fact, ...]:
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return tuple(Fact(key, page, asked, told, tuple(words.split("; "))) for key, page, asked, told, words in cells)


FACTS: Final = _read(Path(__file__).with_name("facts.md"))
