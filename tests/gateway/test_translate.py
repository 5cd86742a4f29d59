"""Questions and answers between dialects, in memory: what maps to what, and what upstreams do that no page allows."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.gateway.domain.envelope import Dialect, decode_envelope
from interlock.gateway.domain.translate.chat_reader import ChatReader
from interlock.gateway.domain.translate.events import BlockEnd, Failure, Finish, Reason, ToolArgsDelta, ToolStart, Usage
from interlock.gateway.domain.translate.messages_reader import MessagesReader
from interlock.gateway.domain.translate.prompt import PromptError
from interlock.gateway.domain.translate.talk import Facts, talk_of

FACTS = Facts("req_abc", 1, 3, 1 << 20)
CHAT, MESSAGES, RESPONSES = Dialect.CHAT, Dialect.MESSAGES, Dialect.RESPONSES
PIXEL = "iVBORw0KGgo="
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":  1.0}'}}


def put(body, spoken, upstream):
    """What an upstream is asked when a caller asks `body`."""
    envelope = decode_envelope(json.dumps({"model": "m", **body}).encode(), spoken)
    question = talk_of(envelope, upstream, FACTS).question("up")
    return msgspec.json.decode(question.body), question


def refused(body, spoken, upstream):
    with pytest.raises(PromptError) as error:
        put(body, spoken, upstream)
    return error.value.code, error.value.param


def chunks(*deltas, finish="stop"):
    told = [{"id": "i", "model": "m", "choices": [{"index": 0, "delta": each}]} for each in deltas]
    told.append({"id": "i", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in told) + b"data: [DONE]\n\n"


def tool(index, text, **named):
    function = {"arguments": text} | ({"name": named["name"]} if "name" in named else {})
    return {"tool_calls": [{"index": index, "function": function} | ({"id": named["id"]} if "id" in named else {})]}


def test_a_conversation_with_tools_and_pictures_goes_over_and_back():
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
            {"type": "image_url", "image_url": {"url": "https://shop.example/a.png"}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
        {"role": "user", "content": "And now?"},
    ]  # fmt: skip
    body, question = put({"messages": turns, "stop": "END", "parallel_tool_calls": False}, CHAT, MESSAGES)
    assert body["system"] == "Be kind."
    assert [each["role"] for each in body["messages"]] == ["user", "assistant", "user"]
    sources = [each["source"] for each in body["messages"][0]["content"][1:]]
    assert sources == [
        {"type": "base64", "media_type": "image/png", "data": PIXEL},
        {"type": "url", "url": "https://shop.example/a.png"},
    ]
    assert b'"input":{"a":  1.0}' in question.body, "the arguments are the model's own bytes"
    assert [each["type"] for each in body["messages"][2]["content"]] == ["tool_result", "text"]
    assert body["stop_sequences"] == ["END"]
    back, _ = put({name: body[name] for name in ("system", "messages", "max_tokens")}, MESSAGES, CHAT)
    assert [each["role"] for each in back["messages"]] == ["system", "user", "assistant", "tool", "user"]
    assert back["messages"][1]["content"] == turns[1]["content"]
    call = back["messages"][2]["tool_calls"][0]
    assert (call["id"], json.loads(call["function"]["arguments"])) == ("c1", {"a": 1.0})


@pytest.mark.parametrize(
    ("chat", "messages"),
    [
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ("none", {"type": "none"}),
        ({"type": "function", "function": {"name": "look"}}, {"type": "tool", "name": "look"}),
    ],
)
def test_the_choice_of_a_tool_has_a_word_in_each_dialect(chat, messages):
    turns = [{"role": "user", "content": "hi"}]
    function = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    over, _ = put({"messages": turns, "tools": [function], "tool_choice": chat}, CHAT, MESSAGES)
    assert over["tool_choice"] == messages
    schema = {"name": "look", "input_schema": {"type": "object"}}
    back, _ = put({"messages": turns, "tools": [schema], "tool_choice": messages, "max_tokens": 5}, MESSAGES, CHAT)
    assert back["tool_choice"] == chat
    asked = chat if isinstance(chat, str) else {"type": "function", "name": "look"}
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
    told, _ = put({"input": "hi", "tools": tools, "tool_choice": asked}, RESPONSES, CHAT)
    assert told["tool_choice"] == chat


def test_an_answer_has_the_form_that_was_asked_for_or_is_refused_by_name():
    turns, schema = [{"role": "user", "content": "hi"}], {"type": "object"}
    text = {"format": {"type": "json_schema", "name": "order", "schema": schema, "strict": True}}
    body, _ = put({"input": "hi", "text": text, "reasoning": {"effort": "low"}}, RESPONSES, CHAT)
    assert body["response_format"]["json_schema"] == {"name": "order", "schema": schema, "strict": True}
    assert body["reasoning_effort"] == "low"
    output = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    body, _ = put({"messages": turns, "max_tokens": 5, **output}, MESSAGES, CHAT)
    assert body["response_format"]["json_schema"]["schema"] == schema
    unsupported = "unsupported_parameter"
    assert refused({"input": "hi", "text": text}, RESPONSES, MESSAGES) == (unsupported, "text.format")
    assert refused({"input": "hi", "previous_response_id": "r"}, RESPONSES, CHAT) == (
        unsupported,
        "previous_response_id",
    )
    assert refused({"input": "hi", "tools": [{"type": "web_search"}]}, RESPONSES, CHAT) == (unsupported, "tools")
    assert refused({"messages": turns, "thinking": {"type": "enabled"}}, MESSAGES, CHAT) == (unsupported, "thinking")
    assert refused({"messages": turns, "reasoning_effort": "low"}, CHAT, MESSAGES) == (unsupported, "reasoning_effort")
    assert refused({"messages": [{"role": "judge", "content": ""}]}, CHAT, MESSAGES)[1] == "messages.0.role"
    assert refused({"messages": "hi"}, CHAT, MESSAGES) == ("invalid_request", "messages")
    assert refused({}, MESSAGES, CHAT) == ("invalid_request", "messages")
    assert refused({"messages": turns, "x" * 9_999: 1}, MESSAGES, CHAT) == (unsupported, "x" * 128)


def test_what_is_dropped_is_named_once():
    block = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    asked = {"messages": [{"role": "user", "content": [block, block]}], "top_k": 4, "metadata": {"user_id": "u"}}
    assert put(asked, MESSAGES, CHAT)[1].dropped == ("cache_control", "metadata", "top_k")
    asked = {"input": "hi", "store": True, "include": [], "user": "u", "truncation": "auto"}
    body, question = put(asked, RESPONSES, CHAT)
    assert (question.dropped, body["user"]) == (("include", "store", "truncation"), "u")
    assert put(asked, RESPONSES, MESSAGES)[1].dropped == ("include", "store", "truncation", "user")


def test_thoughts_of_earlier_turns_stay_in_the_family_that_made_them():
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "b"}]},
    ]
    over, _ = put({"messages": turns}, MESSAGES, CHAT)
    assert over["messages"][1] == {"role": "assistant", "content": "b"}
    same, _ = put({"messages": turns}, MESSAGES, MESSAGES)
    assert same["messages"] == turns


@pytest.mark.parametrize("apart", [True, False])
def test_two_tools_whose_arguments_come_in_turns_are_two_blocks(apart):
    first = tool(0, "", id="a", name="look")
    second = tool(1 if apart else 0, "", id="b", name="sell")
    wire = [first, tool(0, '{"x":'), second, tool(1, '{"y":'), tool(0, "1}"), tool(1, "2}")]
    if not apart:
        wire = [first, tool(0, '{"x":1}'), second, tool(0, '{"y":2}')]
    events = ChatReader(1 << 20).feed(chunks(*wire, finish="tool_calls"))
    kinds = [type(each) for each in events]
    assert kinds.count(ToolStart) == kinds.count(BlockEnd) == 2
    starts = [at for at, each in enumerate(events) if isinstance(each, ToolStart)]
    assert "".join(each.text for each in events[starts[0] : starts[1]] if isinstance(each, ToolArgsDelta)) == '{"x":1}'
    assert "".join(each.text for each in events[starts[1] :] if isinstance(each, ToolArgsDelta)) == '{"y":2}'
    assert events[-1] == Finish(Reason.TOOLS)


@pytest.mark.parametrize(
    ("word", "reason", "skipped"),
    [
        ("end_turn", Reason.STOP, 0), ("max_tokens", Reason.LENGTH, 0), ("tool_use", Reason.TOOLS, 0),
        ("refusal", Reason.REFUSAL, 0), ("pause_turn", Reason.STOP, 0), ("stop_sequence", Reason.STOP_SEQUENCE, 0),
        ("model_context_window_exceeded", Reason.LENGTH, 0), ("something_new", Reason.STOP, 1),
    ],
)  # fmt: skip
def test_every_way_to_end_has_a_word(word, reason, skipped):
    message = {"type": "message", "id": "i", "model": "m", "content": [], "stop_reason": word}
    reader = MessagesReader(1 << 20)
    assert reader.whole(json.dumps(message).encode())[-1].reason is reason
    assert reader.skipped == skipped


def test_what_an_upstream_invents_is_skipped_and_counted_and_a_doubled_stop_is_one():
    events = [
        {"type": "message_start", "message": {"id": "i", "model": "m", "usage": {"input_tokens": 4}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "hologram"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "hologram_delta"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "look"}},
        {"type": "content_block_stop", "index": 1},
        {"type": "content_block_stop", "index": 1},
        {"type": "weather_report"},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
        {"type": "message_stop"},
    ]
    wire = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events)
    envelope = decode_envelope(b'{"model":"m","messages":[],"stream":true}', CHAT)
    talk = talk_of(envelope, MESSAGES, FACTS)
    assert talk.scanner().feed(wire).endswith(b"data: [DONE]\n\n")
    assert talk.skipped == 2
    reader = MessagesReader(1 << 20)
    told = reader.feed(b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events) + b"data: {x\n\n")
    assert [type(each).__name__ for each in told] == ["Start", "ToolStart", "BlockEnd", "Usage", "Finish"]
    assert told[3] == Usage(4, 2)
    assert reader.skipped == 2


@pytest.mark.parametrize("reader", [ChatReader, MessagesReader])
def test_a_stream_that_just_ends_is_no_answer(reader):
    assert isinstance(reader(1 << 20).end()[-1], Failure)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([ChatReader, MessagesReader]))
def test_no_bytes_of_an_upstream_break_a_reader(content, kind):
    reader = kind(1 << 20)
    events = reader.feed(b"data: " + content + b"\n\n") + reader.end()
    assert isinstance(events[-1], Failure | Finish)
