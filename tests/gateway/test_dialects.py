"""Every dialect over every family of upstream, from the head to the story, by http and by https."""

import json

import pytest

from interlock.gateway.domain.directory import Dimension, ProviderKind
from tests.gateway.vendors import WORDS, vendor
from tests.gateway.vendors import lead as lead_to
from tests.gateway.worlds import world

pytestmark = pytest.mark.usefixtures("still")

QUESTION = {"role": "user", "content": "Where is my order?"}
KINDS = [ProviderKind.OPENAI, ProviderKind.ANTHROPIC]


@pytest.fixture
async def upstream():
    async with vendor() as each:
        yield each


@pytest.fixture
async def edge(store, scope, upstream):
    async with world(store, scope) as each:
        for kind in KINDS:
            await lead_to(each, str(kind), kind, f"{upstream.url}/v1")
        yield each


async def ask(edge, path, body, **headers):
    return await edge.call("POST", path, json.dumps(body).encode(), **headers)


def named_events(reply):
    """The events of a stream with names: pairs of name and data."""
    frames = [each for each in reply.content.decode().split("\n\n") if each and not each.startswith(":")]
    return [
        (each.partition("\n")[0].removeprefix("event: "), json.loads(each.partition("data: ")[2])) for each in frames
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_are_answered_whole(edge, kind):
    reply = await ask(
        edge, "/v1/messages", {"model": kind, "max_tokens": 50, "system": "Be kind.", "messages": [QUESTION]}
    )
    assert reply.status == 200, reply.content
    assert reply.body["content"] == [{"type": "text", "text": "".join(WORDS), "citations": None}]
    assert (reply.body["type"], reply.body["role"], reply.body["stop_reason"]) == ("message", "assistant", "end_turn")
    story = await edge.story(reply.request_id)
    assert (story.endpoint, story.dialect, story.outcome) == ("/v1/messages", "anthropic", "ok")
    assert (story.usage.input_tokens, story.usage.output_tokens, story.usage.estimated) == (11, 6, False)


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_are_streamed_in_order(edge, kind):
    reply = await ask(edge, "/v1/messages", {"model": kind, "max_tokens": 50, "stream": True, "messages": [QUESTION]})
    assert reply.status == 200, reply.content
    events = named_events(reply)
    assert [name for name, _ in events if name != "ping"] == [
        "message_start", "content_block_start", *["content_block_delta"] * len(WORDS), "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert "".join(data["delta"]["text"] for name, data in events if name == "content_block_delta") == "".join(WORDS)
    delta = next(data for name, data in events if name == "message_delta")
    assert (delta["delta"]["stop_reason"], delta["usage"]["output_tokens"]) == ("end_turn", 6)
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.usage.input_tokens, story.usage.output_tokens) == ("ok_stream", 11, 6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [True, False])
async def test_chat_and_responses_reach_both_families(edge, kind, stream):
    chat = await ask(edge, "/v1/chat/completions", {"model": kind, "stream": stream, "messages": [QUESTION]})
    answered = await ask(edge, "/v1/responses", {"model": kind, "stream": stream, "input": "Where is my order?"})
    assert (chat.status, answered.status) == (200, 200)
    if stream:
        chunks = [json.loads(each) for each in chat.events[:-1]]
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        events = named_events(answered)
        assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
        response = events[-1][1]["response"]
    else:
        text, response = chat.body["choices"][0]["message"]["content"], answered.body
    assert text == "".join(WORDS)
    assert (response["status"], response["output"][0]["content"][0]["text"]) == ("completed", text)
    assert response["usage"] == {
        "input_tokens": 11, "output_tokens": 6, "total_tokens": 17,
        "input_tokens_details": {"cached_tokens": 3 if kind == "anthropic" else 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    story = await edge.story(answered.request_id)
    assert (story.endpoint, story.dialect, story.usage.output_tokens) == ("/v1/responses", "openai", 6)


async def test_what_has_no_counterpart_is_dropped_by_name_or_refused_by_name(edge, upstream):
    asked = {"model": "anthropic", "messages": [QUESTION], "seed": 1, "temperature": 1.5, "user": "u"}
    reply = await ask(edge, "/v1/chat/completions", asked)
    assert reply.status == 200
    assert reply.headers["x-interlock-dropped"] == "seed,temperature,user"
    assert upstream.last[1]["temperature"] == 1.0
    assert upstream.last[1]["max_tokens"] == 4_096
    for param, value in (("n", 2), ("response_format", {"type": "json_object"}), ("frequency_penalty", 1)):
        refused = await ask(edge, "/v1/chat/completions", asked | {param: value})
        assert (refused.status, refused.body["error"]["code"]) == (400, "unsupported_parameter")
        assert refused.body["error"]["param"] == param
    refused = await ask(edge, "/v1/messages", {"model": "openai", "messages": [QUESTION], "container": "c"})
    assert refused.body["interlock"]["param"] == "container"
    story = await edge.story(refused.request_id)
    assert (story.outcome, story.rule) == ("bad_request", "body.container")


async def test_an_error_has_the_form_of_the_vendor_whose_route_was_asked(edge):
    stranger = await edge.call("POST", "/v1/messages", b"{}", key="", x_api_key="foo")
    assert stranger.status == 401
    assert (stranger.body["type"], stranger.body["error"]["type"]) == ("error", "authentication_error")
    assert stranger.body["request_id"] == stranger.request_id
    assert stranger.body["interlock"]["code"] == "invalid_key"
    missing = await edge.call("GET", "/v1/models/nothing", anthropic_version="2023-06-01")
    assert (missing.status, missing.body["type"]) == (404, "error")
    assert "type" not in (await edge.call("GET", "/v1/models/nothing")).body


async def test_the_other_vendors_key_header_and_limits_are_understood(edge):
    await edge.limit(1, Dimension.REQUESTS, burst=2)
    body = json.dumps({"model": "anthropic", "max_tokens": 5, "messages": [QUESTION]}).encode()
    first = await edge.call("POST", "/v1/messages", body, key="", x_api_key=edge.key)
    assert (first.headers["anthropic-ratelimit-requests-limit"], first.status) == ("1", 200)
    assert first.headers["anthropic-ratelimit-requests-remaining"] == "1"
    assert first.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert "x-ratelimit-limit-requests" not in first.headers
    await edge.call("POST", "/v1/messages", body)
    limited = await edge.call("POST", "/v1/messages", body)
    assert (limited.status, limited.body["error"]["type"]) == (429, "rate_limit_error")
    assert limited.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert int(limited.headers["retry-after"]) > 0


async def test_tokens_are_counted_by_the_upstream_that_can_and_estimated_else(edge):
    body = {"model": "anthropic", "messages": [QUESTION]}
    assert (await ask(edge, "/v1/messages/count_tokens", body)).body == {"input_tokens": 42}
    estimated = await ask(edge, "/v1/messages/count_tokens", body | {"model": "openai"})
    assert estimated.headers["x-interlock-estimated"] == "true"
    assert 5 < estimated.body["input_tokens"] < 60
    assert (await edge.story(estimated.request_id)).outcome == "ok"


async def test_embeddings_pass_and_only_their_input_is_counted(edge, upstream):
    reply = await ask(edge, "/v1/embeddings", {"model": "openai", "input": "boots"})
    assert reply.body["data"][0]["embedding"] == [0.1, 0.2]
    assert (upstream.last[0], upstream.last[1]["input"]) == ("/v1/embeddings", "boots")
    story = await edge.story(reply.request_id)
    assert (story.usage.input_tokens, story.usage.output_tokens) == (7, 0)
    refused = await ask(edge, "/v1/embeddings", {"model": "anthropic", "input": "boots"})
    assert (refused.status, refused.body["error"]["param"]) == (400, "model"), refused.content


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/chat/completions"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_breaks_ends_with_the_error_of_its_dialect(edge, upstream, path, kind):
    body = {"model": kind, "stream": True, "max_tokens": 9, "messages": [QUESTION]}
    if path == "/v1/responses":
        body = {"model": kind, "stream": True, "input": "hi"}
    whole = await ask(edge, path, body)
    assert whole.status == 200
    ours = "/v1/messages" if kind == "anthropic" else "/v1/chat/completions"
    recorded = await ask(edge, ours, {"model": kind, "stream": True, "max_tokens": 9, "messages": [QUESTION]})
    frames = [each + b"\n\n" for each in recorded.content.split(b"\n\n") if each]
    upstream.script = frames[:4]
    cut = await ask(edge, path, body)
    last = cut.content.decode().split("\n\n")[-2]
    assert "upstream_stream_cut" in last
    assert last.startswith(
        {"/v1/messages": "event: error", "/v1/responses": "event: response.failed"}.get(path, "data: ")
    )
    assert b"[DONE]" not in cut.content
    assert b"message_stop" not in cut.content
    story = await edge.story(cut.request_id)
    assert (story.outcome, story.error_code) == ("stream_cut", "upstream_stream_cut")
