"""What the tests of evals share: control and a worker over a fresh organization."""

import pytest

from tests.console.worlds import make_world
from tests.evals.eval_world import Lab


@pytest.fixture
async def lab(store, tmp_path):
    world = await make_world(store, tmp_path)
    found = Lab(world, store, tmp_path)
    yield found
    await found.http.aclose()
