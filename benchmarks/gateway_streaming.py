"""gateway_streaming: CPU of a stream of 30 events through the edge, against nginx as an unbuffered proxy to the same
upstream, in the same run. The upstream writes each event by itself, so both see as many pieces as there are words.

Goal <= 2. Run: `make bench B=gateway_streaming`; ROUNDS and STREAMS set how much. Without nginx it says so and stops.
"""

import asyncio
import json
import os
import shutil
import statistics
import sys
import time

import uvloop

from benchmarks.gateway_overhead import NGINX, nginx
from benchmarks.record import record
from benchmarks.worlds.gateway import JSON, cpu_us, front, scripted
from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import Client, ClientLimits

ROUNDS = int(os.environ.get("ROUNDS", "7"))
STREAMS = int(os.environ.get("STREAMS", "400"))
CONNECTIONS = 16
EVENTS, GAP_MS = 30, 5
GOAL = 2.0
BODY = json.dumps(
    {"model": "default", "stream": True, "messages": [{"role": "user", "content": "word " * 460}], "max_tokens": 100},
    separators=(",", ":"),
).encode()
UNBUFFERED = NGINX.replace("location / {{", "location / {{ proxy_buffering off;")


async def load(port: int, key: str) -> int:
    """Read streams over some connections at once; return how many came whole."""
    client = Client(ClientLimits(), SystemClock())
    headers = [(b"authorization", f"Bearer {key}".encode()), JSON]
    url, whole = f"http://127.0.0.1:{port}/v1/chat/completions", 0

    async def worker() -> None:
        nonlocal whole
        for _ in range(STREAMS // CONNECTIONS):
            async with client.request("POST", url, headers, BODY) as answer:
                content = b"".join([piece async for piece in answer.chunks()])
            if content.count(b'"content":"w') != EVENTS or not content.rstrip().endswith(b"[DONE]"):
                raise SystemExit(f"not the stream that was asked for: {answer.status} {content[:300]!r}")
            whole += 1

    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
    await client.close()
    return whole


def cost_us(port: int, pid: int, key: str) -> float:
    before = cpu_us(pid)
    whole = uvloop.run(load(port, key))
    return (cpu_us(pid) - before) / whole


def main() -> int:
    if shutil.which("nginx") is None:
        print("gateway_streaming: skipped, nginx is not installed")
        return 0
    with scripted(EVENTS, GAP_MS) as (upstream, _), nginx(upstream, UNBUFFERED) as (proxy_port, worker):
        with front(upstream) as made:
            key = made.key("bench")["key"]
            time.sleep(1.5)
            plans = {"nginx": (proxy_port, worker, key), "edge": (made.port, made.edges[0], key)}
            for plan in plans.values():
                cost_us(*plan)
            rounds: dict[str, list[float]] = {name: [] for name in plans}
            for _ in range(ROUNDS):
                for name, plan in plans.items():
                    rounds[name].append(cost_us(*plan))
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    for name, value in medians.items():
        low, high = min(rounds[name]), max(rounds[name])
        print(f"  {name:<6} {value:8.1f} us a stream ({low:.1f} .. {high:.1f})")
    ratio = medians["edge"] / medians["nginx"]
    met = record("gateway_streaming", ratio, "x nginx", "lower", GOAL)
    print(f"gateway_streaming: {ratio:.2f}x the CPU of nginx unbuffered, {EVENTS} events (goal <= {GOAL:g})")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
