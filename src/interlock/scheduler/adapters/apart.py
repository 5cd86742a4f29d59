"""`interlock scheduler replay` in a process of its own: no request waits for the seconds of a simulation.

Knows nothing of pools; `service/what_if.py` says what to simulate.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from interlock.foundation.errors import InterlockError

_COMMAND: Final = (sys.executable, "-P", "-m", "interlock", "scheduler", "replay", "-")
# Nothing else of this process's environment is needed, and some of it is secret.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LANG", "VIRTUAL_ENV")


async def replayed(trace: str, options: Sequence[str], within_s: float) -> dict[str, Any]:
    """Return what `scheduler replay --json` prints for a trace. Raises `deadline_exceeded`, `internal_error`."""
    process = await asyncio.create_subprocess_exec(
        *_COMMAND,
        *options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    )
    try:
        async with asyncio.timeout(within_s):
            told, errors = await process.communicate(trace.encode())
    except TimeoutError as error:
        raise InterlockError("deadline_exceeded", f"The simulation did not end within {within_s:g} s.") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise InterlockError("internal_error", errors.decode(errors="replace")[-500:])
    found: dict[str, Any] = msgspec.json.decode(told)
    return found
