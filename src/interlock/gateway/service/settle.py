"""The end of a request: what it used, what goes back, and its closed record. Runs once, whatever happened before.

Waits for nothing: grants and limits are settled by their own loops.
"""

from dataclasses import replace
from typing import Final

from interlock.contracts.scheduling import Settlement, SettleOutcome
from interlock.foundation.clock import Clock
from interlock.foundation.telemetry import Outcome, Usage
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.arm_counts import ERRORS, SLOW, ArmBook
from interlock.gateway.domain.cost import cost_usd_micros
from interlock.gateway.domain.estimate import Estimator
from interlock.gateway.domain.limits import Used
from interlock.gateway.service.grants import GrantBook
from interlock.gateway.service.passage import Passage
from interlock.gateway.service.reserve import Limiter

# What ended without fault of the engine, such as a body that it refused, must not count against it.
_BY_OUTCOME: Final = {
    Outcome.OK: SettleOutcome.OK,
    Outcome.OK_STREAM: SettleOutcome.OK,
    Outcome.OK_FALLBACK: SettleOutcome.OK,
    Outcome.OK_DEGRADED: SettleOutcome.OK,
    Outcome.CLIENT_GONE: SettleOutcome.CLIENT_GONE,
    Outcome.KILLED: SettleOutcome.CLIENT_GONE,
    Outcome.UPSTREAM_TIMEOUT: SettleOutcome.TIMEOUT,
    Outcome.DEADLINE_EXCEEDED: SettleOutcome.TIMEOUT,
    Outcome.UPSTREAM_ERROR: SettleOutcome.UPSTREAM_ERROR,
    Outcome.STREAM_CUT: SettleOutcome.UPSTREAM_ERROR,
}


# What counts against an arm: the model server's faults and ours, not those of the caller or of a limit.
_ERRORS: Final = frozenset({
    Outcome.UPSTREAM_ERROR, Outcome.UPSTREAM_TIMEOUT, Outcome.STREAM_CUT, Outcome.DEADLINE_EXCEEDED,
    Outcome.INTERNAL_ERROR,
})  # fmt: skip
_DEAD: Final = "route_unavailable"
_ANSWERED: Final = frozenset({
    Outcome.OK, Outcome.OK_STREAM, Outcome.OK_FALLBACK, Outcome.OK_DEGRADED, Outcome.CLIENT_GONE,
})  # fmt: skip


class Settler:
    """Settles a passage once and closes its frame."""

    def __init__(
        self, grants: GrantBook, limiter: Limiter, estimator: Estimator, arms: ArmBook, config: EdgeConfig, clock: Clock
    ) -> None:
        self._grants = grants
        self._limiter = limiter
        self._estimator = estimator
        self._arms = arms
        self._config = config
        self._clock = clock

    def settle(self, passage: Passage) -> None:
        """Give back what is held, by what was used, and close the story."""
        if not passage.settle_once():
            return
        usage = self._settle_usage(passage) if passage.is_called and passage.envelope is not None else None
        if passage.grant is not None:
            self.release_grant(passage, passage.outcome)
        if passage.reservation is not None:
            self._give_back(passage, usage)
        if passage.counted is not None:
            self.count(passage)
        passage.decide("finished", passage.rule, passage.outcome, f"status {passage.status}")
        passage.close(is_told=True)

    def release_grant(self, passage: Passage, outcome: Outcome) -> None:
        """Give a grant back, with the usage that is known and how its use ended."""
        grant = passage.grant
        if grant is None:
            return
        usage = passage.usage or Usage()
        settlement = Settlement(
            outcome=_BY_OUTCOME.get(outcome, SettleOutcome.UNUSED),
            input_tokens=usage.input_tokens or 0,
            cached_input_tokens=usage.cached_input_tokens or 0,
            output_tokens=usage.output_tokens or 0,
            ttft_ms=grant.ttft_ms,
            total_ms=round(passage.elapsed_ms()),
        )
        self._grants.release(passage, settlement)

    def count(self, passage: Passage) -> None:
        """Count the request for its arm; one that was refused before any model server was asked tells nothing of it.

        But for one that found no server of its version in working order: that is the version's fault.
        """
        counted, placement = passage.counted, passage.placement
        is_dead = not passage.attempts and passage.error_code == _DEAD
        if counted is None or placement is None or not (passage.attempts or is_dead):
            return
        objective_ms = placement.route.spec.objective_ttft_ms or self._config.objective_ttft_ms
        bad = [ERRORS] if is_dead or passage.outcome in _ERRORS else []
        # The head of an answer that is not streamed comes with its last token and says nothing about its first.
        if passage.is_stream and passage.ttft_ms is not None and passage.ttft_ms > objective_ms:
            bad.append(SLOW)
        self._arms.note(replace(counted, bad=tuple(bad)), self._clock.now_us() // 1_000_000)

    def _settle_usage(self, passage: Passage) -> Usage:
        """Learn from what was used, fill in what nobody counted, and price it."""
        usage, envelope, placement = passage.usage, passage.envelope, passage.placement
        if usage is not None and usage.input_tokens is not None and envelope is not None:
            self._estimator.observe(envelope, passage.workspace_id, usage.input_tokens)
        if usage is None or usage.input_tokens is None or usage.output_tokens is None:
            usage = passage.usage = _estimated(passage, usage)
        if placement is not None:
            passage.cost_usd_micros = cost_usd_micros(placement.deployment, usage)
        return usage

    def _give_back(self, passage: Passage, usage: Usage | None) -> None:
        """Settle what limits reserved; nothing was used of it where no model server was called."""
        used, reservation = None, passage.reservation
        if usage is not None and reservation is not None:
            used = Used(usage.input_tokens or 0, usage.output_tokens or 0, passage.cost_usd_micros or 0)
            tokens = used.input_tokens + used.output_tokens
            passage.decide("settle", "limits", "settled", f"reserved {reservation.tokens} used {tokens}")
        self._limiter.settle(passage, used)


def _estimated(passage: Passage, usage: Usage | None) -> Usage:
    """Fill in what no model counted: nothing for a call that failed, else the estimate and the events seen."""
    is_answered = passage.output_events > 0 or passage.outcome in _ANSWERED
    if not is_answered:
        return Usage(input_tokens=0, output_tokens=0, estimated=True)
    given_in = usage.input_tokens if usage is not None else None
    given_out = usage.output_tokens if usage is not None else None
    return Usage(
        input_tokens=passage.input_estimate if given_in is None else given_in,
        output_tokens=passage.output_events if given_out is None else given_out,
        estimated=True,
    )
