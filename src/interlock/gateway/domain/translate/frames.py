"""Server-Sent Events out of bytes that are cut anywhere: the name of each event and its data.

Understands no event.
"""

import re
from typing import Final

from interlock.gateway.domain.events import StreamTooLongError
from interlock.gateway.domain.scan_state import FrameState

_DATA: Final = re.compile(rb"^data: ?(.*)$", re.MULTILINE)
_NAME: Final = re.compile(rb"^event: ?(.*)$", re.MULTILINE)


class Frames(FrameState):
    """Feeds pieces in, whole events out; what the stream never finished is not given out."""

    __slots__ = ()

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the events that `piece` completes, without their blank lines. Raises `StreamTooLongError`."""
        if piece and (b"\r" in piece or self._swallow_lf):
            if self._swallow_lf and piece[:1] == b"\n":
                piece = piece[1:]
            self._swallow_lf = piece[-1:] == b"\r"
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *whole, self._pending = (self._pending + piece).split(b"\n\n")
        if len(self._pending) > self._bytes_max or any(len(each) > self._bytes_max for each in whole):
            raise StreamTooLongError(f"an event is longer than {self._bytes_max} bytes")
        return [each for each in whole if each]


def data_of(event: bytes) -> bytes:
    """Return the data of an event, empty for a comment."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    return b"\n".join(_DATA.findall(event))


def name_of(event: bytes) -> str:
    """Return the name of an event, empty where it has none."""
    found = _NAME.search(event)
    return found[1].strip().decode("latin-1") if found else ""


def named(name: str, content: bytes) -> bytes:
    """Return an event with its name."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), content)
