"""Two platforms for all journeys: one with the embedded model, one in front of a scripted model server."""

import pytest

from tests.journeys.engines import scripted_engine
from tests.support.platform import remove, start

# What a test waits for; by itself the platform looks at the arms of a canary twice a minute.
SOON = {"INTERLOCK_SCHEDULER__CANARY_LOOK_S": "1"}


@pytest.fixture(scope="package")
def embedded():
    """`interlock up --engine embedded` with two edge processes."""
    running = start("--engine", "embedded", "--edge-workers", "2", is_first=True).promise_late()
    yield running
    remove(running)


@pytest.fixture(scope="package")
def engine():
    """The scripted model server behind `scripted`."""
    with scripted_engine() as each:
        yield each


@pytest.fixture(scope="package")
def scripted(engine):
    """`interlock up --engine URL` with two edge processes; answers cost no model time."""
    running = start("--engine", engine.url, "--edge-workers", "2", env=SOON)
    yield running
    remove(running)
