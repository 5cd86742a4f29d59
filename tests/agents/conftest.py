"""Fixtures of the agents' tests."""

import pytest

from tests.agents.worlds import make_machine


@pytest.fixture(scope="session")
def machine():
    """A machine whose sandbox passed its probes."""
    made = make_machine()
    yield made
    made.close()
