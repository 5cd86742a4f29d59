"""How long it takes from the kill to an empty namespace: sleepers, daemons, a fork bomb, programs that ignore signals.

Does not measure the way of a request to the worker; that is the task engine's part of a cancel.
"""

import asyncio
import statistics
import sys
from contextlib import suppress
from time import perf_counter

from tests.agents.worlds import Machine, make_machine

from benchmarks.record import record
from interlock.agents.adapters.namespaces import members
from interlock.agents.domain import adversary
from interlock.agents.domain.types import KillProof, ProcessRecord

TRIALS = 50
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


async def main() -> int:
    machine = await asyncio.to_thread(make_machine)
    spent: list[float] = []
    proofs: list[KillProof] = []
    try:
        for number in range(TRIALS):
            one, proof = await trial(machine, PROGRAMS[number % len(PROGRAMS)])
            spent.append(one)
            proofs.append(proof)
    finally:
        machine.close()
    cancel = statistics.quantiles(spent, n=20)[18] * 1000
    kill = statistics.quantiles([proof.ms for proof in proofs], n=20)[18]
    most = max(proof.killed for proof in proofs)
    print(f"{TRIALS} trials, up to {most} processes: kill to empty p95 {kill:.1f} ms, goal < 100")
    print(f"cancelled to returned: p50 {statistics.median(spent) * 1000:.1f} ms, p95 {cancel:.1f} ms, goal < 1000")
    met = record("agents_cancel kill to empty p95", kill, "ms", "lower", 100.0)
    met &= record("agents_cancel tool p95", cancel, "ms", "lower", 1000.0)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
