"""A chat-completions server on a unix socket that answers by strategies instead of a language model.

Knows no tenants and reads no store: a call carries all that its answer depends on.
"""

import asyncio
import hmac
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.agents.adapters.offline_models.answers import Answer
from interlock.agents.domain import adversary, repair, replay
from interlock.agents.domain.transcripts import NextCall, Transcript, read_transcript
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.wire import Exchange, Server, WireLimits, WireRefusal, encode_event

TEST_MODELS: Final = ("adversary", "replay")
_ORDINARY: Final = ("repair-search",)
_BODY_BYTES_MAX: Final = 20 << 20
_OUTPUT_TOKENS: Final = 16_384
# Characters of JSON a token: the usual rule of thumb, so that budgets of tests mean something.
_CHARS_A_TOKEN: Final = 4
_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
)
_STRATEGIES: Final[Mapping[str, Callable[[Transcript, int], NextCall]]] = {
    "repair-search": repair.next_call,
    "adversary": lambda transcript, _: adversary.next_call(transcript),
    "replay": lambda transcript, _: replay.next_call(transcript),
}


def model_names(*, with_test_models: bool) -> tuple[str, ...]:
    """Return the models to register."""
    return (*_ORDINARY, *TEST_MODELS) if with_test_models else _ORDINARY


class ChatBody(msgspec.Struct):
    """What is read of a call; everything else of the chat API is taken and means nothing here."""

    model: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream is to end with the figures."""
        return bool((self.stream_options or {}).get("include_usage"))


class OfflineModelServer:
    """Serves the models named; `start` listens, `drain` ends it."""

    def __init__(self, models: tuple[str, ...], *, token: str, clock: Clock, ids: IdFactory) -> None:
        self._models = models
        self._expected = f"Bearer {token}".encode()
        self._clock = clock
        self._started_s = clock.now_us() // 1_000_000
        self._server = Server(self.handle, WireLimits(), mint=lambda: format_id("req", ids.new()), clock=clock)

    async def start(self, path: Path) -> None:
        """Listen on a unix socket."""
        await self._server.listen_unix(path)

    async def drain(self, grace_s: float) -> None:
        """Finish what runs, within `grace_s`."""
        await self._server.drain(grace_s)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one call."""
        try:
            await self._route(exchange)
        except WireRefusal as refusal:
            exchange.refuse(refusal)
        except InterlockError as error:
            kind = "invalid_request_error" if error.http_status < 500 else "server_error"
            body = {"message": error.message, "type": kind, "param": None, "code": error.code}
            await exchange.respond(error.http_status, [_JSON], msgspec.json.encode({"error": body}))

    async def _route(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path == "/healthz":
            await exchange.respond(200, [_JSON], b'{"status":"ok"}')
            return
        if not hmac.compare_digest(request.headers.get(b"authorization") or b"", self._expected):
            raise InterlockError("internal_only")
        if request.path == "/v1/models" and request.method == "GET":
            data = [
                {"id": name, "object": "model", "created": self._started_s, "owned_by": "interlock"}
                for name in self._models
            ]
            await exchange.respond(200, [_JSON], msgspec.json.encode({"object": "list", "data": data}))
        elif request.path == "/v1/chat/completions" and request.method == "POST":
            await self._complete(exchange, await request.body(_BODY_BYTES_MAX))
        else:
            raise InterlockError("not_found")

    async def _complete(self, exchange: Exchange, content: bytes) -> None:
        try:
            body = msgspec.json.decode(content, type=ChatBody)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InterlockError("invalid_json", f"The body is no chat completion: {error}") from error
        if body.model not in self._models:
            raise InterlockError("model_not_found")
        # A search over a program takes a processor for a second; others are served meanwhile.
        answer = await asyncio.to_thread(self._answer, body, exchange.request_id)
        if not body.stream:
            await exchange.respond(200, [_JSON], msgspec.json.encode(answer.whole()))
            return
        await exchange.start(200, list(_STREAM))
        for chunk in answer.chunks(includes_usage=body.includes_usage):
            await exchange.write(encode_event(msgspec.json.encode(chunk)))
        await exchange.write(encode_event("[DONE]"))
        await exchange.finish()

    def _answer(self, body: ChatBody, request_id: str) -> Answer:
        asked = body.max_completion_tokens or body.max_tokens or _OUTPUT_TOKENS
        try:
            call = _STRATEGIES[body.model](read_transcript(body.messages), asked * _CHARS_A_TOKEN)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InterlockError(
                "invalid_request", f"{body.model} does not understand the conversation: {error}"
            ) from error
        arguments = json.dumps(dict(call.arguments))
        prompt_chars = len(msgspec.json.encode((body.messages, body.tools)))
        tokens = math.ceil((len(arguments) + len(call.text) + len(call.name)) / _CHARS_A_TOKEN)
        return Answer(
            completion_id=f"chatcmpl-{request_id}",
            created_s=self._clock.now_us() // 1_000_000,
            model=body.model,
            text=call.text,
            call_name=call.name,
            # The number of calls before makes ids differ in one conversation and the same in two equal ones.
            call_id=f"call_{sum(message.get('role') == 'assistant' for message in body.messages)}",
            arguments=arguments[: asked * _CHARS_A_TOKEN],
            is_cut=tokens > asked,
            prompt_tokens=math.ceil(prompt_chars / _CHARS_A_TOKEN),
            completion_tokens=min(tokens, asked),
        )
