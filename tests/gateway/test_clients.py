"""The official clients of both vendors over one alias of each family, by https, and over a plain engine."""

import anthropic
import openai
import pytest

from interlock.foundation.wire import Client, ClientLimits
from interlock.gateway.domain.directory import ProviderKind
from tests.gateway.vendors import WORDS, contexts, lead, vendor
from tests.gateway.worlds import CLOCK, MESSAGES, edge_alone, make_tenant_key

KINDS = [ProviderKind.OPENAI, ProviderKind.ANTHROPIC]
SCHEMA = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}


@pytest.fixture
async def edge(store, scope, tmp_path):
    """An edge whose upstreams, one of each kind, are reached by https alone."""
    server, trusting = contexts(tmp_path)
    client = Client(ClientLimits(), CLOCK, tls=trusting)
    key = await make_tenant_key(store, scope)
    async with vendor(server) as upstream, edge_alone(store, scope, "edge-0", client=client) as each:
        each.key, each.upstream = key, upstream
        for kind in KINDS:
            await lead(each, str(kind), kind, f"{upstream.url}/v1")
        yield each
    await client.close()


@pytest.fixture
async def of_openai(edge):
    async with openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=edge.key, max_retries=0, timeout=300) as each:
        yield each


@pytest.fixture
async def of_anthropic(edge):
    async with anthropic.AsyncAnthropic(base_url=edge.url, api_key=edge.key, max_retries=0, timeout=300) as each:
        yield each


@pytest.mark.parametrize("kind", KINDS)
async def test_both_clients_stream_from_the_same_alias(edge, of_openai, of_anthropic, kind):
    stream = await of_openai.chat.completions.create(model=kind, messages=MESSAGES, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(WORDS)
    async with of_anthropic.messages.stream(model=kind, max_tokens=64, messages=MESSAGES) as told:
        text = "".join([piece async for piece in told.text_stream])
        message = await told.get_final_message()
    assert text == "".join(WORDS)
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 6)
    async with of_openai.responses.stream(model=kind, input="Where is my order?") as events:
        response = await events.get_final_response() if await _read(events) else None
    assert response.output_text == "".join(WORDS)
    assert edge.upstream.url.startswith("https://")


async def _read(events):
    return [event async for event in events]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tool_is_called_and_its_answer_goes_back(edge, of_openai, of_anthropic, kind):
    tool = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}
    asked = {"model": kind, "max_tokens": 64, "tools": [tool], "tool_choice": {"type": "any"}}
    async with of_anthropic.messages.stream(messages=MESSAGES, **asked) as told:
        used = await told.get_final_message()
    call = used.content[0]
    assert (used.stop_reason, call.name, call.input) == ("tool_use", "get_weather", {"location": "San Francisco"})
    answer = {"type": "tool_result", "tool_use_id": call.id, "content": "Fog."}
    turns = [*MESSAGES, {"role": "assistant", "content": used.content}, {"role": "user", "content": [answer]}]
    last = await of_anthropic.messages.create(messages=turns, **asked)
    assert last.content[0].text == "".join(WORDS)
    function = {"name": "get_weather", "parameters": SCHEMA}
    asked = {"model": kind, "tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    whole = await of_openai.chat.completions.create(messages=MESSAGES, **asked)
    call = whole.choices[0].message.tool_calls[0]
    assert (whole.choices[0].finish_reason, call.function.name) == ("tool_calls", "get_weather")
    turns = [*MESSAGES, whole.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "Fog."}]
    last = await of_openai.chat.completions.create(messages=turns, **asked)
    assert last.choices[0].message.content == "".join(WORDS)
    sent = edge.upstream.last[1]["messages"]
    assert [each["role"] for each in sent] == (
        ["user", "assistant", "user"] if kind == "anthropic" else ["user", "assistant", "tool"]
    )


async def test_models_counts_and_embeddings_are_where_the_clients_look(of_openai, of_anthropic):
    assert {"openai", "anthropic"} <= {model.id async for model in of_anthropic.models.list()}
    assert (await of_anthropic.models.retrieve("openai")).display_name == "openai"
    counted = await of_anthropic.messages.count_tokens(model="anthropic", messages=MESSAGES)
    assert counted.input_tokens == 42
    made = await of_openai.embeddings.create(model="openai", input="boots", encoding_format="float")
    assert made.data[0].embedding == [0.1, 0.2]


async def test_errors_arrive_as_the_other_clients_own_types(edge, of_anthropic):
    with pytest.raises(anthropic.NotFoundError) as missing:
        await of_anthropic.messages.create(model="nothing", max_tokens=5, messages=MESSAGES)
    assert missing.value.body["interlock"]["code"] == "model_not_found"
    assert (await edge.story(missing.value.request_id)).rule == "model.alias"
    stranger = of_anthropic.with_options(api_key="foo")
    with pytest.raises(anthropic.AuthenticationError):
        await stranger.messages.create(model="openai", max_tokens=5, messages=MESSAGES)


async def test_a_certificate_that_nobody_vouches_for_is_no_upstream(store, scope, tmp_path):
    server, _ = contexts(tmp_path)
    key = await make_tenant_key(store, scope)
    async with vendor(server) as upstream, edge_alone(store, scope, "edge-0") as edge:
        edge.key = key
        await lead(edge, "openai", ProviderKind.OPENAI, f"{upstream.url}/v1")
        reply = await edge.chat(model="openai")
        assert (reply.status, reply.body["error"]["code"]) == (502, "upstream_error")
        assert upstream.seen == []
