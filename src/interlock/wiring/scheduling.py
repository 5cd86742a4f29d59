"""The scheduler put together: its role, and the pools that control serves.

Holds no logic; the store's pools are read again whenever the feed says that they changed.
"""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import FlagBook, KillScope
from interlock.foundation.flags.feed import KILLS
from interlock.foundation.store import Store
from interlock.foundation.supervisor import RoleLink
from interlock.foundation.wire import Client, ClientLimits
from interlock.scheduler import (
    EngineInspector,
    EngineWatch,
    FrontService,
    HttpProbe,
    PoolMetrics,
    SchedulerConfig,
    SchedulerServer,
)
from interlock.scheduler.adapters.accelerator import DeviceWatch, NvmlDevices
from interlock.scheduler.adapters.parity_metrics import ParityMetrics
from interlock.scheduler.service.gating import PolicyGate
from interlock.scheduler.service.leading import Leading, StoredLeaders
from interlock.scheduler.service.pools import TOPIC, declared
from interlock.scheduler.service.recording import Journals, Recorder
from interlock.scheduler.service.rollout import PoolRollouts, TrialEnds
from interlock.scheduler.service.specs import without_killed
from interlock.scheduler.store import read_checkpoints
from interlock.scheduler.worker import ReadingWatch
from interlock.wiring.first_pools import POOL, embedded_pool, pool_service
from interlock.wiring.ground import Ground
from interlock.wiring.leaders import candidate, scheduler_socket

_log = structlog.get_logger("interlock.scheduler")


class SchedulerRole:
    """One of the schedulers of a store: leads the pools that it took, and takes over from who is late."""

    def __init__(self, ground: Ground, store: Store) -> None:
        self._ground = ground
        self._store = store
        self._own = embedded_pool(ground)
        config = ground.config.section(SchedulerConfig)
        clock, token = ground.clock, ground.internal_token
        self._leading = leading = Leading(StoredLeaders(store), candidate(ground), clock=clock, config=config)
        self._observed = observed = PoolMetrics(ground.metrics)
        observed.leading(leading.fences)
        if self._own is not None:
            ParityMetrics(ground.metrics, ground.directory.models)
        self._recorder = Recorder(store, clock, config, leading.fences)
        self._journals = Journals(ground.directory.root / "decisions", config.decision_log_bytes_max)
        self._front = FrontService(
            (),
            clock=clock,
            ids=ground.ids,
            config=config,
            observers=(observed, self._recorder),
            journals=self._journals,
        )
        front = self._front
        front.ask_before_granting(leading.may_grant)
        leading.on_change(self._take, self._let_go, front.look)
        observed.pools(
            lambda: [each for name in front.pool_names() if (each := front.statistics(name))], front.measuring
        )
        self._client = Client(ground.config.section(ClientLimits), clock)
        inspector = EngineInspector(self._client, timeout_s=config.probe_timeout_s, token=token)
        probe = HttpProbe(self._client, token=token, config=config)
        self._watch = EngineWatch(front, probe, clock=clock, config=config, inspector=inspector)
        self._reading = ReadingWatch(front, probe, clock=clock, config=config)
        self._devices = DeviceWatch(front, self._client, NvmlDevices(), clock=clock, config=config)
        self._server = SchedulerServer(
            front, token=token, leader=ground.name, clock=clock, ids=ground.ids, config=config
        )
        self._server.leading = leading
        self._flags = FlagBook(store, clock)
        self._feed = ground.feed(store)
        self._switches = ground.switches(store)
        self._switches.on_change(self._declare)
        self._specs = [self._own] if self._own else []
        self._ends = TrialEnds(store, rollouts_of(ground), clock, ground.platform_scope, leading.fences)

    async def run(self, link: RoleLink) -> None:
        """Serve until the role has to end."""
        from interlock.wiring.roles import until_drained  # noqa: PLC0415 - the roles name this one

        self._feed.subscribe(KILLS, self._switches.reload)
        for topic in (TOPIC, "flags"):
            self._feed.subscribe(topic, self._reload)
        # Edges hear of a new leader in the moment in which it takes its pools, and tell it at once what runs.
        await self._server.listen(scheduler_socket(self._ground, self._ground.index))
        if self._ground.listen is not None:
            await self._server.listen_tcp(*self._ground.listen)
        await self._begin()
        front = self._front
        watches = (self._watch.run, self._reading.run, self._devices.run)
        standing = (self._feed.run, self._switches.run, self._leading.run)
        trials = (front.trials.run, front.trials.look, lambda: front.trials.verdicts(self._ends.tell))
        loops = (front.run, *watches, *standing, *trials, lambda: self._recorder.run(front))
        await until_drained(link, *loops)
        await self._leading.leave()
        await self._server.drain(1.0)
        await self._client.close()
        self._journals.close()

    async def _begin(self) -> None:
        """Know the pools and lead what is free before anybody asks; without a store, what this machine led before."""
        try:
            await self._reload()
        except (InterlockError, OSError) as error:
            _log.warning("scheduler_begins_without_store", error=str(error))
            if self._own is not None and self._ground.index == 0:
                self._leading.stand_in(POOL)
                self._declare()
            return
        await self._leading.look()

    async def _take(self, pools: Sequence[str]) -> None:
        """Serve pools that became ours, with what their last leader learned."""
        self._observed.leader_changed("taken", pools)
        self._declare()
        try:
            async with self._store.ops("checkpoints") as tx:
                kept = await read_checkpoints(tx)
        except (InterlockError, OSError) as error:
            _log.warning("checkpoints_not_read", error=str(error))
            return
        self._front.recall({pool: kept[pool] for pool in pools if pool in kept})

    def _let_go(self, pool: str) -> None:
        """Serve a pool no more: another leads it, under a newer fence."""
        self._observed.leader_changed("lost", [pool])
        self._front.leave(pool)
        self._recorder.forget(pool)
        self._journals.end(pool)

    async def _reload(self) -> None:
        """Run the pools as they are declared now. The embedded engine is where this start put it."""
        await self._flags.reload()
        specs = {each.name: each for each in await declared(self._store, self._flags)}
        if self._own is not None and POOL in specs:
            drains = {each.url for each in specs[POOL].engines if each.is_draining}
            engines = tuple(replace(each, is_draining=each.url in drains) for each in self._own.engines)
            specs[POOL] = replace(specs[POOL], engines=engines)
        elif self._own is None:
            specs.pop(POOL, None)
        self._specs = list(specs.values())
        if self._own is not None and POOL not in specs:
            self._specs.append(self._own)
        self._leading.want([each.name for each in self._specs])
        self._declare()
        for name in set(self._front.pool_names()) - {each.name for each in self._specs}:
            self._front.withdraw(name)

    def _declare(self) -> None:
        """Run the pools as they are known, without the engines that a switch stops."""
        killed = {each.target for each in self._switches.kills if each.scope == KillScope.ENGINE}
        for spec in without_killed(self._specs, killed):
            if self._leading.leads(spec.name):
                self._front.declare(spec)


def rollouts_of(ground: Ground, gate: PolicyGate | None = None) -> PoolRollouts:
    """Return the use cases of versions and candidates; whoever only ends them asks no gate."""
    return PoolRollouts(pool_service(ground), ground.audit(), ground.clock, gate)
