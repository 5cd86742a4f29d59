"""Processes as the kernel tells of them in `/proc`: who they are, in which namespace, and that none is left.

Starts nothing. A zombie runs nothing, so it never counts; an orphan's waits for the machine's own init.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interlock.agents.domain.types import KillProof, ProcessRecord
from interlock.foundation.clock import Clock

_PROC: Final = Path("/proc")
_DEAD: Final = frozenset("ZXx")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# Fields of `/proc/PID/stat` behind the command, counted from 0: see proc_pid_stat(5).
_STATE, _START = 0, 19
_POLL_S: Final = 0.002
_EMPTY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What tells this machine, this boot and this view of process ids from every other."""

    host_id: str
    boot_id: str


def this_machine() -> Machine:
    """Name the machine; process ids of two containers on one machine are not the same ids, so their names differ."""
    name = ""
    with suppress(OSError):
        name = Path("/etc/machine-id").read_text().strip()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Machine(f"{name or os.uname().nodename}:{namespace_of(os.getpid())}", boot)


def start_of(pid: int) -> int | None:
    """Return when a living process began, in clock ticks since boot; None for a dead one."""
    fields = _stat(pid)
    return None if fields is None or fields[_STATE] in _DEAD else int(fields[_START])


def namespace_of(pid: int) -> int | None:
    """Return the inode of a process's pid namespace; None where it is gone or not ours to see."""
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except OSError:
        return None


def members(pidns_inode: int) -> list[int]:
    """Return the living processes of a namespace, by looking at every process there is."""
    return [pid for pid in _pids() if namespace_of(pid) == pidns_inode and start_of(pid) is not None]


def descendants(pid: int) -> list[int]:
    """Return a process and all below it; for the first one of a namespace that is the whole namespace."""
    found = [pid]
    for each in found:
        try:
            listed = Path(f"/proc/{each}/task/{each}/children").read_text()
        except OSError:
            continue
        found += [int(child) for child in listed.split()]
    return found


def resident_bytes(pids: list[int]) -> int:
    """Return the memory that these processes hold together; shared pages count for each."""
    total = 0
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return total * _PAGE_BYTES


class Killer:
    """Ends namespaces and proves it."""

    def __init__(self, clock: Clock, machine: Machine) -> None:
        self._clock = clock
        self._machine = machine

    async def kill(self, record: ProcessRecord) -> KillProof:
        """Kill every process of a namespace, the first one first, and wait until none is left.

        Raises `NamespaceAliveError` where some process outlives ten seconds, as one in an uninterruptible wait can.
        """
        began = self._clock.monotonic()
        if (record.host_id, record.boot_id) != (self._machine.host_id, self._machine.boot_id):
            return KillProof("not_running", record.pidns_inode)
        struck = self._struck(record)
        if not struck:
            return KillProof("not_running", record.pidns_inode)
        while left := members(record.pidns_inode):
            if self._clock.monotonic() - began > _EMPTY_S:
                raise NamespaceAliveError(record, left)
            # The first one's end takes all others along, but beside a fork bomb it waits for its turn like any other.
            for pid in left:
                _signal(pid, record.pidns_inode)
            # Whoever was born or moved to another parent while the first were counted.
            struck.update(left)
            await self._clock.sleep(_POLL_S)
        took_ms = (self._clock.monotonic() - began) * 1000
        return KillProof("namespace_empty", record.pidns_inode, len(struck), round(took_ms, 3))

    def _struck(self, record: ProcessRecord) -> set[int]:
        """Kill all below the first process, where it is still the one that was recorded, and return who they were.

        Looked up below the first, as looking at every process of the machine takes long beside a fork bomb. The
        kernel's list of children may miss some; they end with the first one, uncounted.
        """
        if start_of(record.pid) != record.pid_start or namespace_of(record.pid) != record.pidns_inode:
            return set(members(record.pidns_inode))
        alive = descendants(record.pid)
        for pid in alive:
            _signal(pid, record.pidns_inode)
        return set(alive)


class NamespaceAliveError(RuntimeError):
    """A namespace that was killed is not empty. The task must not be called canceled; an operator has to look."""

    def __init__(self, record: ProcessRecord, left: list[int]) -> None:
        super().__init__(f"pid namespace {record.pidns_inode} still has processes {left[:8]}")
        self.record = record
        self.left = left


def _signal(pid: int, pidns_inode: int) -> None:
    """Kill by a descriptor that was opened before the last look, so that a reused id is never hit."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if namespace_of(pid) == pidns_inode:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)


def _pids() -> Iterator[int]:
    with os.scandir(_PROC) as entries:
        yield from (int(entry.name) for entry in entries if entry.name.isdecimal())


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode("ascii", "replace")
    except OSError:
        return None
    # The command may hold blanks and brackets of its own.
    return text[text.rindex(")") + 2 :].split()
