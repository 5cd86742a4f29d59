"""What reading an upstream's answer has in common in every dialect: frames in, events out, one end.

Understands no dialect; `chat_reader.py` and `messages_reader.py` do.
"""

from abc import ABC, abstractmethod

from interlock.gateway.domain.translate.blocks import Blocks
from interlock.gateway.domain.translate.events import Event, Failure, Finish, Reason, Start, Usage
from interlock.gateway.domain.translate.frames import Frames, data_of


class Reader(ABC):
    """Reads one answer. `skipped` counts what nobody here understands; `is_finished` once a reason was named."""

    def __init__(self, event_bytes_max: int) -> None:
        self._frames = Frames(event_bytes_max)
        self._events: list[Event] = []
        self._blocks = Blocks(self._events)
        self._finish: Finish | None = None
        self._is_begun = False
        self._is_over = False
        self.skipped = 0

    @property
    def is_finished(self) -> bool:
        """Whether the upstream named why its answer ended."""
        return self._finish is not None

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that a piece of a stream completes. Raises `StreamTooLongError`."""
        for frame in self._frames.feed(piece):
            if self._is_over:
                break
            data = data_of(frame)
            if data:
                self._take(data)
        return self._given()

    def end(self) -> list[Event]:
        """Return what is left when the stream just ends: its finish if it was named, else a failure."""
        if not self._is_over:
            if self._finish is not None:
                self._close()
            else:
                self._fail("ended without its finish")
        return self._given()

    @abstractmethod
    def whole(self, content: bytes) -> list[Event]:
        """Return the events of a whole answer. Raises `ValueError` when it is none."""

    @abstractmethod
    def _take(self, data: bytes) -> None:
        """Take one event of a stream in."""

    @abstractmethod
    def _used(self) -> Usage | None:
        """Return what the answer cost, where the upstream said it."""

    def _begin(self, start: Start) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._events.append(start)

    def _given(self) -> list[Event]:
        given = self._events[:]
        self._events.clear()
        return given

    def _close(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if not self._is_begun:
            self._events.append(Failure("an empty stream"))
            return
        self._blocks.end_all()
        used = self._used()
        if used is not None:
            self._events.append(used)
        self._events.append(self._finish or Finish(Reason.TOOLS if self._blocks.tools else Reason.STOP))

    def _fail(self, message: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._events.append(Failure(message))
