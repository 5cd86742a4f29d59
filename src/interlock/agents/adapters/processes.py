"""Runs programs of the host, such as git, as the uid of a slot, and never longer than they may.

Nothing that an agent wrote is run here; that is the sandbox's.
"""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from interlock.agents.domain.types import Slot


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program of the host ended."""

    exit_code: int
    output: bytes
    complaint: bytes


async def run_as(
    slot: Slot,
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    content: bytes = b"",
    folder: PurePath = Path("/"),
    timeout_s: float = 60.0,
) -> Ended:
    """Run to the end. Cancelling kills the program before this returns. Raises `TimeoutError` past the limit."""
    held: list[subprocess.Popen[bytes]] = []
    # A thread starts it and reads both pipes; the loop goes on meanwhile.
    talking = asyncio.ensure_future(
        asyncio.to_thread(_talk, held, slot, list(argv), {"cwd": folder, "env": dict(environment)}, content)
    )
    try:
        return await asyncio.wait_for(asyncio.shield(talking), timeout_s)
    except BaseException:
        for process in held:
            process.kill()
        with suppress(BaseException):
            await asyncio.shield(talking)
        raise


def _talk(
    held: list[subprocess.Popen[bytes]], slot: Slot, argv: list[str], options: dict[str, Any], content: bytes
) -> Ended:
    if slot.uid != os.geteuid():
        options |= {"user": slot.uid, "group": slot.gid, "extra_groups": []}
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, **options)  # noqa: S603 - programs of ours
    held.append(process)
    output, complaint = process.communicate(content)
    return Ended(process.returncode, output, complaint)
