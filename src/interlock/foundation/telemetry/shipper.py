"""From the spool into the store: batches, each idempotent by request id, merged with what is there.

Owns no data: a frame leaves the spool only after its transaction has committed.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
import structlog

from interlock.foundation.clock import Clock, until_tick
from interlock.foundation.errors import InterlockError
from interlock.foundation.store import Store, Transaction
from interlock.foundation.telemetry.config import TelemetryConfig
from interlock.foundation.telemetry.parts import extended, joined
from interlock.foundation.telemetry.records import Addendum, RequestRecord
from interlock.foundation.telemetry.shipment import Rows, Shipment, kind_of, swift, text_of
from interlock.foundation.telemetry.spool import Spool
from interlock.foundation.telemetry.stories import QUERIES
from interlock.foundation.telemetry.story import decode_story, encode_story
from interlock.foundation.telemetry.tally import Tally, tallied

log = structlog.get_logger("interlock.telemetry")

# Called with what the records used that are new in the store, inside the transaction that stores them.
RollUp = Callable[[Transaction, Sequence[Tally]], Awaitable[None]]

# Raised where a value does not even fit the wire format of its column.
_UNFIT: Final = (ValueError, OverflowError, TypeError)


@dataclass(frozen=True, slots=True)
class ShipperStatistics:
    """What was shipped since the start. `refused` are frames of which the store can never take all."""

    batches: int
    records: int
    merged: int
    refused: int
    failures: int


class Shipper:
    """Empties one spool into `telemetry_requests`; rolls nothing back that was shipped."""

    def __init__(
        self,
        spool: Spool,
        store: Store,
        clock: Clock,
        config: TelemetryConfig | None = None,
        roll_ups: Sequence[RollUp] = (),
        on_shipped: Callable[[list[tuple[int, bytes]]], None] | None = None,
    ) -> None:
        """`on_shipped` is given the frames of each batch once the store has them, and must not wait."""
        self._spool = spool
        self._store = store
        self._clock = clock
        self._config = config or TelemetryConfig()
        self._roll_ups = roll_ups
        self._on_shipped = on_shipped
        self._batches = self._records = self._merged = self._refused = self._failures = 0

    async def run(self) -> None:
        """Ship until cancelled; while the store is away the records wait in the spool."""
        while True:
            try:
                await self.run_once()
            except (InterlockError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self._failures += 1
                log.warning("ship_failed", error=str(error), pending=self._spool.pending)
                await self._clock.sleep(self._config.ship_retry_s)
            await self._clock.sleep(until_tick(self._clock, self._config.ship_interval_ms / 1_000))

    async def run_once(self) -> int:
        """Ship what is closed now, batch after batch; return the number of frames. Raises when the store is away."""
        shipped = 0
        while batch := self._spool.take(self._config.ship_frames_max):
            await self._ship(batch.frames)
            self._spool.shipped(batch)
            if self._on_shipped is not None:
                self._on_shipped(batch.frames)
            self._batches += 1
            shipped += len(batch.frames)
            if len(batch.frames) < self._config.ship_frames_max and not batch.is_segment:
                break
        return shipped

    def statistics(self) -> ShipperStatistics:
        """Return the counts."""
        return ShipperStatistics(self._batches, self._records, self._merged, self._refused, self._failures)

    async def _ship(self, frames: list[tuple[int, bytes]]) -> None:
        try:
            await self._store_batch(frames, self._roll_ups)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, *_UNFIT) as error:
            # One frame that the store cannot take must not hold up the others: halve until it stands alone.
            if len(frames) > 1:
                half = len(frames) // 2
                await self._ship(frames[:half])
                await self._ship(frames[half:])
                return
            await self._ship_alone(frames, error)

    async def _ship_alone(self, frames: list[tuple[int, bytes]], reason: Exception) -> None:
        """Try once more without the roll-ups: a figure that cannot be added must not cost the story."""
        self._refused += len(frames)
        try:
            await self._store_batch(frames, ())
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, *_UNFIT) as error:
            log.warning("frame_refused_by_store", error=str(error))
        else:
            log.warning("roll_up_refused", error=str(reason))

    async def _store_batch(self, frames: list[tuple[int, bytes]], roll_ups: Sequence[RollUp]) -> None:
        bytes_max = self._config.story_bytes_max
        found, told = swift(frames, bytes_max), None
        if found is not None:
            rows: Rows | None = found[0]
        else:
            told = self._read(frames)
            rows = told.rows(bytes_max)
        if rows is None:
            return
        async with self._store.ops("ship request records") as tx:
            # A list a column: a table of its own to COPY into cost 1.5 ms a batch, and rows of the catalogue.
            only = await tx.fetchval(QUERIES.insert_requests, *rows.columns)
            if rows.more:
                await tx.execute(QUERIES.insert_upstream_ids, *rows.more)
            if found is not None and only is None:
                tallies = found[1]
            else:
                tallies = tallied(await self._brought_up(tx, told or self._read(frames), only))
            for roll_up in roll_ups:
                await roll_up(tx, tallies)
        self._records += sum(each.requests for each in tallies)

    def _read(self, frames: list[tuple[int, bytes]]) -> Shipment:
        told = Shipment()
        for kind, payload in frames:
            try:
                told.take(kind, payload)
            except (msgspec.MsgspecError, ValueError) as error:
                self._refused += 1
                log.warning("frame_not_readable", error=str(error))
        return told

    async def _brought_up(self, tx: Transaction, told: Shipment, only: list[UUID] | None) -> list[RequestRecord]:
        """Merge what was in the store before; return the records that are new there. `only` names new ids, None all."""
        records, early = told.records, told.early()
        # Nearly always all are new, and then nobody names them.
        new = {*records, *(each.int for each in early)} if only is None else {each.int for each in only}
        fresh = [record for number, record in records.items() if number in new]
        known = {record.id: told.whole(record) for number, record in records.items() if number not in new}
        later = [each for each in told.addenda if each.id.int not in new or each.id not in early]
        return fresh + await self._merge(tx, known, later)

    async def _merge(
        self, tx: Transaction, known: dict[UUID, RequestRecord], addenda: list[Addendum]
    ) -> list[RequestRecord]:
        """Bring rows that were there before up to date; return the records that had only decisions so far."""
        ids = sorted({*known, *(each.id for each in addenda)})
        if not ids:
            return []
        completed: list[RequestRecord] = []
        for row in await tx.fetch(QUERIES.lock_requests, ids, ids[0], ids[-1]):
            stored = decode_story(row["story"])
            record = known.get(stored.id)
            merged = stored if record is None else joined(stored, record)
            for each in addenda:
                if each.id == stored.id and each.organization_id == row["organization_id"]:
                    merged = extended(merged, each)
            if merged == stored:
                continue
            if record is not None and not stored.complete:
                completed.append(merged)
            foreign = text_of(merged.client_request_id), text_of(merged.trace_id)
            story = encode_story(merged, self._config.story_bytes_max)
            values = merged.id, *foreign, story, *kind_of(merged)[1:]
            await tx.execute(QUERIES.replace_request, row["organization_id"], *values)
            self._merged += 1
        return completed
