"""LISTEN on a connection of its own, kept alive through restarts of the store.

Delivers hints; a subscriber that needs the truth polls as well.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.store.failures import translated
from interlock.foundation.store.pool import Connection

_log = structlog.get_logger("store")
_RETRY_S: Final = 0.25


class Listener:
    """Callbacks by channel. A callback that raises is logged and does not stop the others."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], clock: Clock) -> None:
        self.channels: dict[str, list[Callable[[str], None]]] = {}
        self._connect = connect
        self._clock = clock
        self._connection: Connection = None
        # A connection takes one statement at a time, and subscribers come from many tasks.
        self._turn = asyncio.Lock()

    async def add(self, channel: str, callback: Callable[[str], None]) -> None:
        """Begin to listen, now or as soon as the store is there."""
        self.channels.setdefault(channel, []).append(callback)
        async with self._turn:
            if self._connection is not None and not self._connection.is_closed():
                with translated():
                    await self._connection.add_listener(channel, self._deliver)

    def drop(self) -> None:
        """End the connection; the loop makes a new one."""
        if self._connection is not None:
            self._connection.terminate()

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._session()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                _log.info("listener_waits", error=type(error).__name__)
            await self._clock.sleep(_RETRY_S)

    async def _session(self) -> None:
        connection = await self._connect()
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        try:
            async with self._turn:
                for channel in list(self.channels):
                    await connection.add_listener(channel, self._deliver)
                self._connection = connection
            for channel in list(self.channels):
                self._deliver(connection, 0, channel, "")
            await ended.wait()
        finally:
            self._connection = None
            connection.terminate()

    def _deliver(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        for callback in self.channels.get(channel, ()):
            try:
                callback(payload)
            except Exception:  # noqa: BLE001 - the driver would swallow it; the other subscribers still have to hear
                _log.exception("listener_callback_failed", channel=channel)
