"""The embedded engine as a client sees it: a real model behind our own server."""

import asyncio
import json
import subprocess
import sys
from contextlib import aclosing
from functools import partial

import httpx2
import openai
import pytest

from interlock.foundation.wire import SseParser
from tests.scheduler.calls import TOKEN, chat

pytestmark = pytest.mark.xdist_group("engine")

CHAT = "/v1/chat/completions"
LONG_PROMPT = "The parcel left the warehouse and then " * 150


def text_of(events):
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


async def test_a_streamed_answer_equals_the_whole_one(engine):
    body = chat("Name a colour.", max_tokens=12, temperature=0.0, seed=7)
    events = await engine.events(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}})
    status, whole = await engine.json(CHAT, body)
    assert status == 200
    assert text_of(events) == whole["choices"][0]["message"]["content"] != ""
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] <= 12
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [choice["finish_reason"] for event in events for choice in event["choices"]][-1] in {"stop", "length"}
    assert whole["model"] == events[0]["model"] == "smollm2-135m-instruct"
    assert len({event["id"] for event in events}) == 1


async def test_usage_comes_only_when_it_is_asked_for(engine):
    events = await engine.events(CHAT, chat(max_tokens=3, stream=True))
    assert all("usage" not in event for event in events)


async def test_plain_completions_stream_too(engine):
    body = {"prompt": "Once upon a time", "max_tokens": 5, "temperature": 0}
    events = await engine.events("/v1/completions", {**body, "stream": True})
    _, whole = await engine.json("/v1/completions", body)
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == whole["choices"][0]["text"]
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 5


async def test_a_stop_word_ends_the_answer_before_it(engine):
    body = {"prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 30, "temperature": 0, "stop": ["9"]}
    _, answer = await engine.json("/v1/completions", body)
    assert "8" in answer["choices"][0]["text"]
    assert "9" not in answer["choices"][0]["text"]
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_a_json_schema_binds_the_answer(engine):
    schema = {
        "type": "object",
        "properties": {"status": {"enum": ["shipped", "lost"]}, "parcels": {"type": "integer"}},
        "required": ["status", "parcels"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "order", "schema": schema}}
    _, answer = await engine.json(CHAT, chat("Where is my order?", max_tokens=60, temperature=0, response_format=form))
    order = json.loads(answer["choices"][0]["message"]["content"])
    assert set(order) == {"status", "parcels"}
    assert order["status"] in {"shipped", "lost"}


async def test_eight_streams_run_at_once(engine):
    told, are_seen = {}, asyncio.Event()

    async def listen(number):
        """Stay in a long stream until all eight were seen at work."""
        async with engine.request(CHAT, chat(f"Tell story {number}.", max_tokens=1_500, stream=True)) as answer:
            parser, events = SseParser(), []
            async with aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    events += [json.loads(event.data) for event in parser.feed(chunk)]
                    if text := text_of(events):
                        told[number] = text
                        await are_seen.wait()
                        return

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(listen(number))
        await engine.wait_until(lambda: is_busy(engine, 8))
        await engine.wait_until(lambda: have_said(told, 8))
        are_seen.set()
    await engine.wait_until(lambda: is_busy(engine, 0))


@pytest.mark.parametrize(
    ("phase", "prompt"), [("prefill", LONG_PROMPT), ("decode", "Write a very long story about a ship.")]
)
@pytest.mark.parametrize("is_stream", [True, False])
async def test_cancel_returns_slot(engine, phase, prompt, is_stream):
    """A client that goes away stops the model: llama.cpp itself counts the slot as free again."""
    call = asyncio.create_task(engine.json(CHAT, chat(prompt, max_tokens=1500, stream=is_stream)))
    await engine.wait_until(lambda: is_busy(engine, 1))
    if phase == "decode":
        await engine.wait_until(lambda: has_generated(engine))
    call.cancel()
    await asyncio.wait([call])
    await engine.wait_until(lambda: is_busy(engine, 0))
    assert engine.server.statistics().running == 0
    assert 'finished_reason="abort"' in await engine.text("/metrics")


async def test_a_call_that_waits_for_a_slot_can_leave(engine):
    calls = [
        asyncio.create_task(engine.json(CHAT, chat("Write a very long story.", max_tokens=1500))) for _ in range(9)
    ]
    await engine.wait_until(lambda: holds(engine, running=8, waiting=1))
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await engine.wait_until(lambda: holds(engine, running=0, waiting=0))
    await engine.wait_until(lambda: is_busy(engine, 0))


async def test_the_official_client_reads_streams_answers_and_errors(engine):
    transport = httpx2.AsyncHTTPTransport(uds=engine.url.removeprefix("unix:").removesuffix(":"))
    async with openai.AsyncOpenAI(
        api_key=TOKEN,
        base_url="http://engine/v1",
        max_retries=0,
        timeout=240,
        http_client=httpx2.AsyncClient(transport=transport, timeout=240),
    ) as client:
        messages = [{"role": "user", "content": "Say hello."}]
        ask = partial(client.chat.completions.create, model="any", messages=messages, max_tokens=6, temperature=0)
        whole = await ask()
        stream = await ask(stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
        assert [model.id async for model in client.models.list()] == ["smollm2-135m-instruct"]
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(tools=[{"type": "function", "function": {"name": "f"}}])
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"logit_bias": {"1": 1}}, "unsupported_parameter", "logit_bias"),
        ({"temperature": 3}, "invalid_request", "temperature"),
        ({"temperature": True}, "invalid_request", "temperature"),
        ({"max_tokens": 0}, "invalid_request", "max_tokens"),
        ({"stop": ["a"] * 5}, "invalid_request", "stop"),
        ({"stream": "yes"}, "invalid_request", "stream"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_request", "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "unsupported_parameter",
            "messages[0].content",
        ),
        ({"response_format": {"type": "yaml"}}, "invalid_request", "response_format"),
    ],
)
async def test_what_the_engine_does_not_do_is_refused_by_name(engine, change, code, named):
    status, answer = await engine.json(CHAT, {**chat(), **change})
    assert status == 400
    assert answer["error"]["code"] == code
    assert answer["error"]["param"] == named


