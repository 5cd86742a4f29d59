"""A request that stands in line behind another one on its connection: its story when its turn never comes."""

import asyncio
import json

import pytest

from interlock.foundation.flags import Kill
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id
from interlock.foundation.telemetry import decode_story
from interlock.scheduler import Fault, Script
from tests.gateway.worlds import IDS, MESSAGES, patient, world

BODY = json.dumps({"model": "default", "messages": MESSAGES})


def raw(edge, *lines):
    head = ["POST /v1/chat/completions HTTP/1.1", "host: edge", f"authorization: Bearer {edge.key}", *lines]
    return "\r\n".join([*head, f"content-length: {len(BODY)}", "", BODY]).encode()


async def stories(edge, organization_id):
    await edge.shipper.run_once()
    async with edge.store.ops("stories of a test") as tx:
        rows = await tx._connection.fetch(
            "SELECT story FROM telemetry_requests WHERE organization_id = $1 ORDER BY id", organization_id
        )
    return [decode_story(row["story"]) for row in rows]


async def line(edge, *requests):
    """Have one request answered for good measure, hang the next, and stand others behind it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    for _ in range(3):
        # A head is known from its second time on.
        writer.write(raw(edge))
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}}")
    edge.engine.script = Script(fault=Fault.HANG)
    writer.write(b"".join([raw(edge), *requests]))
    await edge.until(lambda: edge.engine.statistics().running == 1)
    (connection,) = [each for each in edge.process.server._connections() if each._queue]
    await edge.until(lambda: len(connection._queue) == len(requests))
    return writer, connection


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope, config=patient()) as each:
        yield each


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_who_leaves_a_line_leaves_a_story_for_each_request_that_stood_in_it(edge, elsewhere):
    if elsewhere:
        # While any switch is on, nothing is decided by what was decided before.
        named = {"scope": "organization", "target": format_id("org", IDS.new()), "mode": "reject", "reason": "a test"}
        edge.switches._replace((Kill(id="kill_1", organization_id=None, created_us=0, actor="nobody", **named),), ())
    before = {each.id for each in await stories(edge, SYSTEM_ORGANIZATION_ID)}
    writer, _ = await line(edge, raw(edge), raw(edge, "x-never: seen"), raw(edge))
    writer.close()
    await edge.until(lambda: not edge.process.edge._passages)
    own = (await stories(edge, edge.scope.organization_id))[-3:]
    assert [(each.outcome, each.rule) for each in own] == [("client_gone", "client.disconnected")] * 3
    working, *waiting = [each.decisions[-2].detail for each in own]
    assert working != "before its turn"
    assert waiting == ["before its turn"] * 2
    assert [(each.attempts, each.dialect) for each in own[1:]] == [([], "openai")] * 2
    # Nobody was asked whose the head is that was not known.
    (stranger,) = [each for each in await stories(edge, SYSTEM_ORGANIZATION_ID) if each.id not in before]
    assert (stranger.outcome, stranger.complete, stranger.key_id) == ("client_gone", True, None)
    assert not edge.process.edge._minted
    assert edge.spool.statistics().open == edge.process.edge._chat.body_bytes == 0


async def test_an_edge_that_stops_says_so_of_those_whose_turn_never_comes(edge):
    writer, connection = await line(edge, raw(edge))
    draining = asyncio.create_task(edge.process.server.drain(600.0))
    await edge.until(lambda: edge.process.server.is_draining)
    connection._active.task.cancel()
    connection.answered(connection._active)
    writer.close()
    await draining
    told = (await stories(edge, edge.scope.organization_id))[-1]
    assert (told.outcome, told.rule, told.decisions[-2].detail) == ("client_gone", "wire.drain", "before its turn")


async def test_an_answer_that_breaks_takes_along_who_stands_behind_it(edge):
    writer, connection = await line(edge, raw(edge))
    connection.cut(connection._active)
    told = (await stories(edge, edge.scope.organization_id))[-1]
    assert (told.outcome, told.rule) == ("client_gone", "wire.cut")
    writer.close()
