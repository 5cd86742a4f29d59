"""Crashes and pauses simulated processes at moments that the seed chooses.

Does not know what a process does; a crash is an error that nothing catches, a pause is time passing.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from interlock.foundation.sim.loop import SimClock, SimDice

# Less than this is no time at all on a clock of floats.
GRAIN_S: Final = 1e-6


class CrashedError(BaseException):
    """The process is dead. No handler of errors catches it, so nothing tidies up after a crash."""


@dataclass(slots=True)
class Nemesis:
    """Chances of harm at each crash point: `crash` and `pause` are probabilities, `pause_s` lengths to choose from."""

    clock: SimClock
    dice: SimDice
    crash: float = 0.0
    pause: float = 0.0
    pause_s: tuple[float, ...] = (0.05, 0.5, 5.0)
    crashes: int = field(default=0)
    is_over: bool = field(default=False)

    def calm(self) -> None:
        """Do no further harm, so that a scenario can end in a world that works."""
        self.crash = self.pause = 0.0

    def stop(self) -> None:
        """Start no process again; a cancellation that meets a crash is swallowed by the task group of the dead."""
        self.is_over = True

    async def keep_alive(self, boot: Callable[["SimProcess"], Coroutine[Any, Any, None]], restart_s: float) -> None:
        """Run a process, started again each time that it crashes."""
        while not self.is_over:
            try:
                await boot(SimProcess(self))
            except BaseExceptionGroup as group:
                if group.split(CrashedError)[1] is not None:
                    raise
            except CrashedError:
                pass
            else:
                return
            await self.clock.sleep(restart_s)


@dataclass(slots=True)
class SimProcess:
    """One life of a process. A pause stops all of its tasks, as SIGSTOP does; once dead, every later point raises."""

    nemesis: Nemesis
    is_dead: bool = False
    paused_until: float = 0.0

    async def point(self) -> None:
        """A place where the process can stall, or end."""
        nemesis = self.nemesis
        if not self.is_dead and nemesis.dice.chance(nemesis.pause):
            self.paused_until = nemesis.clock.monotonic() + nemesis.dice.pick(*nemesis.pause_s)
        while (left_s := self.paused_until - nemesis.clock.monotonic()) > GRAIN_S:
            await nemesis.clock.sleep(left_s)
        if not self.is_dead and nemesis.dice.chance(nemesis.crash):
            self.is_dead = True
            nemesis.crashes += 1
        if self.is_dead:
            raise CrashedError
