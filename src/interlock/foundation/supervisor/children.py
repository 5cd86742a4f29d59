"""How a role comes to life: as a command of its own, or as a fork of the warm process; either way a `Child`.

Knows neither the link nor restarts; those are `process.py` and `keeper.py`.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from interlock.foundation.supervisor.link import LINK_FD, LISTEN_FD

# A process that forked a child and lives tells its end; this is for one that stands still.
_TOLD_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """One process to keep alive. `wants_listener` passes the TCP socket; `env` is added to the supervisor's own."""

    name: str
    index: int
    argv: tuple[str, ...]
    ready_timeout_s: float = 30.0
    drain_s: float = 10.0
    wants_listener: bool = False
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """How this process is called in logs, files and findings."""
        return f"{self.name}-{self.index}"


class Child(Protocol):
    """A process that was started. `output` is its stdout and stderr; `returncode` None while it lives."""

    @property
    def pid(self) -> int:
        """Its number, and that of its process group."""

    @property
    def returncode(self) -> int | None:
        """The exit status; negative for a signal, None while it lives or where nobody saw its end."""

    @property
    def output(self) -> asyncio.StreamReader:
        """What it prints."""

    async def wait(self) -> None:
        """Return once it is dead."""


class Spawner(Protocol):
    """Starts children."""

    async def spawn(self, spec: RoleSpec, env: Mapping[str, str], link: socket.socket, listener: int | None) -> Child:
        """Start the role with its end of the link. Raises `OSError` when it cannot be started."""


class Commands:
    """Starts each role by its own command line."""

    async def spawn(self, spec: RoleSpec, env: Mapping[str, str], link: socket.socket, listener: int | None) -> Child:
        """Start the command of the role."""
        process = await asyncio.create_subprocess_exec(
            *spec.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=[link.fileno()] if listener is None else [link.fileno(), listener],
            env={**os.environ, **env, **named_descriptors(link.fileno(), listener)},
            start_new_session=True,
        )
        return _Commanded(process)


class _Commanded:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            raise RuntimeError("a role's output is always a pipe")
        self.pid = process.pid
        self.output = process.stdout
        self._process = process

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> None:
        await self._process.wait()


class Forked:
    """A child that another process forked and reaps: seen through its pidfd, its status told by that process."""

    def __init__(self, pid: int, pidfd: int, output: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self.pid = pid
        self.output = output
        self.returncode: int | None = None
        self._told = asyncio.Event()
        self._dead = asyncio.Event()
        self._pidfd = pidfd
        self._transport = transport
        asyncio.get_running_loop().add_reader(pidfd, self._died)

    @classmethod
    async def of(cls, pid: int, pidfd: int, read_end: int) -> Self:
        """Return the child, and listen to the pipe that it prints to."""
        output = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(read_end, "rb", buffering=0)
        )
        return cls(pid, pidfd, output, transport)

    def ended(self, returncode: int | None) -> None:
        """Take the status from the process that reaped it; None where that process is gone and nobody saw it."""
        self.returncode = returncode
        self._told.set()

    async def wait(self) -> None:
        """Return once it is dead; its status follows at once unless the process that forked it died too."""
        await self._dead.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_TOLD_S):
                await self._told.wait()

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._dead.set()


def named_descriptors(link: int, listener: int | None) -> dict[str, str]:
    """Return how a child learns which descriptors are its link and its listening socket."""
    named = {LINK_FD: str(link)}
    if listener is not None:
        named[LISTEN_FD] = str(listener)
    return named


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal a child and whatever it started; one that is gone is no error."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that were passed on."""
    for descriptor in descriptors:
        os.close(descriptor)
