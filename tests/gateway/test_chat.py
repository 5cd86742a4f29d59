"""A chat request from its head to its story, over a real edge, with a real key, to a scripted model server."""

import json

import pytest
import structlog

from interlock.scheduler import Fault, Script
from tests.gateway.worlds import make_tenant_key, patient, world
from tests.support.lines import logging_lines


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope) as each:
        yield each


async def test_a_stream_is_answered_event_by_event_and_its_story_names_the_route(edge):
    reply = await edge.chat(stream=True)
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-interlock-route"] == "default@1/fake"
    assert reply.headers["x-interlock-attempts"] == "1"
    assert reply.events[-1] == "[DONE]"
    chunks = [json.loads(each) for each in reply.events[:-1]]
    assert all(chunk["choices"] for chunk in chunks), "the usage chunk was not asked for"
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.status, story.rule) == ("ok_stream", 200, "route.default")
    assert (story.alias, story.route_version, story.deployment) == ("default", 1, "fake")
    assert (story.usage.output_tokens, story.usage.estimated) == (5, False)
    assert [each.step for each in story.decisions] == [
        "received", "authenticated", "parsed", "model", "route", "attempt", "first_event", "head", "finished",
    ]  # fmt: skip
    assert story.attempts[0].status == 200
    assert story.attempts[0].upstream_request_id.startswith("req_")
    assert story.timing.ttft_ms <= story.timing.total_ms


async def test_a_whole_answer_is_passed_on_as_it_came(edge):
    reply = await edge.chat(temperature=0.5)
    assert reply.status == 200
    assert reply.body["usage"]["completion_tokens"] == 5
    assert edge.engine.last_body["model"] == "fake"
    assert edge.engine.last_body["temperature"] == 0.5
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.usage.input_tokens) == ("ok", reply.body["usage"]["prompt_tokens"])


async def test_the_usage_chunk_goes_to_those_who_ask_for_it(edge):
    reply = await edge.chat(stream=True, stream_options={"include_usage": True})
    last = json.loads(reply.events[-2])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5


async def test_credentials_and_cookies_of_the_caller_never_reach_the_model_server(edge):
    seen = []
    handle = edge.engine.handle

    async def spy(exchange):
        seen.append({name for name, _ in exchange.request.headers.items})
        await handle(exchange)

    edge.engine._server._handler = spy
    reply = await edge.chat(headers={"cookie": "a=b", "x_interlock_session": "s"})
    assert reply.status == 200
    assert seen[0].isdisjoint({b"authorization", b"x-api-key", b"cookie", b"x-interlock-session"})


