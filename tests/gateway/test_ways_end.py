"""Whatever comes between a usual request and its end, nothing is kept of it, and its way lets in nobody else."""

import asyncio
import json
from dataclasses import replace

import pytest

from interlock.foundation import native
from interlock.gateway.domain.refusals import Refusal
from tests.gateway.test_ways import ANSWERS, CHOICE, USAGE, benched, framed, hang, left

pytestmark = pytest.mark.skipif(not native.is_whole(), reason="not every kernel is here")

KILLED = Refusal("killed", "kill.gateway", step="finished")


def answered(bench, errand):
    """The model server's answer begins, and a task takes over."""
    errand()


def stopped(bench, errand):
    """A switch comes on, and a task takes over."""
    errand.passage.interrupt(KILLED)


@pytest.mark.parametrize("before", [answered, stopped])
async def test_who_leaves_in_the_turn_in_which_a_task_takes_over_leaves_nothing_behind(store, scope, before):
    async with benched(store, scope) as bench:
        await bench.learn()
        call, request_id = await hang(bench)
        [passage] = bench.edge.process.edge._passages
        errand, wire = passage.exchange.task, passage.exchange._wire
        before(bench, errand)
        wire.drop()
        await asyncio.gather(call, return_exceptions=True)
        await bench.at_rest()
        assert (await left(bench, request_id))[0] in ("client_gone", "killed")


async def test_a_drain_waits_for_what_a_task_takes_over(store, scope):
    async with benched(store, scope) as bench:
        await bench.learn()
        call, _ = await hang(bench)
        await bench.edge.process.server.drain(0.0)
        assert not bench.edge.process.edge._passages
        await asyncio.gather(call, return_exceptions=True)


async def test_an_answer_that_is_not_sent_in_one_piece_is_sent_all_the_same(store, scope):
    async with benched(store, scope) as bench:
        server = bench.edge.process.server
        server.limits = replace(server.limits, write_buffer_bytes=1 << 22)
        await bench.learn()
        choice = {**CHOICE, "message": {"role": "assistant", "content": "x" * 70_000}}
        long = json.dumps({"object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
        bench.upstream.answers = [[framed(long)]]
        for _ in range(5):
            # Whether it comes in one read is the machine's affair; what it comes to is not.
            reply = await bench.ask()
            assert (reply.status, reply.content) == (200, long)
        await bench.at_rest()


async def test_a_fault_at_the_end_keeps_nothing(store, scope, monkeypatch):
    async with benched(store, scope) as bench:
        await bench.learn()
        metrics = bench.edge.process.edge._metrics
        real = metrics.finished
        bench.upstream.answers = [ANSWERS["without usage"]]

        def fail(*given):
            real(*given)
            raise RuntimeError("a fault of ours")

        with monkeypatch.context() as patch:
            patch.setattr(metrics, "finished", fail)
            before = bench.errands.taken
            assert (await bench.ask()).status == 200
            assert bench.errands.taken == before + 1
            await bench.at_rest()
        assert (await bench.ask()).status == 200
