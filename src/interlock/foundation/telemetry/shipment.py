"""One shipment: frames as they came out of the spool, made into what the store is asked to take in.

Talks to no store; the shipper does.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, created_ms
from interlock.foundation.native import load
from interlock.foundation.telemetry.frames import Kind, decode_addendum, decode_record
from interlock.foundation.telemetry.parts import extended, joined, stub_record
from interlock.foundation.telemetry.records import Addendum, RequestRecord
from interlock.foundation.telemetry.story import encode_story, read_packed, seal, unpack
from interlock.foundation.telemetry.tally import Tally, likeness

# As numbers: asking the class for a member costs more than to compare.
_STORY: Final = int(Kind.STORY)
_ADDENDUM: Final = int(Kind.ADDENDUM)
_kernel: Final = load("interlock.foundation.telemetry._native_ship")


@dataclass(frozen=True, slots=True)
class Rows:
    """What `insert_requests` asks for, as few values as can be: the driver takes its time for each.

    `more` is what `insert_upstream_ids` asks for: further ids that upstreams gave to calls of one request.
    """

    columns: list[Any]
    more: list[list[Any]]


@dataclass(slots=True)
class Shipment:
    """What frames tell, by the numbers of ids, which are hashed faster than ids.

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

    def early(self) -> dict[UUID, RequestRecord]:
        """Return stubs for decisions that may have come before the record of their request."""
        stubs: dict[UUID, RequestRecord] = {}
        for each in self.addenda:
            if each.id.int not in self.records:
                stubs[each.id] = extended(stubs.get(each.id) or stub_record(each), each)
        return stubs

    def rows(self, bytes_max: int) -> Rows | None:
        """Return the rows of all that is told, None where nothing is."""
        records = [*self.records.values(), *self.early().values()]
        if not records:
            return None
        kinds: dict[tuple[Any, ...], str] = {}
        firsts: list[RequestRecord] = []
        of_rows: list[str] = []
        for record in records:
            like = likeness(record)
            number = kinds.get(like)
            if number is None:
                firsts.append(record)
                number = kinds[like] = str(len(firsts))
            of_rows.append(number)
        # The store could keep a time of which no reader here can make a date.
        numbers = [record.id.int for record in records]
        datetime.fromtimestamp(created_ms(UUID(int=max(numbers))) / 1_000, tz=UTC)
        ids = b"".join([number.to_bytes(16, "big") for number in numbers])
        stories = [self._story(record, bytes_max) for record in records]
        sizes = [*map(len, stories)]
        upstream, more = _upstream_ids(records)
        columns = [
            f"{{{ids.hex(',', 16)}}}",
            f"{{{','.join(of_rows)}}}",
            _texts([record.client_request_id for record in records]),
            _texts([record.trace_id for record in records]),
            b"".join(stories),
            f"{{{','.join(map(str, accumulate(sizes[:-1], initial=1)))}}}",
            f"{{{','.join(map(str, sizes))}}}",
            _texts(upstream),
        ]
        return Rows(columns + kinds_of(firsts), more)

    def _story(self, record: RequestRecord, bytes_max: int) -> bytes:
        packed = self.packed.get(record.id.int)
        is_short = packed is not None and len(packed) <= bytes_max
        return seal(packed) if packed and is_short else encode_story(self.whole(record), bytes_max)


def swift(frames: list[tuple[int, bytes]], bytes_max: int) -> tuple[Rows, list[Tally]] | None:
    """Return the rows of frames that are all usual stories and what they used, made by the compiled form.

    None where there is none, or a frame is anything else: a `Shipment` reads all of them then.
    """
    if _kernel is None:
        return None
    try:
        found = _kernel.read(frames, bytes_max, lambda packed: encode_story(unpack(packed), bytes_max))
    except (msgspec.MsgspecError, ValueError):
        return None
    if found is None:
        return None
    ids, of_rows, clients, traces, stories, starts, sizes, upstream, more, tallies = found
    columns = [ids, of_rows, _texts(clients), _texts(traces), stories, starts, sizes, _texts(upstream)]
    firsts = [each.record for each in tallies]
    named = [_named(firsts[place], request_id, text) for place, request_id, text in more]
    return Rows(columns + kinds_of(firsts), [list(each) for each in zip(*named, strict=True)]), tallies


def text_of(value: str | None) -> str | None:
    """Return the text without NUL, which PostgreSQL cannot hold."""
    return None if value is None else value.replace("\0", "\ufffd")


def kind_of(record: RequestRecord) -> tuple[Any, ...]:
    """Return the values that most records share with others of their batch, as the store keeps them."""
    return (
        record.organization_id or SYSTEM_ORGANIZATION_ID,
        record.workspace_id,
        record.key_id,
        text_of(record.endpoint) or "",
        text_of(record.alias),
        record.outcome,
        record.status,
        record.complete,
    )


def kinds_of(firsts: list[RequestRecord]) -> list[Any]:
    """Return the columns of kinds, each told by one of its records."""
    return list(zip(*map(kind_of, firsts), strict=True))


def _upstream_ids(records: list[RequestRecord]) -> tuple[list[str | None], list[list[Any]]]:
    """Return the id of each record that its last upstream gave, and rows for those that were given before."""
    last: list[str | None] = []
    more: list[tuple[Any, ...]] = []
    for record in records:
        named = [each.upstream_request_id for each in record.attempts if each.upstream_request_id]
        last.append(named[-1] if named else None)
        more += [_named(record, record.id, text) for text in named[:-1]]
    return last, [list(each) for each in zip(*more, strict=True)]


def _named(record: RequestRecord, request_id: UUID, upstream_request_id: str) -> tuple[Any, ...]:
    organization_id = record.organization_id or SYSTEM_ORGANIZATION_ID
    return organization_id, text_of(upstream_request_id), request_id, record.workspace_id


def _texts(values: list[str | None]) -> list[str | None] | None:
    """Return a column of texts, or None where none has one."""
    return None if values.count(None) == len(values) else [text_of(value) for value in values]
