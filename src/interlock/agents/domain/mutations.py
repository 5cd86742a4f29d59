"""The operators of `mutate`: each names one kind of mistake and yields the places where it can be mended.

An operator may yield nonsense: what does not parse or changes nothing is sorted out by its caller.
"""

import ast
from collections.abc import Callable, Iterator
from typing import Final

from interlock.agents.domain.mutation_site import Mutation, Site, sites

_COMPARE: Final[dict[type[ast.cmpop], tuple[str, ...]]] = {
    ast.Lt: ("<=", ">", ">="),
    ast.LtE: ("<", ">=", ">"),
    ast.Gt: (">=", "<", "<="),
    ast.GtE: (">", "<=", "<"),
    ast.Eq: ("!=", ">=", "<="),
    ast.NotEq: ("==", "<", ">"),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
}
_BINARY: Final[dict[type[ast.operator], tuple[str, ...]]] = {
    ast.Add: ("-", "*"),
    ast.Sub: ("+", "*"),
    ast.Mult: ("+", "/", "//", "**"),
    ast.Div: ("//", "*"),
    ast.FloorDiv: ("/", "%", "*"),
    ast.Mod: ("//", "-"),
    ast.Pow: ("*",),
    ast.BitAnd: ("|", "^"),
    ast.BitOr: ("&", "^"),
    ast.BitXor: ("&", "|"),
    ast.LShift: (">>",),
    ast.RShift: ("<<",),
}
_CALLEES: Final = {
    "any": ("all",),
    "all": ("any",),
    "min": ("max",),
    "max": ("min",),
    "append": ("extend", "appendleft"),
    "extend": ("append",),
    "pop": ("popleft",),
    "add": ("discard", "update"),
    "lower": ("upper",),
    "upper": ("lower",),
    "startswith": ("endswith",),
    "endswith": ("startswith",),
    "lstrip": ("rstrip", "strip"),
    "rstrip": ("lstrip", "strip"),
    "strip": ("lstrip", "rstrip"),
    "ceil": ("floor",),
    "floor": ("ceil",),
    "keys": ("values", "items"),
    "values": ("keys", "items"),
    "items": ("keys", "values"),
    "find": ("rfind",),
    "sorted": ("reversed",),
    "union": ("intersection", "difference"),
    "intersection": ("union",),
}


def mutations(tree: ast.Module, content: bytes) -> Iterator[Mutation]:
    """Yield every single change of every operator."""
    for site in sites(tree, content):
        for operator in OPERATORS:
            yield from operator(site)


def _swap_comparison(site: Site) -> Iterator[Mutation]:
    node = site.node
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return
    left, right = site.text(node.left), site.text(node.comparators[0])
    for number, operator in enumerate(_COMPARE[type(node.ops[0])]):
        yield site.put(f"{left} {operator} {right}", "swap_comparison", 1.0 + number * 0.4)
    if isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
        yield site.put(f"{left} == {right}", "swap_comparison", 3.0)
        yield site.put(f"{left} != {right}", "swap_comparison", 3.0)


def _swap_operator(site: Site) -> Iterator[Mutation]:
    node = site.node
    if isinstance(node, ast.BinOp):
        left, right = site.text(node.left), site.text(node.right)
        for number, operator in enumerate(_BINARY.get(type(node.op), ())):
            yield site.put(f"{left} {operator} {right}", "swap_operator", 1.1 + number * 0.3)
        if isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Mod | ast.Pow | ast.Add):
            sign = site.between(node.left, node.right)
            yield site.put(f"{right} {sign} {left}", "swap_operands", 1.6)
    if isinstance(node, ast.AugAssign):
        target, value = site.text(node.target), site.text(node.value)
        for number, operator in enumerate(_BINARY.get(type(node.op), ())):
            yield site.put(f"{target} {operator}= {value}", "swap_operator", 1.1 + number * 0.3)
        yield site.put(f"{target} = {value}", "swap_operator", 1.9)
    if isinstance(node, ast.BoolOp):
        word = "or" if isinstance(node.op, ast.And) else "and"
        yield site.put(f" {word} ".join(site.text(value) for value in node.values), "swap_operator", 1.2)


