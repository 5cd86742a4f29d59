"""Answers as bytes: JSON bodies, the error envelope, and the headers that every answer carries.

Does not know the dialects of model calls; the gateway renders those.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError

_HTTP_RULES: Final = frozenset(
    {"bad_http", "not_found", "method_not_allowed", "request_timeout", "body_too_large", "unsupported_media_type"}
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer with its body in bytes."""

    status: int
    headers: Mapping[str, str]
    content: bytes


def encode_json(body: Any) -> bytes:
    """Return the JSON of a struct or plain value."""
    return msgspec.json.encode(body)


def error_body(error: InterlockError, request_id: str) -> dict[str, Any]:
    """Return the envelope of architecture page `Ids, headers, errors`."""
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "request_id": request_id,
            "retry_after_s": error.retry_after_s,
            "detail": error.safe_detail,
        }
    }


def error_headers(error: InterlockError) -> dict[str, str]:
    """Return the headers that tell a client whether and when to come back."""
    headers = dict(error.headers)
    if error.http_status in {429, 503}:
        wait_s = error.retry_after_s
        headers["x-should-retry"] = "false" if wait_s is None else "true"
        if wait_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(wait_s)))
            headers["retry-after-ms"] = str(max(1, math.ceil(wait_s * 1000)))
    return headers


def render_error(error: InterlockError, request_id: str) -> Rendered:
    """Return the answer of an error."""
    headers = {"content-type": "application/json", "cache-control": "no-store", **error_headers(error)}
    return Rendered(error.http_status, headers, encode_json(error_body(error, request_id)))


def rule_of(error: InterlockError) -> str:
    """Return the name of the rule that refused, as the story tells it; a service may name its own in the detail."""
    told = error.safe_detail.get("rule")
    if isinstance(told, str) and told:
        return told
    if error.code in _HTTP_RULES:
        return f"http.{error.code}"
    return f"control.{error.code}"


def as_refusal(error: Exception) -> InterlockError | None:
    """Return the refusal that an exception of a handler stands for; None for a defect."""
    if isinstance(error, InterlockError):
        return error
    if isinstance(error, MalformedIdError):
        return InterlockError("not_found")
    return None
