"""Grants: how the gateway asks the scheduler for a place on a self-hosted engine.

Given by the scheduler, used by the gateway. Tokens never pass through the scheduler.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from interlock.foundation.ids import KeyId, OrganizationId, WorkspaceId


class ServiceClass(StrEnum):
    """The latency class of a request; its objectives belong to the pool."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class SettleOutcome(StrEnum):
    """How the use of a grant ended."""

    OK = "ok"
    CLIENT_GONE = "client_gone"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """One request for a place; `input_tokens` is an estimate, `max_tokens` the most it may generate.

    Nobody waits for the answer of a copy, so an edge that gives places by itself gives it none. `is_copy` does not
    travel: the scheduler orders a copy by its class.
    """

    request_id: str
    pool: str
    organization_id: OrganizationId
    workspace_id: WorkspaceId
    key_id: KeyId | None
    service_class: ServiceClass
    input_tokens: int
    max_tokens: int
    ttft_ms: int | None = None
    deadline_ms: int | None = None
    prefix: tuple[str, ...] = ()
    model: str | None = None
    route: str | None = None
    is_copy: bool = False


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the scheduler expects; a figure it cannot know yet is None, never 0."""

    ttft_ms: int | None
    tpot_ms: int | None
    output_tokens: int | None
    cached_input_tokens: int | None


@dataclass(frozen=True, slots=True)
class Granted:
    """A place: stream from `engine_url`, report progress, settle once. The lease is `expires_in_ms`."""

    grant_id: str
    engine_id: str
    engine_url: str
    engine_model: str
    expires_in_ms: int
    queue_wait_ms: int
    predicted: Predicted
    promise: str
    decision: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """No place: a code of scheduler.md 4.2 with its status; `retry_after_s` is None where a repeat cannot help.

    `decision` are the steps that led to it, for the story; `detail` is what the caller sees.
    """

    code: str
    http_status: int
    retry_after_s: float | None
    message: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    decision: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class GrantProgress:
    """Output tokens seen so far; `ttft_ms` once the first one came. Renews the grant's lease.

    `silent_ms` is how long a stream has waited for its next token; None where nobody knows, or its reader is slow.
    """

    grant_id: str
    output_tokens: int
    ttft_ms: int | None = None
    silent_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ProgressReply:
    """Grants the scheduler does not know, and grants it took back.

    `drained` are those of the latter whose engine had drained long enough; the engine of the others stands still.
    """

    unknown: tuple[str, ...]
    revoked: tuple[str, ...]
    drained: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settlement:
    """The final figures of a grant; the same body twice gives the same answer."""

    outcome: SettleOutcome
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    ttft_ms: int | None
    total_ms: int


# A grant that no engine saw anything of.
UNUSED: Final = Settlement(SettleOutcome.UNUSED, 0, 0, 0, None, 0)
# Refusals of a settlement that it would meet again however often it is told.
FINAL_REFUSALS: Final = frozenset({"grant_unknown", "grant_settled", "invalid_request"})


@dataclass(frozen=True, slots=True)
class Settled:
    """What the grant came to in the scheduler's books."""

    in_slo: bool
    charged_tokens: int
    refunded_tokens: int
    cost_usd: str
    wasted_tokens: int


@dataclass(frozen=True, slots=True)
class AdoptedGrant:
    """A grant that an edge still uses, told to a scheduler that just took over."""

    request: GrantRequest
    grant_id: str
    engine_id: str
    age_ms: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class AdoptReply:
    """How many grants were taken over, and which were not."""

    adopted: int
    rejected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BypassEngine:
    """An engine that an edge may use without asking."""

    engine_id: str
    url: str
    model: str
    slots: int


class BypassSource(Protocol):
    """Says whether edges are to do without the scheduler."""

    async def load(self) -> Mapping[str, Sequence[BypassEngine]] | None:
        """Return the engines of each pool while the scheduler is bypassed, None while it is not."""
        ...


@dataclass(frozen=True, slots=True)
class PoolLeader:
    """Where the scheduler that leads a pool answers: `unix:/path.sock:` or `http://host:port`. The newest leads."""

    pool: str
    address: str
    fence: int


class LeaderSource(Protocol):
    """Says who leads the pools."""

    async def load(self) -> Sequence[PoolLeader]:
        """Return the leader of each pool that has one."""
        ...


class GrantBroker(Protocol):
    """A queue in front of engines. Cancelling the task that awaits `acquire` gives the seat back."""

    async def acquire(self, request: GrantRequest) -> Granted | Refused:
        """Wait, bounded in time, for a place."""
        ...

    async def progress(self, grants: Sequence[GrantProgress]) -> ProgressReply:
        """Renew the leases of running grants and report their output."""
        ...

    async def settle(self, grant_id: str, settlement: Settlement) -> Settled | Refused:
        """End a grant; `grant_unknown` and `grant_settled` come back as `Refused`."""
        ...

    async def cancel(self, request_id: str) -> None:
        """Close a held `acquire`, or end a grant on its way to a caller who left; a no-op for an unknown id."""
        ...

    async def adopt(self, worker: str, grants: Sequence[AdoptedGrant]) -> AdoptReply:
        """Hand over live grants after a change of leader."""
        ...
