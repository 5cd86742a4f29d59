"""Rotation of the master key: a new key, then every envelope rewrapped to it, 500 a transaction, while all serve.

Runs where the private ring is; does not touch the ciphertexts.
"""

import asyncio
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog

from interlock.foundation.clock import Clock, Dice
from interlock.foundation.errors import InterlockError
from interlock.foundation.secrets.box import Envelope, SecretBox, SecretUnreadableError
from interlock.foundation.secrets.config import SecretsConfig
from interlock.foundation.secrets.keys import MasterKeyFile
from interlock.foundation.secrets.service import SQL, place_of
from interlock.foundation.store import Store, Transaction
from interlock.foundation.store.lookout import LOOK_ANYWAY_S, Lookout

_log = structlog.get_logger("secrets")
_Place = tuple[UUID, UUID, str]
_BEFORE_ALL: Final[_Place] = (UUID(int=0), UUID(int=0), "")


class Rotator:
    """Looks for a wanted rotation and carries it out; a restart goes on where the last one ended."""

    def __init__(
        self, store: Store, file: MasterKeyFile, clock: Clock, dice: Dice, config: SecretsConfig | None = None
    ) -> None:
        self._store = store
        self._file = file
        self._clock = clock
        self._dice = dice
        self._config = config or SecretsConfig()
        self._rewrapped = 0
        self._unreadable = 0
        # A round walks over all envelopes once, so that those which open for nobody do not keep others waiting.
        self._after = _BEFORE_ALL
        self._skipped = 0
        self._poll_s = self._config.rotate_poll_s
        self._wake = asyncio.Event()

    def told_by(self, lookout: Lookout) -> None:
        """Have the lookout tell of a wanted rotation, and look by itself only now and then."""
        lookout.watch(SQL.any_rotation, self._wake.set)
        self._poll_s = max(self._poll_s, LOOK_ANYWAY_S)

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            self._wake.clear()
            try:
                while await self.run_once():
                    pass
            except InterlockError as error:
                _log.warning("rotation_delayed", code=error.code)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()

    async def run_once(self) -> bool:
        """Carry out one batch of the open rotation; return whether there is more to do."""
        if not await self._store.ops_single(SQL.open_rotation):
            return False
        async with self._store.ops("secrets rotation") as tx:
            rotation = await tx.fetchrow(SQL.open_rotation)
            if rotation is None:
                return False
            ids = rotation["organization_id"], rotation["id"]
            if rotation["kek_id"] is None:
                kek_id = await asyncio.to_thread(self._new_key)
                await tx.execute(SQL.begin_rotation, *ids, kek_id)
                return True
            count, is_last = await self._batch(tx, rotation["kek_id"])
            # Rows that somebody holds were passed over; they are counted here and come in a later round.
            is_done = is_last and await tx.fetchval(SQL.stale_count, rotation["kek_id"]) <= self._skipped
            await tx.execute(SQL.advance_rotation, *ids, count, is_done)
            used = [row["kek_id"] for row in await tx.fetch(SQL.keks_in_use)] if is_done else []
        if is_last:
            self._unreadable, self._skipped, self._after = self._skipped, 0, _BEFORE_ALL
        if is_done:
            await asyncio.to_thread(self._drop_unused, used)
        return not is_last

    def statistics(self) -> dict[str, int]:
        """Return envelopes rewrapped, and those of the last round that would not open and were left alone."""
        return {"rewrapped": self._rewrapped, "unreadable": self._unreadable}

    async def _batch(self, tx: Transaction, kek_id: str) -> tuple[int, bool]:
        """Rewrap the next envelopes of this round; return how many, and whether they were the last of it."""
        box = SecretBox(self._dice, self._file.read_public, self._file.read)
        rows = await tx.fetch(SQL.stale, kek_id, self._config.rotate_rows, *self._after)
        done = 0
        for row in rows:
            self._after = key = row["organization_id"], row["workspace_id"], row["name"]
            place = place_of(row["organization_id"], row["id"])
            try:
                fresh = box.rewrap(place, Envelope(row["ciphertext"], row["wrapped_key"], row["kek_id"]))
            except SecretUnreadableError:
                # It opens for nobody; it keeps its old key's name, so that a restored ring could still open it.
                _log.error("secret_unreadable", name=row["name"], kek_id=row["kek_id"])
                continue
            await tx.execute(SQL.rewrapped, *key, fresh.wrapped_key, fresh.kek_id)
            done += 1
        self._rewrapped += done
        self._skipped += len(rows) - done
        return done, len(rows) < self._config.rotate_rows

    def _new_key(self) -> str:
        ring = self._file.read().with_new(self._dice)
        self._file.write(ring)
        return ring.public.kek_id

    def _drop_unused(self, used: list[str]) -> None:
        self._file.write(self._file.read().without_unused(used))
