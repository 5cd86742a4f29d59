import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from interlock.foundation.clock import SystemClock
from interlock.foundation.supervisor import (
    DataDirectory,
    LogStream,
    Platform,
    RoleSpec,
    Supervisor,
    SupervisorConfig,
)

ROLE = Path(__file__).with_name("role.py")
QUICK = SupervisorConfig(
    ready_timeout_s=240.0, heartbeat_timeout_s=240.0, backoff_first_s=0.02, backoff_max_s=0.1, deaths_max=4,
    deaths_window_s=3_600.0, healthy_after_s=3_600.0, failed_retry_s=0.3, state_push_s=0.1, leftover_wait_s=1.0,
)  # fmt: skip


class SleepingStore:
    """A store that can be killed, started and adopted, but holds nothing: the real Protocol over a real process."""

    def __init__(self, directory: DataDirectory) -> None:
        self._file = directory.root / "store.pid"
        self.pid: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    async def start(self) -> str:
        self.starts += 1
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
            await asyncio.sleep(0.3)
        elif self._file.exists() and _lives(int(self._file.read_text())):
            self.pid = int(self._file.read_text())
            return "urls"
        argv = [sys.executable, "-c", "import time; time.sleep(3600)"]
        self._process = await asyncio.to_thread(
            subprocess.Popen, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.pid = self._process.pid
        self._file.write_text(str(self.pid))
        return "urls"

    async def stop(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        await asyncio.to_thread(_await_death, self.pid)
        self.pid = None
        self._file.unlink()


def _await_death(pid: int) -> None:
    while _lives(pid):
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def role(name: str, way: str = "plain", argument: str = "", index: int = 0, **fields) -> RoleSpec:
    argv = (sys.executable, str(ROLE), way, argument)
    return RoleSpec(name, index, argv, env={"ROLE": name}, **{"ready_timeout_s": 240.0, "drain_s": 120.0, **fields})


@dataclass
class House:
    """A supervisor with what a test wants to look at."""

    directory: DataDirectory
    store: SleepingStore
    supervisor: Supervisor
    output: io.StringIO
    running: asyncio.Task[int] | None = None
    urls: list[str | None] = field(default_factory=list)

    def pid(self, name: str, index: int = 0) -> int:
        return int(self.directory.pid_file(name, index).read_text())

    async def until(self, fact: Callable[[], object], within_s: float = 240.0):
        async with asyncio.timeout(within_s):
            while not fact():
                if self.running is not None and self.running.done():
                    self.running.result()
                await asyncio.sleep(0.01)

    async def start(self) -> None:
        async def note(url: str | None) -> None:
            self.urls.append(url)

        self.supervisor.on_ready = note
        self.running = asyncio.create_task(self.supervisor.run())
        await self.until(lambda: self.urls)

    async def stop(self) -> int:
        self.supervisor.stop()
        return await self.running


@pytest.fixture
async def house(tmp_path):
    houses: list[House] = []

    def build(*specs: RoleSpec, port: int | None = None, handover=None, config=QUICK) -> House:
        directory = DataDirectory(tmp_path / "a house")

        async def prepare(urls):
            assert urls == "urls"
            return handover or {}

        output = io.StringIO()
        directory.prepare()
        store = SleepingStore(directory)
        clock = SystemClock()
        log = LogStream(output, None, clock)
        platform = Platform(specs, store, prepare, port=port)
        houses.append(House(directory, store, Supervisor(platform, directory, config, clock, log), output))
        return houses[-1]

    yield build
    for each in houses:
        if each.running is not None and not each.running.done():
            each.supervisor.stop()
            each.supervisor.stop()
            await each.running
