"""The OpenVINO engine with a real IR: INTERLOCK_TEST_IR names the folder that `interlock engine build` made."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from interlock.foundation.clock import SystemClock
from interlock.scheduler import EngineConfig, EngineServer, run_parity
from interlock.scheduler.adapters.openvino_engine import OpenvinoEngine, is_installed
from interlock.scheduler.adapters.parity_run import stored_references
from interlock.scheduler.domain.decisions import replay_decisions
from tests.scheduler.calls import TOKEN, EngineCaller, chat

IR = os.environ.get("INTERLOCK_TEST_IR", "")
pytestmark = [
    pytest.mark.xdist_group("engine"),
    pytest.mark.skipif(not is_installed(), reason="the extra openvino is not installed"),
    pytest.mark.skipif(not IR, reason="no IR: set INTERLOCK_TEST_IR to a folder of `interlock engine build`"),
]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def loaded():
    config, log = EngineConfig(slots=16, threads=1), []
    engine = OpenvinoEngine.load(Path(IR), "smollm2-135m-instruct", config=config, clock=SystemClock(), sink=log.append)
    engine.log = log
    yield engine
    engine.close()


@pytest.fixture
async def engine(loaded, short_path, clock, ids, client):
    server = EngineServer(loaded, token=TOKEN, clock=clock, ids=ids, config=EngineConfig())
    await server.start(short_path / "openvino.sock")
    yield EngineCaller(client, f"unix:{short_path / 'openvino.sock'}:", server, loaded)
    await server.drain(5.0)


async def test_it_says_what_xllamacpp_says(loaded):
    _, known = stored_references()
    result = await run_parity(loaded, "openvino", known, reference_name="stored")
    assert result.passed, result.view()
    assert loaded.busy_slots() == 0


@pytest.mark.parametrize("text", ["The parcel left and then " * 200, "Write a very long story about a ship."])
async def test_a_cancel_takes_the_sequence_out_within_a_step(engine, text):
    call = asyncio.create_task(engine.json(CHAT, chat(text, max_tokens=900)))
    await engine.wait_until(lambda: is_busy(engine, 1))
    call.cancel()
    await asyncio.wait([call])
    await engine.wait_until(lambda: is_busy(engine, 0))


async def test_more_calls_than_slots_all_end(engine):
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(engine.json(CHAT, chat(f"Story {n}.", max_tokens=6))) for n in range(24)]
    assert all(call.result()[1]["usage"]["completion_tokens"] <= 6 for call in calls)


async def test_a_schema_a_stop_word_and_a_prompt_that_does_not_fit(engine):
    schema = {"type": "object", "properties": {"state": {"enum": ["lost", "sent"]}}, "required": ["state"]}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    _, answer = await engine.json(CHAT, chat("Where is it?", max_tokens=40, temperature=0, response_format=form))
    assert json.loads(answer["choices"][0]["message"]["content"])["state"] in {"lost", "sent"}
    body = {"prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 30, "temperature": 0, "stop": ["9"]}
    _, answer = await engine.json("/v1/completions", body)
    assert answer["choices"][0]["text"].strip() == "7, 8,"
    assert answer["choices"][0]["finish_reason"] == "stop"
    status, answer = await engine.json(CHAT, chat("word and " * 1500))
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert engine.server.statistics().running == 0


async def is_busy(engine, slots):
    await SystemClock().sleep(0)
    return engine.model.busy_slots() == slots


async def test_its_core_has_decided_each_of_them_and_decides_alike_again(loaded, engine):
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(engine.json(CHAT, chat(f"Poem {number}.", max_tokens=4)))
    await engine.wait_until(lambda: is_busy(engine, 0))
    lines = list(loaded.log)
    granted = [each["result"] for each in map(json.loads, lines) if each["call"] == "next_grants" and each["result"]]
    assert sum(map(len, granted)) >= 20
    assert replay_decisions(lines)[1] is None
