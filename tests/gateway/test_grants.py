"""Pools: a grant for every request, renewed while it runs, given back once, and adopted by a new scheduler."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from interlock.foundation.flags import Kill
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.gateway import PoolEngine, register_engine
from interlock.scheduler import (
    EMBEDDED_OBJECTIVES,
    EngineSpec,
    Fault,
    FrontService,
    PoolSpec,
    SchedulerConfig,
    SchedulerServer,
    Script,
)
from interlock.scheduler.domain.types import EngineCondition
from tests.gateway.worlds import CLOCK, IDS, TOKEN, world

POOL = "embedded"


@asynccontextmanager
async def scheduler(edge, slots=2, config=None):
    """A real scheduler on the edge's socket, with the scripted engine as its only one."""
    socket = edge.folder / "engine.sock"
    url = f"unix:{socket}"
    if not socket.exists():
        await edge.engine.listen_unix(socket)
    spec = PoolSpec(POOL, EMBEDDED_OBJECTIVES, (EngineSpec(url, "fake", slots, 2_048),))
    config = config or SchedulerConfig()
    front = FrontService([spec], clock=CLOCK, ids=IDS, config=config)
    for state in front.engines(POOL):
        front.engine_changed(POOL, ready(state))
    server = SchedulerServer(front, token=TOKEN, leader="scheduler-0", clock=CLOCK, ids=IDS, config=config)
    await server.listen(edge.folder / "scheduler.sock")
    running = asyncio.create_task(front.run())
    try:
        yield front
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.drain(0.2)


def ready(state):
    return type(state)(
        **{name: getattr(state, name) for name in state.__dataclass_fields__} | {"condition": EngineCondition.READY}
    )


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope, with_engine=False) as each:
        await register_engine(store, scope, PoolEngine(POOL, "fake"), clock=CLOCK, ids=IDS)
        await each.process.memory.reload()
        yield each


def counts(front):
    found = front.statistics(POOL)
    return found.queued, found.granted


async def test_a_stream_runs_under_a_grant_and_its_story_tells_all_of_it(edge):
    async with scheduler(edge) as front:
        reply = await edge.chat(stream=True)
        assert reply.status == 200
        assert reply.events[-1] == "[DONE]"
        await edge.settled()
        assert counts(front) == (0, 0)
        assert front.statistics(POOL).settled == 1
        story = await edge.story(reply.request_id)
        await edge.shipper.run_once()
        story = await edge.story(reply.request_id)
    grant = [each.rule for each in story.decisions if each.step == "grant"]
    assert grant == ["arrived", "predicted", "queued", "granted", f"pool.{POOL}", "first_token", "settled"]
    assert story.timing.queue_ms is not None
    assert edge.engine.last_body["model"] == "fake"


async def test_without_a_scheduler_the_pool_has_no_capacity(edge):
    reply = await edge.chat()
    assert (reply.status, reply.body["error"]["code"]) == (503, "no_capacity")
    assert reply.headers["x-should-retry"] == "true"
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.rule) == ("overloaded", "scheduler.away")


async def test_an_unknown_pool_keeps_the_schedulers_own_status(edge):
    async with scheduler(edge):
        await register_engine(edge.store, edge.scope, PoolEngine("elsewhere", "fake"), clock=CLOCK, ids=IDS)
        # A reload that began before the change may still end after one that saw it; the feed's next look settles it.
        async with asyncio.timeout(60):
            while (reply := await edge.chat()).status == 200:
                await CLOCK.sleep(0.05)
        assert (reply.status, reply.body["error"]["code"]) == (404, "pool_unknown")


@pytest.mark.parametrize("phase", ["queued", "waiting", "streaming"])
async def test_a_client_that_leaves_gives_seat_and_slot_back(edge, phase):
    async with scheduler(edge, slots=1) as front:
        edge.engine.script = Script(tokens=100_000, first_token_s=600 if phase == "waiting" else 0, token_s=0.05)
        others = []
        if phase == "queued":
            others.append(asyncio.create_task(leave_after(edge)))
            await edge.until(lambda: counts(front) == (0, 1))
        mine = asyncio.create_task(leave_after(edge))
        expected = (1, 1) if phase == "queued" else (0, 1)
        await edge.until(lambda: counts(front) == expected)
        mine.cancel()
        after = (0, 1) if phase == "queued" else (0, 0)
        await edge.until(lambda: counts(front) == after)
        for other in others:
            other.cancel()
        await asyncio.gather(mine, *others, return_exceptions=True)
        await edge.until(lambda: counts(front) == (0, 0))
        await edge.until(lambda: edge.engine.statistics().running == 0)
        await edge.until(lambda: not edge.process.edge._passages)
        assert (await edge.latest()).outcome == "client_gone"


async def leave_after(edge):
    """Read a stream that nobody ends but its reader."""
    async with edge.streaming() as answer:
        async for _ in answer.chunks():
            pass


