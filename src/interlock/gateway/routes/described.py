"""What the edge answers itself, in the terms of OpenAPI: the routes of models, their bodies, headers, codes and forms.

Serves nothing. Bodies are the vendors' own: only what the edge reads of them has a form here.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from interlock.foundation.control.openapi import Beside
from interlock.foundation.errors import ERRORS
from interlock.gateway.domain.dialect import ANTHROPIC, OPENAI
from interlock.gateway.domain.envelope import Dialect

_Schema = dict[str, Any]
# Refused before the path is known, so in the form of the rest of the API.
BEFORE_THE_PATH: Final = ("bad_http", "target_too_long", "headers_too_large")
OF_EVERY_CALL: Final = (
    "invalid_request", "method_not_allowed", "request_timeout", "invalid_key", "key_expired", "key_revoked",
    "scope_denied", "ip_denied", "requests_limit", "identity_unavailable", "internal_error",
)  # fmt: skip
OF_MODELS: Final = ("model_not_found",)
OF_INFERENCE: Final = (
    "invalid_json", "unsupported_parameter", "version_unknown", "context_length_exceeded", "beta_unknown",
    "beta_not_enabled", "beta_expired", "beta_disabled", "model_not_allowed", "model_not_found",
    "idempotency_in_progress", "idempotency_mismatch", "body_too_large", "unsupported_media_type",
    "request_exceeds_limit", "request_exceeds_engine", "tokens_limit", "concurrency_limit", "budget_exhausted",
    "upstream_rate_limited", "overloaded", "no_capacity", "pool_draining", "pool_unknown", "route_unavailable",
    "deadline_infeasible", "fair_share_exceeded", "displaced", "queue_time_exceeded", "tenant_queue_full", "killed",
    "idempotency_unavailable", "limits_unavailable", "upstream_error", "upstream_auth_failed", "upstream_bad_reply",
    "upstream_timeout", "deadline_exceeded",
)  # fmt: skip
_TEXT: Final[_Schema] = {"type": "string"}
_METRICS: Final[_Schema] = {"application/openmetrics-text": {"schema": {}}}
_TOKENS: Final[_Schema] = {"type": ["integer", "null"], "minimum": 1, "maximum": 10_000_000}
_LIST: Final[_Schema] = {"type": "array"}
_ASKED: Final = {
    "x-client-request-id": "An id of the caller's own, echoed and found by search.",
    "x-interlock-deadline-ms": "How long the caller waits.",
    "x-interlock-degrade": "`never` where a lesser model may not answer in place of this one.",
    "x-interlock-class": "`interactive`, `standard` or `batch`, for pools.",
    "x-interlock-session": "The unit that stays with one version of a route.",
    "x-interlock-tags": "k=v,.. for usage and cost, at most ten.",
    "interlock-version": "A version of the API by its day.",
    "x-interlock-beta": "Betas that are asked for, a list with commas.",
    "Idempotency-Key": "The same call again has the first answer, streams included.",
}
_TOLD_ALWAYS: Final = ("x-request-id", "request-id")
_TOLD_OF_ANSWERS: Final = ("x-interlock-route", "x-interlock-attempts")
_TOLD_AT_TIMES: Final = ("x-client-request-id", "x-interlock-stale-config")
_TOLD_WITH_ANSWERS: Final = (
    "x-interlock-arm", "x-interlock-degraded", "x-interlock-dropped", "x-interlock-replayed",
    "x-interlock-original-request-id", "x-interlock-limit-scope", "server-timing",
)  # fmt: skip
_TOLD_OF_REPEATS: Final = ("retry-after", "retry-after-ms", "x-should-retry")


def described() -> Beside:
    """Return the paths that the edge answers itself, with the forms of their refusals."""
    paths: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": _asking("chat/completions", Dialect.CHAT, _body(
            "messages", messages=_LIST, stream={"type": ["boolean", "null"]}, max_tokens=_TOKENS,
            max_completion_tokens=_TOKENS, n={"type": ["integer", "null"], "minimum": 1, "maximum": 128},
            stream_options={"type": ["object", "null"]},
        )),
        "/v1/responses": _asking("responses", Dialect.RESPONSES, _body(
            "input", input={"type": ["string", "array"]}, stream={"type": ["boolean", "null"]},
            max_output_tokens=_TOKENS,
        )),
        "/v1/embeddings": _asking("embeddings", Dialect.EMBEDDINGS, _body(
            "input", input={"type": ["string", "array"]},
        )),
        "/v1/messages": _asking("messages", Dialect.MESSAGES, _body(
            "messages", "max_tokens", messages=_LIST, stream={"type": ["boolean", "null"]},
            max_tokens={**_TOKENS, "type": "integer"},
        )),
        "/v1/messages/count_tokens": _asking("messages/count_tokens", Dialect.COUNT, _body(
            "messages", messages=_LIST,
        )),
        "/v1/models": {"get": _operation("models", "Models that the key may use", _models(), OF_MODELS, OPENAI)},
        "/v1/models/{alias}": {
            "get": _operation("model", "One model that the key may use", _model(), OF_MODELS, OPENAI),
            "parameters": [{"name": "alias", "in": "path", "required": True, "schema": _TEXT}],
        },
        "/metrics": {"get": _operation("metrics", "Metrics of every process", _METRICS, (), None)},
        "/healthz": {"get": _plain("health", "Whether the process answers", ("200",))},
        "/readyz": {"get": _plain("ready", "Whether requests are served, and what is degraded", ("200", "503"))},
    }  # fmt: skip
    schemas = {"OpenaiError": _openai_error(), "AnthropicError": _anthropic_error()}
    keys = {"api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}
    return Beside(paths, schemas, keys)


def _asking(name: str, spoken: Dialect, body: _Schema) -> dict[str, Any]:
    family = ANTHROPIC if spoken in (Dialect.MESSAGES, Dialect.COUNT) else OPENAI
    answers: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if "stream" in body["properties"]:
        answers["text/event-stream"] = {}
    operation = _operation(name, f"Ask a model in the form of {family}'s {name}", answers, OF_INFERENCE, family)
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    operation["parameters"] = [
        {"name": each, "in": "header", "required": False, "schema": _TEXT, "description": text}
        for each, text in _ASKED.items()
    ]
    operation["responses"]["200"]["headers"] |= {
        **_headers(_TOLD_OF_ANSWERS, is_always=True), **_headers(_TOLD_WITH_ANSWERS, is_always=False)
    }  # fmt: skip
    return {"post": operation}


def _operation(name: str, summary: str, answers: _Schema, codes: Iterable[str], family: str | None) -> _Schema:
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*BEFORE_THE_PATH, *OF_EVERY_CALL, *codes)):
        by_status.setdefault(ERRORS[code].http_status, []).append(code)
    told = {**_headers(_TOLD_ALWAYS, is_always=True), **_headers(_TOLD_AT_TIMES, is_always=False)}
    responses: _Schema = {"200": {"description": summary, "headers": told, "content": answers}}
    for status, found in sorted(by_status.items()):
        responses[str(status)] = _refusal(status, sorted(found), family, told)
    return {
        "operationId": f"edge_{name.replace('/', '_')}",
        "summary": summary,
        "security": [{"key": []}, {"api_key": []}],
        "responses": responses,
        "x-interlock-served-by": "edge",
    }


def _refusal(status: int, codes: list[str], family: str | None, told: _Schema) -> _Schema:
    forms = ["#/components/schemas/Error"]
    if family is not None and set(codes) - set(BEFORE_THE_PATH):
        forms.insert(0, f"#/components/schemas/{family.capitalize()}Error")
    repeats = _headers(_TOLD_OF_REPEATS, is_always=False) if status in (409, 429) or status >= 500 else {}
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(codes)}",
        "headers": {**told, **repeats},
        "content": {"application/json": {"schema": {"anyOf": [{"$ref": each} for each in forms]}}},
        "x-interlock-codes": codes,
    }


def _plain(name: str, summary: str, statuses: Iterable[str]) -> _Schema:
    told = _headers(_TOLD_ALWAYS, is_always=True)
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": f"edge_{name}",
        "summary": summary,
        "security": [],
        "responses": {each: {"description": summary, "headers": told, "content": content} for each in statuses},
        "x-interlock-served-by": "edge",
    }


def _body(*required: str, **fields: _Schema) -> _Schema:
    """Return the body of a call; what the vendors add to it passes."""
    properties = {"model": {"type": "string", "minLength": 1, "description": "An alias of a route."}, **fields}
    return {"type": "object", "required": ["model", *required], "properties": properties}


def _model() -> _Schema:
    return {"application/json": {"schema": _model_schema()}}


def _models() -> _Schema:
    edges = {name: {"type": ["string", "null"]} for name in ("first_id", "last_id")}
    data = {"type": "array", "items": _model_schema()}
    properties: _Schema = {"object": {"const": "list"}, "data": data, "has_more": {"type": "boolean"}, **edges}
    return {"application/json": {"schema": _object(properties)}}


def _model_schema() -> _Schema:
    words: _Schema = dict.fromkeys(("id", "created_at", "owned_by", "display_name"), _TEXT)
    kinds: _Schema = {"object": {"const": "model"}, "type": {"const": "model"}, "created": {"type": "integer"}}
    return _object({**words, **kinds})


def _openai_error() -> _Schema:
    fields = {"message": _TEXT, "type": _TEXT, "param": {"type": ["string", "null"]}, "code": _TEXT}
    return _object({"error": _object(fields), "interlock": _told()})


def _anthropic_error() -> _Schema:
    error = _object({"type": _TEXT, "message": _TEXT})
    return _object({"type": {"const": "error"}, "error": error, "request_id": _TEXT, "interlock": _told()})


def _told() -> _Schema:
    """Return the form of what a refusal says beyond its vendor's words."""
    always = {name: {"type": "string", "minLength": 1} for name in ("request_id", "code", "rule", "story_url")}
    return _object({**always, "code": {"type": "string", "enum": sorted(ERRORS)}})


def _object(properties: Mapping[str, _Schema]) -> _Schema:
    return {"type": "object", "required": list(properties), "properties": dict(properties)}


def _headers(names: Iterable[str], *, is_always: bool) -> _Schema:
    return {name: {"required": is_always, "schema": _TEXT} for name in names}
