"""`interlock down`: drain the platform of a data directory and wait until everything has ended.

Does not end what it cannot prove to belong to that directory: a number in a file is no proof, a held lock is.
"""

import asyncio
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import click

from interlock.cli.client import DEFAULT_DATA
from interlock.foundation import paths
from interlock.foundation.clock import SystemClock
from interlock.foundation.store import Launcher
from interlock.foundation.store.config import UNHURRIED
from interlock.foundation.supervisor import DataDirectory, LogStream
from interlock.foundation.supervisor.leftovers import end_leftovers

_PROBE_S = 0.05
_LEFTOVER_WAIT_S = 10.0


@click.command("down")
@click.option("--data", default=DEFAULT_DATA, show_default=True, type=click.Path(path_type=Path))
def command(data: Path) -> None:
    """Drain the platform and wait; nothing of it runs after exit 0, however it ended before."""
    directory = DataDirectory(data)
    if not directory.run.is_dir():
        click.echo(f"nothing runs on {directory.root}")
        return
    held = paths.lock(directory.lock_file)
    if held is None:
        held = _drained(directory)
    try:
        asyncio.run(_sweep(directory))
    finally:
        os.close(held)
    click.echo(f"down {directory.root}")


def _drained(directory: DataDirectory) -> int:
    """Ask the supervisor to drain, wait for its lock, and take it."""
    pid = paths.read_pid(directory.pid_file("supervisor"))
    if pid is None:
        raise click.ClickException(f"{directory.lock_file} is held, but no pid is recorded; end that process by hand")
    ended = _end_of(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while (held := paths.lock(directory.lock_file)) is None:
        time.sleep(_PROBE_S)
    if ended is not None:
        # The lock is free a moment before the process is gone.
        select.select([ended], [], [], _LEFTOVER_WAIT_S)
        os.close(ended)
    return held


def _end_of(pid: int) -> int | None:
    """Return what becomes readable when the process has ended, where the system has such a thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _lives(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def _sweep(directory: DataDirectory) -> None:
    """End roles and a store that a killed supervisor left behind."""
    clock = SystemClock()
    await end_leftovers(directory, clock, _LEFTOVER_WAIT_S, LogStream(sys.stderr, None, clock))
    if _lives(paths.read_pid(directory.pid_file("store"))):
        launcher = Launcher(directory.root, clock, config=UNHURRIED)
        await launcher.start()
        await launcher.stop()
    directory.clean_run()
