"""One child process of the supervisor: its pipe, its output, and how it ends.

Does not restart anything; that is `keeper.py`.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import msgspec

from interlock.foundation.clock import Clock
from interlock.foundation.paths import DataDirectory
from interlock.foundation.supervisor.children import Child, Commands, RoleSpec, Spawner, signal_group
from interlock.foundation.supervisor.link import PID_FILE
from interlock.foundation.supervisor.logs import LogStream
from interlock.foundation.supervisor.messages import (
    Drain,
    Handover,
    Heartbeat,
    MetricsText,
    MetricsWanted,
    PlatformState,
    Ready,
    RestartWanted,
    SnapshotWanted,
    StateChanged,
    ToRole,
    encode,
    from_role_decoder,
    read_frame,
)

_OUTPUT_CHUNK_BYTES = 16 << 10
# A role that answers later than this, because it is busy or hangs, is read as it was last heard.
_SNAPSHOT_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every child gets from its supervisor. `metrics` merges the snapshots of all processes.

    `restart` is told who asks for which process to be started anew.
    """

    directory: DataDirectory
    clock: Clock
    log: LogStream
    metrics: Callable[[], Awaitable[str]]
    listener_fd: Callable[[], int | None]
    line_bytes_max: int
    restart: Callable[[RoleSpec, str], None]
    spawner: Spawner = field(default_factory=Commands)


class RoleProcess:
    """A running child. `exited` is set once it is dead and its output is read."""

    def __init__(self, spec: RoleSpec, around: Surroundings, process: Child) -> None:
        self.spec = spec
        self.pid = process.pid
        self.ready = asyncio.Event()
        self.exited = asyncio.Event()
        self.heard_s = around.clock.monotonic()
        self._snapshot = b""
        self._is_fresh = asyncio.Event()
        self._told: PlatformState | None = None
        self.degraded: tuple[str, ...] = ()
        self.ended_because: str | None = None
        self._around = around
        self._process = process
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._answering: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(cls, spec: RoleSpec, around: Surroundings) -> Self:
        """Start the role with its end of the pipe. Raises `OSError` when it cannot be started."""
        ours, theirs = socket.socketpair()
        env = {**spec.env, PID_FILE: str(around.directory.pid_file(spec.name, spec.index))}
        listener = around.listener_fd() if spec.wants_listener else None
        try:
            process = await around.spawner.spawn(spec, env, theirs, listener)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        child = cls(spec, around, process)
        around.directory.write_pid(spec.name, spec.index, process.pid)
        reader, child._writer = await asyncio.open_unix_connection(sock=ours)
        loop = asyncio.get_running_loop()
        child._tasks = [loop.create_task(child._listen(reader)), loop.create_task(child._attend())]
        return child

    @property
    def returncode(self) -> int | None:
        """The exit status; negative for a signal."""
        return self._process.returncode

    def hand_over(self, items: Mapping[str, bytes]) -> None:
        """Give the process its private values, and with them the word to begin."""
        self._send(Handover(dict(items)))

    async def snapshot(self) -> bytes:
        """Return the role's metrics as they are now, or as they last were if it does not say in time."""
        self._is_fresh.clear()
        self._send(SnapshotWanted())
        with suppress(TimeoutError):
            async with asyncio.timeout(_SNAPSHOT_WAIT_S):
                await self._is_fresh.wait()
        return self._snapshot

    def push(self, state: PlatformState) -> None:
        """Tell the role how the platform is, where that is news."""
        if state != self._told:
            self._told = state
            self._send(StateChanged(state))

    def drain(self) -> None:
        """Ask the role to finish and end."""
        self._send(Drain())

    def kill(self) -> None:
        """End the process and whatever it started, at once."""
        signal_group(self.pid, signal.SIGKILL)

    async def dump_and_kill(self, because: str, wait_s: float) -> None:
        """Let a hung process write its stacks, then end it."""
        self.ended_because = because
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)
        await self._around.clock.sleep(wait_s)
        self.kill()

    def _send(self, message: ToRole) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(message))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (frame := await read_frame(reader)) is not None:
            try:
                message = from_role_decoder.decode(frame)
            except msgspec.DecodeError as error:
                self._around.log.event("link_message_refused", level="warning", role=self.spec.tag, detail=str(error))
                continue
            self.heard_s = self._around.clock.monotonic()
            match message:
                case Ready():
                    self.ready.set()
                case Heartbeat(metrics=metrics, degraded=degraded):
                    self.degraded = degraded
                    if metrics:
                        self._snapshot = metrics
                        self._is_fresh.set()
                case MetricsWanted(number=number):
                    # Not here: this loop has to hear the role's own snapshot meanwhile.
                    self._answering = asyncio.create_task(self._tell_metrics(number))
                case RestartWanted(process=process):
                    self._around.restart(self.spec, process)

    async def _tell_metrics(self, number: int) -> None:
        self._send(MetricsText(number, await self._around.metrics()))

    async def _attend(self) -> None:
        """Pass the output on until the process is dead; a grandchild that holds the pipe does not delay that."""
        output = asyncio.get_running_loop().create_task(self._read_output())
        await self._process.wait()
        self.kill()
        await asyncio.wait({output}, timeout=1.0)
        output.cancel()
        if self._writer is not None:
            self._writer.close()
        self._tasks[0].cancel()
        self.exited.set()

    async def _read_output(self) -> None:
        pending = b""
        while chunk := await self._process.output.read(_OUTPUT_CHUNK_BYTES):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self._around.log.line(self.spec.tag, line[: self._around.line_bytes_max])
            pending = pending[: self._around.line_bytes_max]
        self._around.log.line(self.spec.tag, pending)
