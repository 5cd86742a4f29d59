"""Keeps one role process alive: starts it, waits for its word, notices silence and death, starts it again.

Does not know the other roles; order and drain are `supervisor.py`.
"""

import asyncio
from collections.abc import Callable, Mapping
from enum import StrEnum

from interlock.foundation.clock import until_tick
from interlock.foundation.supervisor.children import RoleSpec
from interlock.foundation.supervisor.config import SupervisorConfig
from interlock.foundation.supervisor.process import RoleProcess, Surroundings
from interlock.foundation.supervisor.restarts import RestartRule


class RoleState(StrEnum):
    """`starting` until its word comes, `waiting` between a death and the next start, `failed` after too many."""

    STARTING = "starting"
    UP = "up"
    WAITING = "waiting"
    FAILED = "failed"
    ENDED = "ended"


class RoleKeeper:
    """One process of one role. `settled` is set once it was up, or is known not to come up."""

    def __init__(
        self, spec: RoleSpec, around: Surroundings, config: SupervisorConfig, on_change: Callable[[], None]
    ) -> None:
        self.spec = spec
        self.state = RoleState.STARTING
        self.detail = "starting"
        self.settled = asyncio.Event()
        self.process: RoleProcess | None = None
        self.restarts = 0
        self._around = around
        self._config = config
        self._on_change = on_change
        self._rule = RestartRule(config)
        self._ending = asyncio.Event()
        self._is_restarting = False
        self._released = asyncio.Event()
        self._handover: Mapping[str, bytes] = {}

    def release(self, handover: Mapping[str, bytes]) -> None:
        """Let the process begin: until it has its private values it may load its code, but not serve."""
        self._handover = handover
        self._released.set()

    async def run(self) -> None:
        """Keep the process until `end`."""
        clock = self._around.clock
        while not self._ending.is_set():
            up_s = await self._live()
            if self._ending.is_set():
                break
            if self._is_restarting:
                # It was asked for, so it is no death that counts against the role.
                self._is_restarting = False
                self._change(RoleState.WAITING, "restarting")
                continue
            again = self._rule.died(clock.monotonic(), up_s)
            self.restarts += 1
            self._around.log.event(
                "role_died", level="error", role=self.spec.tag, detail=self.detail, restart_in_s=again.delay_s
            )
            self._change(RoleState.FAILED if again.is_failed else RoleState.WAITING, self.detail)
            if again.is_failed:
                self.settled.set()
            await self._pause(again.delay_s)
        self._change(RoleState.ENDED, "ended")
        self.settled.set()

    async def end(self, *, at_once: bool = False) -> None:
        """Drain the process within its bound, then kill it; it is not started again."""
        self._ending.set()
        process = self.process
        if process is None:
            return
        if not at_once and self._released.is_set():
            await self._drain(process)
        process.kill()
        await process.exited.wait()

    async def restart(self) -> None:
        """Drain the process as `end` does; `run` starts the next one at once."""
        process = self.process
        if process is not None and not self._is_restarting:
            self._is_restarting = True
            await self._drain(process)

    async def _drain(self, process: RoleProcess) -> None:
        process.drain()
        if await _within(self.spec.drain_s, process.exited):
            return
        self._around.log.event("drain_overrun", level="warning", role=self.spec.tag, bound_s=self.spec.drain_s)
        await process.dump_and_kill("did not drain in time", self._config.dump_wait_s)

    async def _live(self) -> float:
        """Start the process, stay until it is dead, and return the seconds that it served."""
        if self.state is not RoleState.FAILED:
            self._change(RoleState.STARTING, "starting")
        clock, spec = self._around.clock, self.spec
        try:
            self.process = process = await RoleProcess.spawn(spec, self._around)
        except OSError as error:
            self.detail = f"cannot start: {error}"
            return 0.0
        await _first_of(self._released, process.exited, self._ending)
        if self._ending.is_set() and not self._released.is_set():
            process.kill()
        started_s = clock.monotonic()
        process.hand_over(self._handover)
        if not await self._becomes_ready(process):
            return 0.0
        up_since_s = clock.monotonic()
        self._around.log.event(
            "role_up", role=spec.tag, pid=process.pid, after_ms=round((up_since_s - started_s) * 1e3)
        )
        self._change(RoleState.UP, "up")
        self.settled.set()
        await self._watch_heartbeat(process)
        self.detail = self._obituary(process)
        self.process = None
        return clock.monotonic() - up_since_s

    async def _becomes_ready(self, process: RoleProcess) -> bool:
        await _first_of(process.ready, process.exited, within_s=self.spec.ready_timeout_s)
        if process.ready.is_set() and not process.exited.is_set():
            return True
        if not process.exited.is_set():
            because = f"not ready within {self.spec.ready_timeout_s:g} s"
            await process.dump_and_kill(because, self._config.dump_wait_s)
            await process.exited.wait()
        self.detail = self._obituary(process)
        self.process = None
        return False

    async def _watch_heartbeat(self, process: RoleProcess) -> None:
        """Return when the process is dead; kill it after a silence.

        A supervisor that was itself stopped for a while must not take its own pause for its children's silence.
        """
        clock, bound_s = self._around.clock, self._config.heartbeat_timeout_s
        step_s = min(1.0, bound_s / 4)
        looked_s = clock.monotonic()
        while not await _within(rest_s := until_tick(clock, step_s), process.exited):
            now_s = clock.monotonic()
            if now_s - looked_s > rest_s + step_s:
                process.heard_s = now_s
            looked_s = now_s
            if now_s - process.heard_s > bound_s and process.ended_because is None and not self._is_leaving:
                await process.dump_and_kill(f"no heartbeat for {bound_s:g} s", self._config.dump_wait_s)

    @property
    def _is_leaving(self) -> bool:
        """Whether the process was told to drain, which has a bound of its own."""
        return self._ending.is_set() or self._is_restarting

    def _obituary(self, process: RoleProcess) -> str:
        code = process.returncode
        ending = "unseen" if code is None else f"signal {-code}" if code < 0 else f"exit {code}"
        return f"{process.ended_because}, {ending}" if process.ended_because else ending

    async def _pause(self, seconds: float) -> None:
        await _within(seconds, self._ending)

    def _change(self, state: RoleState, detail: str) -> None:
        self.state, self.detail = state, detail
        self._on_change()


async def _first_of(*events: asyncio.Event, within_s: float | None = None) -> None:
    """Return when one of them is set, or after the time."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Return whether the event came in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
