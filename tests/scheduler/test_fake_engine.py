"""The scripted engine keeps to its script, and counts who leaves."""

import asyncio

import pytest

from interlock.foundation.wire import UpstreamBroken
from interlock.scheduler import FakeEngine, Fault, Script
from tests.scheduler.calls import EngineCaller, chat

CHAT = "/v1/chat/completions"


@pytest.fixture
async def fake(clock, ids, client):
    engine = FakeEngine(Script(tokens=4), clock=clock, ids=ids)
    caller = EngineCaller(client, await engine.listen(), engine, None)
    yield caller
    await engine.close()


async def test_it_streams_as_many_words_as_scripted_or_asked_for(fake):
    events = await fake.events(CHAT, chat(stream=True, stream_options={"include_usage": True}))
    assert len([event for event in events if event["choices"]]) == 5
    assert events[-1]["usage"]["completion_tokens"] == 4
    _, answer = await fake.json(CHAT, chat(max_tokens=2))
    assert answer["choices"][0] == {
        "index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "The order "}
    }  # fmt: skip


async def test_errors_before_the_head(fake):
    fake.server.once.extend([Script(fault=Fault.SERVER_ERROR), Script(fault=Fault.RATE_LIMITED, retry_after_s=7)])
    assert (await fake.json(CHAT, chat()))[0] == 500
    async with fake.request(CHAT, chat()) as answer:
        assert (answer.status, answer.headers.get(b"retry-after")) == (429, b"7")
    assert (await fake.json(CHAT, chat()))[0] == 200


async def test_a_stream_is_cut_after_the_scripted_events(fake):
    fake.server.script = Script(tokens=4, fault=Fault.CUT, fault_after_events=2)
    received: list[bytes] = []
    with pytest.raises(UpstreamBroken):
        await read_into(received, fake.request(CHAT, chat(stream=True)))
    assert b"".join(received).count(b"data: ") == 2


async def test_a_client_that_leaves_is_counted(fake):
    fake.server.script = Script(tokens=1_000, token_s=0.01)
    async with fake.request(CHAT, chat(stream=True)) as answer:
        async for _ in answer.chunks():
            break
    await fake.wait_until(lambda: left(fake))
    assert fake.server.statistics().tokens < 1_000


async def test_it_hangs_until_the_client_gives_up(fake):
    fake.server.script = Script(fault=Fault.HANG)
    call = asyncio.create_task(fake.json(CHAT, chat(stream=True)))
    await fake.wait_until(lambda: hangs(fake))
    done, _ = await asyncio.wait([call], timeout=0.1)
    assert not done
    call.cancel()
    await asyncio.wait([call])
    await fake.wait_until(lambda: left(fake))


async def read_into(received, call):
    async with call as answer:
        async for chunk in answer.chunks():
            received.append(chunk)


async def hangs(fake):
    return fake.server.statistics().running == 1


async def left(fake):
    statistics = fake.server.statistics()
    return (statistics.disconnects, statistics.running) == (1, 0)
