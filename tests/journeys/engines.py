"""A scripted model server in a thread, for platforms that are started with `--engine URL`."""

import asyncio
import threading
from contextlib import contextmanager

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory
from interlock.scheduler import FakeEngine, Script

ORDINARY = Script(tokens=4)


class ScriptedEngine:
    """A `FakeEngine` that serves while the test's own thread makes blocking calls."""

    def __init__(self, token=None, kind=FakeEngine, shape=None):
        clock = SystemClock()
        self.fake = kind(ORDINARY, clock=clock, ids=IdFactory(clock, SystemDice()), token=token, shape=shape)
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self):
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self.fake.listen(), self._loop).result(120)

    def close(self):
        asyncio.run_coroutine_threadsafe(self.fake.close(), self._loop).result(120)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(120)
        self._loop.close()

    @contextmanager
    def playing(self, script):
        """Answer by this script until the block ends."""
        self.fake.script = script
        try:
            yield
        finally:
            self.fake.script = ORDINARY


@contextmanager
def scripted_engine(token=None, kind=FakeEngine, shape=None):
    """Yield a `ScriptedEngine` that listens."""
    engine = ScriptedEngine(token, kind, shape)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