def _off_by_one(site: Site) -> Iterator[Mutation]:
    node = site.node
    if not isinstance(node, ast.expr) or not site.is_value:
        return
    text = site.text(node)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for number, value in enumerate((node.value + 1, node.value - 1)):
            yield site.put(str(value), "off_by_one", 1.2 + number * 0.1)
    elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Call | ast.BinOp) and site.is_number_place:
        yield site.put(f"{text} + 1", "off_by_one", 1.3)
        yield site.put(f"{text} - 1", "off_by_one", 1.3)


def _change_constant(site: Site) -> Iterator[Mutation]:
    node = site.node
    if not isinstance(node, ast.Constant) or site.is_docstring:
        return
    value = node.value
    if isinstance(value, bool):
        yield site.put(str(not value), "constant", 1.4)
        yield from (site.put(name, "constant", 3.6) for name in site.names)
    elif isinstance(value, int):
        others = {0, 1, -1, 2, value * 2, value * 10, value // 10, -value} - {value, value + 1, value - 1}
        yield from (site.put(str(other), "constant", 2.0) for other in sorted(others))
        yield from (site.put(name, "constant", 2.6) for name in site.names)
    elif isinstance(value, float):
        others_f = (value * 10, value / 10, -value, value + 1, value - 1)
        yield from (site.put(repr(other), "constant", 2.0) for other in others_f)
    elif isinstance(value, str):
        yield from (site.put(other, "constant", 2.2) for other in site.strings if other != site.text(node))
        if value:
            yield site.put("''", "constant", 2.8)
        else:
            yield site.put("' '", "constant", 2.8)
    elif value is None:
        yield from (site.put(text, "constant", 2.4) for text in ("0", "False", "True", "[]", "''", *site.names))


def _swap_name(site: Site) -> Iterator[Mutation]:
    node = site.node
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
        return
    if node.id in _CALLEES:
        yield from (site.put(other, "swap_callee", 1.1) for other in _CALLEES[node.id])
    if site.is_callee:
        yield from (site.put(name, "swap_name", 3.2) for name in site.functions if name != node.id)
        return
    for name in site.names:
        if name != node.id:
            yield site.put(name, "swap_name", 1.7 if site.is_argument else 1.9)


def _swap_attribute(site: Site) -> Iterator[Mutation]:
    node = site.node
    if not isinstance(node, ast.Attribute):
        return
    owner = site.text(node.value)
    for other in _CALLEES.get(node.attr, ()):
        yield site.put(f"{owner}.{other}", "swap_callee", 1.3)
    for other in site.attributes:
        if other != node.attr:
            yield site.put(f"{owner}.{other}", "swap_attribute", 1.5)
    if isinstance(node.ctx, ast.Load):
        yield site.put(owner, "drop_operand", 2.2)


def _swap_arguments(site: Site) -> Iterator[Mutation]:
    node = site.node
    if isinstance(node, ast.Call) and not node.keywords:
        texts = [site.text(argument) for argument in node.args]
    elif isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load):
        texts = [site.text(element) for element in node.elts]
    else:
        return
    for first in range(len(texts)):
        for second in range(first + 1, len(texts)):
            swapped = list(texts)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            inner = ", ".join(swapped)
            whole = f"{site.text(node.func)}({inner})" if isinstance(node, ast.Call) else f"({inner})"
            yield site.put(whole, "swap_arguments", 1.2)


