"""A bounded pool of connections of one role: a short wait, then a refusal; nothing is kept that may be dirty.

Does not decide whether the store is up; the pulse does, and calls `drop_all`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from interlock.foundation.clock import Clock
from interlock.foundation.store.config import StoreConfig
from interlock.foundation.store.failures import is_away, store_unavailable

# asyncpg ships no types; a connection is only ever touched inside this package.
Connection = Any
_CLEAN_UP_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool holds and has seen; waits are those of callers who found no free connection."""

    size: int
    size_max: int
    idle: int
    waiting: int
    refused: int
    connected: int
    waits: int
    wait_s_total: float
    wait_ms_max: float


class Pool:
    """Connections of one role. `take` and `give` belong together; `discard` ends a connection instead."""

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], size_max: int, config: StoreConfig, clock: Clock
    ) -> None:
        self._connect = connect
        self._size_max = size_max
        self._config = config
        self._clock = clock
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening = 0
        self._waiters: deque[asyncio.Future[Connection]] = deque()
        self._cleaning: set[asyncio.Task[None]] = set()
        self._refused = self._connected = 0
        self._waits = 0
        self._wait_s_total = self._wait_s_max = 0.0
        self.is_closed = False

    async def take(self) -> Connection:
        """Return a connection that is ours alone. Raises `store_unavailable` after the bounded wait."""
        began_s = self._clock.monotonic()
        deadline_s = began_s + self._config.pool_wait_ms / 1e3
        while True:
            if self.is_closed:
                raise store_unavailable("closed")
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
                self._forget(connection)
            if len(self._all) + self._opening < self._size_max:
                return await self._open()
            handed = await self._wait(deadline_s)
            self._count_wait(self._clock.monotonic() - began_s)
            if handed is not None and not handed.is_closed():
                return handed

    def give(self, connection: Connection) -> None:
        """Take back a connection on which no transaction is open."""
        if connection.is_closed() or self.is_closed or connection not in self._all:
            self.discard(connection)
            return
        # Handed over and not put back: a newcomer must not overtake those who wait.
        if not self._wake_one(connection):
            self._idle.append(connection)

    def discard(self, connection: Connection) -> None:
        """End a connection without asking the server."""
        self._forget(connection)
        if not connection.is_closed():
            connection.terminate()
        self._wake_one()

    def clean_later(self, connection: Connection) -> None:
        """Roll back outside the caller, who was cancelled and may not wait."""
        task = asyncio.get_running_loop().create_task(self._clean(connection))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def roll_back(self, connection: Connection) -> None:
        """End the open transaction and take the connection back, or end the connection."""
        try:
            async with asyncio.timeout(_CLEAN_UP_S):
                await connection.execute("ROLLBACK")
        except BaseException as error:
            self.discard(connection)
            if not isinstance(error, (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                raise
        else:
            self.give(connection)

    def drop_all(self) -> None:
        """End every connection, those in use included: whoever waits on one fails now."""
        for connection in list(self._all):
            self.discard(connection)

    @property
    def in_use(self) -> int:
        """Connections that someone holds or waits for."""
        return len(self._all) - len(self._idle) + self._opening + len(self._waiters)

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            size=len(self._all),
            size_max=self._size_max,
            idle=len(self._idle),
            waiting=len(self._waiters),
            refused=self._refused,
            connected=self._connected,
            waits=self._waits,
            wait_s_total=self._wait_s_total,
            wait_ms_max=round(self._wait_s_max * 1e3, 3),
        )

    async def close(self) -> None:
        """Refuse from now on, finish the clean-up, end all connections."""
        self.is_closed = True
        if self._cleaning:
            await asyncio.wait(set(self._cleaning), timeout=_CLEAN_UP_S)
        for connection in list(self._idle):
            self._forget(connection)
            try:
                await connection.close(timeout=1)
            except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                connection.terminate()
        self.drop_all()
        while self._waiters:
            self._wake_one()

    async def _clean(self, connection: Connection) -> None:
        await self.roll_back(connection)

    async def _open(self) -> Connection:
        self._opening += 1
        try:
            async with asyncio.timeout(self._config.connect_timeout_ms / 1e3):
                connection = await self._connect()
        except BaseException as error:
            self._opening -= 1
            self._wake_one()
            if is_away(error):
                raise store_unavailable(type(error).__name__) from error
            raise
        self._opening -= 1
        self._connected += 1
        self._all.add(connection)
        return connection

    async def _wait(self, deadline_s: float) -> Connection:
        """Return a connection that was handed over, or None when there is room for a new one."""
        left_s = deadline_s - self._clock.monotonic()
        if left_s <= 0 or len(self._waiters) >= self._config.pool_waiting_max:
            self._refused += 1
            raise store_unavailable("pool_wait")
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            # `wait` and not `timeout`: what arrives together with the deadline must not be lost.
            await asyncio.wait({waiter}, timeout=left_s)
        except BaseException:
            if waiter.done():
                self._pass_on(waiter.result())
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return waiter.result() if waiter.done() else None

    def _pass_on(self, connection: Connection) -> None:
        """Give what a cancelled waiter was handed to the next in line."""
        if connection is None:
            self._wake_one()
        else:
            self.give(connection)

    def _wake_one(self, connection: Connection = None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _count_wait(self, waited_s: float) -> None:
        self._waits += 1
        self._wait_s_total += waited_s
        self._wait_s_max = max(self._wait_s_max, waited_s)

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
