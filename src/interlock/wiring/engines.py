"""Engines outside a running platform: looking at one by its URL, and a scripted one on a port.

Serves no pool; `roles.py` does.
"""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory
from interlock.foundation.wire import Client, ClientLimits
from interlock.scheduler import (
    Dialect,
    EngineInspector,
    EngineReport,
    FakeEngine,
    Script,
    Shape,
    StepLoop,
    StepProfile,
)

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class FakeOptions:
    """A fake engine: `speed` divides the time of the profile's steps."""

    port: int
    profile: StepProfile
    speed: float
    shape: Shape


async def inspect_engine(url: str, dialect: Dialect | None, *, api_key: str | None, timeout_s: float) -> EngineReport:
    """Return what stands at a URL."""
    client = Client(ClientLimits(), SystemClock())
    try:
        return await EngineInspector(client, timeout_s=timeout_s, api_key=api_key).inspect(url, dialect)
    finally:
        await client.close()


async def run_fake(options: FakeOptions, on_ready: Callable[[str], None]) -> None:
    """Serve a fake engine on loopback until a signal."""
    clock = SystemClock()
    steps = StepLoop(options.profile, slots=options.shape.slots, speed=options.speed, clock=clock)
    script = Script(tokens=options.shape.context_tokens)
    engine = FakeEngine(script, clock=clock, ids=IdFactory(clock, SystemDice()), shape=options.shape, steps=steps)
    on_ready(await engine.listen(port=options.port))
    await until_signal()
    await engine.close()


async def until_signal() -> None:
    """Return at the first wish to end."""
    wished = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in _SIGNALS:
        loop.add_signal_handler(each, wished.set)
    await wished.wait()
