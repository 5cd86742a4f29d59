"""A scripted OpenAI-compatible server: as fast, slow or broken as its script says, and it counts what it sees.

For tests, benchmarks and `interlock engine fake`; it never generates text of its own.
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.foundation.clock import Clock
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.wire import ClientGone, Exchange, Server, WireLimits, WireRefusal, encode_event
from interlock.scheduler.adapters.fake_dialects import FakeState, page_of
from interlock.scheduler.adapters.fake_steps import StepLoop
from interlock.scheduler.domain.engines import Dialect

_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_DONE: Final = encode_event("[DONE]")
_BODY_BYTES_MAX: Final = 33_554_432
_WORDS: Final = ("The ", "order ", "left ", "the ", "warehouse ", "this ", "morning. ")


class Fault(StrEnum):
    """How an answer goes wrong."""

    SERVER_ERROR = "server_error"
    RATE_LIMITED = "rate_limited"
    CUT = "cut"
    HANG = "hang"
    BAD_JSON = "bad_json"


@dataclass(frozen=True, slots=True)
class Script:
    """One way to answer.

    `tokens` words, the first after `first_token_s`, each next one after `token_s`. `fault` strikes after
    `fault_after_events` events of a stream; `server_error` and `rate_limited` strike before the head.
    """

    tokens: int = 8
    first_token_s: float = 0.0
    token_s: float = 0.0
    fault: Fault | None = None
    fault_after_events: int = 0
    retry_after_s: int = 1


@dataclass(slots=True)
class FakeEngineStatistics:
    """What the server saw: `disconnects` are clients that left before the end of their answer."""

    requests: int = 0
    running: int = 0
    completed: int = 0
    disconnects: int = 0
    tokens: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """How the engine presents itself: whose pages it serves, and how large it says it is."""

    dialect: Dialect = Dialect.OPENAI
    model: str = "fake"
    slots: int = 128
    context_tokens: int = 8_192
    kv_tokens: int = 427_008


class FakeEngine:
    """Answers every completion by `script`, or by the next of `once` where there is one.

    With `steps` a token takes what the profile of that loop says, instead of the script's times. While `frozen_pages`
    is set, pages other than completions are served as they first were.
    """

    def __init__(
        self,
        script: Script,
        *,
        clock: Clock,
        ids: IdFactory,
        token: str | None = None,
        shape: Shape | None = None,
        steps: StepLoop | None = None,
    ) -> None:
        self.script = script
        self.shape = shape or Shape()
        self.frozen_pages: dict[str, tuple[int, bytes, bytes]] | None = None
        self._steps = steps
        self.once: deque[Script] = deque()
        self.last_body: dict[str, Any] = {}
        self._clock = clock
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._statistics = FakeEngineStatistics()
        self._ids = ids
        self._server = Server(self.handle, WireLimits(), mint=lambda: format_id("req", ids.new()), clock=clock)

    async def listen(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen on a port, 0 for any free one; return the base URL."""
        sock = socket.create_server((host, port))
        await self._server.listen(sock)
        return f"http://{host}:{sock.getsockname()[1]}"

    async def listen_unix(self, path: Path) -> str:
        """Listen on a unix socket; return its `unix:` URL."""
        await self._server.listen_unix(path)
        return f"unix:{path}"

    async def close(self) -> None:
        """Close at once, in the middle of answers too."""
        await self._server.drain(0.0)
        if self._steps is not None:
            await self._steps.close()

    def statistics(self) -> FakeEngineStatistics:
        """Return the counts so far."""
        return self._statistics

    async def handle(self, exchange: Exchange) -> None:
        """Answer one call."""
        request = exchange.request
        if self._expected is not None and request.headers.get(b"authorization") != self._expected:
            await exchange.respond(401, [_JSON], _error("invalid_api_key"))
        elif request.path in {"/v1/chat/completions", "/v1/completions"} and request.method == "POST":
            try:
                self.last_body = msgspec.json.decode(await request.body(_BODY_BYTES_MAX))
            except WireRefusal as refusal:
                exchange.refuse(refusal)
                return
            with self._counted():
                await self._complete(exchange, self.once.popleft() if self.once else self.script)
        else:
            status, kind, content = self._page(request.path)
            await exchange.respond(status, [(b"content-type", kind)], content)

    def _page(self, path: str) -> tuple[int, bytes, bytes]:
        page = page_of(self.shape.dialect, path, self._state())
        answer = (
            (404, _JSON[1], _error("not_found")) if page is None else (page.status, page.content_type, page.content)
        )
        return answer if self.frozen_pages is None else self.frozen_pages.setdefault(path, answer)

    def _state(self) -> FakeState:
        counted, shape, steps = self._statistics, self.shape, self._steps
        held = [] if steps is None else steps.held_by_slot()
        return FakeState(
            model=shape.model,
            slots=shape.slots,
            context_tokens=shape.context_tokens,
            kv_tokens=shape.kv_tokens,
            running=counted.running if steps is None else steps.running,
            waiting=0 if steps is None else steps.waiting,
            held_tokens=sum(held),
            held_by_slot=held,
            prompt_tokens=counted.prompt_tokens,
            cached_tokens=0,
            output_tokens=counted.tokens,
            completed=counted.completed,
            aborted=counted.disconnects,
        )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._statistics.requests += 1
        self._statistics.running += 1
        try:
            yield
        except (asyncio.CancelledError, ClientGone):
            self._statistics.disconnects += 1
            raise
        else:
            self._statistics.completed += 1
        finally:
            self._statistics.running -= 1

    async def _complete(self, exchange: Exchange, script: Script) -> None:
        if script.fault is Fault.SERVER_ERROR:
            await exchange.respond(500, [_JSON], _error("server_error"))
            return
        if script.fault is Fault.RATE_LIMITED:
            retry = (b"retry-after", b"%d" % script.retry_after_s)
            await exchange.respond(429, [_JSON, retry], _error("rate_limit_exceeded"))
            return
        answer = _Script(self.last_body, script, format_id("req", self._ids.new()), self.shape.model)
        self._statistics.prompt_tokens += answer.prompt_tokens
        if self.last_body.get("stream"):
            await self._stream(exchange, answer)
            return
        async with aclosing(self._ticks(answer)) as ticks:
            async for _ in ticks:
                pass
        if script.fault is Fault.HANG:
            await asyncio.Event().wait()
        if script.fault is Fault.CUT:
            exchange.abort()
            return
        self._statistics.tokens += answer.tokens
        content = b'{"choices": [' if script.fault is Fault.BAD_JSON else msgspec.json.encode(answer.whole())
        await exchange.respond(200, [_JSON], content)

    async def _stream(self, exchange: Exchange, answer: "_Script") -> None:
        script = answer.script
        is_headless = script.fault is Fault.HANG and script.fault_after_events == 0
        if is_headless:
            await asyncio.Event().wait()
        await exchange.start(200, _STREAM)
        async with aclosing(self._ticks(answer)) as ticks:
            async for index in ticks:
                if script.fault is not None and index == script.fault_after_events:
                    await self._strike(exchange, script.fault)
                    return
                await exchange.write(encode_event(answer.chunk(index)))
                self._statistics.tokens += 1
        for closing in answer.closing():
            await exchange.write(encode_event(closing))
        await exchange.write(_DONE)
        await exchange.finish()

    async def _ticks(self, answer: "_Script") -> AsyncGenerator[int]:
        """Yield the number of each token when it is due."""
        if self._steps is not None:
            async with aclosing(self._steps.tokens(answer.prompt_tokens, answer.tokens)) as numbers:
                async for number in numbers:
                    yield number
            return
        for number in range(answer.tokens):
            wait_s = answer.script.token_s if number else answer.script.first_token_s
            if wait_s:
                await self._clock.sleep(wait_s)
            yield number

    async def _strike(self, exchange: Exchange, fault: Fault) -> None:
        if fault is Fault.HANG:
            await asyncio.Event().wait()
        if fault is Fault.BAD_JSON:
            await exchange.write(encode_event('{"choices": ['))
            await exchange.finish()
            return
        exchange.abort()


