"""Reads a streamed chat completion of the front door: pieces of text as they come, and what it came to at its end.

Opens no connection. What follows an event that tells of a failure is not read.
"""

from collections.abc import Iterator

import msgspec

from interlock.contracts.inference import ChatAnswer, ModelRefused
from interlock.foundation.wire import SseParser, SseTooLongError

_DONE = "[DONE]"


class RefusalTold(msgspec.Struct):
    """What the front door adds to an error in the form of a vendor."""

    code: str = "upstream_bad_reply"
    retry_after_s: float | None = None


class RefusalError(msgspec.Struct):
    """The part of an error that every client reads."""

    message: str = ""
    code: str | None = None


class Refusal(msgspec.Struct):
    """The body of a refusal, and the last event of a stream that was cut."""

    error: RefusalError = msgspec.field(default_factory=RefusalError)
    interlock: RefusalTold = msgspec.field(default_factory=RefusalTold)


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: RefusalError | None = None
    interlock: RefusalTold | None = None


class StreamReading:
    """One stream, from its first byte to its end; an answer of more than `bytes_max` is given up."""

    def __init__(self, bytes_max: int) -> None:
        self.request_id = ""
        self._parser = SseParser(bytes_max)
        self._left = bytes_max
        self._texts: list[str] = []
        self._finish = ""
        self._usage = _Usage()
        self._is_done = False
        self._refused: ModelRefused | None = None

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yield the texts that a piece of the body completes."""
        self._left -= len(piece)
        if self._refused is not None:
            return
        try:
            events = self._parser.feed(piece)
        except SseTooLongError as error:
            self._refused = self._bad(str(error))
            return
        if self._left < 0:
            self._refused = self._bad("The answer is too long.")
            return
        for event in events:
            text = self._take(event.data)
            if text:
                self._texts.append(text)
                yield text

    def end(self, total_ms: float) -> ChatAnswer | ModelRefused:
        """Return what the stream came to."""
        if self._refused is not None:
            return self._refused
        if not self._is_done:
            return self._bad("The stream ended before its end was told.")
        return ChatAnswer(
            request_id=self.request_id,
            text="".join(self._texts),
            tool_calls=(),
            finish_reason=self._finish,
            input_tokens=self._usage.prompt_tokens,
            output_tokens=self._usage.completion_tokens,
            cost_usd_micros=None,
            total_ms=total_ms,
        )

    def _take(self, data: str) -> str | None:
        if data == _DONE:
            self._is_done = True
            return None
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except (msgspec.DecodeError, RecursionError) as error:
            self._refused = self._refused or self._bad(f"An event is no part of a completion: {error}")
            return None
        if chunk.error is not None:
            told = chunk.interlock or RefusalTold(code=chunk.error.code or "upstream_error")
            self._refused = ModelRefused(told.code, 200, None, chunk.error.message, self.request_id)
            return None
        self._usage = chunk.usage or self._usage
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        self._finish = choice.finish_reason or self._finish
        return choice.delta.content

    def _bad(self, message: str) -> ModelRefused:
        return ModelRefused("upstream_bad_reply", 502, None, message, self.request_id or None)
