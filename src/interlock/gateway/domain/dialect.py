"""Answers of our own in the vendors' forms: error bodies and events, lists of models, headers of limits and waits.

Judges nothing; it gives a decided refusal its form.
"""

import math
import re
from typing import Any, Final

import msgspec

from interlock.foundation.clock import rfc3339
from interlock.gateway.domain.outcomes import error_type
from interlock.gateway.domain.refusals import Refusal

HeaderList = list[tuple[bytes, bytes]]
JSON: Final = (b"content-type", b"application/json")
SSE: Final = (b"content-type", b"text/event-stream; charset=utf-8")
# Whose form an answer of ours has; the names stand in stories.
OPENAI: Final = "openai"
ANTHROPIC: Final = "anthropic"
_RATE_HEADER: Final = re.compile(rb"x-ratelimit-(limit|remaining|reset)-([a-z-]+)")
_DURATION: Final = re.compile(rb"([0-9.]+)(ms|s|m|h|d)")
# A wait longer than this is none that a client should sit out.
_RETRY_WAIT_S_MAX: Final = 120.0
_encode: Final = msgspec.json.Encoder().encode


def error_body(refusal: Refusal, request_id: str) -> bytes:
    """Return the body of a refusal with its `interlock` object."""
    error = {
        "message": refusal.text,
        "type": "insufficient_quota" if refusal.code == "budget_exhausted" else error_type(refusal.http_status),
        "param": refusal.param,
        "code": refusal.code,
    }
    return _encode({"error": error, "interlock": told(refusal, request_id)})


def anthropic_error_body(refusal: Refusal, request_id: str) -> bytes:
    """Return the body of a refusal on a route of the other vendor."""
    error = {"type": error_type(refusal.http_status), "message": refusal.text}
    interlock = told(refusal, request_id)
    if refusal.param is not None:
        interlock["param"] = refusal.param
    return _encode({"type": "error", "error": error, "request_id": request_id, "interlock": interlock})


def told(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """Return the `interlock` object of a refusal; what has no value is left out."""
    interlock: dict[str, Any] = {"request_id": request_id, "code": refusal.code, "rule": refusal.rule}
    interlock.update(refusal.detail)
    if refusal.wait_s is not None:
        interlock["retry_after_s"] = round(refusal.wait_s, 3)
    interlock["story_url"] = f"/v1/requests/{request_id}"
    return {name: value for name, value in interlock.items() if value is not None}


def error_event(refusal: Refusal, request_id: str) -> bytes:
    """Return the last event of a stream that failed."""
    return b"data: " + error_body(refusal, request_id) + b"\n\n"


def anthropic_error_event(refusal: Refusal, request_id: str) -> bytes:
    """Return the last event of a stream that failed on a route of the other vendor."""
    return b"event: error\ndata: " + anthropic_error_body(refusal, request_id) + b"\n\n"


def retry_headers(status: int, wait_s: float | None, *, may_retry: bool = True) -> HeaderList:
    """Return what 409, 429 and 5xx say of a repeat; a long wait, or a refusal that waiting is not for, says no."""
    if status not in (409, 429) and status < 500:
        return []
    if wait_s is None:
        return [(b"x-should-retry", b"false")]
    should = b"true" if may_retry and wait_s <= _RETRY_WAIT_S_MAX else b"false"
    return [
        (b"retry-after", b"%d" % max(0, math.ceil(wait_s))),
        (b"retry-after-ms", b"%d" % max(0, math.ceil(wait_s * 1_000))),
        (b"x-should-retry", should),
    ]


def in_form_of(family: str | None, headers: HeaderList, now_us: int) -> HeaderList:
    """Return the headers of limits as the family's clients read them; the other one has moments for durations."""
    return [_anthropic_header(*each, now_us) for each in headers] if family == ANTHROPIC else headers


def _anthropic_header(name: bytes, value: bytes, now_us: int) -> tuple[bytes, bytes]:
    found = _RATE_HEADER.fullmatch(name)
    if found is None:
        return name, value
    if found[1] == b"reset":
        value = rfc3339(now_us + _microseconds(value)).encode()
    return b"anthropic-ratelimit-%b-%b" % (found[2], found[1]), value


def _microseconds(duration: bytes) -> int:
    units = {b"ms": 1_000, b"s": 1_000_000, b"m": 60_000_000, b"h": 3_600_000_000, b"d": 86_400_000_000}
    return sum(round(float(number) * units[unit]) for number, unit in _DURATION.findall(duration))


def model_object(alias: str, created_s: int, created_at: str) -> dict[str, Any]:
    """Return one model in the form that both vendors' clients read."""
    return {
        "id": alias,
        "object": "model",
        "type": "model",
        "created": created_s,
        "created_at": created_at,
        "owned_by": "interlock",
        "display_name": alias,
    }


def model_list(models: list[dict[str, Any]]) -> bytes:
    """Return the list of models."""
    return _encode(
        {
            "object": "list",
            "data": models,
            "has_more": False,
            "first_id": models[0]["id"] if models else None,
            "last_id": models[-1]["id"] if models else None,
        }
    )


def encode_json(value: Any) -> bytes:
    """Return a JSON body."""
    return _encode(value)