class _Script:
    """One answer in OpenAI's shapes."""

    def __init__(self, body: dict[str, Any], script: Script, answer_id: str, model: str) -> None:
        self.script = script
        wanted = body.get("max_completion_tokens") or body.get("max_tokens") or script.tokens
        self.tokens = min(script.tokens, wanted)
        self._is_chat = "messages" in body
        self._includes_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._reason = "length" if self.tokens < script.tokens else "stop"
        self.prompt_tokens = len(str(body.get("messages") or body.get("prompt") or "").split())
        self._usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }
        self._frame = {"id": f"chatcmpl-{answer_id}", "created": 0, "model": model}

    def chunk(self, index: int) -> bytes:
        """Return one event with one word."""
        word = _WORDS[index % len(_WORDS)]
        return self._event(
            {"delta": {"content": word} if index else {"role": "assistant", "content": word}}, word, None
        )

    def closing(self) -> list[bytes]:
        """Return the events that end a stream."""
        events = [self._event({"delta": {}}, "", self._reason)]
        if self._includes_usage:
            usage = {**self._frame, "object": "chat.completion.chunk", "choices": [], "usage": self._usage}
            events.append(msgspec.json.encode(usage))
        return events

    def whole(self) -> dict[str, Any]:
        """Return the answer in one piece."""
        text = "".join(_WORDS[index % len(_WORDS)] for index in range(self.tokens))
        choice: dict[str, Any] = {"index": 0, "finish_reason": self._reason}
        choice |= {"message": {"role": "assistant", "content": text}} if self._is_chat else {"text": text}
        kind = "chat.completion" if self._is_chat else "text_completion"
        return {**self._frame, "object": kind, "choices": [choice], "usage": self._usage}

    def _event(self, delta: dict[str, Any], text: str, reason: str | None) -> bytes:
        choice = {"index": 0, "finish_reason": reason, **(delta if self._is_chat else {"text": text})}
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        return msgspec.json.encode({**self._frame, "object": kind, "choices": [choice]})


def _error(code: str) -> bytes:
    return msgspec.json.encode({"error": {"message": code, "type": code, "param": None, "code": code}})
