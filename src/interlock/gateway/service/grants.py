"""The grants that this edge uses: reported in one batch, settled exactly once, adopted by a new scheduler.

Does not place requests; `place.py` asks for the grants that are kept here.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import structlog

from interlock.contracts.scheduling import (
    FINAL_REFUSALS,
    UNUSED,
    AdoptedGrant,
    GrantBroker,
    Granted,
    GrantProgress,
    GrantRequest,
    Refused,
    Settled,
    Settlement,
    SettleOutcome,
)
from interlock.foundation.clock import Clock
from interlock.foundation.telemetry import Addendum, Decision, Spool
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.service.passage import HeldGrant, Passage
from interlock.gateway.service.settlements import Closed, Settlements

log = structlog.get_logger("interlock.gateway")
_REPORTS_MAX = 1_000
_TAKEN_BACK = Refusal("upstream_error", "grant.revoked", message="The scheduler took the place back.", step="grant")
_STANDS_STILL = Refusal("upstream_timeout", "grant.engine_silent", message="The engine stands still.", step="grant")


@dataclass(frozen=True, slots=True)
class GrantStatistics:
    """What is held, what waits for the schedulers, in all and of one pool, and what was given up since the start."""

    held: int
    settling: int
    settling_longest: int
    settled_total: int
    adopted_total: int
    revoked_total: int
    dropped_total: int


class GrantBook:
    """Holds each grant from `acquire` until the scheduler has its settlement."""

    def __init__(self, broker: GrantBroker, spool: Spool, clock: Clock, config: EdgeConfig, worker: str) -> None:
        self._broker = broker
        self._spool = spool
        self._clock = clock
        self._config = config
        self._worker = worker
        self._held: dict[str, Passage] = {}
        self._settlements = Settlements(self._settle, self._gave_up, clock, config)
        self._has_held = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._has_new_leader = asyncio.Event()
        self._reported_at = clock.monotonic()
        self._settled = self._adopted = self._revoked = 0

    async def acquire(self, passage: Passage, request: GrantRequest) -> Granted | Refused:
        """Wait for a place. From then on the passage holds it; `release` gives it back."""
        if self._settlements.holds(passage.request_id):
            # A request that is asked again has given back a grant, which its scheduler may not know yet.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.scheduler_back_s):
                    await self._settlements.heard(passage.request_id)
        try:
            answer = await self._broker.acquire(request)
        except asyncio.CancelledError:
            # A grant may be on its way; nobody would give it back before its lease ends.
            self._close(passage, request, None, UNUSED)
            raise
        if isinstance(answer, Granted):
            passage.grant = HeldGrant(request, answer, self._clock.monotonic())
            self._held[answer.grant_id] = passage
            self._has_held.set()
        return answer

    def first_token(self, passage: Passage, grant: HeldGrant) -> None:
        """Report the first token without waiting for the next round."""
        grant.ttft_ms = max(0, round((self._clock.monotonic() - grant.held_at) * 1_000))
        # Predicted at the arrival in the scheduler's queue, so it is compared with what passed since then.
        predicted, actual = grant.granted.predicted.ttft_ms, grant.granted.queue_wait_ms + grant.ttft_ms
        detail = f"actual={actual}" + (f" predicted={predicted}" if predicted is not None else "")
        passage.decide("grant", "first_token", "ok", detail)
        self._is_urgent.set()

    def report_now(self) -> None:
        """Tell a scheduler that just took over what runs, without waiting for the next round."""
        self._has_new_leader.set()
        self._is_urgent.set()

    def release(self, passage: Passage, settlement: Settlement) -> None:
        """Give a grant back with its figures; a second call does nothing."""
        grant = passage.grant
        if grant is None or grant.is_closed:
            return
        grant.is_closed = True
        passage.grant = None
        self._held.pop(grant.granted.grant_id, None)
        self._close(passage, grant.request, grant, settlement)

    async def run(self) -> None:
        """Report and settle until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report_loop())
            group.create_task(self._settlements.run())

    async def flush(self, within_s: float) -> None:
        """Wait, at a drain, until the scheduler has all settlements."""
        until = self._clock.monotonic() + within_s
        while self._settlements.waiting and self._clock.monotonic() < until:
            await self._clock.sleep(0.01)

    def statistics(self) -> GrantStatistics:
        """Return the figures that metrics and tests read."""
        return GrantStatistics(
            held=len(self._held),
            settling=self._settlements.waiting,
            settling_longest=self._settlements.longest(),
            settled_total=self._settled,
            adopted_total=self._adopted,
            revoked_total=self._revoked,
            dropped_total=self._settlements.dropped_total,
        )

    def _close(self, passage: Passage, asked: GrantRequest, grant: HeldGrant | None, settlement: Settlement) -> None:
        now, request_id = self._clock.monotonic(), passage.request_id
        closed = Closed(asked, grant, now, settlement, request_id, passage.organization_id, passage.workspace_id)
        self._settlements.add(closed)

    async def _report_loop(self) -> None:
        while True:
            if not self._held:
                self._has_held.clear()
                await self._has_held.wait()
            await self._within_interval(self._is_urgent)
            self._is_urgent.clear()
            self._has_new_leader.clear()
            try:
                await self.report()
            except ConnectionError as error:
                log.debug("scheduler_away", error=str(error), held=len(self._held))
                # First tokens are no news to a scheduler that is away; what runs is, as soon as one is back.
                await self._within_interval(self._has_new_leader)
                self._is_urgent.set()

    async def _within_interval(self, event: asyncio.Event) -> None:
        """Wait for an event, or until the next round is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.progress_interval_s):
                await event.wait()

    async def report(self) -> None:
        """Tell the scheduler what all held grants have produced, which renews their leases."""
        held = [passage.grant for passage in self._held.values() if passage.grant is not None]
        now = self._clock.monotonic()
        # An edge that stood still itself has not heard its engines meanwhile.
        passed_s, self._reported_at = min(now - self._reported_at, self._config.progress_interval_s), now
        reports = [_report(each, passed_s) for each in held]
        for at in range(0, len(held), _REPORTS_MAX):
            reply = await self._broker.progress(reports[at : at + _REPORTS_MAX])
            for grant_id in reply.revoked:
                self._revoke(grant_id, _TAKEN_BACK if grant_id in reply.drained else _STANDS_STILL)
            if reply.unknown:
                await self._hand_over(reply.unknown)

    async def _hand_over(self, grant_ids: tuple[str, ...]) -> None:
        """Tell a scheduler that just took over what is running; what it rejects runs on without a seat."""
        now = self._clock.monotonic()
        grants = [
            _adopted(grant, now)
            for grant_id in grant_ids
            if (passage := self._held.get(grant_id)) is not None and (grant := passage.grant) is not None
        ]
        if not grants:
            return
        reply = await self._broker.adopt(self._worker, grants)
        self._adopted += reply.adopted
        for grant_id in reply.rejected:
            self._held.pop(grant_id, None)
        log.info("grants_adopted", adopted=reply.adopted, rejected=len(reply.rejected))

    def _revoke(self, grant_id: str, why: Refusal) -> None:
        passage = self._held.pop(grant_id, None)
        if passage is None:
            return
        self._revoked += 1
        passage.interrupt(why)

    async def _settle(self, closed: Closed) -> bool:
        """Tell the scheduler; False when it has to be told again."""
        try:
            if closed.grant is None:
                await self._broker.cancel(closed.asked.request_id)
                self._add(closed, [self._canceled(closed, "queued")])
                return True
            answer = await self._settle_grant(closed, closed.grant)
        except ConnectionError:
            return False
        if isinstance(answer, Refused) and answer.code not in FINAL_REFUSALS:
            return False
        self._settled += 1
        if isinstance(answer, Settled):
            self._tell(closed, answer)
        return True

    async def _settle_grant(self, closed: Closed, grant: HeldGrant) -> Settled | Refused:
        granted = grant.granted
        answer = await self._broker.settle(granted.grant_id, closed.settlement)
        is_reported = granted.promise != "none" and self._clock.monotonic() - closed.at < granted.expires_in_ms / 1_000
        if isinstance(answer, Refused) and answer.code == "grant_unknown" and is_reported:
            # It ended before a scheduler that just took over had heard of it.
            await self._broker.adopt(self._worker, [_adopted(grant, closed.at)])
            answer = await self._broker.settle(granted.grant_id, closed.settlement)
        return answer

    def _tell(self, closed: Closed, settled: Settled) -> None:
        """Add to the story what the grant came to; the record itself is closed by now."""
        detail = (
            f"in_slo={settled.in_slo} charged={settled.charged_tokens} refunded={settled.refunded_tokens} "
            f"wasted={settled.wasted_tokens} cost_usd={settled.cost_usd}"
        ).lower()
        said = [self._decision("settled", closed.settlement.outcome, detail)]
        if closed.settlement.outcome is SettleOutcome.CLIENT_GONE and closed.grant is not None:
            has_begun = closed.grant.ttft_ms is not None or closed.grant.output_tokens > 0
            said.insert(0, self._canceled(closed, "decode" if has_begun else "prefill"))
        self._add(closed, said)

    def _canceled(self, closed: Closed, phase: str) -> Decision:
        """Say how long the seat or the slot took to be free again, from the moment in which the caller was gone."""
        back_ms = round((self._clock.monotonic() - closed.at) * 1_000)
        return self._decision("canceled", "ok", f"phase={phase} slot_back_ms={back_ms}")

    def _gave_up(self, closed: Closed) -> None:
        """Say in the story that no scheduler heard how the grant ended."""
        why = "its scheduler did not answer; the lease of the grant ends it"
        self._add(closed, [self._decision("unsettled", "given_up", why)])

    def _decision(self, rule: str, verdict: str, detail: str) -> Decision:
        return Decision(self._clock.now_us(), "grant", rule, verdict, detail)

    def _add(self, closed: Closed, decisions: list[Decision]) -> None:
        if closed.organization_id is None:
            return
        self._spool.append(
            Addendum(
                id=closed.request_id,
                organization_id=closed.organization_id,
                workspace_id=closed.workspace_id,
                decisions=decisions,
            )
        )


def _report(grant: HeldGrant, passed_s: float) -> GrantProgress:
    """Return what is told of a grant; only of a stream that has begun is known that it waits for its engine."""
    tokens, silent_ms = grant.output_tokens, None
    if tokens > grant.told_tokens or grant.is_blocked:
        grant.silent_s, grant.told_tokens = 0.0, tokens
    elif tokens:
        grant.silent_s += passed_s
        silent_ms = round(grant.silent_s * 1_000)
    return GrantProgress(grant.granted.grant_id, tokens, grant.ttft_ms, silent_ms)


def _adopted(grant: HeldGrant, now: float) -> AdoptedGrant:
    age_ms = round((now - grant.held_at) * 1_000)
    return AdoptedGrant(grant.request, grant.granted.grant_id, grant.granted.engine_id, age_ms, grant.output_tokens)
