"""What an earlier process left in a ring: closed frames that were not shipped, and frames still open.

Changes nothing in the file; the spool decides what becomes of what is found.
"""

from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from interlock.foundation.telemetry.frames import Kind, decode_addendum, decode_note, decode_opened, decode_record
from interlock.foundation.telemetry.records import Note, RequestRecord
from interlock.foundation.telemetry.ring import Ring
from interlock.foundation.telemetry.story import Story, decode_packed, read_packed, told

_ID_BYTES = 16


@dataclass(slots=True)
class Found:
    """The content of a ring; `pending` are positions, `open` is by request id, `end` is the true head."""

    end: int
    pending: list[int] = field(default_factory=list)
    open: dict[bytes, Story] = field(default_factory=dict)
    is_corrupt: bool = False


def scan(ring: Ring) -> Found:
    """Walk the ring from its tail, verifying each frame; a gap of bad bytes is skipped and reported."""
    found = Found(ring.tail)
    position: int | None = ring.tail
    limit = ring.tail + ring.capacity
    while position is not None and position < limit:
        frame = ring.verified(position)
        if frame is None:
            if position >= ring.head:
                break
            # A frame torn by a kill lies at the head mark, which moves last; before it, bytes have changed.
            found.is_corrupt = True
            position = ring.resync(position)
            continue
        kind, payload, following = frame
        try:
            _apply(found, kind, payload, position, is_shipped=position < ring.shipped)
        except (msgspec.MsgspecError, ValueError):
            found.is_corrupt = True
        position = found.end = following
    return found


def _apply(found: Found, kind: int, payload: bytes, position: int, *, is_shipped: bool) -> None:
    if kind == Kind.BEGUN:
        found.open[payload[:_ID_BYTES]] = decode_packed(payload[_ID_BYTES:])
    elif kind == Kind.OPEN:
        found.open[payload[:_ID_BYTES]] = _opened(payload[:_ID_BYTES], payload[_ID_BYTES:])
    elif kind == Kind.NOTE:
        story = found.open.get(payload[:_ID_BYTES])
        if story is not None:
            _add(story, decode_note(payload[_ID_BYTES:]))
    elif kind in (Kind.STORY, Kind.CLOSE):
        record = read_packed(payload) if kind == Kind.STORY else decode_record(payload)
        found.open.pop(record.id.bytes, None)
        if not is_shipped:
            found.pending.append(position)
    elif kind == Kind.FORGET:
        found.open.pop(payload, None)
    elif kind == Kind.ADDENDUM:
        decode_addendum(payload)
        if not is_shipped:
            found.pending.append(position)


def _opened(identity: bytes, content: bytes) -> Story:
    """Return what an older ring says of a request that it opened."""
    opened = decode_opened(content)
    story = Story(
        id=UUID(bytes=identity),
        started_us=opened.started_us,
        endpoint=opened.target.partition("?")[0],
        method=opened.method,
        target=opened.target,
    )
    _add(story, opened.note)
    return story


def _add(story: Story, note: Note) -> None:
    """Add what an older ring noted."""
    for name in Note.__struct_fields__:
        value = getattr(note, name)
        if name != "decisions" and value is not None:
            setattr(story, name, value)
    noted = RequestRecord(id=story.id, started_us=story.started_us, decisions=note.decisions)
    story.decisions += told(noted).decisions
