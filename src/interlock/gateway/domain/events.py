"""A chat stream as bytes: cut at events, scanned for usage and finish, passed on otherwise untouched.

Reads no event that does not carry usage, a finish or a failure.
"""

import re
from typing import Final

import msgspec

from interlock.foundation.telemetry import Usage
from interlock.gateway.domain.scan_state import ChatState

_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_FINISH: Final = re.compile(rb'"finish_reason"\s*:\s*"')
_UNFINISHED: Final = b'"finish_reason":null'
_FAILURE: Final = re.compile(rb'\A(?:event:[^\n]*\n)?data:\s*\{\s*"error"\s*:')
_DONE: Final = re.compile(rb"(?:\A|\n)data: ?\[DONE\]")
_DATA: Final = re.compile(rb"^data: ?(.*)$", re.MULTILINE)
# Behind it stands what a delta says, up to the next quote.
_TEXT: Final = b'content":"'
_IN_VAIN_MAX: Final = 8
DONE_EVENT: Final = b"data: [DONE]\n\n"


class StreamTooLongError(ValueError):
    """A single event is longer than the bound."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _UsageBody(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    usage: _UsageBody | None = None


_decode_chunk: Final = msgspec.json.Decoder(_Chunk).decode


class ChatScanner(ChatState):
    """Turns pieces of an upstream's stream, cut anywhere, into whole events for the client.

    After each `feed`: `events` content events passed on so far, `usage` if the upstream told it, `is_finished`
    when a choice named its finish, `is_done` at `[DONE]`, `failure` the text of an error event.

    Most events of a stream differ in the text of their delta alone: one that is like an event that held nothing to
    be read, but for a text without quotes and line ends, holds nothing either, and is not searched.
    """

    __slots__ = (
        "_before",
        "_behind",
        "_bytes_max",
        "_in_vain",
        "_keeps_usage",
        "_learned_at",
    )

    def __init__(self, *, keeps_usage: bool, event_bytes_max: int) -> None:
        super().__init__()
        self._keeps_usage = keeps_usage
        self._bytes_max = event_bytes_max
        # What stands before and behind the text of such an event; nothing where none is known.
        self._before = self._behind = b""
        self._learned_at = self._in_vain = 0

    def feed(self, piece: bytes) -> bytes:
        """Return the whole events that `piece` completes; none behind the end. Raises `StreamTooLongError`."""
        if self._before and piece.startswith(self._before) and piece.endswith(self._behind):
            text = piece[len(self._before) : -len(self._behind)]
            if b'"' not in text and b"\n" not in text and b"\r" not in text:
                self.events += 1
                return piece
        if self._before:
            self._unlearn()
        if self.is_done or self.failure is not None:
            return b""
        if b"\r" in piece or self._swallow_lf:
            piece = self._with_plain_ends(piece)
        text = self._pending + piece if self._pending else piece
        end = text.rfind(b"\n\n")
        if end < 0:
            if len(text) > self._bytes_max:
                raise StreamTooLongError(f"an event is longer than {self._bytes_max} bytes")
            self._pending = text
            return b""
        end += 2
        self._pending = text[end:]
        block = text[:end] if end != len(text) else text
        # Plain searches first, as most blocks hold nothing that has to be read.
        if (
            b"[DONE]" in block
            or b'"error"' in block
            or (b'"usage"' in block and _USAGE.search(block))
            or (block.count(b'"finish_reason"') != block.count(_UNFINISHED) and _FINISH.search(block))
        ):
            return self._event_by_event(block)
        comments = block.count(b"\n:") + (block[:1] == b":")
        count = block.count(b"\n\n")
        self.events += count - comments
        if block is piece and count == 1 and not comments and not self._swallow_lf and self._in_vain < _IN_VAIN_MAX:
            self._learn(block)
        return block

    def _learn(self, event: bytes) -> None:
        """Keep what an event has around its text, for those that come."""
        at = event.rfind(_TEXT) + len(_TEXT)
        end = event.find(b'"}', at)
        if at >= len(_TEXT) and end >= 0:
            self._before, self._behind, self._learned_at = event[:at], event[end:], self.events

    def _unlearn(self) -> None:
        """Forget it; of streams in which no event is like the one before no more than a few are looked at so."""
        self._before = b""
        if self.events == self._learned_at:
            self._in_vain += 1

    def _with_plain_ends(self, piece: bytes) -> bytes:
        """Make LF of CRLF and CR; a CR at the end of a piece may have its LF at the start of the next."""
        if not piece:
            return piece
        if self._swallow_lf and piece[:1] == b"\n":
            piece = piece[1:]
        self._swallow_lf = piece[-1:] == b"\r"
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _event_by_event(self, block: bytes) -> bytes:
        kept: list[bytes] = []
        for event in block.split(b"\n\n")[:-1]:
            if self.is_done or self.failure is not None:
                break
            if self._is_passed_on(event):
                kept.append(event + b"\n\n")
        return b"".join(kept)

    def _is_passed_on(self, event: bytes) -> bool:
        if _DONE.search(event):
            self.is_done = True
            return True
        if _FAILURE.search(event):
            self.failure = event.partition(b"data:")[2].strip().decode("utf-8", "replace")
            return False
        if event[:1] == b":":
            return True
        self.events += 1
        if _FINISH.search(event):
            self.is_finished = True
        return not _USAGE.search(event) or self._keeps(event)

    def _keeps(self, event: bytes) -> bool:
        """Take the usage of an event; the one that carries nothing else goes on only to those who asked for it."""
        try:
            is_line = event.startswith(b"data: ") and b"\n" not in event
            chunk = _decode_chunk(event[6:] if is_line else b"".join(_DATA.findall(event)))
        except (msgspec.DecodeError, RecursionError):
            return True
        if chunk.usage is None:
            return True
        self.usage = _usage(chunk.usage)
        if chunk.choices:
            return True
        self.events -= 1
        return self._keeps_usage


class _Reply(msgspec.Struct):
    choices: list[msgspec.Raw]
    usage: _UsageBody | None = None


_decode_reply: Final = msgspec.json.Decoder(_Reply).decode


def read_reply(content: bytes) -> Usage | None:
    """Return the usage of a whole answer. Raises `ValueError` when it is no chat completion."""
    try:
        reply = _decode_reply(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return None if reply.usage is None else _usage(reply.usage)


def _usage(body: _UsageBody) -> Usage:
    return Usage(
        input_tokens=body.prompt_tokens,
        cached_input_tokens=body.prompt_tokens_details.cached_tokens if body.prompt_tokens_details else None,
        output_tokens=body.completion_tokens,
        reasoning_tokens=body.completion_tokens_details.reasoning_tokens if body.completion_tokens_details else None,
    )
