"""The bodies of the internal calls as they travel, and their checks.

Does not know HTTP: the codes are those of `foundation/errors`.
"""

import re
from typing import Any, Final, NoReturn, TypeVar
from uuid import UUID

import msgspec

from interlock.contracts.scheduling import (
    AdoptedGrant,
    GrantProgress,
    GrantRequest,
    ServiceClass,
    Settlement,
    SettleOutcome,
)
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import KeyId, MalformedIdError, OrganizationId, WorkspaceId, parse_id

TOKENS_MAX: Final = 10_000_000
PREFIXES_MAX: Final = 64
NAME_CHARS_MAX: Final = 256
GRANTS_A_CALL_MAX: Final = 1_000
_PREFIX: Final = re.compile(r"[0-9a-fA-F]{16}")
_AT_FIELD: Final = re.compile(r" - at `\$\.?([^`]*)`")
_OF_FIELD: Final = re.compile(r"^Object \S+ (?:required|unknown) field `([^`]*)`")
BodyT = TypeVar("BodyT")


class GrantBody(msgspec.Struct, forbid_unknown_fields=True, rename={"service_class": "class"}):
    """`POST /internal/grants`."""

    request_id: str
    pool: str
    organization_id: str
    workspace_id: str
    input_tokens: int
    max_tokens: int
    key_id: str | None = None
    service_class: str = "interactive"
    ttft_ms: int | None = None
    deadline_ms: int | None = None
    prefix: list[str] = []
    model: str | None = None
    route: str | None = None


class ProgressLine(msgspec.Struct, forbid_unknown_fields=True):
    """One grant of `POST /internal/progress`."""

    grant_id: str
    output_tokens: int
    ttft_ms: int | None = None
    silent_ms: int | None = None


class ProgressBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /internal/progress`."""

    grants: list[ProgressLine]


class SettleBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /internal/grants/{id}/settle`."""

    outcome: SettleOutcome
    input_tokens: int
    output_tokens: int
    total_ms: int
    cached_input_tokens: int = 0
    ttft_ms: int | None = None


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /internal/cancel`: who asked has left; whether it was granted meanwhile is not known."""

    request_id: str


class AdoptLine(GrantBody, forbid_unknown_fields=True, kw_only=True, rename={"service_class": "class"}):
    """One grant of `POST /internal/adopt`: the request and what became of it."""

    grant_id: str
    engine_id: str
    age_ms: int
    output_tokens: int


class AdoptBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /internal/adopt`."""

    worker: str
    grants: list[AdoptLine]


def decode(content: bytes, kind: type[BodyT]) -> BodyT:
    """Return the body, or raise `invalid_request` naming the field."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        _refuse(_field_of(str(error)), str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse("", f"not JSON: {error}")


def grant_request(body: GrantBody) -> GrantRequest:
    """Return the request of a body, or raise `invalid_request` or `class_unknown`."""
    for name in ("request_id", "pool", "model", "route"):
        value = getattr(body, name)
        # The store takes no zero byte in a text: one such name would keep all that is written with it away.
        if value is not None and not (0 < len(value) <= NAME_CHARS_MAX and value.isprintable()):
            _refuse(name, f"1 to {NAME_CHARS_MAX} printable characters")
    for name in ("input_tokens", "max_tokens", "ttft_ms", "deadline_ms"):
        _check_count(name, getattr(body, name), minimum=1)
    if len(body.prefix) > PREFIXES_MAX or not all(_PREFIX.fullmatch(each) for each in body.prefix):
        _refuse("prefix", f"at most {PREFIXES_MAX} items of 16 hex digits")
    if body.service_class not in set(ServiceClass):
        raise InterlockError("class_unknown", detail={"class": body.service_class[:NAME_CHARS_MAX]})
    return GrantRequest(
        request_id=body.request_id,
        pool=body.pool,
        organization_id=OrganizationId(_uuid("organization_id", "org", body.organization_id)),
        workspace_id=WorkspaceId(_uuid("workspace_id", "ws", body.workspace_id)),
        key_id=None if body.key_id is None else KeyId(_uuid("key_id", "key", body.key_id)),
        service_class=ServiceClass(body.service_class),
        input_tokens=body.input_tokens,
        max_tokens=body.max_tokens,
        ttft_ms=body.ttft_ms,
        deadline_ms=body.deadline_ms,
        prefix=tuple(each.lower() for each in body.prefix),
        model=body.model,
        route=body.route,
    )


def progress_reports(body: ProgressBody) -> list[GrantProgress]:
    """Return the reports of a body, or raise `invalid_request`."""
    _check_grants(body.grants)
    for line in body.grants:
        _check_count("output_tokens", line.output_tokens, minimum=0)
        _check_count("ttft_ms", line.ttft_ms, minimum=0)
        _check_count("silent_ms", line.silent_ms, minimum=0)
    return [GrantProgress(each.grant_id, each.output_tokens, each.ttft_ms, each.silent_ms) for each in body.grants]


def settlement(body: SettleBody) -> Settlement:
    """Return the figures of a body, or raise `invalid_request`."""
    for name in ("input_tokens", "cached_input_tokens", "output_tokens", "ttft_ms", "total_ms"):
        _check_count(name, getattr(body, name), minimum=0)
    return Settlement(
        outcome=body.outcome,
        input_tokens=body.input_tokens,
        cached_input_tokens=body.cached_input_tokens,
        output_tokens=body.output_tokens,
        ttft_ms=body.ttft_ms,
        total_ms=body.total_ms,
    )


def adopted_grants(body: AdoptBody) -> list[AdoptedGrant]:
    """Return the grants of a body, or raise `invalid_request`."""
    _check_grants(body.grants)
    grants = []
    for line in body.grants:
        _check_count("age_ms", line.age_ms, minimum=0)
        _check_count("output_tokens", line.output_tokens, minimum=0)
        _uuid("grant_id", "gnt", line.grant_id)
        request = grant_request(line)
        grants.append(AdoptedGrant(request, line.grant_id, line.engine_id, line.age_ms, line.output_tokens))
    return grants


def _field_of(reason: str) -> str:
    """Return the path of the field that a decoder's words are about; of one that is missing or too much its own."""
    place, name = _AT_FIELD.search(reason), _OF_FIELD.match(reason)
    return ".".join(each[1] for each in (place, name) if each and each[1])


def _check_grants(grants: list[Any]) -> None:
    if len(grants) > GRANTS_A_CALL_MAX:
        _refuse("grants", f"at most {GRANTS_A_CALL_MAX} a call")


def _check_count(name: str, value: int | None, *, minimum: int) -> None:
    if value is not None and not minimum <= value <= TOKENS_MAX:
        _refuse(name, f"an integer from {minimum} to {TOKENS_MAX}")


def _uuid(field: str, kind: str, text: str) -> UUID:
    """Take the public form of an id, or the store's."""
    try:
        return parse_id(kind, text) if text.startswith(f"{kind}_") else UUID(text)
    except (MalformedIdError, ValueError):
        _refuse(field, f"an id {kind}_..")


def _refuse(field: str, reason: str) -> NoReturn:
    message = f"{field}: {reason}" if field else reason
    raise InterlockError("invalid_request", message, detail={"field": field, "reason": reason})