def _drop_operand(site: Site) -> Iterator[Mutation]:
    node = site.node
    if isinstance(node, ast.BinOp):
        yield site.put(site.text(node.right), "drop_operand", 1.5)
        yield site.put(site.text(node.left), "drop_operand", 1.5)
    elif isinstance(node, ast.BoolOp):
        for number in range(len(node.values)):
            left = [site.text(value) for each, value in enumerate(node.values) if each != number]
            yield site.put((" and " if isinstance(node.op, ast.And) else " or ").join(left), "drop_operand", 1.6)
    elif isinstance(node, ast.UnaryOp):
        yield site.put(site.text(node.operand), "drop_operand", 1.3)
    elif isinstance(node, ast.IfExp):
        yield site.put(site.text(node.body), "drop_operand", 2.0)
        yield site.put(site.text(node.orelse), "drop_operand", 2.0)
        swapped = f"{site.text(node.orelse)} if {site.text(node.test)} else {site.text(node.body)}"
        yield site.put(swapped, "swap_operands", 1.8)
    elif isinstance(node, ast.Call) and len(node.args) >= 1 and isinstance(node.func, ast.Name):
        yield from (site.put(site.text(argument), "unwrap", 1.6) for argument in node.args)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        yield site.put(site.text(node.func.value), "unwrap", 2.0)
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield site.put(site.text(node.value), "unwrap", 2.1)


def _wrap(site: Site) -> Iterator[Mutation]:
    node = site.node
    if not isinstance(node, ast.expr) or not site.is_value or site.is_docstring:
        return
    text = site.text(node)
    if isinstance(node, ast.List) and not node.elts:
        yield site.put("[[]]", "wrap", 1.9)
        yield from (site.put(f"[{name}]", "wrap", 1.9) for name in site.names)
    if isinstance(node, ast.BinOp | ast.Name | ast.Call | ast.Subscript) and site.is_assigned:
        yield from (site.put(f"max({name}, {text})", "wrap", 2.3) for name in (*site.targets, "0", "1"))
        yield from (site.put(f"min({name}, {text})", "wrap", 2.4) for name in (*site.targets, "0", "1"))
        yield from (site.put(f"{name} + {text}", "wrap", 2.5) for name in site.targets)
    if isinstance(node, ast.Name | ast.Subscript | ast.Call) and (site.is_argument or site.is_returned):
        yield from (site.put(f"{word}({text})", "wrap", 3.0) for word in ("list", "abs", "len", "str", "int", "set"))
        yield site.put(f"{text}[1:]", "slice", 2.1)
        yield site.put(f"{text}[:-1]", "slice", 2.7)
        yield site.put(f"{text}[0]", "wrap", 2.2)
        yield site.put(f"{text}[-1]", "wrap", 2.6)
        yield site.put(f"[{text}]", "wrap", 3.0)
    if isinstance(node, ast.Name) and (site.is_argument or site.is_iterated):
        yield from (site.put(f"{text}[{name}:]", "slice", 2.1) for name in site.names if name != text)
        yield from (site.put(f"{name} - {text}", "wrap", 2.6) for name in site.names if name != text)
        yield from (site.put(f"{text} - {name}", "wrap", 2.2) for name in site.names if name != text)
        yield from (site.put(f"{text} + {name}", "wrap", 2.8) for name in site.names if name != text)
        yield site.put(f"{text} ** 2", "wrap", 2.9)
    if isinstance(node, ast.Name) and site.is_operand:
        yield site.put(f"{text} ** 2", "wrap", 2.6)
        yield site.put(f"abs({text})", "wrap", 2.9)


def _condition(site: Site) -> Iterator[Mutation]:
    """Strengthen, weaken or turn a condition around."""
    node = site.node
    if not isinstance(node, ast.expr) or not site.is_condition:
        return
    text = site.text(node)
    turned = f"not ({text})" if not isinstance(node, ast.Name | ast.Call | ast.Attribute) else f"not {text}"
    yield site.put(turned, "condition", 1.6)
    yield from (site.put(name, "condition", 2.2) for name in site.names if name != text)
    for name in site.names:
        for word in ("or", "and"):
            yield site.put(f"{text} {word} not {name}", "condition", 2.5)
            yield site.put(f"{text} {word} {name}", "condition", 2.6)
        yield site.put(f"{name} is None or {text}", "condition", 2.4)
        yield site.put(f"{name} is not None and {text}", "condition", 2.4)
    for other in site.conditions:
        if other != text:
            yield site.put(f"({text}) and ({other})", "condition", 3.0)
            yield site.put(f"({text}) or ({other})", "condition", 3.0)
    if (
        isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Call)
        and isinstance(node.comparators[0], ast.Constant)
    ):
        yield site.put(f"{site.text(node.left)} <= 1", "condition", 2.3)


