"""What the embedded engine takes: the OpenAI parameters it honours, checked, and everything else refused by name.

Does not run anything and knows no engine.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NoReturn

import msgspec

from interlock.foundation.errors import InterlockError

STOPS_MAX: Final = 4
MESSAGES_MAX: Final = 2_048
# Sent by clients for their own books, or at the value that changes nothing: taken and not passed on.
_IGNORED: Final = frozenset({"model", "user", "metadata", "store", "service_tier", "safety_identifier"})
_ROLES: Final = frozenset({"system", "developer", "user", "assistant"})
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {"n": (1,), "logprobs": (False,), "tools": ([],), "best_of": (1,)}


class CompletionKind(StrEnum):
    """Which of the two endpoints."""

    CHAT = "chat"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Completion:
    """A checked call: `parameters` is what the model gets."""

    kind: CompletionKind
    is_stream: bool
    includes_usage: bool
    parameters: dict[str, Any]


def parse_completion(kind: CompletionKind, content: bytes) -> Completion:
    """Return the call of a body, or raise `invalid_json`, `invalid_request` or `unsupported_parameter`."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InterlockError("invalid_json", f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InterlockError("invalid_json")
    given = {name: value for name, value in body.items() if value is not None}
    is_stream = given.pop("stream", False)
    if not isinstance(is_stream, bool):
        _refuse("stream", "true or false")
    options = given.pop("stream_options", {})
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool):
        _refuse("stream_options", "an object with include_usage")
    parameters = _prompt(kind, given)
    for name, value in given.items():
        if name in _IGNORED:
            continue
        if name in _NEUTRAL and value in _NEUTRAL[name]:
            continue
        check = _CHECKS.get(name)
        if check is None:
            message = f"The embedded engine does not support {name[:64]}."
            raise InterlockError("unsupported_parameter", message, detail={"param": name[:64]})
        parameters["max_tokens" if name == "max_completion_tokens" else name] = check(name, value)
    return Completion(kind, is_stream, bool(options.get("include_usage", False)), parameters)


def _prompt(kind: CompletionKind, given: dict[str, Any]) -> dict[str, Any]:
    if kind is CompletionKind.TEXT:
        prompt = given.pop("prompt", None)
        if not isinstance(prompt, str) or not prompt:
            _refuse("prompt", "a string that is not empty")
        return {"prompt": prompt}
    messages = given.pop("messages", None)
    if not isinstance(messages, list) or not 0 < len(messages) <= MESSAGES_MAX:
        _refuse("messages", f"a list of 1 to {MESSAGES_MAX} messages")
    return {"messages": [_message(index, each) for index, each in enumerate(messages)]}


def _message(index: int, message: Any) -> dict[str, str]:
    field = f"messages[{index}]"
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        _refuse(field, f"an object with a role of {', '.join(sorted(_ROLES))}")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_text_part(field, part) for part in content)
    if not isinstance(content, str):
        _refuse(f"{field}.content", "a string or a list of text parts")
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": content}


def _text_part(field: str, part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise InterlockError(
            "unsupported_parameter",
            "The embedded engine takes text parts only.",
            detail={"param": f"{field}.content"},
        )
    return str(part["text"])


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10_000_000:
        _refuse(name, "an integer of at least 1")
    return value


def _seed(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(name, "an integer")
    return value % (1 << 32)


def _number(low: float, high: float) -> Any:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            _refuse(name, f"a number from {low} to {high}")
        return float(value)

    return check


def _stop(name: str, value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > STOPS_MAX
        or not all(isinstance(each, str) and each for each in stops)
    ):
        _refuse(name, f"a string or at most {STOPS_MAX} strings, none empty")
    return stops


def _response_format(name: str, value: Any) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in {"text", "json_object"}:
        return {"type": kind}
    if kind != "json_schema":
        _refuse(name, "an object of type text, json_object or json_schema")
    schema = value.get("json_schema")
    if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
        _refuse(f"{name}.json_schema.schema", "a JSON schema")
    return {"type": "json_schema", "json_schema": {"schema": schema["schema"]}}


_CHECKS: Final[dict[str, Any]] = {
    "max_tokens": _count,
    "max_completion_tokens": _count,
    "temperature": _number(0.0, 2.0),
    "top_p": _number(0.0, 1.0),
    "frequency_penalty": _number(-2.0, 2.0),
    "presence_penalty": _number(-2.0, 2.0),
    "seed": _seed,
    "stop": _stop,
    "response_format": _response_format,
}


def _refuse(field: str, wanted: str) -> NoReturn:
    raise InterlockError("invalid_request", f"{field}: expected {wanted}.", detail={"param": field})
