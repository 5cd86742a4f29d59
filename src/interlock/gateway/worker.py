"""The loops of an edge: memory that follows the store, the start state on disk, counts of arms on their way.

Answers no request; what it keeps up to date, the services read.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

import msgspec
import structlog

from interlock.contracts.gates import VerifyingKey, VerifyingKeys
from interlock.foundation.clock import Clock, until_tick
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import ChangeFeed, KillSwitches, Snapshot
from interlock.foundation.identity import KeyDirectory
from interlock.foundation.ids import IdFactory
from interlock.foundation.store import Queries, Store
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.arm_counts import ArmBook
from interlock.gateway.domain.directory import Directory
from interlock.gateway.store import load_directory
from interlock.gateway.store.arms import add_counts

log = structlog.get_logger("interlock.gateway")
SQL = Queries("interlock.gateway")
FORGET_INTERVAL_S: Final = 300.0
OnDirectory = Callable[[Directory, Mapping[str, VerifyingKey]], None]
LiveRoutes = Callable[[], set[tuple[UUID, str]]]
_encode: Final = msgspec.msgpack.Encoder().encode


class _StartState(msgspec.Struct):
    """What an edge starts from when the store is away."""

    keys: bytes
    directory: bytes
    kills: bytes
    saved_us: int
    verifying: bytes = _encode({})


class Memory:
    """Keys, routes, limits and switches of this process, and their image on disk."""

    def __init__(  # noqa: PLR0913 - one argument for each thing that is remembered
        self,
        *,
        store: Store,
        feed: ChangeFeed,
        keys: KeyDirectory,
        switches: KillSwitches,
        verifying: VerifyingKeys,
        snapshot: Snapshot,
        config: EdgeConfig,
        clock: Clock,
        leases_kept_s: float,
    ) -> None:
        self._store = store
        self._leases_kept_s = leases_kept_s
        self._feed = feed
        self._keys = keys
        self._switches = switches
        self._snapshot = snapshot
        self._config = config
        self._clock = clock
        self._verifying = verifying
        self._on_directory: list[OnDirectory] = []
        # One read at a time: a slow one must not put what it saw over what a later one found.
        self._reading = asyncio.Lock()
        self._saved: tuple[bytes, ...] = ()
        self._known_us = clock.now_us()
        self.directory = Directory()
        self.verifying: Mapping[str, VerifyingKey] = {}

    def on_directory(self, callback: OnDirectory) -> None:
        """Call back with each new directory, and with the keys that verdicts are checked with."""
        self._on_directory.append(callback)

    async def start(self) -> None:
        """Take the start state from disk, then the truth from the store if it answers."""
        self._restore()
        for topic in ("keys", "identity"):
            self._feed.subscribe(topic, self._keys.reload)
        self._feed.subscribe("routes", self.reload)
        self._feed.subscribe("limits", self.reload)
        self._feed.subscribe("flags", self.reload)
        # A provider's key may be a new one: with each directory the secrets are opened anew.
        self._feed.subscribe("secrets", self.reload)
        self._feed.subscribe("kills", self._switches.reload)
        try:
            await self._feed.run_once()
        except (InterlockError, OSError) as error:
            log.warning("edge_starts_from_snapshot", error=str(error), routes=len(self.directory.rows.routes))

    async def reload(self) -> None:
        """Read routes, limits and the keys of verdicts anew."""
        async with self._reading:
            rows = await load_directory(self._store)
            self._replace(Directory(rows), await self._verifying.load())

    def stale_s(self) -> float | None:
        """Return the age of what is known, in seconds, when the store has not confirmed it lately."""
        if self._store.is_up:
            return None
        age_s = self._feed.age_s
        if math.isinf(age_s):
            age_s = (self._clock.now_us() - self._known_us) / 1_000_000
        return age_s if age_s > self._config.stale_after_s else None

    def degraded(self) -> tuple[str, ...]:
        """Return what is away as seen from here: the store, and `config` once nothing was confirmed for too long."""
        away = {"config": self._feed.is_degraded(), "store": self.stale_s() is not None}
        return tuple(name for name, is_away in away.items() if is_away)

    async def run(self) -> None:
        """Write the start state whenever it changed, and forget old leases, until cancelled."""
        forgotten_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(self._config.snapshot_interval_s)
            await self._look_at_keys()
            self.save()
            if self._clock.monotonic() - forgotten_at >= FORGET_INTERVAL_S:
                forgotten_at = self._clock.monotonic()
                await self.forget_leases()

    def save(self) -> None:
        """Write the start state if it differs from what is on disk."""
        state = (self._keys.to_bytes(), self.directory.to_bytes(), self._switches.to_bytes(), _encode(self.verifying))
        if state != self._saved:
            self._snapshot.save(_encode(_StartState(*state[:3], self._clock.now_us(), state[3])))
            self._saved = state

    async def forget_leases(self) -> None:
        """Delete the rows of machines that lease no more."""
        try:
            async with self._store.ops("leases of machines that are gone") as tx:
                await tx.execute(SQL.forget_leases, round(self._leases_kept_s * 1_000_000))
        except (InterlockError, OSError) as error:
            log.warning("leases_not_forgotten", error=str(error))

    def _restore(self) -> None:
        content = self._snapshot.load()
        if content is None:
            return
        try:
            state = msgspec.msgpack.decode(content, type=_StartState)
            verifying = msgspec.msgpack.decode(state.verifying, type=dict[str, VerifyingKey])
            self._replace(Directory.from_bytes(state.directory), verifying)
            self._known_us = state.saved_us
            self._keys.load(state.keys)
            self._switches.load(state.kills)
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("edge_snapshot_unreadable", error=str(error))

    async def _look_at_keys(self) -> None:
        """Read the keys of verdicts while one is in use: one that was revoked ends what it admitted."""
        if not any(True for _ in self.directory.tried()):
            return
        async with self._reading:
            try:
                verifying = await self._verifying.load()
            except (InterlockError, OSError) as error:
                log.warning("verifying_keys_not_read", error=str(error))
                return
            if verifying != self.verifying:
                self._replace(self.directory, verifying)

    def _replace(self, directory: Directory, verifying: Mapping[str, VerifyingKey]) -> None:
        self.directory, self.verifying = directory, verifying
        for callback in self._on_directory:
            callback(directory, verifying)


class ArmShipper:
    """Ships what the arms of routes answered to the store, each second once it is over."""

    def __init__(
        self, store: Store, book: ArmBook, live: LiveRoutes, *, clock: Clock, config: EdgeConfig, ids: IdFactory
    ) -> None:
        self._store = store
        self._book = book
        self._live = live
        self._clock = clock
        self._config = config
        # A process that is started again counts in rows of its own.
        self._edge = ids.new()

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            await self._clock.sleep(until_tick(self._clock, self._config.arm_interval_s))
            await self.run_once()

    async def run_once(self, *, is_last: bool = False) -> None:
        """Ship the seconds that are over, all of them at the end; what the store does not take now waits."""
        second = self._clock.now_us() // 1_000_000
        counts = self._book.take(second + 1 if is_last else second)
        self._book.forget_units(self._live())
        if not counts:
            return
        try:
            async with self._store.ops("what the arms of routes answered") as tx:
                await add_counts(tx, self._edge, counts)
        except (InterlockError, OSError) as error:
            self._book.give_back(counts)
            log.warning("arm_counts_wait", error=str(error), **self._book.statistics())


async def forget_arm_counts(store: Store, clock: Clock, config: EdgeConfig) -> None:
    """Delete counts of arms that are too old for anybody."""
    before = clock.now_us() // 1_000_000 - round(config.arm_kept_s)
    async with store.ops("counts of arms that are too old") as tx:
        await tx.execute(SQL.forget_arm_counts, before)
