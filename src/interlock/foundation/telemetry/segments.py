"""Files that take closed frames when the ring is full: written once, shipped from the oldest, deleted.

Does not decide what spills; the spool does.
"""

import os
from collections import deque
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from interlock.foundation.telemetry.frames import HEADER, checksum, frame_bytes, parse

# Larger than any frame, and as much as is read of a file for one shipment: not the file each time.
_PIECE_BYTES: Final = 256 << 10


@dataclass(slots=True)
class _Segment:
    path: Path
    written: int
    taken: int = 0


class Segments:
    """All segment files of one ring, together at most `bytes_max`."""

    def __init__(self, ring: Path, segment_bytes: int, bytes_max: int) -> None:
        self._folder = ring.parent
        self._stem = ring.stem
        self._segment_bytes = segment_bytes
        self.bytes_max = bytes_max
        found = sorted(self._folder.glob(f"{self._stem}.*.seg"))
        self._segments = deque(_Segment(path, path.stat().st_size) for path in found)
        self._next = int(found[-1].suffixes[-2][1:]) + 1 if found else 1
        # A file of an earlier process may end in a torn frame, so nothing is appended to it.
        self._output: int | None = None
        self.bytes_total = sum(each.written for each in self._segments)
        self.pending = sum(_count(each.path) for each in self._segments)

    def has_room(self, size: int) -> bool:
        """Tell whether a frame of this size still fits."""
        return self.bytes_total + size <= self.bytes_max

    def append(self, frames: list[tuple[int, bytes]]) -> None:
        """Write frames; the caller has checked the room."""
        segment = self._open_segment()
        self.pending += len(frames)
        parts = []
        for kind, payload in frames:
            position = segment.written
            size = frame_bytes(len(payload))
            head = HEADER.pack(len(payload), checksum(position, kind, payload), position, kind)
            parts.append((head + payload).ljust(size, b"\0"))
            segment.written += size
            self.bytes_total += size
        buffer = memoryview(b"".join(parts))
        while buffer and self._output is not None:
            buffer = buffer[os.write(self._output, buffer) :]
        if segment.written >= self._segment_bytes:
            self._seal()

    def _open_segment(self) -> _Segment:
        if self._output is None:
            path = self._folder / f"{self._stem}.{self._next:08d}.seg"
            self._next += 1
            self._output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._segments.append(_Segment(path, 0))
        return self._segments[-1]

    def _seal(self) -> None:
        if self._output is not None:
            os.close(self._output)
            self._output = None

    def __bool__(self) -> bool:
        return bool(self._segments)

    def take(self, frames_max: int) -> tuple[list[tuple[int, bytes]], int]:
        """Return frames of the oldest file and the mark to hand to `shipped`."""
        segment = self._segments[0]
        if len(self._segments) == 1:
            self._seal()
        frames: list[tuple[int, bytes]] = []
        start = position = segment.taken
        with segment.path.open("rb", buffering=0) as file:
            content = _piece(file, start)
            while len(frames) < frames_max:
                frame = parse(content, position - start, position)
                if frame is None and position > start:
                    # It may only be cut by the end of the piece.
                    start, content = position, _piece(file, position)
                    frame = parse(content, 0, position)
                if frame is None:
                    # The end, or a torn last frame.
                    position = segment.written
                    break
                frames.append(frame)
                position += frame_bytes(len(frame[1]))
        return frames, position

    def shipped(self, mark: int, frames: int) -> None:
        """Forget the frames before `mark` of the oldest file, and the file when it is done."""
        segment = self._segments[0]
        segment.taken = mark
        self.pending -= frames
        if mark >= segment.written:
            self._segments.popleft()
            segment.path.unlink(missing_ok=True)
            self.bytes_total -= segment.written

    def close(self) -> None:
        """Close the file that is written to."""
        self._seal()


def _piece(file: FileIO, position: int) -> bytes:
    return os.pread(file.fileno(), _PIECE_BYTES, position)


def _count(path: Path) -> int:
    content = path.read_bytes()
    position = frames = 0
    while (frame := parse(content, position, position)) is not None:
        position += frame_bytes(len(frame[1]))
        frames += 1
    return frames
