"""Whatever a stranger sends to inference: an answer, or a refusal in the form of the path, with an id and a story."""

import asyncio
import json

import pytest

from interlock.foundation.sim import simulate
from interlock.gateway.domain.directory import Dimension, ProviderKind
from tests.gateway.vendors import lead, vendor
from tests.gateway.worlds import edge_alone, make_tenant_key
from tests.sim.ways_script import CHAT, CLOSE, KEYS
from tests.sim.ways_world import Still, World

PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens")
LONE = '"\\ud800"'
# Of a body: the model, what stands behind the usual fields, the content.
BODIES = {
    "a lone surrogate as the model": (LONE, "", '"hi"'),
    "a model of another script": ('"模型🙂"', "", '"hi"'),
    "a model with a zero": ('"\\u0000x"', "", '"hi"'),
    "a model of a million characters": (f'"{"m" * 1_000_000}"', "", '"hi"'),
    "two models": (None, ',"model":"x"', '"hi"'),
    "two models, one in disguise": (None, ',"mod\\u0065l":"x"', '"hi"'),
    "a lone surrogate as a name": (None, ',"\\ud800":1', '"hi"'),
    "a lone surrogate as content": (None, "", LONE),
    "the same in a stream": (None, ',"stream":true', LONE),
    "a lone surrogate as the user": (None, f',"user":{LONE},"metadata":{{"user_id":{LONE}}}', '"hi"'),
    "a lone surrogate in tools": (None, ',"tools":[{"type":"function","function":{"name":"\\ud800"}}]', '"hi"'),
    "an infinite temperature": (None, ',"temperature":1e999', '"hi"'),
    "a temperature of 400 digits": (None, f',"temperature":{"9" * 400}', '"hi"'),
    "no number": (None, ',"temperature":NaN', '"hi"'),
    "infinite options": (None, ',"stream":true,"stream_options":{"x":1e999}', '"hi"'),
    "endless output": (None, ',"max_completion_tokens":99999999999999999999999', '"hi"'),
    "infinite output": (None, ',"max_output_tokens":1e999', '"hi"'),
    "a depth of 64": (None, f',"z":{"[" * 63}{"]" * 63}', '"hi"'),
    "a depth of 65": (None, f',"z":{"[" * 64}{"]" * 64}', '"hi"'),
    "a depth of 100,000": (None, f',"z":{"[" * 100_000}{"]" * 100_000}', '"hi"'),
    "tools that are none": (None, ',"tools":[1,null,{"type":"function"}],"tool_choice":7', '"hi"'),
    "content of all kinds": (None, "", '[1,{"type":"text"},{"type":"image","source":7},{"type":"image_url"},null]'),
    "instructions of all kinds": (None, ',"system":[1],"instructions":7,"stop":7,"reasoning":7', '"hi"'),
}
# Of a head: lines, and the status.
HEADS = {
    "a folded field": ("x-a: b\r\n c", 400),
    "a zero": ("x-a: b\0c", 400),
    "a bare line end": ("x-a: b\nx-b: c", 400),
    "a second length": ("content-length: 3", 400),
    "a length and chunks": ("transfer-encoding: chunked", 400),
    "101 fields": ("\r\n".join(f"x-{at}: 1" for at in range(101)), 431),
    "a field of 33 KB": (f"x-a: {'b' * 33_000}", 431),
    "a compressed body": ("content-encoding: gzip", 415),
    "another expectation": ("expect: 200-ok", 417),
    "a second host": ("host: f", 400),
}


@pytest.fixture
async def edge(store, scope):
    key = await make_tenant_key(store, scope)
    async with vendor() as upstream, edge_alone(store, scope, "edge-0") as each:
        each.key = key
        for kind in (ProviderKind.OPENAI, ProviderKind.ANTHROPIC):
            await lead(each, str(kind), kind, f"{upstream.url}/v1")
        yield each


def body_of(path, alias, model, more, content):
    given = f'"input":{content}'
    if path.endswith(("completions", "messages", "tokens")):
        given = f'"messages":[{{"role":"user","content":{content}}}]'
    if path == "/v1/messages":
        given += ',"max_tokens":20'
    name = json.dumps(alias) if model is None else model
    return f'{{"model":{name},{given}{more}}}'.encode()


