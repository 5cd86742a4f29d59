"""What tests of limits share: a store and an edge for which no time passes."""

import pytest

from tests.gateway.worlds import standing_still
from tests.support.clocks import HandClock


@pytest.fixture
async def still(store_urls):
    """No time passes for limits, however long the machine stands still; the clock is for an edge of the test."""
    async with standing_still(store_urls):
        clock = HandClock()
        clock.stop()
        yield clock
