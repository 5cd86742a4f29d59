"""Processes that read documents, with limits of time and memory a document; whoever exceeds them is killed.

Does not know what a document is for: it returns text and words, or a code.
"""

import asyncio
import ctypes
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.util import Finalize
from typing import Final

from interlock.retrieval.adapters.reading.texts import ReadDocument, ReadLimits, ReadWanted, UnreadableTextError, read
from interlock.retrieval.config import RetrievalConfig

UNEXTRACTABLE: Final = "text_unextractable"
_PR_SET_PDEATHSIG: Final = 1
Outcome = ReadDocument | str


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Documents read and refused, and processes that had to be replaced."""

    read: int
    refused: int
    replaced: int
    waiting: int


class ReadingPool:
    """Starts its processes with the first document; `close` ends them.

    Whoever has a turn has a process of its own: a document that kills one takes nobody else's down with it.
    """

    def __init__(self, config: RetrievalConfig) -> None:
        self._config = config
        self._limits = ReadLimits(config.text_chars_max, config.chunk_chars, config.chunk_chars_max)
        self._turns = asyncio.Semaphore(config.extract_processes)
        self._taken: set[asyncio.Future[list[Outcome]]] = set()
        self._idle: list[ProcessPoolExecutor] = []
        self._pools: set[ProcessPoolExecutor] = set()
        self._read = self._refused = self._replaced = self._waiting = 0
        # A forked process waits for its children before it ends, and nobody tells these: before that, they are killed.
        Finalize(self, _kill_all, args=(self._pools,), exitpriority=100)

    async def read(self, wanted: Sequence[ReadWanted]) -> list[Outcome]:
        """Read documents; each is what it holds or the code of why it could not be read, in order."""
        # A caller that leaves does not end its process: the turn stays taken until that is free again.
        turn = asyncio.ensure_future(self._in_turn(wanted))
        self._taken.add(turn)
        turn.add_done_callback(self._taken.discard)
        return await asyncio.shield(turn)

    async def _in_turn(self, wanted: Sequence[ReadWanted]) -> list[Outcome]:
        self._waiting += len(wanted)
        try:
            async with self._turns:
                outcomes = await self._read_together(wanted)
        finally:
            self._waiting -= len(wanted)
        refused = sum(isinstance(each, str) for each in outcomes)
        self._refused += refused
        self._read += len(outcomes) - refused
        return outcomes

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(self._read, self._refused, self._replaced, self._waiting)

    def close(self) -> None:
        """End the processes; what they read is dropped."""
        self._idle.clear()
        while self._pools:
            self._pools.pop().shutdown(wait=False, cancel_futures=True)

    async def _read_together(self, wanted: Sequence[ReadWanted]) -> list[Outcome]:
        try:
            return await self._run(wanted)
        except BrokenProcessPool:
            if len(wanted) == 1:
                return [UNEXTRACTABLE]
        # One of them killed the process: alone, each is judged by what it does itself.
        outcomes: list[Outcome] = []
        for each in wanted:
            try:
                outcomes += await self._run([each])
            except BrokenProcessPool:
                outcomes.append(UNEXTRACTABLE)
        return outcomes

    async def _run(self, wanted: Sequence[ReadWanted]) -> list[Outcome]:
        pool = self._idle.pop() if self._idle else self._started()
        loop, is_broken = asyncio.get_running_loop(), False
        try:
            return await loop.run_in_executor(pool, _read_all, list(wanted), self._limits, self._config.extract_cpu_s)
        except BrokenProcessPool:
            is_broken = True
            raise
        finally:
            self._end(pool, is_broken=is_broken)

    def _started(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            1,
            # A fork of a process with threads and sockets would inherit both.
            mp_context=get_context("spawn"),
            initializer=_begin,
            initargs=(self._config.extract_memory_bytes, os.getpid()),
        )
        self._pools.add(pool)
        return pool

    def _end(self, pool: ProcessPoolExecutor, *, is_broken: bool) -> None:
        """Keep a process for the next turn, or drop one that is dead."""
        if pool not in self._pools:
            return
        if is_broken:
            self._replaced += 1
            self._pools.discard(pool)
            pool.shutdown(wait=False, cancel_futures=True)
        else:
            self._idle.append(pool)


def _kill_all(pools: set[ProcessPoolExecutor]) -> None:
    for pool in pools:
        for process in list((pool._processes or {}).values()):  # noqa: SLF001 - no public word for it before 3.14
            process.kill()


def _begin(memory_bytes: int, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a parser says about a hostile file would name its content.
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # A parent that is killed cannot end its children itself.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def _read_all(wanted: list[ReadWanted], limits: ReadLimits, cpu_s: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for each in wanted:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        # The kernel counts the time of the process, so that each document gets its own share on top.
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + cpu_s + 1, hard))
        try:
            outcomes.append(read(each, limits))
        except UnreadableTextError as error:
            outcomes.append(error.code)
        except Exception:  # noqa: BLE001 - the outer loop of a reading process: a hostile file raises what it likes
            outcomes.append(UNEXTRACTABLE)
    return outcomes
