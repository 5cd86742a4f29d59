"""The scheduler put together: its role, and the pools that control serves.

Holds no logic; the store's pools are read again whenever the feed says that they changed.
"""

from dataclasses import replace

from interlock.console import Console
from interlock.console.pools import PoolPages, pool_pages
from interlock.foundation.control.route import Route
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
from interlock.scheduler.adapters.pool_client import PoolClient
from interlock.scheduler.routes.admin import PoolHandlers, pool_routes
from interlock.scheduler.service.pools import TOPIC, declared
from interlock.scheduler.service.reading import Decisions
from interlock.scheduler.service.recording import Journals, Recorder
from interlock.scheduler.service.specs import without_killed
from interlock.scheduler.store import read_checkpoints
from interlock.scheduler.worker import ReadingWatch
from interlock.wiring.first_pools import POOL, embedded_pool, pool_service
from interlock.wiring.ground import Ground


class SchedulerRole:
    """One leader of all pools on this machine."""

    def __init__(self, ground: Ground, store: Store) -> None:
        self._ground = ground
        self._store = store
        self._own = embedded_pool(ground)
        config = ground.config.section(SchedulerConfig)
        clock, token = ground.clock, ground.internal_token
        observed, self._recorder = PoolMetrics(ground.metrics), Recorder(store, clock, config)
        self._journals = Journals(ground.directory.root / "decisions", config.decision_log_bytes_max)
        self._front = FrontService(
            [self._own] if self._own else [],
            clock=clock,
            ids=ground.ids,
            config=config,
            observers=(observed, self._recorder),
            journals=self._journals,
        )
        front = self._front
        observed.pools(
            lambda: [each for name in front.pool_names() if (each := front.statistics(name))], front.measuring
        )
        self._client = Client(ground.config.section(ClientLimits), clock)
        inspector = EngineInspector(self._client, timeout_s=config.probe_timeout_s, token=token)
        probe = HttpProbe(self._client, token=token, config=config)
        self._watch = EngineWatch(front, probe, clock=clock, config=config, inspector=inspector)
        self._reading = ReadingWatch(front, probe, clock=clock, config=config)
        self._server = SchedulerServer(
            front, token=token, leader=ground.name, clock=clock, ids=ground.ids, config=config
        )
        self._flags = FlagBook(store, clock)
        self._feed = ground.feed(store)
        self._switches = ground.switches(store)
        self._switches.on_change(self._declare)
        self._specs = [self._own] if self._own else []
        self._is_recalled = False

    async def run(self, link: RoleLink) -> None:
        """Serve until the role has to end."""
        from interlock.wiring.roles import until_drained  # noqa: PLC0415 - the roles name this one

        self._feed.subscribe(KILLS, self._switches.reload)
        for topic in (TOPIC, "flags"):
            self._feed.subscribe(topic, self._reload)
        await self._server.listen(self._ground.directory.socket("scheduler"))
        front = self._front
        watches = (self._watch.run, self._reading.run, self._feed.run, self._switches.run)
        loops = (front.run, *watches, lambda: self._recorder.run(front))
        await until_drained(link, *loops)
        await self._server.drain(1.0)
        await self._client.close()
        self._journals.close()

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
        self._declare()
        for name in set(self._front.pool_names()) - set(specs) - ({POOL} if self._own else set()):
            self._front.withdraw(name)
        if not self._is_recalled:
            async with self._store.ops("checkpoints") as tx:
                self._front.recall(await read_checkpoints(tx))
            self._is_recalled = True

    def _declare(self) -> None:
        """Run the pools as they are known, without the engines that a switch stops."""
        killed = {each.target for each in self._switches.kills if each.scope == KillScope.ENGINE}
        for spec in without_killed(self._specs, killed):
            self._front.declare(spec)


def pool_live(ground: Ground) -> PoolClient:
    """Return what reads the figures of the running scheduler."""
    client = Client(ground.config.section(ClientLimits), ground.clock)
    timeout_s = ground.config.section(SchedulerConfig).probe_timeout_s
    return PoolClient(client, ground.directory.socket("scheduler"), ground.internal_token, timeout_s)


def scheduling_routes(ground: Ground, store: Store, page: Console) -> list[Route]:
    """Return the routes and pages of pools behind control."""
    client = Client(ground.config.section(ClientLimits), ground.clock)
    timeout_s = ground.config.section(SchedulerConfig).probe_timeout_s
    inspector = EngineInspector(client, timeout_s=timeout_s, token=ground.internal_token)
    pools, live = pool_service(ground), pool_live(ground)
    pages = PoolPages(page.frame, page.lookup, pools, live, Decisions(store))
    page.samples.update(pages.samplers)
    return [*pool_routes(PoolHandlers(page.identity, pools, live, inspector, ground.clock)), *pool_pages(pages)]
