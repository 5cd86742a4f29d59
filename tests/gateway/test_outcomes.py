"""Every class of outcome that can occur has a complete story with its rule, streamed or not."""

import pytest

from interlock.foundation.errors import ERRORS
from interlock.foundation.telemetry import Outcome
from interlock.gateway.adapters.upstream_http import refusal_of_status
from interlock.gateway.domain.dialect import error_body, retry_headers
from interlock.gateway.domain.outcomes import outcome_of
from interlock.gateway.domain.refusals import Refusal
from tests.gateway.worlds import world


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_code_has_a_class_and_a_body(code):
    refusal = Refusal(code, "rule")
    outcome = outcome_of(code, refusal.http_status)
    assert outcome in set(Outcome)
    assert outcome is not Outcome.OK
    assert code.encode() in error_body(refusal, "req_x")


def test_retry_headers_only_where_a_retry_is_meant():
    assert retry_headers(400, 1.0) == []
    assert retry_headers(503, None) == [(b"x-should-retry", b"false")]
    assert dict(retry_headers(429, 0.2)) == {
        b"retry-after": b"1", b"retry-after-ms": b"200", b"x-should-retry": b"true",
    }  # fmt: skip
    assert dict(retry_headers(429, 121.0))[b"x-should-retry"] == b"false"


async def test_a_fault_of_ours_is_told_as_one(store, scope):
    async with world(store, scope) as edge:
        edge.process.edge._chat._placer = None
        reply = await edge.chat()
        assert (reply.status, reply.body["error"]["code"]) == (500, "internal_error")
        story = await edge.story(reply.request_id)
        assert (story.outcome, story.rule) == ("internal_error", "edge.fault")


@pytest.mark.parametrize(
    ("status", "body", "code", "outcome"),
    [
        (
            400,
            b'{"error":{"message":"long","code":"context_length_exceeded"}}',
            "context_length_exceeded",
            "context_too_long",
        ),
        (
            400,
            b'{"error":{"message":"no tools","code":"unsupported_parameter","param":"tools"}}',
            "unsupported_parameter",
            "bad_request",
        ),
        (422, b'{"detail":"x"}', "invalid_request", "bad_request"),
        (401, b'{"error":{"message":"bad key sk-123"}}', "upstream_auth_failed", "upstream_error"),
        (404, b"<html>", "upstream_error", "upstream_error"),
        (504, b"", "upstream_timeout", "upstream_timeout"),
    ],
)
def test_an_error_of_the_model_server_means_something_to_the_caller(status, body, code, outcome):
    refusal = refusal_of_status(status, body, None)
    assert (refusal.code, outcome_of(refusal.code, refusal.http_status)) == (code, outcome)
    if status in (401, 404):
        assert "sk-123" not in refusal.text
