"""The machine's broker of limits: one flight to the store at a time for each organization, for all workers.

Holds no levels that others rely on while the store answers; when it is away, it gives this machine's share.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory
from interlock.gateway.config import LimitsConfig
from interlock.gateway.domain.buckets import Bucket, Refill
from interlock.gateway.domain.desk import Desk, Held, Waiter
from interlock.gateway.domain.leasing import Give, LeaseMode, LimitStore, Take, Taken, Verdict, returned

log = structlog.get_logger("interlock.gateway")
_UNAVAILABLE: Final = Taken(Verdict.UNAVAILABLE, LeaseMode.SHARE)
_STORE_ERRORS: Final = (InterlockError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class BrokerStatistics:
    """What waits for the store, and how often it was asked since the start."""

    waiting: int
    settling: int
    machines: int | None
    workers: int
    is_away: bool
    flights_total: int
    lost_total: int


class Broker:
    """Leases for the workers of one machine. `run` flies; nothing is decided by the store before it runs."""

    def __init__(self, store: LimitStore, clock: Clock, ids: IdFactory, config: LimitsConfig, machine: UUID) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._machine = machine
        self._owner = ids.new()
        self._desks: dict[UUID, Desk] = {}
        self._workers: set[UUID] = set()
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._turns = asyncio.Semaphore(config.turns_max)
        self._group: asyncio.TaskGroup | None = None
        self._waiting = 0
        self._machines: int | None = None
        self._away_us: int | None = None
        self._began = clock.monotonic()
        self._has_desk = asyncio.Event()
        self._flights = self._lost = 0

    async def take(self, worker: UUID, take: Take) -> Taken:
        """Decide one request; while the store is slow or away, by this machine's share where there is one."""
        self._workers.add(worker)
        if self._waiting >= self._config.waiting_max:
            return _UNAVAILABLE
        desk = self._desk(take.buckets[0].organization_id)
        for bucket in take.buckets:
            desk.held(bucket)
        waiter = Waiter(worker, take)
        if self._is_away():
            return self._share(desk, waiter)
        answered = asyncio.get_running_loop().create_future()
        self._answers[id(waiter)] = answered
        self._waiting += 1
        try:
            desk.queue.append(waiter)
            self._start(desk)
            await asyncio.wait({answered}, timeout=self._config.wait_s)
            if not answered.done() and self._is_lone_and_blind(desk, take):
                # A store that is only slow decides; there is no share of a bucket that was never read.
                await asyncio.wait({answered}, timeout=self._config.away_s)
        except asyncio.CancelledError:
            if waiter.answer is not None:
                self.give(worker, returned(take, waiter.answer))
            raise
        finally:
            self._waiting -= 1
            del self._answers[id(waiter)]
            if waiter.answer is None:
                desk.forsake(waiter)
        if waiter.answer is not None:
            return waiter.answer
        if self._machines == 1 or self._is_away():
            return self._share(desk, waiter)
        return _UNAVAILABLE

    def give(self, worker: UUID, gives: Sequence[Give]) -> None:
        """Note what a worker settled, used, or gives back; the store hears of it with the next flight."""
        self._workers.add(worker)
        for each in gives:
            desk = self._desk(each.bucket.organization_id)
            desk.give(worker, [each])
            if desk.has_work:
                self._start(desk)

    def adopt(self, worker: UUID, slots: Sequence[tuple[Bucket, int]]) -> None:
        """Count the slots that a worker came with: its requests run, whatever the limit."""
        self._workers.add(worker)
        for bucket, count in slots:
            desk = self._desk(bucket.organization_id)
            desk.held(bucket).out[worker] = count
            desk.due.add(bucket.id)
            self._start(desk)

    def lose(self, worker: UUID) -> None:
        """Forget a worker that is gone; its slots are free at once."""
        self._workers.discard(worker)
        for desk in self._desks.values():
            if desk.lose(worker):
                self._start(desk)

    async def run(self) -> None:
        """Fly until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for desk in self._desks.values():
                    if desk.has_work:
                        self._start(desk)
                await self._beat()
            finally:
                self._group = None

    async def flush(self) -> None:
        """Tell the store, at a drain, what it does not know yet."""
        while not self._is_away() and any(each.has_work or each.is_flying for each in self._desks.values()):
            await self._clock.sleep(self._config.gather_s)

    def statistics(self) -> BrokerStatistics:
        """Return the figures that metrics and tests read."""
        return BrokerStatistics(
            waiting=self._waiting,
            settling=sum(len(each.due) + (each.lost is not None) + each.is_flying for each in self._desks.values()),
            machines=self._machines,
            workers=len(self._workers),
            is_away=self._away_us is not None,
            flights_total=self._flights,
            lost_total=self._lost,
        )

    def _desk(self, organization_id: UUID) -> Desk:
        desk = self._desks.get(organization_id)
        if desk is None:
            desk = self._desks[organization_id] = Desk(organization_id, self._clock.now_us())
            self._has_desk.set()
        return desk

    def _start(self, desk: Desk) -> None:
        if self._group is None or desk.is_flying:
            return
        desk.is_flying = True
        serving = self._serve(desk)
        try:
            self._group.create_task(serving)
        except RuntimeError:
            # The group ends, and with it this broker.
            serving.close()

    async def _serve(self, desk: Desk) -> None:
        try:
            while desk.has_work:
                if not desk.queue:
                    await self._clock.sleep(self._config.gather_s)
                if not await self._fly(desk):
                    await self._clock.sleep(self._config.again_s)
        finally:
            desk.is_flying = False

    async def _fly(self, desk: Desk) -> bool:
        flight, waiters = desk.plan(self._owner)
        if not flight.buckets:
            return True
        try:
            async with asyncio.timeout(self._config.away_s), self._turns:
                landed = await self._store.fly(flight)
        except _STORE_ERRORS as error:
            self._lost += 1
            self._note_away(error)
            desk.lose_flight(flight, waiters)
            self._tell(waiters)
            return False
        self._flights += 1
        self._away_us = None
        desk.land(flight, landed, waiters, self._clock.now_us(), max(1, len(self._workers)) * (self._machines or 1))
        self._tell(waiters)
        return True

    def _tell(self, waiters: list[Waiter]) -> None:
        for waiter in waiters:
            answered = self._answers.get(id(waiter))
            if answered is not None and not answered.done():
                answered.set_result(None)

    async def _beat(self) -> None:
        """Say that this machine is there, learn how many are, and renew the slots that are held."""
        await self._has_desk.wait()
        beats = 0
        while True:
            await self._say_here()
            beats += 1
            if beats % self._config.beats_a_renewal == 0:
                self._renew_slots()
            await self._clock.sleep(self._config.beat_s)

    async def _say_here(self) -> None:
        try:
            async with asyncio.timeout(self._config.away_s):
                self._machines = await self._store.heartbeat(self._machine)
        except _STORE_ERRORS as error:
            self._note_away(error)
        else:
            self._away_us = None

    def _renew_slots(self) -> None:
        for desk in self._desks.values():
            desk.renew_slots()
            if desk.has_work:
                self._start(desk)

    def _note_away(self, error: BaseException) -> None:
        if self._away_us is None:
            self._away_us = self._clock.now_us()
            log.warning("limits_store_away", error=str(error), machines=self._machines)

    def _is_away(self) -> bool:
        if self._store.is_up:
            return self._away_us is not None
        if self._away_us is None:
            self._away_us = self._clock.now_us()
        return True

    def _is_lone_and_blind(self, desk: Desk, take: Take) -> bool:
        return self._machines in (None, 1) and any(desk.held(each).level_micro is None for each in take.buckets)

    def _share(self, desk: Desk, waiter: Waiter) -> Taken:
        if self._machines is None:
            return _UNAVAILABLE
        now_us = self._clock.now_us()
        if self._machines == 1 and self._clock.monotonic() - self._began > self._config.untouched_s:
            for bucket in waiter.take.buckets:
                _fill_untouched(desk.held(bucket), now_us)
        taken = desk.share(waiter, now_us, self._away_us or now_us, self._machines)
        if desk.has_work:
            self._start(desk)
        return taken


def _fill_untouched(entry: Held, now_us: int) -> None:
    """Take a bucket that nobody touched for long enough to fill for full; a budget's day may be longer than that."""
    is_budget = entry.bucket.refill in (Refill.DAY, Refill.MONTH)
    if entry.level_micro is None and not is_budget:
        entry.level_micro, entry.read_us = entry.bucket.burst_micro, now_us
