"""What a journalled step costs: intent and outcome with events, budget and audit, against two raw INSERT commits.

Does not run a tool: a step's own work is not the journal's. One writer, then four of one organization beside it.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from uuid import UUID

import asyncpg
from tests.agents.engine import CLOCK, Engine
from tests.agents.worlds import make_machine
from tests.support.store import opened, running_store

from benchmarks.record import record
from interlock.agents.domain.journal import Step, StepKind, StepStatus
from interlock.agents.store.journal import Outcome
from interlock.agents.store.rows import Task
from interlock.foundation.audit import AuditEntry

STEPS = 50
ROUNDS = 21
WRITERS = 4
_TABLE = "CREATE TABLE raw_inserts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, content text)"
_INSERT = "INSERT INTO raw_inserts (content) VALUES ($1)"


async def journalled(engine: Engine, task: Task, token: int, first: int) -> float:
    """Write steps of one task and return the seconds of one."""
    entry = AuditEntry("task.step", "task", task.public_id, detail={"step": first})
    began = perf_counter()
    for seq in range(first, first + STEPS):
        step = Step(seq, StepKind.TOOL, StepStatus.INTENT, token, "run", f"call_{seq}", 1, '{"command": "true"}',
                    started_us=CLOCK.now_us())  # fmt: skip
        await engine.journal.begin(task, token, step)
        await engine.journal.end(task, token, step, Outcome(StepStatus.DONE, '{"exit_code": 0}', audit=entry))
    return (perf_counter() - began) / STEPS


async def raw(connection: asyncpg.Connection) -> float:
    """Commit two inserts as often, and return the seconds of two."""
    began = perf_counter()
    for _ in range(STEPS * 2):
        await connection.execute(_INSERT, "x" * 400)
    return (perf_counter() - began) / STEPS


async def claimed(engine: Engine) -> tuple[Task, int]:
    """Return a task whose lease is held here, for as long as the run takes."""
    task = await engine.submit(files={"a.txt": "1"})
    held: dict[UUID, int] = {}
    while task.id not in held:
        held |= {each.key: each.token for each in await engine.table.claim(engine.worker.owner, 50)}
    async with engine.store.ops("a lease that outlives the measurement") as tx:
        await tx._connection.execute("UPDATE agents_tasks SET lease_expires_at = now() + interval '1 hour'")  # noqa: SLF001
    await engine.journal.start(task, held[task.id])
    return task, held[task.id]


async def together(work: Callable[[int], Awaitable[float]]) -> float:
    """Return the seconds of one step while four writers write."""
    return statistics.mean(await asyncio.gather(*[work(number) for number in range(WRITERS)]))


async def main() -> int:
    machine = await asyncio.to_thread(make_machine)
    single: list[float] = []
    plain: list[float] = []
    try:
        async with running_store() as (_, urls), opened(urls, connections_max=WRITERS + 2) as store:
            connection = await asyncpg.connect(urls.owner)
            await connection.execute(_TABLE)
            with tempfile.TemporaryDirectory() as folder:
                engine = await Engine.make(store, machine, Path(folder))
                tasks = [await claimed(engine) for _ in range(WRITERS)]
                for number in range(ROUNDS):
                    plain.append(await raw(connection))
                    single.append(await journalled(engine, *tasks[0], number * STEPS + 1))
                first = ROUNDS * STEPS + 1
                four = await together(lambda number: journalled(engine, *tasks[number], first))
            await connection.close()
    finally:
        machine.close()
    ours, theirs = statistics.median(single[1:]), statistics.median(plain[1:])
    # Of each round by itself: what else the machine and its disk do changes from round to round.
    ratio = statistics.median(step / inserts for step, inserts in zip(single[1:], plain[1:], strict=True))
    print(
        f"one step {ours * 1e3:.2f} ms, two raw inserts {theirs * 1e3:.2f} ms, ratio {ratio:.2f}, goal <= 3.5;"
        f" one raw commit {theirs * 500:.2f} ms: the slower the disk, the lower the ratio"
    )
    print(f"four writers of one organization: {four * 1e3:.2f} ms a step, ratio {four / theirs:.2f}")
    met = record("agents_step against two inserts", ratio, "ratio", "lower", 3.5)
    record("agents_step of four writers", four / theirs, "ratio", "lower")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
