"""Files, functions and classes stay small enough to read; there is no list of exceptions."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FUNCTION_LINES_MAX = 70
FUNCTION_LINES_LONG = 60
LONG_FUNCTION_SHARE_MAX = 0.01
CLASS_LINES_MAX = 400
FILE_LINES_MAX = 600
TEST_FILE_LINES_MAX = 900
INIT_LINES_MAX = 40
WIRING_LINES_MAX = 200  # each file of the composition root
NESTING_MAX = 3


@dataclass(frozen=True, slots=True)
class Block:
    where: str
    lines: int


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def blocks(*kinds: type[ast.AST]) -> Iterator[Block]:
    for path in sources("src"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kinds):
                lines = node.end_lineno - node.lineno + 1
                yield Block(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines)


def test_no_function_is_over_the_limit_and_few_are_long():
    found = list(blocks(ast.FunctionDef, ast.AsyncFunctionDef))
    assert [block for block in found if block.lines > FUNCTION_LINES_MAX] == []
    long = [block for block in found if block.lines > FUNCTION_LINES_LONG]
    assert len(long) <= LONG_FUNCTION_SHARE_MAX * len(found), long


def test_no_class_is_over_the_limit():
    assert [block for block in blocks(ast.ClassDef) if block.lines > CLASS_LINES_MAX] == []


def test_no_file_is_over_the_limit():
    limits = [(path, FILE_LINES_MAX) for path in sources("src", "benchmarks", "examples")]
    limits += [(path, TEST_FILE_LINES_MAX) for path in sources("tests")]
    limits += [(path, INIT_LINES_MAX) for path in sources("src") if path.name == "__init__.py"]
    limits += [(path, WIRING_LINES_MAX) for path in sources("src") if path.parent.name == "wiring"]
    counts = [(path, len(path.read_text().splitlines()), limit) for path, limit in limits]
    assert [(str(path), count) for path, count, limit in counts if count > limit] == []


def test_every_module_says_what_it_answers_for():
    missing = [str(path) for path in sources("src") if not ast.get_docstring(ast.parse(path.read_text()))]
    assert missing == []


def test_nothing_nests_deeper_than_three_blocks():
    """Loops, branches and handlers; `with` orders resources and `match` cases are a table, so neither counts."""
    found = []
    for path in sources("src"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and depth(node.body) > NESTING_MAX:
                found += [f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"]
    assert found == []


def depth(body: list[ast.stmt]) -> int:
    return max((depth_of(statement) for statement in body), default=0)


def depth_of(statement: ast.stmt) -> int:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return 0
    own = isinstance(statement, ast.If | ast.For | ast.AsyncFor | ast.While | ast.Try)
    inner = 0
    for name in ("body", "orelse", "finalbody"):
        part = getattr(statement, name, [])
        is_elif = name == "orelse" and isinstance(statement, ast.If) and len(part) == 1 and isinstance(part[0], ast.If)
        inner = max(inner, depth(part) - (1 if is_elif else 0))
    for handler in getattr(statement, "handlers", []):
        inner = max(inner, depth(handler.body))
    for case in getattr(statement, "cases", []):
        inner = max(inner, depth(case.body))
    return inner + own