def is_told(path, content, request_id):
    """Whether a refusal has the form of its path, and names the request."""
    told = json.loads(content)
    is_shaped = told["type"] == "error" if path.startswith("/v1/messages") else "param" in told["error"]
    return is_shaped and bool(told["error"]["message"]) and told["interlock"]["request_id"] == request_id


@pytest.mark.parametrize("alias", ["openai", "anthropic"])
@pytest.mark.parametrize("path", PATHS)
async def test_no_body_is_a_fault_of_ours(edge, path, alias):
    for name, given in BODIES.items():
        reply = await edge.call("POST", path, body_of(path, alias, *given))
        assert reply.status in (200, 400, 404), name
        if reply.status != 200:
            assert is_told(path, reply.content, reply.request_id), name
        story = await edge.story(reply.request_id)
        assert (story.status, story.complete) == (reply.status, True), name
    assert edge.process.edge._chat.body_bytes == edge.process.entrance.taken == len(edge.process.edge._passages) == 0


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_refused_at_its_head_has_the_form_of_its_path(edge, path):
    for name, (line, status) in HEADS.items():
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        head = [f"POST {path}?x=1 HTTP/1.1", "host: e", f"authorization: Bearer {edge.key}", "content-length: 2", line]
        writer.write("\r\n".join([*head, "", "{}"]).encode())
        told, _, content = (await asyncio.wait_for(reader.read(), 240)).partition(b"\r\n\r\n")
        writer.close()
        request_id = told.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
        assert told.startswith(b"HTTP/1.1 %d " % status), name
        assert is_told(path, content, request_id), name
        assert (await edge.story(request_id)).status == status, name
    assert not edge.process.edge._minted


def heard(world):
    """Return what the one caller heard, and whether its connection ended."""
    ((told, is_over),) = world.callers[0].heard
    return told, is_over


async def slow(folder, dice, clock, pieces, act):
    """One caller of an edge in virtual time, whose model server answers with a long stream."""
    asyncio.get_running_loop()._dice = Still(0)
    event = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    plan = [(0.01, head), *[(0.01, event)] * 50, (1.0, CLOSE)]
    world = World(folder, clock, [[(plan, plan)]], 1)
    world.follow({"keys": True, "rows": True, "limits": [(each, 10**9, True) for each in Dimension if not each.is_usd]})
    loops = [asyncio.create_task(each()) for each in (world.broker.run, world.process.limiter.run)]
    world.callers[0].ask(pieces)
    await act(world)
    await clock.sleep(200.0)
    story, held = world._stories()[0][0], world.held()
    told = heard(world)
    await world.close()
    for each in loops:
        each.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    return told, str(story), held


HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: e\r\nauthorization: Bearer {KEYS[0].text}\r\ncontent-length: "
BODY = b'{"model":"shop","stream":true,"messages":[{"role":"user","content":"q0."}]}'


def test_a_body_that_comes_a_byte_a_second_is_given_up_and_keeps_nothing(tmp_path):
    async def nothing(_):
        """Wait for what comes of it."""

    pieces = [(0.0, f"{HEAD}10000\r\n\r\n".encode()), *[(1.0, b" ")] * 300]
    (told, is_over), story, held = simulate(1, lambda dice, clock: slow(tmp_path, dice, clock, pieces, nothing))
    assert told.startswith(b"HTTP/1.1 408")
    assert b'"type":"invalid_request_error"' in told
    assert is_over
    assert "request_timeout" in story
    assert not any(held.values())


def test_who_stops_reading_a_stream_is_left_and_keeps_nothing(tmp_path):
    async def clog(world):
        await world.clock.sleep(0.1)
        world.callers[0].clog(is_clogged=True)

    pieces = [(0.0, f"{HEAD}{len(BODY)}\r\n\r\n".encode() + BODY)]
    (told, is_over), story, held = simulate(1, lambda dice, clock: slow(tmp_path, dice, clock, pieces, clog))
    assert told.startswith(b"HTTP/1.1 200")
    assert is_over
    assert "client_gone" in story
    assert not any(held.values())
