"""The official client keeps working: it changes its base URL and nothing else."""

import openai
import pytest

from interlock.gateway.domain.directory import Dimension
from interlock.scheduler import Fault, Script
from tests.gateway.worlds import MESSAGES, world

pytestmark = pytest.mark.usefixtures("still")


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope) as each:
        yield each


@pytest.fixture
async def client(edge):
    async with openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=edge.key, max_retries=0, timeout=300) as each:
        yield each


async def test_a_stream_reads_like_the_vendors_own(client):
    stream = await client.chat.completions.create(
        model="default", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "The order left the warehouse "
    assert chunks[-1].usage.completion_tokens == 5
    assert stream.response.headers["x-request-id"].startswith("req_")


async def test_a_whole_answer_carries_the_request_id(edge, client):
    raw = await client.chat.completions.with_raw_response.create(model="fake", messages=MESSAGES)
    answer = raw.parse()
    assert answer.choices[0].message.content.startswith("The order")
    assert (await edge.story(raw.headers["x-request-id"])).outcome == "ok"


async def test_models_are_listed_and_fetched(client):
    # Other tests of this edge add aliases of their own.
    assert {"default", "fake"} <= {model.id async for model in client.models.list()}
    assert (await client.models.retrieve("default")).owned_by == "interlock"


async def test_errors_arrive_as_the_clients_own_types(edge, client):
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="nothing", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    assert (await edge.story(missing.value.request_id)).rule == "model.alias"
    with pytest.raises(openai.AuthenticationError) as stranger:
        await client.with_options(api_key="foo").chat.completions.create(model="default", messages=MESSAGES)
    assert stranger.value.code == "invalid_key"
    await edge.limit(1, Dimension.REQUESTS)
    await client.chat.completions.create(model="default", messages=MESSAGES)
    with pytest.raises(openai.RateLimitError) as limited:
        await client.chat.completions.create(model="default", messages=MESSAGES)
    assert limited.value.body["code"] == "requests_limit"
    assert float(limited.value.response.headers["retry-after"]) > 1


async def test_a_broken_stream_raises_instead_of_looking_whole(edge, client):
    edge.engine.script = Script(tokens=6, fault=Fault.CUT, fault_after_events=3)
    stream = await client.chat.completions.create(model="default", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError) as broken:
        async for _ in stream:
            pass
    assert broken.value.code == "upstream_stream_cut"


async def test_a_retry_of_the_client_follows_our_word(edge):
    edge.engine.once.append(Script(fault=Fault.SERVER_ERROR))
    async with openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=edge.key, max_retries=1, timeout=300) as client:
        answer = await client.chat.completions.create(model="default", messages=MESSAGES)
    assert answer.choices[0].message.content
    assert edge.engine.statistics().requests == 2


async def test_a_client_that_stops_reading_stops_the_model_server(edge, client):
    edge.engine.script = Script(tokens=100_000, token_s=0.02)
    stream = await client.chat.completions.create(model="default", messages=MESSAGES, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await edge.until(lambda: edge.engine.statistics().running == 0)
    assert edge.engine.statistics().disconnects == 1
