"""What the front holds of a request, waiting or granted, and the record that is left of it.

Decides nothing and tells nobody.
"""

import asyncio
from dataclasses import dataclass, field, replace

from interlock.contracts.scheduling import (
    AdoptedGrant,
    Granted,
    GrantRequest,
    Refused,
    Settled,
    Settlement,
    SettleOutcome,
)
from interlock.foundation.clock import rfc3339
from interlock.scheduler.domain.books import time_per_output_token_ms
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.domain.share import Standing
from interlock.scheduler.domain.types import Grant, Queued, Steps


@dataclass(slots=True)
class Live:
    """A grant that is used; of one that was adopted neither the core's grant nor its steps are known."""

    pool: str
    grant_id: str
    granted_us: int
    request: GrantRequest
    grant: Grant | None = None
    standing: Standing | None = None
    decision: Steps = field(default_factory=list)
    output_tokens: int = 0
    ttft_ms: int | None = None

    @property
    def waited_ms(self) -> int:
        """Milliseconds in the queue."""
        return 0 if self.grant is None else self.grant.queue_wait_ms


@dataclass(slots=True)
class Seat:
    """A request that waits for its answer."""

    request: GrantRequest
    answer: "asyncio.Future[Granted | Refused]"
    decision: Steps
    queued: Queued


def adopted_live(grant: AdoptedGrant, now_us: int) -> Live:
    """Return a grant that an edge hands over. The tokens that it had before say nothing of its engine now."""
    since_us = now_us - grant.age_ms * 1_000
    return Live(grant.request.pool, grant.grant_id, since_us, grant.request, output_tokens=grant.output_tokens)


def granted_answer(live: Live, grant: Grant, lease_s: float) -> Granted:
    """Return what the caller is told of its grant."""
    return Granted(
        grant_id=live.grant_id,
        engine_id=grant.engine.engine_id,
        engine_url=grant.engine.url,
        engine_model=grant.engine.model,
        expires_in_ms=round(lease_s * 1_000),
        queue_wait_ms=grant.queue_wait_ms,
        predicted=grant.predicted,
        promise=grant.promise,
        decision=tuple(live.decision),
    )


def dated(refusal: Refused, steps: Steps, now_us: int) -> Refused:
    """Return a refusal with the steps that led to it and the wall time of its retry, which the core does not know."""
    if refusal.retry_after_s is None:
        return replace(refusal, decision=tuple(steps))
    when = {"retry_at": rfc3339(now_us + round(refusal.retry_after_s * 1_000_000))}
    return replace(refusal, detail=refusal.detail | when, decision=(*steps[:-1], *(last | when for last in steps[-1:])))


def refused_record(
    request: GrantRequest, refusal: Refused, at_us: int, standing: Standing | None, promise: str | None
) -> DecisionRecord:
    """Return the record of who got no place."""
    return DecisionRecord(
        request, "refused", at_us, code=refusal.code, promise=promise, standing=standing, steps=refusal.decision,
        predicted_ttft_ms=refusal.detail.get("predicted_ttft_ms"),
        predicted_tpot_ms=refusal.detail.get("predicted_tpot_ms"),
    )  # fmt: skip


def canceled_record(seat: Seat, at_us: int) -> DecisionRecord:
    """Return the record of a caller who left the queue."""
    queued, steps = seat.queued, (*seat.decision, {"step": "canceled", "phase": "queued", "slot_back_ms": 0})
    return DecisionRecord(
        seat.request, "canceled", at_us, promise=queued.promise, standing=queued.standing, steps=steps
    )


def settled_record(live: Live, counted: Settlement, settled: Settled, at_us: int) -> DecisionRecord:
    """Return the record of a grant that was given back."""
    grant = live.grant
    predicted = None if grant is None else grant.predicted
    ttft_ms = None if counted.ttft_ms is None else live.waited_ms + counted.ttft_ms
    steps: Steps = list(live.decision)
    if ttft_ms is not None:
        steps.append(
            {"step": "first_token", "predicted": None if predicted is None else predicted.ttft_ms, "actual": ttft_ms}
        )
    if counted.outcome is SettleOutcome.CLIENT_GONE:
        phase = "prefill" if counted.ttft_ms is None and not live.output_tokens else "decode"
        steps.append({"step": "canceled", "phase": phase, "slot_back_ms": 0})
    steps.append({
        "step": "settled", "in_slo": settled.in_slo, "charged": settled.charged_tokens,
        "refunded": settled.refunded_tokens, "cost": settled.cost_usd,
    })  # fmt: skip
    return DecisionRecord(
        live.request,
        counted.outcome.value,
        at_us,
        engine_id=None if grant is None else grant.engine.engine_id,
        promise=None if grant is None else grant.promise,
        queue_wait_ms=live.waited_ms,
        predicted_ttft_ms=None if predicted is None else predicted.ttft_ms,
        predicted_tpot_ms=None if predicted is None else predicted.tpot_ms,
        predicted_output_tokens=None if predicted is None else predicted.output_tokens,
        ttft_ms=ttft_ms,
        tpot_ms=time_per_output_token_ms(counted, counted.output_tokens),
        total_ms=live.waited_ms + counted.total_ms,
        input_tokens=counted.input_tokens,
        cached_tokens=counted.cached_input_tokens,
        output_tokens=counted.output_tokens,
        charged_tokens=settled.charged_tokens,
        wasted_tokens=settled.wasted_tokens,
        cost_usd=float(settled.cost_usd),
        is_in_slo=settled.in_slo,
        standing=live.standing,
        steps=tuple(steps),
    )


def lost_record(live: Live, at_us: int) -> DecisionRecord:
    """Return the record of a grant whose edge fell silent."""
    return DecisionRecord(
        live.request,
        "lost",
        at_us,
        engine_id=None if live.grant is None else live.grant.engine.engine_id,
        queue_wait_ms=live.waited_ms,
        output_tokens=live.output_tokens,
        wasted_tokens=live.request.input_tokens + live.output_tokens,
        standing=live.standing,
        steps=(*live.decision, {"step": "settled", "in_slo": False, "outcome": "lost"}),
    )
