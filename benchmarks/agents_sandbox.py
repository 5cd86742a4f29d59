"""What a sandbox costs to start: `true` in it, against `true` in the namespaces of util-linux, in turns in one run.

Does not measure a program that works; the limit of that is the program.
"""

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
from time import perf_counter

from tests.agents.worlds import make_machine

from benchmarks.record import record
from interlock.agents.domain.types import Mount, SandboxCommand

ROUNDS = 60
WARM_UP = 5


def plain(uid: int) -> float:
    """Start `true` with the same kinds of namespaces, by a program that only makes those."""
    program = shutil.which("unshare")
    assert program is not None
    command = [
        program,
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--net",
        "--ipc",
        "--uts",
        "--fork",
        "/bin/true",
    ]
    who = {} if uid == os.geteuid() else {"user": uid, "group": uid, "extra_groups": []}
    began = perf_counter()
    subprocess.run(command, check=True, cwd="/", **who)  # type: ignore[call-overload] # keywords of subprocess
    return perf_counter() - began


async def main() -> int:
    machine = await asyncio.to_thread(make_machine)
    ours: list[float] = []
    theirs: list[float] = []
    try:
        place, _ = await machine.repo({"a": "1"})
        command = SandboxCommand(("/bin/true",), place.slot, (Mount(place.work, "/task", is_writable=True),))
        for number in range(-WARM_UP, ROUNDS):
            began = perf_counter()
            ran = await machine.sandbox.run(command)
            spent = perf_counter() - began
            assert ran.exit_code == 0
            other = plain(place.slot.uid)
            if number >= 0:
                ours.append(spent)
                theirs.append(other)
        began = perf_counter()
        report = await machine.sandbox.probe(machine.slot)
        probed = perf_counter() - began
        assert report.launcher
    finally:
        machine.close()
    p50, p95 = (statistics.quantiles(ours, n=20)[each] * 1000 for each in (9, 18))
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"start to empty namespace: p50 {p50:.1f} ms, p95 {p95:.1f} ms   goal p50 <= 40")
    print(f"unshare + true: p50 {statistics.median(theirs) * 1000:.1f} ms   ratio {ratio:.2f}, goal <= 6")
    print(f"all nine probes: {probed * 1000:.0f} ms   goal < 1000")
    met = record("agents_sandbox start p50", p50, "ms", "lower", 40.0)
    met &= record("agents_sandbox against unshare", ratio, "ratio", "lower", 6.0)
    met &= record("agents_sandbox probes", probed * 1000, "ms", "lower", 1000.0)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
