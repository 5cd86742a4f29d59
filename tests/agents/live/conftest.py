"""One platform for all of these, with the models that attack; tasks are made and watched over HTTP."""

import json
import time

import pytest

from tests.support.platform import remove, start

FINAL = {"complete", "failed", "canceled"}
PROGRAM = "def refund(paid, fee):\n    return paid + fee\n"
TESTS = """\
import unittest
from refund import refund


class RefundTest(unittest.TestCase):
    def test_fee_is_kept(self):
        self.assertEqual(refund(10, 2), 8)
"""
TEST = {"command": "python3 -m unittest -q test_refund", "timeout_s": 240}
FILES = {"refund.py": PROGRAM, "test_refund.py": TESTS}


class Tasks:
    """Tasks as one key sees them."""

    def __init__(self, platform, running):
        self.platform = platform
        self.running = running

    def call(self, method, path, body=None, **options):
        return self.platform.call(method, f"/v1/agents/tasks{path}", body, **options)

    def submit(self, **fields):
        body = {"goal": "make the tests pass", "model": "repair-search", "repo": {"kind": "files", "files": FILES}}
        made = self.call("POST", "", body | fields)
        assert made.status == 201, made
        return made.body["id"]

    def script(self, *calls, **fields):
        goal = "script:" + json.dumps([{"tool": tool, "args": args} for tool, args in calls])
        return self.submit(goal=goal, model="adversary", **fields)

    def get(self, task_id, include="steps,diff"):
        answer = self.call("GET", f"/{task_id}?include={include}")
        assert answer.status == 200, answer
        return answer.body

    def until(self, task_id, states=None, within_s=280.0):
        """Wait until a task is in one of the states, final or blocked by default."""
        wanted = states or FINAL | {"blocked"}
        deadline = time.monotonic() + within_s
        while True:
            task = self.get(task_id)
            if task["state"] in wanted:
                return task
            assert time.monotonic() < deadline, json.dumps(task)
            time.sleep(0.02)

    def until_step(self, task_id, seq, within_s=280.0):
        """Wait until a step was begun."""
        deadline = time.monotonic() + within_s
        while True:
            task = self.get(task_id)
            if len(task["steps"]) >= seq:
                return task
            assert time.monotonic() < deadline, json.dumps(task)
            time.sleep(0.01)

    def events(self, task_id, after=0):
        found, cursor = [], ""
        while True:
            page = self.call("GET", f"/{task_id}/events?limit=200&after={after}{cursor}").body
            found += page["data"]
            if not page["next_cursor"]:
                return found
            cursor = f"&cursor={page['next_cursor']}"


@pytest.fixture(scope="package")
def running():
    running = start("--engine", "none", "--test-models", "--edge-workers", "1")
    yield running
    remove(running)


@pytest.fixture
def tasks(running):
    return Tasks(running.owner, running)
