"""Copies of requests for a version in the shadow: sent once the caller has its answer, and only recorded.

Changes no answer: a copy takes no seat, no limit, no retry and no last place at a model server from a caller, teaches
no breaker and no estimate, and is never tried again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.telemetry import Link, Outcome, Spool
from interlock.foundation.wire import Exchange, Headers
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.arm_counts import Counted
from interlock.gateway.domain.arms import SHADOW
from interlock.gateway.domain.copies import CopyPlaces
from interlock.gateway.domain.directory import Placement
from interlock.gateway.domain.limits import Ask
from interlock.gateway.domain.outcomes import outcome_of
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.service.admit import ABORT, ANY_MODE, DRAIN, Admission
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.place import Placer
from interlock.gateway.service.relay import Relay
from interlock.gateway.service.settle import Settler
from interlock.gateway.service.targets import FULL, Targets

log = structlog.get_logger("interlock.gateway")
_ANSWERED: Final = frozenset({Outcome.OK, Outcome.OK_FALLBACK})
# Whoever waits for an answer goes before a copy, at the scheduler as well.
_CLASS: Final = "batch"
_NO_HEADERS: Final = Headers([])


class _Nowhere:
    """The connection of an answer that nobody waits for."""

    is_clogged = is_draining = False
    date_line = b""

    @property
    def server(self) -> "_Nowhere":
        return self

    def send(self, piece: bytes) -> bool:
        """Drop it; there is room for more."""
        del piece
        return True

    async def drained(self) -> None:
        """Nothing is ever unsent."""

    def answered(self, exchange: Exchange) -> None:
        exchange.is_finished = True

    def has_room(self, count_bytes: int) -> bool:
        """Take everything."""
        del count_bytes
        return True

    def beat(self, piece: bytes, every_s: float) -> None:
        """Nobody takes silence for anything."""

    def cut(self, exchange: Exchange) -> None:
        exchange.is_finished = True


class Shadows:
    """Sends the copies of one edge, a bounded number at once, shared by organizations; what finds no room says so."""

    def __init__(  # noqa: PLR0913 - the parts of the composition root
        self,
        *,
        admission: Admission,
        targets: Targets,
        placer: Placer,
        relay: Relay,
        settler: Settler,
        spool: Spool,
        clock: Clock,
        ids: IdFactory,
        config: EdgeConfig,
        on_end: Callable[[Passage], None],
    ) -> None:
        self._admission = admission
        self._targets = targets
        self._placer = placer
        self._relay = relay
        self._settler = settler
        self._spool = spool
        self._clock = clock
        self._ids = ids
        self._config = config
        self._on_end = on_end
        self._running: dict[Passage, asyncio.Task[None]] = {}
        self._places = CopyPlaces(config.shadows_max)

    def offer(self, passage: Passage, ask: Ask) -> None:
        """Copy an answered request to the version in its shadow. The stories of both name each other."""
        candidate, envelope = passage.shadow, passage.envelope
        if candidate is None or envelope is None or passage.outcome not in _ANSWERED:
            return
        rule = f"weight.{candidate.route.alias}"
        size = sum(len(each) for each in envelope.top.values())
        if size > self._config.shadow_body_bytes_max:
            passage.decide("arm", rule, "not_copied", f"edge.shadow_body_bytes_max: {size} bytes")
            return
        if not self._places.take(passage.tenant, self._clock.monotonic()):
            note = f"edge.shadows_max: {len(self._running)} run, {self._places.share()} at most of one organization"
            passage.decide("arm", rule, "not_copied", note)
            return
        copy = self._copy_of(passage, candidate, rule)
        passage.links.append(Link(SHADOW, copy.exchange.request_id))
        passage.decide("arm", rule, "copied", f"to version {candidate.route.version}")
        task = copy.exchange.task = asyncio.create_task(self._run(copy, candidate, ask))
        self._running[copy] = task
        task.add_done_callback(partial(self._ended, copy))

    def interrupt_killed(self) -> None:
        """End the copies that a switch stops which came on."""
        for copy in list(self._running):
            refusal = self._admission.stopped(copy, DRAIN if copy.is_waiting else ABORT)
            if refusal is not None:
                copy.interrupt(refusal)

    async def close(self) -> None:
        """End all copies; nobody waits for them."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def running(self) -> int:
        """Return how many copies run."""
        return len(self._running)

    def _copy_of(self, passage: Passage, candidate: Placement, rule: str) -> Passage:
        """Return a request of nobody's key that asks the same of another version."""
        identity = self._ids.new()
        exchange = Exchange(_Nowhere(), passage.exchange.request, format_id("req", identity), is_last=False)
        copy = Passage(exchange, identity, self._spool, self._clock, self._clock.now_us())
        copy.dialect, copy.envelope, copy.alias = passage.dialect, passage.envelope, passage.alias
        copy.trace_id, copy.betas = passage.trace_id, list(passage.betas)
        copy.input_estimate, copy.placement = passage.input_estimate, candidate
        copy.arm, copy.class_max = SHADOW, _CLASS
        copy.tags = f"{SHADOW}={candidate.route.alias}@{candidate.route.version}"
        if passage.principal is not None:
            copy.identify(replace(passage.principal, key_id=None))
        copy.links.append(Link("request", passage.exchange.request_id))
        alias = self._admission.directory.alias(passage.tenant, candidate.route.alias)
        weight = alias.weight if alias is not None else None
        if weight is not None:
            place = (weight.organization_id, weight.alias, candidate.route.version)
            copy.counted = Counted(*place, SHADOW, b"", weight.weight_bp, weight.rose_us)
            if weight.verdict_id is not None:
                copy.links.append(Link("verdict", weight.verdict_id))
        copy.decide("received", "gateway.shadow", "ok", f"a copy of {passage.exchange.request_id}")
        copy.decide("arm", rule, SHADOW, f"version {candidate.route.version}")
        return copy

    async def _run(self, copy: Passage, candidate: Placement, ask: Ask) -> None:
        refusal = await self._ask(copy, candidate, ask)
        if refusal is not None:
            copy.refused(refusal, outcome_of(refusal.code, refusal.http_status))

    async def _ask(self, copy: Passage, candidate: Placement, ask: Ask) -> Refusal | None:
        stopped = self._admission.stopped(copy, ANY_MODE)
        if stopped is not None:
            return stopped
        self._placer.read_deadline(copy, _NO_HEADERS)
        plan = self._admission.directory.plan(candidate.route)
        chosen = self._targets.choose(copy, plan.targets, ask, frozenset())
        if isinstance(chosen, Refusal):
            return chosen
        copy.placement = chosen
        if not self._targets.has_spare(chosen):
            rule = f"deployment.{chosen.deployment.name}.spare"
            return Refusal("overloaded", rule, step=FULL, note="callers need its places")
        copy.note()
        place = await self._placer.place(copy, ask)
        if isinstance(place, Refusal):
            return place
        # Only the grant names the engine, and a switch may have come on while the copy waited.
        stopped = self._admission.stopped(copy, ANY_MODE)
        if stopped is not None:
            return stopped
        call = self._targets.begin(chosen)
        try:
            sent = self._relay.put(copy, place, self._placer.timeouts(copy))
            answered = (sent, False) if isinstance(sent, Refusal) else await self._relay.hear(copy, sent)
            return None if answered is None else answered[0]
        finally:
            call.abandoned()

    def _ended(self, copy: Passage, task: asyncio.Task[None]) -> None:
        """Close the story of a copy, however it ended; one that was ended early may never have begun."""
        del self._running[copy]
        self._places.give(copy.tenant)
        refusal = None
        if task.cancelled():
            stopped = Refusal("client_gone", "edge.drain", step="cancel", note="the edge stops")
            refusal = copy.interruption or stopped
        elif (fault := task.exception()) is not None:
            log.error("shadow_fault", request_id=copy.exchange.request_id, error=repr(fault))
            refusal = Refusal("internal_error", "edge.fault", step="finished")
        if refusal is not None:
            copy.refused(refusal, outcome_of(refusal.code, refusal.http_status))
        self._settler.release_grant(copy, copy.outcome)
        self._settler.count(copy)
        copy.decide("finished", copy.rule, copy.outcome, f"status {copy.status}")
        copy.close(is_told=True)
        self._on_end(copy)
