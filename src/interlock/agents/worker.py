"""Holds leases of tasks and runs their legs; stops a leg for a cancel, a deadline, a kill switch or a lost lease.

Decides no step. A worker that starts again under its name ends the leases of its earlier self at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import structlog

from interlock.agents.domain.policy import World
from interlock.agents.domain.ports import Slots
from interlock.agents.domain.states import Reason, TaskState
from interlock.agents.domain.types import KillProof
from interlock.agents.service import prepare
from interlock.agents.service.desk import Desk, LegParts
from interlock.agents.service.leg import Leg
from interlock.agents.store.journal import SQL, Ending
from interlock.agents.store.rows import Task, task_of
from interlock.foundation.clock import until_tick
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import parse_id
from interlock.foundation.leases import Lease, LeaseLostError, LeaseSpec, LeaseTable, LeaseWorker
from interlock.foundation.store.lookout import LOOK_ANYWAY_S, Lookout

CHANNEL: Final = "agents"
_WATCH_S: Final = 1.0
_NO_SLOT_S: Final = 0.5
_COST_S: Final = 1.0
_ROWS_MAX: Final = 100
# Opens the secrets of a task: their values by name.
OpenSecrets = Callable[[Task], Awaitable[dict[str, str]]]
_log = structlog.get_logger("agents")


def tasks_spec(ttl_s: float) -> LeaseSpec:
    """Return how tasks are leased. A task that never gets anywhere is failed by its leg, not buried by the reaper."""
    return LeaseSpec(
        "agents_tasks",
        "agents_shares",
        key="task_id",
        due_sql="w.state IN ('queued', 'running')",
        ttl_s=ttl_s,
        attempts_max=1_000_000,
        cost=_COST_S,
    )


@dataclass(slots=True)
class _Running:
    """A leg that runs here, and why it has to stop."""

    task: Task
    work: asyncio.Task[None]
    ending: Ending | None = None

    def stop(self, ending: Ending) -> None:
        """Have it end in this way; the first wish counts."""
        if self.ending is None and not self.work.done():
            self.ending = ending
            self.work.cancel()


@dataclass(slots=True)
class TaskWorker:
    """Runs legs, one a lease. `run` works until it is cancelled."""

    parts: LegParts
    slots: Slots
    owner: str
    slots_max: int
    secrets: OpenSecrets
    forget_secrets: Callable[[Task], Awaitable[None]]
    _running: dict[UUID, _Running] = field(default_factory=dict)
    _legs: LeaseWorker | None = None
    _lookout: Lookout | None = None
    _is_unheld: asyncio.Event = field(default_factory=asyncio.Event)

    def told_by(self, lookout: Lookout) -> None:
        """Have the lookout tell of due tasks and of cancels of tasks that nobody holds."""
        self._lookout = lookout
        lookout.watch(SQL.any_canceled_unheld, self._is_unheld.set)

    async def run(self) -> None:
        """Probe the sandbox, free what an earlier self held, then claim and work."""
        parts = self.parts
        await self._probe()
        spec = tasks_spec(parts.config.lease_s)
        table = LeaseTable(spec, parts.journal.store)
        await self._forget_earlier_self()
        self._legs = LeaseWorker(spec, table, self.work, parts.clock, self.owner, slots=self.slots_max)
        if self._lookout is not None:
            self._legs.told_by(self._lookout, table.due)
        await parts.journal.store.listen(CHANNEL, self.told)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._legs.run())
            group.create_task(self._watch())

    async def work(self, lease: Lease) -> float | None:
        """Run one leg; whatever it came to, the row's state says whether it is due again."""
        scope = tasks_spec(self.parts.config.lease_s).scope_of(lease)
        task = await self.parts.journal.find(scope, lease.key)
        if task is None:
            return None
        slot = self.slots.take()
        if slot is None:
            return _NO_SLOT_S
        began_s = self.parts.clock.monotonic()
        try:
            wait_s = await prepare.end_leftovers(self.parts, task)
            if wait_s is not None:
                return min(wait_s, 30.0)
            reason = await self.parts.journal.start(task, lease.token)
            self.parts.metrics.claimed(task, self.parts.clock.now_us(), is_recovered=reason is not None)
            desk = await self._desk(task, lease.token, slot)
            if lease.attempts > self.parts.config.claims_max:
                await self._give_up(desk)
            else:
                await self._leg(desk)
        finally:
            self.slots.give_back(slot)
            await self._charge(task, self.parts.clock.monotonic() - began_s)
        return 0.0

    def told(self, payload: str) -> None:
        """Take a notice: a task became due, or is to be canceled; an empty one means that some were missed."""
        kind, _, text = payload.partition(" ")
        if kind == "cancel":
            with suppress(ValueError):
                self._cancel(parse_id("task", text))
        elif self._legs is not None:
            self._legs.wake()

    def look_at_switches(self) -> None:
        """Stop what a kill switch stops now."""
        for running in list(self._running.values()):
            if self.parts.stops(running.task, None):
                running.stop(Ending(TaskState.BLOCKED, Reason.PAUSED, {"by": "kill_switch"}))

    def statistics(self) -> dict[str, int]:
        """Return the bound and what runs."""
        return {"slots_max": self.slots_max, "legs": len(self._running)}

    async def _leg(self, desk: Desk) -> None:
        leg = Leg(desk)
        work = asyncio.ensure_future(leg.run())
        running = self._running[desk.task.id] = _Running(desk.task, work)
        watch = asyncio.ensure_future(self._deadline(running))
        try:
            if desk.task.row["cancel_requested_us"] is not None:
                running.stop(Ending(TaskState.CANCELED))
            elif self.parts.stops(desk.task, None):
                running.stop(Ending(TaskState.BLOCKED, Reason.PAUSED, {"by": "kill_switch"}))
            await asyncio.wait({work})
            await self._ended(leg, running)
        finally:
            self._running.pop(desk.task.id, None)
            watch.cancel()
            work.cancel()
            await asyncio.wait({work, watch})

    async def _ended(self, leg: Leg, running: _Running) -> None:
        """Finish a leg that was stopped; pass on how one ended that was not."""
        try:
            if running.ending is not None and running.work.cancelled():
                await leg.stopped(running.ending)
            else:
                running.work.result()
        except LeaseLostError:
            # Nothing but a cancel is written once one was asked for, though the lease is still ours.
            if not await self._is_canceled(leg.desk.task):
                raise
            await leg.stopped(Ending(TaskState.CANCELED))
        await self._after(leg.desk.task)

    async def _desk(self, task: Task, token: int, slot: Any) -> Desk:
        parts = self.parts
        secrets = await self.secrets(task)
        desk = Desk(
            parts,
            task,
            token,
            parts.trees.place(task.public_id, slot),
            World(()),
            await prepare.read_input(parts, task),
            prepare.redactor_of(secrets),
            secrets,
        )
        desk.steps = await parts.journal.steps(task.scope(), task)
        desk.tree, desk.commit = task.row["tree"], task.row["commit_id"]
        return desk

    async def _give_up(self, desk: Desk) -> None:
        """End a task whose legs end again and again without a single step."""
        ending = Ending(TaskState.FAILED, Reason.INTERNAL, {"message": "no leg came to a step", "attempt": desk.token})
        if desk.task.row["cancel_requested_us"] is not None:
            ending = Ending(TaskState.CANCELED, proof=KillProof("not_running"))
        await self.parts.journal.change(desk.task, desk.token, TaskState.RUNNING, ending)

    async def _deadline(self, running: _Running) -> None:
        left_s = running.task.row["deadline_us"] / 1e6 - self.parts.clock.now_us() / 1e6
        await self.parts.clock.sleep(max(0.0, left_s))
        running.stop(Ending(TaskState.FAILED, Reason.DEADLINE_EXCEEDED))

    def _cancel(self, task_id: UUID) -> None:
        running = self._running.get(task_id)
        if running is not None:
            running.stop(Ending(TaskState.CANCELED))

    async def _watch(self) -> None:
        """Look for cancels whose notice was lost, and for those of tasks that nobody holds."""
        looked_s = self.parts.clock.monotonic()
        while True:
            await self.parts.clock.sleep(until_tick(self.parts.clock, _WATCH_S))
            now_s = self.parts.clock.monotonic()
            if self._lookout is None or self._is_unheld.is_set() or now_s - looked_s >= LOOK_ANYWAY_S:
                looked_s = now_s
                self._is_unheld.clear()
                with suppress(InterlockError, ConnectionError):
                    await self.cancel_unheld()
            if not self._running:
                continue
            with suppress(InterlockError, ConnectionError):
                rows = await self.parts.journal.store.ops_single(SQL.canceled_of, list(self._running))
                for row in rows:
                    self._cancel(row["task_id"])

    async def cancel_unheld(self) -> None:
        """End tasks that were to be canceled when their leg broke off; they need no slot for that."""
        journal = self.parts.journal
        rows = await journal.store.ops_single(SQL.canceled_unheld, _ROWS_MAX)
        for task in map(task_of, rows):
            if await prepare.end_leftovers(self.parts, task) is not None:
                continue
            async with journal.store.transaction(task.scope()) as tx:
                ending = Ending(TaskState.CANCELED, proof=KillProof("not_running"))
                if await tx.fetchval(SQL.abort_unheld, *task.key) is not None:
                    await journal.change_in(tx, task, None, task.state, ending)
            await self._after(task)

    async def _is_canceled(self, task: Task) -> bool:
        async with self.parts.journal.store.ops("whether a cancel was asked for") as tx:
            return bool(await tx.fetch(SQL.canceled_of, [task.id]))

    async def _after(self, task: Task) -> None:
        """Count a leg that is over, and drop the secrets of a task that is."""
        now = await self.parts.journal.find(task.scope(), task.id)
        if now is None:
            return
        self.parts.metrics.left(now)
        if now.row["secret_names"] and now.row["ended_us"] is not None:
            await self.forget_secrets(now)

    async def _charge(self, task: Task, seconds: float) -> None:
        with suppress(InterlockError, ConnectionError):
            async with self.parts.journal.store.ops("seconds of a leg") as tx:
                await tx.execute(SQL.charge_share, task.organization_id, task.workspace_id, max(0.0, seconds - _COST_S))

    async def _forget_earlier_self(self) -> None:
        async with self.parts.journal.store.ops("leases of a worker that died") as tx:
            freed = await tx.fetch(SQL.forget_owner, self.owner)
        if freed:
            _log.info("leases_of_earlier_self_ended", owner=self.owner, tasks=sum(row["gone"] for row in freed))

    async def _probe(self) -> None:
        slot = self.slots.take()
        try:
            report = await self.parts.sandbox.probe(slot)
        finally:
            if slot is not None:
                self.slots.give_back(slot)
        failed = report.failed
        if failed is not None:
            _log.warning("sandbox_unavailable", probe=failed.name, errno=failed.errno, fix=failed.fix)


Loop = Callable[[], Coroutine[Any, Any, None]]
