"""From the spool into the store: batches, each idempotent by request id, merged with what is there.

Owns no data: a frame leaves the spool only after its transaction has committed.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import structlog

from interlock.foundation.clock import Clock, until_tick
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, created_ms
from interlock.foundation.store import Store, Transaction
from interlock.foundation.telemetry.config import TelemetryConfig
from interlock.foundation.telemetry.frames import Kind, decode_addendum, decode_record
from interlock.foundation.telemetry.parts import extended, joined, stub_record
from interlock.foundation.telemetry.records import Addendum, RequestRecord
from interlock.foundation.telemetry.spool import Spool
from interlock.foundation.telemetry.stories import QUERIES
from interlock.foundation.telemetry.story import decode_story, encode_story, read_packed, seal, unpack

log = structlog.get_logger("interlock.telemetry")

# As numbers: asking the class for a member costs more than to compare.
_STORY: Final = int(Kind.STORY)
_ADDENDUM: Final = int(Kind.ADDENDUM)

# Called with the records that are new in the store, inside the transaction that stores them.
RollUp = Callable[[Transaction, Sequence[RequestRecord]], Awaitable[None]]

# Raised where a value does not even fit the wire format of its column.
_UNFIT: Final = (ValueError, OverflowError, TypeError)


@dataclass(slots=True)
class _Told:
    """What one shipment tells, by the numbers of ids, which are hashed faster than ids.

    A record that came packed goes on as the bytes it is, unless it has to be merged.
    """

    records: dict[int, RequestRecord] = field(default_factory=dict)
    packed: dict[int, bytes] = field(default_factory=dict)
    addenda: list[Addendum] = field(default_factory=list)

    def take(self, kind: int, payload: bytes) -> None:
        """Take a frame. Raises what the decoder does."""
        if kind == _ADDENDUM:
            self.addenda.append(decode_addendum(payload))
            return
        record = read_packed(payload) if kind == _STORY else decode_record(payload)
        number = record.id.int
        held = self.records.get(number)
        if held is not None:
            self.records[number] = joined(self.whole(held), unpack(payload) if kind == _STORY else record)
            self.packed.pop(number, None)
            return
        self.records[number] = record
        if kind == _STORY:
            self.packed[number] = payload

    def whole(self, record: RequestRecord) -> RequestRecord:
        """Return a record with its decisions."""
        payload = self.packed.get(record.id.int)
        return record if payload is None else unpack(payload)


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
    ) -> None:
        self._spool = spool
        self._store = store
        self._clock = clock
        self._config = config or TelemetryConfig()
        self._roll_ups = roll_ups
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
            await self._store_batch(self._decoded(frames), self._roll_ups)
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
            await self._store_batch(self._decoded(frames), ())
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, *_UNFIT) as error:
            log.warning("frame_refused_by_store", error=str(error))
        else:
            log.warning("roll_up_refused", error=str(reason))

    def _decoded(self, frames: list[tuple[int, bytes]]) -> _Told:
        told = _Told()
        for kind, payload in frames:
            try:
                told.take(kind, payload)
            except (msgspec.MsgspecError, ValueError) as error:
                self._refused += 1
                log.warning("frame_not_readable", error=str(error))
        return told

    async def _store_batch(self, told: _Told, roll_ups: Sequence[RollUp]) -> None:
        records = told.records
        early = _early(records, told.addenda)
        rows = [*records.values(), *early.values()]
        if not rows:
            return
        columns = self._columns(rows, told)
        async with self._store.ops("ship request records") as tx:
            # A list a column: a table of its own to COPY into cost 1.5 ms a batch, and rows of the catalogue.
            only = await tx.fetchval(QUERIES.insert_requests, *columns)
            # Nearly always all are new, and then nobody names them.
            new = {*records, *(each.int for each in early)} if only is None else {each.int for each in only}
            fresh = [record for number, record in records.items() if number in new]
            known = {record.id: told.whole(record) for number, record in records.items() if number not in new}
            later = [each for each in told.addenda if each.id.int not in new or each.id not in early]
            fresh += await self._merge(tx, known, later)
            await _add_upstream_ids(tx, records.values())
            for roll_up in roll_ups:
                await roll_up(tx, fresh)
        self._records += len(fresh)

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
            foreign = _text(merged.client_request_id), _text(merged.trace_id)
            values = merged.id, *foreign, self._story(merged, _Told()), *_kind(merged)[1:]
            await tx.execute(QUERIES.replace_request, row["organization_id"], *values)
            self._merged += 1
        return completed

    def _columns(self, records: list[RequestRecord], told: _Told) -> list[Any]:
        """Return what `insert_requests` asks for, as few values as can be: the driver takes its time for each."""
        kinds: dict[tuple[Any, ...], str] = {}
        of_rows: list[str] = []
        firsts: list[RequestRecord] = []
        for record in records:
            organization, workspace, key = record.organization_id, record.workspace_id, record.key_id
            kind = (
                organization and organization.int, workspace and workspace.int, key and key.int,
                record.endpoint, record.alias, record.outcome, record.status, record.complete,
            )  # fmt: skip
            number = kinds.get(kind)
            if number is None:
                firsts.append(record)
                number = kinds[kind] = str(len(firsts))
            of_rows.append(number)
        # The store could keep a time of which no reader here can make a date.
        numbers = [record.id.int for record in records]
        datetime.fromtimestamp(created_ms(UUID(int=max(numbers))) / 1_000, tz=UTC)
        ids = b"".join([number.to_bytes(16, "big") for number in numbers])
        stories = [self._story(record, told) for record in records]
        sizes = [*map(len, stories)]
        return [
            f"{{{ids.hex(',', 16)}}}",
            f"{{{','.join(of_rows)}}}",
            _texts([record.client_request_id for record in records]),
            _texts([record.trace_id for record in records]),
            b"".join(stories),
            f"{{{','.join(map(str, accumulate(sizes[:-1], initial=1)))}}}",
            f"{{{','.join(map(str, sizes))}}}",
            *zip(*map(_kind, firsts), strict=True),
        ]

    def _story(self, record: RequestRecord, told: _Told) -> bytes:
        bytes_max = self._config.story_bytes_max
        packed = told.packed.get(record.id.int)
        is_short = packed is not None and len(packed) <= bytes_max
        return seal(packed) if packed and is_short else encode_story(told.whole(record), bytes_max)


def _kind(record: RequestRecord) -> tuple[Any, ...]:
    """Return the values that most records share with others of their batch, as the store keeps them."""
    return (
        record.organization_id or SYSTEM_ORGANIZATION_ID,
        record.workspace_id,
        record.key_id,
        _text(record.endpoint) or "",
        _text(record.alias),
        record.outcome,
        record.status,
        record.complete,
    )


def _early(records: dict[int, RequestRecord], addenda: list[Addendum]) -> dict[UUID, RequestRecord]:
    """Return stubs for decisions that may have come before the record of their request."""
    stubs: dict[UUID, RequestRecord] = {}
    for each in addenda:
        if each.id.int not in records:
            stubs[each.id] = extended(stubs.get(each.id) or stub_record(each), each)
    return stubs


async def _add_upstream_ids(tx: Transaction, records: Sequence[RequestRecord] | Any) -> None:
    named = [
        (record.organization_id or SYSTEM_ORGANIZATION_ID, _text(attempt.upstream_request_id), record)
        for record in records
        for attempt in record.attempts
        if attempt.upstream_request_id
    ]
    if named:
        await tx.execute(
            QUERIES.insert_upstream_ids,
            [organization for organization, _, _ in named],
            [upstream for _, upstream, _ in named],
            [record.id for _, _, record in named],
            [record.workspace_id for _, _, record in named],
        )


def _texts(values: list[str | None]) -> list[str | None] | None:
    """Return a column of texts, or None where none has one."""
    return None if values.count(None) == len(values) else [_text(value) for value in values]


def _text(value: str | None) -> str | None:
    """Return the text without NUL, which PostgreSQL cannot hold."""
    return None if value is None else value.replace("\0", "\ufffd")
