"""Processes of a platform whose supervisor was killed: found by the locks they hold, ended before a new start.

Does not touch the store, which the next start adopts, nor any process that merely has a number found in a file.
"""

import os
import signal
from contextlib import suppress

from interlock.foundation import paths
from interlock.foundation.clock import Clock
from interlock.foundation.paths import DataDirectory
from interlock.foundation.supervisor.logs import LogStream

_PROBE_S = 0.05


def leftovers(directory: DataDirectory) -> list[int]:
    """Return the pids of roles that still live."""
    found = [
        paths.holder_of(file)
        for file in sorted(directory.run.glob("*-*.pid"))
        if not file.name.startswith(("store-", "supervisor"))
    ]
    return [pid for pid in found if pid is not None]


async def end_leftovers(directory: DataDirectory, clock: Clock, wait_s: float, log: LogStream) -> None:
    """Let them drain for `wait_s`, then kill them."""
    pids = leftovers(directory)
    if not pids:
        return
    log.event("ending_leftovers", pids=pids)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until_s = clock.monotonic() + wait_s
    while leftovers(directory) and clock.monotonic() < until_s:
        await clock.sleep(_PROBE_S)
    for pid in leftovers(directory):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    while leftovers(directory):
        await clock.sleep(_PROBE_S)
