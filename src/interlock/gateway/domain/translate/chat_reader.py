"""An upstream's answer in the chat dialect, streamed or whole, as neutral events.

Builds no answer; `chat_writer.py` does.
"""

from typing import Final

import msgspec

from interlock.gateway.domain.translate.blocks import Blocks, MixedToolsError
from interlock.gateway.domain.translate.events import Event, Failure, Finish, Reason, Start, ToolStart, Usage
from interlock.gateway.domain.translate.frames import Frames, data_of
from interlock.gateway.domain.translate.raw import ABSENT, given

_REASONS: Final = {
    "stop": Reason.STOP,
    "length": Reason.LENGTH,
    "tool_calls": Reason.TOOLS,
    "function_call": Reason.TOOLS,
    "content_filter": Reason.REFUSAL,
}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Tool(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Words(msgspec.Struct):
    """A `delta`, or the `message` of a whole answer."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Tool] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Words | None = None
    message: _Words | None = None
    finish_reason: str | None = None
    # Some servers name the text that ended the answer here, or the number of a token.
    stop_reason: str | int | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Chunk(msgspec.Struct):
    id: str = ""
    model: str = ""
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = ABSENT


_decode: Final = msgspec.json.Decoder(_Chunk).decode


class ChatReader:
    """Reads one answer. `skipped` counts events that nobody here understands; `is_finished` once a reason was named."""

    def __init__(self, event_bytes_max: int) -> None:
        self._frames = Frames(event_bytes_max)
        self._events: list[Event] = []
        self._blocks = Blocks(self._events)
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        self._is_begun = False
        self._is_over = False
        self._keys: dict[int, object] = {}
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
            if data == b"[DONE]":
                self._close()
            elif data:
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

    def whole(self, content: bytes) -> list[Event]:
        """Return the events of a whole answer. Raises `ValueError` when it is none."""
        try:
            answer = _decode(content)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(str(error)) from error
        if not answer.choices or answer.choices[0].message is None:
            raise ValueError("the answer has no choice")
        self._chunk(answer)
        self._close()
        return self._given()

    def _given(self) -> list[Event]:
        given = self._events[:]
        self._events.clear()
        return given

    def _take(self, data: bytes) -> None:
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            self.skipped += 1
            return
        if given(chunk.error) is not None:
            self._fail(bytes(chunk.error).decode("utf-8", "replace")[:300])
        else:
            self._chunk(chunk)

    def _chunk(self, chunk: _Chunk) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._events.append(Start(chunk.id, chunk.model))
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        for choice in chunk.choices or ():
            if choice.index != 0:
                self.skipped += 1
                continue
            words = choice.delta or choice.message
            if words is not None:
                self._words(words)
            if choice.finish_reason and self._finish is None:
                self._finish = self._named(choice)

    def _words(self, words: _Words) -> None:
        self._blocks.thinking(words.reasoning_content or words.reasoning or "")
        self._blocks.text(words.content or words.refusal or "")
        try:
            for place, tool in enumerate(words.tool_calls or ()):
                self._tool(tool.index if tool.index is not None else place, tool)
        except MixedToolsError as error:
            self._fail(str(error))

    def _tool(self, index: int, tool: _Tool) -> None:
        function = tool.function or _Function()
        key = self._keys.get(index)
        # Some servers number every tool 0 and tell them apart by their ids alone.
        if key is None or (tool.id and function.name and key != (index, tool.id)):
            if not function.name:
                self.skipped += 1
                return
            call = tool.id or f"call_{self._blocks.tools}"
            key = self._keys[index] = (index, call)
            self._blocks.tool(key, ToolStart(call, function.name))
        self._blocks.arguments(key, function.arguments or "")

    def _named(self, choice: _Choice) -> Finish:
        reason = _REASONS.get(choice.finish_reason or "")
        if reason is None:
            self.skipped += 1
            reason = Reason.STOP
        if reason is Reason.STOP and isinstance(choice.stop_reason, str):
            return Finish(Reason.STOP_SEQUENCE, choice.stop_reason)
        return Finish(reason)

    def _close(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if not self._is_begun:
            self._events.append(Failure("an empty stream"))
            return
        self._blocks.end_all()
        if self._usage is not None:
            self._events.append(self._usage)
        default = Reason.TOOLS if self._blocks.tools else Reason.STOP
        self._events.append(self._finish or Finish(default))

    def _fail(self, message: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._events.append(Failure(message))


def _usage(given: _Usage) -> Usage:
    cached = given.prompt_tokens_details.cached_tokens if given.prompt_tokens_details else None
    reasoning = given.completion_tokens_details.reasoning_tokens if given.completion_tokens_details else None
    return Usage(given.prompt_tokens or 0, given.completion_tokens or 0, cached=cached, reasoning=reasoning)
