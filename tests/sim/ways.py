"""An edge with kernels and ways beside one in the form in Python, which has neither: both must come to the same.

The form in Python runs in a process of its own, started once: `python -m tests.sim.ways` reads a seed a line and prints
what came of it. Compared is every byte that a caller or a model server heard, every story, every figure, every level.
"""

import atexit
import json
import os
import subprocess
import sys
from functools import cache

import structlog

from interlock.foundation.native import PURE
from interlock.foundation.sim import SimClock, SimDice, simulate
from interlock.gateway import EdgeProcess
from interlock.gateway.service.ways import Ways
from tests.sim.ways_script import drawn
from tests.sim.ways_world import play

# How many scripts there are.
_SEEDS = 1 << 60
_SHOWN_CHARS = 400


class CarelessWays(Ways):
    """The planted bug: a way is kept wherever a request was answered, whatever led it there."""

    def _is_fixed(self, passage, placement):
        return True


class CarelessProcess(EdgeProcess):
    """An edge with careless ways."""

    def _ways(self, estimator, relay):
        made = super()._ways(estimator, relay)
        made.__class__ = CarelessWays
        return made


async def scenario(dice: SimDice, clock: SimClock, *, made=EdgeProcess) -> int:
    """Run one script by both forms; return how many requests went a way."""
    seed, child = dice.randrange(_SEEDS), _child()
    # It plays meanwhile.
    child.stdin.write(f"{seed}\n")
    child.stdin.flush()
    try:
        outcome, process = await play(drawn(SimDice(seed)), clock, made)
    finally:
        # Taken whatever became of this side, or the next script would be held against this one's answer.
        answer = child.stdout.readline()
    here, there = json.loads(_told(outcome)), json.loads(answer)
    for name, value in there.items():
        assert here[name] == value, f"{name}: {_difference(here[name], value)}"
    assert not any(here["held"].values()), f"kept for good: {here['held']}"
    return 0 if process.ways._errands is None else process.ways._errands.taken


def _told(outcome):
    return json.dumps(outcome, default=_plain)


def _plain(value):
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _difference(here, there, path=""):
    """Return where two values differ first, and how."""
    if isinstance(here, dict) and isinstance(there, dict):
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                return _difference(here.get(name), there.get(name), f"{path}.{name}")
    if isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for at, (one, other) in enumerate(zip(here, there, strict=True)):
            if one != other:
                return _difference(one, other, f"{path}[{at}]")
    if isinstance(here, str) and isinstance(there, str):
        at = next(
            (at for at, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there))
        )
        from_, to = max(0, at - _SHOWN_CHARS // 2), at + _SHOWN_CHARS // 2
        return f"{path} at {at}: {here[from_:to]!r} where the rules say {there[from_:to]!r}"
    return f"{path}: {str(here)[:_SHOWN_CHARS]} where the rules say {str(there)[:_SHOWN_CHARS]}"


@cache
def _child():
    """Return the process in which there is no kernel."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.sim.ways"], env={**os.environ, PURE: "1"}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    atexit.register(_end, child)
    return child


def _end(child):
    """End it and wait for that: one that nobody waited for is told of as a process that still runs."""
    child.terminate()
    child.communicate()


def main():
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    async def alone(seed, clock):
        outcome, _ = await play(drawn(SimDice(seed)), clock)
        return outcome

    for line in sys.stdin:
        seed = int(line)
        outcome = simulate(0, lambda _dice, clock, seed=seed: alone(seed, clock))
        sys.stdout.write(_told(outcome) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
