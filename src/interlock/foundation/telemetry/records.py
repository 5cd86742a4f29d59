"""What is remembered of a request: one record, its attempts, its decisions.

Positional at rest: fields are appended, never moved or removed. Knows neither the spool nor the store.
"""

from uuid import UUID

import msgspec

from interlock.foundation.telemetry.names import Outcome


class Decision(msgspec.Struct, array_like=True, frozen=True):
    """One step of a request: `at_us` in microseconds since the epoch, `rule` what decided, `verdict` how."""

    at_us: int
    step: str
    rule: str
    verdict: str
    detail: str = ""


# A decision at rest: microseconds since the request began, number of the step or else its name, rule, verdict, detail.
ToldDecision = tuple[int, int | str, str, str, str]


class Link(msgspec.Struct, array_like=True, frozen=True):
    """Another object that this request belongs to, such as a task or a run."""

    kind: str
    id: str


class Attempt(msgspec.Struct, array_like=True, kw_only=True):
    """One call of an upstream."""

    n: int
    deployment: str
    status: int | None = None
    error: str | None = None
    connect_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    upstream_request_id: str | None = None


class Usage(msgspec.Struct, array_like=True, kw_only=True):
    """Tokens; `estimated` when no upstream counted them."""

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated: bool = False


class Cost(msgspec.Struct, array_like=True, kw_only=True):
    """Dollars as decimal strings."""

    usd: str | None = None
    estimated_usd: str | None = None
    price_version: int | str | None = None


class Timing(msgspec.Struct, array_like=True, kw_only=True):
    """Where the time went, milliseconds; None where a request has no such phase."""

    auth_ms: float | None = None
    queue_ms: float | None = None
    connect_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    gateway_ms: float | None = None


class RequestRecord(msgspec.Struct, array_like=True, kw_only=True):
    """All that is kept of one request.

    `organization_id` is None for a request that never had an identity; the store files it under the
    system organization. `rule` is what refused or, for an answer, what chose the target. `target` is the
    path as received, for the curl line; `endpoint` is the route it was taken for. `tags` are `k=v,..`, by
    name. An incomplete record, of which only another role's decisions have arrived, has no outcome ("") and
    no status (0) yet.
    """

    id: UUID
    started_us: int
    complete: bool = True
    organization_id: UUID | None = None
    workspace_id: UUID | None = None
    key_id: UUID | None = None
    client_request_id: str | None = None
    trace_id: str | None = None
    endpoint: str = ""
    dialect: str | None = None
    stream: bool = False
    outcome: str = Outcome.INTERNAL_ERROR
    status: int = 500
    error_code: str | None = None
    rule: str = ""
    alias: str | None = None
    route_version: int | None = None
    deployment: str | None = None
    arm: str | None = None
    degraded: str | None = None
    links: list[Link] = []
    attempts: list[Attempt] = []
    usage: Usage = msgspec.field(default_factory=Usage)
    cost: Cost = msgspec.field(default_factory=Cost)
    timing: Timing = msgspec.field(default_factory=Timing)
    decisions: list[Decision] = []
    method: str = ""
    target: str = ""
    tags: str = ""


class Addendum(msgspec.Struct, array_like=True, kw_only=True):
    """Decisions and links that another role adds to a request which the edge records."""

    id: UUID
    organization_id: UUID
    workspace_id: UUID | None = None
    decisions: list[Decision] = []
    links: list[Link] = []


class Note(msgspec.Struct, omit_defaults=True):
    """What an older ring knows of a request that is still open; the newest value of a field wins, decisions add up."""

    organization_id: UUID | None = None
    workspace_id: UUID | None = None
    key_id: UUID | None = None
    client_request_id: str | None = None
    trace_id: str | None = None
    endpoint: str | None = None
    dialect: str | None = None
    stream: bool | None = None
    alias: str | None = None
    route_version: int | None = None
    deployment: str | None = None
    arm: str | None = None
    decisions: list[Decision] = []


class Opened(msgspec.Struct, array_like=True):
    """A request as an older ring has it: as it came in, and what was noted; the frame has the id before it."""

    started_us: int
    method: str
    target: str
    note: Note
