"""Requests between their first byte and the store: a frame is opened, noted, closed, and later shipped.

Survives the death of its process; a request that was open then has the outcome `worker_lost`. Ships nothing.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.native import load
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry.clean import Clean
from interlock.foundation.telemetry.config import TelemetryConfig
from interlock.foundation.telemetry.frames import (
    HEADER_BYTES,
    Kind,
    decode_record,
    encode,
    frame_bytes,
)
from interlock.foundation.telemetry.records import Addendum, RequestRecord
from interlock.foundation.telemetry.recovery import Found, scan
from interlock.foundation.telemetry.ring import CorruptRingError, Ring
from interlock.foundation.telemetry.segments import Segments
from interlock.foundation.telemetry.story import Story, cut_details, lose, pack, told, unpack, whole, without_details

log = structlog.get_logger("interlock.telemetry")
_ID_BYTES: Final = 16
# Open frames that a shipment carries forward; more of them wait until the ring comes round.
_CARRIED_MAX: Final = 64
_SHIPPED_KINDS: Final = frozenset({int(Kind.STORY), int(Kind.ADDENDUM), int(Kind.CLOSE)})
# As numbers: asking the class for a member costs more than the rest of a call.
_BEGUN: Final = int(Kind.BEGUN)
_STORY: Final = int(Kind.STORY)
_kernel: Final = load("interlock.foundation.telemetry._native_story")


@dataclass(frozen=True, slots=True)
class SpoolStatistics:
    """What the spool holds and what it gave up; the drops are counted since the process started."""

    ring_bytes: int
    ring_bytes_used: int
    segment_bytes: int
    segment_bytes_max: int
    pending: int
    open: int
    dropped_detail: int
    dropped_usage: int
    recovered_lost: int
    corrupt_files: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Closed frames to be shipped, oldest first, and where they end."""

    frames: list[tuple[int, bytes]]
    positions: list[int]
    mark: int
    is_segment: bool


class Frame:
    """One open request with its story so far. `note` while it runs, `close` once."""

    __slots__ = ("_spool", "identity", "live_from", "story")

    def __init__(self, spool: "Spool", story: Story) -> None:
        self._spool = spool
        # As a number, which is made and hashed faster than its bytes.
        self.identity = story.id.int
        self.story = story
        self.live_from = -1

    def note(self, **fields: Any) -> None:
        """Write down the story as it stands, with these fields; it is what a `worker_lost` story will show."""
        for name, value in fields.items():
            setattr(self.story, name, value)
        self._spool.keep_up(self)

    def close(self, record: RequestRecord) -> None:
        """Hand the finished record, or story, over to the shipper. A second call does nothing."""
        self._spool.settle(self.identity, record if isinstance(record, Story) else told(record))

    def discard(self) -> None:
        """Forget the request: nothing of it is shipped. For requests that are counted instead of told."""
        self._spool.forget(self.identity)


