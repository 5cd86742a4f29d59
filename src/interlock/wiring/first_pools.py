"""The pools that a start itself declares: that of our own engine, and one around a server that was named by its URL.

Serves none of them; `scheduling.py` does.
"""

from interlock.foundation.store import Store
from interlock.foundation.wire import Client, ClientLimits
from interlock.scheduler import (
    ACCELERATOR_OBJECTIVES,
    EMBEDDED_OBJECTIVES,
    EngineConfig,
    EngineInspector,
    EngineSpec,
    PoolSpec,
    SchedulerConfig,
    find_model,
)
from interlock.scheduler.domain.engines import Dialect
from interlock.scheduler.domain.profiles import EMBEDDED_CPU
from interlock.scheduler.service.pools import NAME as POOL_NAME
from interlock.scheduler.service.pools import EngineWanted, PoolService, engine_wanted
from interlock.wiring.ground import Ground

__all__ = [
    "POOL", "POOL_NAME", "embedded_pool", "pool_service", "register_embedded_pool", "register_pool_of",
]  # fmt: skip
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


async def register_pool_of(ground: Ground, store: Store, name: str, url: str, model: str) -> None:
    """Declare a pool of the server at a URL, with what its pages tell; what operators set of the pool since stays."""
    config = ground.config.section(SchedulerConfig)
    client = Client(ground.config.section(ClientLimits), ground.clock)
    try:
        report = await EngineInspector(client, timeout_s=config.probe_timeout_s).inspect(url, None)
    finally:
        await client.close()
    wanted, pools = engine_wanted(report, model), pool_service(ground)
    async with store.transaction(ground.platform_scope()) as tx:
        await pools.add(tx, name, ACCELERATOR_OBJECTIVES)
        if wanted.url not in {each["url"] for each in (await pools.get(tx, name)).engines}:
            await pools.add_engine(tx, name, wanted)
