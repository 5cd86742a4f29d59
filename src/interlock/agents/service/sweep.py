"""Ends tasks that nobody works on and whose time has come, and deletes the events of those that ended long ago.

Touches no task that a leg holds; its own leg watches that one's deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from interlock.agents.domain.states import Reason, TaskState
from interlock.agents.store.journal import SQL, Ending, Journal
from interlock.agents.store.rows import Task, task_of
from interlock.foundation.errors import InterlockError
from interlock.foundation.store.lookout import LOOK_ANYWAY_S, Lookout

_ROWS_MAX: Final = 100
_EVENTS_MAX: Final = 5_000
_FORGET_S: Final = 600.0


class Sweeper:
    """One a worker; that two look at once does no harm, as every change is a compare-and-set."""

    def __init__(self, journal: Journal, forget_secrets: Callable[[Task], Awaitable[None]]) -> None:
        self._journal = journal
        self._forget = forget_secrets
        self._poll_s = journal.config.sweep_s
        self._wake = asyncio.Event()

    def told_by(self, lookout: Lookout) -> None:
        """Have the lookout tell of passed deadlines, and look by itself only now and then."""
        lookout.watch(SQL.any_overdue, self._wake.set)
        lookout.watch(SQL.any_unanswered, self._wake.set)
        self._poll_s = max(self._poll_s, LOOK_ANYWAY_S)

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            self._wake.clear()
            with suppress(InterlockError, ConnectionError):
                await self.run_once()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()

    async def forget(self) -> None:
        """Delete old events again and again until cancelled."""
        while True:
            with suppress(InterlockError, ConnectionError):
                while await self.forget_once() == _EVENTS_MAX:
                    pass
            await self._journal.clock.sleep(_FORGET_S)

    async def forget_once(self) -> int:
        """Delete events that nobody may read any more, the oldest first; return how many."""
        oldest_us = self._journal.clock.now_us() - round(self._journal.config.events_kept_s * 1e6)
        # Every task that ended before that moment began before it, and a task's id begins with its milliseconds.
        first_kept = UUID(int=max(oldest_us // 1_000, 0) << 80)
        async with self._journal.store.ops("events of tasks that ended long ago") as tx:
            return await tx.execute(SQL.forget_events, first_kept, oldest_us, _EVENTS_MAX)

    async def run_once(self) -> int:
        """End what is due; return how many were."""
        now_us = self._journal.clock.now_us()
        late = await self._journal.store.ops_single(SQL.overdue, now_us, _ROWS_MAX)
        unanswered = await self._journal.store.ops_single(SQL.expired_approvals, now_us, _ROWS_MAX)
        for rows, reason in ((late, Reason.DEADLINE_EXCEEDED), (unanswered, Reason.APPROVAL_EXPIRED)):
            for row in rows:
                await self._end(row, reason)
        return len(late) + len(unanswered)

    async def _end(self, row: Any, reason: Reason) -> None:
        task = task_of(row)
        ended = await self._journal.change(task, None, TaskState(row["state"]), Ending(TaskState.FAILED, reason))
        if ended and row["secret_names"]:
            await self._forget(task)
