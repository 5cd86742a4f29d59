"""Programs that differ from a Python text in one place, the likeliest mistake first.

Parses and writes text; runs nothing and knows no tests. The same text always gives the same candidates.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from interlock.agents.domain.mutate_statements import statement_mutations
from interlock.agents.domain.mutation_site import Mutation
from interlock.agents.domain.mutations import mutations

CANDIDATES_MAX: Final = 2_000
_NEW_TEXT_BYTES_MAX: Final = 2_000


@dataclass(frozen=True, slots=True)
class Mutant:
    """A candidate as a text edit: `old` occurs exactly once in the original.

    `operator` names the kind of change; `rank` is the place in which it is worth trying, comparable across texts.
    """

    operator: str
    rank: tuple[float, int]
    old: str
    new: str


@lru_cache(maxsize=64)
def mutants(source: str) -> tuple[Mutant, ...]:
    """Return the candidates in the order in which they are worth trying; none for a text that is not Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ()
    content = source.encode()
    seen = {ast.unparse(tree)}
    found: list[Mutant] = []
    every = [*mutations(tree, content), *statement_mutations(tree, content)]
    for mutation in sorted(every, key=lambda each: (each.prior, each.line)):
        if len(found) == CANDIDATES_MAX:
            break
        form = _form_of(content[: mutation.start] + mutation.text.encode() + content[mutation.end :])
        if form is None or form in seen or len(mutation.text) > _NEW_TEXT_BYTES_MAX:
            continue
        seen.add(form)
        old, new = _as_edit(content, mutation)
        found.append(Mutant(mutation.operator, (mutation.prior, mutation.line), old, new))
    return tuple(found)


def _form_of(content: bytes) -> str | None:
    """Return what makes two texts the same program, None for what is none."""
    try:
        return ast.unparse(ast.parse(content))
    except (SyntaxError, ValueError, RecursionError):
        return None


def _as_edit(content: bytes, mutation: Mutation) -> tuple[str, str]:
    """Widen the place by whole lines until its text occurs once, so that comments and layout around it survive."""
    start, end = mutation.start, mutation.end
    for start, end in _widening(content, mutation.start, mutation.end):
        if end > start and content.count(content[start:end]) == 1:
            break
    old = content[start:end]
    new = content[start : mutation.start] + mutation.text.encode() + content[mutation.end : end]
    return old.decode(), new.decode()


def _widening(content: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    start = content.rfind(b"\n", 0, start) + 1
    end = _line_end(content, end)
    yield start, end
    while start > 0 or end < len(content):
        if start > 0:
            start = content.rfind(b"\n", 0, start - 1) + 1
            yield start, end
        if end < len(content):
            end = _line_end(content, end + 1)
            yield start, end


def _line_end(content: bytes, position: int) -> int:
    found = content.find(b"\n", position)
    return len(content) if found < 0 else found
