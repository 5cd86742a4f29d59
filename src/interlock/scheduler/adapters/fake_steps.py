"""Continuous batching in real time by a profile: what a fake engine takes for a token, without a model.

Generates nothing; it says when the next token of a sequence would be there.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final

from interlock.foundation.clock import Clock
from interlock.scheduler.domain.profiles import StepProfile

BUDGET: Final = 512
_CHUNK_MIN: Final = 32


@dataclass(slots=True, eq=False)
class _Sequence:
    prompt_left: int
    output_left: int
    prompt: int
    made: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    generated: int = 0

    @property
    def held(self) -> int:
        return self.prompt - self.prompt_left + self.generated


class StepLoop:
    """One engine: arrivals wait for one of `slots`, prompts are read in chunks beside the decoding of the others."""

    def __init__(
        self, profile: StepProfile, *, slots: int, speed: float, clock: Clock, budget_tokens: int = BUDGET
    ) -> None:
        self.profile = profile
        self.slots = slots
        self._budget_tokens = budget_tokens
        self.steps = 0
        self._speed = speed
        self._clock = clock
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._loop: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._waiting)

    def held_by_slot(self) -> list[int]:
        """Return the tokens of each sequence in the batch."""
        return [each.held for each in self._running]

    async def tokens(self, prompt_tokens: int, output_tokens: int) -> AsyncGenerator[int]:
        """Yield the number of each token when its step is over; closing the iterator frees the slot at once."""
        sequence = _Sequence(prompt_tokens, output_tokens, prompt_tokens)
        self._waiting.append(sequence)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run())
        try:
            for number in range(output_tokens):
                await sequence.made.get()
                yield number
        finally:
            if sequence in self._running:
                self._running.remove(sequence)
            elif sequence in self._waiting:
                self._waiting.remove(sequence)

    async def close(self) -> None:
        """End the loop in the middle of a step."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])

    async def _run(self) -> None:
        while self._waiting or self._running:
            while self._waiting and len(self._running) < self.slots:
                self._running.append(self._waiting.popleft())
            batch = list(self._running)
            used, prefilled = self._prefill(batch)
            decoding = [each for each in batch if each.prompt_left == 0 and each not in prefilled]
            context = sum(each.held for each in batch)
            await self._clock.sleep(self.profile.step_us(used, len(decoding), context) / 1e6 / self._speed)
            self.steps += 1
            for each in (*decoding, *prefilled):
                each.generated += 1
                each.output_left -= 1
                each.made.put_nowait(None)
                if each.output_left == 0 and each in self._running:
                    self._running.remove(each)

    def _prefill(self, batch: list[_Sequence]) -> tuple[int, list[_Sequence]]:
        """Read as much of the prompts, oldest first, as the budget leaves; return the tokens and who is through."""
        budget = max(self._budget_tokens - sum(each.prompt_left == 0 for each in batch), _CHUNK_MIN)
        used, through = 0, []
        for each in batch:
            taken = min(budget - used, each.prompt_left)
            if taken:
                each.prompt_left -= taken
                used += taken
                if each.prompt_left == 0:
                    through.append(each)
        return used, through
