"""A role as small as possible, run as a real child: `role.py WAY [ARGUMENT]`."""

import asyncio
import os
import sys
import time
from pathlib import Path

import uvloop

from interlock.foundation.supervisor import RoleLink, listening_socket
from interlock.foundation.telemetry import Metrics


async def answer(link: RoleLink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    line = await reader.readline()
    body = b"%d" % os.getpid()
    if b"/metrics" in line:
        body = (await link.metrics()).encode()
    status = b"200 OK" if link.state.ready else b"503 Service Unavailable"
    writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
    writer.close()


def note(path: str, content: bytes) -> None:
    with Path(path).open("ab") as file:
        file.write(content)


def snapshot(way: str):
    metrics = Metrics()
    metrics.counter("interlock_tests_beats_total", "Heartbeats.", ["way"]).labels(way).inc()
    taken = metrics.counter("interlock_tests_snapshots_total", "Snapshots.")

    def take():
        taken.inc()
        return metrics.snapshot()

    return take


async def ask(link: RoleLink, process: str) -> None:
    """Ask once the platform is ready: before that nothing is restarted."""
    while not link.state.ready:
        await asyncio.sleep(0.01)
    link.restart(process)


def stop_the_loop() -> None:
    time.sleep(3600)


async def serve(way: str, argument: str) -> int:
    async with RoleLink.from_environment() as link:
        link.watch(snapshot(way), lambda: ("weather",) if way == "degraded" else ())
        handover = await link.handover()
        if way == "secretive":
            note(argument, handover["master_key"])
        listener = listening_socket()
        server = None
        if listener is not None:
            server = await asyncio.start_server(lambda r, w: answer(link, r, w), sock=listener)
        if way == "mute":
            await asyncio.Event().wait()
        link.ready()
        print(f"{way} is ready", flush=True)
        if way == "restarts":
            asyncio.get_running_loop().create_task(ask(link, argument))
        if way == "hang":
            await asyncio.to_thread(time.sleep, 0.3)
            stop_the_loop()
        await link.closed.wait()
        if server is not None:
            server.close()
        if way == "stubborn":
            await asyncio.Event().wait()
        if way == "noted":
            note(argument, f"{os.environ['ROLE']}\n".encode())
        await asyncio.to_thread(time.sleep, 0.05)
    return 0


def main() -> int:
    way, argument = sys.argv[1], (sys.argv[2:] or [""])[0]
    if way == "crash":
        return 3
    if way == "crash_twice":
        tries = Path(argument)
        count = len(tries.read_text()) if tries.exists() else 0
        tries.write_text("x" * (count + 1))
        if count < 2:
            return 3
    return uvloop.run(serve(way, argument))


sys.exit(main())
