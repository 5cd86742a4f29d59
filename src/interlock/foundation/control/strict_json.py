"""JSON as the platform accepts it: RFC 8259 without its ambiguities. Every refusal names a byte.

Does not know any schema; `body.py` turns the value into a struct.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|-?\d[\d.eE+-]*', re.DOTALL)
_DIGITS_MAX: Final = 4_000


class StrictJsonError(ValueError):
    """The text is not acceptable. `position` counts characters from 0, `reason` is for the caller."""

    def __init__(self, reason: str, position: int) -> None:
        self.reason = reason
        self.position = position
        super().__init__(f"{reason} at {position}")


class _SuspectError(ValueError):
    """Something was decoded that must not be; the slow scan says what and where."""


def decode(raw: bytes, depth_max: int) -> Any:
    """Return the value of a JSON text. Raises `StrictJsonError`.

    Refused beyond the grammar: nesting deeper than `depth_max`, a key twice in one object, a number that a
    double cannot hold, NaN and Infinity, NUL and lone surrogates in strings, a byte order mark.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJsonError("The body is not UTF-8", error.start) from error
    # Only a text with these can be deep or hold an escape that the decoder lets through.
    is_suspect = text.count("[") + text.count("{") > depth_max or "\\u" in text
    if is_suspect:
        scan(text, depth_max)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise StrictJsonError(error.msg, error.pos) from error
    except (_SuspectError, RecursionError, ValueError) as error:
        scan(text, depth_max)
        raise StrictJsonError("The body is not well formed", 0) from error


def scan(text: str, depth_max: int) -> None:
    """Find the first thing that the decoder accepts and the platform does not. Raises `StrictJsonError`."""
    walk = _Walk(depth_max)
    for token, position in _tokens(text):
        walk.take(token, position)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    for match in _TOKEN.finditer(text):
        yield match.group(), match.start()


@dataclass(slots=True)
class _Walk:
    """Where a scan stands: the keys seen in each open object (None for an array), and what comes next."""

    depth_max: int
    open: list[set[str] | None] = field(default_factory=list)
    is_key_next: bool = False

    def take(self, token: str, position: int) -> None:
        first = token[0]
        if first in "{[":
            if len(self.open) >= self.depth_max:
                raise StrictJsonError(f"The body nests deeper than {self.depth_max} levels", position)
            self.open.append(set() if first == "{" else None)
            self.is_key_next = first == "{"
        elif first in "}]":
            if self.open:
                self.open.pop()
            self.is_key_next = False
        elif first == ",":
            self.is_key_next = bool(self.open) and self.open[-1] is not None
        elif first == '"':
            self._take_string(token, position)
        elif first != ":":
            _check_number(token, position)

    def _take_string(self, token: str, position: int) -> None:
        try:
            text = json.loads(token)
        except json.JSONDecodeError as error:
            raise StrictJsonError(error.msg, position + error.pos) from error
        if "\x00" in text:
            raise StrictJsonError("A string holds a NUL character", position)
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise StrictJsonError("A string holds half of a surrogate pair", position)
        if not self.is_key_next:
            return
        keys = self.open[-1]
        if keys is not None and text in keys:
            raise StrictJsonError("A key is there twice in one object", position)
        if keys is not None:
            keys.add(text)
        self.is_key_next = False


def _check_number(token: str, position: int) -> None:
    is_integer = token.lstrip("-").isdigit()
    if is_integer and len(token) <= _DIGITS_MAX:
        return
    try:
        is_finite = not is_integer and abs(float(token)) != float("inf")
    except ValueError:
        raise StrictJsonError("A number is not well formed", position) from None
    if not is_finite:
        raise StrictJsonError("A number is too large", position)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _SuspectError
    return found


def _finite(text: str) -> float:
    number = float(text)
    if abs(number) == float("inf"):
        raise _SuspectError
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise StrictJsonError(f"{text} is not JSON", 0)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant)
