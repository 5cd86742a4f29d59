"""gateway_soak: requests without end through one edge, every tenth a stream that its client leaves, while the store
stands still for a minute. Afterwards memory is what it was after the warm-up, nothing is held, and what was sent, what
the edge counted, what usage says and what the budget was charged are one and the same.

Goals: RSS within 5 %, 0 slots, 0 requests of difference, 0 refused. Run: `make bench B=gateway_soak`; REQUESTS sets how
many (100,000; a release 1,000,000), STOPPED_S for how long the store stands still (60).
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
import urllib.request
from collections import Counter
from decimal import Decimal
from pathlib import Path

import uvloop

from benchmarks.record import record
from benchmarks.worlds.gateway import JSON, Front, front, scripted
from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import Client, ClientLimits, Timeouts

REQUESTS = int(os.environ.get("REQUESTS", "100000"))
STOPPED_S = float(os.environ.get("STOPPED_S", "60"))
CALLERS = 24
LEAVES_EVERY = 10
WARM_SHARE, STOP_SHARE = 0.2, 0.3
EVENTS, GAP_MS = 40, 5
SETTLE_S = 120.0
RSS_MAX = 1.05
CODE = re.compile(rb'"interlock":.*?"rule":"([^"]+)"')
PRICES = {"input_per_million_usd": "2", "output_per_million_usd": "10"}
ASKED = {"model": "soak", "messages": [{"role": "user", "content": "word " * 100}], "max_tokens": 60}
WHOLE = json.dumps({**ASKED, "stream": False}).encode()
STREAM = json.dumps({**ASKED, "stream": True}).encode()
PATIENT = Timeouts(connect_s=30, first_byte_s=120, idle_s=120, total_s=240)


class Load:
    """Callers that share a number of requests."""

    def __init__(self, port: int, key: str) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._headers = [(b"authorization", f"Bearer {key}".encode()), JSON]
        self._client = Client(ClientLimits(), SystemClock())
        self.sent = 0
        self.told: Counter[str] = Counter()

    async def run(self, count: int) -> None:
        until = self.sent + count
        await asyncio.gather(*(self._caller(until) for _ in range(CALLERS)))

    async def _caller(self, until: int) -> None:
        while self.sent < until:
            self.sent += 1
            await (self._leave() if self.sent % LEAVES_EVERY == 0 else self._ask())

    async def _ask(self) -> None:
        async with self._client.request("POST", self._url, self._headers, WHOLE, PATIENT) as answer:
            content = await answer.read(1 << 20)
        self.told["200" if answer.status == 200 else self._code(answer.status, content)] += 1

    async def _leave(self) -> None:
        """Begin a stream and go after its first piece."""
        async with self._client.request("POST", self._url, self._headers, STREAM, PATIENT) as answer:
            piece = await anext(answer.chunks(), b"")
        self.told["left" if answer.status == 200 else self._code(answer.status, piece)] += 1

    @staticmethod
    def _code(status: int, content: bytes) -> str:
        found = CODE.search(content)
        return f"{status} {found[1].decode() if found is not None else ''}"


def below(pid: int) -> list[int]:
    """Return a process with all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in below(int(child)))]


