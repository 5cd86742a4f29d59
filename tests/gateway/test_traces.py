"""Which trace a model server hears of: its spans hang below the call's own, which is exported of the story."""

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind

from interlock.foundation.telemetry.spans import spans_of
from interlock.foundation.wire import Client, ClientLimits
from interlock.gateway.domain.directory import Provider, ProviderKind
from interlock.scheduler import Fault, Script
from tests.gateway import vendors
from tests.gateway.worlds import CLOCK, IDS, edge_alone, make_tenant_key, world

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def listen(server, take):
    """Have every head that a server is asked by shown to `take`."""
    handle = server._handler

    async def spy(exchange):
        take(dict(exchange.request.headers.items))
        await handle(exchange)

    server._handler = spy


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope) as each:
        each.heard = []
        listen(each.engine._server, each.heard.append)
        yield each


def calls(story):
    """Return the spans of a story's calls as `traceparent` names them."""
    spans = spans_of(story, Resource({}), InstrumentationScope("interlock"))
    told = [each.context for each in spans if each.kind is SpanKind.CLIENT]
    return [f"{each.trace_id:032x}-{each.span_id:016x}" for each in told]


async def test_each_call_names_its_own_span_in_the_callers_trace(edge):
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "vendor=1"}
    # The second one is known by its head, the third goes the way of the others, where there are ways.
    replies = [await edge.chat(headers=headers) for _ in range(4)]
    for reply, heard in zip(replies, edge.heard, strict=True):
        (own,) = calls(await edge.story(reply.request_id))
        assert own.startswith(TRACE)
        assert SPAN not in own
        assert (heard[b"traceparent"].decode(), heard[b"tracestate"]) == (f"00-{own}-00", b"vendor=1")
    assert len({each[b"traceparent"] for each in edge.heard}) == 4


async def test_without_a_callers_trace_it_is_the_requests_own(edge):
    replies = [await edge.chat(headers={"tracestate": "vendor=1"}) for _ in range(4)]
    for reply, heard in zip(replies, edge.heard, strict=True):
        story = await edge.story(reply.request_id)
        (own,) = calls(story)
        assert own.startswith(story.id.hex)
        assert heard[b"traceparent"].decode() == f"00-{own}-01"
        assert b"tracestate" not in heard


async def test_a_call_that_is_made_again_has_a_span_of_its_own(edge):
    edge.engine.script = Script(tokens=5, fault=Fault.SERVER_ERROR)
    reply = await edge.chat()
    story = await edge.story(reply.request_id)
    assert len(story.attempts) > 1
    assert [each[b"traceparent"].decode()[3:-3] for each in edge.heard] == calls(story)


async def test_a_provider_behind_https_hears_of_no_trace(store, scope, tmp_path):
    server, trusting = vendors.contexts(tmp_path)
    client = Client(ClientLimits(), CLOCK, tls=trusting)
    key = await make_tenant_key(store, scope)
    async with vendors.vendor(server) as upstream, edge_alone(store, scope, "edge-0", client=client) as edge:
        edge.key = key
        await vendors.lead(edge, "shop", ProviderKind.OPENAI, f"{upstream.url}/v1")
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
        for _ in range(3):
            assert (await edge.chat(model="shop", headers=headers)).status == 200
    await client.close()
    assert [set(headers) & {"traceparent", "tracestate"} for _, _, headers in upstream.seen] == [set()] * 3


@pytest.mark.parametrize(
    ("kind", "url", "may_be_private", "is_own"),
    [
        (ProviderKind.POOL, None, True, True),
        (ProviderKind.OFFLINE, "unix:/run/models.sock:/v1", True, True),
        (ProviderKind.OPENAI, "http://10.0.0.7:8000/v1", True, True),
        (ProviderKind.OPENAI, "https://v.example/v1", True, False),
        (ProviderKind.OPENAI, "https://v.example/v1", False, False),
        (ProviderKind.ANTHROPIC, "http://v.example/v1", False, False),
    ],
)
def test_whose_servers_are_our_own(kind, url, may_be_private, is_own):
    pool = "fast" if kind is ProviderKind.POOL else None
    assert Provider(IDS.new(), "p", kind, url, pool, None, may_be_private).is_own is is_own
