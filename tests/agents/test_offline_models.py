"""The offline models answer as a model server does: to an independent client, streamed and not, with figures."""

import json

import httpx2
import openai
import pytest

from interlock.agents.adapters.offline_models import OfflineModelServer, model_names
from interlock.agents.domain import replay
from interlock.agents.domain.prompts import Opening, opening_messages
from interlock.agents.domain.tools import TOOLS, offered
from interlock.agents.domain.transcripts import Exchange
from interlock.foundation.clock import SystemClock
from tests.support.store import IDS, short_directory

TOKEN = "internal-token"


@pytest.fixture
async def client():
    server = OfflineModelServer(model_names(with_test_models=True), token=TOKEN, clock=SystemClock(), ids=IDS)
    path = short_directory("interlock-offline-") / "s"
    await server.start(path)
    transport = httpx2.AsyncHTTPTransport(uds=str(path))
    http = httpx2.AsyncClient(transport=transport)
    async with openai.AsyncOpenAI(api_key=TOKEN, base_url="http://offline/v1", http_client=http, max_retries=0) as made:
        yield made
    await server.drain(0.1)


async def test_an_independent_client_gets_the_same_call_streamed_and_not(client):
    messages, tools = opening_messages(Opening("mend it", "p.py", "true")), offered(list(TOOLS))
    whole = await client.chat.completions.create(model="repair-search", messages=messages, tools=tools)
    (call,) = whole.choices[0].message.tool_calls
    assert (call.function.name, whole.choices[0].finish_reason) == ("list_files", "tool_calls")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
    stream = await client.chat.completions.create(
        model="repair-search", messages=messages, tools=tools, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    names = [
        each.function.name for chunk in chunks for choice in chunk.choices for each in choice.delta.tool_calls or ()
    ]
    assert names[0] == "list_files"
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage == whole.usage


async def test_long_arguments_come_in_pieces_that_make_the_whole(client):
    script = json.dumps([{"tool": "write_file", "args": {"path": "a", "content": "x" * 9_000}}])
    messages = opening_messages(Opening(f"script:{script}"))
    stream = await client.chat.completions.create(model="adversary", messages=messages, stream=True)
    pieces = [
        each.function.arguments or ""
        async for chunk in stream
        for choice in chunk.choices
        for each in choice.delta.tool_calls or ()
    ]
    assert len(pieces) > 3
    assert json.loads("".join(pieces))["content"] == "x" * 9_000


async def test_an_answer_over_the_limit_is_cut_as_a_model_s_is(client):
    script = json.dumps([{"tool": "write_file", "args": {"path": "a", "content": "x" * 9_000}}])
    messages = opening_messages(Opening(f"script:{script}"))
    answer = await client.chat.completions.create(model="adversary", messages=messages, max_tokens=50)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 50


async def test_what_is_asked_wrongly_is_refused_in_the_dialect(client):
    messages = opening_messages(Opening("x"))
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="gpt", messages=messages)
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="repair-search", messages=[{"role": "user", "content": "hello"}])
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="adversary", messages=messages)
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="replay", messages=messages)
    stranger = client.with_options(api_key="other")
    with pytest.raises(openai.APIStatusError) as refused:
        await stranger.models.list()
    assert refused.value.status_code in {401, 403}
    assert {model.id async for model in client.models.list()} == {"repair-search", "adversary", "replay"}


async def test_a_recording_is_followed_until_something_differs(client):
    recorded = [
        Exchange("read_file", {"path": "a"}, {"content": "1", "ms": 5}),
        Exchange("run", {"command": "x"}, {"exit_code": 0, "output": "now", "ms": 9}),
    ]
    opening = Opening("replay:task_1", recording=replay.recording_of(recorded))
    messages = opening_messages(opening)

    async def step(result):
        answer = (await client.chat.completions.create(model="replay", messages=messages)).choices[0].message
        (call,) = answer.tool_calls
        messages.append(answer.model_dump(exclude_none=True))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})
        return call.function.name, json.loads(call.function.arguments)

    assert await step({"content": "1", "ms": 7}) == ("read_file", {"path": "a"})
    assert (await step({"exit_code": 1, "output": "now", "ms": 9}))[0] == "run"
    name, arguments = await step({})
    assert (name, arguments["status"]) == ("finish", "gave_up")
    assert "Call 2, run" in arguments["summary"]
    assert replay.task_of("replay:task_1") == "task_1"
    assert replay.task_of("mend it") is None


def test_models_of_tests_are_not_there_by_themselves():
    assert model_names(with_test_models=False) == ("repair-search",)
    assert set(model_names(with_test_models=True)) == {"repair-search", "adversary", "replay"}
