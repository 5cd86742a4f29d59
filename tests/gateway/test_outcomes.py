"""Every class of outcome that can occur has a complete story with its rule, streamed or not."""

import asyncio

import pytest

from interlock.foundation.errors import ERRORS
from interlock.foundation.telemetry import Outcome, Shipper, Spool, StoryStore, TelemetryConfig
from interlock.gateway import EdgeConfig
from interlock.gateway.adapters.upstream_http import refusal_of_status
from interlock.gateway.domain.dialect import error_body, retry_headers
from interlock.gateway.domain.directory import Dimension
from interlock.gateway.domain.outcomes import error_type, outcome_of
from interlock.gateway.domain.refusals import Refusal
from interlock.scheduler import Fault, Script
from tests.gateway.worlds import CLOCK, make_tenant_key, world

# Classes of versions, betas, replays, slots and budgets, which this edge does not have yet.
NOT_HERE = {
    "ok_replayed", "beta_refused", "idempotency_conflict", "limited_concurrency",
    "limited_budget",
}  # fmt: skip
# Held by tests of their own.
ELSEWHERE = {
    "client_gone", "infra_unavailable", "killed", "deadline_exceeded", "internal_error", "worker_lost",
    "context_too_long", "ok_fallback", "ok_degraded",
}  # fmt: skip


async def ok(edge, stream):
    return await edge.chat(stream=stream)


async def cut(edge, stream):
    edge.engine.script = Script(tokens=6, fault=Fault.CUT, fault_after_events=3)
    return await edge.chat(stream=stream)


async def bad(edge, stream):
    return await edge.chat(stream=stream, max_tokens=-1)


async def stranger(edge, stream):
    return await edge.chat(stream=stream, key="foo")


async def expired(edge, stream):
    return await edge.chat(stream=stream, key=await make_tenant_key(edge.store, edge.scope, expires_us=1))


async def revoked(edge, stream):
    return await edge.chat(stream=stream, key=await make_tenant_key(edge.store, edge.scope, revoked_us=1))


async def no_scope(edge, stream):
    return await edge.chat(stream=stream, key=await make_tenant_key(edge.store, edge.scope, scopes=["requests:read"]))


async def elsewhere(edge, stream):
    return await edge.chat(stream=stream, key=await make_tenant_key(edge.store, edge.scope, cidrs=["10.0.0.0/8"]))


async def other_model(edge, stream):
    return await edge.chat(stream=stream, key=await make_tenant_key(edge.store, edge.scope, models=["x"]))


async def no_model(edge, stream):
    return await edge.chat(stream=stream, model="nothing")


async def large(edge, stream):
    return await edge.chat(stream=stream, messages=[{"role": "user", "content": "x" * 9_000}])


async def too_many(edge, stream):
    await edge.limit(1)
    await edge.chat(stream=stream)
    return await edge.chat(stream=stream)


async def too_long(edge, stream):
    await edge.limit(1, Dimension.TOKENS, burst=600)
    await edge.chat(stream=stream, max_tokens=500)
    replies = [await edge.chat(stream=stream, max_tokens=500) for _ in range(60)]
    return next(each for each in replies if each.status == 429)


async def upstream_limit(edge, stream):
    edge.engine.script = Script(fault=Fault.RATE_LIMITED)
    return await edge.chat(stream=stream)


async def full(edge, stream):
    edge.engine.script = Script(tokens=100, token_s=0.05)
    async with edge.streaming() as answer:
        async for _ in answer.chunks():
            break
        return await edge.chat(stream=stream)


async def broken(edge, stream):
    edge.engine.script = Script(fault=Fault.SERVER_ERROR)
    return await edge.chat(stream=stream)


async def silent(edge, stream):
    edge.engine.script = Script(fault=Fault.HANG)
    return await edge.chat(stream=stream)


async def no_control(edge, stream):
    return await edge.call("GET", "/console")


CASES = {
    ok: ({"ok", "ok_stream"}, 200, None),
    cut: ({"stream_cut", "upstream_error"}, None, None),
    bad: ({"bad_request"}, 400, "invalid_request"),
    stranger: ({"unauthenticated"}, 401, "invalid_key"),
    expired: ({"key_expired"}, 401, "key_expired"),
    revoked: ({"key_revoked"}, 401, "key_revoked"),
    no_scope: ({"scope_denied"}, 403, "scope_denied"),
    elsewhere: ({"ip_denied"}, 403, "ip_denied"),
    other_model: ({"model_denied"}, 403, "model_not_allowed"),
    no_model: ({"model_not_found"}, 404, "model_not_found"),
    large: ({"too_large"}, 413, "body_too_large"),
    too_many: ({"limited_requests"}, 429, "requests_limit"),
    too_long: ({"limited_tokens"}, 429, "tokens_limit"),
    upstream_limit: ({"upstream_limited"}, 429, "upstream_rate_limited"),
    full: ({"overloaded"}, 503, "overloaded"),
    broken: ({"upstream_error"}, 502, "upstream_error"),
    silent: ({"upstream_timeout"}, 504, "upstream_timeout"),
    no_control: ({"upstream_error"}, 502, "control_unavailable"),
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_every_outcome_class_has_a_complete_story(store, scope, case, stream):
    outcomes, status, code = CASES[case]
    inflight = 1 if case is full else 100
    config = EdgeConfig(ttft_s=0.3, whole_s=0.3, body_bytes_max=8_000, inflight_max=inflight)
    async with world(store, scope, config=config) as edge:
        reply = await case(edge, stream)
        story = await edge.story(reply.request_id)
    assert story.complete
    assert story.outcome in outcomes
    assert story.rule
    assert story.decisions[0].step == "received"
    assert story.decisions[-1].step == "finished"
    assert story.timing.total_ms > 0
    if status is not None:
        assert (reply.status, story.status, story.error_code) == (status, status, code)
    if status is not None and status >= 400 and case is not no_control:
        assert reply.body["error"]["code"] == code
        assert reply.body["interlock"]["rule"] == story.rule
        assert reply.body["interlock"]["request_id"] == reply.request_id
        assert reply.body["error"]["type"] == error_type(status)


def test_the_matrix_leaves_no_class_out():
    covered = set().union(*(outcomes for outcomes, _, _ in CASES.values()))
    assert covered | NOT_HERE | ELSEWHERE == set(Outcome)


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


async def test_a_killed_worker_leaves_the_story_of_what_it_was_doing(store, scope):
    async with world(store, scope, script=Script(tokens=100, token_s=0.1)) as edge:
        task = asyncio.create_task(edge.chat(stream=True))
        await edge.until(lambda: edge.engine.statistics().running == 1)
        await CLOCK.sleep(0.2)
        left = (edge.folder / "edge.ring").read_bytes()
        (edge.folder / "dead").mkdir()
        (edge.folder / "dead" / "edge.ring").write_bytes(left)
        spool = Spool(edge.folder / "dead" / "edge.ring", CLOCK, TelemetryConfig(ring_bytes=1 << 20))
        await Shipper(spool, store, CLOCK).run_once()
        spool.close()
        running = next(iter(edge.process.edge._passages))
        story = await StoryStore(store).get(scope, running.request_id)
        assert (story.outcome, story.rule, story.key_id) == ("worker_lost", "edge.worker_lost", running.key_id)
        assert (story.alias, story.deployment, story.stream) == ("default", "fake", True)
        assert [each.step for each in story.decisions] == ["received", "authenticated", "parsed", "model", "finished"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
