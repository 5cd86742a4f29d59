"""Model calls from inside the platform: through the front door, under the principal who is charged.

Given by the gateway, used by agents and evals. A caller holds a lent credential, never a provider's secret.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from interlock.foundation.identity import KeyBounds
from interlock.foundation.ids import KeyId
from interlock.foundation.scope import Scope

_UNBOUND: Final = KeyBounds()


@dataclass(frozen=True, slots=True)
class Credential:
    """A key of kind `il_task_`, lent to one piece of work; `key` lives in memory only."""

    key_id: KeyId
    key: str = field(repr=False)
    expires_at_us: int
    link: str


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One chat completion; `messages` and `tools` in the form of OpenAI's chat API.

    `route_version` asks for one version of a route, live or not; None takes what any caller gets. `tags` are for cost.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    route_version: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants to use; `arguments` is JSON as the model wrote it, valid or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """An answer under its request id; `cost_usd_micros` is None where no price is known."""

    request_id: str
    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    input_tokens: int
    output_tokens: int
    cost_usd_micros: int | None
    total_ms: float


@dataclass(frozen=True, slots=True)
class ModelRefused:
    """No answer: the gateway's code and status, 0 where it could not be reached; None means a repeat cannot help.

    `opens_after_s` is when it may be asked again at all, also where that is too long for a program to wait for.
    """

    code: str
    http_status: int
    retry_after_s: float | None
    message: str
    request_id: str | None = None
    opens_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class ChatBegun:
    """A streamed answer has begun under its request id; no text of it is here yet."""

    request_id: str


@dataclass(frozen=True, slots=True)
class ChatText:
    """The next piece of a streamed answer's text."""

    text: str


ChatPiece = ChatBegun | ChatText | ChatAnswer | ModelRefused


class ModelClient(Protocol):
    """The front door, from inside. Cancelling the task that awaits `chat` stops the upstream."""

    async def lend(
        self,
        scope: Scope,
        *,
        link: str,
        ttl_s: float,
        scopes: Sequence[str] = ("inference",),
        bounds: KeyBounds = _UNBOUND,
    ) -> Credential:
        """Mint a credential for the scope's principal and workspace, tied to `link` (`task_..`, `run_..`).

        Its scopes are those asked for that the principal itself holds; its models and class are within `bounds` and
        within those of the key that the principal came with. Audited.
        """
        ...

    async def extend(self, scope: Scope, credential: Credential, ttl_s: float) -> Credential:
        """Let it live `ttl_s` from now."""
        ...

    async def revoke(self, scope: Scope, credential: Credential) -> None:
        """End it at once; a no-op when it has ended."""
        ...

    async def chat(self, credential: Credential, call: ChatCall) -> ChatAnswer | ModelRefused:
        """Ask once; retries are the caller's."""
        ...


class StreamingModels(ModelClient, Protocol):
    """The front door, for whom a person waits."""

    async def models(self, scope: Scope) -> list[str]:
        """Return the models that a credential lent to this scope may ask for; `*` stands for all."""
        ...

    def stream(self, credential: Credential, call: ChatCall) -> AsyncGenerator[ChatPiece]:
        """Ask once and yield the answer as it comes; leaving the iteration stops the upstream.

        The last piece is the whole answer, or why there is none, or no more of it.
        """
        ...
