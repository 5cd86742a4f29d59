"""A supervisor in a process of its own, to be killed: `boss.py DIR WAY...` runs one worker for each WAY."""

import asyncio
import sys

from interlock.foundation.clock import SystemClock
from interlock.foundation.supervisor import DataDirectory, LogStream, Platform, Supervisor
from tests.foundation.supervisor.conftest import QUICK, SleepingStore, role


async def main() -> int:
    directory = DataDirectory(sys.argv[1])
    directory.prepare()
    specs = [role("worker", way, index=index) for index, way in enumerate(sys.argv[2:])]

    async def prepare(urls):
        return {}

    async def tell(url):
        print("ready", flush=True)

    clock = SystemClock()
    platform = Platform(specs, SleepingStore(directory), prepare)
    supervisor = Supervisor(platform, directory, QUICK, clock, LogStream(sys.stderr, None, clock))
    supervisor.on_ready = tell
    return await supervisor.run()


sys.exit(asyncio.run(main()))