async def test_a_schema_that_is_none_and_a_prompt_that_does_not_fit_are_the_callers_errors(engine):
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "bogus"}}}
    status, answer = await engine.json(CHAT, chat(response_format=form))
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    status, answer = await engine.json(CHAT, chat("word and " * 1500, stream=True))
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


async def test_only_the_platform_may_call(engine):
    for headers in ([], [(b"authorization", b"Bearer wrong")]):
        status, answer = await engine.json(CHAT, chat(), headers)
        assert (status, answer["error"]["code"]) == (401, "internal_only")
        assert (await engine.json("/v1/models", headers=headers))[0] == 401
    assert (await engine.json("/healthz", headers=[]))[0] == 200


async def test_models_and_metrics_have_the_names_that_tools_expect(engine):
    await engine.json(CHAT, chat(max_tokens=2))
    _, models = await engine.json("/v1/models")
    assert [model["id"] for model in models["data"]] == ["smollm2-135m-instruct"]
    page = await engine.text("/metrics")
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:request_success_total",
    ):
        assert f"{name}{{" in page


LISTENERS = """
import sys
from contextlib import suppress
from pathlib import Path
from interlock.foundation.clock import SystemDice
from interlock.scheduler import EngineConfig, XllamacppEngine, find_model

engine = XllamacppEngine.load(
    find_model(), listener_path=Path(sys.argv[1]), config=EngineConfig(slots=1), dice=SystemDice()
)
links = []
for each in list(Path("/proc/self/fd").iterdir()):
    with suppress(FileNotFoundError):
        links.append(each.readlink().name)
inodes = {name[8:-1] for name in links if name.startswith("socket:")}
tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
tcp = [line for table in tables for line in table if line.split()[3] == "0A" and line.split()[9] in inodes]
unix = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if line.split()[6] in inodes]
print(len(tcp), *unix, Path(sys.argv[1]).exists())
engine.close()
"""


def test_the_engines_process_listens_on_no_tcp_port(tmp_path):
    """The library insists on a listener of its own; it must be neither a port nor a file that can be opened."""
    inner = tmp_path / "inner.sock"
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS, str(inner)], capture_output=True, text=True, check=True, timeout=240
    )
    assert done.stdout.split() == ["0", str(inner), "False"]


async def have_said(told, count):
    return len(told) == count


async def is_busy(engine, slots):
    return await engine.busy_slots() == slots


async def has_generated(engine):
    return any(answer.output_events for answer in engine.server._running)


async def holds(engine, *, running, waiting):
    statistics = engine.server.statistics()
    return (statistics.running, statistics.waiting) == (running, waiting)
