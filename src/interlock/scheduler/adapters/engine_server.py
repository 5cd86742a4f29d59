"""The embedded engine's own OpenAI-compatible server, on a unix socket, behind the internal token.

Does not generate: it checks calls, holds the slots, and renders what the model yields.
"""

import asyncio
import hmac
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from interlock.foundation.clock import Clock
from interlock.foundation.errors import BrokenWorldError, InterlockError
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.wire import ClientGone, Exchange, Server, WireLimits, WireRefusal, encode_event
from interlock.scheduler.adapters.engine_metrics import CONTENT_TYPE, EngineMetrics
from interlock.scheduler.adapters.xllamacpp_engine import refusal_of
from interlock.scheduler.config import EngineConfig
from interlock.scheduler.domain.completion import Completion, CompletionKind, parse_completion

_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
)
_DONE: Final = encode_event("[DONE]")
_ENDPOINTS: Final = {"/v1/chat/completions": CompletionKind.CHAT, "/v1/completions": CompletionKind.TEXT}
_CANARY: Final = Completion(
    CompletionKind.CHAT,
    is_stream=False,
    includes_usage=True,
    parameters={"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0.0},
)


class TextEngine(Protocol):
    """A model: events in the shape of OpenAI's stream, usage in the last one."""

    model_name: str
    slots: int
    context_tokens: int

    def generate(self, completion: Completion) -> AsyncIterator[dict[str, Any]]:
        """Yield events; closing the iterator stops the model and returns when its slot is free."""
        ...


@dataclass(frozen=True, slots=True)
class EngineServerStatistics:
    """What the engine holds."""

    running: int
    waiting: int
    slots: int
    waiting_max: int


class EngineServer:
    """Serves one `TextEngine`. `start` returns after the canary completion, the gate before any work."""

    def __init__(self, engine: TextEngine, *, token: str, clock: Clock, ids: IdFactory, config: EngineConfig) -> None:
        self._engine = engine
        self._expected = f"Bearer {token}".encode()
        self._clock = clock
        self._config = config
        self._slots = asyncio.Semaphore(engine.slots)
        self._waiting = 0
        self._running: set[_Answer] = set()
        self._is_ready = False
        self._metrics = EngineMetrics(engine.model_name)
        self._started_s = clock.now_us() // 1_000_000
        self._server = Server(self.handle, WireLimits(), mint=lambda: format_id("req", ids.new()), clock=clock)

    async def start(self, path: Path) -> None:
        """Prove that the model answers, then listen on a unix socket. Raises `BrokenWorldError` `canary_failed`."""
        await self._prove()
        await self._server.listen_unix(path)

    async def start_on(self, sock: socket.socket) -> None:
        """Do the same on a socket that is bound already."""
        await self._prove()
        await self._server.listen(sock)

    async def _prove(self) -> None:
        answer = _Answer(_CANARY, "chatcmpl-canary", self._engine.model_name, self._started_s)
        async with aclosing(self._engine.generate(_CANARY)) as events:  # type: ignore[type-var] # generators have aclose
            async for event in events:
                answer.take(event)
        if not answer.text or answer.usage is None:
            raise BrokenWorldError("canary_failed", "the model answered nothing", "try another model file")
        self._is_ready = True

    async def drain(self, grace_s: float) -> None:
        """Finish what runs, within `grace_s`."""
        self._is_ready = False
        await self._server.drain(grace_s)

    def statistics(self) -> EngineServerStatistics:
        """Return what runs and waits, and the bounds of both."""
        return EngineServerStatistics(len(self._running), self._waiting, self._engine.slots, self._config.waiting_max)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one call."""
        try:
            await self._route(exchange)
        except WireRefusal as refusal:
            exchange.refuse(refusal)
        except InterlockError as error:
            if exchange.head_sent:
                await exchange.write(encode_event(_error_body(error)))
                await exchange.finish()
                return
            await exchange.respond(error.http_status, _error_headers(error), _error_body(error))

    async def _route(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path == "/healthz" and request.method == "GET":
            status = b"ok" if self._is_ready else b"draining"
            await exchange.respond(200 if self._is_ready else 503, [_JSON], b'{"status":"%b"}' % status)
            return
        presented = request.headers.get(b"authorization") or b""
        if not hmac.compare_digest(presented, self._expected):
            raise InterlockError("internal_only")
        kind = _ENDPOINTS.get(request.path)
        if kind is not None and request.method == "POST":
            content = await request.body(self._config.body_bytes_max)
            await self._complete(exchange, parse_completion(kind, content))
        elif request.path == "/v1/models" and request.method == "GET":
            await exchange.respond(200, [_JSON], self._models())
        elif request.path == "/internal/reading" and request.method == "GET":
            await exchange.respond(200, [_JSON], self._reading())
        elif request.path == "/metrics" and request.method == "GET":
            await exchange.respond(200, [(b"content-type", CONTENT_TYPE)], self._render_metrics())
        else:
            raise InterlockError("not_found" if kind is None else "method_not_allowed")

    async def _complete(self, exchange: Exchange, completion: Completion) -> None:
        prefix = "chatcmpl" if completion.kind is CompletionKind.CHAT else "cmpl"
        answer = _Answer(
            completion, f"{prefix}-{exchange.request_id}", self._engine.model_name, self._clock.now_us() // 1_000_000
        )
        answer.received_s = self._clock.monotonic()
        answer.grant_id = (exchange.request.headers.get(b"x-interlock-grant") or b"").decode("latin-1")
        async with self._slot(answer):
            try:
                await self._run(exchange, answer)
            except (asyncio.CancelledError, ClientGone):
                answer.finish_reason = "abort"
                raise
            finally:
                self._count(answer)
        if completion.is_stream:
            await exchange.finish()
        else:
            await exchange.respond(200, [_JSON], msgspec.json.encode(answer.whole()))

    async def _run(self, exchange: Exchange, answer: "_Answer") -> None:
        async with aclosing(self._engine.generate(answer.completion)) as events:  # type: ignore[type-var] # as above
            async for event in events:
                error = refusal_of(event)
                if error is not None:
                    raise error
                chunks = answer.take(event)
                if answer.first_token_s is None and answer.output_events:
                    answer.first_token_s = self._clock.monotonic()
                if answer.completion.is_stream:
                    await self._stream(exchange, chunks)
        if answer.usage is None:
            raise InterlockError("upstream_error", "The model ended without its figures.")
        if answer.completion.is_stream:
            await self._stream(exchange, answer.closing())
            await exchange.write(_DONE)

    async def _stream(self, exchange: Exchange, chunks: list[dict[str, Any]]) -> None:
        if not exchange.head_sent:
            await exchange.start(200, list(_STREAM))
        for chunk in chunks:
            await exchange.write(encode_event(msgspec.json.encode(chunk)))

    @asynccontextmanager
    async def _slot(self, answer: "_Answer") -> AsyncIterator[None]:
        """Hold a slot; wait for one in a bounded line, which grants keep empty."""
        if self._slots.locked() and self._waiting >= self._config.waiting_max:
            raise InterlockError("overloaded")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running.add(answer)
        try:
            yield
        finally:
            self._running.discard(answer)
            self._slots.release()

    def _count(self, answer: "_Answer") -> None:
        metrics = self._metrics
        metrics.finished(answer.finish_reason or "error")
        now_s = self._clock.monotonic()
        metrics.total.observe(now_s - answer.received_s)
        if answer.first_token_s is not None:
            metrics.ttft.observe(answer.first_token_s - answer.received_s)
            if answer.output_events > 1:
                metrics.tpot.observe((now_s - answer.first_token_s) / (answer.output_events - 1))
        metrics.output_tokens.inc(answer.output_tokens)
        metrics.prompt_tokens.inc(answer.prompt_tokens)
        metrics.prefix_queries.inc(answer.prompt_tokens)
        metrics.prefix_hits.inc(answer.cached_tokens)

    def _render_metrics(self) -> bytes:
        held = sum(answer.prompt_tokens + answer.output_events for answer in self._running)
        self._metrics.running.set(len(self._running))
        self._metrics.waiting.set(self._waiting)
        self._metrics.kv_usage.set(held / (self._engine.slots * self._engine.context_tokens))
        return self._metrics.render()

    def _reading(self) -> bytes:
        """Return how far the granted answers are: whose prompt is read, and how long ago that was."""
        now_s = self._clock.monotonic()
        granted = [
            {
                "grant_id": each.grant_id,
                "output_tokens": each.output_events,
                "read_ms_ago": None if each.first_token_s is None else round((now_s - each.first_token_s) * 1_000),
            }
            for each in self._running
            if each.grant_id
        ]
        return msgspec.json.encode({"grants": granted})

    def _models(self) -> bytes:
        model = {
            "id": self._engine.model_name,
            "object": "model",
            "created": self._started_s,
            "owned_by": "interlock",
            "max_model_len": self._engine.context_tokens,
        }
        return msgspec.json.encode({"object": "list", "data": [model]})


class _Answer:
    """One completion as it grows: turns the model's events into OpenAI's chunks, or into the whole answer."""

    def __init__(self, completion: Completion, completion_id: str, model_name: str, created_s: int) -> None:
        self.completion = completion
        self.text: list[str] = []
        self.usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_events = 0
        self.received_s = 0.0
        self.grant_id = ""
        self.first_token_s: float | None = None
        self._is_chat = completion.kind is CompletionKind.CHAT
        self._frame = {"id": completion_id, "created": created_s, "model": model_name}
        self._has_role = False

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far; the model's own figure once it gave one."""
        return self.output_events if self.usage is None else int(self.usage["completion_tokens"])

    def take(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Note an event and return the chunks it is worth: none for progress, one for text."""
        progress = event.get("prompt_progress")
        if progress is not None:
            self.prompt_tokens = int(progress["total"])
            self.cached_tokens = int(progress["cache"])
            return []
        usage = event.get("usage")
        if usage is not None:
            self.usage = usage
            self.prompt_tokens = int(usage["prompt_tokens"])
            self.cached_tokens = int(usage.get("prompt_tokens_details", {}).get("cached_tokens", 0))
        chunks: list[dict[str, Any]] = []
        for choice in event.get("choices", ()):
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta = choice.get("delta", {})
            piece = (delta.get("content") if self._is_chat else choice.get("text")) or ""
            if piece:
                self.text.append(piece)
                self.output_events += 1
                chunks.append(self._chunk(piece, None))
        return chunks

    def closing(self) -> list[dict[str, Any]]:
        """Return the chunks that end a stream: the reason, and the usage where it was asked for."""
        chunks = [self._chunk("", self.finish_reason or "stop")]
        if self.completion.includes_usage:
            chunks.append({**self._frame, "object": self._object(is_chunk=True), "choices": [], "usage": self.usage})
        return chunks

    def whole(self) -> dict[str, Any]:
        """Return the answer in one piece."""
        text = "".join(self.text)
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self.finish_reason or "stop"}
        if self._is_chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        return {**self._frame, "object": self._object(is_chunk=False), "choices": [choice], "usage": self.usage}

    def _chunk(self, piece: str, finish_reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        if not self._is_chat:
            choice["text"] = piece
        elif self._has_role:
            choice["delta"] = {"content": piece} if piece else {}
        else:
            choice["delta"] = {"role": "assistant", "content": piece}
            self._has_role = True
        chunk = {**self._frame, "object": self._object(is_chunk=True), "choices": [choice]}
        if self.completion.includes_usage:
            chunk["usage"] = None
        return chunk

    def _object(self, *, is_chunk: bool) -> str:
        if not self._is_chat:
            return "text_completion"
        return "chat.completion.chunk" if is_chunk else "chat.completion"


def _error_headers(error: InterlockError) -> list[tuple[bytes, bytes]]:
    if error.retry_after_s is None:
        return [_JSON]
    return [_JSON, (b"retry-after", b"%d" % max(1, round(error.retry_after_s)))]


def _error_body(error: InterlockError) -> bytes:
    """Return the error in OpenAI's shape."""
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    body = {"message": error.message, "type": kind, "param": error.safe_detail.get("param"), "code": error.code}
    return msgspec.json.encode({"error": body})
