"""One request between a caller and an upstream: how it is asked, and what becomes of the answer.

Where both speak the same, bytes pass as they are. Opens no connection.
"""

from typing import Any, Final, Protocol

import msgspec

from interlock.foundation import telemetry
from interlock.gateway.domain import dialect as form
from interlock.gateway.domain.envelope import Dialect, Envelope, encode_for_upstream
from interlock.gateway.domain.events import DONE_EVENT, ChatScanner, read_reply
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.translate.chat_prompt import read_chat, write_chat
from interlock.gateway.domain.translate.chat_reader import ChatReader
from interlock.gateway.domain.translate.chat_writer import ChatWriter
from interlock.gateway.domain.translate.events import (
    Event,
    Failure,
    Finish,
    TextDelta,
    ThinkingDelta,
    ToolArgsDelta,
    Usage,
    recorded,
)
from interlock.gateway.domain.translate.messages_prompt import MAX_TOKENS_DEFAULT, read_messages, write_messages
from interlock.gateway.domain.translate.messages_reader import MessagesReader
from interlock.gateway.domain.translate.messages_scanner import MessagesScanner, read_message
from interlock.gateway.domain.translate.messages_writer import MessagesWriter
from interlock.gateway.domain.translate.prompt import Prompt, unsupported
from interlock.gateway.domain.translate.responses_prompt import read_responses
from interlock.gateway.domain.translate.responses_writer import ResponsesWriter

_encode: Final = msgspec.json.Encoder().encode
_READ: Final = {Dialect.CHAT: read_chat, Dialect.MESSAGES: read_messages, Dialect.RESPONSES: read_responses}
PATHS: Final = {
    Dialect.CHAT: "/chat/completions",
    Dialect.MESSAGES: "/messages",
    Dialect.EMBEDDINGS: "/embeddings",
    Dialect.COUNT: "/messages/count_tokens",
}
_OUTPUT: Final = (TextDelta, ThinkingDelta, ToolArgsDelta)


class Question(msgspec.Struct, frozen=True, gc=False):
    """What is sent: the path behind the upstream's base URL, the body, and what of the caller's had to go."""

    path: str
    body: bytes
    dropped: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What an answer is written with: the request's id, its second, its estimated input, a bound of events."""

    request_id: str
    created_s: int
    input_estimate: int
    event_bytes_max: int

    @property
    def name(self) -> str:
        """The id without its kind."""
        return self.request_id.partition("_")[2]


class Scanner(Protocol):
    """A stream on its way: pieces in, whole events of the caller's dialect out."""

    @property
    def events(self) -> int:
        """Events of output passed on so far."""
        ...

    @property
    def usage(self) -> telemetry.Usage | None:
        """What the upstream counted, once it has told."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether the upstream named why its answer ended."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether the caller has had the last event."""
        ...

    @property
    def failure(self) -> str | None:
        """The words of an upstream that gave up."""
        ...

    def feed(self, piece: bytes) -> bytes:
        """Return what the caller gets for a piece. Raises `StreamTooLongError`."""
        ...


class Talk(Protocol):
    """How one request is put to an upstream, and its answer to the caller."""

    @property
    def skipped(self) -> int:
        """What of the upstream's answer nobody here understood, so far."""
        ...

    def question(self, model: str) -> Question:
        """Return what to send. Raises `PromptError`."""
        ...

    def scanner(self) -> Scanner:
        """Return what a stream passes through."""
        ...

    def whole(self, content: bytes) -> tuple[bytes, telemetry.Usage | None]:
        """Return a whole answer for the caller, and its usage. Raises `ValueError` when it is none."""
        ...

    def tail(self, scanner: Scanner) -> bytes:
        """Return what a caller waits for when the upstream named its finish and then just ended."""
        ...

    def failed(self, scanner: Scanner, refusal: Refusal) -> bytes:
        """Return the last event of a stream that failed."""
        ...


