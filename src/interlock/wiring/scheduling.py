"""The scheduler put together: its role, the pools that control serves, and the embedded pool at the first start.

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
    EMBEDDED_OBJECTIVES,
    EngineConfig,
    EngineInspector,
    EngineSpec,
    EngineWatch,
    FrontService,
    HttpProbe,
    PoolMetrics,
    PoolSpec,
    SchedulerConfig,
    SchedulerServer,
    find_model,
)
from interlock.scheduler.adapters.pool_client import PoolClient
from interlock.scheduler.domain.engines import Dialect
from interlock.scheduler.domain.profiles import EMBEDDED_CPU
from interlock.scheduler.routes.admin import PoolHandlers, pool_routes
from interlock.scheduler.service.pools import TOPIC, EngineWanted, PoolService, declared
from interlock.scheduler.service.reading import Decisions
from interlock.scheduler.service.recording import Journals, Recorder
from interlock.scheduler.service.specs import without_killed
from interlock.scheduler.store import read_checkpoints
from interlock.scheduler.worker import ReadingWatch
from interlock.wiring.ground import Ground

POOL = "embedded"


def embedded_pool(ground: Ground) -> PoolSpec | None:
    """Return the pool of our own engine, None where the platform runs none."""
    if ground.options.engine != "embedded":
        return None
    config = ground.config.section(EngineConfig)
    engine = EngineSpec(
        f"unix:{ground.directory.socket('engine')}",
        find_model(config.model_path).name,
        config.slots,
        config.context_tokens,
        kv_tokens=config.slots * config.context_tokens,
        prefill_tps=EMBEDDED_CPU.prefill_tps,
        dialect=Dialect.EMBEDDED,
    )
    return PoolSpec(POOL, EMBEDDED_OBJECTIVES, (engine,))


def pool_service(ground: Ground) -> PoolService:
    """Return the use cases of pools."""
    return PoolService(ground.audit(), ground.clock, ground.ids)


async def register_embedded_pool(ground: Ground, store: Store) -> None:
    """Declare the embedded pool, as operators see it; what they set since stays."""
    spec = embedded_pool(ground)
    if spec is None:
        return
    [engine] = spec.engines
    pools = pool_service(ground)
    wanted = EngineWanted(
        engine.url, "embedded", engine.model, engine.slots, engine.context_tokens, engine.kv_tokens,
        engine.prefill_tps, None, 0.0,
    )  # fmt: skip
    async with store.transaction(ground.platform_scope()) as tx:
        await pools.add(tx, POOL, EMBEDDED_OBJECTIVES)
        known = (await pools.get(tx, POOL)).engines
        figures = ("url", "model", "slots", "context_tokens")
        if [tuple(each[name] for name in figures) for each in known] != [
            (engine.url, engine.model, engine.slots, engine.context_tokens)
        ]:
            for each in known:
                await pools.remove_engine(tx, POOL, each["engine_id"])
            await pools.add_engine(tx, POOL, wanted)


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
