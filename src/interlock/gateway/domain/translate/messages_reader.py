"""An upstream's answer in the messages dialect, streamed or whole, as neutral events.

Builds no answer; `messages_writer.py` does.
"""

from typing import Final

import msgspec

from interlock.gateway.domain.translate.blocks import MixedToolsError
from interlock.gateway.domain.translate.events import Event, Finish, Reason, Start, ToolStart, Usage
from interlock.gateway.domain.translate.raw import ABSENT, given
from interlock.gateway.domain.translate.reader import Reader

_REASONS: Final = {
    "end_turn": Reason.STOP,
    "max_tokens": Reason.LENGTH,
    "tool_use": Reason.TOOLS,
    "refusal": Reason.REFUSAL,
    "stop_sequence": Reason.STOP_SEQUENCE,
    "pause_turn": Reason.STOP,
    "model_context_window_exceeded": Reason.LENGTH,
}
_SILENT: Final = frozenset({"ping"})
_TEXT, _THINKING, _TOOL = "text", "thinking", "tool_use"


class TokenCounts(msgspec.Struct):
    """Tokens as this dialect counts them: input without what a cache read or wrote."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    def later(self, newer: "TokenCounts") -> "TokenCounts":
        """Return these counts with what a later event says of them."""
        said = {name: value for name, value in msgspec.structs.asdict(newer).items() if value is not None}
        return msgspec.structs.replace(self, **said)

    def neutral(self) -> Usage:
        """Return them with the cache counted as input."""
        read, written = self.cache_read_input_tokens, self.cache_creation_input_tokens
        whole = (self.input_tokens or 0) + (read or 0) + (written or 0)
        return Usage(whole, self.output_tokens or 0, cached=read, cache_written=written)


class _Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = ABSENT


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""
    type: str = ""
    content: list[_Block] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: TokenCounts | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: TokenCounts | None = None
    error: msgspec.Raw = ABSENT


_decode: Final = msgspec.json.Decoder(_Event).decode
_decode_whole: Final = msgspec.json.Decoder(_Message).decode


class MessagesReader(Reader):
    """Reads one answer of this dialect."""

    def __init__(self, event_bytes_max: int) -> None:
        super().__init__(event_bytes_max)
        self._kinds: dict[int, str] = {}
        self._counts = TokenCounts()

    def whole(self, content: bytes) -> list[Event]:
        """Return the events of a whole answer. Raises `ValueError` when it is none."""
        try:
            message = _decode_whole(content)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(str(error)) from error
        if message.type != "message" or message.content is None:
            raise ValueError("the answer is no message")
        self._opened(message)
        for index, block in enumerate(message.content):
            self._block(index, block, is_whole=True)
            self._blocks.end()
        self._finish = self._named(message.stop_reason or "", message.stop_sequence)
        self._close()
        return self._given()

    def _take(self, data: bytes) -> None:
        try:
            event = _decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            self.skipped += 1
            return
        try:
            self._event(event)
        except MixedToolsError as error:
            self._fail(str(error))

    def _event(self, event: _Event) -> None:
        if event.type == "content_block_delta" and event.delta is not None:
            self._delta(event.index, event.delta)
        elif event.type == "content_block_start" and event.content_block is not None:
            self._block(event.index, event.content_block)
        elif event.type == "content_block_stop":
            self._stop(event.index)
        elif event.type == "message_start" and event.message is not None:
            self._opened(event.message)
        elif event.type == "message_delta":
            self._message_delta(event)
        elif event.type == "message_stop":
            self._close()
        elif event.type == "error":
            self._fail(bytes(event.error).decode("utf-8", "replace")[:300])
        elif event.type not in _SILENT:
            self.skipped += 1

    def _opened(self, message: _Message) -> None:
        if message.usage is not None:
            self._counts = self._counts.later(message.usage)
        self._begin(Start(message.id, message.model))

    def _block(self, index: int, block: _Block, *, is_whole: bool = False) -> None:
        if index in self._kinds or block.type not in (_TEXT, _THINKING, _TOOL):
            self.skipped += 1
            return
        self._kinds[index] = block.type
        self._blocks.end()
        if block.type == _TEXT:
            self._blocks.text(block.text or "")
        elif block.type == _THINKING:
            self._blocks.thinking(block.thinking or "", block.signature or "")
        else:
            self._blocks.tool(index, ToolStart(block.id or f"toolu_{index}", block.name or ""))
            whole = given(block.input)
            # A stream begins a tool with an empty object and tells its arguments later.
            if whole is not None and (is_whole or bytes(whole) != b"{}"):
                self._blocks.arguments(index, bytes(whole).decode())

    def _delta(self, index: int, delta: _Delta) -> None:
        kind = self._kinds.get(index)
        if kind == _TEXT and delta.text is not None:
            self._blocks.text(delta.text)
        elif kind == _TOOL and delta.partial_json is not None:
            self._blocks.arguments(index, delta.partial_json)
        elif kind == _THINKING and (delta.thinking is not None or delta.signature is not None):
            self._blocks.thinking(delta.thinking or "", delta.signature or "")
        elif kind is not None:
            self.skipped += 1

    def _stop(self, index: int) -> None:
        kind = self._kinds.get(index)
        if kind == _TOOL:
            self._blocks.end(index)
        elif kind is not None and index == max(self._kinds):
            self._blocks.end()

    def _message_delta(self, event: _Event) -> None:
        if event.usage is not None:
            self._counts = self._counts.later(event.usage)
        if event.delta is not None and event.delta.stop_reason and self._finish is None:
            self._finish = self._named(event.delta.stop_reason, event.delta.stop_sequence)

    def _named(self, reason: str, sequence: str | None) -> Finish:
        found = _REASONS.get(reason)
        if found is None:
            self.skipped += 1
        return Finish(found or Reason.STOP, sequence if found is Reason.STOP_SEQUENCE else None)

    def _used(self) -> Usage:
        return self._counts.neutral()
