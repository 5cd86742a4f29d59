"""gateway_overhead: CPU of a non-stream request through the edge, with key, story and metrics, against nginx as a
plain proxy to the same upstream, in the same run. The figure is the median of the rounds' ratios: a shared host slows
one round threefold and not the next, and each ratio compares what ran within the same half second.

Goal of the finished gateway <= 3.3 without limits; with exact limits the figure includes nothing of the store's own
CPU. Run: `make bench B=gateway_overhead`; ROUNDS and REQUESTS set how much. Without nginx it says so and stops.
"""

import asyncio
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from examples.shop.client import Platform

from benchmarks.idle import platform
from benchmarks.record import record
from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import Client, ClientLimits, Exchange, Server, WireLimits

ROUNDS = int(os.environ.get("ROUNDS", "25"))
REQUESTS = int(os.environ.get("REQUESTS", "2000"))
CONNECTIONS = 16
GOAL = 3.3
MODEL = "bench"
REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 60}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 600, "completion_tokens": 60, "total_tokens": 660},
    },
    separators=(",", ":"),
).encode()
BODY = json.dumps(
    {"model": "default", "messages": [{"role": "user", "content": "word " * 460}], "max_tokens": 100},
    separators=(",", ":"),
).encode()
JSON = (b"content-type", b"application/json")
# A model server names each of its answers anew.
NUMBERS = itertools.count()
NGINX = """daemon off; worker_processes 1; error_log {folder}/error.log; pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


def upstream(port: int) -> None:
    """Answer every completion with the same reply."""

    async def handler(exchange: Exchange) -> None:
        await exchange.request.body(1 << 20)
        models = b'{"object":"list","data":[{"id":"bench","object":"model"}]}'
        await exchange.respond(200, [JSON], models if exchange.request.path == "/v1/models" else REPLY)

    async def main() -> None:
        server = Server(handler, WireLimits(), mint=lambda: f"req_{next(NUMBERS)}", clock=SystemClock())
        await server.listen(socket.create_server(("127.0.0.1", port)))
        await asyncio.Event().wait()

    uvloop.run(main())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@contextmanager
def child(argv: list[str]) -> Iterator[int]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def nginx(upstream_port: int, template: str = NGINX) -> Iterator[tuple[int, int]]:
    """Yield port and pid of the one worker that serves."""
    with tempfile.TemporaryDirectory(prefix="interlock-nginx-") as folder:
        Path(folder).chmod(0o755)
        port = free_port()
        config = Path(folder) / "nginx.conf"
        config.write_text(template.format(folder=folder, upstream=upstream_port, port=port))
        with child([shutil.which("nginx") or "nginx", "-p", folder, "-c", str(config)]) as master:
            await_port(port)
            workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()
            yield port, int(workers[0])


def await_port(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing answers on port {port}")


def cpu_us(pid: int) -> float:
    """Return the time on CPU of all threads of a process, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1_000


async def load(port: int, key: str, requests: int) -> list[float]:
    """Send requests over some connections at once; return the seconds that each took."""
    client = Client(ClientLimits(), SystemClock())
    headers = [(b"authorization", f"Bearer {key}".encode()), JSON]
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    took: list[float] = []

    async def worker(count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            async with client.request("POST", url, headers, BODY) as answer:
                content = await answer.read(1 << 20)
                if answer.status != 200 or content != REPLY:
                    raise SystemExit(f"not the answer that was asked for: {answer.status} {content[:300]!r}")
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(worker(requests // CONNECTIONS) for _ in range(CONNECTIONS)))
    await client.close()
    return took


def cost_us(port: int, pid: int, key: str) -> float:
    before = cpu_us(pid)
    took = uvloop.run(load(port, key, REQUESTS))
    return (cpu_us(pid) - before) / len(took)


def make_keys(data: Path) -> tuple[str, str]:
    """Return a key without limits, and one with two that never refuse."""
    owner = Platform((data / "run" / "url").read_text().strip(), (data / "owner.key").read_text().strip())
    workspaces = owner.call("GET", "/admin/v1/workspaces").body["data"]
    workspace_id = next(each["id"] for each in workspaces if each["name"] == "default")
    made = []
    for name in ("bench-free", "bench-limited"):
        body = {"workspace_id": workspace_id, "name": name, "scopes": ["inference"]}
        made.append(owner.call("POST", "/admin/v1/keys", body).body)
    for dimension in ("requests_per_minute", "tokens_per_minute"):
        limit = {
            "scope": "key",
            "target": made[1]["id"],
            "dimension": dimension,
            "model": "*",
            "limit": 10**9,
        }
        answer = owner.call("POST", "/admin/v1/limits", limit)
        if answer.status != 201:
            raise SystemExit(f"no limit: {answer}")
    time.sleep(1.5)
    return made[0]["key"], made[1]["key"]


def measure() -> int:
    upstream_port = free_port()
    serve = [sys.executable, "-m", "benchmarks.gateway_overhead", "upstream", str(upstream_port)]
    with child(serve), nginx(upstream_port) as (proxy_port, worker):
        await_port(upstream_port)
        flags = ("--engine", f"http://127.0.0.1:{upstream_port}", "--edge-workers", "1")
        with platform(*flags) as (data, _):
            edge = int((data / "run" / "edge-0.pid").read_text())
            port = int((data / "run" / "url").read_text().strip().rpartition(":")[2])
            free, limited = make_keys(data)
            plans = {"nginx": (proxy_port, worker, free), "edge": (port, edge, free), "limits": (port, edge, limited)}
            for plan in plans.values():
                cost_us(*plan)
            rounds = {name: [] for name in plans}
            for _ in range(ROUNDS):
                for name, plan in plans.items():
                    rounds[name].append(cost_us(*plan))
    ratios = {name: [own / peer for own, peer in zip(rounds[name], rounds["nginx"], strict=True)] for name in plans}
    for name, values in rounds.items():
        low, _, high = statistics.quantiles(ratios[name], n=4)
        print(
            f"  {name:<7} {statistics.median(values):7.1f} us a request ({min(values):.1f} .. {max(values):.1f}), "
            f"{statistics.median(ratios[name]):.2f}x nginx (half of the rounds {low:.2f} .. {high:.2f})"
        )
    record("gateway_overhead_limits", statistics.median(ratios["limits"]), "x nginx", "lower")
    ratio = statistics.median(ratios["edge"])
    met = record("gateway_overhead", ratio, "x nginx", "lower", GOAL)
    print(f"gateway_overhead: {ratio:.2f}x the CPU of nginx (goal <= {GOAL} of the finished gateway)")
    return 0 if met else 1


def main() -> int:
    if sys.argv[1:2] == ["upstream"]:
        upstream(int(sys.argv[2]))
        return 0
    if shutil.which("nginx") is None:
        print("gateway_overhead: skipped, nginx is not installed")
        return 0
    return measure()


if __name__ == "__main__":
    sys.exit(main())
