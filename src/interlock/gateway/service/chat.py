"""An inference request of any dialect, step by step: who, what, limits, place, answer.

Holds no rule of its own; each step is a service that answers with a refusal or lets the request on.
"""

from functools import partial

import msgspec

from interlock.foundation.wire import WireRefusal
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.cost import estimated_usd_micros
from interlock.gateway.domain.directory import ProviderKind
from interlock.gateway.domain.envelope import Dialect, Envelope
from interlock.gateway.domain.estimate import Estimator
from interlock.gateway.domain.limits import Ask
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.replies import Reply
from interlock.gateway.service.admit import DRAIN, Admission
from interlock.gateway.service.attempts import Attempts
from interlock.gateway.service.entrance import Entrance
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.place import Placer
from interlock.gateway.service.relay import Relay
from interlock.gateway.service.replays import HEADER, Replays
from interlock.gateway.service.reserve import Limiter
from interlock.gateway.service.shadows import Shadows


class ChatService:
    """Serves one request, or says why not."""

    def __init__(  # noqa: PLR0913 - one argument a step
        self,
        *,
        admission: Admission,
        estimator: Estimator,
        limiter: Limiter,
        placer: Placer,
        relay: Relay,
        attempts: Attempts,
        entrance: Entrance,
        replays: Replays,
        shadows: Shadows,
        config: EdgeConfig,
    ) -> None:
        self._admission = admission
        self._estimator = estimator
        self._limiter = limiter
        self._placer = placer
        self._relay = relay
        self._attempts = attempts
        self._config = config
        self._entrance = entrance
        self._replays = replays
        self._shadows = shadows
        self._body_bytes = 0

    async def serve(self, passage: Passage, dialect: Dialect = Dialect.CHAT) -> Refusal | None:
        """Answer the request; return a refusal while the client has had nothing."""
        if not self._admission.recall(passage):
            refusal = await self._admission.identify(passage)
            if refusal is not None:
                return refusal
        self._placer.read_deadline(passage, passage.exchange.request.headers)
        refusal = await self._entrance.enter(passage)
        if refusal is not None:
            return refusal
        try:
            # A switch may have come on while the request waited.
            stopped = self._admission.stopped(passage, DRAIN) if passage.queue_ms is not None else None
            if stopped is not None:
                return stopped
            return await self._serve_known(passage, dialect)
        finally:
            self._entrance.leave(passage)

    async def _serve_known(self, passage: Passage, dialect: Dialect) -> Refusal | None:
        request = passage.exchange.request
        expected = request.length or 0
        if self._body_bytes + expected > self._config.body_bytes_held_max:
            return Refusal("overloaded", "edge.body_bytes_held_max", step="queue", retry_after_s=1.0)
        self._body_bytes += expected
        try:
            if not request.is_complete:
                passage.open()
            try:
                body = await request.body(self._config.body_bytes_max)
            except WireRefusal as fault:
                return Refusal(fault.code, f"http.{fault.code}", detail=fault.safe_detail, step="received")
            envelope = self._admission.read_envelope(passage, body, dialect)
            if isinstance(envelope, Refusal):
                return envelope
            if HEADER not in request.headers:
                return await self._answer(passage, envelope)
            return await self._answer_once(passage, envelope, body)
        finally:
            self._body_bytes -= expected

    async def _answer_once(self, passage: Passage, envelope: Envelope, body: bytes) -> Refusal | None:
        found = await self._replays.claim(passage, body)
        if isinstance(found, Refusal):
            return found
        if isinstance(found, Reply):
            await self._relay.replay(passage, found)
            return None
        return await self._replays.answer(passage, found, partial(self._answer, passage, envelope))

    async def _answer(self, passage: Passage, envelope: Envelope) -> Refusal | None:
        self._placer.set_deadline(passage)
        ask = self._estimator.ask(envelope, passage.workspace_id)
        passage.input_estimate = ask.input_tokens
        placement = passage.placement
        if placement is None:
            return Refusal("internal_error", "edge.no_placement", step="route")
        refusal = await self._limit(passage, ask)
        if refusal is not None:
            return refusal
        passage.note()
        if envelope.dialect is Dialect.COUNT and placement.provider.kind is not ProviderKind.ANTHROPIC:
            await self._relay.tell_estimate(passage)
            return None
        refusal = await self._attempts.run(passage, ask)
        if passage.shadow is not None:
            self._shadows.offer(passage, ask)
        if refusal is None or not self._attempts.degrade(passage, refusal):
            return refusal
        return await self._answer_degraded(passage, ask)

    async def _limit(self, passage: Passage, ask: Ask) -> Refusal | None:
        """Reserve what the limits of the alias that answers ask for."""
        principal, placement = passage.principal, passage.placement
        if principal is None or placement is None or principal.key_id is None or principal.workspace_id is None:
            return Refusal("scope_denied", "key.workspace", message="Inference needs the key of a workspace.")
        applicable = self._admission.directory.limits_for(
            principal.organization_id, principal.workspace_id, principal.key_id, placement.route.alias
        )
        if not applicable.limits:
            return None
        if applicable.counts_usd:
            ask = msgspec.structs.replace(ask, usd_micros=estimated_usd_micros(placement.deployment, ask))
        if self._limiter.reserve_leased(passage, applicable, ask):
            return None
        return await self._limiter.reserve(passage, applicable, ask)

    async def _answer_degraded(self, passage: Passage, ask: Ask) -> Refusal | None:
        # The lesser alias has limits of its own, and what was reserved for the other one goes back.
        self._limiter.settle(passage, None)
        refusal = await self._limit(passage, ask)
        return refusal if refusal is not None else await self._attempts.run(passage, ask)
