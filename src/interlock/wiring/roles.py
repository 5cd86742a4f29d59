"""The roles: what one process runs, from its first statement to its last.

Each `_role` builds its parts, says that it is ready, waits for the wish to end, and ends in its own order.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from interlock.foundation.config import load
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.supervisor import DataDirectory, RoleLink, SupervisorConfig, load_options
from interlock.foundation.telemetry import configure_logs, merge
from interlock.scheduler import EngineConfig, EngineServer
from interlock.wiring.edge import abandoned_rings, edge_process, edge_socket
from interlock.wiring.engines import engine_shelf
from interlock.wiring.ground import Ground
from interlock.wiring.sections import SECTIONS

_DAY_S: Final = 86_400.0
_HOUR_S: Final = 3_600.0
_EDGE_GC: Final = (10_000, 20, 20)
Handover = Mapping[str, bytes]
Loop = Callable[[], Coroutine[Any, Any, Any]]


def serve(
    role: str,
    index: int,
    directory: DataDirectory,
    config_file: Path | None = None,
    listen: tuple[str, int] | None = None,
) -> int:
    """Run one role until it is told to drain; return its exit code. The settings are those of `up` unless named."""
    link = RoleLink.from_environment()
    options = load_options(directory)
    ground = Ground(role, index, directory, options, load(SECTIONS, config_file or options.config_file), listen)
    configure_logs(
        role,
        sys.stdout if link.is_supervised else sys.stderr,
        clock=ground.clock,
        redactor=ground.redactor,
        config=ground.telemetry(),
        on_suppressed=ground.counters.on_suppressed,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_supervised(ground, link))


async def _supervised(ground: Ground, link: RoleLink) -> int:
    roles = {"edge": _edge, "control": _background, "scheduler": _scheduler, "engine": _engine, "worker": _background}
    link.watch(ground.metrics.snapshot, merge=merge)
    async with link:
        try:
            await roles[ground.role](ground, link, await link.handover())
        except BrokenWorldError as error:
            structlog.get_logger("interlock").error("role_cannot_run", code=error.code, finding=str(error))
            return 1
    return 0


async def until_drained(link: RoleLink, *loops: Loop) -> None:
    """Run the loops from now on, say ready, and return when the role has to end; a loop that breaks ends it at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop()) for loop in loops]
        link.ready()
        await link.closed.wait()
        for task in tasks:
            task.cancel()


async def _edge(ground: Ground, link: RoleLink, handover: Handover) -> None:
    store = await ground.store(handover, connections_max=2)
    try:
        process = edge_process(ground, link, store)
        # A store that hangs is up for the supervisor, which sees its process; who asks it knows better.
        link.watch(ground.metrics.snapshot, process.memory.degraded, merge)
        await process.start()
        await process.listen(edge_socket(ground))
        # Keys, routes and code live as long as the process, and a request leaves no cycle behind: a look at all objects
        # is rare, and never at those that were there before the first request.
        gc.freeze()
        gc.set_threshold(*_EDGE_GC)
        # The drain finishes what runs; only then are the loops that ship and settle it cancelled.
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(process.run())]
            if ground.index == 0:
                running.append(group.create_task(abandoned_rings(ground, store).run()))
            link.ready()
            await link.closed.wait()
            await process.drain(ground.config.section(SupervisorConfig).edge_drain_s)
            for task in running:
                task.cancel()
        await process.close()
    finally:
        await store.close()


async def _background(ground: Ground, link: RoleLink, handover: Handover) -> None:
    # Control and workers load all systems; an edge that is back within the second never pays for that.
    from interlock.wiring.background import control_role, worker_role  # noqa: PLC0415

    await (control_role if ground.role == "control" else worker_role)(ground, link, handover)


async def _scheduler(ground: Ground, link: RoleLink, handover: Handover) -> None:
    from interlock.wiring.scheduling import SchedulerRole  # noqa: PLC0415 - an edge is back the sooner without it

    store = await ground.store(handover, connections_max=2)
    try:
        await SchedulerRole(ground, store).run(link)
    finally:
        await store.close()


async def _engine(ground: Ground, link: RoleLink, _handover: Handover) -> None:
    config = ground.config.section(EngineConfig)
    model = await engine_shelf(ground).serving(config.backend)
    server = EngineServer(model, token=ground.internal_token, clock=ground.clock, ids=ground.ids, config=config)
    await server.start(ground.directory.socket("engine"))
    await until_drained(link)
    await server.drain(5.0)
    model.close()