def switch_on(edge, scope="gateway", target="nobody", mode="reject"):
    """Turn on this switch alone, as a start state would."""
    stopping = Kill(
        id="kill_1", organization_id=SYSTEM_ORGANIZATION_ID, scope=scope, target=target, mode=mode, reason="a test",
        actor="a test", created_us=0,
    )  # fmt: skip
    edge.switches.load(msgspec.msgpack.encode((stopping,)))


async def test_a_switch_stops_a_pool_a_class_and_what_runs_on_an_engine(edge):
    async with scheduler(edge, slots=1) as front:
        for scope, target in (("pool", POOL), ("class", "interactive")):
            switch_on(edge, scope, target)
            reply = await edge.chat()
            assert (reply.status, reply.body["error"]["code"]) == (503, "killed")
            assert (await edge.story(reply.request_id)).rule == f"kill.{scope}.{target}"
        for scope, target in (("pool", "elsewhere"), ("class", "batch"), ("engine", "eng_elsewhere")):
            switch_on(edge, scope, target, "abort")
            assert (await edge.chat()).status == 200
        await edge.settled()
        edge.engine.script = Script(tokens=100_000, token_s=0.05)
        runs = asyncio.create_task(edge.chat(stream=True))
        await edge.until(lambda: counts(front) == (0, 1))
        waits = asyncio.create_task(edge.chat())
        await edge.until(lambda: counts(front) == (1, 1))
        switch_on(edge, "pool", POOL, "drain")
        assert ((await waits).status, counts(front)[1]) == (503, 1)
        [engine] = front.engines(POOL)
        switch_on(edge, "engine", engine.engine_id, "abort")
        assert '"code":"killed"' in (await runs).events[-1]
        await edge.until(lambda: counts(front) == (0, 0))


async def test_progress_keeps_the_lease_of_a_long_stream(edge):
    edge.engine.script = Script(tokens=60, token_s=0.1)
    async with scheduler(edge, config=SchedulerConfig(lease_s=4.0, tick_s=0.05)) as front:
        reply = await edge.chat(stream=True)
        assert reply.events[-1] == "[DONE]"
        await edge.settled()
        assert front.statistics(POOL).lost == 0
        assert front.statistics(POOL).settled == 1


async def test_a_new_scheduler_adopts_what_runs(edge):
    edge.engine.script = Script(tokens=100_000, token_s=0.05)
    async with scheduler(edge):
        task = asyncio.create_task(edge.chat(stream=True))
        await edge.until(lambda: edge.engine.statistics().tokens > 3)
    async with scheduler(edge) as front:
        await edge.until(lambda: counts(front) == (0, 1))
        await edge.until(lambda: edge.process.grants.statistics().adopted_total == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await edge.until(lambda: edge.engine.statistics().running == 0)
        await edge.settled()
        assert counts(front) == (0, 0)
        assert front.statistics(POOL).settled == 1


async def test_a_settlement_waits_for_a_scheduler_that_is_away(edge):
    edge.engine.script = Script(tokens=100_000, token_s=0.05)
    async with scheduler(edge):
        task = asyncio.create_task(edge.chat(stream=True))
        await edge.until(lambda: edge.engine.statistics().running == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await edge.until(lambda: edge.process.grants.statistics().settling == 1)
    async with scheduler(edge):
        await edge.settled()
    assert edge.process.grants.statistics().settled_total == 1


async def test_bodies_that_the_engine_refuses_do_not_count_against_it(edge):
    async with scheduler(edge) as front:
        edge.engine.script = Script(fault=Fault.RATE_LIMITED)
        for _ in range(6):
            assert (await edge.chat()).status == 429
        await edge.settled()
        assert not any(front.is_suspect(POOL, each.engine_id) for each in front.engines(POOL))
        edge.engine.script = Script(fault=Fault.SERVER_ERROR)
        for _ in range(3):
            assert (await edge.chat()).status == 502
        await edge.settled()
        assert any(front.is_suspect(POOL, each.engine_id) for each in front.engines(POOL))


async def test_a_refusal_of_the_scheduler_keeps_its_numbers(edge):
    edge.engine.script = Script(tokens=100_000, token_s=0.05)
    async with scheduler(edge, slots=1, config=SchedulerConfig(queue_seats_max=100, tenant_seat_share=0.01)) as front:
        running = [asyncio.create_task(leave_after(edge)) for _ in range(2)]
        await edge.until(lambda: counts(front) == (1, 1))
        refused = await edge.chat()
        assert (refused.status, refused.body["error"]["code"]) == (429, "tenant_queue_full")
        assert refused.body["interlock"]["pool"] == POOL
        assert int(refused.headers["retry-after-ms"]) > 0
        assert (await edge.story(refused.request_id)).outcome == "overloaded"
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
