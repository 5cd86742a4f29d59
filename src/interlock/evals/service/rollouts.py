"""Rollouts as people move them: created, started, paused, rolled back, killed. No call here raises a weight by hand.

Judges no counts; `rollout_monitor.py` does, and it alone takes a rollout to its next stage.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import asyncpg

from interlock.contracts.incidents import IncidentReport, IncidentSink, Severity
from interlock.contracts.rollouts import RolloutActuator, RouteVersion, WeightMode, WeightRefused
from interlock.evals.config import RolloutConfig
from interlock.evals.domain.rollout_gate import Blocked, LiveVerdict, RolloutGate
from interlock.evals.domain.rollout_states import ACTIVE, RolloutAct, RolloutState, after
from interlock.evals.service import rollout_rows as rows
from interlock.evals.service.rollout_rows import SQL, Rollout
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import person_behind
from interlock.foundation.ids import IdFactory, MalformedIdError, WorkspaceId, format_id, parse_id
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.store import Store, Transaction
from interlock.foundation.telemetry import EventLog

WHOLE: Final = 100.0
_WEEK_S: Final = 86_400 * 7
_BOUNDS: Final = {"r_max": (1.0, 100.0), "bad_max": (0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class RolloutWanted:
    """A rollout as it was asked for; stages in percent, bounds by metric."""

    route: str
    version: int
    stages: tuple[float, ...]
    dwell_s: float
    metrics: Mapping[str, Mapping[str, float]]
    shadow_s: float = 0.0


class Rollouts:
    """Use cases of `/v1/rollouts`."""

    def __init__(  # noqa: PLR0913 - the parts of the composition root
        self,
        store: Store,
        *,
        actuator: RolloutActuator,
        gate: RolloutGate,
        incidents: IncidentSink,
        events: EventLog,
        audit: AuditLog,
        clock: Clock,
        ids: IdFactory,
        config: RolloutConfig,
    ) -> None:
        self._store = store
        self._actuator = actuator
        self._gate = gate
        self._incidents = incidents
        self._events = events
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._config = config

    async def create(self, tx: Transaction, wanted: RolloutWanted) -> dict[str, Any]:
        """Make a draft. Raises `invalid_request`, `not_found`, `rollout_active`, `state_conflict`."""
        self._check(wanted)
        scope = tx.scope
        # Who sees all workspaces means that of the key, unless another one is named.
        where = scope.principal.workspace_id if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
        if where is None:
            raise _wrong("workspace_id", "A rollout belongs to one workspace; name it.")
        version = await self._actuator.resolve(own(scope), wanted.route, wanted.version)
        if version is None:
            raise InterlockError("not_found", "There is no such version of a route.", detail={"field": "version"})
        _require_new(version)
        await self._require_free(tx, version.route)
        rollout_id = self._ids.new()
        await tx.execute(
            SQL.add_rollout,
            scope.organization_id,
            where,
            rollout_id,
            version.route,
            version.stable_version,
            version.version,
            version.digest,
            list(wanted.stages),
            wanted.dwell_s,
            wanted.shadow_s,
            rows.encode(wanted.metrics),
            self._clock.now_us(),
        )
        await tx.execute(SQL.add_rollout_share, scope.organization_id, where)
        rollout = await self._found(tx, rollout_id)
        await self._told(tx, rollout, "rollout.create", None)
        shown = rows.rollout_json(rollout)
        live = await self._gate.live(own(scope, rollout), version.route, version.digest)
        return {**shown, "gate": None if isinstance(live, Blocked) else rows.gate_json(live)}

    async def start(self, tx: Transaction, named: str, reason: str | None) -> dict[str, Any]:
        """Put the first stage into force, in the shadow where that was asked for, which is moved by its share as well.

        Raises `gate_blocked`, `rollout_active`, `state_conflict`.
        """
        rollout = await self._acted(tx, named, RolloutAct.START)
        await self._require_free(tx, rollout.route)
        version = await self._version(tx.scope, rollout)
        live, token = await self._evidence(tx.scope, rollout, rollout.stages[0])
        # The route is taken before its weight moves: of two that start at once the second one moves nothing.
        is_shaded = rollout.shadow_s > 0
        state = after(rollout.state, RolloutAct.SHADE if is_shaded else RolloutAct.START)
        started_us = await self._take_route(tx, replace(rollout, state=state or rollout.state), version, live, reason)
        put = await self._actuator.set_weight(
            own(tx.scope), version, rollout.stages[0], token=token, lease_s=self._config.weight_lease_s,
            mode=WeightMode.SHADOW if is_shaded else WeightMode.CANARY,
        )  # fmt: skip
        if isinstance(put, WeightRefused):
            raise _blocked([{"code": put.code, "text": put.message}])
        place = (rollout.organization_id, rollout.id)
        await tx.execute(SQL.note_weight, *place, 0, put.weight, put.expires_at_us, started_us)
        return await self._moved(tx, rollout.id, RolloutAct.START, reason)

    async def pause(self, tx: Transaction, named: str, reason: str | None) -> dict[str, Any]:
        """Keep the weight as it is; the monitor goes on looking and may roll back."""
        rollout = await self._acted(tx, named, RolloutAct.PAUSE)
        await self._move(tx, rollout, RolloutState.PAUSED, reason)
        return await self._moved(tx, rollout.id, RolloutAct.PAUSE, reason)

    async def resume(self, tx: Transaction, named: str, reason: str | None) -> dict[str, Any]:
        """Let the monitor go on to the next stage. Raises `gate_blocked`, `state_conflict`."""
        rollout = await self._acted(tx, named, RolloutAct.RESUME)
        live = await self._gate.live(own(tx.scope, rollout), rollout.route, rollout.artifact_digest)
        if isinstance(live, Blocked):
            raise _blocked(live.reasons)
        await self._move(tx, rollout, RolloutState.CANARY, reason)
        return await self._moved(tx, rollout.id, RolloutAct.RESUME, reason)

    async def rollback(self, tx: Transaction, named: str, reason: str | None) -> dict[str, Any]:
        """Give everything back to the stable version, and file an incident."""
        rollout = await self._acted(tx, named, RolloutAct.ROLLBACK)
        await self._withdraw(tx.scope, rollout, reason or "rolled back by hand")
        await self._move(tx, rollout, RolloutState.ROLLED_BACK, reason, is_over=True)
        moved = await self._moved(tx, rollout.id, RolloutAct.ROLLBACK, reason)
        await self._incidents.report(own(tx.scope, rollout), report_of(rollout, "rollout.person", reason or ""))
        return moved

    async def kill(self, tx: Transaction, named: str, reason: str | None) -> dict[str, Any]:
        """End a rollout whatever it waits for; only two people bring it back."""
        rollout = await self._acted(tx, named, RolloutAct.KILL)
        if rollout.state in ACTIVE:
            await self._withdraw(tx.scope, rollout, reason or "killed")
        await self._move(tx, rollout, RolloutState.KILLED, reason, is_over=True)
        return await self._moved(tx, rollout.id, RolloutAct.KILL, reason)

    async def unkill(self, tx: Transaction, named: str, reason: str | None) -> dict[str, Any]:
        """Ask for a killed rollout to be a draft again, or agree with whoever asked: it takes two people."""
        rollout = await self._acted(tx, named, RolloutAct.UNKILL)
        person = await person_behind(tx, tx.scope.principal.id)
        if rollout.unkill_by is None or rollout.unkill_by == person:
            await self._move(tx, rollout, RolloutState.KILLED, reason, is_over=True, unkill_by=person)
            asked = await self._found(tx, rollout.id)
            await self._told(tx, asked, "rollout.unkill_asked", reason)
            return rows.rollout_json(asked)
        await self._move(tx, rollout, RolloutState.DRAFT, reason)
        return await self._moved(tx, rollout.id, RolloutAct.UNKILL, reason)

    async def get(self, scope: Scope, named: str) -> dict[str, Any]:
        """Return one rollout with what its monitor came to. Raises `not_found`."""
        async with self._store.transaction(scope) as tx:
            rollout = await self._found(tx, _parsed(named))
            return rows.rollout_json(rollout, await self._readings(tx, rollout))

    async def page(self, scope: Scope, state: str | None, before: UUID | None, count: int) -> list[dict[str, Any]]:
        """Return rollouts, newest first."""
        async with self._store.transaction(scope) as tx:
            found = [
                rows.rollout_of(row)
                for row in await tx.fetch(SQL.list_rollouts, scope.organization_id, before, state, count)
            ]
            readings: dict[UUID, dict[str, Any]] = {}
            ids = [each.id for each in found]
            for row in await tx.fetch(SQL.monitors_of, scope.organization_id, ids):
                readings.setdefault(row["rollout_id"], {})[row["metric"]] = rows.decode(row["reading"])
        return [rows.rollout_json(each, readings.get(each.id)) for each in found]

    async def looks(self, scope: Scope, named: str, before: int | None, count: int) -> list[dict[str, Any]]:
        """Return the looks of a rollout, newest first. Raises `not_found`."""
        async with self._store.transaction(scope) as tx:
            rollout = await self._found(tx, _parsed(named))
            found = await tx.fetch(SQL.rollout_looks, rollout.organization_id, rollout.id, before, count)
        return [rows.look_json(row) for row in found]

    def _check(self, wanted: RolloutWanted) -> None:
        stages, config = wanted.stages, self._config
        if not 0 < len(stages) <= config.stages_max or not all(0 < each <= WHOLE for each in stages):
            raise _wrong("stages", f"`stages` are 1 to {config.stages_max} percentages above 0.")
        # Weights are kept in basis points: a finer stage would be another one than was asked for, even the whole.
        if any(round(each, 2) != each for each in stages):
            raise _wrong("stages", "`stages` have at most two decimals.")
        if any(low >= high for low, high in pairwise(stages)) or stages[0] == WHOLE:
            raise _wrong("stages", "`stages` rise, and the first one is below 100.")
        if not config.dwell_s_min <= wanted.dwell_s <= _WEEK_S:
            raise _wrong("dwell_s", f"`dwell_s` is at least {config.dwell_s_min:g} and at most a week.")
        if not 0 <= wanted.shadow_s <= _WEEK_S:
            raise _wrong("shadow_s", "`shadow_s` is 0 where no copies are wanted, and at most a week.")
        for metric, bounds in wanted.metrics.items():
            if metric not in rows.COUNTED:
                raise _wrong("metrics", f"`metrics` are {', '.join(rows.COUNTED)}.")
            for name, value in bounds.items():
                low, high = _BOUNDS.get(name, (math.inf, -math.inf))
                if not low < value <= high:
                    raise _wrong("metrics", f"`{metric}` takes `r_max` above 1 and `bad_max` from 0 to 1.")

    async def _acted(self, tx: Transaction, named: str, act: RolloutAct) -> Rollout:
        rollout = await rows.get(tx, _parsed(named), is_locked=True)
        if rollout is None:
            raise InterlockError("not_found")
        if after(rollout.state, act) is None:
            text = f"A rollout that is {rollout.state} cannot {act}."
            raise InterlockError("state_conflict", text, detail={"state": str(rollout.state), "act": str(act)})
        return rollout

    async def _version(self, scope: Scope, rollout: Rollout) -> RouteVersion:
        version = await self._actuator.resolve(own(scope), rollout.route, rollout.to_version)
        if version is None or version.digest != rollout.artifact_digest:
            raise InterlockError("state_conflict", "The route's version is not what it was.")
        _require_new(version)
        return version

    async def _evidence(self, scope: Scope, rollout: Rollout, weight: float) -> tuple[LiveVerdict, str]:
        live = await self._gate.live(own(scope, rollout), rollout.route, rollout.artifact_digest)
        if isinstance(live, Blocked):
            raise _blocked(live.reasons)
        if weight > live.max_weight:
            text = f"The first stage of {weight:g} % is above the {live.max_weight:g} % that a fresh verdict admits."
            raise _blocked([{"code": "first_stage_too_large", "text": text}])
        token = await self._gate.token(own(scope, rollout), rollout.route, live, weight)
        if isinstance(token, Blocked):
            raise _blocked(token.reasons)
        return live, token

    async def _take_route(
        self, tx: Transaction, rollout: Rollout, version: RouteVersion, live: LiveVerdict, reason: str | None
    ) -> int:
        """Make it the one rollout that is tried on its route; return since when. Raises `rollout_active`."""
        now_us, gate = self._clock.now_us(), rows.encode(rows.gate_json(live))
        place = (rollout.organization_id, rollout.id)
        await tx.execute(SQL.forget_rollout_monitors, *place)
        try:
            async with tx.savepoint():
                await tx.execute(
                    SQL.start_rollout, *place, version.stable_version, rollout.stages[0], None, gate, now_us, reason,
                    rollout.state,
                )  # fmt: skip
        except asyncpg.UniqueViolationError as error:
            raise InterlockError("rollout_active") from error
        return now_us

    async def _require_free(self, tx: Transaction, route: str) -> None:
        active = await tx.fetchval(SQL.active_rollout, tx.scope.organization_id, route)
        if active is not None:
            raise InterlockError("rollout_active", detail={"rollout": format_id("rol", active)})

    async def _withdraw(self, scope: Scope, rollout: Rollout, reason: str) -> None:
        put = await self._actuator.rollback(own(scope), rollout.route, reason)
        if isinstance(put, WeightRefused):
            raise InterlockError("state_conflict", put.message)

    async def _move(
        self,
        tx: Transaction,
        rollout: Rollout,
        state: RolloutState,
        reason: str | None,
        *,
        is_over: bool = False,
        unkill_by: UUID | None = None,
    ) -> None:
        weight, ended_us = (0.0, self._clock.now_us()) if is_over else (None, None)
        place = (rollout.organization_id, rollout.id)
        await tx.execute(SQL.move_rollout, *place, state, reason, weight, ended_us, unkill_by)

    async def _moved(self, tx: Transaction, rollout_id: UUID, act: RolloutAct, reason: str | None) -> dict[str, Any]:
        rollout = await self._found(tx, rollout_id)
        await self._told(tx, rollout, f"rollout.{act}", reason)
        shown = rows.rollout_json(rollout, await self._readings(tx, rollout))
        await tell_state(self._events, tx, rollout)
        return shown

    async def _told(self, tx: Transaction, rollout: Rollout, action: str, reason: str | None) -> None:
        detail = {"route": rollout.route, "version": rollout.to_version, "digest": rollout.artifact_digest}
        entry = AuditEntry(action, "rollout", format_id("rol", rollout.id), reason=reason, detail=detail)
        await self._audit.append(tx, entry)

    async def _found(self, tx: Transaction, rollout_id: UUID) -> Rollout:
        rollout = await rows.get(tx, rollout_id)
        if rollout is None:
            raise InterlockError("not_found")
        return rollout

    async def _readings(self, tx: Transaction, rollout: Rollout) -> dict[str, Any]:
        found = await tx.fetch(SQL.rollout_monitors, rollout.organization_id, rollout.id)
        return {row["metric"]: rows.decode(row["reading"]) for row in found if row["reading"] is not None}


def own(scope: Scope, rollout: Rollout | None = None) -> Scope:
    """Return the scope without what only the platform's operator sees: a rollout moves its organization's routes.

    Where a rollout is given it is the scope of its workspace, to which its evidence and incidents belong.
    """
    where = scope.workspace_id if rollout is None else WorkspaceId(rollout.workspace_id)
    return replace(scope, workspace_id=where, principal=replace(scope.principal, is_platform_operator=False))


def topic_of(rollout_id: UUID) -> str:
    """Return the topic of a rollout's events."""
    return f"rollout:{format_id('rol', rollout_id)}"


