"""A model server of either family: how it is asked, and what its errors mean to our callers.

Relays nothing to the client; `service/relay.py` does.
"""

import re
from typing import Final

import msgspec

from interlock.foundation.wire import (
    Answer,
    UpstreamBroken,
    UpstreamConnectError,
    UpstreamError,
    UpstreamTimeout,
)
from interlock.gateway.domain.envelope import Dialect
from interlock.gateway.domain.refusals import Refusal

HEADERS: Final = ((b"content-type", b"application/json"), (b"user-agent", b"interlock"))
_MESSAGE_CHARS_MAX: Final = 500
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]+")
# Upstream codes that mean the same to our callers.
_SAME_CODES: Final = frozenset({"context_length_exceeded", "unsupported_parameter"})
# Each family hears of its own betas, by its own header.
_BETA_HEADERS: Final = {Dialect.CHAT: b"openai-beta", Dialect.MESSAGES: b"anthropic-beta"}
# What a server says of a path that it does not have.
NO_SUCH_ENDPOINT: Final = frozenset({404, 405, 501})
# One family has no code for this and says it in words.
_TOO_LONG: Final = re.compile(
    r"prompt is too long|exceed(?:s|ed)? (?:the )?context (?:limit|window|length)", re.IGNORECASE
)
_CALLERS_FAULT: Final = frozenset({400, 409, 413, 415, 422})


class _ErrorFields(msgspec.Struct):
    message: str | None = None
    code: str | int | None = None
    param: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorFields | str | None = None


def beta_headers(dialect: Dialect, betas: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the header of the betas that an upstream of this dialect has to hear of."""
    header = _BETA_HEADERS.get(dialect)
    names = [name for given, name in betas if given == header]
    return [(header, b",".join(names))] if header is not None and names else []


def upstream_request_id(answer: Answer) -> str | None:
    """Return the id under which the upstream knows the call."""
    value = answer.headers.get(b"x-request-id") or answer.headers.get(b"request-id")
    return value[:128].decode("latin-1") if value else None


def refusal_of_status(status: int, content: bytes, retry_after: bytes | None) -> Refusal:
    """Return what an error answer of an upstream means to the caller."""
    fields = _error_fields(content)
    rule = f"upstream.status_{status}"
    text = _CONTROL.sub(" ", fields.message or "")[:_MESSAGE_CHARS_MAX]
    note = f"{status} {fields.code or ''} {text}".strip()
    if status in (401, 403):
        return Refusal("upstream_auth_failed", rule, step="attempt", note=note)
    if status == 429:
        return Refusal("upstream_rate_limited", rule, step="attempt", note=note, retry_after_s=_wait(retry_after))
    if status in (408, 504):
        return Refusal("upstream_timeout", rule, step="attempt", note=note)
    if status in _CALLERS_FAULT:
        code = fields.code if isinstance(fields.code, str) and fields.code in _SAME_CODES else "invalid_request"
        if code == "invalid_request" and _TOO_LONG.search(text):
            code = "context_length_exceeded"
        return Refusal(
            code,
            f"upstream.{code}",
            message=text or None,
            param=fields.param,
            status=400,
            step="attempt",
            note=note,
        )
    return Refusal("upstream_error", rule, step="attempt", note=note, detail={"upstream_status": status})


def no_embeddings(status: int) -> Refusal:
    """Return the refusal of an embedding that was asked of a model which makes none."""
    return Refusal(
        "unsupported_parameter",
        f"upstream.status_{status}",
        message="The upstream of this model answers no embeddings.",
        param="model",
        step="attempt",
    )


def refusal_of_fault(fault: UpstreamError, *, is_callers_deadline: bool) -> Refusal:
    """Return what a failed connection or a missed deadline means to the caller."""
    note = str(fault)
    if isinstance(fault, UpstreamTimeout):
        if fault.phase == "connect":
            return Refusal("upstream_error", "upstream.connect", step="attempt", note=note)
        if fault.phase == "total":
            rule = "deadline.caller" if is_callers_deadline else "route.timeout_total"
            return Refusal("deadline_exceeded", rule, step="attempt", note=note)
        return Refusal("upstream_timeout", f"route.timeout_{fault.phase}", step="attempt", note=note)
    if isinstance(fault, UpstreamConnectError):
        return Refusal("upstream_error", "upstream.connect", step="attempt", note=note)
    if isinstance(fault, UpstreamBroken) and fault.head_received:
        return Refusal("upstream_bad_reply", "upstream.broken", step="attempt", note=note)
    return Refusal("upstream_error", "upstream.broken", step="attempt", note=note)


def first_byte_timeout() -> UpstreamTimeout:
    """Return the fault of an upstream that sent a head and no output."""
    return UpstreamTimeout("first_byte")


def is_unsent(fault: UpstreamError) -> bool:
    """Tell whether the model server has seen nothing of the request."""
    return isinstance(fault, UpstreamConnectError) or (isinstance(fault, UpstreamTimeout) and fault.phase == "connect")


def may_retry(fault: UpstreamError) -> bool:
    """Tell whether another call may be made: nothing was sent, or the connection broke before an answer began."""
    return is_unsent(fault) or (isinstance(fault, UpstreamBroken) and not fault.head_received)


def _error_fields(content: bytes) -> _ErrorFields:
    try:
        error = msgspec.json.decode(content, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _ErrorFields()
    return _ErrorFields(message=error) if isinstance(error, str) else error or _ErrorFields()


def _wait(retry_after: bytes | None) -> float | None:
    return float(retry_after) if retry_after is not None and retry_after.isdigit() and len(retry_after) < 6 else None
