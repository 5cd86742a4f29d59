"""The monitor of live rollouts: a look at the counts of both arms, a decision, and what follows from it.

Judges by `domain/canary.py` alone. Every look is written with its reasons, under the rollout's lease, before it acts;
whoever takes over after a crash in between sees the same evidence and decides again.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from interlock.contracts.arms import ArmCounts
from interlock.contracts.incidents import IncidentSink
from interlock.contracts.rollouts import RolloutActuator, RouteVersion, WeightInForce, WeightMode, WeightRefused
from interlock.evals.config import RolloutConfig
from interlock.evals.domain.canary import Decision, Judgement, Look, Reason, judge
from interlock.evals.domain.rollout_counts import Tallied, Versions, tally
from interlock.evals.domain.rollout_gate import Blocked, RolloutGate
from interlock.evals.domain.rollout_states import ACTIVE, RolloutState
from interlock.evals.domain.shadow import WINDOW_S, judge_copies
from interlock.evals.metrics import RolloutMetrics
from interlock.evals.service import rollout_rows as rows
from interlock.evals.service.rollout_rows import SQL, Memory, Rollout
from interlock.evals.service.rollouts import WHOLE, report_of, tell_state, topic_of
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.ids import format_id
from interlock.foundation.leases import Lease, LeaseLostError, LeaseSpec
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction
from interlock.foundation.telemetry import EventLog

ROLLOUT_LEASES: Final = LeaseSpec(
    table="evals_rollouts",
    shares_table="evals_rollout_shares",
    # A rollout is never given up: while nobody looks, its weight falls by itself.
    attempts_max=1_000_000,
    dead_sql="due_at = now() + interval '1 minute'",
)
# A second of counts is complete two seconds after it has ended.
_COMPLETE_AFTER_S: Final = 2
log = structlog.get_logger("interlock.evals")


@dataclass(frozen=True, slots=True)
class MonitorParts:
    """What a monitor asks and tells."""

    store: Store
    actuator: RolloutActuator
    counts: ArmCounts
    gate: RolloutGate
    incidents: IncidentSink
    events: EventLog
    audit: AuditLog
    clock: Clock
    config: RolloutConfig
    metrics: RolloutMetrics


class RolloutMonitor:
    """One look at a time, for whoever holds the rollout's lease."""

    def __init__(self, parts: MonitorParts) -> None:
        self._parts = parts
        self._store = parts.store
        self._clock = parts.clock
        self._config = parts.config

    async def look(self, lease: Lease) -> float | None:
        """Look once; return in how many seconds the next look is due, None where the rollout has ended."""
        scope = ROLLOUT_LEASES.scope_of(lease)
        async with self._store.transaction(scope) as tx:
            rollout = await rows.get(tx, lease.key)
            if rollout is None or rollout.state not in ACTIVE:
                return None
            memory = await rows.memory_of(tx, rollout)
        if not self._is_in_force(rollout):
            await self._lapsed(scope, rollout, lease)
            return self._config.look_s
        if rollout.state is RolloutState.SHADOW:
            await self._look_into_shadow(scope, rollout, lease)
            return await self._next_look(scope, rollout)
        began_s = self._clock.monotonic()
        judgement, tallied, until = await self._judge(scope, rollout, memory)
        noted = await self._write(scope, rollout, lease, (memory, judgement, tallied, until))
        await self._act(scope, noted, judgement)
        self._parts.metrics.decided(str(judgement.decision), [each.code for each in judgement.reasons])
        self._parts.metrics.seconds.observe(self._clock.monotonic() - began_s)
        return await self._next_look(scope, rollout)

    async def _next_look(self, scope: Scope, rollout: Rollout) -> float | None:
        async with self._store.transaction(scope) as tx:
            after = await rows.get(tx, rollout.id)
        return self._config.look_s if after is not None and after.state in ACTIVE else None

    def _is_in_force(self, rollout: Rollout) -> bool:
        return rollout.lease_until_us is not None and self._clock.now_us() < rollout.lease_until_us

    async def _judge(self, scope: Scope, rollout: Rollout, memory: Memory) -> tuple[Judgement, Tallied, int]:
        now_us = self._clock.now_us()
        until = max(rollout.counted_second, now_us // 1_000_000 - _COMPLETE_AFTER_S)
        seconds = await self._parts.counts.read(
            scope, rollout.route, since_second=rollout.counted_second, until_second=until
        )
        share = rollout.weight / WHOLE
        if share > memory.state.weight:
            for units in memory.units.values():
                units.stage.clear()
        if rollout.counted_second > now_us // 1_000_000:
            # The clock stepped back. Until it is where it was there is nothing to count, and silence is no good sign.
            tallied = Tallied(None, None, memory.silent)
        else:
            versions = Versions(rollout.from_version, rollout.to_version, share)
            tallied = tally(seconds, versions, memory.units, memory.silent)
        is_dwelt = now_us - rollout.stage_started_us >= rollout.dwell_s * 1e6
        look = Look(rollout.look + 1, share, tallied.canary, tallied.control, is_dwelt=is_dwelt)
        memory.state, judgement = judge(rollout.rules, memory.state, look)
        memory.silent = dict(tallied.silent)
        return judgement, tallied, until

    async def _write(
        self, scope: Scope, rollout: Rollout, lease: Lease, found: tuple[Memory, Judgement, Tallied, int]
    ) -> Rollout:
        """Write the look and what it leaves behind. Raises `LeaseLostError` where the rollout is another's by now."""
        memory, judgement, tallied, until = found
        reasons = [each.public() for each in judgement.reasons]
        readings = {name: rows.reading_json(each) for name, each in judgement.readings.items()}
        counts = {"canary": _arm_json(tallied.canary), "control": _arm_json(tallied.control)}
        async with self._store.transaction(scope) as tx:
            await self._note(tx, rollout, lease, (judgement, reasons, rows.common_of(memory), until))
            await rows.put_monitors(tx, rollout, memory, dict(judgement.readings))
            await tx.execute(
                SQL.add_rollout_look, rollout.organization_id, rollout.workspace_id, rollout.id, judgement.look,
                self._clock.now_us(), rollout.stage, rollout.weight, rows.encode(counts), rows.encode(readings),
                judgement.decision, rows.encode(reasons),
            )  # fmt: skip
            await self._tell_look(tx, rollout, judgement, readings)
        return replace(rollout, look=judgement.look, decision=str(judgement.decision), reasons=reasons)

    async def _note(
        self, tx: Transaction, rollout: Rollout, lease: Lease, noted: tuple[Judgement, list[Any], str | None, int]
    ) -> None:
        judgement, reasons, monitor, until = noted
        kept = await tx.fetchval(
            SQL.note_look, rollout.organization_id, rollout.id, lease.token, judgement.look, judgement.decision,
            rows.encode(reasons), monitor, until,
        )  # fmt: skip
        if kept is None:
            raise LeaseLostError

    async def _tell_look(
        self, tx: Transaction, rollout: Rollout, judgement: Judgement, readings: dict[str, Any]
    ) -> None:
        payload = {"event": "rollout.look", "look": judgement.look, "decision": str(judgement.decision)}
        reasons = [each.public() for each in judgement.reasons]
        shown = {"reasons": reasons, "monitor": readings, "weight": rollout.weight, "stage": rollout.stage}
        await self._parts.events.append(tx, topic_of(rollout.id), {**payload, **shown})

    async def _act(self, scope: Scope, rollout: Rollout, judgement: Judgement) -> None:
        if judgement.decision is Decision.ROLLBACK:
            await self._roll_back(scope, rollout, judgement)
        elif judgement.decision is Decision.PROMOTE and rollout.state is RolloutState.CANARY:
            await self._promote(scope, rollout)
        else:
            await self._keep(scope, rollout)

    async def _roll_back(self, scope: Scope, rollout: Rollout, judgement: Judgement) -> None:
        text = "; ".join(each.text for each in judgement.reasons)
        put = await self._parts.actuator.rollback(scope, rollout.route, text[:1_000])
        if isinstance(put, WeightRefused):
            log.error("rollback_refused", rollout=format_id("rol", rollout.id), code=put.code)
            return
        async with self._store.transaction(scope) as tx:
            current = await rows.get(tx, rollout.id, is_locked=True)
            if current is None or current.state not in ACTIVE:
                return
            await self._end(tx, rollout, RolloutState.ROLLED_BACK, text)
        detector = f"rollout.{judgement.reasons[0].code}" if judgement.reasons else "rollout"
        await self._parts.incidents.report(scope, report_of(rollout, detector, text))

    async def _promote(self, scope: Scope, rollout: Rollout) -> None:
        """Take the rollout to its next stage, with a token of its own; the last one below 100 is kept."""
        if rollout.stage + 1 >= len(rollout.stages):
            await self._keep(scope, rollout)
            return
        if not await self._set(scope, rollout, rollout.stage + 1):
            await self._keep(scope, rollout)

    async def _keep(self, scope: Scope, rollout: Rollout) -> None:
        """Renew the weight as it is; one that cannot be renewed falls by itself."""
        put = await self._parts.actuator.freeze(scope, rollout.route, self._config.weight_lease_s)
        if isinstance(put, WeightRefused):
            log.warning("freeze_refused", rollout=format_id("rol", rollout.id), code=put.code)
            return
        async with self._store.transaction(scope) as tx:
            await self._note_weight(tx, rollout, rollout.stage, put)
        ends_us = put.expires_at_us
        if ends_us is not None and ends_us < self._clock.now_us() + self._config.weight_lease_s * 5e5:
            # The verdict ends before the lease would. Another one that is live carries on before the weight falls.
            await self._set(scope, rollout, rollout.stage)

    async def _look_into_shadow(self, scope: Scope, rollout: Rollout, lease: Lease) -> None:
        """Keep a version in the shadow for its time, then let it answer the first stage, with live evidence.

        One that fails most of its copies never does.
        """
        now_us = self._clock.now_us()
        until = now_us // 1_000_000 - _COMPLETE_AFTER_S
        since = max(rollout.stage_started_us // 1_000_000, until - WINDOW_S)
        seconds = await self._parts.counts.read(scope, rollout.route, since_second=since, until_second=until)
        seen_s = (now_us - rollout.stage_started_us) / 1e6
        decision, reason = judge_copies(seconds, rollout.to_version, seen_s, rollout.shadow_s)
        judgement = await self._write_uncounted(scope, rollout, lease, decision, reason)
        self._parts.metrics.decided(str(decision), [reason.code])
        if decision is Decision.ROLLBACK:
            await self._roll_back(scope, rollout, judgement)
        elif decision is Decision.HOLD or not await self._set(scope, rollout, rollout.stage, opens=True):
            await self._keep(scope, rollout)

    async def _lapsed(self, scope: Scope, rollout: Rollout, lease: Lease) -> None:
        """The weight fell: nobody looked in time, or its evidence ended. With live evidence it comes back as it was."""
        reason = Reason("lease_lapsed", "Nobody renewed the weight in time, so it fell to nothing.")
        live = await self._parts.gate.live(scope, rollout.route, rollout.artifact_digest)
        if isinstance(live, Blocked):
            text = f"The weight fell to nothing, and no live verdict brings it back: {_refused(live).message}"
            reason = Reason("verdict_ended", text)
        await self._write_uncounted(scope, replace(rollout, weight=0.0), lease, Decision.HOLD, reason)
        # A shadow that lapsed saw nothing meanwhile, so its time begins anew.
        await self._set(scope, rollout, rollout.stage, is_anew=rollout.state is RolloutState.SHADOW)

    async def _write_uncounted(
        self, scope: Scope, rollout: Rollout, lease: Lease, decision: Decision, reason: Reason
    ) -> Judgement:
        """Write a look that rests on no counts of arms, and forget what was counted before it."""
        judgement = Judgement(decision, rollout.look + 1, (reason,))
        async with self._store.transaction(scope) as tx:
            # The edges count its units anew from when it is back, so the stage begins anew as well.
            monitor = None if rollout.monitor is None else rows.encode({**rollout.monitor, "weight": 0.0})
            until = self._clock.now_us() // 1_000_000
            await self._note(tx, rollout, lease, (judgement, [reason.public()], monitor, until))
            counts = {"canary": None, "control": None}
            await tx.execute(
                SQL.add_rollout_look, rollout.organization_id, rollout.workspace_id, rollout.id, judgement.look,
                self._clock.now_us(), rollout.stage, rollout.weight, rows.encode(counts), "{}", judgement.decision,
                rows.encode([reason.public()]),
            )  # fmt: skip
            await self._tell_look(tx, rollout, judgement, {})
        return judgement

    async def _set(
        self, scope: Scope, rollout: Rollout, stage: int, *, opens: bool = False, is_anew: bool = False
    ) -> bool:
        """Put the weight of a stage into force; return whether it is. `opens` ends the time in the shadow.

        The rollout stays locked meanwhile: whoever pauses or kills it comes before or after, never in between.
        """
        weight, is_shaded = rollout.stages[stage], rollout.state is RolloutState.SHADOW
        mode = WeightMode.SHADOW if is_shaded and not opens else WeightMode.CANARY
        async with self._store.transaction(scope) as tx:
            current = await rows.get(tx, rollout.id, is_locked=True)
            is_meant = current is not None and current.state is rollout.state and current.stage == rollout.stage
            put = await self._ask(scope, rollout, weight, mode) if is_meant else None
            if put is None or isinstance(put, WeightRefused):
                code = None if put is None else put.code
                log.warning("weight_not_set", rollout=format_id("rol", rollout.id), weight=weight, code=code)
                return False
            await self._note_weight(tx, rollout, stage, put, is_anew=is_anew or opens)
            if opens:
                await self._open(tx, rollout)
            if weight >= WHOLE:
                await self._end(tx, rollout, RolloutState.PROMOTED, None, weight)
        return True

    async def _ask(
        self, scope: Scope, rollout: Rollout, weight: float, mode: WeightMode
    ) -> WeightInForce | WeightRefused:
        """Ask for a weight with a token that says just this weight."""
        live = await self._parts.gate.live(scope, rollout.route, rollout.artifact_digest)
        if isinstance(live, Blocked):
            return _refused(live)
        token = await self._parts.gate.token(scope, rollout.route, live, weight)
        if isinstance(token, Blocked):
            return _refused(token)
        version = RouteVersion(
            rollout.route, rollout.to_version, rollout.artifact_digest, "canary", rollout.from_version
        )
        return await self._parts.actuator.set_weight(
            scope, version, weight, token=token, lease_s=self._config.weight_lease_s, mode=mode
        )

    async def _note_weight(
        self, tx: Transaction, rollout: Rollout, stage: int, put: WeightInForce, *, is_anew: bool = False
    ) -> None:
        is_next = stage != rollout.stage
        started_us = self._clock.now_us() if is_next or is_anew else rollout.stage_started_us
        place = (rollout.organization_id, rollout.id)
        await tx.execute(SQL.note_weight, *place, stage, put.weight, put.expires_at_us, started_us)
        if is_next:
            moved = await rows.get(tx, rollout.id)
            await self._tell(tx, moved or rollout, "rollout.stage", None)

    async def _open(self, tx: Transaction, rollout: Rollout) -> None:
        place = (rollout.organization_id, rollout.id)
        await tx.execute(SQL.move_rollout, *place, RolloutState.CANARY, rollout.reason, None, None, None)
        moved = await rows.get(tx, rollout.id)
        await self._tell(tx, moved or rollout, "rollout.open", None)

    async def _end(
        self, tx: Transaction, rollout: Rollout, state: RolloutState, reason: str | None, weight: float = 0.0
    ) -> None:
        place, now_us = (rollout.organization_id, rollout.id), self._clock.now_us()
        await tx.execute(SQL.move_rollout, *place, state, reason, weight, now_us, None)
        moved = await rows.get(tx, rollout.id)
        await self._tell(tx, moved or rollout, f"rollout.{state}", reason)

    async def _tell(self, tx: Transaction, rollout: Rollout, action: str, reason: str | None) -> None:
        await tell_state(self._parts.events, tx, rollout)
        detail = {"route": rollout.route, "version": rollout.to_version, "weight": rollout.weight}
        entry = AuditEntry(action, "rollout", format_id("rol", rollout.id), reason=reason, detail=detail)
        await self._parts.audit.append(tx, entry)


async def forget_looks(store: Store, clock: Clock, config: RolloutConfig) -> None:
    """Delete looks that are too old for anybody."""
    async with store.ops("looks of rollouts that are too old") as tx:
        await tx.execute(SQL.forget_rollout_looks, clock.now_us() - round(config.looks_kept_s * 1e6))


def _arm_json(look: Any) -> dict[str, Any] | None:
    return None if look is None else {"units": look.units, "requests": look.requests, "bad": dict(look.bad)}


def _refused(blocked: Blocked) -> WeightRefused:
    first = blocked.reasons[0] if blocked.reasons else {}
    return WeightRefused(str(first.get("code", "gate_blocked")), 409, str(first.get("text", "")))