async def tell_state(events: EventLog, tx: Transaction, rollout: Rollout) -> None:
    """Tell whoever follows that the state is another one."""
    payload = {"event": "rollout.state", "state": str(rollout.state), "stage": rollout.stage, "weight": rollout.weight}
    within = tx.under(replace(tx.scope, workspace_id=WorkspaceId(rollout.workspace_id)))
    await events.append(within, topic_of(rollout.id), {**payload, "reason": rollout.reason})


def report_of(rollout: Rollout, detector: str, text: str) -> IncidentReport:
    """Return the incident that a rollback is."""
    return IncidentReport(
        title=f"{rollout.route}@{rollout.to_version} was rolled back at {rollout.weight:g} %",
        severity=Severity.SEV2,
        source="rollouts",
        detector=detector,
        artifact_digest=rollout.artifact_digest,
        route=rollout.route,
        text=text,
        evidence={"rollout_id": format_id("rol", rollout.id), "stage": rollout.stage, "look": rollout.look},
    )


def _require_new(version: RouteVersion) -> None:
    if version.state in {"stable", "retired"}:
        raise InterlockError(
            "state_conflict", f"Version {version.version} is {version.state}.", detail={"state": version.state}
        )


def _parsed(named: str) -> UUID:
    try:
        return parse_id("rol", named)
    except (MalformedIdError, IndexError):
        raise InterlockError("not_found") from None


def _blocked(reasons: Any) -> InterlockError:
    return InterlockError("gate_blocked", detail={"reasons": [dict(each) for each in reasons]})


def _wrong(field: str, message: str) -> InterlockError:
    return InterlockError("invalid_request", message, detail={"field": field})
