"""A text that a pattern matches: the counterexample of `not_regex`. Proves nothing; the caller asks the pattern."""

from collections.abc import Callable, Iterable, Mapping
from re import _constants as codes  # type: ignore[attr-defined] # the parser of the standard library has no public name
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final

_REPEATS_MAX: Final = 1_000
_CATEGORIES: Final = {
    codes.CATEGORY_DIGIT: "0",
    codes.CATEGORY_NOT_DIGIT: "a",
    codes.CATEGORY_SPACE: " ",
    codes.CATEGORY_NOT_SPACE: "a",
    codes.CATEGORY_WORD: "a",
    codes.CATEGORY_NOT_WORD: " ",
}
_ORDINARY: Final = "0 -_.,:;!?/@#1aA\n"


def matching(pattern: str) -> str | None:
    """Return a short text that should match; None where the pattern is beyond this."""
    try:
        return _sequence(parser.parse(pattern)) or "a"
    except (ValueError, LookupError, RecursionError, OverflowError, parser.error):
        return None


def _sequence(parts: Iterable[tuple[Any, Any]]) -> str:
    return "".join(_one(code, value) for code, value in parts)


def _one(code: Any, value: Any) -> str:
    if code in {codes.MAX_REPEAT, codes.MIN_REPEAT}:
        least, _, inner = value
        if least > _REPEATS_MAX:
            raise ValueError(least)
        return _sequence(inner) * int(least)
    simple: Mapping[Any, Callable[[], str]] = {
        codes.LITERAL: lambda: chr(value),
        codes.NOT_LITERAL: lambda: "a" if value != ord("a") else "b",
        codes.ANY: lambda: "a",
        codes.IN: lambda: _member(value),
        codes.SUBPATTERN: lambda: _sequence(value[-1]),
        codes.BRANCH: lambda: _sequence(value[1][0]),
        codes.AT: lambda: "",
    }
    return simple[code]()


def _member(options: list[tuple[Any, Any]]) -> str:
    if options[0][0] is codes.NEGATE:
        return next(char for char in _ORDINARY if not any(_holds(char, *each) for each in options[1:]))
    code, value = options[0]
    if code is codes.LITERAL:
        return chr(value)
    return chr(value[0]) if code is codes.RANGE else _CATEGORIES[value]


def _holds(char: str, code: Any, value: Any) -> bool:
    if code is codes.LITERAL:
        return bool(ord(char) == value)
    if code is codes.RANGE:
        low, high = value
        return bool(low <= ord(char) <= high)
    tests: Mapping[Any, bool] = {
        codes.CATEGORY_DIGIT: char.isdigit(),
        codes.CATEGORY_NOT_DIGIT: not char.isdigit(),
        codes.CATEGORY_SPACE: char.isspace(),
        codes.CATEGORY_NOT_SPACE: not char.isspace(),
        codes.CATEGORY_WORD: char.isalnum() or char == "_",
        codes.CATEGORY_NOT_WORD: not (char.isalnum() or char == "_"),
    }
    return tests[value]
