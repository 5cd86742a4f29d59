"""A client that leaves, in each of six phases and each dialect: the model server is left, slots and tokens return."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest

from interlock.foundation.telemetry import step_of
from interlock.foundation.wire import Server, WireLimits
from interlock.gateway.domain.directory import Dimension, LimitScope, Timeouts
from interlock.scheduler import Script
from tests.gateway.test_attempts import add_upstream, lead
from tests.gateway.test_limits import SLOW
from tests.gateway.test_outcome_matrix import PATHS, Bench
from tests.gateway.worlds import CLOCK, patient, world
from tests.support.clocks import HandClock

pytestmark = pytest.mark.usefixtures("still")

PATIENT = Timeouts(connect=600_000, ttft=600_000, idle=600_000, total=600_000)
TOKENS = 100_000


@asynccontextmanager
async def deaf():
    """A port that never takes a connection: the one that may wait to be accepted is there already."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    waiting = []
    for _ in range(4):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(listening.getsockname())
        waiting.append(client)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        for each in (*waiting, listening):
            each.close()


@asynccontextmanager
async def busy():
    """An upstream that asks everybody to come again in a minute."""

    async def handle(exchange):
        await exchange.request.body(1 << 20)
        await exchange.respond(429, [(b"retry-after", b"60")], b"{}")

    server = Server(handle, WireLimits(), mint=lambda: "req_upstream0000", clock=CLOCK)
    sock = socket.create_server(("127.0.0.1", 0))
    await server.listen(sock)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    finally:
        await server.drain(0.5)


def called(edge):
    return edge.engine.statistics().running == 1


def last_step(edge):
    return [step_of(each.decisions[-1]) for each in edge.process.edge._passages]


# Where the client leaves: the alias, whether it streams, and how one sees that the request is there.
PHASES = {
    "queued": ("default", True, lambda edge: edge.process.entrance.statistics().waiting == 1),
    "connecting": ("deaf", True, lambda edge: last_step(edge) == ["attempt"]),
    "waiting": ("default", True, called),
    "streaming": ("default", True, lambda edge: "head" in last_step(edge)),
    "whole": ("default", False, called),
    "backoff": ("busy", True, lambda edge: last_step(edge) == ["retry"]),
}


class Ledger:
    """What a tenant's limits say is in use."""

    def __init__(self, edge, tokens, slots):
        self.edge = edge
        self.limits = (tokens, slots)

    async def used(self):
        await self.edge.settled()
        return [limit.burst - await self.edge.level(limit) for limit in self.limits]


async def leave(bench, phase):
    """Ask, wait until the request is in its phase, and go."""
    alias, stream, is_there = PHASES[phase]
    edge = bench.edge
    first_token_s = 0 if phase == "streaming" else 600
    edge.engine.script = Script(tokens=TOKENS, first_token_s=first_token_s, token_s=0.05)
    bench.stream = stream
    task = asyncio.create_task(bench.ask(phase, alias, most=TOKENS // 2))
    await edge.until(lambda: is_there(edge))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def told(edge, phase):
    until = CLOCK.monotonic() + 240
    while True:
        await edge.shipper.run_once()
        async with edge.store.ops("story of who left") as tx:
            row = await tx._connection.fetchrow(
                "SELECT outcome, status FROM telemetry_requests"
                " WHERE client_request_id = $1 AND organization_id = $2 AND is_complete",
                *(phase, edge.scope.organization_id),
            )
        if row is not None:
            return tuple(row)
        assert CLOCK.monotonic() < until, f"no story of {phase}"
        await CLOCK.sleep(0.02)


@pytest.mark.parametrize("dialect", PATHS)
async def test_who_leaves_in_any_phase_leaves_nothing_behind(store, scope, dialect):
    config = patient(inflight_max=1, queue_s_max=60.0, retry_after_s_max=120.0)
    async with world(store, scope, config=config) as edge, deaf() as nowhere, busy() as crowded:
        for name, url in (("deaf", nowhere), ("busy", crowded)):
            await add_upstream(edge, name, url)
            await lead(edge, name, targets=(name,), timeouts_ms=PATIENT)
        tokens = await edge.limit(SLOW, Dimension.TOKENS, burst=2 * TOKENS, scope=LimitScope.KEY)
        ledger = Ledger(edge, tokens, await edge.limit(5, Dimension.CONCURRENCY, scope=LimitScope.KEY))
        bench = Bench(edge, None, dialect, stream=True)
        for phase in PHASES:
            before, _ = await ledger.used()
            left_behind = edge.engine.statistics().disconnects
            if phase == "queued":
                await leave_the_line(bench)
            else:
                await leave(bench, phase)
            # Nothing ends by itself: the model server would go on for ten minutes, the line for one.
            await edge.until(lambda: not edge.process.edge._passages)
            await edge.until(lambda: edge.engine.statistics().running == 0)
            assert await told(edge, phase) == ("client_gone", 499), phase
            after, slots = await ledger.used()
            assert slots == 0, phase
            assert edge.process.limiter.statistics().slots_held == 0
            assert (edge.process.entrance.statistics().taken, edge.process.entrance.statistics().waiting) == (0, 0)
            if phase == "connecting":
                assert after - before <= 0, "no model server was asked"
            else:
                assert after - before < TOKENS / 10, "what was reserved and not made came back"
            if PHASES[phase][0] == "default" and phase != "queued":
                assert edge.engine.statistics().disconnects == left_behind + 1, phase


async def leave_the_line(bench):
    """One holds the only place; another, in line behind it, goes."""
    edge = bench.edge
    # By a clock that goes on, half a second in which no place came free is a line that nobody may join.
    edge.process.entrance._clock = still = HandClock()
    still.stop()
    edge.engine.script = Script(tokens=3, first_token_s=600)
    holder = asyncio.create_task(bench.ask("holder"))
    await edge.until(lambda: called(edge))
    task = asyncio.create_task(bench.ask("queued"))
    await edge.until(lambda: PHASES["queued"][2](edge))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await edge.until(lambda: edge.process.entrance.statistics().waiting == 0)
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)
