"""A messages stream as bytes, cut at events, scanned for usage and finish, passed on otherwise untouched.

Translates nothing.
"""

from typing import Final

import msgspec

from interlock.foundation import telemetry
from interlock.gateway.domain.scan_state import MessagesState
from interlock.gateway.domain.translate.events import recorded
from interlock.gateway.domain.translate.frames import Frames, data_of, name_of
from interlock.gateway.domain.translate.messages_reader import TokenCounts

_DELTA: Final = b"event: content_block_delta"


class _Delta(msgspec.Struct):
    stop_reason: str | None = None


class _Message(msgspec.Struct):
    usage: TokenCounts | None = None


class _Event(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    delta: _Delta | None = None
    usage: TokenCounts | None = None


class _Reply(msgspec.Struct):
    content: list[msgspec.Raw]
    usage: TokenCounts | None = None


_decode: Final = msgspec.json.Decoder(_Event).decode


class MessagesScanner(MessagesState):
    """Turns pieces of an upstream's stream, cut anywhere, into whole events for the client."""

    __slots__ = ("_counts", "_cut")

    def __init__(self, event_bytes_max: int) -> None:
        frames = Frames(event_bytes_max)
        super().__init__(frames)
        self._cut = frames.feed
        self._counts = TokenCounts()

    def feed(self, piece: bytes) -> bytes:
        """Return the whole events that `piece` completes; none behind the end. Raises `StreamTooLongError`."""
        kept: list[bytes] = []
        for frame in self._cut(piece):
            if self.is_done or self.failure is not None:
                break
            if frame.startswith(_DELTA):
                self.events += 1
            elif not self._notes(frame):
                break
            kept.append(frame + b"\n\n")
        return b"".join(kept)

    def _notes(self, frame: bytes) -> bool:
        """Take what an event says of the whole answer; return whether it is passed on."""
        data = data_of(frame)
        try:
            event = _decode(data) if data else _Event()
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return True
        kind = event.type or name_of(frame)
        if kind == "error":
            self.failure = data.decode("utf-8", "replace")[:300]
            return False
        if kind == "content_block_delta":
            self.events += 1
        elif kind == "message_stop":
            self.is_done = True
        counts = event.usage or (event.message.usage if event.message is not None else None)
        if counts is not None:
            self._counts = self._counts.later(counts)
            self.usage = recorded(self._counts.neutral())
        if event.delta is not None and event.delta.stop_reason:
            self.is_finished = True
        return True


def read_message(content: bytes) -> telemetry.Usage | None:
    """Return the usage of a whole answer. Raises `ValueError` when it is no message."""
    try:
        reply = msgspec.json.decode(content, type=_Reply)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    return None if reply.usage is None else recorded(reply.usage.neutral())
