"""Use cases of runs: the manifest before the first call, cancel, list, show. Calls no target; `running.py` does."""

import random
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from interlock import __version__
from interlock.contracts.rollouts import RolloutActuator
from interlock.evals.config import EvalsConfig
from interlock.evals.domain.cases import Case
from interlock.evals.domain.results import BASELINE, CANDIDATE
from interlock.evals.service.suites import cases_of, tenant_of, version_of
from interlock.evals.service.targets import RECORDED, Target, read_target
from interlock.evals.store import SQL, rows
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, MalformedIdError, format_id, parse_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction
from interlock.foundation.telemetry import EventLog

EPOCHS_MAX: Final = 100
_MISSING: Final = "output_missing"


@dataclass(frozen=True, slots=True)
class RunWanted:
    """A run as it is asked for; targets as the API takes them."""

    suite: str
    candidate: dict[str, Any]
    baseline: dict[str, Any] | None = None
    suite_version: int | None = None
    epochs: int = 1
    seed: int = 0
    concurrency: int = 16
    deadline_s: float = 900.0
    sample_timeout_s: float = 60.0
    attempts_max: int = 4
    labels: dict[str, str] = field(default_factory=dict)
    purpose: str = "run"
    # Of all cases of the suite where it is None.
    keys: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A run with its targets resolved, before it is written."""

    wanted: RunWanted
    suite: Any
    cases: list[tuple[UUID, Case]]
    arms: dict[str, Target]


class Runs:
    """Runs of a workspace."""

    def __init__(  # noqa: PLR0913 - the parts of the composition root
        self,
        store: Store,
        *,
        actuator: RolloutActuator,
        events: EventLog,
        audit: AuditLog,
        redactor: Redactor,
        clock: Clock,
        ids: IdFactory,
        config: EvalsConfig,
    ) -> None:
        self.store = store
        self._actuator = actuator
        self._events = events
        self._audit = audit
        self._redactor = redactor
        self._clock = clock
        self._ids = ids
        self._config = config

    async def start(self, tx: Transaction, wanted: RunWanted) -> dict[str, Any]:
        """Write the manifest and let a worker begin. Raises `unknown_suite`, `runs_queue_full`, `suite_too_large`."""
        _require_bounds(wanted)
        scope = tx.scope
        organization_id, workspace_id = tenant_of(scope)
        if await tx.fetchval(SQL.queued_runs, organization_id, workspace_id) >= self._config.queued_runs_max:
            raise InterlockError("runs_queue_full", retry_after_s=5.0)
        suite = await version_of(tx, wanted.suite, wanted.suite_version)
        listed = await cases_of(tx, suite["name"], suite["version"])
        cases = [each for each in listed if wanted.keys is None or each[1].key in wanted.keys]
        arms = {CANDIDATE: await read_target(self._actuator, scope, wanted.candidate)}
        if wanted.baseline is not None:
            arms[BASELINE] = await read_target(self._actuator, scope, wanted.baseline)
        run_id = await self._write(tx, Sealed(wanted, suite, cases, arms))
        named = format_id("run", run_id)
        detail = {"suite": suite["name"], "version": suite["version"], "candidate": arms[CANDIDATE].digest}
        await self._audit.append(tx, AuditEntry("run.start", "run", named, detail=detail))
        await self._events.append(tx, topic_of(run_id), {"event": "run.state", "state": "queued"})
        return rows.run_json(await found_run(tx, named))

    async def start_case(
        self, tx: Transaction, about: str, case: tuple[UUID, Case], wanted: RunWanted
    ) -> dict[str, Any]:
        """Write the manifest of a run over one case that is in no suite; `about` stands for its name."""
        _require_bounds(wanted)
        organization_id, workspace_id = tenant_of(tx.scope)
        if await tx.fetchval(SQL.queued_runs, organization_id, workspace_id) >= self._config.queued_runs_max:
            raise InterlockError("runs_queue_full", retry_after_s=5.0)
        arms = {CANDIDATE: await read_target(self._actuator, tx.scope, wanted.candidate)}
        if wanted.baseline is not None:
            arms[BASELINE] = await read_target(self._actuator, tx.scope, wanted.baseline)
        suite = {"name": about, "version": 0, "suite_digest": case[1].digest}
        run_id = await self._write(tx, Sealed(wanted, suite, [case], arms))
        named = format_id("run", run_id)
        detail = {"about": about, "purpose": wanted.purpose, "candidate": arms[CANDIDATE].digest}
        await self._audit.append(tx, AuditEntry("run.start", "run", named, detail=detail))
        await self._events.append(tx, topic_of(run_id), {"event": "run.state", "state": "queued"})
        return rows.run_json(await found_run(tx, named))

    async def _write(self, tx: Transaction, run: Sealed) -> UUID:
        organization_id, workspace_id = tenant_of(tx.scope)
        wanted, principal, now_us = run.wanted, tx.scope.principal, self._clock.now_us()
        expected = len(run.cases) * len(run.arms) * wanted.epochs
        if expected > self._config.samples_max:
            raise InterlockError("suite_too_large", detail={"samples_max": self._config.samples_max})
        run_id, candidate, baseline = self._ids.new(), run.arms[CANDIDATE], run.arms.get(BASELINE)
        await tx.execute(SQL.add_share, organization_id, workspace_id)
        await tx.execute(
            SQL.add_run, organization_id, workspace_id, run_id, run.suite["name"], run.suite["version"],
            run.suite["suite_digest"], rows.encode(candidate.public()), rows.encode(baseline and baseline.public()),
            candidate.digest, baseline and baseline.digest, wanted.seed, wanted.epochs, wanted.concurrency,
            wanted.attempts_max, wanted.sample_timeout_s, expected, now_us + round(wanted.deadline_s * 1e6),
            rows.encode(wanted.labels), wanted.purpose, principal.id, str(principal.kind), __version__, now_us,
        )  # fmt: skip
        order = list(run.cases)
        # Seeded, so that the order is no accident; both arms of a case side by side, so that they see the same weather.
        random.Random(wanted.seed).shuffle(order)  # noqa: S311 - an order that the run's seed repeats
        lines, ord_ = [], 0
        for case_id, case in order:
            for epoch in range(wanted.epochs):
                for arm, target in run.arms.items():
                    ord_ += 1
                    place = (organization_id, workspace_id, run_id, case.key, arm, epoch, ord_, case_id)
                    lines.append((*place, self._recorded(target, case.key, epoch)))
        await tx.executemany(SQL.add_sample, lines)
        return run_id

    def _recorded(self, target: Target, key: str, epoch: int) -> str | None:
        if target.kind != RECORDED:
            return None
        outputs = target.outputs.get(key, [])
        if epoch >= len(outputs):
            return None
        return rows.encode(self._redactor.value(outputs[epoch].public()))

    async def show(self, scope: Scope, named: str) -> dict[str, Any]:
        """Return one run with how far it is. Raises `not_found`."""
        async with self.store.transaction(scope) as tx:
            row = await found_run(tx, named)
            return rows.run_json(row, await tx.fetchrow(SQL.progress_of, scope.organization_id, row["id"]))

    async def page(self, scope: Scope, state: str | None, before: UUID | None, count: int) -> list[dict[str, Any]]:
        """Return runs, newest first."""
        async with self.store.transaction(scope) as tx:
            return [
                rows.run_json(row) for row in await tx.fetch(SQL.list_runs, scope.organization_id, before, state, count)
            ]

    async def samples(
        self, scope: Scope, named: str, after: int, count: int, *, arm: str | None = None, outcome: str | None = None
    ) -> list[Any]:
        """Return rows of samples in the order of the manifest."""
        async with self.store.transaction(scope) as tx:
            run = await found_run(tx, named)
            found: list[Any] = await tx.fetch(
                SQL.samples_of, scope.organization_id, run["id"], after, arm, outcome, count
            )
        return found

    async def results(self, scope: Scope, named: str, count: int) -> list[dict[str, Any]]:
        """Return results with what was asked and the slices of their cases, in the order of the manifest."""
        return [rows.result_json(row) for row in await self.samples(scope, named, 0, count)]

    async def cancel(self, tx: Transaction, named: str) -> dict[str, Any]:
        """Stop a run; what was scored stays. A run that has ended is left as it is."""
        row = await found_run(tx, named)
        moved = await tx.fetchval(SQL.cancel_run, tx.scope.organization_id, row["id"], self._clock.now_us())
        if moved is not None:
            await self._audit.append(tx, AuditEntry("run.cancel", "run", named))
            ended = {"event": "run.finished" if moved == "canceled" else "run.state", "state": moved}
            await self._events.append(tx, topic_of(row["id"]), ended)
        return rows.run_json(await found_run(tx, named))


async def found_run(tx: Transaction, named: str) -> Any:
    """Return the row of a run. Raises `not_found`."""
    try:
        run_id = parse_id("run", named)
    except MalformedIdError:
        raise InterlockError("not_found") from None
    row = await tx.fetchrow(SQL.get_run, tx.scope.organization_id, run_id)
    if row is None:
        raise InterlockError("not_found")
    return row


def topic_of(run_id: UUID) -> str:
    """Return the topic of a run's events."""
    return f"run:{run_id}"


def _require_bounds(wanted: RunWanted) -> None:
    bounds = {
        "epochs": (1, EPOCHS_MAX), "concurrency": (1, 64), "deadline_s": (1, 86_400), "sample_timeout_s": (0.1, 3_600),
        "attempts_max": (1, 10), "seed": (0, (1 << 63) - 1),
    }  # fmt: skip
    for name, (least, most) in bounds.items():
        if not least <= getattr(wanted, name) <= most:
            raise InterlockError("invalid_request", f"`{name}` is from {least:g} to {most:g}.", detail={"field": name})
