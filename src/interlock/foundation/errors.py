"""Every error code the platform answers with, its status and its default message, in one table.

Does not render: the envelope is `foundation/control`, the dialects are the gateway's.
"""

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One row of the table. `retry_after_s` is the default wait; None means that a repeat cannot help."""

    code: str
    http_status: int
    message: str
    retry_after_s: float | None = None


_ROWS: Final = (
    ErrorSpec("invalid_request", 400, "The request is not well formed."),
    ErrorSpec("unknown_field", 400, "The body has a field that this call does not know."),
    ErrorSpec("invalid_cursor", 400, "The cursor was not issued for this list."),
    ErrorSpec("invalid_consistency_token", 400, "The consistency token was not issued for this organization."),
    ErrorSpec("invalid_acl", 400, "This is not an access list."),
    ErrorSpec("invalid_query", 400, "The query is empty, too long, or not text."),
    ErrorSpec("invalid_url", 400, "The text is no URL that can be fetched."),
    ErrorSpec("bad_http", 400, "The bytes received are not an HTTP/1.1 request."),
    ErrorSpec("invalid_json", 400, "The body is not a JSON object."),
    ErrorSpec("unsupported_parameter", 400, "The upstream cannot honour this parameter."),
    ErrorSpec("context_length_exceeded", 400, "The prompt does not fit the context of the model."),
    ErrorSpec("version_unknown", 400, "`interlock-version` names no version that is served."),
    ErrorSpec("beta_unknown", 400, "There is no beta of this name."),
    ErrorSpec("class_unknown", 400, "The service class is not interactive, standard or batch."),
    ErrorSpec("invalid_key", 401, "The API key is missing or not valid."),
    ErrorSpec("key_expired", 401, "The API key has expired."),
    ErrorSpec("key_revoked", 401, "The API key was revoked."),
    ErrorSpec("session_expired", 401, "The console session has ended; sign in again."),
    ErrorSpec("internal_only", 401, "This call is reserved to the platform's own processes."),
    ErrorSpec("scope_denied", 403, "The API key does not carry the scope that this call needs."),
    ErrorSpec("role_denied", 403, "No role of the caller allows this action."),
    ErrorSpec("delegation_denied", 403, "The caller may not act as another principal."),
    ErrorSpec("ip_denied", 403, "The API key may not be used from this address."),
    ErrorSpec("model_not_allowed", 403, "The API key may not use this model."),
    ErrorSpec("beta_not_enabled", 403, "This beta is not open to this organization or workspace."),
    ErrorSpec("beta_expired", 403, "This beta has ended."),
    ErrorSpec("beta_disabled", 403, "A kill switch is on for this beta."),
    ErrorSpec("path_not_allowed", 403, "The folder does not lie under a folder that sources may use."),
    ErrorSpec("verdict_required", 403, "A weight rises only with the token of a live verdict."),
    ErrorSpec("verdict_invalid", 403, "The verdict's token was not signed for this organization and route."),
    ErrorSpec("verdict_expired", 403, "The verdict is not live any more."),
    ErrorSpec("verdict_digest_mismatch", 403, "The verdict is about another artifact."),
    ErrorSpec("verdict_not_pass", 403, "The verdict does not admit the artifact."),
    ErrorSpec("verdict_weight_exceeded", 403, "The verdict admits less than this weight."),
    ErrorSpec("approver_not_allowed", 403, "This caller may not approve steps of this task."),
    ErrorSpec("csrf_refused", 403, "The form was not sent by a page of this console."),
    ErrorSpec("not_found", 404, "There is nothing under this address that the caller may see."),
    ErrorSpec("request_not_found", 404, "No request with this id that the caller may see."),
    ErrorSpec("principal_not_found", 404, "No principal with this name."),
    ErrorSpec("document_not_found", 404, "No document with this id that the caller may see."),
    ErrorSpec("source_not_found", 404, "No source with this id that the caller may administer."),
    ErrorSpec("model_not_found", 404, "No model with this name."),
    ErrorSpec("crawl_not_found", 404, "No crawl with this id that the caller may see."),
    ErrorSpec("pool_unknown", 404, "No pool with this name."),
    ErrorSpec("grant_unknown", 404, "No live grant with this id."),
    ErrorSpec("task_not_found", 404, "No task with this id that the caller may see."),
    ErrorSpec("method_not_allowed", 405, "This address does not take this method."),
    ErrorSpec("request_timeout", 408, "The request was not received in time."),
    ErrorSpec("idempotency_in_progress", 409, "A call with this Idempotency-Key is still running.", 1.0),
    ErrorSpec("name_taken", 409, "The name is already in use."),
    ErrorSpec("source_exists", 409, "The name of the source is already in use."),
    ErrorSpec("crawl_not_running", 409, "The crawl is not in a state that allows this."),
    ErrorSpec("in_use", 409, "The object is still in use."),
    ErrorSpec("last_owner", 409, "An organization keeps at least one owner."),
    ErrorSpec("gate_blocked", 409, "There is no live evidence that admits this version."),
    ErrorSpec("rollout_active", 409, "Another version of the route is being rolled out."),
    ErrorSpec("state_conflict", 409, "This cannot be done in the state that the object is in."),
    ErrorSpec("grant_exists", 409, "A grant for this request is already live."),
    ErrorSpec("grant_settled", 409, "The grant was settled with other figures."),
    ErrorSpec("not_fresh_enough", 409, "The store has not reached the epoch that was asked for.", 1.0),
    ErrorSpec("sources_revoked", 409, "The sources of the answer were revoked while it was made."),
    ErrorSpec("task_terminal", 409, "The task has ended."),
    ErrorSpec("task_running", 409, "The task is queued or running."),
    ErrorSpec("invalid_transition", 409, "The task cannot go on from where it is."),
    ErrorSpec("approval_stale", 409, "The approval is not about what the task would do now."),
    ErrorSpec("approval_decided", 409, "The approval was decided already."),
    ErrorSpec("run_not_finished", 409, "The run has not ended."),
    ErrorSpec("gate_not_armed", 409, "The gate's controls have not passed."),
    ErrorSpec("attempts_exhausted", 409, "This policy has decided about this artifact three times."),
    ErrorSpec("incident_unguarded", 409, "No required gate asks for the incident's case."),
    ErrorSpec("case_not_admitted", 409, "The case does not fail on the bad artifact and pass on the reference."),
    ErrorSpec("capture_missing", 409, "The incident has no input."),
    ErrorSpec("required_gate_exists", 409, "The route has a required gate already."),
    ErrorSpec("events_expired", 410, "The events behind that number were deleted by now."),
    ErrorSpec("version_conflict", 412, "The object has changed since it was read."),
    ErrorSpec("body_too_large", 413, "The body is larger than this call accepts."),
    ErrorSpec("document_too_large", 413, "The text of the document is longer than this platform indexes."),
    ErrorSpec("too_many_urls", 413, "The call names more URLs than one call may."),
    ErrorSpec("repo_too_large", 413, "The repository is larger than this call accepts."),
    ErrorSpec("request_exceeds_limit", 413, "The request can never fit into a limit that applies to it."),
    ErrorSpec("request_exceeds_engine", 413, "The request does not fit any engine of the pool."),
    ErrorSpec("suite_too_large", 413, "The suite has more cases than one may have."),
    ErrorSpec("target_too_long", 414, "The request line is too long."),
    ErrorSpec("unsupported_media_type", 415, "The body has an encoding or a type that this call does not accept."),
    ErrorSpec("media_type_unsupported", 415, "Documents of this type cannot be read."),
    ErrorSpec("expectation_failed", 417, "Only `Expect: 100-continue` is understood."),
    ErrorSpec("not_leader", 421, "Another scheduler leads this pool.", 0.1),
    ErrorSpec("idempotency_mismatch", 422, "The Idempotency-Key was used with another body."),
    ErrorSpec("acl_principal_unknown", 422, "The access list names somebody who does not exist."),
    ErrorSpec("text_unextractable", 422, "The document has no text that could be read."),
    ErrorSpec("invalid_spec", 422, "The crawl cannot be done as it is described."),
    ErrorSpec("politeness_below_floor", 422, "Hosts of strangers are not visited that fast."),
    ErrorSpec("contact_missing", 422, "Hosts of strangers are crawled with a contact in the user agent only."),
    ErrorSpec("group_limit", 422, "The organization has too many live group edges."),
    ErrorSpec("budget_exceeds_limit", 422, "The budget is larger than the workspace allows."),
    ErrorSpec("deadline_in_past", 422, "The deadline has passed already."),
    ErrorSpec("unknown_tool", 422, "There is no such tool or grant."),
    ErrorSpec("unsafe_path", 422, "A path leaves the tree."),
    ErrorSpec("repo_invalid", 422, "The repository cannot be read."),
    ErrorSpec("unknown_step", 422, "The task has no such step."),
    ErrorSpec("same_artifact", 422, "Candidate and baseline are the same artifact."),
    ErrorSpec("invalid_case", 422, "A case of the suite is not well formed."),
    ErrorSpec("duplicate_case_key", 422, "Two cases of the suite have the same key."),
    ErrorSpec("oracle_cannot_fail", 422, "No output could fail an oracle of the case."),
    ErrorSpec("unknown_suite", 422, "No suite with this name and version."),
    ErrorSpec("unknown_judge", 422, "No judge with this name."),
    ErrorSpec("margin_out_of_range", 422, "A margin or alpha is out of its range."),
    ErrorSpec("unsupported_target", 422, "Targets of this kind cannot be evaluated here."),
    ErrorSpec("admin_rate_limit", 429, "Too many administrative calls.", 1.0),
    ErrorSpec("ingest_backlog_full", 429, "Too many documents wait to be stored.", 5.0),
    ErrorSpec("search_overloaded", 429, "Too many searches wait already.", 1.0),
    ErrorSpec("what_if_busy", 429, "As many simulations run already as may; ask again in a moment.", 5.0),
    ErrorSpec("crawl_limit", 429, "The workspace has as many live crawls as it may."),
    ErrorSpec("requests_limit", 429, "The limit of requests is used up.", 1.0),
    ErrorSpec("tokens_limit", 429, "The limit of tokens is used up.", 1.0),
    ErrorSpec("concurrency_limit", 429, "All concurrent requests that are allowed are running.", 1.0),
    ErrorSpec("budget_exhausted", 429, "The budget is used up."),
    ErrorSpec("upstream_rate_limited", 429, "The model server is at its own limit.", 1.0),
    ErrorSpec("queue_time_exceeded", 429, "The engines did not free a place in time.", 1.0),
    ErrorSpec("tenant_queue_full", 429, "The tenant holds all the queue seats it may.", 1.0),
    ErrorSpec("deadline_infeasible", 429, "The deadline cannot be met.", 1.0),
    ErrorSpec("fair_share_exceeded", 429, "The tenant is over its share and the deadline cannot be met.", 1.0),
    ErrorSpec("displaced", 429, "A request over its tenant's share gave way to others.", 1.0),
    ErrorSpec("queue_full", 429, "Too many tasks are queued.", 1.0),
    ErrorSpec("too_many_streams", 429, "Too many event streams are open.", 1.0),
    ErrorSpec("runs_queue_full", 429, "Too many runs wait or run already.", 5.0),
    ErrorSpec("headers_too_large", 431, "The headers are too large."),
    ErrorSpec("client_gone", 499, "The client closed the connection."),
    ErrorSpec("internal_error", 500, "Something broke inside the platform.", 1.0),
    ErrorSpec("retrieval_guard_tripped", 500, "The result was held back because two checks of access disagreed."),
    ErrorSpec("control_unavailable", 502, "The control process is away.", 1.0),
    ErrorSpec("upstream_error", 502, "The model server failed.", 1.0),
    ErrorSpec("upstream_auth_failed", 502, "The model server refused the platform's credentials."),
    ErrorSpec("upstream_bad_reply", 502, "The model server answered with something that is not a completion.", 1.0),
    ErrorSpec("upstream_stream_cut", 502, "The model server ended the stream before it was complete.", 1.0),
    ErrorSpec("store_unavailable", 503, "The store is away.", 1.0),
    ErrorSpec("identity_unavailable", 503, "The key is not known here and the store is away.", 1.0),
    ErrorSpec("audit_unavailable", 503, "The change could not be audited and was not made.", 1.0),
    ErrorSpec("limits_unavailable", 503, "A limit applies and the store that holds it is away.", 1.0),
    ErrorSpec("killed", 503, "A kill switch is on."),
    ErrorSpec("idempotency_unavailable", 503, "Whether this call was made before cannot be told now.", 1.0),
    ErrorSpec("overloaded", 503, "The platform is at capacity.", 1.0),
    ErrorSpec("no_capacity", 503, "No healthy engine is ready.", 5.0),
    ErrorSpec("route_unavailable", 503, "No target of the route can be asked now.", 1.0),
    ErrorSpec("pool_draining", 503, "The pool is being drained.", 5.0),
    ErrorSpec("upstream_timeout", 504, "The model server did not answer in time.", 1.0),
    ErrorSpec("deadline_exceeded", 504, "The deadline of the request has passed.", 1.0),
)

ERRORS: Final = {row.code: row for row in _ROWS}


class InterlockError(Exception):
    """A refusal or failure with a stable code; everything in `detail` may be shown to the caller."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        detail: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        spec = ERRORS[code]
        self.code = code
        self.http_status = spec.http_status
        self.message = message or spec.message
        self.retry_after_s = spec.retry_after_s if retry_after_s is None else retry_after_s
        self.safe_detail = detail or {}
        self.headers = headers or {}
        super().__init__(f"{code}: {self.message}")


class BrokenWorldError(RuntimeError):
    """Something outside the platform is not as it must be; the process that sees it does not start.

    `code` is stable (`store_not_found`, `unsafe_data_directory`, ...), `remedy` says what to do.
    """

    def __init__(self, code: str, finding: str, remedy: str) -> None:
        self.code = code
        self.finding = finding
        self.remedy = remedy
        super().__init__(f"{code}: {finding}; {remedy}")
