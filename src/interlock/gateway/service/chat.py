"""An inference request of any dialect, step by step: who, what, limits, place, answer.

Holds no rule of its own; each step is a service that answers with a refusal or lets the request on.
"""

from functools import partial

import msgspec

from interlock.foundation.wire import WireRefusal
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.cost import estimated_usd_micros
from interlock.gateway.domain.directory import LimitSet, ProviderKind
from interlock.gateway.domain.envelope import Dialect, Envelope
from interlock.gateway.domain.estimate import Estimator
from interlock.gateway.domain.limits import Ask
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.replies import Reply
from interlock.gateway.service.admit import DRAIN, Admission
from interlock.gateway.service.attempts import Attempts, Begun
from interlock.gateway.service.entrance import Entrance
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.place import Placer
from interlock.gateway.service.relay import Relay
from interlock.gateway.service.replays import HEADER, Replays
from interlock.gateway.service.reserve import Limiter
from interlock.gateway.service.shadows import Shadows
from interlock.gateway.service.ways import Errand, Ways


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
        ways: Ways,
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
        self.body_bytes = 0
        self._learn = ways.learn

    async def serve(self, passage: Passage, dialect: Dialect = Dialect.CHAT) -> Refusal | None:
        """Answer the request; return a refusal while the client has had nothing."""
        request = passage.exchange.request
        if not self._enters_at_once(passage):
            refusal = await self._enter(passage)
            if refusal is not None:
                return refusal
        self.body_bytes += request.length or 0
        try:
            if self.body_bytes > self._config.body_bytes_held_max:
                return Refusal("overloaded", "edge.body_bytes_held_max", step="queue", retry_after_s=1.0)
            body = await self._body(passage)
            if isinstance(body, Refusal):
                return body
            envelope = self._admission.read_envelope(passage, body, dialect)
            if isinstance(envelope, Refusal):
                return envelope
            if HEADER in request.headers.first:
                return await self._answer_once(passage, envelope, body)
            return await self._answer(passage, envelope)
        finally:
            self._let_go(passage)

    async def go_on(self, errand: Errand) -> Refusal | None:
        """Go on with a request that was taken on without a task: it has its place, its limits and maybe its call."""
        try:
            if errand.fault is not None:
                raise errand.fault
            return await self._call(errand.passage, errand.ask, errand.begun)
        finally:
            self._let_go(errand.passage)

    async def _body(self, passage: Passage) -> bytes | Refusal:
        """Return the whole body, or why there is none; whose key was revoked while it came has none."""
        request = passage.exchange.request
        is_awaited = not request.is_complete
        if is_awaited:
            passage.open()
        try:
            body = await request.body(self._config.body_bytes_max)
        except WireRefusal as fault:
            return Refusal(fault.code, f"http.{fault.code}", detail=fault.safe_detail, step="received")
        # It may take hours to come.
        gone = self._admission.outlived(passage) if is_awaited else None
        return body if gone is None else gone

    def _let_go(self, passage: Passage) -> None:
        self.body_bytes -= passage.exchange.request.length or 0
        self._entrance.leave(passage)

    def _enters_at_once(self, passage: Passage) -> bool:
        """Let in whoever is known by its head and finds a place; for all others `_enter` decides."""
        if not self._admission.recall(passage):
            return False
        self._placer.set_deadline(passage)
        return self._entrance.at_once(passage)

    async def _enter(self, passage: Passage) -> Refusal | None:
        if passage.principal is None:
            refusal = await self._admission.identify(passage)
            if refusal is not None:
                return refusal
            self._placer.read_deadline(passage, passage.exchange.request.headers)
        refusal = await self._entrance.enter(passage)
        if refusal is None and passage.queue_ms is not None:
            # A switch may have come on while the request waited.
            refusal = self._admission.stopped(passage, DRAIN)
            if refusal is not None:
                self._entrance.leave(passage)
        return refusal

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
        passage.input_estimate, passage.ask = ask.input_tokens, ask
        placement = passage.placement
        if placement is None:
            return Refusal("internal_error", "edge.no_placement", step="route")
        if not self._limited_at_once(passage, ask):
            refusal = await self._limit(passage, ask)
            if refusal is not None:
                return refusal
        passage.note()
        if envelope.dialect is Dialect.COUNT and placement.provider.kind is not ProviderKind.ANTHROPIC:
            await self._relay.tell_estimate(passage)
            return None
        return await self._call(passage, ask)

    async def _call(self, passage: Passage, ask: Ask, begun: Begun | None = None) -> Refusal | None:
        refusal = await self._attempts.run(passage, ask, begun)
        if passage.shadow is not None:
            self._shadows.offer(passage, ask)
        if refusal is None and begun is None:
            self._learn(passage)
        if refusal is None or not self._attempts.degrade(passage, refusal):
            return refusal
        return await self._answer_degraded(passage, ask)

    def _limited_at_once(self, passage: Passage, ask: Ask) -> bool:
        """Reserve where leases cover what the limits ask for, or there are none; else nothing, and `_limit` does."""
        applicable = self._admission.limits_of(passage)
        return applicable is not None and (not applicable.limits or self.reserve(passage, applicable, ask))

    def reserve(self, passage: Passage, applicable: LimitSet, ask: Ask) -> bool:
        """Reserve what some limits ask for, where leases cover it; tells whether they do."""
        asked = _priced(passage, ask) if applicable.counts_usd else ask
        return self._limiter.reserve_leased(passage, applicable, asked)

    async def _limit(self, passage: Passage, ask: Ask) -> Refusal | None:
        """Reserve what the limits of the alias that answers ask for."""
        applicable = self._admission.limits_of(passage)
        if applicable is None:
            return Refusal("scope_denied", "key.workspace", message="Inference needs the key of a workspace.")
        if not applicable.limits:
            return None
        return await self._limiter.reserve(passage, applicable, _priced(passage, ask))

    async def _answer_degraded(self, passage: Passage, ask: Ask) -> Refusal | None:
        # The lesser alias has limits of its own, and what was reserved for the other one goes back.
        self._limiter.settle(passage, None)
        refusal = await self._limit(passage, ask)
        return refusal if refusal is not None else await self._attempts.run(passage, ask)


def _priced(passage: Passage, ask: Ask) -> Ask:
    """Return what is asked for, with what it may cost."""
    if passage.placement is None:
        return ask
    # Where no price is known, none is charged.
    return msgspec.structs.replace(ask, usd_micros=estimated_usd_micros(passage.placement.deployment, ask) or 0)
