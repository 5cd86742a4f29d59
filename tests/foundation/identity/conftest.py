"""A fresh world of identity for each test."""

import pytest

from tests.foundation.identity.worlds import World


@pytest.fixture
async def world(store, tmp_path):
    return World(store, tmp_path)


@pytest.fixture
async def shop(world):
    return await world.tenant()


@pytest.fixture
async def rival(world):
    return await world.tenant()
