"""Pools put together for whoever changes and reads them: their routes and pages in control, their gates in a worker.

Holds no logic; what grants is in `scheduling.py`.
"""

from interlock.console import Console
from interlock.console.pool_capacity import CapacityPages, capacity_pages
from interlock.console.pools import PoolPages, pool_pages
from interlock.foundation.control.route import Route
from interlock.foundation.flags import FlagGuard
from interlock.foundation.leases.ticks import Tick
from interlock.foundation.store import Store
from interlock.foundation.telemetry import EventLog
from interlock.foundation.wire import Client, ClientLimits
from interlock.scheduler import EngineInspector, SchedulerConfig
from interlock.scheduler.adapters.apart import replayed
from interlock.scheduler.adapters.pool_client import PoolClient
from interlock.scheduler.routes.admin import PoolHandlers, pool_routes
from interlock.scheduler.routes.rollout import RolloutHandlers, rollout_routes
from interlock.scheduler.service.gating import PolicyGate
from interlock.scheduler.service.policy_flag import POLICY_FLAG, PolicyFlagGuard
from interlock.scheduler.service.reading import Decisions
from interlock.scheduler.service.rollout import GateWatch
from interlock.scheduler.service.what_if import WhatIf
from interlock.wiring.evaluating import platform_gates
from interlock.wiring.first_pools import pool_service
from interlock.wiring.ground import Ground
from interlock.wiring.leaders import scheduler_sockets
from interlock.wiring.scheduling import rollouts_of


def gate_watch(ground: Ground, store: Store, events: EventLog) -> Tick:
    """Return the tick that rolls back canaries which their gates no longer admit."""
    gates, every_s = platform_gates(ground, store, events), ground.config.section(SchedulerConfig).gate_check_s
    watch = GateWatch(store, rollouts_of(ground), gates, ground.platform_scope)
    return Tick("scheduler gates", every_s, watch.run_once)


def flag_guards(ground: Ground, store: Store, events: EventLog) -> dict[str, FlagGuard]:
    """Return what is asked before flags are set that change what decides in the pools."""
    return {POLICY_FLAG: PolicyFlagGuard(store, pool_service(ground), _policy_gate(ground, store, events))}


def _policy_gate(ground: Ground, store: Store, events: EventLog) -> PolicyGate:
    gates, config = platform_gates(ground, store, events), ground.config.section(SchedulerConfig)
    return PolicyGate(gates, pool_live(ground), store, ground.audit(), config)


def pool_live(ground: Ground) -> PoolClient:
    """Return what reads the figures of the running scheduler."""
    client = Client(ground.config.section(ClientLimits), ground.clock)
    timeout_s = ground.config.section(SchedulerConfig).probe_timeout_s
    return PoolClient(client, scheduler_sockets(ground), ground.internal_token, timeout_s)


def scheduling_routes(ground: Ground, store: Store, events: EventLog, page: Console) -> list[Route]:
    """Return the routes and pages of pools behind control."""
    client = Client(ground.config.section(ClientLimits), ground.clock)
    timeout_s = ground.config.section(SchedulerConfig).probe_timeout_s
    inspector = EngineInspector(client, timeout_s=timeout_s, token=ground.internal_token)
    pools, live = pool_service(ground), pool_live(ground)
    config = ground.config.section(SchedulerConfig)
    decisions, rollouts = Decisions(store), rollouts_of(ground, _policy_gate(ground, store, events))
    pages = PoolPages(page.frame, page.lookup, pools, live, decisions, rollouts)
    what_if = WhatIf(decisions, replayed, ground.clock, config)
    capacity = CapacityPages(page.frame, pools, live, what_if)
    page.samples.update({**pages.samplers, "pool_capacity": pages.samplers["pool"]})
    page.watchers["scheduler"] = pages.standing
    handlers = PoolHandlers(page.identity, pools, live, inspector, ground.clock)
    tries = RolloutHandlers(page.identity, rollouts, live)
    return [*pool_routes(handlers), *rollout_routes(tries), *pool_pages(pages), *capacity_pages(capacity)]
