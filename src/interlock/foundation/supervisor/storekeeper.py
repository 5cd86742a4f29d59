"""Keeps the embedded store alive: starts or adopts it, notices its death at once, starts it again.

Does not know PostgreSQL; what starting and stopping means is the launcher's.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from interlock.foundation.clock import Clock
from interlock.foundation.paths import DataDirectory
from interlock.foundation.supervisor.logs import LogStream

_PROBE_S = 0.1
_RETRY_S = 0.5


class StoreService(Protocol):
    """`foundation.store.Launcher`. `pid` is None for a store that somebody else runs."""

    @property
    def pid(self) -> int | None:
        """The postmaster."""
        ...

    async def start(self) -> Any:
        """Start or adopt; the answer is handed to the supervisor's `prepare`."""
        ...

    async def stop(self) -> None:
        """Checkpoint and stop."""
        ...


class StoreKeeper:
    """The store as the supervisor sees it: up or away, with its pid file."""

    def __init__(
        self, store: StoreService, directory: DataDirectory, clock: Clock, log: LogStream, on_change: Callable[[], None]
    ) -> None:
        self.is_up = False
        self.restarts = 0
        self._store = store
        self._directory = directory
        self._clock = clock
        self._log = log
        self._on_change = on_change

    async def start(self) -> Any:
        """Bring the store up for the first time. Raises `BrokenWorldError`."""
        began_s = self._clock.monotonic()
        urls = await self._store.start()
        self._came_up(began_s)
        return urls

    async def keep(self) -> None:
        """Wait for the postmaster's death, bring it back, and so on until cancelled."""
        while (pid := self._store.pid) is not None:
            await _death_of(pid, self._clock)
            self.is_up = False
            self.restarts += 1
            self._on_change()
            self._log.event("store_died", level="error", pid=pid)
            await self._restart()

    async def stop(self) -> None:
        """Checkpoint and stop a store that is ours; its pid file goes with it."""
        if self._store.pid is not None:
            await self._store.stop()
            self._log.event("store_stopped")
        self.is_up = False
        self._directory.pid_file("store").unlink(missing_ok=True)

    async def _restart(self) -> None:
        while True:
            began_s = self._clock.monotonic()
            try:
                await self._store.start()
            except Exception as error:  # noqa: BLE001 - the outer loop of the store: whatever it is, try again
                self._log.event("store_start_failed", level="error", detail=str(error))
                await self._clock.sleep(_RETRY_S)
            else:
                self._came_up(began_s)
                return

    def _came_up(self, began_s: float) -> None:
        pid = self._store.pid
        if pid is not None:
            self._directory.write_pid("store", 0, pid)
        self.is_up = True
        self._on_change()
        self._log.event("store_up", pid=pid, after_ms=round((self._clock.monotonic() - began_s) * 1e3))


async def _death_of(pid: int, clock: Clock) -> None:
    """Return when the process is gone or a zombie; by event on Linux, by probing elsewhere."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        with suppress(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                await clock.sleep(_PROBE_S)
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