def talk_of(envelope: Envelope, upstream: Dialect, facts: Facts) -> Talk:
    """Return how a request is put to an upstream that speaks `upstream`. Raises `PromptError`."""
    spoken = envelope.dialect
    if spoken is Dialect.CHAT and upstream is Dialect.CHAT:
        return _SameChat(envelope, facts)
    if spoken is Dialect.MESSAGES and upstream is Dialect.MESSAGES:
        return _SameMessages(envelope, facts)
    if spoken in (Dialect.EMBEDDINGS, Dialect.COUNT):
        return _Counted(envelope, upstream)
    prompt = _READ[spoken](envelope.top)
    prompt.is_stream = envelope.is_stream
    return _Translated(envelope, upstream, prompt, facts)


class _SameChat:
    """Chat to chat: bytes pass."""

    skipped = 0

    def __init__(self, envelope: Envelope, facts: Facts) -> None:
        self._envelope = envelope
        self._facts = facts

    def question(self, model: str) -> Question:
        return Question(PATHS[Dialect.CHAT], encode_for_upstream(self._envelope, model))

    def scanner(self) -> ChatScanner:
        return ChatScanner(keeps_usage=self._envelope.wants_usage, event_bytes_max=self._facts.event_bytes_max)

    def whole(self, content: bytes) -> tuple[bytes, telemetry.Usage | None]:
        return content, read_reply(content)

    def tail(self, scanner: Scanner) -> bytes:
        return b"" if scanner.is_done else DONE_EVENT

    def failed(self, scanner: Scanner, refusal: Refusal) -> bytes:
        del scanner
        return form.error_event(refusal, self._facts.request_id)


class _SameMessages:
    """Messages to messages: bytes pass."""

    skipped = 0

    def __init__(self, envelope: Envelope, facts: Facts) -> None:
        self._envelope = envelope
        self._facts = facts

    def question(self, model: str) -> Question:
        body: dict[str, Any] = dict(self._envelope.top)
        body["model"] = model
        body.setdefault("max_tokens", MAX_TOKENS_DEFAULT)
        return Question(PATHS[Dialect.MESSAGES], _encode(body))

    def scanner(self) -> MessagesScanner:
        return MessagesScanner(self._facts.event_bytes_max)

    def whole(self, content: bytes) -> tuple[bytes, telemetry.Usage | None]:
        return content, read_message(content)

    def tail(self, scanner: Scanner) -> bytes:
        return b"" if scanner.is_done else b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def failed(self, scanner: Scanner, refusal: Refusal) -> bytes:
        del scanner
        return form.anthropic_error_event(refusal, self._facts.request_id)


class _CountedBody(msgspec.Struct):
    prompt_tokens: int | None = None
    input_tokens: int | None = None


class _CountedReply(msgspec.Struct):
    input_tokens: int | None = None
    usage: _CountedBody | None = None


class _Counted:
    """Embeddings and counts: one answer, of which only the input is counted."""

    skipped = 0

    def __init__(self, envelope: Envelope, upstream: Dialect) -> None:
        if envelope.dialect is Dialect.EMBEDDINGS and upstream is Dialect.MESSAGES:
            raise unsupported("model")
        self._envelope = envelope

    def question(self, model: str) -> Question:
        body: dict[str, Any] = dict(self._envelope.top)
        body["model"] = model
        return Question(PATHS[self._envelope.dialect], _encode(body))

    def scanner(self) -> Scanner:
        raise unsupported("stream")

    def whole(self, content: bytes) -> tuple[bytes, telemetry.Usage | None]:
        try:
            reply = msgspec.json.decode(content, type=_CountedReply)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        usage = reply.usage or _CountedBody()
        # A count is asked for and not generated: it uses no token.
        used = (usage.prompt_tokens or usage.input_tokens) if self._envelope.dialect is Dialect.EMBEDDINGS else 0
        return content, None if used is None else telemetry.Usage(input_tokens=used, output_tokens=0)

    def tail(self, scanner: Scanner) -> bytes:
        del scanner
        raise unsupported("stream")

    def failed(self, scanner: Scanner, refusal: Refusal) -> bytes:
        del scanner, refusal
        raise unsupported("stream")


