"""gateway_abuse: good clients of one edge while 2,000 connections drip a head, byte by byte, others send heads without
end, and others the forms by which two servers would read different requests.

Goals, in one run: the good ones' p99 <= 2x that without; all of the bad forms refused and closed, none answered twice.
Run: `make bench B=gateway_abuse`; SECONDS sets for how long each of the two parts runs (20).
"""

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import uvloop
from tests.foundation.wire.test_smuggling import BAD_HEADS

from benchmarks.record import record
from benchmarks.worlds.gateway import JSON, front, scripted, share
from interlock.foundation.clock import SystemClock
from interlock.foundation.wire import Client, ClientLimits

SECONDS = float(os.environ.get("SECONDS", "20"))
GOOD, PACE_S = 4, 0.02
SLOW, ADDRESSES = 2_000, 8
BEAT_S, BEATS = 0.05, 20
BOMB_S, FORM_S = 0.2, 0.02
GOAL = 2.0
STATUS_LINE = re.compile(rb"HTTP/1\.1 \d{3} ")
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: shop.example\r\nX-Slow: "
BOMB = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %b\r\n" % (b"b" * 400) * 500
BODY = json.dumps({"model": "default", "messages": [{"role": "user", "content": "word " * 200}]}).encode()


class Slow(asyncio.Protocol):
    """A connection that drips; `told` counts how it was ended."""

    def __init__(self, told: Counter[str], held: "set[Slow]") -> None:
        self._told = told
        self._held = held
        self._answer = b""
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)
        self._held.add(self)
        self.transport.write(HEAD)

    def data_received(self, data: bytes) -> None:
        self._answer += data

    def connection_lost(self, _exc: Exception | None) -> None:
        self._held.discard(self)
        words = self._answer[:12].decode("latin-1")
        self._told[words.removeprefix("HTTP/1.1 ") or "no word"] += 1


async def dial(port: int, number: int, told: Counter[str], held: set[Slow]) -> None:
    """Connect from one of several addresses: those of one are bounded by the edge itself."""
    local = (f"127.0.0.{2 + number % ADDRESSES}", 0)
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: Slow(told, held), "127.0.0.1", port, local_addr=local
        )
    except OSError as error:
        told[f"not connected: {error.errno}"] += 1


async def drip(port: int, told: Counter[str], until: float) -> None:
    """Hold 2,000 connections; each gets a byte a second, and one that was closed is opened again."""
    held: set[Slow] = set()
    number = 0
    while time.monotonic() < until:
        for _ in range(BEATS):
            await asyncio.sleep(BEAT_S)
            for each in list(held)[number % BEATS :: BEATS]:
                if each.transport is not None:
                    each.transport.write(b"a")
            missing = min(SLOW - len(held), SLOW // BEATS)
            await asyncio.gather(*(dial(port, number + at, told, held) for at in range(missing)))
            number += 1
    told["held at the end"] = len(held)


async def send(port: int, raw: bytes) -> bytes:
    """Send bytes and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.20", 0))
    try:
        writer.write(raw)
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def repeat(port: int, forms: list[bytes], every_s: float, told: Counter[str], until: float) -> None:
    """Send forms in turn, and count by status what they were answered, and how often two answers came to one."""
    number = 0
    while time.monotonic() < until:
        await asyncio.sleep(every_s)
        answer = await send(port, forms[number % len(forms)])
        told[answer[9:12].decode("latin-1") or "closed"] += 1
        told["answered twice"] += len(STATUS_LINE.findall(answer)) > 1
        number += 1


async def attack(port: int, seconds: float) -> dict[str, Counter[str]]:
    told: dict[str, Counter[str]] = {name: Counter() for name in ("slow", "bombs", "forms")}
    until = time.monotonic() + seconds
    await asyncio.gather(
        drip(port, told["slow"], until),
        repeat(port, [BOMB], BOMB_S, told["bombs"], until),
        repeat(port, list(BAD_HEADS.values()), FORM_S, told["forms"], until),
    )
    return told


@dataclass
class Good:
    """What the good clients saw."""

    took_s: list[float] = field(default_factory=list)
    wrong: Counter[int] = field(default_factory=Counter)


async def good(port: int, key: str, seconds: float) -> Good:
    seen, until = Good(), time.monotonic() + seconds
    headers = [(b"authorization", f"Bearer {key}".encode()), JSON]

    async def one() -> None:
        client = Client(ClientLimits(), SystemClock())
        while time.monotonic() < until:
            began = time.perf_counter()
            async with client.request("POST", f"http://127.0.0.1:{port}/v1/chat/completions", headers, BODY) as answer:
                await answer.read(1 << 20)
            seen.took_s.append(time.perf_counter() - began)
            if answer.status != 200:
                seen.wrong[answer.status] += 1
            await asyncio.sleep(PACE_S)
        await client.close()

    await asyncio.gather(*(one() for _ in range(GOOD)))
    return seen


def measure(port: int, key: str) -> tuple[Good, Good, dict[str, dict[str, int]]]:
    uvloop.run(good(port, key, 3.0))
    alone = uvloop.run(good(port, key, SECONDS))
    argv = [sys.executable, "-m", "benchmarks.gateway_abuse", "attack", str(port), str(SECONDS + 5)]
    attacker = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        # The slow ones need some seconds to be all there.
        time.sleep(3.0)
        beset = uvloop.run(good(port, key, SECONDS))
        told, _ = attacker.communicate(timeout=120)
    finally:
        attacker.kill()
        attacker.wait()
    return alone, beset, json.loads(told)


def main() -> int:
    if sys.argv[1:2] == ["attack"]:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        print(json.dumps(uvloop.run(attack(int(sys.argv[2]), float(sys.argv[3])))))
        return 0
    with scripted() as (upstream, _), front(upstream) as made:
        key = made.key("good")["key"]
        time.sleep(1.5)
        alone, beset, told = measure(made.port, key)
    for name, seen in (("alone", alone), ("beset", beset)):
        p50, p99 = share(seen.took_s, 0.5) * 1e3, share(seen.took_s, 0.99) * 1e3
        print(f"  {name}: {len(seen.took_s)} answers, p50 {p50:.1f} p99 {p99:.1f} ms, not 200: {dict(seen.wrong)}")
    for name, counts in told.items():
        print(f"  {name}: {counts}")
    forms = sum(count for name, count in told["forms"].items() if name != "answered twice")
    missed = forms - told["forms"].get("400", 0) + told["forms"].get("answered twice", 0)
    missed += beset.wrong.total() + alone.wrong.total()
    ratio = share(beset.took_s, 0.99) / share(alone.took_s, 0.99)
    met = record("gateway_abuse good p99", ratio, "x without", "lower", GOAL)
    met = record("gateway_abuse missed", missed, f"of {forms} forms and all good answers", "lower", 0) and met
    print(f"gateway_abuse: p99 of good clients {ratio:.2f}x with {SLOW} slow ones (goal <= {GOAL:g}), {missed} missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
