"""A place at this edge for each request that is known, after a bounded wait in a fair queue.

Decides nothing; `domain/seats.py` does.
"""

import asyncio
from contextlib import suppress

from interlock.foundation.clock import Clock, Dice
from interlock.gateway.config import EdgeConfig
from interlock.gateway.domain.refusals import Refusal
from interlock.gateway.domain.seats import Crowded, Owner, Seats, SeatStatistics, Waiter
from interlock.gateway.service.passage import Passage


class Entrance:
    """The places of this process. Who waits is woken by whoever leaves."""

    def __init__(self, config: EdgeConfig, clock: Clock, dice: Dice) -> None:
        self._config = config
        self._clock = clock
        self._dice = dice
        self.seats = Seats(config.inflight_max, config.queue_max, config.queue_s_max, clock.monotonic())
        self._woken: dict[Waiter, asyncio.Event] = {}

    @property
    def taken(self) -> int:
        """Requests that have a place."""
        return self.seats.taken

    def statistics(self) -> SeatStatistics:
        """Return what is taken and who waits."""
        return self.seats.statistics(self._clock.monotonic())

    def at_once(self, passage: Passage) -> bool:
        """Take a place that is free, which `leave` gives back; whoever finds none asks `enter`, and may wait there."""
        return self.seats.sit(passage.tenant.int, self._clock.monotonic())

    async def enter(self, passage: Passage) -> Refusal | None:
        """Take a place, which `leave` gives back, or return the refusal of one that got none."""
        dice = self._dice.random()
        found = self.seats.enter(passage.tenant.int, passage.left_s(), self._clock.monotonic(), dice)
        if self._woken:
            self._wake()
        if isinstance(found, Waiter):
            found = await self._wait(passage, found, dice)
        return None if found is None else _refused(found)

    def leave(self, passage: Passage) -> None:
        """Give the place of a request back."""
        self.give_back(passage.tenant.int)

    def give_back(self, organization: Owner) -> None:
        """Give a place of an organization back."""
        self.seats.leave(organization, self._clock.monotonic())
        if self._woken:
            self._wake()

    async def _wait(self, passage: Passage, waiter: Waiter, dice: float) -> Crowded | None:
        passage.open()
        began_ms = passage.elapsed_ms()
        passage.decide("queue", "edge.queue", "waiting", f"{self.seats.waiting} in line")
        woken = self._woken[waiter] = asyncio.Event()
        has_waited = False
        try:
            with passage.waiting(), suppress(TimeoutError):
                async with asyncio.timeout(min(self._config.queue_s_max, max(0.0, passage.left_s()))):
                    await woken.wait()
            has_waited = True
        finally:
            del self._woken[waiter]
            self.seats.give_up(waiter)
            passage.queue_ms = passage.elapsed_ms() - began_ms
            if waiter.verdict and not has_waited:
                self.give_back(waiter.organization_id)
        if waiter.verdict:
            return None
        tell = self.seats.too_late if waiter.verdict is None else self.seats.displaced
        return tell(waiter.organization_id, self._clock.monotonic(), dice)

    def _wake(self) -> None:
        for waiter, woken in self._woken.items():
            if waiter.verdict is not None:
                woken.set()


def _refused(crowded: Crowded) -> Refusal:
    return Refusal(crowded.code, crowded.rule, step="queue", retry_after_s=crowded.retry_after_s)