class _Translated:
    """From one dialect to another and back."""

    def __init__(self, envelope: Envelope, upstream: Dialect, prompt: Prompt, facts: Facts) -> None:
        self._envelope = envelope
        self._upstream = upstream
        self._prompt = prompt
        self._facts = facts
        self._read_by: ChatReader | MessagesReader | None = None

    @property
    def skipped(self) -> int:
        return self._read_by.skipped if self._read_by is not None else 0

    def question(self, model: str) -> Question:
        write = write_messages if self._upstream is Dialect.MESSAGES else write_chat
        body = write(self._prompt, model)
        return Question(PATHS[self._upstream], body, tuple(sorted(self._prompt.dropped)))

    def scanner(self) -> "Translation":
        return Translation(self._reader(), self._writer())

    def whole(self, content: bytes) -> tuple[bytes, telemetry.Usage | None]:
        events = self._reader().whole(content)
        usage = next((event for event in events if isinstance(event, Usage)), None)
        return self._writer().whole(events), None if usage is None else recorded(usage)

    def tail(self, scanner: Scanner) -> bytes:
        return scanner.end() if isinstance(scanner, Translation) else b""

    def failed(self, scanner: Scanner, refusal: Refusal) -> bytes:
        request_id = self._facts.request_id
        writer = scanner.writer if isinstance(scanner, Translation) else None
        if isinstance(writer, ResponsesWriter):
            return writer.failed(refusal.code, refusal.text, form.told(refusal, request_id))
        if self._envelope.dialect is Dialect.MESSAGES:
            return form.anthropic_error_event(refusal, request_id)
        return form.error_event(refusal, request_id)

    def _reader(self) -> ChatReader | MessagesReader:
        kind = MessagesReader if self._upstream is Dialect.MESSAGES else ChatReader
        self._read_by = kind(self._facts.event_bytes_max)
        return self._read_by

    def _writer(self) -> ChatWriter | MessagesWriter | ResponsesWriter:
        facts = self._facts
        if self._envelope.dialect is Dialect.MESSAGES:
            return MessagesWriter(facts.name, facts.input_estimate)
        if self._envelope.dialect is Dialect.RESPONSES:
            return ResponsesWriter(facts.name, facts.created_s, self._envelope.top)
        return ChatWriter(facts.name, facts.created_s, wants_usage=self._envelope.wants_usage)


class Translation:
    """A stream read in one dialect and written in another."""

    def __init__(
        self, reader: ChatReader | MessagesReader, writer: ChatWriter | MessagesWriter | ResponsesWriter
    ) -> None:
        self._reader = reader
        self.writer = writer
        self.events = 0
        self.usage: telemetry.Usage | None = None
        self.is_done = False
        self.failure: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the upstream named why its answer ended."""
        return self._reader.is_finished

    def feed(self, piece: bytes) -> bytes:
        """Return what the caller gets for a piece. Raises `StreamTooLongError`."""
        return self._written(self._reader.feed(piece))

    def end(self) -> bytes:
        """Return what the caller still gets when the upstream just ended."""
        return b"" if self.is_done else self._written(self._reader.end())

    def _written(self, events: list[Event]) -> bytes:
        told: list[bytes] = []
        for event in events:
            if isinstance(event, Failure):
                self.failure = event.message
                break
            if isinstance(event, _OUTPUT):
                self.events += 1
            elif isinstance(event, Usage):
                self.usage = recorded(event)
            elif isinstance(event, Finish):
                self.is_done = True
            told.append(self.writer.write(event))
        return b"".join(told)