class Spool:
    """The ring and segment files of one process; used from one thread."""

    def __init__(
        self, path: Path, clock: Clock, config: TelemetryConfig | None = None, redactor: Redactor | None = None
    ) -> None:
        """Open or create the ring at `path`. Raises `RingBusyError` while another process holds it.

        Free text is redacted before it is written, so that no file of the spool holds a secret.
        """
        self._clean = Clean(redactor or Redactor())
        self._clock = clock
        self._config = config or TelemetryConfig()
        self._open: dict[int, Frame] = {}
        self._ring_pending = 0
        self._path = path
        self._dropped_detail = self._dropped_usage = 0
        self._recovered_lost = self._corrupt_files = 0
        self._segments = Segments(path, self._config.segment_bytes, self._config.segments_bytes_max)
        self._ring = self._opened_ring(path)
        # Copies of open frames go into this much before the space they leave is given up.
        self._spill_bytes = min(self._config.spill_bytes, self._ring.capacity // 8)
        self._reserve = self._spill_bytes
        self._payload_bytes_max = min(self._config.frame_bytes_max, self._ring.capacity // 16) - HEADER_BYTES
        self._recover()
        scribe = _kernel and _kernel.Scribe(self._ring, self._clean, self._payload_bytes_max, self._reserve)
        self._write: Callable[[int, Story], int | None] = scribe.write if scribe else _unwritten

    def open(self, request_id: UUID, started_us: int, method: str, target: str) -> Frame:
        """Begin the frame of a request of which nothing else is known."""
        endpoint = target.partition("?")[0]
        return self.begin(Story(id=request_id, started_us=started_us, endpoint=endpoint, method=method, target=target))

    def begin(self, story: Story) -> Frame:
        """Begin the frame of a request, with its story so far."""
        frame = Frame(self, story)
        frame.live_from = self._write_begun(frame)
        self._open[frame.identity] = frame
        return frame

    def keep_up(self, frame: Frame) -> None:
        """Write the story of an open frame as it stands; the frame before it is needed no more."""
        frame.live_from = max(frame.live_from, self._write_begun(frame))

    def _write_begun(self, frame: Frame) -> int:
        position = self._write(_BEGUN, frame.story)
        return self.put(Kind.BEGUN, self._begun(frame)) if position is None else position

    def _begun(self, frame: Frame) -> bytes:
        # Bounded like a closed one: a frame that is too long to be copied would keep the ring from moving on.
        return frame.story.id.bytes + self._fitting(self._clean.story(frame.story), self._payload_bytes_max - _ID_BYTES)

    def append(self, addendum: Addendum) -> None:
        """Add decisions or links to a request whose record is another process's."""
        self._keep(Kind.ADDENDUM, encode(self._clean.addendum(addendum)))

    def forget(self, identity: int) -> None:
        """End a frame without a record; the ring says so too, or a restart would take the request for lost."""
        if self._open.pop(identity, None) is not None:
            self.put(Kind.FORGET, identity.to_bytes(_ID_BYTES, "big"))

    def settle(self, identity: int, story: Story) -> None:
        """Write the story of a request that has ended, and end its frame."""
        if self._open.pop(identity, None) is None:
            return
        if self._write(_STORY, story) is None:
            self._keep(Kind.STORY, self._fitting(self._clean.story(story), self._payload_bytes_max))
        else:
            self._ring_pending += 1

    def _fitting(self, story: Story, bytes_max: int) -> bytes:
        payload = encode(story)
        if len(payload) <= bytes_max:
            return payload
        self._dropped_detail += 1
        return pack(cut_details(whole(story), bytes_max))

    def _keep(self, kind: int, payload: bytes) -> None:
        """Write a frame that has to be shipped."""
        if self.put(kind, payload) >= 0:
            self._ring_pending += 1
        else:
            self._dropped_usage += kind == Kind.STORY

    def put(self, kind: int, payload: bytes) -> int:
        """Write a frame and return its position, or -1 where there is no room for it."""
        # A frame that does not fit before the edge of the ring is written behind a pad, so twice its size.
        need = 2 * frame_bytes(len(payload)) + self._reserve
        ring = self._ring
        if ring.capacity - ring.head + ring.tail < need and not self._make_room(need):
            self._dropped_detail += kind != Kind.STORY
            return -1
        return ring.append(kind, payload)

    def take(self, frames_max: int) -> Batch | None:
        """Return the oldest closed frames, or None; they stay until `shipped` is called with the batch."""
        if self._segments:
            frames, mark = self._segments.take(frames_max)
            return Batch(frames, [], mark, is_segment=True)
        frames, positions, position = self._ring.taken(_SHIPPED_KINDS, frames_max)
        if frames:
            return Batch(frames, positions, position, is_segment=False)
        # Only open frames and notes on the way: the next call need not walk over them again.
        self._ring.move(shipped=position)
        return None

    def shipped(self, batch: Batch) -> None:
        """Give up the space of a batch that is in the store."""
        if batch.is_segment:
            self._segments.shipped(batch.mark, len(batch.frames))
            return
        # What spilled meanwhile is pending in a segment file and will be shipped once more, to no effect.
        self._ring_pending -= len(batch.positions) - bisect_left(batch.positions, self._ring.shipped)
        self._ring.move(shipped=batch.mark)
        self._reclaim()
        # The few that run for long are carried forward, so that they do not hold the ring open behind them.
        while self._ring.shipped - self._ring.tail > self._spill_bytes and len(self._open) <= _CARRIED_MAX:
            if not self._spill():
                break
        self._ring.turn(2 * self._reserve)

    def _reclaim(self) -> None:
        """Move the tail over frames that nobody needs any more."""
        ring = self._ring
        head, shipped, step = ring.head, ring.shipped, ring.step
        # Before what is shipped and every frame that is open there is nothing to be looked at.
        position = max(ring.tail, min([shipped, *(frame.live_from for frame in self._open.values())]))
        while position < head:
            kind, here, place, following = step(position)
            if kind == _BEGUN:
                if self._live(here, place) is not None:
                    break
            elif here >= shipped and kind in _SHIPPED_KINDS:
                break
            position = following
        ring.move(tail=position)

    def _live(self, position: int, place: int) -> Frame | None:
        frame = self._open.get(int.from_bytes(self._ring.peek(place, _ID_BYTES), "big"))
        return frame if frame is not None and frame.live_from <= position else None

    def _make_room(self, need: int) -> bool:
        self._reclaim()
        for _ in range(self._ring.capacity // self._spill_bytes + 1):
            if self._ring.free >= need:
                return True
            if not self._spill():
                return False
        return self._ring.free >= need

    def _spill(self) -> bool:
        """Free a stretch at the tail: closed frames go to a segment file, open ones are copied to the head."""
        ring = self._ring
        position, end = ring.tail, min(ring.tail + self._spill_bytes, ring.head)
        closed: list[tuple[int, bytes]] = []
        copies: dict[int, tuple[Frame, bytes]] = {}
        room = ring.free
        while position < end:
            kind, here, place, following = ring.step(position)
            frame = self._live(here, place) if kind == _BEGUN else None
            if frame is not None:
                payload = self._begun(frame)
                room -= 2 * frame_bytes(len(payload))
                if room < 0:
                    break
                copies[frame.identity] = (frame, payload)
            elif kind in _SHIPPED_KINDS and here >= ring.shipped:
                closed.append((kind, ring.payload(here)))
            position = following
        for frame, payload in copies.values():
            frame.live_from = ring.append(Kind.BEGUN, payload)
        self._to_segment(closed)
        moved = position > ring.tail
        ring.move(tail=position)
        return moved

    def _to_segment(self, closed: list[tuple[int, bytes]]) -> None:
        self._ring_pending -= len(closed)
        is_slim = self._segments.bytes_total * 100 >= self._segments.bytes_max * self._config.slim_percent
        kept: list[tuple[int, bytes]] = []
        size = 0
        for kind, payload in closed:
            if is_slim and kind == Kind.ADDENDUM:
                self._dropped_detail += 1
                continue
            if is_slim:
                self._dropped_detail += 1
                slim = _slim(kind, payload)
            else:
                slim = payload
            if not self._segments.has_room(size + frame_bytes(len(slim))):
                self._dropped_usage += 1
                continue
            size += frame_bytes(len(slim))
            kept.append((kind, slim))
        if not kept:
            return
        try:
            self._segments.append(kept)
        except OSError as error:
            self._dropped_usage += len(kept)
            log.warning("spool_segment_failed", path=str(self._path), error=str(error), dropped=len(kept))

    @property
    def pending(self) -> int:
        """Closed frames that are not in the store yet."""
        return self._ring_pending + self._segments.pending

    def statistics(self) -> SpoolStatistics:
        """Return fill and drops."""
        return SpoolStatistics(
            ring_bytes=self._ring.capacity,
            ring_bytes_used=self._ring.used,
            segment_bytes=self._segments.bytes_total,
            segment_bytes_max=self._segments.bytes_max,
            pending=self.pending,
            open=len(self._open),
            dropped_detail=self._dropped_detail,
            dropped_usage=self._dropped_usage,
            recovered_lost=self._recovered_lost,
            corrupt_files=self._corrupt_files,
        )

    def close(self) -> None:
        """Unmap the ring; what is not shipped stays in the file."""
        self._segments.close()
        self._ring.close()

    def remove(self) -> None:
        """Delete the ring of a process that is not started again; all of it has been shipped."""
        # Unlinked while it is locked, so that nobody can have begun to write into it.
        self._path.unlink()
        self.close()

    def _opened_ring(self, path: Path) -> Ring:
        try:
            return Ring(path, self._config.ring_bytes)
        except CorruptRingError as error:
            self._set_aside(str(error))
            return Ring(path, self._config.ring_bytes)

    def _set_aside(self, finding: str) -> None:
        self._corrupt_files += 1
        kept_as = self._path.with_name(f"{self._path.name}.corrupt-{self._clock.now_us()}")
        self._path.rename(kept_as)
        log.warning("spool_set_aside", path=str(self._path), kept_as=str(kept_as), finding=finding)

    def _recover(self) -> None:
        """Take over what an earlier process left: its closed frames are pending, its open ones lost."""
        if self._ring.is_new:
            return
        found = scan(self._ring)
        if found.is_corrupt:
            self._rebuild(found)
        else:
            self._ring.adopt_head(found.end)
            self._ring_pending = len(found.pending)
        now_us = self._clock.now_us()
        for story in found.open.values():
            lose(story, now_us)
            self._keep(Kind.STORY, self._fitting(story, self._payload_bytes_max))
        self._recovered_lost = len(found.open)
        if found.open:
            log.warning("requests_lost_with_worker", path=str(self._path), requests=len(found.open))

    def _rebuild(self, found: Found) -> None:
        """Copy what verifies into a new ring, then keep the damaged file apart."""
        damaged = self._ring
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)
        self._ring = Ring(fresh, self._config.ring_bytes)
        for position in found.pending:
            frame = damaged.verified(position)
            if frame is not None:
                self._keep(*frame[:2])
        damaged.close()
        self._set_aside("frames that do not verify")
        fresh.rename(self._path)


def _unwritten(_kind: int, _story: Story) -> int | None:
    """Leave a frame to the form in Python, where there is no other."""
    return None


def _slim(kind: int, payload: bytes) -> bytes:
    if kind == Kind.STORY:
        return pack(without_details(unpack(payload)))
    return encode(without_details(decode_record(payload)))
