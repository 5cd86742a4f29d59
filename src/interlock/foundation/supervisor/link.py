"""The child's end of the pipe to the supervisor: ready, heartbeat, platform state, metrics, and the wish to drain.

Does not drain anything: a role waits for `closed` and ends in its own order.
"""

import asyncio
import ctypes
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from interlock.foundation import paths
from interlock.foundation.clock import Clock, SystemClock, until_tick
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
    encode,
    read_frame,
    to_role_decoder,
)

LINK_FD: Final = "INTERLOCK_LINK_FD"
LISTEN_FD: Final = "INTERLOCK_LISTEN_FD"
PID_FILE: Final = "INTERLOCK_PID_FILE"
IS_FORKED: Final = "INTERLOCK_IS_FORKED"
HEARTBEAT_S: Final = 1.0
METRICS_WAIT_S: Final = 60.0
# Metrics are asked for when somebody reads them; pushed unasked they are what is left of a role that hangs or dies.
BEATS_PER_SNAPSHOT: Final = 10
# A loop that does not turn for so long, with no supervisor left to notice, ends its own process. A machine that only
# stood still for a while must not lose all its roles at once when it goes on.
STUCK_ALONE_S: Final = 120.0
# The longest drain of any role and a little more; then a process without a supervisor just ends.
ORPHAN_DRAIN_S: Final = 35.0
_PR_SET_PDEATHSIG: Final = 1


class RoleLink:
    """A role's view of its supervisor; without one (`interlock serve ROLE` by hand) it stands alone and is ready.

    `closed` is set when the role has to end: a drain was ordered, SIGTERM came, or the supervisor is gone.
    """

    def __init__(self, connection: socket.socket | None, clock: Clock) -> None:
        self.closed = asyncio.Event()
        self.state = PlatformState(ready=connection is None)
        self._connection = connection
        self._clock = clock
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._handover: asyncio.Future[Mapping[str, bytes]] | None = None
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._asked = 0
        self._guarded_s = float("-inf")
        self._snapshot: Callable[[], bytes] = bytes
        self._degraded: Callable[[], Sequence[str]] = tuple
        self._merge: Callable[[list[bytes]], str] | None = None

    @classmethod
    def from_environment(cls, clock: Clock | None = None) -> Self:
        """Return the link named by the environment, and tie this process's life to its parent's."""
        number = os.environ.pop(LINK_FD, None)
        faulthandler.enable()
        if number is None:
            return cls(None, clock or SystemClock())
        connection = socket.socket(fileno=int(number))
        connection.set_inheritable(False)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if os.environ.pop(IS_FORKED, None) is None:
            # The parent of a fork is not its supervisor; there the closed pipe alone tells.
            _end_with_parent()
        _hold_pid_file()
        return cls(connection, clock or SystemClock())

    @property
    def is_supervised(self) -> bool:
        """Whether there is a supervisor at the other end."""
        return self._connection is not None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._handover = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, self.closed.set)
        if self._connection is None:
            loop.add_signal_handler(signal.SIGINT, self.closed.set)
            self._handover.set_result({})
            return self
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
        self._tasks = [loop.create_task(self._listen(reader)), loop.create_task(self._beat())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        faulthandler.cancel_dump_traceback_later()
        if self._writer is not None:
            self._writer.close()

    def watch(
        self,
        snapshot: Callable[[], bytes],
        degraded: Callable[[], Sequence[str]] = tuple,
        merge: Callable[[list[bytes]], str] | None = None,
    ) -> None:
        """Say where the metrics and the findings of each heartbeat come from; `merge` renders a lone role's metrics."""
        self._snapshot, self._degraded, self._merge = snapshot, degraded, merge

    async def handover(self) -> Mapping[str, bytes]:
        """Return the private values that the supervisor gave to this role, once it is this role's turn to begin.

        Roles load their code side by side; what they do with it starts here, in order.
        """
        if self._handover is None:
            raise RuntimeError("the link is not open")
        return await asyncio.shield(self._handover)

    def ready(self) -> None:
        """Tell the supervisor that this role serves."""
        self._send(Ready())

    def heartbeat(self, metrics: bytes = b"", degraded: Sequence[str] = ()) -> None:
        """Tell the supervisor that the loop turns; an open link does this each second by itself."""
        self._send(Heartbeat(metrics, tuple(degraded)))
        now_s = self._clock.monotonic()
        if not self.closed.is_set() and now_s - self._guarded_s >= STUCK_ALONE_S / 4:
            # Each call starts a thread: it is put off well before it would strike, not at every beat.
            self._guarded_s = now_s
            faulthandler.dump_traceback_later(STUCK_ALONE_S, exit=True)

    async def metrics(self) -> str:
        """Return the merged metrics of all processes. Raises `TimeoutError` when the supervisor does not answer."""
        if self._writer is None:
            return self._merge([self._snapshot()]) if self._merge else ""
        self._asked += 1
        number = self._asked
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(MetricsWanted(number))
            async with asyncio.timeout(METRICS_WAIT_S):
                return await self._waiting[number]
        finally:
            self._waiting.pop(number)

    def restart(self, process: str) -> None:
        """Ask for a process to be drained and started anew; the supervisor hears control alone."""
        self._send(RestartWanted(process))

    def _send(self, message: Ready | Heartbeat | MetricsWanted | RestartWanted) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(message))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (frame := await read_frame(reader)) is not None:
            match to_role_decoder.decode(frame):
                case Handover(items=items):
                    if self._handover is not None and not self._handover.done():
                        self._handover.set_result(items)
                case StateChanged(state=state):
                    self.state = state
                case MetricsText(number=number, text=text):
                    waiter = self._waiting.get(number)
                    if waiter is not None and not waiter.done():
                        waiter.set_result(text)
                case SnapshotWanted():
                    self.heartbeat(self._snapshot(), self._degraded())
                case Drain():
                    faulthandler.cancel_dump_traceback_later()
                    self.closed.set()
        self._orphaned()

    def _orphaned(self) -> None:
        """End within a bound: nobody is left to end a role whose supervisor was killed, nor to read its output."""
        self.closed.set()
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                os.dup2(silence, stream.fileno())
        os.close(silence)
        faulthandler.dump_traceback_later(ORPHAN_DRAIN_S, exit=True)

    async def _beat(self) -> None:
        for number in count():
            self.heartbeat(b"" if number % BEATS_PER_SNAPSHOT else self._snapshot(), self._degraded())
            await self._clock.sleep(until_tick(self._clock, HEARTBEAT_S))


def listening_socket() -> socket.socket | None:
    """Return the one TCP socket that the supervisor bound, or None where this role got none."""
    number = os.environ.pop(LISTEN_FD, None)
    return None if number is None else socket.socket(fileno=int(number))


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies; elsewhere the closed pipe alone tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _hold_pid_file() -> None:
    """Lock the pid file for as long as this process lives, so that a reused number is never taken for it."""
    name = os.environ.pop(PID_FILE, None)
    if name is not None:
        paths.lock(Path(name))
