"""Crashes and pauses simulated processes at moments that the seed chooses.

Does not know what a process does; a crash is a cancellation that the process may not catch, a pause is time passing.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from interlock.foundation.sim.loop import SimClock, SimDice


class CrashedError(BaseException):
    """Raised inside a crashed process at its next crash point; derived so that no handler of errors catches it."""


@dataclass(slots=True)
class Nemesis:
    """Decides at each crash point whether the process dies or stalls there.

    `crash` and `pause` are probabilities per point, `pause_s` are the lengths to choose from. Calling `calm()` stops
    it, so that a scenario can end in a world that works again.
    """

    clock: SimClock
    dice: SimDice
    crash: float = 0.0
    pause: float = 0.0
    pause_s: tuple[float, ...] = (0.05, 0.5, 5.0)
    crashes: int = field(default=0)

    async def point(self) -> None:
        """A place where the process can stop for a while, or for ever."""
        if self.dice.chance(self.pause):
            await self.clock.sleep(self.dice.pick(*self.pause_s))
        if self.dice.chance(self.crash):
            self.crashes += 1
            raise CrashedError

    def calm(self) -> None:
        """Do no further harm."""
        self.crash = self.pause = 0.0

    async def keep_alive(self, boot: Callable[[], Coroutine[Any, Any, None]], restart_s: float = 0.1) -> None:
        """Run a process for ever, started again each time that it crashes."""
        while True:
            try:
                await boot()
            except CrashedError:
                await self.clock.sleep(restart_s)
            except asyncio.CancelledError:
                raise
            else:
                return
