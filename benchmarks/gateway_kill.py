"""gateway_kill: from the call that turns a kill switch on to the last request that was still admitted, under load on
two edge processes. A request counts as admitted by the moment at which it was sent, if it was answered 200.

Goal: <= 1 s in all rounds, p50 <= 100 ms. Run: `make bench B=gateway_kill`; ROUNDS sets how many (100).
"""

import asyncio
import json
import os
import sys
import time

import uvloop

from benchmarks.record import record
from benchmarks.worlds.gateway import JSON, Front, front, scripted, share
from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import Client, ClientLimits

ROUNDS = int(os.environ.get("ROUNDS", "100"))
CALLERS = 8
PACE_S = 0.005
GOAL_S, GOAL_P50_S = 1.0, 0.1
SETTLE_S = 1.5
BODY = json.dumps({"model": "default", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}).encode()


class Load:
    """Callers that never stop; `sent` is when the last request that was answered was sent."""

    def __init__(self, port: int, key: str) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._headers = [(b"authorization", f"Bearer {key}".encode()), JSON]
        self.sent = 0.0
        self.killed = 0
        self._answered = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._caller())

    async def next_answer(self) -> None:
        """Wait for one that is admitted."""
        self._answered.clear()
        await self._answered.wait()

    async def _caller(self) -> None:
        # A client each: its connection may lead to either edge.
        client = Client(ClientLimits(), SystemClock())
        while True:
            sent = time.monotonic()
            async with client.request("POST", self._url, self._headers, BODY) as answer:
                await answer.read(1 << 20)
            if answer.status == 200:
                self.sent = max(self.sent, sent)
                self._answered.set()
            elif answer.status == 503:
                self.killed += 1
            else:
                raise SystemExit(f"not what a kill answers: {answer.status}")
            await asyncio.sleep(PACE_S)


async def one_round(load: Load, made: Front) -> tuple[float, float]:
    """Return the seconds to the last admitted request, and what the call itself said."""
    await load.next_answer()
    switch = {"scope": "route", "target": "default", "mode": "reject", "reason": "measured"}
    began = time.monotonic()
    told = await asyncio.to_thread(made.owner.call, "POST", "/admin/v1/kill-switches", switch)
    if told.status != 201 or told.body["missing"]:
        raise SystemExit(f"the switch was not taken by all: {told}")
    await asyncio.sleep(SETTLE_S)
    if time.monotonic() - load.sent < SETTLE_S / 2:
        raise SystemExit("requests are admitted although the switch is on")
    last_s = max(0.0, load.sent - began)
    path = f"/admin/v1/kill-switches/{told.body['id']}"
    lifted = await asyncio.to_thread(made.owner.call, "DELETE", path, {"reason": "measured"})
    if lifted.status != 200:
        raise SystemExit(f"the switch stays on: {lifted}")
    return last_s, told.body["propagation_ms"] / 1_000


async def measure(made: Front, key: str) -> tuple[list[float], list[float]]:
    load = Load(made.port, key)
    running = asyncio.create_task(load.run())
    found = [await one_round(load, made) for _ in range(ROUNDS)]
    running.cancel()
    return [last for last, _ in found], [told for _, told in found]


def main() -> int:
    with scripted() as (upstream, _), front(upstream, workers=2) as made:
        key = made.key("bench")["key"]
        time.sleep(SETTLE_S)
        last_s, told_s = uvloop.run(measure(made, key))
    late = sum(each > GOAL_S for each in last_s)
    p50 = share(last_s, 0.5)
    p99, most = share(last_s, 0.99), max(last_s)
    print(f"  last admitted p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, max {most * 1e3:.1f} ms")
    print(f"  propagation_ms of the answers p50 {share(told_s, 0.5) * 1e3:.1f}, max {max(told_s) * 1e3:.1f}")
    met = record("gateway_kill later than 1 s", late, f"of {ROUNDS}", "lower", 0)
    met = record("gateway_kill p50", p50, "s", "lower", GOAL_P50_S) and met
    print(f"gateway_kill: {ROUNDS - late} of {ROUNDS} within 1 s, p50 {p50 * 1e3:.1f} ms (goal <= 100)")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
