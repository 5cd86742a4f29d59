"""A whole control process for tests of the API as a stranger sees it: real routes, real store, a loopback port.

Runs in a thread with a loop of its own, so that synchronous tools can call it.
"""

import asyncio
import contextlib
import threading
from dataclasses import dataclass

import uvicorn

from interlock.foundation.clock import SystemClock
from interlock.foundation.config import load
from interlock.foundation.identity import IdentityService, KeyService, bootstrap
from interlock.foundation.secrets import MasterKeyFile
from interlock.foundation.supervisor import DataDirectory, RoleLink, UpOptions
from interlock.wiring.control import control_parts
from interlock.wiring.ground import Ground
from interlock.wiring.sections import SECTIONS
from tests.support.platform import PATIENT
from tests.support.store import IDS, opened, running_store


@dataclass
class Served:
    """Where it is served, the owner's key, and the registry it serves."""

    url: str
    key: str
    registry: list


class ControlThread:
    """Start with `start()`, end with `stop()`."""

    def __init__(self, folder, flags=None):
        self._folder = folder
        self._flags = flags or {}
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._server = None
        self.served = None
        self.failure = None

    def start(self):
        self._thread.start()
        self._started.wait(280)
        if self.served is None:
            raise RuntimeError("control did not start") from self.failure
        return self.served

    def stop(self):
        self._server.should_exit = True
        self._thread.join(240)

    async def _run(self):
        try:
            await self._serve()
        except Exception as error:  # noqa: BLE001 - told to whoever started the thread
            self.failure = error
        finally:
            self._started.set()

    async def _serve(self):
        directory = DataDirectory(self._folder)
        directory.prepare()
        ground = Ground(
            "control", 0, directory, UpOptions(data=str(self._folder)), load(SECTIONS, env=PATIENT, flags=self._flags)
        )
        MasterKeyFile(directory.master_key).ensure(ground.dice)
        clock = SystemClock()
        async with running_store() as (_, urls), opened(urls, connections_max=10) as store:
            audit = ground.audit()
            people = IdentityService(store, audit, clock, IDS, ground.pepper)
            keys = KeyService(people, audit, clock, ground.dice, IDS, ground.pepper)
            written = []
            await bootstrap(store, keys, clock, IDS, written.append)
            parts = control_parts(ground, RoleLink(None, clock), store)
            config = uvicorn.Config(
                parts.app, port=0, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2,
                timeout_keep_alive=3_600,
            )  # fmt: skip
            self._server = uvicorn.Server(config)
            self._server.capture_signals = contextlib.nullcontext
            loops = [asyncio.ensure_future(loop()) for loop in parts.loops]
            serving = asyncio.ensure_future(self._server.serve())
            while not self._server.started:
                await asyncio.sleep(0.01)
            port = self._server.servers[0].sockets[0].getsockname()[1]
            self.served = Served(f"http://127.0.0.1:{port}", written[0].decode().strip(), parts.app.state.registry)
            self._started.set()
            await serving
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
