"""Slots of a machine: each has a uid that only one worker uses at a time, held by a file lock.

Knows no tasks. A worker that is not root has one uid for all slots, its own; the namespaces keep those apart.
"""

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from interlock.agents.domain.types import Slot
from interlock.foundation.errors import BrokenWorldError

FIRST_UID: Final = 64_000
SLOTS_MAX: Final = 1_000
_LOCKS: Final = Path("/var/tmp/interlock-slots")  # noqa: S108 - made and checked below; has to outlive no reboot


class MachineSlots:
    """Gives out slots; a lock is let go by the kernel when the worker dies, however it dies."""

    def __init__(self, count: int, folder: Path = _LOCKS) -> None:
        self._count = count
        self._folder = folder
        self._held: dict[int, int] = {}
        self._is_root = os.geteuid() == 0
        if self._is_root:
            _private(folder)

    def take(self) -> Slot | None:
        """Take the lowest free slot of the machine; None where this worker holds as many as it may."""
        if len(self._held) >= self._count:
            return None
        for number in range(SLOTS_MAX):
            if number in self._held:
                continue
            if not self._is_root:
                self._held[number] = -1
                return Slot(number, os.geteuid(), os.getegid())
            lock = self._lock(number)
            if lock is not None:
                self._held[number] = lock
                return Slot(number, FIRST_UID + number, FIRST_UID + number)
        return None

    def give_back(self, slot: Slot) -> None:
        """Let the next one have it; a no-op for a slot that is not held."""
        lock = self._held.pop(slot.number, -1)
        if lock >= 0:
            os.close(lock)

    def statistics(self) -> dict[str, int]:
        """Return the bound and what is in use."""
        return {"slots_max": self._count, "slots_held": len(self._held)}

    def _lock(self, number: int) -> int | None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self._folder / str(FIRST_UID + number), flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return handle


def _private(folder: Path) -> None:
    """Make the folder of locks; anybody may have been there before, as `/var/tmp` is everybody's."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise BrokenWorldError("unsafe_state_folder", f"{folder} is not our folder", "remove it")
