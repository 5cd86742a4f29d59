"""The loops of an edge: memory that follows the store, the start state on disk, old reservations forgotten.

Answers no request; what it keeps up to date, the services read.
"""

import math
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import ChangeFeed, KillSwitches, Snapshot
from interlock.foundation.identity import KeyDirectory
from interlock.foundation.store import Queries, Store
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.directory import Directory
from interlock.gateway.store import load_directory

log = structlog.get_logger("interlock.gateway")
SQL = Queries("interlock.gateway")
FORGET_INTERVAL_S: Final = 300.0


class _StartState(msgspec.Struct):
    """What an edge starts from when the store is away."""

    keys: bytes
    directory: bytes
    kills: bytes
    saved_us: int


class Memory:
    """Keys, routes, limits and switches of this process, and their image on disk."""

    def __init__(  # noqa: PLR0913 - one argument for each thing that is remembered
        self,
        *,
        store: Store,
        feed: ChangeFeed,
        keys: KeyDirectory,
        switches: KillSwitches,
        snapshot: Snapshot,
        config: EdgeConfig,
        clock: Clock,
    ) -> None:
        self._store = store
        self._feed = feed
        self._keys = keys
        self._switches = switches
        self._snapshot = snapshot
        self._config = config
        self._clock = clock
        self._on_directory: list[Callable[[Directory], None]] = []
        self._saved: tuple[bytes, ...] = ()
        self._known_us = clock.now_us()
        self.directory = Directory()

    def on_directory(self, callback: Callable[[Directory], None]) -> None:
        """Call back with each new directory."""
        self._on_directory.append(callback)

    async def start(self) -> None:
        """Take the start state from disk, then the truth from the store if it answers."""
        self._restore()
        for topic in ("keys", "identity"):
            self._feed.subscribe(topic, self._keys.reload)
        self._feed.subscribe("routes", self.reload)
        self._feed.subscribe("limits", self.reload)
        self._feed.subscribe("kills", self._switches.reload)
        try:
            await self._feed.run_once()
        except (InterlockError, OSError) as error:
            log.warning("edge_starts_from_snapshot", error=str(error), routes=len(self.directory.rows.routes))

    async def reload(self) -> None:
        """Read routes and limits anew."""
        self._replace(Directory(await load_directory(self._store)))

    def stale_s(self) -> float | None:
        """Return the age of what is known, in seconds, when the store has not confirmed it lately."""
        if self._store.is_up:
            return None
        age_s = self._feed.age_s
        if math.isinf(age_s):
            age_s = (self._clock.now_us() - self._known_us) / 1_000_000
        return age_s if age_s > self._config.stale_after_s else None

    async def run(self) -> None:
        """Write the start state whenever it changed, and forget old reservations, until cancelled."""
        forgotten_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(self._config.snapshot_interval_s)
            self.save()
            if self._clock.monotonic() - forgotten_at >= FORGET_INTERVAL_S:
                forgotten_at = self._clock.monotonic()
                await self.forget_holds()

    def save(self) -> None:
        """Write the start state if it differs from what is on disk."""
        state = (self._keys.to_bytes(), self.directory.to_bytes(), self._switches.to_bytes())
        if state != self._saved:
            self._snapshot.save(msgspec.msgpack.encode(_StartState(*state, self._clock.now_us())))
            self._saved = state

    async def forget_holds(self) -> None:
        """Delete reservations whose edge died before it settled them."""
        try:
            async with self._store.ops("reservations that nobody settled") as tx:
                count = await tx.execute(SQL.forget_holds, round(self._config.hold_s * 1_000_000))
        except (InterlockError, OSError) as error:
            log.warning("holds_not_forgotten", error=str(error))
            return
        if count:
            log.warning("holds_forgotten", count=count)

    def _restore(self) -> None:
        content = self._snapshot.load()
        if content is None:
            return
        try:
            state = msgspec.msgpack.decode(content, type=_StartState)
            self._replace(Directory.from_bytes(state.directory))
            self._known_us = state.saved_us
            self._keys.load(state.keys)
            self._switches.load(state.kills)
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("edge_snapshot_unreadable", error=str(error))

    def _replace(self, directory: Directory) -> None:
        self.directory = directory
        for callback in self._on_directory:
            callback(directory)
