"""Content encodings undone in bounded steps: what a few octets can blow up to is known before it is held.

Does not read the network and keeps nothing but the body itself.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import brotli
import zstandard
from isal import isal_zlib
from isal.igzip_lib import IsalError

STEP_BYTES: Final = 64 * 1024
LAYERS_MAX: Final = 2
BOMB_RATIO: Final = 100
BOMB_BYTES_MIN: Final = 1024 * 1024
_ZSTD_WINDOW_MAX: Final = 8 * 1024 * 1024
_GZIP_OR_ZLIB: Final = 47
_ZSTD_SLICE_BYTES: Final = 64
_GZIP_MAGIC: Final = b"\x1f\x8b"
_IDENTITY: Final = frozenset({"", "identity", "none"})


class BadEncodingError(Exception):
    """The octets are not what Content-Encoding says, or it names an encoding that is not known."""


class BombError(Exception):
    """A small body became a large one: past the ratio, or in too many layers."""


class TooLargeError(Exception):
    """The decoded body is past its limit."""


class _Layer(Protocol):
    """Undoes one encoding."""

    def feed(self, octets: bytes) -> Iterator[bytes]:
        """Yield what the octets decode to, in pieces of at most about STEP_BYTES."""
        ...

    def is_complete(self) -> bool:
        """Tell whether the encoded stream has come to its own end."""
        ...


@dataclass(slots=True)
class Body:
    """Collects a body. Raises the errors of this module from `feed` and `finish`.

    With `truncate`, a body past the limit is cut and `is_full` is set.
    """

    bytes_max: int
    layers: list["_Counted"]
    truncate: bool = False
    wire_bytes: int = 0
    size: int = 0
    is_full: bool = False
    pieces: list[bytes] = field(default_factory=list)
    window_ends_at: float = 0.0
    """When the reader's present window of slowness ends, and how much had come when it began."""
    window_bytes: int = 0

    @classmethod
    def of(cls, content_encoding: str, bytes_max: int, *, truncate: bool = False) -> "Body":
        """Make the layers that a Content-Encoding names, the last one first."""
        names = [name.strip().lower() for name in content_encoding.split(",")]
        named = [name for name in names if name not in _IDENTITY]
        if len(named) > LAYERS_MAX:
            raise BombError
        unknown = [name for name in named if name not in _MAKERS]
        if unknown:
            raise BadEncodingError
        return cls(bytes_max, [_Counted(_MAKERS[name]()) for name in reversed(named)], truncate)

    def feed(self, octets: bytes) -> None:
        """Take a piece from the wire."""
        self.wire_bytes += len(octets)
        for piece in self._through(octets, 0):
            self._keep(piece)
            if self.is_full:
                return

    def finish(self) -> bytes:
        """Return the whole body."""
        # A body of no octets is one of no encoding: answers to HEAD-like requests say gzip and send nothing.
        if self.wire_bytes and not self.is_full and not all(layer.layer.is_complete() for layer in self.layers):
            raise BadEncodingError
        return b"".join(self.pieces)

    def _through(self, octets: bytes, depth: int) -> Iterator[bytes]:
        if depth == len(self.layers):
            yield octets
            return
        counted = self.layers[depth]
        for piece in counted.layer.feed(octets):
            counted.bytes_out += len(piece)
            # Between layers the count stops a stream that swells inside and shrinks again.
            if counted.bytes_out > BOMB_BYTES_MIN and counted.bytes_out > BOMB_RATIO * self.wire_bytes:
                raise BombError
            yield from self._through(piece, depth + 1)

    def _keep(self, piece: bytes) -> None:
        room = self.bytes_max - self.size
        if len(piece) > room:
            if not self.truncate:
                raise TooLargeError
            piece, self.is_full = piece[:room], True
        self.size += len(piece)
        if piece:
            self.pieces.append(piece)


@dataclass(slots=True)
class _Counted:
    layer: _Layer
    bytes_out: int = 0


