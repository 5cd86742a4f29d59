"""A scripted upstream in a process of its own, and one platform in front of it, as its owner sees it.

Measures nothing. `python -m benchmarks.worlds.gateway PORT EVENTS GAP_MS WHOLE_MS` is the upstream: a stream has EVENTS
numbered words, one every GAP_MS (all at once for 0); an answer that is not streamed comes after WHOLE_MS.
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from examples.shop.client import Platform

from benchmarks.idle import platform
from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import ClientGone, Exchange, Server, WireLimits

JSON = (b"content-type", b"application/json")
# A model server names each of its answers anew.
NUMBERS = itertools.count()
SSE = (b"content-type", b"text/event-stream")
MODELS = b'{"object":"list","data":[{"id":"bench","object":"model"}]}'
_HEAD = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench","choices":'
_USAGE = '{"prompt_tokens":1200,"completion_tokens":%d,"total_tokens":%d}'
REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 60}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 600, "completion_tokens": 60, "total_tokens": 660},
    },
    separators=(",", ":"),
).encode()


@dataclass(frozen=True, slots=True)
class Front:
    """A running platform: its port, its data directory, the pids of its edges, its owner."""

    port: int
    data: Path
    edges: tuple[int, ...]
    owner: Platform

    def key(self, name: str, workspace: str = "default", organization: str | None = None) -> dict[str, str]:
        """Make a key for inference; returns its object, with the key itself."""
        suffix = "" if organization is None else f"?organization_id={organization}"
        workspaces = self.owner.call("GET", f"/admin/v1/workspaces{suffix}").body["data"]
        workspace_id = next(each["id"] for each in workspaces if each["name"] == workspace)
        body = {"workspace_id": workspace_id, "name": name, "scopes": ["inference"]}
        if organization is not None:
            body["organization_id"] = organization
        made = self.owner.call("POST", "/admin/v1/keys", body)
        if made.status != 201:
            raise SystemExit(f"no key: {made}")
        return dict(made.body)


def events(count: int) -> list[bytes]:
    """Return the events of a stream: numbered words, the finish with its usage, the end."""
    told = [
        f'data: {_HEAD}[{{"index":0,"delta":{{"content":"w{at} "}},"finish_reason":null}}]}}\n\n'.encode()
        for at in range(count)
    ]
    usage = _USAGE % (count, 1_200 + count)
    told.append(f'data: {_HEAD}[{{"index":0,"delta":{{}},"finish_reason":"stop"}}]}}\n\n'.encode())
    told.append(f'data: {_HEAD}[],"usage":{usage}}}\n\ndata: [DONE]\n\n'.encode())
    return told


class Upstream:
    """Serves completions; all streams are moved on by one loop, an event each a beat."""

    def __init__(self, count: int, gap_s: float, whole_s: float) -> None:
        self._events = events(count)
        self.gap_s = gap_s
        self._whole_s = whole_s
        self._running: dict[Exchange, int] = {}
        self._ended: dict[Exchange, asyncio.Event] = {}

    async def beat(self) -> None:
        """Move every stream on by one event at each beat."""
        at = time.monotonic()
        while True:
            at += self.gap_s
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            for exchange, number in list(self._running.items()):
                try:
                    await self._one(exchange, number)
                except ClientGone:
                    self._running.pop(exchange, None)

    async def _one(self, exchange: Exchange, number: int) -> None:
        await exchange.write(self._events[number])
        self._running[exchange] = number + 1
        if number + 1 == len(self._events):
            del self._running[exchange]
            await exchange.finish()
            self._ended[exchange].set()

    async def handle(self, exchange: Exchange) -> None:
        body = await exchange.request.body(1 << 20)
        if exchange.request.path == "/v1/models":
            await exchange.respond(200, [JSON], MODELS)
        elif b'"stream":true' in body:
            with contextlib.suppress(ClientGone):
                await self._stream(exchange)
        else:
            if self._whole_s:
                await asyncio.sleep(self._whole_s)
            with contextlib.suppress(ClientGone):
                await exchange.respond(200, [JSON], REPLY)

    async def _stream(self, exchange: Exchange) -> None:
        await exchange.start(200, [SSE])
        if self.gap_s:
            ended = self._ended[exchange] = asyncio.Event()
            try:
                await self._one(exchange, 0)
                await ended.wait()
            finally:
                self._running.pop(exchange, None)
                del self._ended[exchange]
            return
        for event in self._events:
            await exchange.write(event)
        await exchange.finish()


def serve(port: int, count: int, gap_ms: float, whole_ms: float) -> None:
    async def main() -> None:
        upstream = Upstream(count, gap_ms / 1_000, whole_ms / 1_000)
        wire = WireLimits(connections_per_address_max=10_000)
        server = Server(upstream.handle, wire, mint=lambda: f"req_{next(NUMBERS)}", clock=SystemClock())
        await server.listen(socket.create_server(("127.0.0.1", port), backlog=2_048))
        if upstream.gap_s:
            await upstream.beat()
        await asyncio.Event().wait()

    uvloop.run(main())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def await_port(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing answers on port {port}")


@contextmanager
def scripted(count: int = 1, gap_ms: float = 0.0, whole_ms: float = 0.0) -> Iterator[tuple[int, int]]:
    """Yield port and pid of an upstream."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.worlds.gateway", *map(str, (port, count, gap_ms, whole_ms))]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        await_port(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def front(upstream_port: int, *, workers: int = 1, **settings: object) -> Iterator[Front]:
    """Yield a platform whose alias `default` leads to the upstream; settings are `SECTION__NAME=value`."""
    names = {f"INTERLOCK_{name.upper()}": str(value) for name, value in settings.items()}
    os.environ.update(names)
    flags = ("--engine", f"http://127.0.0.1:{upstream_port}", "--edge-workers", str(workers))
    try:
        with platform(*flags) as (data, _):
            url = (data / "run" / "url").read_text().strip()
            edges = tuple(int((data / "run" / f"edge-{at}.pid").read_text()) for at in range(workers))
            owner = Platform(url, (data / "owner.key").read_text().strip())
            yield Front(int(url.rpartition(":")[2]), data, edges, owner)
    finally:
        for name in names:
            del os.environ[name]


def cpu_us(pid: int) -> float:
    """Return the time on CPU of all threads of a process, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1_000


def share(values: list[float], part: float) -> float:
    """Return a quantile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(part * len(ordered)))]


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
