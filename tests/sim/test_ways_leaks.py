"""However requests end that go a way, nothing is kept of them: objects, blocks of memory, places, slots, calls, frames.

`REQUESTS` sets how many there are: `REQUESTS=100000 make test T=tests/sim/test_ways_leaks.py`.
"""

import asyncio
import gc
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from interlock.foundation import native
from interlock.foundation.sim import SimDice, simulate
from interlock.gateway.domain.directory import Dimension
from tests.sim.ways_script import CHAT, CLOSE, KEYS
from tests.sim.ways_world import Still, World

pytestmark = pytest.mark.skipif(not native.is_whole(), reason="not every kernel is here")

REQUESTS = int(os.environ.get("REQUESTS", "1500"))
ROUNDS = 6
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: edge\r\nauthorization: Bearer {KEYS[0].text}\r\n"
WHOLE = (
    b'{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Here."},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":6}}'
)
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
ANSWER = JSON + b"content-length: %d\r\n\r\n" % len(WHOLE) + WHOLE
EVENT = (
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Here."}}]}\n\ndata: [DONE]\n\n'
)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(EVENT) + EVENT
FAULT = b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
# What becomes of a question, and when its caller leaves; the usual answer comes most often, so that ways are known.
ENDS = (
    *[([(0.001, ANSWER)], None)] * 12,
    ([(0.001, ANSWER[:-9]), (0.001, ANSWER[-9:])], None),
    ([(0.001, ANSWER[:-9]), (0.001, CLOSE)], None),
    ([(0.001, STREAM)], None),
    ([(0.001, STREAM[:-9]), (0.002, STREAM[-9:])], 0.002),
    ([(0.001, FAULT)], None),
    ([(0.001, CLOSE)], None),
    ([(0.003, ANSWER)], 0.001),
    ([(0.003, ANSWER)], 0.0),
)  # fmt: skip
STATE = {
    "keys": True, "rows": True,
    "limits": [(each, 10**9, True) for each in (Dimension.REQUESTS, Dimension.TOKENS, Dimension.CONCURRENCY)],
}  # fmt: skip


class Round:
    """One round of requests of one caller."""

    def __init__(self, world, dice):
        self._world, self._dice = world, dice

    async def run(self, count):
        world, dice = self._world, self._dice
        for _ in range(count):
            plan, leaves_s = dice.pick(*ENDS)
            world.upstream._plans[0] = [(plan, plan)]
            stream = ',"stream":true' if plan[0][1] is not None and plan[0][1].startswith(STREAM[:60]) else ""
            body = f'{{"model":"shop","messages":[{{"role":"user","content":"q0."}}]{stream}}}'
            world.callers[0].ask([(0.0, f"{HEAD}content-length: {len(body)}\r\n\r\n{body}".encode())])
            if leaves_s is not None:
                await world.clock.sleep(leaves_s)
                world.callers[0].leave(CLOSE)
            await world.clock.sleep(0.02)
        # Breakers close again, and what is settled is told.
        await world.clock.sleep(70.0)
        self._forget()
        return self._counted()

    def _forget(self):
        """Let go of what the world itself has noted down."""
        world = self._world
        world._stories()
        world.upstream.asked.clear()
        world.upstream.wires = [each for each in world.upstream.wires if not each.is_over]
        world.callers[0].heard.clear()

    def _counted(self):
        gc.collect()
        kinds = Counter(type(each).__qualname__ for each in gc.get_objects())
        return kinds, sys.getallocatedblocks(), self._world.held()


def test_nothing_is_kept_of_a_request_however_it_ends(tmp_path: Path):
    async def scenario(dice, clock):
        asyncio.get_running_loop()._dice = Still(0)
        world = World(tmp_path, clock, [[]], 1)
        world.follow(STATE)
        loops = [asyncio.create_task(each()) for each in (world.broker.run, world.process.limiter.run)]
        each = Round(world, SimDice(7))
        counted = [await each.run(REQUESTS // ROUNDS) for _ in range(ROUNDS)]
        taken = world.process.ways._errands.taken
        await world.close()
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        return counted, taken

    counted, taken = simulate(1, scenario)
    assert taken > REQUESTS // 3, "so few went a way that this says nothing of ways"
    assert not any(any(held.values()) for _, _, held in counted)
    (first, _, _), (second, blocks, _), *_, (last, blocks_at_end, _) = counted
    more = {
        name: count - second[name] for name, count in last.items() if count - max(second[name], first[name]) > ROUNDS
    }
    assert not more, f"there are more and more: {more}"
    # What is counted is kept itself, some hundred blocks a round; one block a request would be more than a thousand.
    assert blocks_at_end - blocks < 1_000
