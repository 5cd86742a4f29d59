"""gateway_overload: three times what one edge carries, from one tenant, while another stays inside its share.

Goals, all in one run: goodput >= 90 % of the edge's own peak, refusals p99 <= 50 ms, < 5 % of the small tenant refused.
Run: `make bench B=gateway_overload`; SECONDS sets for how long (60).
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import uvloop

from benchmarks.record import record
from benchmarks.worlds.gateway import JSON, Front, front, scripted, share
from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import Client, ClientLimits, Timeouts

SECONDS = float(os.environ.get("SECONDS", "60"))
PEAK_SECONDS = 10.0
# 20 places of 200 ms each: the edge carries 100 a second, which leaves the cores of the machine alone.
PLACES, QUEUE, WHOLE_MS = 20, 40, 200.0
OVERLOAD = 3.0
SMALL_SHARE = 0.05
BODY = json.dumps({"model": "default", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}).encode()


@dataclass
class Tally:
    """What one tenant was answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused_s: list[float] = field(default_factory=list)

    @property
    def refused(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != 200)


class Caller:
    """One tenant."""

    def __init__(self, port: int, key: str) -> None:
        self._client = Client(ClientLimits(idle_connections_max=2_000), SystemClock())
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._headers = [(b"authorization", f"Bearer {key}".encode()), JSON]
        self.tally = Tally()

    async def one(self) -> None:
        began = time.perf_counter()
        timeouts = Timeouts(connect_s=30, first_byte_s=60, idle_s=60, total_s=120)
        async with self._client.request("POST", self._url, self._headers, BODY, timeouts) as answer:
            await answer.read(1 << 20)
        self.tally.statuses[answer.status] += 1
        if answer.status != 200:
            self.tally.refused_s.append(time.perf_counter() - began)

    async def closed_loop(self, callers: int, seconds: float) -> None:
        until = time.monotonic() + seconds

        async def again() -> None:
            while time.monotonic() < until:
                await self.one()

        await asyncio.gather(*(again() for _ in range(callers)))

    async def open_loop(self, per_s: float, seconds: float) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for at in range(round(per_s * seconds)):
                await asyncio.sleep(max(0.0, began + at / per_s - time.monotonic()))
                group.create_task(self.one())


async def measure(made: Front, big_key: str, small_key: str) -> tuple[float, Tally, Tally]:
    """Return the edge's own peak a second, and what both tenants were answered under the overload."""
    alone = Caller(made.port, big_key)
    await alone.closed_loop(PLACES, PEAK_SECONDS)
    peak = alone.tally.statuses[200] / PEAK_SECONDS
    big, small = Caller(made.port, big_key), Caller(made.port, small_key)
    await asyncio.gather(big.open_loop(OVERLOAD * peak, SECONDS), small.open_loop(SMALL_SHARE * peak, SECONDS))
    return peak, big.tally, small.tally


def small_tenant(made: Front) -> str:
    """Return the key of another organization."""
    organization = made.owner.call("POST", "/admin/v1/organizations", {"name": "small"}).body
    workspace = {"organization_id": organization["id"], "name": "bench"}
    answer = made.owner.call("POST", "/admin/v1/workspaces", workspace)
    if answer.status != 201:
        raise SystemExit(f"no workspace: {answer}")
    return made.key("small", "bench", organization["id"])["key"]


def main() -> int:
    bounds = {"edge__inflight_max": PLACES, "edge__queue_max": QUEUE}
    with scripted(whole_ms=WHOLE_MS) as (upstream, _), front(upstream, **bounds) as made:
        big_key, small_key = made.key("big")["key"], small_tenant(made)
        time.sleep(1.5)
        peak, big, small = uvloop.run(measure(made, big_key, small_key))
    goodput = (big.statuses[200] + small.statuses[200]) / SECONDS / peak
    refused_ms = share(big.refused_s + small.refused_s, 0.99) * 1_000
    small_refused = small.refused / max(1, small.statuses.total())
    print(f"  peak {peak:.0f}/s; big {dict(big.statuses)}, small {dict(small.statuses)}")
    met = record("gateway_overload goodput", goodput, "of peak", "higher", 0.9)
    met = record("gateway_overload refusal p99", refused_ms, "ms", "lower", 50.0) and met
    met = record("gateway_overload small tenant refused", small_refused, "share", "lower", 0.05) and met
    print(
        f"gateway_overload: goodput {goodput:.2f} of peak, refusals p99 {refused_ms:.1f} ms,"
        f" small tenant {small_refused:.1%} refused"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
