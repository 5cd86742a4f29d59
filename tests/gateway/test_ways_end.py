"""Whatever comes between a usual request and its end, nothing is kept of it, and its way lets in nobody else."""

import asyncio
import gc
import json
from dataclasses import replace

import msgspec
import pytest

from interlock.foundation import native
from interlock.foundation.flags import bump
from interlock.gateway.domain.directory import Directory
from interlock.gateway.domain.refusals import Refusal
from tests.gateway.test_attempts import lead
from tests.gateway.test_ways import (  # noqa: F401
    ANSWERS,
    CHOICE,
    CLOSE,
    USAGE,
    WHOLE,
    benched,
    framed,
    hang,
    left,
    store_urls,
)

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


async def test_a_way_is_not_learned_from_a_key_that_has_changed_meanwhile(store, scope):
    async with benched(store, scope) as bench:
        await lead(bench.edge, "other", targets=("u0",))
        for _ in range(3):
            assert (await bench.edge.chat(model="other")).status == 200
        goes_on = asyncio.Event()
        bench.upstream.answers = [[goes_on, WHOLE], [WHOLE]]
        asked = bench.upstream.asked
        first = asyncio.create_task(bench.ask())
        await bench.edge.until(lambda: bench.upstream.asked > asked)
        lookup, keys = bench.edge.key[8:16], bench.edge.process._parts.keys
        async with store.transaction(scope) as tx:
            await tx._connection.execute(
                "UPDATE identity_api_keys SET models = ARRAY['other'], version = version + 1 WHERE lookup = $1", lookup
            )
            await bump(tx, "keys")
        await bench.edge.until(lambda: list(keys.find(lookup).record.models) == ["other"])
        assert (await bench.edge.chat(model="other")).status == 200, "the head is let in by what its key is now"
        goes_on.set()
        assert (await first).status == 200
        reply = await bench.ask()
        assert (reply.status, reply.body["error"]["code"]) == (403, "model_not_allowed")


async def test_a_request_goes_on_by_its_route_as_it_was_when_it_began(store, scope):
    async with benched(store, scope) as bench:
        await bench.learn()
        goes_on = asyncio.Event()
        bench.upstream.answers = [[goes_on, CLOSE], [WHOLE]]
        asked, before = bench.upstream.asked, bench.errands.taken
        call = asyncio.create_task(bench.ask())
        await bench.edge.until(lambda: bench.upstream.asked > asked)
        assert bench.errands.taken == before + 1
        # Whoever asks now is led to an address at which nobody answers.
        rows = bench.edge.process.memory.directory.rows
        moved = [msgspec.structs.replace(each, base_url="http://127.0.0.1:9/v1") for each in rows.providers]
        bench.edge.process._new_directory(Directory(msgspec.structs.replace(rows, providers=tuple(moved))), {})
        goes_on.set()
        reply = await call
        assert (reply.status, reply.headers["x-interlock-attempts"]) == (200, "2")
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


async def test_no_directory_outlives_another_one_by_the_heads_that_it_let_in(store, scope):
    async with benched(store, scope) as bench:
        await bench.learn()
        before = directories()
        for each in range(3):
            # Whoever came once, and never again, would hold the one that let it in.
            await bench.edge.chat(model="shop", headers={"x_client_request_id": f"once-{each}"})
            await bench.edge.process.memory.reload()
        assert directories() <= before


def directories():
    gc.collect()
    return sum(isinstance(each, Directory) for each in gc.get_objects())
