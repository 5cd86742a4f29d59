"""Rollouts put together: their use cases and pages in control, their monitor in a worker.

Holds no logic; the weights are the gateway's, the evidence is the gates'.
"""

from interlock.console import Console
from interlock.console.rollouts import RolloutPages, rollout_pages
from interlock.contracts.incidents import IncidentSink
from interlock.evals.config import RolloutConfig
from interlock.evals.domain.rollout_gate import RolloutGate
from interlock.evals.metrics import RolloutMetrics
from interlock.evals.routes.rollouts import rollout_routes
from interlock.evals.service.rollout_monitor import ROLLOUT_LEASES, MonitorParts, RolloutMonitor, forget_looks
from interlock.evals.service.rollouts import Rollouts
from interlock.foundation.control.route import Route
from interlock.foundation.leases import LeaseTable, LeaseWorker
from interlock.foundation.store import Store
from interlock.foundation.store.lookout import Lookout
from interlock.foundation.telemetry import EventLog
from interlock.wiring.evaluating import evals_of, required_gate
from interlock.wiring.gateway import actuator
from interlock.wiring.ground import Ground


def evidence_of(ground: Ground, store: Store, events: EventLog, *, is_opener: bool) -> tuple[RolloutGate, IncidentSink]:
    """Return what admits versions, and who hears of those that were rolled back."""
    return required_gate(ground, store, events, is_opener=is_opener), evals_of(ground, store, events).incidents


def rollout_routes_of(ground: Ground, store: Store, events: EventLog, page: Console) -> list[Route]:
    """Return the routes and pages of rollouts."""
    gate, incidents = evidence_of(ground, store, events, is_opener=False)
    rollouts = Rollouts(
        store,
        actuator=actuator(ground, store),
        gate=gate,
        incidents=incidents,
        events=events,
        audit=ground.audit(),
        clock=ground.clock,
        ids=ground.ids,
        config=ground.config.section(RolloutConfig),
    )
    pages = RolloutPages(page.frame, rollouts)
    page.samples["rollout"], page.watchers["rollouts"] = pages.sampler, pages.standing
    return [*rollout_routes(rollouts, events, ground.clock), *rollout_pages(pages)]


def rollout_worker(ground: Ground, store: Store, events: EventLog, lookout: Lookout) -> LeaseWorker:
    """Return what looks at rollouts, each under its lease."""
    gate, incidents = evidence_of(ground, store, events, is_opener=True)
    config, moves = ground.config.section(RolloutConfig), actuator(ground, store)
    parts = MonitorParts(
        store=store,
        actuator=moves,
        counts=moves,
        gate=gate,
        incidents=incidents,
        events=events,
        audit=ground.audit(),
        clock=ground.clock,
        config=config,
        metrics=RolloutMetrics(ground.metrics),
    )
    monitor = RolloutMonitor(parts)
    table = LeaseTable(ROLLOUT_LEASES, store)
    worker = LeaseWorker(ROLLOUT_LEASES, table, monitor.look, ground.clock, ground.name, slots=config.slots)
    return worker.told_by(lookout, table.due)


async def forget_rollout_looks(ground: Ground, store: Store) -> None:
    """Delete looks that are too old for anybody."""
    await forget_looks(store, ground.clock, ground.config.section(RolloutConfig))
