"""`contracts.inference.ModelClient`: calls of agents and evals, through the public port like any caller's.

Retries nothing and holds no provider's secret: keys, limits, ids, stories and cost are those of the front door.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final

import msgspec

from interlock.contracts.inference import (
    ChatAnswer,
    ChatBegun,
    ChatCall,
    ChatPiece,
    ChatText,
    Credential,
    ModelRefused,
    ToolCall,
)
from interlock.foundation.clock import Clock
from interlock.foundation.identity import KeyBounds, LentKeys
from interlock.foundation.scope import Scope
from interlock.foundation.wire import (
    Answer,
    Client,
    Timeouts,
    UpstreamBroken,
    UpstreamConnectError,
    UpstreamError,
    UpstreamTimeout,
)
from interlock.gateway.adapters.model_stream import Refusal, RefusalError, StreamReading
from interlock.gateway.config import InferenceConfig

_PATH: Final = "/v1/chat/completions"
_EVAL_LINK: Final = "run_"
_EVALS: Final = KeyBounds(class_max="batch")
_UNBOUND: Final = KeyBounds()
# How much longer than the edge this side waits, so that the edge's own refusal comes first.
_GRACE_S: Final = 2.0
_encode: Final = msgspec.json.Encoder().encode


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _Call(msgspec.Struct):
    function: _Function = msgspec.field(default_factory=_Function)
    id: str = ""


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message = msgspec.field(default_factory=_Message)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


_NOWHERE: Final = ModelRefused("control_unavailable", 0, 1.0, "No front door is known; the platform is not running.")


class GatewayModelClient:
    """The front door from inside. `base_url` is asked at each call, for the door may move while a worker runs."""

    def __init__(
        self,
        keys: LentKeys,
        client: Client,
        base_url: Callable[[], str | None],
        clock: Clock,
        config: InferenceConfig,
    ) -> None:
        self._keys = keys
        self._client = client
        self._base_url = base_url
        self._clock = clock
        self._config = config

    async def lend(
        self,
        scope: Scope,
        *,
        link: str,
        ttl_s: float,
        scopes: Sequence[str] = ("inference",),
        bounds: KeyBounds = _UNBOUND,
    ) -> Credential:
        """Mint a credential for the scope's principal and workspace, tied to `link`.

        Raises `role_denied` where the principal holds none of `scopes`, `ValueError` for a scope of the platform
        itself or of a whole organization.
        """
        within = bounds.within(_EVALS) if link.startswith(_EVAL_LINK) else bounds
        lent = await self._keys.lend(scope, link, ttl_s, scopes, within)
        return Credential(lent.id, lent.text, lent.expires_us, link)

    async def models(self, scope: Scope) -> list[str]:
        """Return the models that a credential lent to this scope may ask for; `*` stands for all."""
        return list((await self._keys.bounds_of(scope)).models)

    async def extend(self, scope: Scope, credential: Credential, ttl_s: float) -> Credential:
        """Let it live `ttl_s` from now. Raises `not_found` where it was ended."""
        expires_us = await self._keys.extend(scope, credential.key_id, ttl_s)
        return Credential(credential.key_id, credential.key, expires_us, credential.link)

    async def revoke(self, scope: Scope, credential: Credential) -> None:
        """End it at once; a no-op when it has ended."""
        await self._keys.revoke(scope, credential.key_id)

    async def chat(self, credential: Credential, call: ChatCall) -> ChatAnswer | ModelRefused:
        """Ask once. Canceling closes the connection, by which the edge stops the upstream."""
        base_url = self._base_url()
        if base_url is None:
            return _NOWHERE
        began = self._clock.monotonic()
        try:
            async with self._asked(base_url, credential, call, _body(call)) as answer:
                content = await answer.read(self._config.answer_bytes_max)
                total_ms = (self._clock.monotonic() - began) * 1_000
                return _answered(answer, content, total_ms) if answer.status == 200 else _refused(answer, content)
        except UpstreamError as fault:
            return _unreached(fault)

    async def stream(self, credential: Credential, call: ChatCall) -> AsyncGenerator[ChatPiece]:
        """Ask once and yield the answer as it comes. Closing the iteration closes the connection, as canceling does."""
        base_url = self._base_url()
        if base_url is None:
            yield _NOWHERE
            return
        began, reading = self._clock.monotonic(), StreamReading(self._config.answer_bytes_max)
        try:
            async with self._asked(base_url, credential, call, _body(call, is_streamed=True)) as answer:
                if answer.status != 200:
                    yield _refused(answer, await answer.read(self._config.answer_bytes_max))
                    return
                reading.request_id = _text(answer, b"x-request-id") or ""
                yield ChatBegun(reading.request_id)
                async for piece in answer.chunks():
                    for text in reading.feed(piece):
                        yield ChatText(text)
            yield reading.end((self._clock.monotonic() - began) * 1_000)
        except UpstreamError as fault:
            yield replace(_unreached(fault), request_id=reading.request_id or None)

    def _asked(
        self, base_url: str, credential: Credential, call: ChatCall, body: bytes
    ) -> AbstractAsyncContextManager[Answer]:
        timeouts = Timeouts(self._config.connect_s, *[call.timeout_s + _GRACE_S] * 3)
        return self._client.request("POST", base_url.rstrip("/") + _PATH, _headers(credential, call), body, timeouts)


def _headers(credential: Credential, call: ChatCall) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"authorization", f"Bearer {credential.key}".encode()),
        (b"content-type", b"application/json"),
        (b"x-interlock-task", credential.link.encode("latin-1", "replace")),
        (b"x-interlock-deadline-ms", b"%d" % max(1, round(call.timeout_s * 1_000))),
    ]
    if call.route_version is not None:
        headers.append((b"x-interlock-route-version", b"%d" % call.route_version))
    if call.tags:
        told = ",".join(f"{name}={value}" for name, value in call.tags.items())
        headers.append((b"x-interlock-tags", told.encode("ascii", "replace")))
    return headers


def _body(call: ChatCall, *, is_streamed: bool = False) -> bytes:
    given: dict[str, Any] = {
        "tools": list(call.tools) or None,
        "max_tokens": call.max_tokens,
        "temperature": call.temperature,
        "seed": call.seed,
        "stream": True if is_streamed else None,
        "stream_options": {"include_usage": True} if is_streamed else None,
    }
    body: Mapping[str, Any] = {
        "model": call.model,
        "messages": list(call.messages),
        **{name: value for name, value in given.items() if value is not None},
    }
    return _encode(body)


def _answered(answer: Answer, content: bytes, total_ms: float) -> ChatAnswer | ModelRefused:
    request_id = _text(answer, b"x-request-id")
    try:
        completion = msgspec.json.decode(content, type=_Completion)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return ModelRefused("upstream_bad_reply", 502, None, f"The answer is no completion: {error}", request_id)
    if not completion.choices:
        return ModelRefused("upstream_bad_reply", 502, None, "The answer has no choice.", request_id)
    choice, usage = completion.choices[0], completion.usage or _Usage()
    cost = _text(answer, b"x-interlock-cost-usd-micros")
    return ChatAnswer(
        request_id=request_id or "",
        text=choice.message.content or "",
        tool_calls=tuple(
            ToolCall(each.id, each.function.name, each.function.arguments) for each in choice.message.tool_calls or ()
        ),
        finish_reason=choice.finish_reason or "",
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cost_usd_micros=int(cost) if cost is not None and cost.isdigit() else None,
        total_ms=total_ms,
    )


def _refused(answer: Answer, content: bytes) -> ModelRefused:
    try:
        told = msgspec.json.decode(content, type=Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = Refusal(RefusalError(content[:200].decode("utf-8", "replace")))
    should = _text(answer, b"x-should-retry") == "true"
    wait_s = told.interlock.retry_after_s
    if wait_s is None:
        after = _text(answer, b"retry-after-ms")
        wait_s = int(after) / 1_000 if after is not None and after.isdigit() else 0.0
    return ModelRefused(
        told.interlock.code,
        answer.status,
        wait_s if should else None,
        told.error.message,
        _text(answer, b"x-request-id"),
        opens_after_s=wait_s or None,
    )


def _unreached(fault: UpstreamError) -> ModelRefused:
    if isinstance(fault, UpstreamTimeout) and fault.phase != "connect":
        return ModelRefused("deadline_exceeded", 504, 1.0, str(fault))
    if isinstance(fault, UpstreamBroken):
        return ModelRefused("upstream_error", 0, 1.0, str(fault))
    word = "cannot be reached" if isinstance(fault, UpstreamConnectError) else "did not answer"
    return ModelRefused("control_unavailable", 0, 1.0, f"The front door {word}: {fault}")


def _text(answer: Answer, name: bytes) -> str | None:
    value = answer.headers.get(name)
    return None if value is None else value.decode("latin-1")
