"""Limits over real processes: four workers of two machines share one limit, and what a killed one held comes back."""

import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress

import pytest

from interlock.foundation.wire import UpstreamBroken
from interlock.gateway.domain.directory import Dimension
from interlock.scheduler import Script
from tests.gateway.worlds import CALL, CLOCK, standing_still, world

PATIENCE_S = 240.0


class Workers:
    """Edges in processes of their own behind one world; those of one machine meet at its socket."""

    def __init__(self, edge, urls, folder):
        self.edge = edge
        self.urls = urls
        self.folder = folder
        self.given = {
            "urls": dataclasses.asdict(urls),
            "organization_id": str(edge.scope.organization_id),
            "workspace_id": str(edge.scope.workspace_id),
        }
        self.processes = []

    async def start(self, machine):
        name = f"edge-{len(self.processes) + 1}"
        given = {**self.given, "worker": name, "limits_socket": str(self.folder / f"{machine}.sock")}
        process, port = await asyncio.to_thread(start_edge, given)
        self.processes.append(process)
        return process, port

    async def ask(self, port, **fields):
        body = json.dumps({"model": "default", "messages": [], **fields}).encode()
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        async with self.edge.client.request("POST", url, self.edge.headers(), body, timeouts=CALL) as answer:
            await answer.read(1 << 20)
            return answer.status

    async def close(self):
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
            if process.poll() is None:
                process.kill()


def start_edge(given):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.edge_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdin.write(json.dumps(given) + "\n")
    process.stdin.flush()
    return process, int(process.stdout.readline())


@pytest.fixture
async def workers(store_urls, store, scope, tmp_path_factory):
    async with _workers(store_urls, store, scope, tmp_path_factory.mktemp("m")) as made:
        yield made


@asynccontextmanager
async def _workers(urls, store, scope, folder):
    async with world(store, scope) as edge:
        made = Workers(edge, urls, folder)
        try:
            yield made
        finally:
            await made.close()


async def test_workers_never_exceed_a_limit(workers):
    """Two workers on each of two machines, a burst that is leased and one that is decided each time."""
    limit = await workers.edge.limit(90)
    ports = [(await workers.start(machine))[1] for machine in ("a", "a", "b", "b")]
    began = CLOCK.monotonic()
    statuses = await asyncio.gather(*(workers.ask(port) for port in ports for _ in range(40)))
    refilled = (CLOCK.monotonic() - began) * 90 / 60
    assert set(statuses) <= {200, 429}
    assert 90 <= statuses.count(200) <= 90 + refilled
    left = await workers.edge.level(limit)
    assert left <= (CLOCK.monotonic() - began) * 90 / 60


async def test_slots_return_after_kill_nine(workers):
    """The killed worker is the broker; its sibling takes over, and the slots are back when their lease ends."""
    workers.edge.engine.script = Script(tokens=4_000, token_s=0.5)
    await workers.edge.limit(2, Dimension.CONCURRENCY)
    broker, port = await workers.start("a")
    _, sibling = await workers.start("a")
    # No slot's lease ends while its worker lives, however long the machine stands still.
    async with standing_still(workers.urls):
        held = [asyncio.create_task(workers.ask(port, stream=True)) for _ in range(2)]
        await workers.edge.until(lambda: workers.edge.engine.statistics().running == 2)
        assert await workers.ask(sibling) == 429
        broker.send_signal(signal.SIGKILL)
    gone = await asyncio.gather(*held, return_exceptions=True)
    assert all(isinstance(each, (UpstreamBroken, OSError)) for each in gone)
    workers.edge.engine.script = Script(tokens=1)
    until = CLOCK.monotonic() + PATIENCE_S
    while (status := await workers.ask(sibling)) != 200:
        assert status in (429, 503)
        assert CLOCK.monotonic() < until, "the slots of a dead worker did not come back"
        await CLOCK.sleep(0.2)