async def test_the_callers_own_id_and_trace_are_kept(edge):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    reply = await edge.chat(headers={"x_client_request_id": "mine-1", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert reply.headers["x-client-request-id"] == "mine-1"
    story = await edge.story(reply.request_id)
    assert (story.client_request_id, story.trace_id) == ("mine-1", trace)


async def test_every_line_of_log_of_a_request_names_it_and_its_trace(edge, monkeypatch):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    log = structlog.get_logger("a library that knows of no request")

    async def broken(*_):
        log.warning("about_to_break")
        raise ZeroDivisionError

    with logging_lines() as lines:
        monkeypatch.setattr(type(edge.process.edge._chat._attempts), "run", broken)
        reply = await edge.chat(headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        log.info("after_it")
        told = [each for each in lines() if each["event"] in ("about_to_break", "edge_fault")]
        after = next(each for each in lines() if each["event"] == "after_it")
    assert reply.status == 500
    assert [each["event"] for each in told] == ["about_to_break", "edge_fault"]
    assert {(each["request_id"], each["trace_id"]) for each in told} == {(reply.request_id, trace)}
    assert (after["request_id"], after["trace_id"]) == (None, None)


async def test_an_unknown_name_gets_the_near_ones(edge):
    reply = await edge.chat(model="defualt")
    assert (reply.status, reply.body["error"]["code"], reply.body["error"]["param"]) == (
        404,
        "model_not_found",
        "model",
    )
    assert reply.body["interlock"]["near"] == ["default"]
    assert reply.body["interlock"]["story_url"] == f"/v1/requests/{reply.request_id}"
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.rule) == ("model_not_found", "model.alias")


async def test_a_key_sees_and_uses_only_the_models_it_may(edge, store, scope):
    key = await make_tenant_key(store, scope, models=["other", "fake"])
    refused = await edge.chat(key=key)
    assert (refused.status, refused.body["error"]["code"]) == (403, "model_not_allowed")
    assert (await edge.chat(key=key, model="fake")).status == 200
    listed = (await edge.call("GET", "/v1/models", key=key)).body
    assert [each["id"] for each in listed["data"]] == ["fake"]
    assert (await edge.call("GET", "/v1/models/default", key=key)).status == 404


async def test_models_are_listed_for_both_vendors_clients(edge):
    listed = (await edge.call("GET", "/v1/models")).body
    names = [each["id"] for each in listed["data"]]
    # The platform may have aliases for everybody beside these.
    assert {"default", "fake"} <= set(names)
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == (names[0], names[-1], False)
    one = (await edge.call("GET", "/v1/models/fake")).body
    assert (one["object"], one["type"], one["display_name"]) == ("model", "model", "fake")


async def test_a_dead_model_server_is_tried_twice_and_named(edge):
    await edge.engine.close()
    reply = await edge.chat()
    assert (reply.status, reply.body["error"]["code"]) == (502, "upstream_error")
    assert reply.headers["x-should-retry"] == "true"
    assert reply.headers["x-interlock-attempts"] == "2"
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.rule, len(story.attempts)) == ("upstream_error", "upstream.connect", 2)


async def test_a_stream_that_just_ends_is_a_failure_the_client_can_see(edge):
    edge.engine.script = Script(tokens=6, fault=Fault.CUT, fault_after_events=3)
    reply = await edge.chat(stream=True)
    assert reply.status == 200
    assert "[DONE]" not in reply.events
    last = json.loads(reply.events[-1])
    assert last["error"]["code"] == "upstream_stream_cut"
    assert reply.headers.get("connection") != "close"
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.status, story.rule) == ("stream_cut", 200, "upstream.broken")
    assert (story.usage.output_tokens, story.usage.estimated) == (3, True)


async def test_silence_is_filled_with_comments(store, scope):
    # The model server says nothing until two comments were heard.
    async with world(store, scope, config=patient(keep_alive_s=0.1), script=Script(first_token_s=3_600)) as edge:
        heard = b""
        async with edge.streaming() as answer:
            async for piece in answer.chunks():
                heard += piece
                if heard.count(b": keep-alive\n\n") >= 2:
                    break
        assert heard.replace(b": keep-alive\n\n", b"") == b""
        edge.engine.script = Script(tokens=2, first_token_s=0.3)
        assert (await edge.chat(stream=True)).events[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hanging_model_server_is_given_up_in_time(store, scope, stream):
    config = patient(ttft_s=0.3, whole_s=0.3, keep_alive_s=5)
    async with world(store, scope, config=config, script=Script(fault=Fault.HANG)) as edge:
        reply = await edge.chat(stream=stream)
        assert (reply.status, reply.body["error"]["code"]) == (504, "upstream_timeout")
        assert (await edge.story(reply.request_id)).rule == "route.timeout_first_byte"
        await edge.until(lambda: edge.engine.statistics().running == 0)


async def test_the_callers_deadline_ends_the_request(edge):
    edge.engine.script = Script(tokens=2, first_token_s=600)
    reply = await edge.chat(headers={"x_interlock_deadline_ms": "300"})
    assert (reply.status, reply.body["error"]["code"]) == (504, "deadline_exceeded")
    assert (await edge.story(reply.request_id)).rule == "deadline.caller"
    edge.engine.script = Script(tokens=2)
    assert (await edge.chat(headers={"x_stainless_read_timeout": "NOT_GIVEN"})).status == 200
