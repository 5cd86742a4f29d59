"""The store's pulse: one small question at short intervals on a connection of its own.

Decides whether the store is up. Does not reconnect anybody; pools do that at the next use.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
import structlog

from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.store.config import StoreConfig
from interlock.foundation.store.failures import is_away
from interlock.foundation.store.pool import Connection

_log = structlog.get_logger("store")


class Pulse:
    """Asks more often while somebody waits. `on_away` is called once when the answer stays out."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        config: StoreConfig,
        *,
        is_busy: Callable[[], bool],
        on_away: Callable[[], None],
    ) -> None:
        self.is_up = True
        self.beats = self.misses = 0
        self._connect = connect
        self._config = config
        self._is_busy = is_busy
        self._on_away = on_away
        self._connection: Connection = None
        self._is_due = asyncio.Event()
        self._second_look: asyncio.TimerHandle | None = None
        self._has_heard = False

    def nudge(self) -> None:
        """Somebody has begun to wait; ask soon if that lasts. Most statements are over before a question would be."""
        if self._second_look is None:
            loop = asyncio.get_running_loop()
            self._second_look = loop.call_later(self._config.pulse_interval_ms / 1e3, self._look_again)

    def heard(self) -> None:
        """The store has answered somebody: that is as good as an answer to a question of our own."""
        self._has_heard = True
        if self._second_look is not None and not self._is_busy():
            self._second_look.cancel()
            self._second_look = None

    def alarm(self) -> None:
        """Ask now: somebody has lost a connection or got an error."""
        self._is_due.set()

    def _look_again(self) -> None:
        self._second_look = None
        if self._is_busy():
            self._is_due.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        try:
            while True:
                self._judge(is_alive=await self.beat())
                await self._pause()
        finally:
            if self._second_look is not None:
                self._second_look.cancel()
            self._hang_up()

    async def beat(self) -> bool:
        """Ask once, within the time limit."""
        question = asyncio.ensure_future(self._ask())
        try:
            # `wait` does not cancel: an answer that arrived while this process was held up still counts.
            await asyncio.wait({question}, timeout=self._config.pulse_timeout_ms / 1e3)
            if question.done():
                return question.result()
            return False
        finally:
            if not question.done():
                question.cancel()
                self._hang_up()
                with suppress(asyncio.CancelledError):
                    await question

    async def _ask(self) -> bool:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
            await self._connection.fetchval("SELECT 1")
        except BrokenWorldError:
            # The store lives; that its role may too much is what every transaction is told.
            return True
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            self._hang_up()
            if not is_away(error):
                _log.error("store_refused", error=type(error).__name__)
            return False
        return True

    def _judge(self, *, is_alive: bool) -> None:
        self.beats += 1
        self.misses += not is_alive
        if is_alive and not self.is_up:
            _log.info("store_back")
        if not is_alive and self.is_up:
            _log.error("store_away")
        was_up, self.is_up = self.is_up, is_alive
        if was_up and not is_alive:
            self._on_away()

    async def _pause(self) -> None:
        """Return when it is time to ask: soon while somebody waits, else after an alarm or a rest without a word."""
        interval_s, idle_s = self._config.pulse_interval_ms / 1e3, self._config.pulse_idle_ms / 1e3
        if self._is_busy() or not self.is_up:
            # A crowd that loses its connections at once must not turn the pulse into a busy loop.
            self._is_due.clear()
            await _set_within(self._is_due, interval_s)
        else:
            self._has_heard = True
            while self._has_heard and not self._is_due.is_set():
                self._has_heard = False
                await _set_within(self._is_due, idle_s)
        self._is_due.clear()

    def _hang_up(self) -> None:
        if self._connection is not None and not self._connection.is_closed():
            self._connection.terminate()
        self._connection = None


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
