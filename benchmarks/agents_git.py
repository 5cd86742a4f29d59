"""What it costs to keep a step and to go back to one: a tree of 400 files, a few of them changed each time.

Does not measure the store; the bundle of a step is written after it.
"""

import asyncio
import statistics
import sys
from time import perf_counter

from tests.agents.worlds import make_machine

from benchmarks.record import record
from interlock.agents.adapters.files import TreeFiles

ROUNDS = 40
FILES = {f"pkg{number % 20}/module{number}.py": f"VALUE = {number}\n" * 40 for number in range(400)}


async def main() -> int:
    machine = await asyncio.to_thread(make_machine)
    kept: list[float] = []
    restored: list[float] = []
    bundles: list[int] = []
    try:
        place, base = await machine.repo(FILES)
        files = TreeFiles(place.work, place.slot)
        parent = base
        for number in range(1, ROUNDS + 1):
            for each in range(3):
                files.write(f"pkg{each}/module{each}.py", f"VALUE = {number}\n".encode() * 40)
            files.write(f"new/step{number}.py", b"1\n")
            began = perf_counter()
            made = await machine.snapshot(place, number, parent.commit)
            kept.append(perf_counter() - began)
            bundles.append(len(await machine.trees.bundle(place, number, parent.commit)))
            began = perf_counter()
            await machine.trees.restore(place, base.tree)
            restored.append(perf_counter() - began)
            await machine.trees.restore(place, made.tree)
            parent = made
    finally:
        machine.close()
    snapshot, restore = (statistics.median(each) * 1000 for each in (kept, restored))
    print(f"snapshot: p50 {snapshot:.1f} ms   restore: p50 {restore:.1f} ms   400 files, goal <= 60 each")
    print(f"bundle of a step: {statistics.median(bundles)} bytes")
    met = record("agents_git snapshot p50", snapshot, "ms", "lower", 60.0)
    met &= record("agents_git restore p50", restore, "ms", "lower", 60.0)
    record("agents_git bundle p50", statistics.median(bundles), "bytes", "lower")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
