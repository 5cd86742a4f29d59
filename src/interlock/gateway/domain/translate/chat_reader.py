"""An upstream's answer in the chat dialect, streamed or whole, as neutral events.

Builds no answer; `chat_writer.py` does.
"""

from typing import Final

import msgspec

from interlock.gateway.domain.translate.blocks import MixedToolsError
from interlock.gateway.domain.translate.events import Event, Finish, Reason, Start, ToolStart, Usage
from interlock.gateway.domain.translate.raw import ABSENT, given
from interlock.gateway.domain.translate.reader import Reader

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


class ChatReader(Reader):
    """Reads one answer of this dialect."""

    def __init__(self, event_bytes_max: int) -> None:
        super().__init__(event_bytes_max)
        self._usage: Usage | None = None
        self._keys: dict[int, object] = {}

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

    def _take(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._close()
            return
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
        self._begin(Start(chunk.id, chunk.model))
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

    def _used(self) -> Usage | None:
        return self._usage


def _usage(given: _Usage) -> Usage:
    cached = given.prompt_tokens_details.cached_tokens if given.prompt_tokens_details else None
    reasoning = given.completion_tokens_details.reasoning_tokens if given.completion_tokens_details else None
    return Usage(given.prompt_tokens or 0, given.completion_tokens or 0, cached=cached, reasoning=reasoning)
