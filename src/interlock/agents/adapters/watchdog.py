"""Looks after what no rlimit bounds for a whole namespace: memory of all processes together, and the disk.

Kills nobody; it says what was exceeded, and the run that it watches ends.
"""

import asyncio
import os
import stat
from pathlib import Path
from typing import Final

from interlock.agents.adapters.namespaces import descendants, resident_bytes
from interlock.agents.domain.types import LimitSet
from interlock.foundation.clock import Clock

_LOOK_S: Final = 0.2
# Other tasks and the store live on the same disk.
DISK_FREE_BYTES_MIN: Final = 256 << 20


class Watchdog:
    """Watches one namespace, whose first process is `pid`, and the folders that it may write."""

    def __init__(self, pid: int, folders: list[Path], limits: LimitSet, clock: Clock) -> None:
        self._pid = pid
        self._folders = folders
        self._limits = limits
        self._clock = clock
        self._free_bytes = [_free_bytes(folder) for folder in folders]
        # A disk that was nearly full before is not the task's doing.
        self._free_bytes_min = [min(DISK_FREE_BYTES_MIN, free // 10) for free in self._free_bytes]

    async def run(self) -> str:
        """Return the code of what was exceeded, and not before."""
        while True:
            await self._clock.sleep(_LOOK_S)
            # What the kernel tells is read in microseconds; a tree can hold 50,000 files.
            if resident_bytes(descendants(self._pid)) > self._limits.memory_bytes:
                return "memory_exceeded"
            for number, folder in enumerate(self._folders):
                free = _free_bytes(folder)
                if free < self._free_bytes_min[number]:
                    return "disk_full"
                if self._free_bytes[number] - free < self._limits.tree_bytes // 2:
                    continue
                self._free_bytes[number] = free
                if await asyncio.to_thread(tree_bytes, folder, self._limits.tree_bytes) > self._limits.tree_bytes:
                    return "tree_too_large"


def tree_bytes(folder: Path, enough: int) -> int:
    """Return what the files below a folder take on the disk; counting ends once it is more than `enough`."""
    total = 0
    waiting = [str(folder)]
    while waiting and total <= enough:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(found.st_mode):
                waiting.append(entry.path)
            total += found.st_blocks * 512
    return total


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
