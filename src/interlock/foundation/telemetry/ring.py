"""A memory-mapped ring of frames in one file: written pages outlive the death of the process.

Knows positions and bytes, not what a frame means; not safe against power loss, and never calls fsync.
"""

import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Final
from zlib import crc32

from interlock.foundation.native import load
from interlock.foundation.telemetry.frames import ALIGNMENT, HEADER, HEADER_BYTES, Kind, checksum, frame_bytes, parse

_MAGIC: Final = b"ilspool1"
PREAMBLE: Final = 4_096
# magic, capacity; then from byte 64 on, each a machine word that is written at once: tail, shipped, head.
_FIXED: Final = struct.Struct("<8sQ")
_TAIL, _SHIPPED, _HEAD = 8, 9, 10
# Pages behind the tail leave the process, not the file, in steps of this size: its memory stays flat.
_RELEASE_BYTES: Final = 1 << 20
# Those at the beginning stay, and the ring turns back to them early where it can: the first write into a page of a file
# costs more than a frame.
_HOT_BYTES: Final = 3 << 20
_TURN_BYTES: Final = 2 << 20
# As a number: asking the class for a member costs more than a step.
_PAD: Final = int(Kind.PAD)
_kernel: Final = load("interlock.foundation.telemetry._native_ship")
Taken = tuple[list[tuple[int, bytes]], list[int], int]


class RingBusyError(RuntimeError):
    """Another process holds the ring."""


class CorruptRingError(RuntimeError):
    """The preamble of the file makes no sense."""


