"""The feed of changes: every process learns within a second that keys, limits, routes or switches changed.

NOTIFY is a hint, the poll is the truth. Does not read what changed; whoever subscribes does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from interlock.foundation.clock import Clock, until_tick
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags.config import FlagsConfig
from interlock.foundation.store import Queries, Store, Transaction

SQL: Final = Queries("interlock.foundation.flags")
CHANNEL: Final = "config"
KILLS: Final = "kills"
_REST_FACTOR: Final = 3.0
Reload = Callable[[], Awaitable[None]]
_log = structlog.get_logger("interlock.flags")


async def bump(tx: Transaction, topic: str) -> int:
    """Say in the changing transaction that `topic` changed; return the epoch of the change.

    Call it late: the topic's row stays locked until the commit.
    """
    epoch = int(await tx.fetchval(SQL.raise_epoch, topic))
    await tx.notify(CHANNEL, f"{topic}:{epoch}")
    return epoch


class ChangeFeed:
    """Reloads what changed. `process` names this process in acknowledgements; None acknowledges nothing."""

    def __init__(
        self, store: Store, clock: Clock, config: FlagsConfig | None = None, *, process: str | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config or FlagsConfig()
        self._process = process
        self._reloads: dict[str, list[Reload]] = {}
        self._seen: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._confirmed_at: float | None = None
        self._acknowledged: int | None = None
        self._acknowledged_at = 0.0
        self._failures = 0

    @property
    def age_s(self) -> float:
        """Seconds since the store last confirmed what this process knows; infinite before the first time."""
        return float("inf") if self._confirmed_at is None else self._clock.monotonic() - self._confirmed_at

    @property
    def epoch(self) -> int:
        """The newest epoch that this process has acted on."""
        return max(self._seen.values(), default=0)

    def is_degraded(self) -> bool:
        """Whether what this process knows has not been confirmed for too long."""
        return self.age_s > self._config.degraded_after_s

    def subscribe(self, topic: str, reload: Reload) -> None:
        """Await `reload` at the next look and whenever `topic` changes."""
        self._reloads.setdefault(topic, []).append(reload)
        self._seen.pop(topic, None)

    def statistics(self) -> dict[str, float]:
        """Return the age of the last confirmation, the newest epoch, and the looks that failed since then."""
        return {"age_s": self.age_s, "epoch": float(self.epoch), "failures": float(self._failures)}

    async def run(self) -> None:
        """Follow the epochs until cancelled; a store that is away is waited for."""
        await self._store.listen(CHANNEL, lambda _payload: self._wake.set())
        try:
            while True:
                # Cleared before the look: a hint that comes while it runs asks for another one.
                self._wake.clear()
                began = self._clock.monotonic()
                await self._look()
                took_s = self._clock.monotonic() - began
                with suppress(TimeoutError):
                    async with asyncio.timeout(until_tick(self._clock, self._config.poll_s)):
                        await self._wake.wait()
                        # Under a stream of changes a process spends at most a quarter of its time on following them.
                        await self._clock.sleep(took_s * _REST_FACTOR)
        finally:
            await self._retire()

    async def run_once(self) -> bool:
        """Look once: reload what changed, acknowledge, return whether anything did. Raises `store_unavailable`.

        A topic that cannot be read keeps no other one from being read; its error is raised at the end.
        """
        asked_at = self._clock.monotonic()
        epochs = {row["topic"]: row["epoch"] for row in await self._store.ops_single(SQL.all_epochs)}
        changed = [topic for topic in self._reloads if self._seen.get(topic) != epochs.get(topic, 0)]
        # Switches first: whoever turned one on waits for it, and all keys may take a while.
        changed.sort(key=lambda topic: topic != KILLS)
        failed: dict[str, Exception] = {}
        for topic in changed:
            error = await self._reload(topic)
            if error is None:
                self._seen[topic] = epochs.get(topic, 0)
            else:
                failed[topic] = error
        if KILLS not in failed:
            await self._acknowledge(epochs.get(KILLS, 0), asked_at)
        for error in failed.values():
            raise error
        self._confirmed_at = asked_at
        self._failures = 0
        return bool(changed)

    async def _reload(self, topic: str) -> Exception | None:
        """Have all who follow a topic read it; return why one could not. Raises what a store that is away does."""
        found: Exception | None = None
        for reload in self._reloads[topic]:
            try:
                await reload()
            except Exception as error:
                if not self._store.is_up:
                    raise
                found = found or error
        return found

    async def _look(self) -> None:
        """Look, whatever happens: a feed that died would leave this process with what it knows for good."""
        try:
            await self.run_once()
        except (InterlockError, OSError) as error:
            self._failures += 1
            _log.debug("feed_waits_for_store", error=str(error))
        except Exception as error:  # noqa: BLE001 - the outer loop: what one reload cannot read must not end the others
            self._failures += 1
            _log.error("feed_reload_failed", error=type(error).__name__, failures=self._failures, exc_info=error)

    async def _acknowledge(self, epoch: int, now: float) -> None:
        """Say which switches this process has acted on: at once when they change, else to count as alive."""
        is_said = epoch == self._acknowledged and now - self._acknowledged_at < self._config.acknowledge_interval_s
        if self._process is None or is_said:
            return
        await self._store.ops_single(SQL.acknowledge, self._process, epoch)
        self._acknowledged, self._acknowledged_at = epoch, now

    async def _retire(self) -> None:
        if self._process is None:
            return
        try:
            async with self._store.ops("a process ends") as tx:
                await tx.execute(SQL.retire, self._process)
        except (InterlockError, OSError):
            return
