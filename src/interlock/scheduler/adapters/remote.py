"""Asks an engine over HTTP whether it is there, and for the one completion that admits it.

Carries no user's request: the edge streams those itself.
"""

from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

import msgspec

from interlock.foundation.clock import Clock, SystemClock
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.wire import (
    Client,
    Timeouts,
    UpstreamBroken,
    UpstreamConnectError,
    UpstreamError,
    UpstreamTimeout,
)
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.completion import Completion, CompletionKind
from interlock.scheduler.domain.types import EngineState

_ANSWER_BYTES_MAX: Final = 1_048_576
_JSON: Final = (b"content-type", b"application/json")
_CANARY_TOKENS: Final = 4
# Less than one step of our own engine: enough to tell slow from fast, short enough for nobody to wait for it.
_PACE_PROMPT: Final = " ".join(f"Parcel {number} is on its way to shelf {number * 7}." for number in range(5))
_PACE_TOKENS_MIN: Final = 64


class EngineProbe(Protocol):
    """How the watch looks at an engine."""

    async def is_alive(self, engine: EngineState) -> bool:
        """Return whether the engine answers at all."""
        ...

    async def answers(self, engine: EngineState) -> bool:
        """Return whether the engine completes a prompt with text."""
        ...

    async def reading(self, engine: EngineState) -> "list[Reading]":
        """Return how far one of our own engines is with the answers it makes."""
        ...

    async def pace(self, engine: EngineState) -> tuple[int, float] | None:
        """Return prompt tokens that an engine has just read and the seconds it took; None where that tells nothing."""
        ...


class Reading(msgspec.Struct, frozen=True):
    """How far our own engine is with a granted answer; None while its prompt is still being read."""

    grant_id: str
    output_tokens: int
    read_ms_ago: int | None


class ReadingBody(msgspec.Struct):
    """What our own engine tells of the answers that it makes."""

    grants: list[Reading]


class HttpProbe:
    """Probes by `GET /v1/models`, which every OpenAI-compatible server has."""

    def __init__(self, client: Client, *, token: str, config: SchedulerConfig, clock: Clock | None = None) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._authorization = (b"authorization", f"Bearer {token}".encode())
        self._config = config

    async def is_alive(self, engine: EngineState) -> bool:
        """Return whether the list of models comes in time."""
        return await self._ask(engine, "GET", "/models", b"", self._config.probe_timeout_s) is not None

    async def answers(self, engine: EngineState) -> bool:
        """Return whether a short chat ends with a text."""
        body = {
            "model": engine.model,
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": _CANARY_TOKENS,
            "temperature": 0,
        }
        content = msgspec.json.encode(body)
        text = await self._ask(engine, "POST", "/chat/completions", content, self._config.canary_timeout_s)
        try:
            answer = msgspec.json.decode(text or b"{}")
            return bool(answer["choices"][0]["message"]["content"])
        except (msgspec.DecodeError, KeyError, IndexError, TypeError):
            return False

    async def pace(self, engine: EngineState) -> tuple[int, float] | None:
        """Have a prompt read that is in no cache, and time it."""
        body = {"model": engine.model, "prompt": _PACE_PROMPT, "max_tokens": 1, "temperature": 0}
        began = self._clock.monotonic()
        content = msgspec.json.encode(body)
        text = await self._ask(engine, "POST", "/completions", content, self._config.canary_timeout_s)
        took_s = self._clock.monotonic() - began
        try:
            usage = msgspec.json.decode(text or b"{}")["usage"]
            read = int(usage["prompt_tokens"]) - int(usage.get("prompt_tokens_details", {}).get("cached_tokens", 0))
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            return None
        return None if read < _PACE_TOKENS_MIN else (read, took_s)

    async def reading(self, engine: EngineState) -> list[Reading]:
        """Return how far one of our own engines is; nothing where it does not tell in time."""
        url = f"{engine.url}:/internal/reading"
        text = await self._call(engine, "GET", url, b"", self._config.probe_timeout_s)
        try:
            return msgspec.json.decode(text or b'{"grants":[]}', type=ReadingBody).grants
        except msgspec.DecodeError:
            return []

    async def _ask(self, engine: EngineState, method: str, path: str, body: bytes, total_s: float) -> bytes | None:
        return await self._call(engine, method, endpoint(engine.url, path), body, total_s)

    async def _call(self, engine: EngineState, method: str, url: str, body: bytes, total_s: float) -> bytes | None:
        headers = [_JSON]
        if engine.url.startswith("unix:"):
            # The internal token is for our own processes; an engine behind a URL is somebody else's.
            headers.append(self._authorization)
        timeouts = Timeouts(connect_s=total_s, first_byte_s=total_s, idle_s=total_s, total_s=total_s)
        try:
            async with self._client.request(method, url, headers, body, timeouts) as answer:
                content = await answer.read(_ANSWER_BYTES_MAX)
                return content if answer.status == 200 else None
        except (UpstreamConnectError, UpstreamTimeout, UpstreamBroken):
            return None


class RemoteSpeaker:
    """An engine at a URL, as a parity run speaks with it: whole answers, given as one event."""

    def __init__(self, client: Client, url: str, api_key: str | None) -> None:
        self._client = client
        self._url = url
        self._headers = [_JSON] if api_key is None else [_JSON, (b"authorization", f"Bearer {api_key}".encode())]

    async def generate(self, completion: Completion) -> AsyncIterator[dict[str, Any]]:
        """Yield the answer. Raises `BrokenWorldError` `engine_unreachable`."""
        is_chat = completion.kind is CompletionKind.CHAT
        url = endpoint(self._url, "/chat/completions" if is_chat else "/completions")
        body = msgspec.json.encode({"model": "default", **completion.parameters})
        try:
            async with self._client.request("POST", url, self._headers, body, Timeouts()) as answer:
                content = await answer.read(_ANSWER_BYTES_MAX)
                choice = msgspec.json.decode(content)["choices"][0]
        except (UpstreamError, msgspec.DecodeError, KeyError, IndexError, TypeError, ValueError) as error:
            finding = f"{self._url} gave no answer: {error!r}"
            raise BrokenWorldError("engine_unreachable", finding, "look at it with interlock engine probe") from error
        yield {"choices": [{"delta": choice.get("message", {}), "text": choice.get("text")}]}


def endpoint(url: str, path: str) -> str:
    """Return where an engine takes `path`: below `/v1` unless its base URL has a path of its own."""
    if url.startswith("unix:"):
        return f"{url}:/v1{path}"
    bare = url.rstrip("/")
    return bare + path if bare.partition("://")[2].partition("/")[2] else f"{bare}/v1{path}"
