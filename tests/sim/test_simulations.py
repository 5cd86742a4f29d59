"""A few seeds of every core in each test run; `make sim` runs thousands."""

import logging

import pytest
import structlog

from tests.sim.__main__ import CORES, find, hold

SEEDS = 60
FIRST = 1


@pytest.fixture(autouse=True)
def _quiet():
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("name", CORES)
def test_a_core_holds_what_must_hold(name):
    assert hold(name, CORES[name][0], FIRST, SEEDS)


@pytest.mark.parametrize("name", CORES)
def test_the_planted_bug_is_found(name):
    assert find(name, CORES[name][1], FIRST)
