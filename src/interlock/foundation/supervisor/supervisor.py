"""Boots all roles of one machine in order, keeps them alive, tells them how the platform is, drains them.

Knows no system: the commands, the preparation of the store and the merging of metrics come from `wiring`.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from interlock.foundation import paths
from interlock.foundation.clock import Clock, until_tick
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.paths import DataDirectory
from interlock.foundation.supervisor import listening
from interlock.foundation.supervisor.children import Commands, RoleSpec, Spawner
from interlock.foundation.supervisor.config import SupervisorConfig
from interlock.foundation.supervisor.counts import RoleCounts, snapshot_of
from interlock.foundation.supervisor.keeper import RoleKeeper, RoleState
from interlock.foundation.supervisor.leftovers import end_leftovers
from interlock.foundation.supervisor.logs import LogStream
from interlock.foundation.supervisor.messages import PlatformState, Reason
from interlock.foundation.supervisor.options import UpOptions, save_options
from interlock.foundation.supervisor.process import Surroundings
from interlock.foundation.supervisor.storekeeper import StoreKeeper, StoreService
from interlock.foundation.telemetry import merge

START_ORDER: Final = ("control", "scheduler", "engine", "edge", "worker")
DRAIN_ORDER: Final = ("edge", "worker", "scheduler", "engine", "control")
_MAY_RESTART: Final = "control"
_READY_PROBE_S: Final = 0.05
_STOP_AT_ONCE_S: Final = 5.0

# Gets what the store's start returned; gives the private values of each role by its name.
Preparation = Callable[[Any], Awaitable[Mapping[str, Mapping[str, bytes]]]]


@dataclass(frozen=True, slots=True)
class Platform:
    """What to run. `port` None opens no socket; `merge` renders the snapshots of all.

    `options` are written to the data directory for the roles, once the directory is ours. `greet` gives the
    lines that `up` prints after `ready URL`. `spawner` starts the processes.
    """

    specs: Sequence[RoleSpec]
    store: StoreService
    prepare: Preparation
    host: str = "127.0.0.1"
    port: int | None = None
    options: UpOptions | None = None
    greet: Callable[[str, str | None], Awaitable[Sequence[str]]] | None = None
    merge: Callable[[Sequence[bytes]], str] = merge
    spawner: Spawner = field(default_factory=Commands)


class Supervisor:
    """One `interlock up`. `run` returns the exit code; `on_ready` is awaited once with the URL, if there is one."""

    def __init__(
        self,
        platform: Platform,
        directory: DataDirectory,
        config: SupervisorConfig,
        clock: Clock,
        log: LogStream,
    ) -> None:
        self.on_ready: Callable[[str | None], Awaitable[None]] | None = None
        self.url: str | None = None
        self._platform = platform
        self._directory = directory
        self._config = config
        self._clock = clock
        self._log = log
        self._listener: socket.socket | None = None
        self._state = PlatformState()
        self._is_booted = False
        self._stopping = asyncio.Event()
        self._signals = 0
        self._is_broken = False
        self._around = Surroundings(
            directory=directory,
            clock=clock,
            log=log,
            metrics=self.metrics,
            listener_fd=lambda: None if self._listener is None else self._listener.fileno(),
            line_bytes_max=config.log_line_bytes_max,
            restart=self._restart,
            spawner=platform.spawner,
        )
        self._keepers = [RoleKeeper(spec, self._around, config, self._changed) for spec in platform.specs]
        self._store = StoreKeeper(platform.store, directory, clock, log, self._changed)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def state(self) -> PlatformState:
        """What `/readyz` answers."""
        return self._state

    @property
    def directory(self) -> DataDirectory:
        """The data directory of this platform."""
        return self._directory

    def statistics(self) -> RoleCounts:
        """Return restarts and state of every process, the store included."""
        restarts = {keeper.spec.tag: keeper.restarts for keeper in self._keepers}
        up = {keeper.spec.tag: keeper.state is RoleState.UP for keeper in self._keepers}
        return RoleCounts({**restarts, "store-0": self._store.restarts}, {**up, "store-0": self._store.is_up})

    async def metrics(self) -> str:
        """Return the merged metrics of all processes, each asked for its own now."""
        processes = [keeper.process for keeper in self._keepers if keeper.process is not None]
        snapshots = await asyncio.gather(*(process.snapshot() for process in processes))
        return self._platform.merge([*(each for each in snapshots if each), snapshot_of(self.statistics())])

    async def greet(self, key: str | None = None) -> Sequence[str]:
        """Return what there is to tell a person, the owner of a key, once the platform is ready."""
        if self._platform.greet is None or self.url is None:
            return ()
        return await self._platform.greet(self.url, key)

    def stop(self) -> None:
        """Drain; called again, end at once."""
        self._signals += 1
        if self._signals == 1:
            self._log.event("draining")
            self._stopping.set()
            self._changed()
            return
        for keeper in self._keepers:
            if keeper.process is not None:
                keeper.process.kill()

    async def run(self) -> int:
        """Boot, serve until a signal, drain. Raises `BrokenWorldError` when the platform cannot start."""
        held = self._take_directory()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        try:
            await end_leftovers(self._directory, self._clock, self._config.leftover_wait_s, self._log)
            if self._platform.port is not None:
                backlog = self._config.listen_backlog
                self._listener = listening.bind(self._platform.host, self._platform.port, backlog)
                self.url = listening.url_of(self._listener)
            await self._serve()
        finally:
            await self._drain()
            os.close(held)
        return 1 if self._is_broken or self._signals > 1 else 0

    async def _serve(self) -> None:
        boot = asyncio.ensure_future(self._boot())
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({boot, stop}, return_when=asyncio.FIRST_COMPLETED)
            if boot.done():
                boot.result()
            await stop
        finally:
            for task in (boot, stop):
                task.cancel()
            await asyncio.gather(boot, stop, return_exceptions=True)

    async def _boot(self) -> None:
        self._keep("state", self._push_state())
        for keeper in self._keepers:
            self._keep(keeper.spec.tag, keeper.run())
        urls = await self._store.start()
        handover = await self._platform.prepare(urls)
        self._keep("store", self._store.keep())
        for role in _ordered(START_ORDER, self._keepers):
            group = [keeper for keeper in self._keepers if keeper.spec.name == role]
            for keeper in group:
                keeper.release(handover.get(role, {}))
            await asyncio.gather(*(keeper.settled.wait() for keeper in group))
        self._is_booted = True
        self._changed()
        await self._await_ready()
        if self.url is not None:
            paths.write_private(self._directory.url_file, f"{self.url}\n".encode())
        self._log.event("platform_ready", url=self.url)
        if self.on_ready is not None:
            await self.on_ready(self.url)

    async def _await_ready(self) -> None:
        """Return when the platform is ready in its own eyes and, with a port, in those of a caller."""
        while not self._state.ready or (
            self._listener is not None and await listening.status_of(self._listener, "/readyz") != 200
        ):
            await self._clock.sleep(_READY_PROBE_S)

    async def _drain(self) -> None:
        """End everything in order; whatever happened before, no child and no store of ours is left."""
        self._is_booted = False
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for role in _ordered(DRAIN_ORDER, self._keepers):
            group = [keeper for keeper in self._keepers if keeper.spec.name == role]
            await asyncio.gather(*(keeper.end(at_once=self._signals > 1) for keeper in group))
            self._log.event("role_drained", role=role)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        try:
            async with asyncio.timeout(_STOP_AT_ONCE_S if self._signals > 1 else None):
                await self._store.stop()
        except TimeoutError:
            self._log.event("store_left_running", level="warning")
        self._directory.clean_run()
        self._log.event("drained")

    def _take_directory(self) -> int:
        self._directory.prepare()
        held = paths.lock(self._directory.lock_file)
        if held is None:
            pid = paths.read_pid(self._directory.pid_file("supervisor"))
            raise BrokenWorldError(
                "data_directory_in_use",
                f"{self._directory.root} is in use by the supervisor with pid {pid}",
                f"run `interlock down --data {self._directory.root}` first or choose another --data",
            )
        self._directory.write_pid("supervisor", 0, os.getpid())
        if self._platform.options is not None:
            save_options(self._platform.options)
        return held

    def _keep(self, name: str, work: Any) -> None:
        """Own a long-lived task; one that breaks ends the platform, since nobody would notice otherwise."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        self._is_broken = True
        self._log.event("supervisor_broke", level="error", task=task.get_name(), detail=repr(task.exception()))
        if not self._stopping.is_set():
            self.stop()

    def _restart(self, asker: RoleSpec, tag: str) -> None:
        """Begin to drain a process that is up; only control may ask, since it has asked who may."""
        keeper = next((each for each in self._keepers if each.spec.tag == tag), None)
        if asker.name != _MAY_RESTART or keeper is None or keeper.state is not RoleState.UP or not self._is_booted:
            self._log.event("restart_refused", level="warning", role=asker.tag, process=tag)
            return
        self._log.event("restart_asked", role=asker.tag, process=tag)
        self._keep(f"restart {tag}", keeper.restart())

    async def _push_state(self) -> None:
        while True:
            await self._clock.sleep(until_tick(self._clock, self._config.state_push_s))
            self._changed()

    def _changed(self) -> None:
        """Recompute the state and tell every role."""
        self._state = self._observe()
        for keeper in self._keepers:
            if keeper.process is not None:
                keeper.process.push(self._state)

    def _observe(self) -> PlatformState:
        reasons: list[Reason] = []
        degraded = {name for keeper in self._keepers if keeper.process for name in keeper.process.degraded}
        if not self._store.is_up:
            degraded.add("store")
        if self._stopping.is_set():
            reasons.append(Reason("supervisor", "draining"))
        elif not self._is_booted:
            reasons.append(Reason("supervisor", "starting"))
        for role in {keeper.spec.name: None for keeper in self._keepers}:
            group = [keeper for keeper in self._keepers if keeper.spec.name == role]
            away = [keeper for keeper in group if keeper.state is not RoleState.UP]
            if len(away) == len(group):
                reasons += [Reason(keeper.spec.tag, f"{keeper.state}: {keeper.detail}") for keeper in away]
            elif away:
                degraded.add(role)
        return PlatformState(not reasons, tuple(sorted(degraded)), tuple(reasons))


def serve_command(role: str, index: int, directory: DataDirectory) -> tuple[str, ...]:
    """Return the command line of a role; `-P` keeps a folder named `interlock` in the current directory out."""
    return (
        sys.executable,
        "-P",
        "-m",
        "interlock",
        "serve",
        role,
        "--data",
        str(directory.root),
        "--index",
        str(index),
    )


def _ordered(order: Sequence[str], keepers: Iterable[RoleKeeper]) -> list[str]:
    present = list(dict.fromkeys(keeper.spec.name for keeper in keepers))
    return sorted(present, key=lambda name: order.index(name) if name in order else len(order))
