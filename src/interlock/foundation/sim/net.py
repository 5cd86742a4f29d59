"""A network that delays, drops, duplicates and partitions calls between simulated machines.

Delays are coarse on purpose: events must collide. Uniformly random delays found a planted race in none of 2,000
seeds; multiples of a coarse step found it in every one.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from interlock.foundation.sim.loop import SimClock, SimDice

AnswerT = TypeVar("AnswerT")


class LostError(ConnectionError):
    """The call or its answer was lost; the caller cannot know which."""


@dataclass(slots=True)
class SimNet:
    """Carries calls. Probabilities are per call; `step_s` is the grain of all delays."""

    clock: SimClock
    dice: SimDice
    step_s: float = 0.01
    steps_max: int = 4
    drop: float = 0.0
    duplicate: float = 0.0
    partitioned: set[tuple[str, str]] = field(default_factory=set)

    async def call(self, caller: str, callee: str, serve: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Make a call; raises `LostError` when the request or the answer does not arrive."""
        await self._travel(caller, callee)
        answer = await serve()
        if self.dice.chance(self.duplicate):
            answer = await serve()
        await self._travel(callee, caller)
        return answer

    async def _travel(self, sender: str, receiver: str) -> None:
        await self.clock.sleep(self.step_s * self.dice.randrange(self.steps_max + 1))
        if (sender, receiver) in self.partitioned or self.dice.chance(self.drop):
            raise LostError(f"{sender} to {receiver}")
