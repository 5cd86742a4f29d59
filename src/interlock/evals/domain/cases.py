"""Cases of a suite: what goes in, what must hold of what comes out, and the digest that names it.

Scores nothing; `oracles.py` does. A case that no output could fail is refused here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import re2

from interlock.evals.domain.canonical import digest
from interlock.evals.domain.schemas import bad_schema

KEY_CHARS_MAX: Final = 200
ORACLES_MAX: Final = 20
MESSAGES_MAX: Final = 200
CASES_MAX: Final = 20_000
CHARS_THAT_BOUND_NOTHING: Final = 1_000_000


class SuiteKind(StrEnum):
    """How a suite is meant to be read; the rule of a check decides."""

    QUALITY = "quality"
    MUST_PASS = "must_pass"  # noqa: S105 - a kind, no password
    ZERO_TOLERANCE = "zero_tolerance"


class InvalidCaseError(ValueError):
    """A case cannot be taken: `code` is `invalid_case`, `duplicate_case_key`, `oracle_cannot_fail` or another."""

    def __init__(self, code: str, key: str, why: str, keys: Sequence[str] = ()) -> None:
        super().__init__(why)
        self.code = code
        self.key = key
        self.keys = tuple(keys)


@dataclass(frozen=True, slots=True)
class Oracle:
    """One thing that must hold. `value` has the form that its type asks for."""

    type: str
    value: Any
    ignore_case: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """One case as it is scored; `body` is what was sent, whole."""

    key: str
    body: Mapping[str, Any]
    oracles: tuple[Oracle, ...]
    cluster: str | None
    slices: tuple[str, ...]
    digest: str

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """What a model is asked; documents come in front of the last message, fenced."""
        given = list(self.body["input"]["messages"])
        documents = self.body["input"].get("documents") or ()
        if documents:
            text = "\n\n".join(f"<document {number}>\n{each}\n</document>" for number, each in enumerate(documents, 1))
            given.insert(max(len(given) - 1, 0), {"role": "user", "content": text})
        return given


TEXTS: Final = frozenset({"contains_all", "contains_any", "contains_none", "citations_in"})
PATTERNS: Final = frozenset({"regex", "not_regex"})
FLAGS: Final = frozenset({"refusal", "no_refusal", "no_pii"})
TOOLS: Final = frozenset({"tool_called", "tool_not_called"})
ONE_TEXT: Final = frozenset({"equals", "canary_absent"})
ANY_JSON: Final = frozenset({"json_equals", "state_equals", "json_schema"})
TYPES: Final = TEXTS | PATTERNS | FLAGS | TOOLS | ONE_TEXT | ANY_JSON | {"max_chars", "judge"}
_FIELDS: Final = frozenset({
    "key", "input", "oracle", "cluster", "slices", "taxonomy", "must_refuse", "provenance",
})  # fmt: skip


def read_cases(bodies: Sequence[Any]) -> list[Case]:
    """Return the cases of a suite. Raises `InvalidCaseError`."""
    cases = [read_case(each) for each in bodies]
    seen: set[str] = set()
    twice = sorted({each.key for each in cases if each.key in seen or seen.add(each.key)})  # type: ignore[func-returns-value] # add returns None
    if twice:
        raise InvalidCaseError("duplicate_case_key", twice[0], "Keys are used twice.", twice)
    return cases


def read_case(body: Any) -> Case:
    """Return one case. Raises `InvalidCaseError`."""
    if not isinstance(body, dict) or not isinstance(body.get("key"), str) or not body["key"]:
        raise InvalidCaseError("invalid_case", "", "A case is an object with a key.")
    key = body["key"][:KEY_CHARS_MAX]
    _require(len(body["key"]) <= KEY_CHARS_MAX, key, f"A key has at most {KEY_CHARS_MAX} characters.")
    unknown = sorted(set(body) - _FIELDS)
    _require(not unknown, key, f"Unknown field {unknown[0]!r}." if unknown else "")
    asked = body.get("input")
    _require(
        isinstance(asked, dict) and _are_messages(asked.get("messages")),
        key,
        "`input.messages` is a list of chat messages.",
    )
    listed = body.get("oracle")
    is_list = isinstance(listed, list) and 1 <= len(listed) <= ORACLES_MAX
    _require(is_list, key, f"`oracle` is a list of 1 to {ORACLES_MAX}.")
    oracles = tuple(_read_oracle(each, key) for each in listed or ())
    slices = body.get("slices") or []
    _require(isinstance(slices, list) and all(isinstance(each, str) for each in slices), key, "`slices` are names.")
    _require(isinstance(body.get("cluster"), str | None), key, "`cluster` is a name.")
    if body.get("must_refuse") is True and not any(each.type == "refusal" for each in oracles):
        oracles = (*oracles, Oracle("refusal", None))
    return Case(key, body, oracles, body.get("cluster"), tuple(slices), digest(body))


def suite_digest(kind: SuiteKind, cases: Sequence[Case]) -> str:
    """Return the digest of a version: kind, keys and digests of its cases, in the order of the keys."""
    return digest({"kind": str(kind), "cases": sorted([each.key, each.digest] for each in cases)})


def _are_messages(given: Any) -> bool:
    return (
        isinstance(given, list)
        and 1 <= len(given) <= MESSAGES_MAX
        and all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in given)
    )


def _read_oracle(body: Any, key: str) -> Oracle:
    _require(isinstance(body, dict) and body.get("type") in TYPES, key, "An oracle has a type that is known.")
    oracle = Oracle(body["type"], body.get("value"), bool(body.get("ignore_case", True)))
    if oracle.type == "judge":
        raise InvalidCaseError("unknown_judge", key, "There is no judge of this name.")
    if not _has_form(oracle):
        raise InvalidCaseError("invalid_case", key, f"The value of {oracle.type} does not have its form.")
    if _cannot_fail(oracle):
        raise InvalidCaseError("oracle_cannot_fail", key, f"No output could fail this {oracle.type}.")
    return oracle


def _has_form(oracle: Oracle) -> bool:
    value = oracle.value
    forms: dict[frozenset[str], Callable[[], bool]] = {
        TEXTS: lambda: isinstance(value, list) and all(isinstance(each, str) for each in value),
        PATTERNS: lambda: isinstance(value, str) and _compiles(value),
        FLAGS: lambda: value is None or value is True,
        TOOLS: lambda: _is_tool(value),
        ONE_TEXT: lambda: isinstance(value, str),
        frozenset({"json_schema"}): lambda: bad_schema(value) is None,
        frozenset({"max_chars"}): lambda: isinstance(value, int) and not isinstance(value, bool) and value > 0,
    }
    return next((form() for types, form in forms.items() if oracle.type in types), value is not None)


def _is_tool(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    is_named = isinstance(value, dict) and isinstance(value.get("name"), str) and set(value) <= {"name", "arguments"}
    return is_named and isinstance(value.get("arguments"), dict | None)


def _cannot_fail(oracle: Oracle) -> bool:
    value = oracle.value
    if oracle.type in TEXTS:
        # One empty text is enough: it is in every output.
        return not value or not all(value)
    if oracle.type == "regex":
        return bool(re2.search(value, ""))
    if oracle.type == "canary_absent":
        return not value
    return bool(oracle.type == "max_chars" and value >= CHARS_THAT_BOUND_NOTHING)


def _compiles(pattern: str) -> bool:
    try:
        re2.compile(pattern)
    except re2.error:
        return False
    return True


def _require(condition: object, key: str, why: str) -> None:
    if not condition:
        raise InvalidCaseError("invalid_case", key, why)
