"""Tokens a second of the two embedded engines on the same weights, one after the other, at 1, 8 and 16 streams.

Takes the IR that `interlock engine build` made in the data directory of INTERLOCK_BENCH_DATA; without one it measures
nothing and says so. Both engines get the same threads.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import record
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.scheduler import EngineConfig, EngineShelf
from interlock.scheduler.adapters.parity_run import Speaks
from interlock.scheduler.domain.completion import Completion, CompletionKind

STREAMS = (1, 8, 16)
TOKENS = 64
ROUNDS = 3


async def tokens_per_second(engine: Speaks, streams: int) -> float:
    """Return output tokens a second of `streams` sequences of `TOKENS`, prompts of thirty tokens included."""

    async def one(number: int) -> int:
        prompt = f"Write a long story about ship {number} and its crew of {streams}, day by day."
        parameters = {"messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS, "temperature": 0.0}
        call = Completion(CompletionKind.CHAT, is_stream=True, includes_usage=True, parameters=parameters)
        made = 0
        async for event in engine.generate(call):
            made = event["usage"]["completion_tokens"] if event.get("usage") else made
        return int(made)

    begun = time.monotonic()
    made = await asyncio.gather(*(one(number) for number in range(streams)))
    return sum(made) / (time.monotonic() - begun)


def main() -> int:
    data = Path(os.environ.get("INTERLOCK_BENCH_DATA", ".interlock"))
    with tempfile.TemporaryDirectory(prefix="il-") as folder:
        inner, config = Path(folder, "inner.sock"), EngineConfig(slots=16)
        shelf = EngineShelf(data / "models", inner, config, clock=SystemClock(), dice=SystemDice())
        missing = next((row for row in shelf.rows() if row.state in {"not_built", "not_installed"}), None)
        if missing is not None:
            print(f"skipped: openvino is {missing.state}; interlock engine build, then INTERLOCK_BENCH_DATA=DIR")
            return 0
        best: dict[tuple[str, int], float] = {}
        # One loaded at a time: an idle engine's threads still take the core from the other.
        for backend in ("xllamacpp", "openvino"):
            engine = shelf.load(backend)
            for streams in STREAMS:
                rates = [asyncio.run(tokens_per_second(engine, streams)) for _ in range(ROUNDS)]
                best[backend, streams] = max(rates)
            engine.close()
    for streams in STREAMS:
        row = {backend: best[backend, streams] for backend in ("xllamacpp", "openvino")}
        print(f"{streams:>2} streams: " + ", ".join(f"{name} {rate:.0f} tokens/s" for name, rate in row.items()))
    met = True
    for streams in STREAMS:
        ratio = best["openvino", streams] / best["xllamacpp", streams]
        goal = 3.0 if streams == STREAMS[-1] else None
        met &= record(f"engine_throughput openvino over xllamacpp at {streams}", ratio, "ratio", "higher", goal)
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
