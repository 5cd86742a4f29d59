"""Limits: reserved in one round trip before anything else is consumed, settled in batches afterwards.

Holds no level in memory: exact mode asks the store each time a limit applies, and never when none does.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.store import Queries, Store
from interlock.foundation.telemetry import Metrics
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain import limits as rules
from interlock.gateway.domain.directory import LimitMode, LimitSet, array_literal
from interlock.gateway.domain.limits import MICRO, Ask, Fill, Reservation
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.service.passage import Passage

log = structlog.get_logger("interlock.gateway")
SQL = Queries("interlock.gateway")


@dataclass(frozen=True, slots=True)
class Due:
    """A settlement on its way to the store; `tokens` is None for a request that called no model server."""

    organization_id: UUID
    request_id: UUID
    tokens: int | None


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """What waits for the store, and what was decided since the start."""

    settling: int
    settling_max: int
    reserved_total: int
    refused_total: int
    settled_total: int
    dropped_total: int


class Limiter:
    """All limits of all tenants, decided by the store."""

    def __init__(self, store: Store, clock: Clock, config: EdgeConfig, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._due: deque[Due] = deque()
        self._has_due = asyncio.Event()
        self._turns = asyncio.Semaphore(config.limits_turns_max)
        self._counters: dict[tuple[str, str], Any] = {}
        self._reserved = self._refused = self._settled = self._dropped = 0
        self._decisions = metrics.counter(
            "interlock_gateway_limit_decisions_total",
            "Decisions of limits by dimension and verdict.",
            ("dimension", "verdict"),
        )

    async def reserve(self, passage: Passage, applicable: LimitSet, ask: Ask) -> Refusal | None:
        """Check all limits and debit all, or refuse and debit none."""
        refusal = rules.never_fits(applicable.limits, ask)
        if refusal is None:
            decided = await self._ask_store(passage, applicable, ask)
            refusal = decided if isinstance(decided, Refusal) else self._decide(passage, decided, ask)
        if refusal is not None:
            self._refused += 1
            return refusal
        self._reserved += 1
        return None

    def settle(self, passage: Passage, tokens: int | None) -> None:
        """Hand the actual tokens of a request to the settlement loop; None gives everything back."""
        reservation = passage.reservation
        if reservation is None:
            return
        passage.reservation = None
        self._enqueue(Due(passage.tenant, passage.request_id, tokens))

    async def run(self) -> None:
        """Settle until cancelled; while the store is away settlements wait, within their bound."""
        while True:
            await self._has_due.wait()
            self._has_due.clear()
            await self._clock.sleep(self._config.settlement_interval_s)
            while self._due:
                try:
                    await self.settle_due()
                except (InterlockError, OSError, TimeoutError) as error:
                    log.warning("limits_settlement_waits", error=str(error), waiting=len(self._due))
                    await self._clock.sleep(1.0)

    async def settle_due(self) -> None:
        """Settle what waits, one organization a statement."""
        while self._due:
            organization_id = self._due[0].organization_id
            batch = [each for each in self._due if each.organization_id == organization_id]
            batch = batch[: self._config.settlement_batch_max]
            await self._store.single(
                SQL.settle,
                organization_id,
                array_literal(each.request_id for each in batch),
                array_literal((each.tokens or 0) * MICRO for each in batch),
                array_literal(each.tokens is not None for each in batch),
            )
            done = set(batch)
            self._due = deque(each for each in self._due if each not in done)
            self._settled += len(batch)

    async def flush(self, within_s: float) -> None:
        """Settle, at a drain, what the store takes in time."""
        try:
            async with asyncio.timeout(within_s):
                await self.settle_due()
        except (TimeoutError, InterlockError, OSError) as error:
            log.warning("limits_settlement_given_up", error=str(error), waiting=len(self._due))

    def statistics(self) -> LimiterStatistics:
        """Return the figures that metrics and tests read."""
        return LimiterStatistics(
            settling=len(self._due),
            settling_max=self._config.settlements_held_max,
            reserved_total=self._reserved,
            refused_total=self._refused,
            settled_total=self._settled,
            dropped_total=self._dropped,
        )

    async def _ask_store(self, passage: Passage, applicable: LimitSet, ask: Ask) -> tuple[Fill, ...] | Refusal:
        limits = applicable.limits
        amounts = [rules.requested(limit, ask) for limit in limits]
        is_asked = is_answered = False
        try:
            # Who waits for a turn waits here, in order, and not for the pool, whose patience is short.
            async with asyncio.timeout(self._config.limits_wait_s), self._turns:
                is_asked = True
                rows = await self._store.single(
                    SQL.reserve,
                    passage.tenant,
                    passage.request_id,
                    *applicable.literals,
                    array_literal(amount * MICRO for amount in amounts),
                )
            is_answered = True
        except (InterlockError, OSError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            return Refusal("limits_unavailable", "limits.store_away", step="limits", note=reason, retry_after_s=1.0)
        finally:
            if is_asked and not is_answered:
                # Nobody knows whether the debit was made; if it was, it is given back.
                self._enqueue(Due(passage.tenant, passage.request_id, None))
        return tuple(
            Fill(limit, amount, row["level_micro"], row["is_short"])
            for limit, amount, row in zip(limits, amounts, rows, strict=True)
        )

    def _decide(self, passage: Passage, fills: tuple[Fill, ...], ask: Ask) -> Refusal | None:
        for fill in fills:
            verdict = ("refused" if fill.limit.mode is LimitMode.ENFORCE else "observed") if fill.is_short else "ok"
            self._count(fill.limit.dimension, verdict)
        refusal = rules.refused(fills, ask, self._clock.now_us())
        described = "; ".join(fill.described() for fill in fills)
        if refusal is not None:
            passage.decide("limits", "limits.exact", "short", described)
            return refusal
        passage.reservation = Reservation(fills, ask.tokens)
        passage.decide("limits", "limits.exact", "reserved", described)
        return None

    def _count(self, dimension: str, verdict: str) -> None:
        child = self._counters.get((dimension, verdict))
        if child is None:
            child = self._counters[dimension, verdict] = self._decisions.labels(dimension, verdict)
        child.inc()

    def _enqueue(self, due: Due) -> None:
        if len(self._due) >= self._config.settlements_held_max:
            self._due.popleft()
            self._dropped += 1
        self._due.append(due)
        self._has_due.set()
