"""The console's application without a socket, signed in as its owner or as somebody who may less."""

import pytest

from interlock.foundation.scope import Role
from tests.console.worlds import make_world
from tests.foundation.control.conftest import Client


@pytest.fixture
async def world(store, tmp_path):
    return await make_world(store, tmp_path)


@pytest.fixture
def app(world):
    return world.app()


@pytest.fixture
def anyone(app):
    return Client(app, {"host": "localhost:8080", "accept": "text/html"})


@pytest.fixture
async def owner(world, app):
    return await signed_in(world, app, world.owner_key)


@pytest.fixture
async def viewer(world, app):
    return await signed_in(world, app, await world.sign_up("reader", Role.VIEWER, ("requests:read", "console")))


async def signed_in(world, app, key):
    token = await world.sessions.sign_in(key, None)
    own = {"cookie": f"interlock_session={token}", "host": "localhost:8080", "accept": "text/html"}
    return Client(app, own)
