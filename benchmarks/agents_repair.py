"""How many programs with one wrong place `repair-search` mends, judged by checks that it never sees.

Runs the project's own cases, or with `--suite PATH` any folder in the suite format. Tools, rules, snapshots and the
hidden check are the real ones; the gateway and the journal are not asked.
"""

import argparse
import asyncio
import json
import statistics
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.agents.loop import run_loop
from tests.agents.worlds import Machine, make_machine

from benchmarks.record import record
from interlock.agents.domain import repair
from interlock.agents.domain.ports import Export
from interlock.agents.domain.types import Place

OWN = Path(__file__).parents[1] / "tests" / "agents" / "repair_cases"


async def main(suite: Path) -> int:
    cases = json.loads((suite / "suite.json").read_text())["cases"]
    machine = await asyncio.to_thread(make_machine)
    seconds: list[float] = []
    resolved = overfit = rejections = 0
    try:
        for case in cases:
            began = perf_counter()
            ended, place, _ = await run_loop(machine, case, repair.next_call)
            seconds.append(perf_counter() - began)
            rejections += ended.rejections
            is_complete = ended.state == "complete"
            # Once more, in a place of its own: a task that was taken for complete has to pass its check again.
            if is_complete and case.get("verify") and not await holds(machine, place, ended.tree, case["verify"]):
                overfit += 1
            elif is_complete:
                resolved += 1
            print(f"{case['id']:<28}{ended.state:<22}{len(ended.steps):>4} steps{seconds[-1]:>8.1f} s", flush=True)
    finally:
        machine.close()
    share = resolved / len(cases)
    slowest = max(seconds)
    print(f"{resolved} of {len(cases)} mended ({share:.0%}), goal >= 80 %; {overfit} overfit taken, goal 0;", end=" ")
    print(
        f"{rejections} refused by the check; p50 {statistics.median(seconds):.1f} s, most {slowest:.1f} s, goal <= 60"
    )
    name = "agents_repair" if suite == OWN else f"agents_repair {suite.name}"
    met = record(f"{name} mended", share, "share", "higher", 0.8 if suite == OWN else 0.6)
    met &= record(f"{name} overfit taken", overfit, "programs", "lower", 0.0)
    met &= record(f"{name} slowest", slowest, "s", "lower", 60.0)
    return 0 if met else 1


async def holds(machine: Machine, place: Place, tree: str, verify: dict[str, Any]) -> bool:
    """Check a tree by hand: export, lay the files over, run."""
    folder = await machine.trees.export(place, Export(tree, tree, (), verify["files"]))
    ran = await machine.tools.check(verify["command"], folder, machine.bench(place))
    await machine.trees.discard(place, folder)
    return ran.exit_code == 0 and (verify.get("expect") or "").encode() in ran.output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", type=Path, default=OWN)
    sys.exit(asyncio.run(main(parser.parse_args().suite)))
