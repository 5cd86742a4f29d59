"""Fixtures that every package's tests share."""

import os

import pytest
from _pytest.nodeid import coerce_node_id
from hypothesis import HealthCheck, settings

from tests.support.store import lasting_store, make_tenant, opened, scope_of, sweep

# How fast an example is says something of the machine; what it found says something of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples at every run, so that a red run speaks of the change at hand; EXPLORE=1 looks at new ones.
settings.register_profile("same", settings.get_profile("patient"), derandomize=True)
settings.load_profile("patient" if os.environ.get("EXPLORE") else "same")

# Marks of tests that begin first, or one worker would be left alone with them at the end.
LONG = ("long", "real", "browser")


@pytest.fixture(scope="session")
def store_urls():
    """The URLs of one embedded, migrated store for the whole session."""
    sweep()
    with lasting_store() as urls:
        yield urls


@pytest.fixture
async def store(store_urls):
    """An open store, patient with a machine that others use too."""
    async with opened(store_urls) as each:
        yield each


@pytest.fixture
async def scope(store):
    """A scope of a fresh organization and one workspace of it; their rows are there."""
    organization_id, workspace_id = await make_tenant(store)
    return scope_of(organization_id, workspace_id)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Let long tests begin first, folder by folder as folders share platforms; make groups stay together under xdist.

    xdist 3.8 writes the group behind the name that pytest 9.1 and older read; newer ones build a name from `_id`.
    """
    items.sort(key=_turn)
    for item in items:
        grouped = vars(item).get("_nodeid", "")
        if "@" in grouped and item.nodeid != grouped:
            item._id = coerce_node_id(grouped)


def _turn(item):
    is_long = any(item.get_closest_marker(name) for name in LONG)
    return (not is_long, str(item.path.parent) if is_long else "")
