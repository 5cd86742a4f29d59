"""What `interlock doctor` looks at on a machine: the data directory, the disk, the port, the clock, the running roles.

Repairs nothing, starts nothing, and leaves no file behind.
"""

import errno
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from interlock.foundation import paths
from interlock.foundation.clock import Clock
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.native import KERNELS, PURE, left_aside
from interlock.foundation.paths import DataDirectory

DISK_FREE_BYTES_MIN: Final = 256 << 20
DISK_FREE_SHARE_LOW: Final = 0.1
CLOCK_AHEAD_S_MAX: Final = 300
_PROBE_BYTES: Final = 64 << 10
# No build of the platform is older; a clock before it cannot be right (2026-01-01T00:00:00Z).
_EARLIEST_US: Final = 1_767_225_600_000_000


class Verdict(StrEnum):
    """`warn` is worth knowing, `fail` stops or endangers the platform."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome; the remedy is empty where there is nothing to do."""

    verdict: Verdict
    name: str
    finding: str
    remedy: str = ""

    def line(self) -> str:
        """Return `ok|warn|fail NAME: finding; remedy`."""
        return f"{self.verdict} {self.name}: {self.finding}" + (f"; {self.remedy}" if self.remedy else "")


def machine_findings(directory: DataDirectory, host: str, port: int, clock: Clock) -> Iterator[Finding]:
    """Yield what can be seen without the store."""
    yield check_directory(directory)
    yield from check_modes(directory)
    yield check_disk(directory)
    yield check_sockets(directory)
    yield check_port(directory, host, port)
    yield check_clock(directory, clock)
    yield check_kernels()


def check_directory(directory: DataDirectory) -> Finding:
    """Look at owner and links of the data directory."""
    if not directory.root.exists() and not directory.root.is_symlink():
        parent = _nearest(directory.root)
        if os.access(parent, os.W_OK | os.X_OK):
            return Finding(Verdict.OK, "data_directory", f"{directory.root} is not there yet and can be made")
        return Finding(
            Verdict.FAIL,
            "data_directory",
            f"{directory.root} cannot be made below {parent}",
            "choose a --data that this user may write to",
        )
    try:
        directory.check()
    except BrokenWorldError as error:
        return Finding(Verdict.FAIL, "data_directory", error.finding, error.remedy)
    except OSError as error:
        return Finding(Verdict.FAIL, "data_directory", f"{directory.root}: {error.strerror}", "choose another --data")
    return Finding(Verdict.OK, "data_directory", f"{directory.root} belongs to this user")


def check_modes(directory: DataDirectory) -> Iterator[Finding]:
    """Look for keys and folders that others can read."""
    if not directory.root.is_dir():
        return
    loose = [
        path
        for path in (directory.owner_key, directory.master_key, directory.pepper, directory.audit_key)
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    loose += [
        path for path in (directory.run, directory.logs) if path.is_dir() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    top = stat.S_IMODE(directory.root.stat().st_mode)
    loose += [directory.root] if top & 0o022 else []
    if loose:
        names = " ".join(str(path) for path in loose)
        yield Finding(Verdict.FAIL, "file_modes", f"others may use {names}", f"chmod go-rw {names}")
    elif top & 0o044:
        # A folder that was there before keeps its mode; what lies in it is private all the same.
        finding = f"others may list {directory.root}"
        yield Finding(Verdict.WARN, "file_modes", finding, f"chmod go-r {directory.root}")
    else:
        yield Finding(Verdict.OK, "file_modes", "keys and folders are private")
    if directory.master_key.is_file():
        yield Finding(
            Verdict.WARN,
            "master_key",
            "the key that opens secrets lies beside them",
            "outside a demo set INTERLOCK_SECRETS__MASTER_KEY_FILE to a file elsewhere",
        )


def check_disk(directory: DataDirectory) -> Finding:
    """Look at the free space, and write a little where a directory is there."""
    place = _nearest(directory.root)
    usage = shutil.disk_usage(place)
    left = f"{usage.free / (1 << 20):.0f} MiB of {usage.total / (1 << 30):.1f} GiB free on {place}"
    remedy = "free space there or move the data directory to a larger disk"
    if directory.root.is_dir():
        try:
            with tempfile.TemporaryFile(dir=directory.root) as probe:
                probe.write(b"\0" * _PROBE_BYTES)
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            return Finding(Verdict.FAIL, "disk", f"cannot write to {directory.root}: {error.strerror}, {left}", remedy)
    if usage.free < DISK_FREE_BYTES_MIN:
        return Finding(Verdict.FAIL, "disk", left, remedy)
    if usage.free < DISK_FREE_SHARE_LOW * usage.total:
        return Finding(Verdict.WARN, "disk", left, remedy)
    return Finding(Verdict.OK, "disk", left)


def check_sockets(directory: DataDirectory) -> Finding:
    """Say where the roles meet."""
    return Finding(Verdict.OK, "sockets", f"in {directory.socket('scheduler').parent}")


def check_port(directory: DataDirectory, host: str, port: int) -> Finding:
    """Try to take the port, unless the platform of this directory holds it."""
    pid = paths.holder_of(directory.pid_file("supervisor")) or _supervisor_of(directory)
    if pid is not None:
        return Finding(Verdict.OK, "port", f"the platform runs with pid {pid}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(found[0], socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            finding = f"{port} on {host} is taken by another program"
            return Finding(Verdict.FAIL, "port", finding, f"stop that program or start with another --port than {port}")
        return Finding(Verdict.FAIL, "port", f"{port} on {host}: {error}", "choose another --host or --port")
    return Finding(Verdict.OK, "port", f"{port} on {host} is free")


def check_clock(directory: DataDirectory, clock: Clock) -> Finding:
    """Compare the clock with what is certain: the age of this release, and files already written."""
    now_us = clock.now_us()
    remedy = "set the clock, and let a time service keep it"
    if now_us < _EARLIEST_US:
        return Finding(Verdict.FAIL, "clock", "the clock is before the release of this platform", remedy)
    newest = max((path.stat().st_mtime for path in _written(directory)), default=0.0)
    ahead_s = newest - now_us / 1e6
    if ahead_s > CLOCK_AHEAD_S_MAX:
        return Finding(Verdict.WARN, "clock", f"files were written {ahead_s:.0f} s in the future", remedy)
    return Finding(Verdict.OK, "clock", "plausible")


def check_kernels() -> Finding:
    """Look whether the hottest code runs in its compiled form."""
    missing = left_aside(os.environ)
    if not missing:
        return Finding(Verdict.OK, "kernels", f"{len(KERNELS)} of {len(KERNELS)} compiled")
    why = f"{len(missing)} of {len(KERNELS)} are left aside: the edge does the same at more CPU a request"
    if os.environ.get(PURE):
        return Finding(Verdict.WARN, "kernels", why, f"unset {PURE}")
    return Finding(Verdict.WARN, "kernels", why, "install a C compiler and the headers of Python, then install anew")


def _written(directory: DataDirectory) -> list[Path]:
    return [path for path in (directory.logs / "interlock.log", directory.checkpoints) if path.is_file()]


def _supervisor_of(directory: DataDirectory) -> int | None:
    if not directory.lock_file.is_file():
        return None
    held = paths.lock(directory.lock_file)
    if held is None:
        return paths.read_pid(directory.pid_file("supervisor"))
    os.close(held)
    return None


def _nearest(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.is_dir())
