"""The words of a story: outcome classes and decision steps, each with its number at rest.

Decides no outcome; the gateway's rules do.
"""

from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """How a request ended; the table with status and code of each is in the gateway's reference."""

    OK = "ok"
    OK_STREAM = "ok_stream"
    OK_FALLBACK = "ok_fallback"
    OK_DEGRADED = "ok_degraded"
    OK_REPLAYED = "ok_replayed"
    CLIENT_GONE = "client_gone"
    STREAM_CUT = "stream_cut"
    BAD_REQUEST = "bad_request"
    CONTEXT_TOO_LONG = "context_too_long"
    BETA_REFUSED = "beta_refused"
    UNAUTHENTICATED = "unauthenticated"
    KEY_EXPIRED = "key_expired"
    KEY_REVOKED = "key_revoked"
    SCOPE_DENIED = "scope_denied"
    IP_DENIED = "ip_denied"
    MODEL_DENIED = "model_denied"
    MODEL_NOT_FOUND = "model_not_found"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    TOO_LARGE = "too_large"
    LIMITED_REQUESTS = "limited_requests"
    LIMITED_TOKENS = "limited_tokens"
    LIMITED_CONCURRENCY = "limited_concurrency"
    LIMITED_BUDGET = "limited_budget"
    UPSTREAM_LIMITED = "upstream_limited"
    OVERLOADED = "overloaded"
    KILLED = "killed"
    INFRA_UNAVAILABLE = "infra_unavailable"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL_ERROR = "internal_error"
    WORKER_LOST = "worker_lost"


# The position is the number that stories hold; append only.
STEPS: Final = (
    "received", "parsed", "killed", "authenticated", "version", "beta", "model", "idempotency", "limits", "arm",
    "route", "queue", "grant", "attempt", "head", "first_event", "retry", "fallback", "degrade", "cancel", "settle",
    "finished",
)  # fmt: skip
STEP_NUMBER: Final = {step: number for number, step in enumerate(STEPS)}

WORKER_LOST_RULE: Final = "edge.worker_lost"

# The kind of a story's link that names the caller's own span, from `traceparent`.
PARENT_SPAN: Final = "parent_span"


class OTEL:
    """Attributes of spans as the registry of OpenTelemetry's conventions has them; a test compares."""

    method: Final = "http.request.method"
    route: Final = "http.route"
    path: Final = "url.path"
    status: Final = "http.response.status_code"
    error_type: Final = "error.type"
    operation: Final = "gen_ai.operation.name"
    provider: Final = "gen_ai.provider.name"
    model: Final = "gen_ai.request.model"
    stream: Final = "gen_ai.request.stream"
    input_tokens: Final = "gen_ai.usage.input_tokens"
    cached_tokens: Final = "gen_ai.usage.cache_read.input_tokens"
    output_tokens: Final = "gen_ai.usage.output_tokens"
    reasoning_tokens: Final = "gen_ai.usage.reasoning.output_tokens"
    first_chunk_s: Final = "gen_ai.response.time_to_first_chunk"


# What an endpoint is in the words of the conventions (`gen_ai.operation.name`).
GEN_AI_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/embeddings": "embeddings",
    "/v1/retrieval/search": "retrieval",
    "/v1/retrieval/answers": "retrieval",
}
