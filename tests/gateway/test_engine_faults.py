"""What a caller sees of an engine that stands still, breaks, or has a slow reader, and that nothing of it is kept."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from interlock.foundation.wire import Client, ClientLimits
from interlock.gateway import PoolEngine, register_engine
from interlock.scheduler import EngineWatch, Fault, HttpProbe, SchedulerConfig, Script
from interlock.scheduler.domain.types import EngineCondition
from tests.gateway.test_grants import POOL, counts, scheduler
from tests.gateway.worlds import CLOCK, IDS, TOKEN, world

# So long that whoever is asked beside a stream that stands still is there before its engine is down.
SOON = SchedulerConfig(lease_s=300.0, engine_silent_s=2.0, probe_interval_s=0.05, canary_timeout_s=1.0)


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope, with_engine=False) as each:
        await register_engine(store, scope, PoolEngine(POOL, "fake"), clock=CLOCK, ids=IDS)
        await each.process.memory.reload()
        yield each


@asynccontextmanager
async def watched(edge, slots=4):
    """A scheduler that watches its engine, which is down once its streams stand still."""
    client = Client(ClientLimits(), CLOCK)
    async with scheduler(edge, slots=slots, config=SOON) as front:
        watch = EngineWatch(front, HttpProbe(client, token=TOKEN, config=SOON), clock=CLOCK, config=SOON)
        running = asyncio.create_task(watch.run())
        try:
            yield front
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await client.close()


def condition(front):
    return front.engines(POOL)[0].condition


async def nothing_is_kept(edge, front):
    """Slots, seats, reservations and passages are what they were before the first request."""
    await edge.settled()
    await edge.until(lambda: counts(front) == (0, 0))
    await edge.until(lambda: not edge.process.edge._passages)
    [engine] = front.statistics(POOL).engines
    assert (engine.granted, engine.prefill_left, engine.kv_reserved) == (0, 0, 0)
    assert edge.process.grants.statistics().held == 0


async def test_a_stream_that_stands_still_ends_as_a_timeout_and_the_engine_comes_back(edge):
    async with watched(edge) as front:
        edge.engine.once.append(Script(tokens=9, fault=Fault.HANG, fault_after_events=3))
        # Whoever waits for a whole answer of the same engine is told so, too.
        edge.engine.once.append(Script(fault=Fault.HANG))
        edge.engine.script = Script(fault=Fault.HANG)
        cut = asyncio.create_task(edge.chat(stream=True))
        await edge.until(lambda: edge.engine.statistics().tokens == 3)
        whole = await edge.chat()
        assert (whole.status, whole.body["error"]["code"]) == (504, "upstream_timeout")
        events = (await cut).events
        assert len(events) == 4
        assert json.loads(events[-1])["error"]["code"] == "upstream_timeout"
        await edge.until(lambda: condition(front) is EngineCondition.DOWN)
        refused = await edge.chat()
        assert (refused.status, refused.body["error"]["code"]) == (503, "no_capacity")
        story = await edge.story((await cut).request_id)
        assert (story.outcome, story.error_code, story.rule) == (
            "stream_cut",
            "upstream_timeout",
            "grant.engine_silent",
        )
        assert (await edge.story(whole.request_id)).outcome == "upstream_timeout"
        await nothing_is_kept(edge, front)
        edge.engine.script = Script()
        await edge.until(lambda: condition(front) is EngineCondition.READY, within_s=600)
        assert (await edge.chat()).status == 200
        await nothing_is_kept(edge, front)


async def test_who_reads_nothing_takes_no_engine_from_others(edge):
    async with watched(edge) as front:
        edge.engine.script = Script(tokens=10_000_000)
        async with edge.streaming(max_tokens=10_000_000) as answer:
            await anext(answer.chunks())
            [passage] = edge.process.edge._passages
            grant = passage.grant
            await edge.until(lambda: grant.is_blocked)
            tokens = grant.output_tokens
            await CLOCK.sleep(1.5 * SOON.engine_silent_s)
            assert (grant.output_tokens, condition(front)) == (tokens, EngineCondition.READY)
            # An engine that was down for a moment is ready again by now, but who was on it is cut.
            assert (edge.process.grants.statistics().revoked_total, passage.grant) == (0, grant)
        edge.engine.script = Script()
        assert (await edge.chat()).status == 200
        await nothing_is_kept(edge, front)


async def test_an_engine_that_breaks_before_its_answer_is_asked_again_with_another_grant(edge):
    grants = edge.process.grants
    settle = grants._broker.settle

    async def slowly(grant_id, settlement):
        await CLOCK.sleep(0.2)
        return await settle(grant_id, settlement)

    grants._broker.settle = slowly
    async with watched(edge) as front:
        for _ in range(10):
            edge.engine.once.append(Script(fault=Fault.CUT))
            reply = await edge.chat()
            assert reply.status == 200, reply.body
        await nothing_is_kept(edge, front)
        assert front.statistics(POOL).settled == 20


async def test_an_engine_that_breaks_in_the_middle_ends_the_stream_with_an_error_event(edge):
    async with watched(edge) as front:
        edge.engine.once.append(Script(tokens=9, fault=Fault.CUT, fault_after_events=3))
        reply = await edge.chat(stream=True)
        assert len(reply.events) == 4
        assert json.loads(reply.events[-1])["error"]["code"] == "upstream_stream_cut"
        story = await edge.story(reply.request_id)
        assert (story.outcome, story.error_code) == ("stream_cut", "upstream_stream_cut")
        await nothing_is_kept(edge, front)


async def test_what_one_engine_of_a_pool_does_wrong_takes_its_deployment_from_nobody(edge):
    async with scheduler(edge, slots=4) as front:
        edge.engine.script = Script(fault=Fault.SERVER_ERROR)
        answers = {(reply.status, reply.body["error"]["code"]) for reply in [await edge.chat() for _ in range(25)]}
        assert answers == {(502, "upstream_error")}
        edge.engine.script = Script()
        assert (await edge.chat()).status == 200
        await nothing_is_kept(edge, front)
