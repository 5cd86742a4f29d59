"""Tests of one group run in one process, one after the other, or they would start every platform twice."""

import os

import pytest


@pytest.mark.xdist_group("groups")
def test_a_worker_knows_the_group_of_a_test(request):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("the tests run in one process, so there is nothing to keep together")
    assert request.node.nodeid.endswith("@groups")
