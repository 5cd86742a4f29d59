"""JSON Schema without surprises: no reference leaves the schema, no pattern can take more than linear time.

Reads nothing from the network and no files.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import re2
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError

_DEPTH_MAX: Final = 64


def _pattern(_validator: Any, wanted: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not re2.search(wanted, instance):
        yield ValidationError("a text does not match its pattern")


_Validator: Final = validators.extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call] # untyped there


def schema_fault(schema: Any, instance: Any) -> str | None:
    """Return why an instance does not satisfy a schema, None where it does."""
    validator = _Validator(schema)
    try:
        error = next(iter(validator.iter_errors(instance)), None)
    except RecursionError:
        return "the schema cannot be followed"
    return None if error is None else f"{error.json_path}: {error.message[:200]}"


def bad_schema(schema: Any) -> str | None:
    """Return why a schema cannot be used, None where it can."""
    if not isinstance(schema, Mapping):
        return "a schema is an object"
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError) as error:
        return f"not a schema: {str(getattr(error, 'message', error))[:200]}"
    return _odd_part(schema, schema, 0)


def _odd_part(schema: Any, value: Any, depth: int) -> str | None:
    if depth > _DEPTH_MAX:
        return "the schema is too deep"
    if isinstance(value, Mapping):
        found = _odd_keyword(schema, value)
        parts = list(value.values())
    else:
        found, parts = None, list(value) if isinstance(value, list | tuple) else []
    return found or next((odd for each in parts if (odd := _odd_part(schema, each, depth + 1))), None)


def _odd_keyword(schema: Any, value: Mapping[str, Any]) -> str | None:
    if isinstance(value.get("patternProperties"), Mapping):
        return "`patternProperties` is not taken"
    odd = [name for name in ("$dynamicRef", "$id", "$anchor", "$dynamicAnchor") if isinstance(value.get(name), str)]
    if odd:
        return f"`{odd[0]}` is not taken"
    reference = value.get("$ref")
    if isinstance(reference, str) and not _leads_somewhere(schema, reference):
        return "a reference leaves the schema"
    if isinstance(value.get("pattern"), str):
        try:
            re2.compile(value["pattern"])
        except re2.error:
            return "a pattern is not linear"
    return None


def _leads_somewhere(schema: Any, reference: str) -> bool:
    """Tell whether a reference is a JSON pointer (RFC 6901) to a part of the schema itself."""
    if not reference.startswith("#") or "%" in reference:
        return False
    place = schema
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(place, Mapping) or name not in place:
            return False
        place = place[name]
    return reference == "#" or reference.startswith("#/")