class Ring:
    """Frames at positions that only rise; `position % capacity` is the place in the file.

    `tail` is the oldest position still needed, `shipped` the position up to which closed frames are in the
    store, `head` the next to be written.
    """

    __slots__ = (
        "_file", "_map", "_released", "_turned_at", "_turned_over", "_view", "_words", "capacity", "head", "is_new",
        "path", "shipped", "tail",
    )  # fmt: skip

    def __init__(self, path: Path, capacity: int) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise RingBusyError(str(path)) from error
        try:
            self.is_new = os.fstat(self._file).st_size == 0
            self.capacity = capacity & -ALIGNMENT if self.is_new else self._capacity_of_file()
            self._map = self._mapped()
        except (OSError, CorruptRingError):
            os.close(self._file)
            raise
        self._view = memoryview(self._map)
        self._words = self._view.cast("Q")
        self.tail, self.shipped, self.head = (int(self._words[n]) for n in (_TAIL, _SHIPPED, _HEAD))
        if not self.tail <= self.head <= self.tail + self.capacity or self.shipped > self.head:
            self.close()
            raise CorruptRingError(f"{path}: tail {self.tail}, shipped {self.shipped}, head {self.head}")

        self._released = self.tail
        # Where the ring turned back last, and over how many bytes.
        self._turned_at, self._turned_over = -1, 0

    def _capacity_of_file(self) -> int:
        magic, capacity = _FIXED.unpack(os.pread(self._file, _FIXED.size, 0).ljust(_FIXED.size, b"\0"))
        if magic != _MAGIC or os.fstat(self._file).st_size != PREAMBLE + capacity:
            raise CorruptRingError(f"{self.path}: not a ring")
        return int(capacity)

    def _mapped(self) -> mmap.mmap:
        if self.is_new:
            # Allocated now, so that a full disk is an error here and not a SIGBUS under a request.
            try:
                os.posix_fallocate(self._file, 0, PREAMBLE + self.capacity)
            except OSError:
                # Half a file would be taken for a damaged ring at the next start.
                os.ftruncate(self._file, 0)
                raise
            os.pwrite(self._file, _FIXED.pack(_MAGIC, self.capacity), 0)
        return mmap.mmap(self._file, PREAMBLE + self.capacity)

    @property
    def free(self) -> int:
        """Bytes that can be written before `tail` must move."""
        return self.capacity - (self.head - self.tail)

    @property
    def used(self) -> int:
        """Bytes that frames take, without what was turned over."""
        return self.head - self.tail - (self._turned_over if self.tail <= self._turned_at else 0)

    def append(self, kind: int, payload: bytes) -> int:
        """Write a frame at `head` and return its position; the caller has made room for it and a pad."""
        length = len(payload)
        # What `frame_bytes` and `checksum` say, without the calls: every story passes here twice.
        size = (HEADER_BYTES + length + ALIGNMENT - 1) & -ALIGNMENT
        position = self.head
        offset = position % self.capacity
        if offset + size > self.capacity:
            position += self._pad(position, offset)
            offset = 0
        start = PREAMBLE + offset
        crc = crc32(payload, (position ^ kind << 24 ^ length << 8) & 0xFFFFFFFF)
        self._view[start : start + HEADER_BYTES + length] = HEADER.pack(length, crc, position, kind) + payload
        self.head = self._words[_HEAD] = position + size
        return position

    def turn(self, free: int) -> None:
        """Go on at the beginning, if that leaves `free` bytes to be written before `tail` must move."""
        offset = self.head % self.capacity
        if offset - (self.head - self.tail) >= max(free, _TURN_BYTES):
            self._turned_at, self._turned_over = self.head, self._pad(self.head, offset)
            self.head = self._words[_HEAD] = self.head + self._turned_over

    def _pad(self, position: int, offset: int) -> int:
        rest = self.capacity - offset
        if rest >= HEADER_BYTES:
            HEADER.pack_into(self._map, PREAMBLE + offset, 0, checksum(position, Kind.PAD, b""), position, Kind.PAD)
        return rest

    def step(self, position: int) -> tuple[int, int, int, int]:
        """Return kind, position, payload place and next position of the trusted frame at `position`."""
        offset = position % self.capacity
        rest = self.capacity - offset
        if rest < HEADER_BYTES:
            return _PAD, position, 0, position + rest
        length, _, _, kind = HEADER.unpack_from(self._map, PREAMBLE + offset)
        if kind == _PAD:
            return kind, position, 0, position + rest
        size = (HEADER_BYTES + length + ALIGNMENT - 1) & -ALIGNMENT
        return kind, position, PREAMBLE + offset + HEADER_BYTES, position + size

    def taken(self, kinds: frozenset[int], frames_max: int) -> Taken:
        """Return trusted frames of these kinds from `shipped` on, their positions, and how far that is.

        What `step` and `payload` say, without the calls: every story passes here.
        """
        if _kernel is not None:
            taken: Taken = _kernel.taken(self._map, self.shipped, self.head, self.capacity, kinds, frames_max)
            return taken
        frames: list[tuple[int, bytes]] = []
        positions: list[int] = []
        position, head, capacity, content = self.shipped, self.head, self.capacity, self._map
        while position < head and len(frames) < frames_max:
            offset = position % capacity
            rest = capacity - offset
            if rest < HEADER_BYTES:
                position += rest
                continue
            start = PREAMBLE + offset + HEADER_BYTES
            length, _, _, kind = HEADER.unpack_from(content, start - HEADER_BYTES)
            if kind in kinds:
                frames.append((kind, content[start : start + length]))
                positions.append(position)
            position += rest if kind == _PAD else (HEADER_BYTES + length + ALIGNMENT - 1) & -ALIGNMENT
        return frames, positions, position

    def payload(self, position: int) -> bytes:
        """Return the payload of the trusted frame at `position`."""
        start = PREAMBLE + position % self.capacity
        (length,) = struct.unpack_from("<I", self._map, start)
        return self._map[start + HEADER_BYTES : start + HEADER_BYTES + length]

    def peek(self, place: int, count: int) -> bytes:
        """Return bytes at a place that `step` named."""
        return self._map[place : place + count]

    def verified(self, position: int) -> tuple[int, bytes, int] | None:
        """Return kind, payload and next position of the frame at `position` when its checksum holds."""
        offset = position % self.capacity
        rest = self.capacity - offset
        if rest < HEADER_BYTES:
            return Kind.PAD, b"", position + rest
        frame = parse(self._view, PREAMBLE + offset, position)
        if frame is None:
            return None
        kind, payload = frame
        return kind, payload, position + (rest if kind == Kind.PAD else frame_bytes(len(payload)))

    def resync(self, position: int) -> int | None:
        """Return the next verified position behind bad bytes, before `head`, or None."""
        for candidate in range(position + ALIGNMENT, self.head, ALIGNMENT):
            offset = candidate % self.capacity
            # The position word alone sorts out nearly every place without a checksum.
            if offset + HEADER_BYTES > self.capacity or self._words[(PREAMBLE + offset) // 8 + 1] != candidate:
                continue
            if self.verified(candidate) is not None:
                return candidate
        return None

    def move(self, *, tail: int | None = None, shipped: int | None = None) -> None:
        """Move the marks forward; they are durable before the space behind them is written again."""
        if shipped is not None and shipped > self.shipped:
            self.shipped = self._words[_SHIPPED] = shipped
        if tail is not None and tail > self.tail:
            self.tail = self._words[_TAIL] = tail
            if self.shipped < tail:
                self.shipped = self._words[_SHIPPED] = tail
            if tail - self._released >= _RELEASE_BYTES:
                self._release()

    def _release(self) -> None:
        offset = self._released % self.capacity
        length = min(self.tail - self._released, self.capacity - offset)
        begin = PREAMBLE + max(offset, _HOT_BYTES)
        start = (begin + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        end = (PREAMBLE + offset + length) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
        self._released += length

    def adopt_head(self, head: int) -> None:
        """Take the end that a scan found, after a death between a frame and its mark."""
        self.head = self._words[_HEAD] = head

    def close(self) -> None:
        """Unmap the file and give up the lock."""
        self._words.release()
        self._view.release()
        self._map.close()
        os.close(self._file)
