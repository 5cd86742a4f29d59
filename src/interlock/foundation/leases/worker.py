"""Holds leases: claims, runs the work, renews, and stops the work before the store would give it to another.

Does not know what the work is, and never decides by its own wall clock whether it still holds a row.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Self
from uuid import UUID

import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.leases.spec import Fence, Lease, LeaseLostError, LeaseSpec, LeaseStore
from interlock.foundation.store.lookout import LOOK_ANYWAY_S, Lookout
from interlock.foundation.store.queries import Query

# The work: returns after how many seconds the row is due again, or None for never.
Work = Callable[[Lease], Awaitable[float | None]]

RELEASE_AFTER_S = 1.0
# After so many looks at nothing a worker looks half as often; the platform that nobody uses costs little.
_QUIET_AFTER = 10
_QUIET_FACTOR = 2.0


@dataclass(slots=True)
class _Held:
    """A lease in work; `confirmed_at` is when the request that last confirmed it was sent."""

    lease: Lease
    task: asyncio.Task[None]
    confirmed_at: float


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What one worker did since it started."""

    held: int
    claimed: int
    finished: int
    failed: int
    lost: int
    reaped: int


@dataclass(slots=True)
class LeaseWorker:
    """Runs `work` for up to `slots` rows at a time, until it is cancelled; then it gives its rows back."""

    spec: LeaseSpec
    store: LeaseStore
    work: Work
    clock: Clock
    owner: str
    slots: int = 4
    poll_s: float = 1.0
    _held: dict[UUID, _Held] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _claimed: int = 0
    _finished: int = 0
    _failed: int = 0
    _lost: int = 0
    _reaped: int = 0

    def told_by(self, lookout: Lookout, due: Query) -> Self:
        """Have the lookout tell when there are due rows, and look by itself only now and then."""
        lookout.watch(due, self.wake)
        self.poll_s = LOOK_ANYWAY_S
        return self

    async def run(self) -> None:
        """Claim, heartbeat and reap until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(self.spec.heartbeat_s, self.heartbeat))
            group.create_task(self._every(self.spec.ttl_s, self.reap_once))
            group.create_task(self._claim_loop(group))

    def wake(self) -> None:
        """Look for due rows now, not at the next poll."""
        self._wake.set()

    def statistics(self) -> WorkerStatistics:
        """Return the counts of this worker."""
        return WorkerStatistics(len(self._held), self._claimed, self._finished, self._failed, self._lost, self._reaped)

    async def run_once(self, group: asyncio.TaskGroup) -> int:
        """Claim what fits into the free slots and start the work; return how many rows were claimed."""
        free = self.slots - len(self._held)
        if free <= 0:
            return 0
        asked_at = self.clock.monotonic()
        leases = await self.store.claim(self.owner, free)
        for lease in leases:
            task = group.create_task(self._work(lease))
            self._held[lease.key] = held = _Held(lease, task, asked_at)
            # Not a `finally` in the work: a task that is cancelled before its first step never enters it.
            task.add_done_callback(partial(self._forget, held))
        self._claimed += len(leases)
        return len(leases)

    async def heartbeat(self) -> None:
        """Renew everything that is held, and stop what was not confirmed for too long."""
        asked_at = self.clock.monotonic()
        fences = [held.lease.fence for held in self._held.values()]
        if fences:
            try:
                async with asyncio.timeout(self.spec.heartbeat_s):
                    kept = await self.store.renew(self.owner, fences)
            except (InterlockError, ConnectionError, TimeoutError):
                kept = None
            self._settle(fences, kept, asked_at)
        self._stop_the_unconfirmed()

    async def reap_once(self) -> None:
        """Take rows back from the dead."""
        self._reaped += await self.store.reap()

    def _settle(self, fences: list[Fence], kept: set[UUID] | None, asked_at: float) -> None:
        for fence in fences:
            held = self._held.get(fence.key)
            if held is None or held.lease.token != fence.token or kept is None:
                continue
            if fence.key in kept:
                held.confirmed_at = asked_at
            else:
                self._drop(held)

    def _stop_the_unconfirmed(self) -> None:
        now = self.clock.monotonic()
        for held in list(self._held.values()):
            if now - held.confirmed_at >= self.spec.give_up_s:
                self._drop(held)

    def _drop(self, held: _Held) -> None:
        self._lost += 1
        held.task.cancel()

    async def _claim_loop(self, group: asyncio.TaskGroup) -> None:
        empty = 0
        while True:
            # Cleared before the look: what becomes due while it runs asks for another one.
            self._wake.clear()
            try:
                claimed = await self.run_once(group)
            except (InterlockError, ConnectionError):
                claimed = 0
            if claimed:
                empty = 0
                continue
            try:
                async with asyncio.timeout(self.poll_s if empty < _QUIET_AFTER else self.poll_s * _QUIET_FACTOR):
                    await self._wake.wait()
                empty = 0
            except TimeoutError:
                empty += 1

    async def _work(self, lease: Lease) -> None:
        log = structlog.get_logger().bind(table=self.spec.table, key=str(lease.key), attempt=lease.attempts)
        try:
            due_in_s = await self.work(lease)
            await self.store.finish(lease.fence, due_in_s)
            self._finished += 1
        except LeaseLostError:
            log.warning("lease_lost")
        except asyncio.CancelledError:
            # The lease was lost or this worker drains; a row that is still ours goes back at once.
            await self._give_back(lease, None)
            raise
        except Exception as error:  # noqa: BLE001 - a worker's outer loop: the row carries the error, the loop goes on
            self._failed += 1
            log.warning("work_failed", error=repr(error))
            await self._give_back(lease, repr(error)[:500])

    def _forget(self, held: _Held, _: asyncio.Task[None]) -> None:
        # Its row may be held anew by now: a lease that was given back or lost is claimed before the old work has ended.
        if self._held.get(held.lease.key) is held:
            del self._held[held.lease.key]
        self.wake()

    async def _give_back(self, lease: Lease, error: str | None) -> None:
        try:
            await self.store.release(lease.fence, error, RELEASE_AFTER_S)
        except (LeaseLostError, InterlockError, ConnectionError):
            return

    async def _every(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self.clock.sleep(seconds)
            try:
                await step()
            except (InterlockError, ConnectionError) as error:
                structlog.get_logger().warning("lease_step_failed", table=self.spec.table, error=str(error))
