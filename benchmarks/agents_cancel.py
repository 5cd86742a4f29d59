"""How long a cancel takes: from the kill to an empty namespace, and from the request over HTTP to the stored proof.

Sleepers, daemons, a fork bomb, programs that ignore signals. Says too how long after a deadline a task is over.
"""

import asyncio
import statistics
import sys
from contextlib import suppress
from datetime import datetime
from time import perf_counter, sleep

from tests.agents.live.conftest import Tasks
from tests.agents.worlds import Machine, make_machine
from tests.support.platform import remove, start

from benchmarks.record import record
from interlock.agents.adapters.namespaces import members
from interlock.agents.domain import adversary
from interlock.agents.domain.types import KillProof, ProcessRecord

TRIALS = 50
REQUESTS = 24
DEADLINES = 4
DEADLINE_S = 2
PROGRAMS = (
    "sleep 60",
    adversary.ATTACKS["daemonize"][0].arguments["command"] + "\nsleep 60",
    adversary.ATTACKS["fork_bomb"][0].arguments["command"],
    adversary.ATTACKS["ignore_cancel"][0].arguments["command"],
)


async def trial(machine: Machine, program: str) -> tuple[float, KillProof]:
    """Start, let it spread, cancel; return the seconds until nothing is left."""
    place, _ = await machine.repo({"a": "1"})
    records: list[ProcessRecord] = []

    async def note(each: ProcessRecord) -> None:
        records.append(each)

    running = asyncio.ensure_future(machine.shell(place, program, 60.0, on_start=note))
    await asyncio.sleep(0.3)
    began = perf_counter()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    spent = perf_counter() - began
    proof = await machine.sandbox.kill(records[0])
    assert proof.kind == "namespace_empty", proof
    assert members(records[0].pidns_inode) == []
    return spent, proof


async def killed() -> list[tuple[float, KillProof]]:
    """Return seconds and proof of each trial."""
    machine = await asyncio.to_thread(make_machine)
    try:
        return [await trial(machine, PROGRAMS[number % len(PROGRAMS)]) for number in range(TRIALS)]
    finally:
        machine.close()


def requested(tasks: Tasks, program: str) -> float:
    """Cancel a running task over HTTP; return the seconds between its request and its confirmation."""
    task_id = tasks.script(("run", {"command": program, "timeout_s": 300}))
    tasks.until_step(task_id, 2)
    sleep(0.3)
    tasks.call("POST", f"/{task_id}/cancel", {"reason": "measured"})
    cancel = tasks.until(task_id)["cancel"]
    assert cancel["proof"]["kind"] == "namespace_empty", cancel
    asked, confirmed = (datetime.fromisoformat(cancel[name]) for name in ("requested_at", "confirmed_at"))
    return (confirmed - asked).total_seconds()


def overdue(tasks: Tasks) -> float:
    """Return the seconds from the submission of an endless task to its end by its deadline."""
    task = tasks.until(
        tasks.script(("run", {"command": "while :; do :; done", "timeout_s": 300}), deadline_s=DEADLINE_S)
    )
    assert task["reason"] == "deadline_exceeded", task
    began, ended = (datetime.fromisoformat(task[name]) for name in ("created_at", "ended_at"))
    return (ended - began).total_seconds()


def whole_path() -> tuple[list[float], list[float]]:
    """Return the seconds of cancels and of deadlines on a platform of its own."""
    running = start("--engine", "none", "--test-models", "--edge-workers", "1")
    try:
        tasks = Tasks(running.owner, running)
        cancels = [requested(tasks, PROGRAMS[number % len(PROGRAMS)]) for number in range(REQUESTS)]
        return cancels, [overdue(tasks) for _ in range(DEADLINES)]
    finally:
        remove(running)


def main() -> int:
    trials = asyncio.run(killed())
    cancels, deadlines = whole_path()
    tool = p95_ms([spent for spent, _ in trials])
    kill = p95_ms([proof.ms / 1000 for _, proof in trials])
    whole = p95_ms(cancels)
    most = max(proof.killed for _, proof in trials)
    print(f"{TRIALS} trials, up to {most} processes: kill to empty p95 {kill:.1f} ms, goal < 100")
    print(f"tool cancelled to returned: p95 {tool:.1f} ms, goal < 1000")
    half = statistics.median(cancels) * 1000
    print(f"{REQUESTS} cancels over HTTP, request to proof: p50 {half:.0f} ms, p95 {whole:.0f} ms, goal < 1000")
    print(f"a deadline of {DEADLINE_S} s: over after at most {max(deadlines):.2f} s, goal < 4")
    met = record("agents_cancel kill to empty p95", kill, "ms", "lower", 100.0)
    met &= record("agents_cancel tool p95", tool, "ms", "lower", 1000.0)
    met &= record("agents_cancel request to proof p95", whole, "ms", "lower", 1000.0)
    met &= record("agents_cancel end by a deadline of 2 s", max(deadlines), "s", "lower", 4.0)
    return 0 if met else 1


def p95_ms(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20)[18] * 1000


if __name__ == "__main__":
    sys.exit(main())
