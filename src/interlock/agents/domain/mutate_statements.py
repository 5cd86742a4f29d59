"""The operators of `mutate` on whole statements: delete, repeat, swap, move, and one more of a kind already there.

Leaves expressions alone, but for the names in a statement that it copies.
"""

import ast
from collections.abc import Iterator
from typing import Final

from interlock.agents.domain.mutation_site import Mutation, Source

_TEMPLATES_MAX: Final = 40
_SIMPLE: Final = (ast.Assign, ast.AugAssign, ast.Expr, ast.Return, ast.Delete)


def statement_mutations(tree: ast.Module, content: bytes) -> Iterator[Mutation]:
    """Yield every change of one statement."""
    source = Source(content)
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            templates = _templates(scope, source)
            for body in _bodies(scope):
                yield from _of_body(body, source)
                yield from _inserted(body, templates, source)
                yield from _moved_out(body, source)


def _bodies(scope: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node is not scope:
            continue
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list) and body:
                yield body


def _of_body(body: list[ast.stmt], source: Source) -> Iterator[Mutation]:
    for number, statement in enumerate(body):
        start, end = source.span(statement)
        if not _is_docstring(statement):
            yield Mutation("delete_statement", 2.6, statement.lineno, start, end, "pass")
        if isinstance(statement, ast.Break | ast.Continue | ast.Pass):
            words = {"break", "continue", "pass", "return"} - {source.text(statement)}
            for word in sorted(words):
                yield Mutation("delete_statement", 2.4, statement.lineno, start, end, word)
        if isinstance(statement, ast.If):
            yield from _unconditional(statement, source)
        if number + 1 < len(body):
            after = body[number + 1]
            far = source.span(after)
            swapped = source.text(after) + source.content[end : far[0]].decode() + source.text(statement)
            yield Mutation("swap_statements", 2.2, statement.lineno, start, far[1], swapped)
        if isinstance(statement, _SIMPLE) and not _is_docstring(statement):
            indent = _indent(statement)
            doubled = f"{source.text(statement)}\n{indent}{source.text(statement)}"
            yield Mutation("duplicate_statement", 3.3, statement.lineno, start, end, doubled)


def _unconditional(statement: ast.If, source: Source) -> Iterator[Mutation]:
    """Run the body of a branch always."""
    if statement.orelse:
        return
    start, end = source.span(statement)
    text = source.content[source.span(statement.body[0])[0] : end].decode()
    inner, outer = _indent(statement.body[0]), _indent(statement)
    yield Mutation("unconditional", 2.9, statement.lineno, start, end, text.replace(f"\n{inner}", f"\n{outer}"))


def _moved_out(body: list[ast.stmt], source: Source) -> Iterator[Mutation]:
    """Take the last statement of a block out of it, or the statement after a block into it."""
    for number, statement in enumerate(body):
        inner = getattr(statement, "body", None)
        if not isinstance(statement, ast.For | ast.While | ast.If | ast.With) or not isinstance(inner, list):
            continue
        start, end = source.span(statement)
        last = inner[-1]
        if len(inner) > 1 and not statement_has_else(statement) and isinstance(last, _SIMPLE):
            before = source.content[start : source.span(inner[-2])[1]].decode()
            moved = f"{before}\n{_indent(statement)}{source.text(last)}"
            yield Mutation("move_statement", 2.7, last.lineno, start, end, moved)
        if number + 1 < len(body) and isinstance(body[number + 1], _SIMPLE) and not statement_has_else(statement):
            after = body[number + 1]
            far = source.span(after)[1]
            moved = f"{source.content[start:end].decode()}\n{_indent(last)}{source.text(after)}"
            yield Mutation("move_statement", 2.8, after.lineno, start, far, moved)
        if number > 0 and isinstance(body[number - 1], _SIMPLE):
            earlier = body[number - 1]
            first = source.span(earlier)[0]
            at = source.span(inner[0])[0]
            head = source.content[start:at].decode()
            rest = source.content[at:end].decode()
            moved = f"{head}{source.text(earlier)}\n{_indent(inner[0])}{rest}"
            yield Mutation("move_statement", 2.9, earlier.lineno, first, end, moved)


def statement_has_else(statement: ast.stmt) -> bool:
    """Tell whether something follows the body that belongs to the statement."""
    return bool(getattr(statement, "orelse", None))


def _inserted(body: list[ast.stmt], templates: list[str], source: Source) -> Iterator[Mutation]:
    """Put one more statement after each of a block, and before its first."""
    for template in templates:
        first = body[0]
        if not _is_docstring(first):
            start, _ = source.span(first)
            text = f"{template}\n{_indent(first)}"
            yield Mutation("insert_statement", 3.1, first.lineno, start, start, text)
        for statement in body:
            if isinstance(statement, ast.Return | ast.Break | ast.Continue | ast.Raise):
                continue
            end = source.span(statement)[1]
            text = f"\n{_indent(statement)}{template}"
            yield Mutation("insert_statement", 3.0, statement.lineno, end, end, text)


def _templates(scope: ast.FunctionDef | ast.AsyncFunctionDef, source: Source) -> list[str]:
    """Return statements that the function could have one more of."""
    made: list[str] = []
    names = _names(scope)
    collections: list[str] = []
    for node in ast.walk(scope):
        match node:
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=method), args=[_, *_])):
                collections.append(owner)
                made.append(source.text(node))
                made += [f"{owner}.{method}({name})" for name in names if name != owner]
            case ast.Compare(ops=[ast.In() | ast.NotIn()], comparators=[ast.Name(id=owner)], left=left):
                item = source.text(left)
                made += [f"{owner}.add({item})", f"{owner}.append({item})"]
                collections.append(owner)
                made += [f"{owner}.add({name})" for name in names if name != owner]
            case ast.AugAssign() | ast.Assign(targets=[ast.Name() | ast.Subscript()]):
                made.append(source.text(node))
            case ast.Assign(targets=[ast.Attribute()], value=ast.Name()):
                made.append(source.text(node))
    lists = [target for target in names if _is_list(scope, target)]
    made += [f"{owner}.append({name})" for owner in lists for name in names if name != owner]
    made += [f"{first} = {second}" for first in _assigned(scope) for second in names if first != second]
    unique = [text for text in dict.fromkeys(made) if "\n" not in text]
    return unique[:_TEMPLATES_MAX]


def _names(scope: ast.AST) -> list[str]:
    called = {
        node.func.id for node in ast.walk(scope) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    found = [node.arg for node in ast.walk(scope) if isinstance(node, ast.arg)]
    found += [node.id for node in ast.walk(scope) if isinstance(node, ast.Name) and node.id not in called]
    return list(dict.fromkeys(found))[:12]


def _assigned(scope: ast.AST) -> list[str]:
    stored = [node.id for node in ast.walk(scope) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return list(dict.fromkeys(stored))[:6]


def _is_list(scope: ast.AST, name: str) -> bool:
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.List)
        and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
        for node in ast.walk(scope)
    )


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _indent(statement: ast.stmt) -> str:
    return " " * statement.col_offset
