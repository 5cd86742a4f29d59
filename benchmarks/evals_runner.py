"""What the runner of evals costs beside a bare loop over the same client, and how near it comes to its transport bound.

The target is a process that answers at once (or after 50 ms); gateway and model are not measured. Scores, manifest,
commits and the sealed bundle are the real ones, in a real store.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import httpx2
from tests.evals.eval_world import case, parts_of
from tests.support.store import make_tenant, opened, running_store, scope_of

from benchmarks.record import record
from interlock.contracts.inference import ChatAnswer, Credential
from interlock.evals.service.running import RUN_LEASES
from interlock.evals.service.runs import RunWanted
from interlock.evals.service.suites import SuiteWanted
from interlock.foundation.leases import LeaseTable
from interlock.foundation.store import Store

CASES = 500
CONCURRENCY = 50
ROUNDS = 3
SLOW_MS = 50
SERVER = """
import asyncio, json, sys
async def head_of(reader):
    try:
        return await reader.readuntil(b"\\r\\n\\r\\n")
    except asyncio.IncompleteReadError:
        return b""
async def serve(reader, writer):
    while head := await head_of(reader):
        length = int(head.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0])
        asked = json.loads(await reader.readexactly(length))
        await asyncio.sleep(int(sys.argv[1]) / 1000)
        said = json.dumps({"text": "answer " + asked["text"][1:] + "."}).encode()
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: " + str(len(said)).encode() + b"\\r\\n\\r\\n" + said)
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@dataclass
class Client:
    """Implements `ModelClient` over HTTP, as plainly as it goes."""

    http: httpx2.AsyncClient
    port: int

    async def lend(self, _scope: object, *, link: str, **_how: object) -> Credential:
        return Credential(None, "il_task_x", 10**18, link)

    async def extend(self, _scope: object, credential: Credential, _ttl_s: float) -> Credential:
        return credential

    async def revoke(self, _scope: object, _credential: Credential) -> None:
        return None

    async def chat(self, _credential: object, call: object) -> ChatAnswer:
        said = await self.http.post(f"http://127.0.0.1:{self.port}/", json={"text": call.messages[-1]["content"]})
        return ChatAnswer("req_1", json.loads(said.content)["text"], (), "stop", 10, 5, 1, 1.0)


@dataclass
class _Call:
    messages: list[dict[str, str]]


async def bare(client: Client) -> float:
    """Return the samples a second of a loop that only asks."""
    seats = asyncio.Semaphore(CONCURRENCY)

    async def one(number: int) -> None:
        async with seats:
            await client.chat(None, _Call([{"role": "user", "content": f"q{number % CASES}"}]))

    began = perf_counter()
    await asyncio.gather(*[one(number) for number in range(2 * CASES)])
    return 2 * CASES / (perf_counter() - began)


async def run(store: Store, client: Client) -> float:
    """Return the seconds of one paired run, from its claim to its sealed bundle."""
    organization_id, workspace_id = await make_tenant(store)
    scope = scope_of(organization_id, workspace_id)
    with tempfile.TemporaryDirectory() as folder:
        parts = parts_of(store, Path(folder), client)
        async with store.transaction(scope) as tx:
            await parts["suites"].push(tx, SuiteWanted("policy", "quality", "", [case(each) for each in range(CASES)]))
            route = {"kind": "route", "route": "shop"}
            wanted = RunWanted("policy", {**route, "version": 2}, {**route, "version": 1}, concurrency=CONCURRENCY)
            started = await parts["runs"].start(tx, wanted)
        (lease,) = await LeaseTable(RUN_LEASES, store).claim("bench", 1)
        began = perf_counter()
        await parts["runner"].work(lease)
        spent = perf_counter() - began
        shown = await parts["runs"].show(scope, started["id"])
        assert shown["completeness"]["scored"] == 2 * CASES, shown
    return spent


def target(delay_ms: int) -> tuple[subprocess.Popen[str], int]:
    """Start a target; return it and its port."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(delay_ms)], stdout=subprocess.PIPE, text=True)
    return server, int(server.stdout.readline())


async def measured(store: Store, port: int) -> tuple[float, float]:
    """Return samples a second of the bare loop and of the runner against one target."""
    limits = httpx2.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    async with httpx2.AsyncClient(limits=limits) as http:
        client = Client(http, port)
        await bare(client)
        loops, runs = [], []
        for _ in range(ROUNDS):
            loops.append(await bare(client))
            runs.append(2 * CASES / await run(store, client))
    return statistics.median(loops), statistics.median(runs)


async def both(fast: int, slow: int) -> tuple[float, float, float]:
    """Return samples a second: bare and ours without delay, ours with it."""
    async with running_store() as (_, urls), opened(urls) as store:
        return *await measured(store, fast), (await measured(store, slow))[1]


def main() -> int:
    (first, fast), (second, slow) = target(0), target(SLOW_MS)
    try:
        bare_s, ours_s, slow_s = asyncio.run(both(fast, slow))
    finally:
        for server in (first, second):
            server.kill()
            server.wait()
    ratio, times = ours_s / bare_s, 2 * CASES / slow_s / (2 * CASES * SLOW_MS / 1000 / CONCURRENCY)
    print(f"target without delay: {ours_s:.0f} samples/s, bare loop {bare_s:.0f}; ratio {ratio:.2f}, goal >= 0.35")
    print(f"{CASES} x 2 samples of {SLOW_MS} ms, {CONCURRENCY} at once: {times:.2f} x the bound of 1 s, goal <= 4")
    met = record("evals_runner against a bare loop", ratio, "ratio", "higher", 0.35)
    met &= record("evals_runner paired run against its transport bound", times, "ratio", "lower", 4.0)
    record("evals_runner samples", ours_s, "1/s", "higher")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
