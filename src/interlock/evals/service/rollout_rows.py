"""Rows of rollouts, their monitors and looks to types and back.

Opens no transactions; the services do.
"""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.evals.domain.canary import (
    LIVE_METRICS,
    MetricRules,
    MonitorState,
    Reading,
    Rules,
    fresh,
    monitor_state,
)
from interlock.evals.domain.rollout_counts import Remembered, packed, unpacked
from interlock.evals.domain.rollout_gate import LiveVerdict
from interlock.evals.domain.rollout_states import RolloutState
from interlock.foundation.clock import rfc3339
from interlock.foundation.ids import format_id
from interlock.foundation.store import Queries, Transaction

SQL = Queries("interlock.evals")
# What the front door counts. A metric without a detector would be missing from every look.
COUNTED: Final = ("errors", "slow")
_R_MAX_LOW: Final = 2.0
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout. Weights and stages in percent; `silent` is what arms without counts should have seen."""

    organization_id: UUID
    workspace_id: UUID
    id: UUID
    route: str
    from_version: int
    to_version: int
    artifact_digest: str
    state: RolloutState
    stages: tuple[float, ...]
    stage: int
    weight: float
    dwell_s: float
    shadow_s: float
    metrics: dict[str, Any]
    gate: dict[str, Any] | None
    decision: str | None
    reasons: list[dict[str, Any]]
    reason: str | None
    monitor: dict[str, Any] | None
    look: int
    counted_second: int
    stage_started_us: int
    lease_until_us: int | None
    unkill_by: UUID | None
    created_us: int
    ended_us: int | None

    @property
    def rules(self) -> Rules:
        """The bounds of its monitor: as they were asked for, else those of the gate's risk tier."""
        is_low = self.gate is not None and self.gate.get("risk_tier") == "low"
        tier = {"r_max": _R_MAX_LOW} if is_low else {}
        given = {name: {**_defaults(name), **tier, **self.metrics.get(name, {})} for name in COUNTED}
        return Rules({name: MetricRules(**each) for name, each in given.items()}, is_live=True)


@dataclass(slots=True)
class Memory:
    """What a monitor remembers between two looks."""

    state: MonitorState
    units: dict[str, Remembered]
    silent: dict[str, float]


async def get(tx: Transaction, rollout_id: UUID, *, is_locked: bool = False) -> Rollout | None:
    """Return a rollout inside the scope, locked until the transaction ends where it shall be changed."""
    organization_id = tx.scope.organization_id
    if is_locked:
        await tx.fetch(SQL.lock_rollout, organization_id, rollout_id)
    row = await tx.fetchrow(SQL.get_rollout, organization_id, rollout_id)
    return None if row is None else rollout_of(row)


async def memory_of(tx: Transaction, rollout: Rollout) -> Memory:
    """Return what the monitor remembers; nothing where it has not looked yet."""
    rows = {row["metric"]: row for row in await tx.fetch(SQL.rollout_monitors, rollout.organization_id, rollout.id)}
    rules, common = rollout.rules, dict(rollout.monitor or {})
    units = {
        name: Remembered(unpacked(rows[name]["bad_units"]), unpacked(rows[name]["stage_bad_units"]))
        if name in rows
        else Remembered()
        for name in rules.metrics
    }
    silent = common.pop("silent", {})
    if not common or any(name not in rows for name in rules.metrics):
        return Memory(fresh(rules), units, silent)
    metrics = {name: _decode(rows[name]["state"]) for name in rules.metrics}
    return Memory(monitor_state({**common, "metrics": metrics}), units, silent)


def common_of(memory: Memory) -> str:
    """Return what a monitor remembers beyond its metrics, as JSON."""
    public = memory.state.public()
    public.pop("metrics")
    return _encode({**public, "silent": memory.silent}).decode()


async def put_monitors(tx: Transaction, rollout: Rollout, memory: Memory, readings: dict[str, Reading] | None) -> None:
    """Keep what each metric came to."""
    found = memory.state.public()["metrics"]
    for name, units in memory.units.items():
        reading = (readings or {}).get(name)
        await tx.execute(
            SQL.put_rollout_monitor,
            rollout.organization_id,
            rollout.workspace_id,
            rollout.id,
            name,
            _encode(found[name]).decode(),
            None if reading is None else _encode(reading_json(reading)).decode(),
            packed(units.rollout),
            packed(units.stage),
        )


def rollout_of(row: Any) -> Rollout:
    """Return a rollout of its row."""
    given = {name: row[name] for name in Rollout.__slots__}
    for name in ("metrics", "gate", "reasons", "monitor"):
        given[name] = None if given[name] is None else _decode(given[name])
    return Rollout(**{**given, "state": RolloutState(row["state"]), "stages": tuple(row["stages"])})


def rollout_json(rollout: Rollout, readings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the public object of a rollout."""
    return {
        "id": format_id("rol", rollout.id),
        "state": str(rollout.state),
        "route": rollout.route,
        "from_version": rollout.from_version,
        "to_version": rollout.to_version,
        "artifact_digest": rollout.artifact_digest,
        "stages": list(rollout.stages),
        "stage": rollout.stage,
        "weight": rollout.weight,
        "dwell_s": rollout.dwell_s,
        "shadow_s": rollout.shadow_s,
        "gate": rollout.gate,
        "lease_until": None if rollout.lease_until_us is None else rfc3339(rollout.lease_until_us),
        "decision": rollout.decision,
        "reasons": rollout.reasons,
        "reason": rollout.reason,
        "look": rollout.look,
        "monitor": readings or {},
        "created_at": rfc3339(rollout.created_us),
        "ended_at": None if rollout.ended_us is None else rfc3339(rollout.ended_us),
    }


def gate_json(verdict: LiveVerdict) -> dict[str, Any]:
    """Return the live evidence of a rollout."""
    return {
        "gate_id": format_id("gate", verdict.gate_id),
        "verdict": verdict.verdict,
        "verdict_id": format_id("vdt", verdict.verdict_id),
        "expires_at": rfc3339(verdict.expires_at_us),
        "risk_tier": verdict.tier,
    }


def reading_json(reading: Reading) -> dict[str, Any]:
    """Return the e-values of a metric."""
    return {
        "e_rollback": reading.e_rollback,
        "e_promote": reading.e_promote,
        "threshold": reading.threshold,
        "units": reading.units,
        "bad": reading.bad,
    }


def look_json(row: Any) -> dict[str, Any]:
    """Return the public object of a look."""
    return {
        "look": row["look"],
        "at": rfc3339(row["at_us"]),
        "stage": row["stage"],
        "weight": row["weight"],
        "counts": _decode(row["counts"]),
        "monitor": _decode(row["readings"]),
        "decision": row["decision"],
        "reasons": _decode(row["reasons"]),
    }


def encode(value: Any) -> str:
    """Return JSON for a column."""
    return _encode(value).decode()


def decode(text: str) -> Any:
    """Return what a column of JSON holds."""
    return _decode(text)


def _defaults(name: str) -> dict[str, Any]:
    rules = LIVE_METRICS[name]
    return {each: getattr(rules, each) for each in MetricRules.__slots__}
