"""Places on engines without the scheduler, for the time that the flag `scheduler.bypass` is on.

Promises nothing, orders nothing and knows no shares: engines take turns, each with a fixed number of requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from interlock.contracts.scheduling import (
    AdoptedGrant,
    AdoptReply,
    BypassEngine,
    BypassSource,
    GrantBroker,
    Granted,
    GrantProgress,
    GrantRequest,
    Predicted,
    ProgressReply,
    Refused,
    Settled,
    Settlement,
    SettleOutcome,
)
from interlock.foundation.clock import Clock
from interlock.foundation.errors import ERRORS
from interlock.foundation.flags import KillSwitches
from interlock.foundation.ids import IdFactory, format_id
from interlock.gateway.config import EdgeConfig

_FAILED = frozenset({SettleOutcome.UPSTREAM_ERROR, SettleOutcome.TIMEOUT})
_NOBODYS = Refused("grant_unknown", ERRORS["grant_unknown"].http_status, None)


@dataclass(slots=True)
class _Use:
    """What this edge knows of an engine: what it runs there, and until when it is left alone."""

    inflight: int = 0
    rests_until: float = 0.0


@dataclass(slots=True)
class BypassBroker:
    """Asks the scheduler, but while it is bypassed gives places itself. Each edge counts its own requests alone."""

    inner: GrantBroker
    source: BypassSource
    clock: Clock
    ids: IdFactory
    switches: KillSwitches
    config: EdgeConfig
    _engines: Mapping[str, Sequence[BypassEngine]] | None = None
    _turns: dict[str, int] = field(default_factory=dict)
    _uses: dict[str, _Use] = field(default_factory=dict)
    _held: dict[str, str] = field(default_factory=dict)

    async def reload(self) -> None:
        """Learn whether the scheduler is bypassed, and which engines there are."""
        self._engines = await self.source.load()

    async def acquire(self, request: GrantRequest) -> Granted | Refused:
        if self._engines is None:
            return await self.inner.acquire(request)
        # A copy takes no place that a caller could need, and rests no engine.
        engine = None if request.is_copy else self._next(request.pool, self._engines.get(request.pool, ()))
        if engine is None:
            spec = ERRORS["no_capacity"]
            detail = {"rule": "scheduler.bypass", "pool": request.pool}
            return Refused("no_capacity", spec.http_status, spec.retry_after_s, spec.message, detail)
        grant_id = format_id("gnt", self.ids.new())
        self._held[grant_id] = engine.engine_id
        self._use(engine).inflight += 1
        return Granted(
            grant_id=grant_id,
            engine_id=engine.engine_id,
            engine_url=engine.url,
            engine_model=engine.model,
            expires_in_ms=round(self.config.acquire_s * 1_000),
            queue_wait_ms=0,
            predicted=Predicted(None, None, None, None),
            promise="none",
            decision=({"step": "granted", "engine": engine.engine_id, "reason": "scheduler_bypass"},),
        )

    async def progress(self, grants: Sequence[GrantProgress]) -> ProgressReply:
        others = [each for each in grants if each.grant_id not in self._held]
        return await self.inner.progress(others) if others else ProgressReply((), ())

    async def settle(self, grant_id: str, settlement: Settlement) -> Settled | Refused:
        engine_id = self._held.pop(grant_id, None)
        if engine_id is None:
            return await self.inner.settle(grant_id, settlement)
        use = self._uses[engine_id]
        use.inflight -= 1
        if settlement.outcome in _FAILED and settlement.ttft_ms is None:
            use.rests_until = self.clock.monotonic() + self.config.bypass_rest_s
        # Nobody's books hold it, so it has no figures.
        return _NOBODYS

    async def cancel(self, request_id: str) -> None:
        await self.inner.cancel(request_id)

    async def adopt(self, worker: str, grants: Sequence[AdoptedGrant]) -> AdoptReply:
        return await self.inner.adopt(worker, grants)

    def _next(self, pool: str, engines: Sequence[BypassEngine]) -> BypassEngine | None:
        """Return the engine whose turn it is among those that may take one more."""
        turn = self._turns.get(pool, 0)
        for step in range(len(engines)):
            engine = engines[(turn + step) % len(engines)]
            if self._may_take(engine):
                self._turns[pool] = (turn + step + 1) % len(engines)
                return engine
        return None

    def _may_take(self, engine: BypassEngine) -> bool:
        use = self._use(engine)
        is_free = use.inflight < min(engine.slots, self.config.bypass_inflight_max)
        is_up = self.clock.monotonic() >= use.rests_until
        return is_free and is_up and self.switches.check([("engine", engine.engine_id)]) is None

    def _use(self, engine: BypassEngine) -> _Use:
        return self._uses.setdefault(engine.engine_id, _Use())
