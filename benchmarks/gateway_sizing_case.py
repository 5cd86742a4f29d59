"""gateway_sizing_case: 4,000 requests a minute of 450 streamed tokens each, open loop, on one machine that also runs
load and upstream. Every word of every stream is checked: none lost, doubled or out of order.

Goals: 0 failures, edge <= 1.0 core, first token later than direct by <= 10 ms at p99.
Run: `make bench B=gateway_sizing_case`; SECONDS sets for how long (60, of which a stream lasts 9).
"""

import asyncio
import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from typing import cast

import uvloop

from benchmarks.record import record
from benchmarks.worlds.gateway import cpu_us, front, scripted, share

SECONDS = float(os.environ.get("SECONDS", "60"))
PER_MINUTE = 4_000
EVENTS, GAP_MS = 450, 20
WORKERS = 2
CORES_MAX = 1.0
ADDED_MS_MAX = 10.0
PATIENCE_S = 120.0
BODY = json.dumps(
    {"model": "default", "stream": True, "messages": [{"role": "user", "content": "word " * 960}], "max_tokens": 450},
    separators=(",", ":"),
).encode()
WORD = re.compile(rb'"content":"w(\d+) "')
WANTED = list(range(EVENTS))


@dataclass
class Seen:
    """What the callers saw."""

    whole: int = 0
    wrong: list[str] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)


class Stream(asyncio.Protocol):
    """One caller: sends the request and keeps what comes until the server closes, reading as little as it can."""

    def __init__(self, request: bytes, seen: Seen, done: asyncio.Future[None]) -> None:
        self._request = request
        self._seen = seen
        self._done = done
        self._began = time.perf_counter()
        self._pieces: list[bytes] = []
        self._has_word = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._has_word and WORD.search(data):
            self._has_word = True
            self._seen.ttft_s.append(time.perf_counter() - self._began)
        self._pieces.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        content = b"".join(self._pieces)
        words = [int(each) for each in WORD.findall(content)]
        if words == WANTED and content.count(b"data: [DONE]") == 1:
            self._seen.whole += 1
        else:
            self._seen.wrong.append(f"{exc!r}, {len(words)} words: {content[:300]!r} .. {content[-200:]!r}")
        self._done.set_result(None)


async def one(port: int, request: bytes, seen: Seen) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    try:
        await loop.create_connection(lambda: Stream(request, seen, done), "127.0.0.1", port)
        async with asyncio.timeout(PATIENCE_S):
            await done
    except (OSError, TimeoutError) as error:
        seen.wrong.append(repr(error))


async def load(port: int, key: str, seconds: float) -> Seen:
    """Start a stream every 15 ms, whatever becomes of those before, and wait for all of them."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\nconnection: close\r\n\r\n"
    )
    request = head.encode() + BODY
    seen, began = Seen(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for at in range(round(seconds * PER_MINUTE / 60)):
            await asyncio.sleep(max(0.0, began + at * 60 / PER_MINUTE - time.monotonic()))
            group.create_task(one(port, request, seen))
    return seen


def main() -> int:
    with scripted(EVENTS, GAP_MS) as (upstream, _):
        direct = uvloop.run(load(upstream, "none", min(20.0, SECONDS)))
        # All callers come from one address, as they do from behind a proxy, which is trusted with more connections.
        with front(upstream, workers=WORKERS, edge__trusted_proxies="127.0.0.1/32") as made:
            key = made.key("bench")["key"]
            time.sleep(1.5)
            before, began = [cpu_us(pid) for pid in made.edges], time.monotonic()
            through = uvloop.run(load(made.port, key, SECONDS))
            used_us = sum(cpu_us(pid) - was for pid, was in zip(made.edges, before, strict=True))
            # The time in which streams start: the last ones run on, and would thin the share.
            cores = used_us / 1e6 / (time.monotonic() - began)
    lost = len(through.wrong)
    added_ms = (share(through.ttft_s, 0.99) - share(direct.ttft_s, 0.99)) * 1_000
    for name, seen in (("direct", direct), ("edge", through)):
        p50, p99 = share(seen.ttft_s, 0.5) * 1_000, share(seen.ttft_s, 0.99) * 1_000
        print(f"  {name:<7} {seen.whole} whole, {len(seen.wrong)} not; first token p50 {p50:.1f} p99 {p99:.1f} ms")
    for each in through.wrong[:5]:
        print(f"  wrong: {each}")
    met = record("gateway_sizing_case lost streams", lost, "streams", "lower", 0)
    met = record("gateway_sizing_case edge", cores, "cores", "lower", CORES_MAX) and met
    met = record("gateway_sizing_case added ttft p99", added_ms, "ms", "lower", ADDED_MS_MAX) and met
    total = through.whole * EVENTS
    streams = through.whole + lost
    print(f"gateway_sizing_case: {lost} of {streams} streams lost, {total} events in order, {cores:.2f} cores")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