def _slice_bound(site: Site) -> Iterator[Mutation]:
    node = site.node
    if not isinstance(node, ast.Slice):
        return
    lower, upper = (site.text(each) if each else "" for each in (node.lower, node.upper))
    step = f":{site.text(node.step)}" if node.step else ""
    for new_lower, new_upper in (("", upper), (lower, ""), (upper, lower)):
        yield site.put(f"{new_lower}:{new_upper}{step}", "slice", 1.8)
    if not lower:
        yield site.put(f"1:{upper}{step}", "slice", 1.7)
    if not upper:
        yield site.put(f"{lower}:-1{step}", "slice", 1.7)
    yield from (site.put(f"{name}:{upper}{step}", "slice", 2.4) for name in site.names if name != lower)
    yield from (site.put(f"{lower}:{name}{step}", "slice", 2.4) for name in site.names if name != upper)
    for name in site.names:
        if upper and name != upper:
            yield site.put(f"{lower}:{name} + {upper}{step}", "slice", 2.5)
            yield site.put(f"{lower}:{upper} - {name}{step}", "slice", 2.6)
        if lower and name != lower:
            yield site.put(f"{lower} + {name}:{upper}{step}", "slice", 2.6)
    if not step:
        yield site.put(f"{lower}:{upper}:-1", "slice", 2.4)


def _swap_subscripts(site: Site) -> Iterator[Mutation]:
    """Turn `a[i][j]` into `a[j][i]`, and `a[i] = j` into `a[j] = i`."""
    node = site.node
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Subscript):
        owner, first, second = (site.text(each) for each in (node.value.value, node.value.slice, node.slice))
        yield site.put(f"{owner}[{second}][{first}]", "swap_subscripts", 1.6)
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Subscript):
        target = node.targets[0]
        owner, index, value = (site.text(each) for each in (target.value, target.slice, node.value))
        yield site.put(f"{owner}[{value}] = {index}", "swap_subscripts", 2.1)


def _return_value(site: Site) -> Iterator[Mutation]:
    node = site.node
    if not isinstance(node, ast.Return):
        return
    old = site.text(node.value) if node.value else "None"
    values = ("True", "False", "None", "0", "1", "-1", "[]", "[[]]", "''", *site.names, *(f"[{n}]" for n in site.names))
    yield from (site.put(f"return {value}", "return", 2.3) for value in values if value != old)
    yield from (site.put(f"return {name} == 0", "return", 2.5) for name in site.names)
    yield from (site.put(f"return {old} + {name}", "return", 3.0) for name in site.names)
    yield from (site.put(f"return {name} + {old}", "return", 3.0) for name in site.names)
    yield from (site.put(f"return not {name}", "return", 2.7) for name in site.names)


def _default_argument(site: Site) -> Iterator[Mutation]:
    node = site.node
    if not isinstance(node, ast.arguments):
        return
    for default in (*node.defaults, *(each for each in node.kw_defaults if each)):
        old = site.text(default)
        for value in ("None", "0", "1", "-1", "True", "False", "''", "' '", "()", "2", "10"):
            if value != old:
                yield site.put_at(default, value, "default_argument", 2.4)


def _donor_expression(site: Site) -> Iterator[Mutation]:
    """Take an expression that the same function uses elsewhere."""
    node = site.node
    if isinstance(node, ast.expr) and site.is_value and not isinstance(node, ast.Constant) and site.is_whole:
        yield from (site.put(text, "donor", 3.4) for text in site.donors if text != site.text(node))


OPERATORS: Final[tuple[Callable[[Site], Iterator[Mutation]], ...]] = (
    _swap_comparison,
    _swap_operator,
    _off_by_one,
    _change_constant,
    _swap_name,
    _swap_attribute,
    _swap_arguments,
    _drop_operand,
    _wrap,
    _condition,
    _slice_bound,
    _swap_subscripts,
    _return_value,
    _default_argument,
    _donor_expression,
)