async def stand_still(data: Path, seconds: float) -> None:
    """Stop every process of the store, and let them go on."""
    pids = below(int((data / "run" / "store-0.pid").read_text()))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def rss_kb(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found is not None else 0


async def measure(made: Front, load: Load) -> tuple[int, int]:
    """Return the edge's memory after the warm-up and at the end."""
    warm = round(REQUESTS * WARM_SHARE)
    await load.run(warm)
    await asyncio.sleep(5.0)
    before = rss_kb(made.edges[0])
    await load.run(round(REQUESTS * STOP_SHARE) - warm)
    running = asyncio.create_task(load.run(REQUESTS - load.sent))
    await stand_still(made.data, STOPPED_S)
    await running
    await asyncio.sleep(5.0)
    return before, rss_kb(made.edges[0])


def prepare(made: Front, upstream: int) -> dict[str, str]:
    """Lead the alias `soak` to a priced deployment; return a key with a budget and slots."""
    provider = {"name": "soak", "kind": "openai", "base_url": f"http://127.0.0.1:{upstream}/v1"}
    key = made.key("soak")
    of_key = {"scope": "key", "target": key["id"], "model": "*"}
    for path, body in (
        ("providers", {**provider, "allow_http": True, "platform": True}),
        ("deployments", {"name": "soak", "provider": "soak", "upstream_model": "bench", "price": PRICES}),
        ("routes", {"alias": "soak", "targets": [{"deployment": "soak"}]}),
        ("limits", {**of_key, "dimension": "concurrent_requests", "limit": 1_000}),
        ("limits", {**of_key, "dimension": "usd_per_day", "limit": 1_000_000}),
    ):
        answer = made.owner.call("POST", f"/admin/v1/{path}", body)
        if answer.status != 201:
            raise SystemExit(f"no {path}: {answer}")
    return key


def charged(made: Front, key: dict[str, str]) -> tuple[int, Decimal, int, Decimal]:
    """Return requests and dollars of usage, and slots and dollars that the limits say are in use."""
    rows = made.owner.call("GET", "/v1/usage?group_by=key&bucket=hour&limit=200").body["data"]
    mine = [each for each in rows if each["key_id"] == key["id"]]
    fills = made.owner.call("GET", f"/admin/v1/limits/explain?key={key['id']}&model=soak").body["data"]
    used = {each["dimension"]: Decimal(str(each["used"])) for each in fills}
    requests = sum(each["requests"] + each["refused"] for each in mine)
    dollars = sum((Decimal(each["cost_usd"]) for each in mine), Decimal(0))
    return requests, dollars, int(used["concurrent_requests"]), used["usd_per_day"]


def settled(made: Front, key: dict[str, str]) -> tuple[int, Decimal, int, Decimal]:
    """Return the same once the store has heard of everything, or what it has heard in two minutes."""
    until = time.monotonic() + SETTLE_S
    while True:
        found = charged(made, key)
        is_whole = found[0] == REQUESTS and found[2] == 0 and abs(found[1] - found[3]) < Decimal("0.001")
        if is_whole or time.monotonic() > until:
            return found
        time.sleep(0.5)


def counted(made: Front) -> int:
    """Return how many requests the edge's own counter says that it had."""
    with urllib.request.urlopen(f"http://127.0.0.1:{made.port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    pattern = r'^interlock_gateway_requests_total\{[^}]*endpoint="/v1/chat/completions"[^}]*\} ([0-9.e+]+)'
    return round(sum(float(each) for each in re.findall(pattern, text, re.MULTILINE)))


def main() -> int:
    with scripted(EVENTS, GAP_MS) as (upstream, _), front(upstream) as made:
        key = prepare(made, upstream)
        time.sleep(2.0)
        load, began = Load(made.port, key["key"]), time.monotonic()
        before, after = uvloop.run(measure(made, load))
        took = time.monotonic() - began
        requests, dollars, slots, budget = settled(made, key)
        edge = counted(made)
    refused = sum(count for name, count in load.told.items() if name not in {"200", "left"})
    apart = abs(load.sent - requests) + abs(load.sent - edge)
    print(f"  {load.sent} sent in {took:.0f} s, the store still for {STOPPED_S:g} s: {dict(load.told)}")
    print(f"  usage {requests}, counter {edge}; cost {dollars} $, budget charged {budget} $; slots in use {slots}")
    print(f"  RSS {before / 1024:.1f} MB after the warm-up, {after / 1024:.1f} MB at the end")
    met = record("gateway_soak rss", after / before, "of that after the warm-up", "lower", RSS_MAX)
    met = record("gateway_soak slots left", slots, "slots", "lower", 0) and met
    met = record("gateway_soak requests apart", apart, f"of {load.sent}", "lower", 0) and met
    met = record("gateway_soak refused", refused, f"of {load.sent}", "lower", 0) and met
    unlike = float(abs(dollars - budget))
    met = record("gateway_soak budget apart", unlike, "$", "lower", 0.001) and met
    print(f"gateway_soak: RSS {after / before:.3f}x, {slots} slots left, {apart} apart, {unlike:g} $ apart")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
