"""Frameworks that stand on the official client, over upstreams of both families: LangChain and the agents kit."""

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

import agents
from interlock.gateway.domain.directory import ProviderKind
from tests.gateway.vendors import WORDS, lead, vendor
from tests.gateway.worlds import world

KINDS = [ProviderKind.OPENAI, ProviderKind.ANTHROPIC]


def get_weather(location: str) -> str:
    """The weather of a place."""
    return f"Fog in {location}."


@pytest.fixture
async def edge(store, scope):
    async with vendor() as upstream, world(store, scope, with_engine=False) as each:
        for kind in KINDS:
            await lead(each, str(kind), kind, f"{upstream.url}/v1")
        yield each


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_responses", [False, True])
async def test_langchain_streams_and_uses_a_tool(edge, kind, is_responses):
    model = ChatOpenAI(
        model=str(kind),
        base_url=f"{edge.url}/v1",
        api_key=edge.key,
        max_retries=0,
        timeout=300,
        use_responses_api=is_responses,
    )
    pieces = [chunk.text async for chunk in model.astream("Where is my order?")]
    assert "".join(pieces) == "".join(WORDS)
    armed = model.bind_tools([get_weather])
    asked = HumanMessage("How is the weather?")
    called = await armed.ainvoke([asked])
    call = called.tool_calls[0]
    assert (call["name"], call["args"]) == ("get_weather", {"location": "San Francisco"})
    last = await armed.ainvoke([asked, called, ToolMessage(get_weather(**call["args"]), tool_call_id=call["id"])])
    assert last.text == "".join(WORDS)
    assert last.usage_metadata["output_tokens"] == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel])
async def test_an_agent_runs_its_tool_once_and_ends(edge, kind, model):
    agents.set_tracing_disabled(True)
    ran = []

    @agents.function_tool
    def get_weather(location: str) -> str:
        """The weather of a place."""
        ran.append(location)
        return f"Fog in {location}."

    async with openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=edge.key, max_retries=0, timeout=300) as client:
        agent = agents.Agent(
            name="guide", instructions="Be brief.", tools=[get_weather],
            model=model(model=str(kind), openai_client=client),
        )  # fmt: skip
        whole = await agents.Runner.run(agent, "How is the weather?")
        streamed = agents.Runner.run_streamed(agent, "How is the weather?")
        async for _ in streamed.stream_events():
            pass
    assert (whole.final_output, streamed.final_output) == ("".join(WORDS), "".join(WORDS))
    assert ran == ["San Francisco", "San Francisco"]
