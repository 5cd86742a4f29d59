"""One request on its way through the edge, and all that its story will say.

Decides nothing; the other services write down here what they decided.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from interlock.contracts.scheduling import Granted, GrantRequest
from interlock.foundation.clock import Clock
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.native import load
from interlock.foundation.scope import Principal
from interlock.foundation.telemetry import (
    Attempt,
    Cost,
    Frame,
    Link,
    Outcome,
    Spool,
    Steps,
    Story,
    Timing,
    Usage,
)
from interlock.foundation.wire import Exchange
from interlock.gateway.domain.arm_counts import Counted
from interlock.gateway.domain.cost import dollars, estimated_usd_micros
from interlock.gateway.domain.directory import Placement
from interlock.gateway.domain.envelope import Envelope
from interlock.gateway.domain.limits import Ask, Reservation
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.replies import Capture


@dataclass(slots=True)
class HeldGrant:
    """A grant in use: what the scheduler was asked for, what it gave, and the output seen so far."""

    request: GrantRequest
    granted: Granted
    held_at: float
    output_tokens: int = 0
    ttft_ms: int | None = None
    is_reported: bool = True
    is_closed: bool = False
    # How long the engine has kept this stream waiting; while its reader is slow it does not.
    silent_s: float = 0.0
    told_tokens: int = 0
    is_blocked: bool = False


# What stories have that run: shared by all of them, and replaced at the end, never written to.
_NO_USAGE: Final = Usage()
_NO_COST: Final = Cost()
_NO_TIMING: Final = Timing()
# What an answer says that came without the scheduler.
_BYPASSED: Final = "reason=scheduler_bypass"


class Passage(Steps):
    """One request. `interrupt` ends it from outside with a refusal, in whatever phase it is."""

    __slots__ = (
        "_settled",
        "_spool",
        "alias",
        "arm",
        "ask",
        "asked_s",
        "attempts",
        "auth_ms",
        "betas",
        "capture",
        "class_max",
        "client_request_id",
        "common_headers",
        "cost_usd_micros",
        "counted",
        "degraded",
        "dialect",
        "dropped",
        "endpoint",
        "envelope",
        "error_code",
        "exchange",
        "frame",
        "grant",
        "input_estimate",
        "interruption",
        "is_bypassed",
        "is_called",
        "is_fallback",
        "is_sampled_out",
        "is_stream",
        "is_waiting",
        "key_id",
        "key_kind",
        "key_models",
        "links",
        "organization_id",
        "outcome",
        "output_events",
        "placement",
        "principal",
        "queue_ms",
        "request_id",
        "reservation",
        "rule",
        "shadow",
        "skipped",
        "started",
        "started_us",
        "status",
        "tags",
        "target",
        "total_s",
        "trace_id",
        "ttft_ms",
        "upstream_ms",
        "usage",
        "workspace_id",
    )

    # The deadline that the caller asked for, and where the time went; None where there was no such phase.
    asked_s: float | None
    auth_ms: float | None
    queue_ms: float | None
    ttft_ms: float | None
    upstream_ms: float | None

    def __init__(
        self, exchange: Exchange, request_id: UUID, spool: Spool, clock: Clock, started_us: int | None = None
    ) -> None:
        """Begin at the moment at which the request was received, or at `started_us`."""
        self._monotonic = clock.monotonic
        self._spool = spool
        self.frame: Frame | None = None
        self.exchange = exchange
        self.request_id = request_id
        self.started = clock.monotonic()
        self.started_us = exchange.request.received_us if started_us is None else started_us
        # Between the two the request waited for its turn of the loop.
        self._received = self.started - (clock.now_us() - self.started_us) / 1e6
        self.target = exchange.request.target.decode("latin-1")
        self.endpoint = exchange.request.path
        self.dialect: str | None = None
        self.dropped: tuple[str, ...] = ()
        self.betas: list[tuple[bytes, bytes]] = []
        self.principal: Principal | None = None
        self.organization_id: UUID | None = None
        self.workspace_id: UUID | None = None
        self.key_id: UUID | None = None
        self.key_models: frozenset[str] = frozenset()
        self.class_max: str | None = None
        self.client_request_id: str | None = None
        self.trace_id: str | None = None
        self.alias: str | None = None
        self.arm: str | None = None
        self.counted: Counted | None = None
        self.cost_usd_micros: int | None = None
        self.envelope: Envelope | None = None
        self.placement: Placement | None = None
        self.shadow: Placement | None = None
        self.reservation: Reservation | None = None
        self.capture: Capture | None = None
        self.grant: HeldGrant | None = None
        self.common_headers: list[tuple[bytes, bytes]] = []
        self.attempts: list[Attempt] = []
        self.decisions = []
        self.links: list[Link] = []
        self.usage: Usage | None = None
        self.ask: Ask | None = None
        self.input_estimate = self.output_events = self.skipped = 0
        self._settled = self.is_stream = self.is_sampled_out = False
        self.is_called = self.is_fallback = self.is_waiting = self.is_bypassed = False
        self.degraded: str | None = None
        self.outcome = Outcome.INTERNAL_ERROR
        self.status = 500
        self.error_code: str | None = None
        self.rule = self.tags = self.key_kind = ""
        self.total_s = 0.0
        self.asked_s = self.auth_ms = self.queue_ms = self.ttft_ms = self.upstream_ms = None
        self.interruption: Refusal | None = None

    @property
    def public_id(self) -> str:
        """The id as callers see it."""
        return self.exchange.request_id

    def open(self) -> Frame:
        """Put the request on disk as far as it is known, before its first wait at the latest."""
        if self.frame is None:
            self.frame = self._spool.begin(self.story())
        return self.frame

    def story(self) -> Story:
        """Return what is known of the request so far."""
        story = Story(
            id=self.request_id,
            started_us=self.started_us,
            endpoint=self.endpoint,
            links=self.links,
            usage=_NO_USAGE,
            cost=_NO_COST,
            timing=_NO_TIMING,
            decisions=self.decisions,
            method=self.exchange.request.method,
            target=self.target,
        )
        self._tell(story)
        return story

    def note(self) -> None:
        """Put on disk what is known by now, which is all that a process killed from here on leaves behind."""
        frame = self.frame
        if frame is None:
            self.open()
        else:
            self._tell(frame.story)
            frame.note()

    def close(self, *, is_told: bool) -> None:
        """Close the story; one that is only counted leaves nothing behind."""
        if is_told:
            frame = self.frame or self.open()
            story = frame.story
            self._tell(story)
            self._tell_end(story)
            self._spool.settle(frame.identity, story)
        elif self.frame is not None:
            self.frame.discard()

    def identify(self, principal: Principal) -> None:
        """Note whose request this is; from here on its story belongs to a tenant."""
        self.principal = principal
        self.organization_id = principal.organization_id
        self.workspace_id = principal.workspace_id
        self.key_id = principal.key_id
        if self.frame is not None:
            self.note()

    def name(self, client_id: bytes) -> None:
        """Note the caller's own id of this request, which every answer echoes; printable ASCII."""
        self.client_request_id = client_id.decode("ascii")
        self.common_headers.append((b"x-client-request-id", client_id))

    def refused(self, refusal: Refusal, outcome: Outcome) -> None:
        """Note the refusal that ends this request."""
        self.decide(refusal.step, refusal.rule, "refused", refusal.note or refusal.text)
        self.end(outcome, refusal.http_status, refusal.rule, refusal.code)

    def end(self, outcome: Outcome, status: int, rule: str, error_code: str | None = None) -> None:
        """Note how this request ended."""
        self.outcome, self.status, self.rule, self.error_code = outcome, status, rule, error_code

    def interrupt(self, refusal: Refusal) -> None:
        """End the request from outside; its task finds the refusal in `interruption`."""
        if self.interruption is None and self.exchange.task is not None and not self.exchange.is_finished:
            self.interruption = refusal
            self.exchange.task.cancel()

    def resumed(self) -> Refusal | None:
        """Return the interruption that canceled the running task, which then goes on; None for any other cancel."""
        task = asyncio.current_task()
        if self.interruption is not None and task is not None:
            task.uncancel()
        return self.interruption

    def elapsed_ms(self) -> float:
        """Return milliseconds since the request began."""
        return (self._monotonic() - self.started) * 1_000

    def left_s(self) -> float:
        """Return seconds until the request has to be answered."""
        return self.total_s - (self._monotonic() - self.started)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Hold nothing but a place in some line while the block runs: a switch of mode `drain` ends that."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False

    def settle_once(self) -> bool:
        """Return True the first time it is called."""
        if self._settled:
            return False
        self._settled = True
        return True

    def _tell(self, story: Story) -> None:
        """Bring a story up to what is known while its request runs."""
        if _copy_known is not None:
            _copy_known(self, story)
        else:
            story.organization_id = self.organization_id
            story.workspace_id = self.workspace_id
            story.key_id = self.key_id
            story.client_request_id = self.client_request_id
            story.trace_id = self.trace_id
            story.dialect = self.dialect
            story.stream = self.is_stream
            story.alias, story.tags = self.alias, self.tags
        placement = self.placement
        if placement is not None:
            story.route_version = placement.route.version
            story.deployment = placement.deployment.name

    def _tell_end(self, story: Story) -> None:
        """Add how the request ended, what it used and where its time went."""
        if _copy_end is not None:
            _copy_end(self, story)
        else:
            story.outcome, story.status = self.outcome, self.status
            story.error_code, story.rule = self.error_code, self.rule
            story.arm, story.attempts = self.arm, self.attempts
        story.degraded, attempts = self.lessened, self.attempts
        if self.usage is not None:
            story.usage = self.usage
        placement = self.placement
        if placement is not None and placement.deployment.input_price_micro is not None:
            story.cost = self.cost(placement)
        queue_ms, total_ms = self.queue_ms, self.elapsed_ms()
        story.timing = Timing(
            auth_ms=self.auth_ms,
            queue_ms=queue_ms,
            connect_ms=attempts[-1].connect_ms if attempts else None,
            ttft_ms=self.ttft_ms,
            total_ms=total_ms,
            gateway_ms=max(0.0, total_ms - (queue_ms or 0.0) - (self.upstream_ms or 0.0)),
        )

    def cost(self, placement: Placement) -> Cost:
        """Return what the request costs, what it might have, and by which list of prices."""
        route, deployment, used = placement.route, placement.deployment, self.cost_usd_micros
        given = None if self.ask is None else estimated_usd_micros(deployment, self.ask)
        return Cost(
            usd=None if used is None else dollars(used),
            estimated_usd=None if given is None else dollars(given),
            # One that was given by hand is a part of the route's version.
            price_version=deployment.price_version or f"{route.alias}@{route.version}",
        )

    @property
    def lessened(self) -> str | None:
        """What the answer lacks of what was asked for: its alias, or the scheduler's promise."""
        return self.degraded or (_BYPASSED if self.is_bypassed else None)

    @property
    def tenant(self) -> UUID:
        """The organization that is charged; the system's own before there is one."""
        return self.organization_id or SYSTEM_ORGANIZATION_ID


# What a story takes over as it is, in one call: while its request runs, and at its end.
_kernel: Final = load("interlock.foundation.telemetry._native_story")
_copy_known: Callable[[Passage, Story], None] | None = _kernel and _kernel.SlotCopier(
    Passage,
    Story,
    {
        "organization_id": "organization_id",
        "workspace_id": "workspace_id",
        "key_id": "key_id",
        "client_request_id": "client_request_id",
        "trace_id": "trace_id",
        "dialect": "dialect",
        "is_stream": "stream",
        "alias": "alias",
        "tags": "tags",
    },
)
_copy_end: Callable[[Passage, Story], None] | None = _kernel and _kernel.SlotCopier(
    Passage, Story, {name: name for name in ("outcome", "status", "error_code", "rule", "arm", "attempts")}
)
