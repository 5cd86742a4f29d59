"""Rollouts put together: their use cases in control, their monitor in a worker.

Holds no logic; the weights are the gateway's, the evidence is the gates'.
"""

from interlock.contracts.incidents import IncidentSink
from interlock.evals.config import RolloutConfig
from interlock.evals.domain.rollout_gate import RolloutGate
from interlock.evals.service.rollout_monitor import ROLLOUT_LEASES, MonitorParts, RolloutMonitor
from interlock.evals.service.rollouts import Rollouts
from interlock.foundation.leases import LeaseTable, LeaseWorker
from interlock.foundation.store import Store
from interlock.foundation.telemetry import EventLog
from interlock.wiring.gateway import actuator
from interlock.wiring.ground import Ground


def rollouts_of(
    ground: Ground, store: Store, events: EventLog, gate: RolloutGate, incidents: IncidentSink
) -> Rollouts:
    """Return the use cases of rollouts."""
    return Rollouts(
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


def rollout_worker(
    ground: Ground, store: Store, events: EventLog, gate: RolloutGate, incidents: IncidentSink
) -> LeaseWorker:
    """Return what looks at rollouts, each under its lease."""
    config = ground.config.section(RolloutConfig)
    moves = actuator(ground, store)
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
    )
    monitor = RolloutMonitor(parts)
    table = LeaseTable(ROLLOUT_LEASES, store)
    return LeaseWorker(ROLLOUT_LEASES, table, monitor.look, ground.clock, ground.name, slots=config.slots)
