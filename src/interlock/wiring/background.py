"""The roles that load every system: control and the worker, from their first statement to their last.

`roles.py` imports this only for them.
"""

from collections.abc import Mapping
from typing import Final

from interlock.foundation.leases.ticks import Tick, tick_worker
from interlock.foundation.secrets import MasterKeyFile, Rotator, SecretsConfig
from interlock.foundation.store import Store, ensure_partitions
from interlock.foundation.supervisor import RoleLink
from interlock.foundation.telemetry import Retention
from interlock.scheduler import SchedulerConfig
from interlock.scheduler.service.recording import days_kept
from interlock.wiring.control import checkpointer_of, control_parts, serve_app, sessions_of
from interlock.wiring.gateway import forget_arms, lent_keys, usage_days
from interlock.wiring.ground import Ground, urls_from
from interlock.wiring.metrics import watch_common
from interlock.wiring.roles import until_drained
from interlock.wiring.rollouts import forget_rollout_looks
from interlock.wiring.systems import Shared, system_loops

_DAY_S: Final = 86_400.0
_HOUR_S: Final = 3_600.0
Handover = Mapping[str, bytes]


async def control_role(ground: Ground, link: RoleLink, handover: Handover) -> None:
    """Serve the administrative API and the console until the role has to end."""
    store = await ground.store(handover, connections_max=10)
    try:
        parts = control_parts(ground, link, store)
        await parts.feed.run_once()
        watch_common(ground.metrics, store, parts.feed)
        await serve_app(parts.app, ground.directory.socket("control"), link, parts.loops)
        await parts.checkpointer.checkpoint()
    finally:
        await store.close()


async def worker_role(ground: Ground, link: RoleLink, handover: Handover) -> None:
    """Run all leased background work until the role has to end."""
    store: Store = await ground.store(handover, connections_max=10)
    urls = await urls_from(handover)
    try:
        directory, authenticator = ground.keys(store)
        checkpointer = checkpointer_of(ground, store)
        sessions = sessions_of(ground, store, directory, authenticator)
        retention = Retention(urls, ground.clock, ground.telemetry(), kept_days(ground))
        rotator = Rotator(
            store,
            MasterKeyFile(ground.directory.master_key),
            ground.clock,
            ground.dice,
            ground.config.section(SecretsConfig),
        )
        feed, switches = ground.feed(store), ground.switches(store)
        shared = Shared.of(ground, store, switches)
        loops, system_ticks = system_loops(shared)
        rotator.told_by(shared.lookout)
        ticks = [
            Tick("store partitions", _HOUR_S, lambda: ensure_partitions(urls)),
            Tick("telemetry retention", _HOUR_S, retention.run_once),
            Tick("audit checkpoints", 60.0, checkpointer.run_once),
            Tick("identity sessions", _DAY_S, sessions.forget),
            Tick("evals rollout looks", _HOUR_S, lambda: forget_rollout_looks(ground, store)),
            Tick("gateway arm counts", _HOUR_S, lambda: forget_arms(ground, store)),
            Tick("identity lent keys", _HOUR_S, lent_keys(ground, store).forget),
            *system_ticks,
        ]
        leased = await tick_worker(store, ground.clock, ground.ids, ground.name, ticks, shared.lookout)
        feed.subscribe("kills", switches.reload)
        watch_common(ground.metrics, store, None)
        await until_drained(link, leased.run, rotator.run, feed.run, switches.run, *loops)
    finally:
        await store.close()


def kept_days(ground: Ground) -> dict[str, int]:
    """Return the tables of the systems whose days leave as partitions, and how many of them stay."""
    return {**usage_days(ground), **days_kept(ground.config.section(SchedulerConfig))}
