"""Use cases of gates: policies in versions, controls that prove a gate can fail, evaluations asked for.

Signs nothing: a worker decides an evaluation, as it alone may open the key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from interlock.contracts.rollouts import RolloutActuator
from interlock.evals.domain.policy import ATTEMPTS, MODES, Check, Policy, PolicyError, read_policy
from interlock.evals.domain.rules import Rule
from interlock.evals.domain.stats import CHURN_MIN, pp, smallest_visible_drop
from interlock.evals.service.gate_rows import Gate, find_gate
from interlock.evals.service.proving import Controls
from interlock.evals.service.runs import Runs, RunWanted, found_run
from interlock.evals.service.suites import tenant_of, version_of
from interlock.evals.service.targets import Target, read_target
from interlock.evals.store import SQL, rows
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, rfc3339
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, MalformedIdError, PrincipalId, format_id, parse_id
from interlock.foundation.scope import Principal, PrincipalKind, Scope
from interlock.foundation.store import Store, Transaction

_HOUR_US: Final = 3_600_000_000
_SAMPLES: Final = 100_000
# What is guarded under such a name is the platform's own.
PLATFORM_PREFIX: Final = "pool:"
_FINAL: Final = frozenset({"complete", "failed", "canceled"})


@dataclass(frozen=True, slots=True)
class EvaluationWanted:
    """What is to be decided; targets as the API takes them, runs by their ids."""

    candidate: dict[str, Any]
    baseline: dict[str, Any] | None
    runs: tuple[str, ...]


class Gates:
    """Gates of a workspace."""

    def __init__(  # noqa: PLR0913 - the parts of the composition root
        self,
        store: Store,
        *,
        actuator: RolloutActuator,
        runs: Runs,
        controls: Controls,
        audit: AuditLog,
        clock: Clock,
        ids: IdFactory,
    ) -> None:
        self.store = store
        self._actuator = actuator
        self._runs = runs
        self._controls = controls
        self._audit = audit
        self._clock = clock
        self._ids = ids

    async def create(self, tx: Transaction, body: dict[str, Any]) -> dict[str, Any]:
        """Make a gate; a new one is advisory, as its controls have not passed. Raises `gate_not_armed`."""
        organization_id, workspace_id = tenant_of(tx.scope)
        policy = _policy(body)
        _require_mode(body["mode"])
        _require_guardian(tx.scope, policy)
        if body["mode"] == "required":
            raise InterlockError("gate_not_armed", "A gate is required once its controls have passed.")
        await self._require_suites(tx, policy)
        gate_id = self._ids.new()
        now_us = self._clock.now_us()
        try:
            async with tx.savepoint():
                place = (organization_id, workspace_id, gate_id)
                await tx.execute(SQL.add_gate, *place, body["name"], body["route"], body["mode"], now_us)
                await self._add_version(tx, gate_id, 1, policy)
        except asyncpg.UniqueViolationError as error:
            raise InterlockError("name_taken") from error
        await self._told(tx, "gate.create", gate_id, policy)
        return await self.shown(tx, await find_gate(tx, format_id("gate", gate_id)))

    async def change(self, tx: Transaction, named: str, body: dict[str, Any]) -> dict[str, Any]:
        """Change policy or mode. Raises `gate_not_armed`, `required_gate_exists`."""
        gate = await find_gate(tx, named)
        policy = _policy({**body, "route": gate.policy.route})
        _require_mode(body["mode"])
        _require_guardian(tx.scope, policy)
        await self._require_suites(tx, policy)
        version = gate.version
        if policy.digest != gate.policy_digest or policy.body != gate.policy.body:
            version += 1
            await self._add_version(tx, gate.id, version, policy)
        changed = Gate(gate.id, body["name"], body["mode"], version, policy, policy.digest)
        if body["mode"] == "required" and await self.disarmed(tx, changed):
            raise InterlockError("gate_not_armed", detail={"reasons": await self.disarmed(tx, changed)})
        try:
            async with tx.savepoint():
                await tx.execute(
                    SQL.change_gate, tx.scope.organization_id, gate.id, body["mode"], version, body["name"]
                )
        except asyncpg.UniqueViolationError as error:
            code = "required_gate_exists" if "required" in str(error) else "name_taken"
            raise InterlockError(code) from error
        await self._told(tx, "gate.change", gate.id, policy, mode=body["mode"])
        return await self.shown(tx, await find_gate(tx, named))

    async def controls(self, tx: Transaction, named: str, baseline: dict[str, Any] | None) -> dict[str, Any]:
        """Prove of each check that a sabotaged recording FAILs and the recording itself does not."""
        gate = await find_gate(tx, named)
        _require_guardian(tx.scope, gate.policy)
        given = None if baseline is None else await read_target(self._actuator, tx.scope, baseline)
        await self._controls.prove(tx, gate, given)
        await self._told(tx, "gate.controls", gate.id, gate.policy)
        return await self.shown(tx, gate)

    async def evaluate(self, tx: Transaction, named: str, wanted: EvaluationWanted) -> dict[str, Any]:
        """Ask for a verdict; return one that stands already, or the evaluation that a worker decides.

        Raises `same_artifact`, `attempts_exhausted`, and what a run may refuse.
        """
        gate = await find_gate(tx, named)
        _require_guardian(tx.scope, gate.policy)
        candidate = await read_target(self._actuator, tx.scope, wanted.candidate)
        baseline = None
        if wanted.baseline is not None:
            baseline = await read_target(self._actuator, tx.scope, wanted.baseline)
            if baseline.digest == candidate.digest:
                raise InterlockError("same_artifact")
        spent = await self.spent(tx, gate, candidate.digest)
        asked = (candidate, baseline, wanted)
        runs = {each.name: await self._run_for(tx, gate, each, asked) for each in gate.policy.checks}
        is_same = any(rows.decode(each["body"])["runs"] == runs for each in spent)
        if len(spent) >= len(ATTEMPTS) and not is_same:
            raise InterlockError("attempts_exhausted", detail={"attempts": len(spent)})
        organization_id, workspace_id = tenant_of(tx.scope)
        await tx.execute(SQL.add_evaluation_share, organization_id, workspace_id)
        evaluation_id = self._ids.new()
        await tx.execute(
            SQL.add_evaluation, organization_id, workspace_id, evaluation_id, gate.id, candidate.digest,
            baseline and baseline.digest, rows.encode(runs), self._clock.now_us(),
        )  # fmt: skip
        await self._told(tx, "gate.evaluate", gate.id, gate.policy, artifact=candidate.digest)
        return {"id": format_id("vdt", evaluation_id), "state": "pending", "runs": runs}

    async def _run_for(
        self, tx: Transaction, gate: Gate, check: Check, asked: tuple[Target, Target | None, EvaluationWanted]
    ) -> str:
        """Return the run that a check is decided from: one that was named, a fresh one there is, or a new one."""
        candidate, baseline, wanted = asked
        suite = await version_of(tx, check.suite, None)
        for each in wanted.runs:
            row = await found_run(tx, each)
            if row["suite"] == check.suite and row["candidate_digest"] == candidate.digest:
                return each
        needs_baseline = check.limits.rule is Rule.NON_INFERIOR
        oldest_us = self._clock.now_us() - round(gate.policy.freshness_h * _HOUR_US)
        known = await tx.fetch(
            SQL.runs_of_artifact, tx.scope.organization_id, check.suite, suite["version"], candidate.digest
        )
        if candidate.kind != "recorded":
            for row in known:
                is_same = baseline is not None and row["baseline_digest"] == baseline.digest
                is_enough = row["epochs"] >= check.epochs and (is_same or not needs_baseline)
                if row["created_us"] >= oldest_us and is_enough:
                    return format_id("run", row["id"])
        compared = wanted.baseline if needs_baseline else None
        run = RunWanted(check.suite, wanted.candidate, compared, suite["version"], check.epochs)
        started = await self._runs.start(tx, run)
        return str(started["id"])

    async def further(self, tx: Transaction, run: Any, keys: Sequence[str], repeats: int) -> str:
        """Begin the further repeats of cases that failed once, as whoever began the run; return the new run."""
        owner = Principal(
            PrincipalId(run["principal_id"]), PrincipalKind(run["principal_kind"]), tx.scope.organization_id,
            run["workspace_id"],
        )  # fmt: skip
        target = {name: value for name, value in rows.decode(run["candidate"]).items() if name != "artifact_digest"}
        wanted = RunWanted(
            run["suite"], target, None, run["suite_version"], 2 * repeats, run["seed"], run["concurrency"],
            sample_timeout_s=run["sample_timeout_s"], attempts_max=run["attempts_max"], purpose="repeats",
            keys=frozenset(keys),
        )  # fmt: skip
        inside = tx.under(Scope(tx.scope.organization_id, run["workspace_id"], owner))
        return str((await self._runs.start(inside, wanted))["id"])

    async def spent(self, tx: Transaction, gate: Gate, artifact_digest: str) -> list[Any]:
        """Return the verdicts that spent an attempt of this policy on this artifact, newest first."""
        found = await tx.fetch(SQL.verdicts_of, tx.scope.organization_id, gate.id, artifact_digest, None, 100)
        return [
            row for row in found
            if row["policy_digest"] == gate.policy_digest and rows.decode(row["body"])["is_spent"]
        ]  # fmt: skip

    async def answer(self, scope: Scope, evaluation_id: str) -> dict[str, Any]:
        """Return the verdict of an evaluation, or that it is pending. Raises `not_found`."""
        found = _parsed("vdt", evaluation_id)
        async with self.store.transaction(scope) as tx:
            row = await tx.fetchrow(SQL.get_evaluation, scope.organization_id, found)
            if row is None or row["state"] == "pending":
                verdict = await tx.fetchrow(SQL.get_verdict, scope.organization_id, found)
                if verdict is not None:
                    return verdict_json(verdict)
                if row is None:
                    raise InterlockError("not_found")
                return {"id": evaluation_id, "state": "pending", "runs": rows.decode(row["runs"])}
            if row["state"] == "refused":
                raise InterlockError(row["code"])
            verdict = await tx.fetchrow(SQL.get_verdict, scope.organization_id, row["verdict_id"])
            if verdict is None:
                raise InterlockError("not_found")
            return verdict_json(verdict)

    async def disarmed(self, tx: Transaction, gate: Gate) -> list[str]:
        """Return why a gate is not armed; empty where it is."""
        found = await tx.fetch(SQL.controls_of, tx.scope.organization_id, gate.id, gate.policy_digest)
        by = {(row["check_name"], row["kind"]): row for row in found}
        oldest_us = self._clock.now_us() - round(gate.policy.controls_max_age_h * _HOUR_US)
        reasons = []
        for check in gate.policy.checks:
            suite = await version_of(tx, check.suite, None)
            for kind in ("positive", "negative"):
                row = by.get((check.name, kind))
                if row is None:
                    reasons.append(f"{check.name}: no {kind} control of this policy has run")
                elif row["suite_digest"] != suite["suite_digest"]:
                    reasons.append(f"{check.name}: the suite changed since its {kind} control")
                elif row["at_us"] < oldest_us:
                    reasons.append(f"{check.name}: its {kind} control is too old")
                elif not row["ok"]:
                    reasons.append(f"{check.name}: its {kind} control came to {row['observed']}")
        return reasons

    async def page(self, scope: Scope, after: str, count: int) -> list[dict[str, Any]]:
        """Return gates by name, each as `shown` tells it."""
        async with self.store.transaction(scope) as tx:
            found = await tx.fetch(SQL.list_gates, scope.organization_id, after, count)
            return [await self.shown(tx, Gate.of(row)) for row in found]

    async def looked_into(self, scope: Scope, named: str, count: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return a gate as `shown` tells it and its newest verdicts, each with whether it admits now (`is_live`).

        Raises `not_found`.
        """
        async with self.store.transaction(scope) as tx:
            gate = await find_gate(tx, named)
            found = await tx.fetch(SQL.verdicts_of, scope.organization_id, gate.id, None, None, count)
            shown = await self.shown(tx, gate)
        now_us = self._clock.now_us()
        return shown, [{**verdict_json(row), "is_live": _is_live(row, now_us)} for row in found]

    async def shown(self, tx: Transaction, gate: Gate) -> dict[str, Any]:
        """Return a gate with controls, power and live verdicts."""
        reasons = await self.disarmed(tx, gate)
        controls = await tx.fetch(SQL.controls_of, tx.scope.organization_id, gate.id, gate.policy_digest)
        verdicts = await tx.fetch(SQL.verdicts_of, tx.scope.organization_id, gate.id, None, None, 20)
        now_us = self._clock.now_us()
        live = [verdict_json(row) for row in verdicts if _is_live(row, now_us)]
        power = {}
        for check in gate.policy.checks:
            suite = await version_of(tx, check.suite, None)
            visible = smallest_visible_drop(max(suite["cases"], 1), CHURN_MIN, check.limits.alpha)
            power[check.name] = {"cases": suite["cases"], "mde_pp": pp(visible)}
        return {
            "id": gate.named, "version": gate.version, "policy_digest": gate.policy_digest,
            **gate.policy.body, "name": gate.name, "mode": gate.mode, "armed": not reasons, "armed_reasons": reasons,
            "controls": [rows.control_json(row) for row in controls], "power": power,
            "verdicts_live": [{name: each[name] for name in ("id", "artifact_digest", "verdict", "expires_at")}
                              for each in live],
        }  # fmt: skip

    async def _require_suites(self, tx: Transaction, policy: Policy) -> None:
        for check in policy.checks:
            await version_of(tx, check.suite, None)

    async def _add_version(self, tx: Transaction, gate_id: UUID, version: int, policy: Policy) -> None:
        organization_id, workspace_id = tenant_of(tx.scope)
        await tx.execute(
            SQL.add_gate_version, organization_id, workspace_id, gate_id, version, rows.encode(policy.body),
            policy.digest, tx.scope.principal.id, self._clock.now_us(),
        )  # fmt: skip

    async def _told(self, tx: Transaction, action: str, gate_id: UUID, policy: Policy, **detail: str) -> None:
        told = {"route": policy.route, "policy_digest": policy.digest, **detail}
        await self._audit.append(tx, AuditEntry(action, "gate", format_id("gate", gate_id), detail=told))