class _Gzip:
    """gzip of any number of members, and zlib. What follows the last member is dropped, as browsers do."""

    def __init__(self) -> None:
        self._inflater = isal_zlib.decompressobj(wbits=_GZIP_OR_ZLIB)

    def feed(self, octets: bytes) -> Iterator[bytes]:
        is_waiting = True
        while octets or is_waiting:
            if self._inflater.eof:
                octets = self._next_member(octets)
                if not octets:
                    return
            try:
                piece = self._inflater.decompress(octets, max_length=STEP_BYTES)
            except IsalError as error:  # type: ignore[misc] # its stub does not name the base
                raise BadEncodingError from error
            if piece:
                yield piece
            octets = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            # A full piece may leave output inside after the last octet was taken.
            is_waiting = len(piece) >= STEP_BYTES

    def is_complete(self) -> bool:
        return bool(self._inflater.eof)

    def _next_member(self, octets: bytes) -> bytes:
        if not octets.startswith(_GZIP_MAGIC):
            return b""
        self._inflater = isal_zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
        return octets


class _Deflate:
    """What servers call deflate: zlib by the standard, raw by habit."""

    def __init__(self) -> None:
        self._inflater: zlib._Decompress | None = None

    def feed(self, octets: bytes) -> Iterator[bytes]:
        if not octets:
            return
        if self._inflater is None:
            # The low half of a zlib stream's first octet says 8, which no raw stream of a body begins with.
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS if octets[0] & 0x0F == 8 else -zlib.MAX_WBITS)
        is_waiting = True
        while (octets or is_waiting) and not self._inflater.eof:
            try:
                piece = self._inflater.decompress(octets, STEP_BYTES)
            except zlib.error as error:
                raise BadEncodingError from error
            if piece:
                yield piece
            octets = self._inflater.unconsumed_tail
            is_waiting = len(piece) >= STEP_BYTES

    def is_complete(self) -> bool:
        return self._inflater is not None and self._inflater.eof


class _Brotli:
    def __init__(self) -> None:
        self._inflater = brotli.Decompressor()

    def feed(self, octets: bytes) -> Iterator[bytes]:
        if self._inflater.is_finished():
            return
        try:
            piece = self._inflater.process(octets, output_buffer_limit=STEP_BYTES)
            # It says that it takes more while output still waits inside; only an empty piece is the end.
            while piece or not self._inflater.can_accept_more_data():
                yield piece
                piece = self._inflater.process(b"", output_buffer_limit=STEP_BYTES)
        except brotli.error as error:
            raise BadEncodingError from error

    def is_complete(self) -> bool:
        return bool(self._inflater.is_finished())


class _Zstd:
    """One frame or several. Its own writer hands out pieces, so a frame of few octets never swells in one step."""

    def __init__(self) -> None:
        self._ready: list[bytes] = []
        self._inflater = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
        self._frame = self._inflater.decompressobj(write_size=STEP_BYTES)
        self._is_started = False

    def feed(self, octets: bytes) -> Iterator[bytes]:
        # A block of a frame decodes to 128 KiB at most and takes three octets at least.
        for start in range(0, len(octets), _ZSTD_SLICE_BYTES):
            yield from self._slice(octets[start : start + _ZSTD_SLICE_BYTES])

    def is_complete(self) -> bool:
        return self._is_started and self._frame.eof

    def _slice(self, octets: bytes) -> Iterator[bytes]:
        while octets:
            if self._frame.eof:
                self._frame = self._inflater.decompressobj(write_size=STEP_BYTES)
            self._is_started = True
            try:
                piece = self._frame.decompress(octets)
            except zstandard.ZstdError as error:
                raise BadEncodingError from error
            if piece:
                yield piece
            octets = self._frame.unused_data if self._frame.eof else b""


_MAKERS: Final[dict[str, Callable[[], _Layer]]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}
