"""A place in a program where something can be replaced, and what its surroundings offer for it.

Chooses nothing: priors and replacements are the operators'.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_NAMES_MAX: Final = 14
_DONORS_MAX: Final = 30
_OTHERS_MAX: Final = 8
_COMPOSITE: Final = (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.IfExp, ast.Lambda, ast.Await)
_TIGHT: Final = (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.Attribute, ast.Subscript, ast.Call)
_SKIPPED: Final = frozenset({"decorator_list", "annotation", "returns"})


@dataclass(frozen=True, slots=True)
class Mutation:
    """A replacement of bytes `start` to `end`; a lower prior is tried earlier."""

    operator: str
    prior: float
    line: int
    start: int
    end: int
    text: str


@dataclass(slots=True)
class Surroundings:
    """What a function, or the module outside of functions, holds by name."""

    names: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    donors: list[str] = field(default_factory=list)


class Source:
    """A text with the offset of each of its lines, in bytes, as Python counts columns."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._starts = [0]
        for line in content.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return where a node begins and ends."""
        start = self._starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined] # nodes with a place
        return start, self._starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> str:
        """Return a node as it is written."""
        start, end = self.span(node)
        return self.content[start:end].decode()


class Site:
    """A node with its parent and its surroundings."""

    def __init__(self, node: ast.AST, parent: ast.AST, slot: str, source: Source, around: Surroundings) -> None:
        self.node = node
        self.parent = parent
        self.source = source
        self._slot = slot
        self._around = around

    def text(self, node: ast.AST) -> str:
        """Return a node as it is written, in brackets where it could be torn apart."""
        written = self.source.text(node)
        return f"({written})" if isinstance(node, _COMPOSITE) and node is not self.node else written

    def between(self, left: ast.AST, right: ast.AST) -> str:
        """Return what stands between two nodes, without the brackets around them."""
        return self.source.content[self.source.span(left)[1] : self.source.span(right)[0]].decode().strip(" ()\n\t\\")

    def put(self, text: str, operator: str, prior: float) -> Mutation:
        """Replace the node."""
        start, end = self.source.span(self.node)
        if isinstance(self.node, ast.expr) and isinstance(self.parent, _TIGHT) and not self._is_bracketed:
            text = f"({text})" if _is_composite(text) else text
        return Mutation(operator, prior + self._distance, self.node.lineno, start, end, text)  # type: ignore[attr-defined]

    def put_at(self, node: ast.AST, text: str, operator: str, prior: float) -> Mutation:
        """Replace another node, one below this one."""
        start, end = self.source.span(node)
        return Mutation(operator, prior, node.lineno, start, end, text)  # type: ignore[attr-defined]

    @property
    def names(self) -> list[str]:
        """Names that hold values here."""
        return self._around.names

    @property
    def functions(self) -> list[str]:
        """Names that are called here."""
        return self._around.functions

    @property
    def attributes(self) -> list[str]:
        """Attributes that are used here."""
        return self._around.attributes

    @property
    def strings(self) -> list[str]:
        """Strings as they are written here."""
        return self._around.strings

    @property
    def conditions(self) -> list[str]:
        """Conditions of this function."""
        return self._around.conditions

    @property
    def donors(self) -> list[str]:
        """Expressions of this function."""
        return self._around.donors

    @property
    def targets(self) -> list[str]:
        """Names that the value here is assigned to."""
        if isinstance(self.parent, ast.Assign):
            return [
                self.source.text(target)
                for target in self.parent.targets
                if isinstance(target, ast.Name | ast.Subscript)
            ]
        return []

    @property
    def is_value(self) -> bool:
        """Whether a value is read here."""
        return isinstance(getattr(self.node, "ctx", ast.Load()), ast.Load) and not self.is_callee

    @property
    def is_callee(self) -> bool:
        """Whether it is called."""
        return isinstance(self.parent, ast.Call) and self._slot == "func"

    @property
    def is_argument(self) -> bool:
        """Whether it is handed to a call."""
        return isinstance(self.parent, ast.Call) and self._slot == "args"

    @property
    def is_operand(self) -> bool:
        """Whether it is one side of an operation or a comparison."""
        return isinstance(self.parent, ast.BinOp | ast.Compare)

    @property
    def is_iterated(self) -> bool:
        """Whether a loop goes over it."""
        return isinstance(self.parent, ast.For | ast.comprehension) and self._slot == "iter"

    @property
    def is_assigned(self) -> bool:
        """Whether a name gets it."""
        return isinstance(self.parent, ast.Assign) and self._slot == "value"

    @property
    def is_returned(self) -> bool:
        """Whether a function returns it."""
        return isinstance(self.parent, ast.Return | ast.Yield)

    @property
    def is_condition(self) -> bool:
        """Whether something depends on its truth."""
        return (isinstance(self.parent, ast.If | ast.While | ast.IfExp) and self._slot == "test") or (
            isinstance(self.parent, ast.comprehension) and self._slot == "ifs"
        )

    @property
    def is_number_place(self) -> bool:
        """Whether a number is likely here: an index, a bound, a side of a comparison or an argument."""
        if isinstance(self.parent, ast.Subscript | ast.Call):
            return self._slot in {"slice", "args"}
        return isinstance(self.parent, ast.Slice | ast.Compare | ast.Return | ast.Assign | ast.Tuple)

    @property
    def is_whole(self) -> bool:
        """Whether it stands for itself: an argument, a condition, what is assigned, returned or indexed by."""
        return (
            self.is_argument or self.is_condition or self.is_assigned or self.is_returned or self.is_iterated
            or (isinstance(self.parent, ast.Subscript) and self._slot == "slice")
        )  # fmt: skip

    @property
    def is_docstring(self) -> bool:
        """Whether it is a text that documents."""
        return isinstance(self.parent, ast.Expr)

    @property
    def _distance(self) -> float:
        """Code outside of functions is mostly how a program is started."""
        return 0.0 if self._around.donors else 0.5

    @property
    def _is_bracketed(self) -> bool:
        start, end = self.source.span(self.node)
        content = self.source.content
        inside = {ast.Call: "args", ast.Subscript: "slice"}.get(type(self.parent))
        return self._slot == inside or (content[start - 1 : start] == b"(" and content[end : end + 1] == b")")


def sites(tree: ast.Module, content: bytes) -> Iterator[Site]:
    """Yield every node that has a place, with what surrounds it."""
    source = Source(content)
    yield from _below(tree, source, _surroundings(tree, source, ()))


def _below(parent: ast.AST, source: Source, around: Surroundings) -> Iterator[Site]:
    for slot, value in ast.iter_fields(parent):
        for node in value if isinstance(value, list) else (value,):
            # Before Python 3.12 the places inside of an f-string are not those in the text.
            if not isinstance(node, ast.AST) or slot in _SKIPPED or isinstance(node, ast.JoinedStr):
                continue
            inner = around
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = _surroundings(node, source, around.functions)
            if hasattr(node, "lineno") or isinstance(node, ast.arguments):
                yield Site(node, parent, slot, source, inner)
            yield from _below(node, source, inner)


def _surroundings(scope: ast.AST, source: Source, functions: tuple[str, ...] | list[str]) -> Surroundings:
    found = Surroundings(functions=list(functions))
    called = _called(scope, source, found)
    is_function = isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef)
    for node in ast.walk(scope):
        match node:
            case ast.arg(arg=name):
                _add(found.names, name)
            case ast.Name(id=name) if name not in called and (is_function or isinstance(node.ctx, ast.Store)):
                _add(found.names, name)
            case ast.If() | ast.While() | ast.IfExp():
                _add(found.conditions, source.text(node.test))
        if is_function and isinstance(node, ast.Call | ast.BinOp | ast.Subscript | ast.Compare | ast.Attribute):
            text = source.text(node)
            if len(text) <= 60 and "\n" not in text:
                _add(found.donors, text)
    del found.names[_NAMES_MAX:], found.donors[_DONORS_MAX:]
    for each in (found.conditions, found.strings, found.attributes):
        del each[_OTHERS_MAX:]
    return found


def _called(scope: ast.AST, source: Source, found: Surroundings) -> set[str]:
    """Note functions, attributes and strings, and return the names that are called."""
    called: set[str] = set()
    for node in ast.walk(scope):
        match node:
            case ast.Call(func=ast.Name(id=name)):
                called.add(name)
            case ast.FunctionDef(name=name):
                called.add(name)
                _add(found.functions, name)
            case ast.Attribute(attr=name):
                _add(found.attributes, name)
            case ast.Constant(value=str()):
                _add(found.strings, source.text(node))
    return called


def _add(known: list[str], item: str) -> None:
    if item not in known:
        known.append(item)


def _is_composite(text: str) -> bool:
    try:
        return isinstance(ast.parse(text, mode="eval").body, _COMPOSITE)
    except SyntaxError:
        return False
