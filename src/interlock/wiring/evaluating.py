"""Evals put together: suites, runs, gates and incidents in control; the runner and the decider in a worker.

Holds no logic. Rollouts are in `rollouts.py`.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from interlock.console import Console
from interlock.console.evals import EvalPages, eval_pages
from interlock.evals.config import EvalsConfig
from interlock.evals.metrics import EvalMetrics
from interlock.evals.routes.gates import GateHandlers, gate_routes, incident_routes
from interlock.evals.routes.runs import RunHandlers, run_routes
from interlock.evals.service.deciding import EVALUATION_LEASES, Decider, RequiredGate
from interlock.evals.service.gates import Gates
from interlock.evals.service.incidents import Incidents
from interlock.evals.service.platform_gates import PlatformGates
from interlock.evals.service.proving import Controls
from interlock.evals.service.renewing import Prover
from interlock.evals.service.running import RUN_LEASES, Runner, RunnerParts
from interlock.evals.service.runs import Runs
from interlock.evals.service.signing import SigningKeys
from interlock.evals.service.suites import Suites
from interlock.foundation.artifacts import ArtifactStore
from interlock.foundation.control.route import Route
from interlock.foundation.leases import LeaseTable, LeaseWorker
from interlock.foundation.leases.ticks import Tick
from interlock.foundation.secrets import MasterKeyFile, SecretBox, SecretsConfig, SecretService
from interlock.foundation.store import Store
from interlock.foundation.store.lookout import Lookout
from interlock.foundation.telemetry import EventLog
from interlock.wiring.gateway import actuator, model_client, verdicts
from interlock.wiring.ground import Ground

# Controls grow old in hours; a suite that changed is noticed within this.
_CONTROLS_S: Final = 600.0
Loop = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class EvalsParts:
    """The use cases of evals in one process."""

    suites: Suites
    runs: Runs
    gates: Gates
    incidents: Incidents


def evals_of(ground: Ground, store: Store, events: EventLog) -> EvalsParts:
    """Return the use cases."""
    audit, clock, ids, moves = ground.audit(), ground.clock, ground.ids, actuator(ground, store)
    suites = Suites(audit, clock, ids, ground.redactor)
    config = ground.config.section(EvalsConfig)
    runs = Runs(
        store, actuator=moves, events=events, audit=audit, redactor=ground.redactor, clock=clock, ids=ids,
        config=config,
    )  # fmt: skip
    controls = Controls(ground.redactor, clock)
    gates = Gates(store, actuator=moves, runs=runs, controls=controls, audit=audit, clock=clock, ids=ids)
    incidents = Incidents(
        store, suites=suites, runs=runs, controls=controls, actuator=moves, audit=audit, redactor=ground.redactor,
        clock=clock, ids=ids,
    )  # fmt: skip
    return EvalsParts(suites, runs, gates, incidents)


def evals_routes(ground: Ground, store: Store, events: EventLog, artifacts: ArtifactStore) -> list[Route]:
    """Return the routes of suites, runs, gates and incidents."""
    parts = evals_of(ground, store, events)
    runs = RunHandlers(parts.suites, parts.runs, events, artifacts, ground.clock)
    gates = GateHandlers(parts.gates, parts.incidents, ground.clock)
    return [*run_routes(runs), *gate_routes(gates), *incident_routes(gates)]


def evals_pages(ground: Ground, store: Store, events: EventLog, page: Console) -> list[Route]:
    """Return the pages of runs, gates and incidents."""
    parts = evals_of(ground, store, events)
    pages = EvalPages(page.frame, store, parts.runs, parts.gates, parts.incidents, ground.clock)
    page.samples.update(pages.samplers)
    page.watchers.update({"gates": pages.gates_standing, "incidents": pages.incidents_standing})
    return eval_pages(pages)


def evals_workers(
    ground: Ground, store: Store, events: EventLog, artifacts: ArtifactStore, lookout: Lookout
) -> tuple[list[Loop], Tick]:
    """Return what runs runs and decides evaluations, each under its lease, and the tick that renews controls."""
    parts, config, signing = (
        evals_of(ground, store, events),
        ground.config.section(EvalsConfig),
        signing_of(ground, is_opener=True),
    )
    metrics = EvalMetrics(ground.metrics)
    runner = Runner(
        RunnerParts(
            store=store,
            models=model_client(ground, store),
            artifacts=artifacts,
            signing=signing,
            events=events,
            audit=ground.audit(),
            redactor=ground.redactor,
            clock=ground.clock,
            dice=ground.dice,
            config=config,
            metrics=metrics,
        )
    )
    decider = Decider(
        store,
        gates=parts.gates,
        signing=signing,
        audit=ground.audit(),
        clock=ground.clock,
        ids=ground.ids,
        config=config,
        metrics=metrics,
    )
    prover = Prover(store, parts.gates, ground.clock, metrics)
    workers = [
        LeaseWorker(spec, table, work, ground.clock, ground.name, slots=config.slots).told_by(lookout, table.due)
        for spec, work in ((RUN_LEASES, runner.work), (EVALUATION_LEASES, decider.work))
        for table in (LeaseTable(spec, store),)
    ]
    return [each.run for each in workers], Tick("evals controls", _CONTROLS_S, prover.run_once)


def required_gate(ground: Ground, store: Store, events: EventLog, *, is_opener: bool) -> RequiredGate:
    """Return the required gate of a route, as rollouts ask it; control signs nothing."""
    signing = signing_of(ground, is_opener=is_opener)
    return RequiredGate(store, evals_of(ground, store, events).gates, signing, ground.clock)


def platform_gates(ground: Ground, store: Store, events: EventLog) -> PlatformGates:
    """Return the gates of what is the platform's own."""
    gate = required_gate(ground, store, events, is_opener=False)
    return PlatformGates(store, gate, *verdicts(store), ground.clock)


def signing_of(ground: Ground, *, is_opener: bool) -> SigningKeys:
    """Return the keys that sign verdicts; only a worker can open them."""
    file = MasterKeyFile(ground.directory.master_key)
    box = SecretBox(ground.dice, file.read_public, file.read if is_opener else None)
    secrets = SecretService(box, ground.audit(), ground.ids, ground.redactor, ground.config.section(SecretsConfig))
    return SigningKeys(secrets, ground.audit(), ground.clock, ground.ids, ground.config.section(EvalsConfig))
