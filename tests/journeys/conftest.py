"""Two platforms for all journeys: one with the embedded model, one in front of a scripted model server."""

import pytest

from tests.journeys.engines import scripted_engine
from tests.support.collector import collecting
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
def spans():
    """The collector of OpenTelemetry to which `scripted` exports."""
    with collecting() as each:
        yield each


@pytest.fixture(scope="package")
def scripted(engine, spans):
    """`interlock up --engine URL` with two edge processes; answers cost no model time."""
    exported = {
        "INTERLOCK_OTLP__ENDPOINT": spans.url,
        "INTERLOCK_OTLP__INTERVAL_MS": "100",
        # One that the collector is slow to take would be sent again, or given up.
        "INTERLOCK_OTLP__TIMEOUT_S": "120",
    }
    running = start("--engine", engine.url, "--edge-workers", "2", env=SOON | exported)
    yield running
    remove(running)
