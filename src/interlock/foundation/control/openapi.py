"""OpenAPI 3.1 from the registry: every route with its statuses, codes, scope and level.

Knows only what control serves; what is answered before it comes in described, as `Beside`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, get_origin

import msgspec

from interlock import __version__
from interlock.foundation.control.route import Level, Route
from interlock.foundation.errors import ERRORS

_PARAMETER: Final = re.compile(r"{(\w+)(?::\w+)?}")
_REFERENCE: Final = "#/components/schemas/{name}"
_EVERY_CALL: Final = ("invalid_request", "unknown_field", "not_found", "method_not_allowed", "internal_error")
_WITH_CALLER: Final = (
    "invalid_key", "key_expired", "key_revoked", "session_expired", "scope_denied", "role_denied", "ip_denied",
    "store_unavailable", "identity_unavailable", "admin_rate_limit",
)  # fmt: skip
_WITH_BODY: Final = ("body_too_large", "unsupported_media_type", "request_timeout")
_MUTATION: Final = (
    "csrf_refused", "idempotency_in_progress", "idempotency_mismatch", "admin_rate_limit", "audit_unavailable",
)  # fmt: skip
_BEFORE_CONTROL: Final = ("bad_http", "target_too_long", "headers_too_large", "control_unavailable")
_UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Beside:
    """What is served beside control, in the terms of OpenAPI: items by path, forms and credentials by name."""

    paths: Mapping[str, Any] = field(default_factory=dict)
    schemas: Mapping[str, Any] = field(default_factory=dict)
    credentials: Mapping[str, Any] = field(default_factory=dict)


def document(routes: Iterable[Route], beside: Beside | None = None) -> dict[str, Any]:
    """Return the whole document."""
    beside = beside or Beside()
    registry = list(routes)
    structs = [each.body for each in registry if each.body is not None]
    answers = [each.answer for each in registry if _is_schema(each.answer)]
    schemas, components = msgspec.json.schema_components([*structs, *answers], ref_template=_REFERENCE)
    by_struct = dict(zip(map(id, structs), schemas[: len(structs)], strict=True))
    by_answer = dict(zip(map(id, answers), schemas[len(structs) :], strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in registry:
        body = by_struct.get(id(route.body)) if route.body is not None else None
        answer = by_answer.get(id(route.answer)) if _is_schema(route.answer) else None
        paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})[route.method.lower()] = _operation(
            route, body, answer
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Interlock", "version": __version__},
        "paths": {**beside.paths, **paths},
        "components": {
            "schemas": {**components, **beside.schemas, "Error": _error_schema()},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "interlock_session"},
                **beside.credentials,
            },
        },
    }


def codes_of(route: Route) -> list[str]:
    """Return every error code that the route can answer with, sorted by status."""
    codes = {*_EVERY_CALL, *_BEFORE_CONTROL, *route.codes}
    if route.level is not Level.PUBLIC:
        codes |= {*_WITH_CALLER}
    if route.method in _UNSAFE:
        codes |= {*_WITH_BODY, "csrf_refused"}
    if route.is_mutation:
        codes |= {*_MUTATION}
    if route.is_idempotent:
        codes |= {"idempotency_in_progress", "idempotency_mismatch"}
    if "cursor" in route.query or _is_list(route.answer):
        codes |= {"invalid_cursor"}
    return sorted(codes, key=lambda code: (ERRORS[code].http_status, code))


def _is_schema(answer: Any) -> bool:
    return answer is not None and not isinstance(answer, dict)


def _is_list(answer: Any) -> bool:
    """Tell whether a route answers `list[X]`, which stands for a page of X."""
    return get_origin(answer) is list


def _operation(route: Route, body: Any, answer: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": _responses(route, answer),
        "x-interlock-level": str(route.level),
    }
    if route.action is not None:
        operation["x-interlock-action"] = route.action
        operation["security"] = [{"key": []}, {"session": []}]
    else:
        operation["security"] = []
    if body is not None:
        is_needed = any(each.required for each in msgspec.structs.fields(route.body)) if route.body else True
        operation["requestBody"] = {"required": is_needed, "content": {"application/json": {"schema": body}}}
    return operation


def _operation_id(route: Route) -> str:
    return re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_")


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    page = ("limit", "cursor") if _is_list(route.answer) else ()
    for name in dict.fromkeys((*route.query, *page)):
        schema: dict[str, Any] = {"type": "string"}
        if name == "limit":
            schema = {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}
        found.append({"name": name, "in": "query", "required": False, "schema": schema})
    if (route.is_mutation or route.is_idempotent) and route.action is not None:
        key = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}
        found.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": key})
    return found


def _responses(route: Route, answer: Any) -> dict[str, Any]:
    # A page that names no type of its own is HTML.
    kind = "text/html" if route.is_html and route.media_type == "application/json" else route.media_type
    if _is_list(route.answer):
        cursor = {"type": ["string", "null"]}
        properties = {"data": answer, "next_cursor": cursor}
        answer = {"type": "object", "required": ["data", "next_cursor"], "properties": properties}
    content: dict[str, Any] = {} if route.status in {204, 303} else {kind: {"schema": answer or {}}}
    if route.may_stream:
        content["text/event-stream"] = {}
    responses: dict[str, Any] = {str(route.status): {"description": route.summary, "content": content}}
    if route.is_html and route.status != 303:
        responses["303"] = {"description": "See the page in `location`."}
    by_status: dict[int, list[str]] = {}
    for code in codes_of(route):
        by_status.setdefault(ERRORS[code].http_status, []).append(code)
    for status, codes in by_status.items():
        responses[str(status)] = _refusal(status, codes, is_html=route.is_html)
    return responses


def _refusal(status: int, codes: Sequence[str], *, is_html: bool) -> dict[str, Any]:
    page: dict[str, Any] = {"text/html": {"schema": {}}} if is_html else {}
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(codes)}",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}, **page},
        "x-interlock-codes": list(codes),
    }


def _error_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "request_id", "retry_after_s", "detail"],
                "properties": {
                    "code": {"type": "string", "enum": sorted(ERRORS)},
                    "message": {"type": "string"},
                    "request_id": {"type": "string"},
                    "retry_after_s": {"type": ["number", "null"]},
                    "detail": {"type": "object"},
                },
            }
        },
    }
