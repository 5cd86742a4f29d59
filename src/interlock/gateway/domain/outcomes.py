"""Which class of outcome a request belongs to: by its code where a rule refused, by its status elsewhere.

Decides no status; the error table does.
"""

from typing import Final

from interlock.foundation.telemetry import Outcome

_BY_CODE: Final = {
    "client_gone": Outcome.CLIENT_GONE,
    "upstream_stream_cut": Outcome.STREAM_CUT,
    "context_length_exceeded": Outcome.CONTEXT_TOO_LONG,
    "beta_unknown": Outcome.BETA_REFUSED,
    "beta_not_enabled": Outcome.BETA_REFUSED,
    "beta_expired": Outcome.BETA_REFUSED,
    "beta_disabled": Outcome.BETA_REFUSED,
    "invalid_key": Outcome.UNAUTHENTICATED,
    "session_expired": Outcome.UNAUTHENTICATED,
    "key_expired": Outcome.KEY_EXPIRED,
    "key_revoked": Outcome.KEY_REVOKED,
    "scope_denied": Outcome.SCOPE_DENIED,
    "role_denied": Outcome.SCOPE_DENIED,
    "csrf_refused": Outcome.SCOPE_DENIED,
    "ip_denied": Outcome.IP_DENIED,
    "model_not_allowed": Outcome.MODEL_DENIED,
    "model_not_found": Outcome.MODEL_NOT_FOUND,
    "idempotency_in_progress": Outcome.IDEMPOTENCY_CONFLICT,
    "idempotency_mismatch": Outcome.IDEMPOTENCY_CONFLICT,
    "body_too_large": Outcome.TOO_LARGE,
    "request_exceeds_limit": Outcome.TOO_LARGE,
    "request_exceeds_engine": Outcome.TOO_LARGE,
    "requests_limit": Outcome.LIMITED_REQUESTS,
    "admin_rate_limit": Outcome.LIMITED_REQUESTS,
    "tokens_limit": Outcome.LIMITED_TOKENS,
    "concurrency_limit": Outcome.LIMITED_CONCURRENCY,
    "budget_exhausted": Outcome.LIMITED_BUDGET,
    "upstream_rate_limited": Outcome.UPSTREAM_LIMITED,
    "overloaded": Outcome.OVERLOADED,
    "no_capacity": Outcome.OVERLOADED,
    "pool_draining": Outcome.OVERLOADED,
    "route_unavailable": Outcome.OVERLOADED,
    "pool_unknown": Outcome.OVERLOADED,
    "deadline_infeasible": Outcome.OVERLOADED,
    "fair_share_exceeded": Outcome.OVERLOADED,
    "displaced": Outcome.OVERLOADED,
    "queue_time_exceeded": Outcome.OVERLOADED,
    "tenant_queue_full": Outcome.OVERLOADED,
    "killed": Outcome.KILLED,
    "identity_unavailable": Outcome.INFRA_UNAVAILABLE,
    "idempotency_unavailable": Outcome.INFRA_UNAVAILABLE,
    "limits_unavailable": Outcome.INFRA_UNAVAILABLE,
    "upstream_error": Outcome.UPSTREAM_ERROR,
    "upstream_auth_failed": Outcome.UPSTREAM_ERROR,
    "upstream_bad_reply": Outcome.UPSTREAM_ERROR,
    "control_unavailable": Outcome.UPSTREAM_ERROR,
    "upstream_timeout": Outcome.UPSTREAM_TIMEOUT,
    "deadline_exceeded": Outcome.DEADLINE_EXCEEDED,
}
_BY_STATUS: Final = {
    401: Outcome.UNAUTHENTICATED,
    403: Outcome.SCOPE_DENIED,
    413: Outcome.TOO_LARGE,
    429: Outcome.LIMITED_REQUESTS,
    502: Outcome.UPSTREAM_ERROR,
    503: Outcome.INFRA_UNAVAILABLE,
}
_TYPE_BY_STATUS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    422: "conflict_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def outcome_of(code: str | None, status: int) -> Outcome:
    """Return the class of a refusal or answer; a code of its own goes before the status."""
    if code is not None and code in _BY_CODE:
        return _BY_CODE[code]
    if status < 400:
        return Outcome.OK
    return _BY_STATUS.get(status) or (Outcome.INTERNAL_ERROR if status >= 500 else Outcome.BAD_REQUEST)


def error_type(status: int) -> str:
    """Return the `type` of an error body in the OpenAI dialect."""
    return _TYPE_BY_STATUS.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
