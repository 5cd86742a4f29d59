"""Engines outside a running platform: those of a data directory, one by its URL, a scripted one on a port.

Serves no pool; `roles.py` does.
"""

import asyncio
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory
from interlock.foundation.supervisor import DataDirectory
from interlock.foundation.wire import Client, ClientLimits
from interlock.scheduler import (
    BACKENDS,
    Dialect,
    EngineConfig,
    EngineInspector,
    EngineReport,
    EngineServer,
    EngineShelf,
    FakeEngine,
    ParityResult,
    RemoteSpeaker,
    SchedulerConfig,
    Script,
    Shape,
    StepLoop,
    StepProfile,
    run_parity,
)
from interlock.scheduler.service.recording import Journals
from interlock.wiring.ground import Ground

_LOOPBACK: Final = "127.0.0.1"
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


def engine_shelf(ground: Ground) -> EngineShelf:
    """Return the embedded engines of a data directory, for the role that serves them."""
    directory, bytes_max = ground.directory, ground.config.section(SchedulerConfig).decision_log_bytes_max
    return EngineShelf(
        directory.models,
        directory.socket("engine-inner"),
        ground.config.section(EngineConfig),
        clock=ground.clock,
        dice=ground.dice,
        journal=Journals(directory.root / "decisions", bytes_max),
    )


@contextmanager
def shelf_by_hand(directory: DataDirectory, config: EngineConfig) -> Iterator[EngineShelf]:
    """Return them for a command, which may run beside the role."""
    with tempfile.TemporaryDirectory(prefix="il-") as folder:
        yield EngineShelf(directory.models, Path(folder, "inner.sock"), config, clock=SystemClock(), dice=SystemDice())


async def prove_engine(shelf: EngineShelf, engine: str, reference: str | None, api_key: str | None) -> ParityResult:
    """Compare an engine, a backend of the shelf or one at a URL, with stored answers or a live reference."""
    references = None if reference is None else await asyncio.to_thread(shelf.reference_answers, reference)
    if engine not in BACKENDS:
        client = Client(ClientLimits(), SystemClock())
        try:
            known = (references, f"{reference}") if references else shelf.known_references()
            return await run_parity(RemoteSpeaker(client, engine, api_key), engine, known[0], reference_name=known[1])
        finally:
            await client.close()
    loaded = await asyncio.to_thread(shelf.load, engine)
    try:
        return await shelf.prove(loaded, engine, references=references, reference_name=reference)
    finally:
        loaded.close()


async def serve_engine(
    directory: DataDirectory, config: EngineConfig, *, port: int, on_ready: Callable[[str], None]
) -> None:
    """Serve the embedded engine on loopback, behind the internal token, until a signal."""
    clock, dice = SystemClock(), SystemDice()
    directory.prepare()
    token = directory.key_file(directory.internal_token, lambda: dice.randbytes(32).hex().encode() + b"\n")
    with shelf_by_hand(directory, config) as shelf:
        engine = await shelf.serving(config.backend)
    server = EngineServer(engine, token=token.decode().strip(), clock=clock, ids=IdFactory(clock, dice), config=config)
    with socket.create_server((_LOOPBACK, port)) as listening:
        await server.start_on(listening)
        on_ready(f"http://{_LOOPBACK}:{listening.getsockname()[1]}")
        await until_signal()
        await server.drain(5.0)
    engine.close()


async def until_signal() -> None:
    """Return at the first wish to end."""
    wished = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in _SIGNALS:
        loop.add_signal_handler(each, wished.set)
    await wished.wait()
