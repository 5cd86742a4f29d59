"""What outlives a leader, written in the background: decisions in batches, a checkpoint each second, one log a pool.

Delays no decision: what the store cannot take, in time or at all, is dropped and counted.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog

from interlock.foundation.clock import Clock, until_tick
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.store import Store, Transaction
from interlock.scheduler import store as rows
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.log_lines import Sink
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.domain.types import Grant
from interlock.scheduler.domain.usage import MINUTE_US, NOBODY, Place, UsageMinute, add, in_order, minutes_of
from interlock.scheduler.service.front import FrontService

_log = structlog.get_logger(__name__)
_DAY_US = 86_400_000_000
_LEFT_DAYS = 2
Fences = Callable[[], Mapping[str, int]]
# What engines cost while nothing ends is written so often; with something that ended it is written at once.
_IDLE_S = 60.0
# A checkpoint that is as it was is written again so often, should somebody else have written another one.
_KEEP_ANYWAY_S = 30.0


def days_kept(config: SchedulerConfig) -> Mapping[str, int]:
    """Return the table whose days leave as partitions, and how many whole ones stay."""
    return {"scheduler_decisions": math.ceil(config.decisions_kept_days)}


class Recorder:
    """Observes a front and writes what ended under the fences of its pools; see `front.Observer`."""

    def __init__(self, store: Store, clock: Clock, config: SchedulerConfig, fences: Fences) -> None:
        self._store = store
        self._fences = fences
        self._clock = clock
        self._config = config
        self._waiting: deque[DecisionRecord] = deque()
        self._dropped = 0
        # What decisions that were dropped add to usage, and what of it is being written.
        self._sums: dict[Place, UsageMinute] = {}
        self._in_hand: dict[Place, UsageMinute] = {}
        self._batch_max = config.decisions_batch_max
        self._swept_at = clock.monotonic()
        self._idle_usd: dict[str, float] = {}
        self._idle_at = clock.monotonic()
        self._kept = b""
        self._kept_at = float("-inf")

    def granted(self, grant: Grant) -> None:
        """Wait for its end."""

    def decided(self, pool: str, took_s: float) -> None:
        """Leave it to the histogram."""

    def ended(self, record: DecisionRecord) -> None:
        """Take in a request that ended."""
        if len(self._waiting) >= self._config.decisions_waiting_max:
            self._drop(self._waiting.popleft())
        self._waiting.append(record)

    def forget(self, pool: str) -> None:
        """Drop what waits of a pool that another leads now: its fence would refuse it."""
        kept = [each for each in self._waiting if each.request.pool != pool]
        self._dropped += len(self._waiting) - len(kept)
        self._waiting = deque(kept)
        self._sums = {place: each for place, each in self._sums.items() if each.pool != pool}
        self._in_hand = {place: each for place, each in self._in_hand.items() if each.pool != pool}
        self._idle_usd.pop(pool, None)

    def statistics(self) -> dict[str, int]:
        """Return what waits to be written, and what was dropped."""
        return {"waiting": len(self._waiting), "dropped": self._dropped}

    async def run(self, front: FrontService) -> None:
        """Write each second until cancelled; a store that is away is tried again."""
        while True:
            await self._clock.sleep(until_tick(self._clock, self._config.record_interval_s))
            for name in front.pool_names():
                statistics = front.statistics(name)
                if statistics is not None:
                    front.measuring.looked(statistics)
            try:
                await self.write(front)
            except (InterlockError, OSError) as error:
                _log.debug("decisions_wait_for_store", error=str(error), waiting=len(self._waiting))
            except Exception as error:
                if not self._waiting:
                    raise
                self._narrow(error)

    async def write(self, front: FrontService) -> None:
        """Write what waits, and the checkpoints of the pools where one is new; where nothing is, write nothing.

        What is led without the store's word waits for it.
        """
        fences = dict(self._fences())
        if not all(fences.values()):
            return
        batch = list(self._waiting)[: self._batch_max]
        kept, now_s = front.keep(), self._clock.monotonic()
        idle = self._idle(front, is_due=bool(batch) or now_s - self._idle_at >= _IDLE_S)
        # As bytes: what a front hands out may go on changing.
        told = msgspec.json.encode((kept, fences))
        is_old = told != self._kept or now_s - self._kept_at >= _KEEP_ANYWAY_S
        sums = [*self._summed(), *idle.values()]
        if not batch and not sums and not is_old:
            return
        async with self._store.ops("decisions and checkpoints") as tx:
            if batch:
                await rows.write_decisions(tx, batch, fences)
                await rows.add_usage(tx, minutes_of(batch), fences)
            if sums:
                await rows.add_usage(tx, sums, fences)
            if is_old:
                await rows.keep_checkpoints(tx, kept, fences, self._clock.now_us())
                await self._sweep(tx)
        self._in_hand = {}
        if is_old:
            self._kept, self._kept_at = told, now_s
        for each in batch:
            if self._waiting and self._waiting[0] is each:
                self._waiting.popleft()
        self._batch_max = min(self._batch_max * 2, self._config.decisions_batch_max)
        for pool, minute in idle.items():
            self._idle_at = now_s
            self._idle_usd[pool] = self._idle_usd.get(pool, 0.0) + minute.idle_usd

    def _summed(self) -> list[UsageMinute]:
        """Return the usage of dropped decisions that is written next; it is in hand until it was."""
        if not self._in_hand:
            self._in_hand, self._sums = self._sums, {}
        return in_order(self._in_hand)

    def _drop(self, record: DecisionRecord) -> None:
        """Lose a decision, and keep what it adds to usage: bills come before details, as far as there is room."""
        self._dropped += 1
        if len(self._sums) < self._config.decisions_waiting_max:
            add(self._sums, record)

    def _narrow(self, error: Exception) -> None:
        """Write fewer at once until the one that the store refuses stands alone, and go on without it.

        A store that refuses a row refuses it again after every start: who died of it would die of it for ever.
        """
        if self._batch_max > 1:
            self._batch_max = max(1, min(self._batch_max, len(self._waiting)) // 2)
            return
        self._waiting.popleft()
        self._dropped += 1
        _log.error("decision_refused_by_store", error=str(error))

    async def _sweep(self, tx: Transaction) -> None:
        """Delete, now and then, what is too old for anybody."""
        if self._clock.monotonic() - self._swept_at <= self._config.decisions_sweep_s:
            return
        self._swept_at = self._clock.monotonic()
        now_us = self._clock.now_us()
        for forget, days in (
            # Days of decisions leave whole; this is for rows that stand in no day's partition.
            (rows.SQL.forget_decisions, self._config.decisions_kept_days + _LEFT_DAYS),
            (rows.SQL.forget_usage, self._config.usage_kept_days),
        ):
            await tx.execute(forget, now_us - round(days * _DAY_US))

    def _idle(self, front: FrontService, *, is_due: bool) -> dict[str, UsageMinute]:
        """Return what the engines of each pool cost while they did nothing, since it was last written."""
        if not is_due:
            return {}
        minute_us, found = self._clock.now_us() // MINUTE_US * MINUTE_US, {}
        for name in front.pool_names():
            statistics = front.statistics(name)
            idle_usd = 0.0 if statistics is None else sum(each.idle_usd for each in statistics.engines)
            fresh_usd = idle_usd - self._idle_usd.get(name, 0.0)
            if fresh_usd < 0:
                # An engine was taken out with its account.
                self._idle_usd[name] = idle_usd
            elif fresh_usd > 0:
                place = (SYSTEM_ORGANIZATION_ID, NOBODY, NOBODY, name, "", minute_us)
                found[name] = UsageMinute(*place, idle_usd=fresh_usd)
        return found


class Journals:
    """Decision logs on disk, one file a pool, begun anew with each leader and ended at a size."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._open: dict[str, BinaryIO] = {}

    def __call__(self, pool: str) -> Sink:
        """Return where the lines of a pool go; the log of the leader before stays beside it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{pool}.jsonl"
        if path.exists():
            path.replace(path.with_suffix(".jsonl.1"))
        path.touch(mode=0o600)
        self.end(pool)
        file = self._open[pool] = path.open("wb", buffering=0)
        left = self._bytes_max

        def write(line: bytes) -> None:
            nonlocal left
            if file.closed:
                return
            if len(line) < left:
                file.write(line + b"\n")
                left -= len(line) + 1
            elif left:
                # A log that goes on after a gap could not be replayed.
                left = 0
                _log.warning("decision_log_full", pool=pool, bytes_max=self._bytes_max)

        return write

    def end(self, pool: str) -> None:
        """Close the log of a pool; who still calls its core writes nothing."""
        file = self._open.pop(pool, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()
