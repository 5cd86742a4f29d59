"""One loaded model for the whole session, and a server around it for each test."""

import shutil
import tempfile
from pathlib import Path

import pytest

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory
from interlock.foundation.wire import Client, ClientLimits
from interlock.scheduler.adapters.engine_server import EngineServer
from interlock.scheduler.adapters.model_files import find_model
from interlock.scheduler.adapters.xllamacpp_engine import XllamacppEngine
from interlock.scheduler.config import EngineConfig
from tests.scheduler.calls import TOKEN, EngineCaller


@pytest.fixture(scope="session")
def short_path():
    """A folder whose sockets stay below the length that the kernel allows."""
    folder = Path(tempfile.mkdtemp(prefix="il-sched-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def model(short_path):
    engine = XllamacppEngine.load(
        find_model(), listener_path=short_path / "inner.sock", config=EngineConfig(), dice=SystemDice()
    )
    yield engine
    engine.close()


@pytest.fixture
def clock():
    return SystemClock()


@pytest.fixture
def ids(clock):
    return IdFactory(clock, SystemDice())


@pytest.fixture
async def client(clock):
    client = Client(ClientLimits(), clock)
    yield client
    await client.close()


@pytest.fixture
async def engine(model, short_path, clock, ids, client):
    server = EngineServer(model, token=TOKEN, clock=clock, ids=ids, config=EngineConfig())
    path = short_path / "engine.sock"
    await server.start(path)
    yield EngineCaller(client, f"unix:{path}:", server, model)
    await server.drain(5.0)
