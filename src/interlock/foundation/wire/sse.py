"""Server-Sent Events as WHATWG HTML, section 9.2, defines them: parser, encoder, bounded replay.

Does not read or write sockets; heartbeats are sent by `Exchange.heartbeat`.
"""

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

HEARTBEAT: Final = b": keep-alive\n\n"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class SseTooLongError(ValueError):
    """A single event is longer than the bound of the parser."""


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One dispatched event; `id` is the last event id in force, `retry` the latest reconnection time in ms."""

    event: str
    data: str
    id: str
    retry: int | None


class SseParser:
    """Turns bytes, split anywhere, into events. An event that the stream never finished is not dispatched."""

    def __init__(self, event_bytes_max: int = 4_194_304) -> None:
        self._event_bytes_max = event_bytes_max
        self._pending = bytearray()
        self._is_start = True
        self._is_after_cr = False
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._event = ""
        self._id = ""
        self._retry: int | None = None

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Return the events completed by `chunk`, in order. Raises `SseTooLongError`."""
        if self._is_after_cr and chunk:
            # The CR already ended its line, so an event does not wait for the LF of a split CRLF.
            self._is_after_cr = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if self._pending:
            self._pending += chunk
            chunk = bytes(self._pending) if b"\n" in chunk or b"\r" in chunk else b""
        events: list[SseEvent] = []
        at = 0
        for end in _LINE_END.finditer(chunk):
            self._take_line(chunk[at : end.start()], events)
            at = end.end()
        if at:
            self._is_after_cr = chunk[-1:] == b"\r"
            self._pending = bytearray(chunk[at:])
        elif chunk and not self._pending:
            self._pending += chunk
        if len(self._pending) + self._data_bytes > self._event_bytes_max:
            raise SseTooLongError(f"an event is longer than {self._event_bytes_max} bytes")
        return events

    def _take_line(self, line: bytes, events: list[SseEvent]) -> None:
        if self._is_start:
            self._is_start = False
            line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._event_bytes_max:
                raise SseTooLongError(f"an event is longer than {self._event_bytes_max} bytes")
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            self._retry = int(value[:15])

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data:
            text = b"\n".join(self._data).decode("utf-8", "replace")
            events.append(SseEvent(self._event or "message", text, self._id, self._retry))
        self._data = []
        self._data_bytes = 0
        self._event = ""


def encode_event(
    data: bytes | str | None = None,
    *,
    event: str | None = None,
    id: str | None = None,  # noqa: A002 - the field's own name
    retry: int | None = None,
) -> bytes:
    """Return one event; `data` may have lines, the other fields may not. Raises `ValueError` when they do."""
    lines: list[bytes] = []
    for name, value in ((b"event", event), (b"id", id)):
        if value is None:
            continue
        if any(char in value for char in "\r\n\0"):
            raise ValueError(f"the {name.decode()} of an event is one line")
        lines.append(name + b": " + value.encode() + b"\n")
    if retry is not None:
        lines.append(b"retry: %d\n" % retry)
    if data is not None:
        content = data.encode() if isinstance(data, str) else data
        if b"\n" in content or b"\r" in content:
            lines += [b"data: " + line + b"\n" for line in _LINE_END.split(content)]
        else:
            lines.append(b"data: " + content + b"\n")
    lines.append(b"\n")
    return b"".join(lines)


class SseReplay:
    """The latest encoded events by id, for clients that come back with `last-event-id`; bounded twice."""

    def __init__(self, events_max: int = 1_000, bytes_max: int = 1_048_576) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._kept: deque[tuple[str, bytes]] = deque()
        self.bytes_held = 0

    def add(self, event_id: str, encoded: bytes) -> None:
        """Keep an event; the oldest ones go when a bound is passed."""
        self._kept.append((event_id, encoded))
        self.bytes_held += len(encoded)
        while self._kept and (len(self._kept) > self._events_max or self.bytes_held > self._bytes_max):
            self.bytes_held -= len(self._kept.popleft()[1])

    def after(self, last_id: str) -> list[bytes] | None:
        """Return the events behind `last_id`, or None when that one is no longer (or was never) held."""
        ids = [event_id for event_id, _ in self._kept]
        if last_id not in ids:
            return None
        return [encoded for _, encoded in list(self._kept)[ids.index(last_id) + 1 :]]
