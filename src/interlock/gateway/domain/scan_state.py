"""What scanners of streams keep from piece to piece, in a form that compiled code reads and counts in place (ADR 0027).

Scans nothing; `events.py` and `translate/messages_scanner.py` do.
"""

from typing import TYPE_CHECKING, Final

from interlock.foundation import native
from interlock.foundation.telemetry import Usage

_compiled: Final = native.load("interlock.gateway.domain._native_scan")

if TYPE_CHECKING or _compiled is None:

    class ScanState:
        """What a scanner has found so far."""

        __slots__ = ("events", "failure", "is_done", "is_finished", "usage")

        def __init__(self) -> None:
            self.events = 0
            self.usage: Usage | None = None
            self.is_finished = False
            self.is_done = False
            self.failure: str | None = None

    class ChatState(ScanState):
        """What is kept of a stream of the chat dialect."""

        __slots__ = ("_pending", "_swallow_lf")

        def __init__(self) -> None:
            super().__init__()
            self._pending = b""
            self._swallow_lf = False

    class FrameState:
        """What is kept between pieces while they are cut into events."""

        __slots__ = ("_bytes_max", "_pending", "_swallow_lf")

        def __init__(self, bytes_max: int) -> None:
            self._bytes_max = bytes_max
            self._pending = b""
            self._swallow_lf = False

    class MessagesState(ScanState):
        """What is kept of a stream of the messages dialect."""

        __slots__ = ("_frames",)

        def __init__(self, frames: FrameState) -> None:
            super().__init__()
            self._frames = frames

else:
    ChatState = _compiled.ChatState
    FrameState = _compiled.FrameState
    MessagesState = _compiled.MessagesState