def verdict_json(row: Any) -> dict[str, Any]:
    """Return a verdict as it was issued."""
    body: dict[str, Any] = rows.decode(row["body"])
    return {
        **body["shown"], "id": format_id("vdt", row["id"]), "issued_at": rfc3339(row["issued_us"]),
        "expires_at": rfc3339(row["expires_us"]), "state": "decided",
    }  # fmt: skip


def _is_live(row: Any, now_us: int) -> bool:
    return bool(row["admits"]) and row["expires_us"] > now_us


def is_final(state: str) -> bool:
    """Tell whether a run has ended."""
    return state in _FINAL


def _policy(body: dict[str, Any]) -> Policy:
    kept = ("route", "risk_tier", "checks", "freshness_h", "verdict_ttl_h", "controls_max_age_h")
    try:
        return read_policy({name: body[name] for name in kept})
    except PolicyError as error:
        raise InterlockError(error.code, str(error), detail={"field": error.field}) from error


def _require_mode(mode: str) -> None:
    if mode not in MODES:
        raise InterlockError("invalid_request", f"`mode` is one of {', '.join(MODES)}.", detail={"field": "mode"})


def _require_guardian(scope: Scope, policy: Policy) -> None:
    """A pool is the platform's, so its gates are: another tenant's would stop what is not its own, or let it pass."""
    is_guardian = scope.principal.is_platform_operator or scope.principal.kind is PrincipalKind.SYSTEM
    if policy.route.startswith(PLATFORM_PREFIX) and not is_guardian:
        raise InterlockError("role_denied", "The gate of a pool is the platform operator's.")


def _parsed(kind: str, text: str) -> UUID:
    try:
        return parse_id(kind, text)
    except MalformedIdError:
        raise InterlockError("not_found") from None
