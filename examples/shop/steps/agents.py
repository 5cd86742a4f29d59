"""An agent mends the shop's refunds: checked by what it cannot see, canceled with proof, undone, and killed in between.

Uses the model `repair-search`, so that every run comes to the same.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from examples.shop.client import Platform
from examples.shop.steps.kit import Shop, Shown, require, story_of

_TASKS: Final = "/v1/agents/tasks"
_FINAL: Final = frozenset({"complete", "failed", "canceled", "blocked"})
_WAIT_S: Final = 60.0
REFUNDS: Final = '''\
"""What a customer of the shop gets back."""

FEE_CENTS = 490


def refund_cents(paid_cents, is_damaged):
    """A damaged parcel is refunded whole; otherwise the fee is kept, and nobody ever owes us for a return."""
    if is_damaged:
        return paid_cents
    return max(0, paid_cents + FEE_CENTS)
'''
TESTS: Final = """\
import unittest

from refunds import refund_cents


class RefundTest(unittest.TestCase):
    def test_a_damaged_parcel_is_refunded_whole(self):
        self.assertEqual(refund_cents(5_000, True), 5_000)

    def test_the_fee_is_kept(self):
        self.assertEqual(refund_cents(5_000, False), 4_510)
"""
CHECK: Final = """\
from refunds import refund_cents

assert refund_cents(490, False) == 0
assert refund_cents(100, False) == 0
assert refund_cents(10_000, False) == 9_510
print("refunds are right")
"""
_COMMAND: Final = "python3 -m unittest -q test_refunds"


def mend_a_failing_test(shop: Shop) -> Shown:
    """A task ends complete only by a hidden check; another is canceled with proof; the first is undone."""
    desk = _desk(shop)
    done = _until(desk, _submit(desk, _COMMAND))
    require(done["state"] == "complete", f"the task is complete, not {done['state']} {done['reason']}")
    require("+    return max(0, paid_cents - FEE_CENTS)" in done["diff"], "the diff mends the line")
    require("refunds are right" not in str(done["steps"]), "the check stays hidden")
    asked = [step["request_id"] for step in done["steps"] if step["kind"] == "model"]
    require(done["id"] in str(story_of(shop.owner, asked[0])), "the story of a model call names the task")
    proof = _cancel_one(desk)
    edit = next(step["seq"] for step in done["steps"] if step["tree_after"])
    undone = desk.call("POST", f"{_TASKS}/{done['id']}/undo", {"to_step": edit - 1})
    require(undone.status == 200 and undone.body["files_changed"] == ["refunds.py"], "the edit is undone", undone)
    require(_get(desk, done["id"])["diff"] == "", "nothing differs from the base any more")
    figure = f"test green in {len(asked)} model calls, canceled in {proof['ms']:.0f} ms with {proof['kind']}, undone"
    return Shown(figure, done["id"])


def kill_the_worker_in_mid_task(shop: Shop) -> Shown:
    """The worker dies by SIGKILL; the task goes on under a new attempt and no finished step runs twice."""
    desk = _desk(shop)
    # On a machine that stands still meanwhile the first may end before its worker does.
    for pause_s in (1, 20):
        task_id = _submit(desk, f"sleep {pause_s}; {_COMMAND}")
        _until_step(desk, task_id, 6)
        began = time.perf_counter()
        os.kill(int((Path(shop.data) / "run" / "worker-0.pid").read_text().split()[0]), signal.SIGKILL)
        done = _until(desk, task_id)
        if done["attempt"] > 1:
            break
    require(done["state"] == "complete" and done["attempt"] > 1, f"it is complete under another attempt: {done}")
    events = desk.call("GET", f"{_TASKS}/{task_id}/events?limit=200").body["data"]
    require([each["seq"] for each in events] == list(range(1, len(events) + 1)), "events have no gap")
    ended = [each["data"]["step"] for each in events if each["event"] == "step.finished"]
    require(len(ended) == len(set(ended)), "no finished step ran twice")
    books = desk.call("GET", f"{_TASKS}/{task_id}/fsck")
    require(books.status == 200 and books.body["is_clean"], "the books agree", books)
    seconds = time.perf_counter() - began
    return Shown(f"kill -9, attempt {done['attempt']}, complete {seconds:.1f} s later, no step twice", task_id)


def _desk(shop: Shop) -> Platform:
    """Return the platform as a developer of the shop's engineering sees it."""
    workspace, within = shop.workspaces["engineering"], {"organization_id": shop.organization_id}
    account = {"name": f"agent desk {shop.run} {time.time_ns()}", "workspace_id": workspace, **within}
    made = shop.owner.call("POST", "/admin/v1/service-accounts", account)
    require(made.status == 201, "a service account is made", made)
    # It is a developer of its workspace by its making; the key says what of that it may do.
    scopes = ["inference", "requests:read", "agents:read", "agents:write", "agents:approve"]
    body = {"workspace_id": workspace, "scopes": scopes, "service_account": made.body["id"], "name": "agent desk"}
    key = shop.owner.call("POST", "/admin/v1/keys", body | within)
    require(key.status == 201, "it has a key", key)
    return Platform(shop.url, key.body["key"])


def _submit(desk: Platform, command: str) -> str:
    made = desk.call(
        "POST",
        _TASKS,
        {
            "goal": "make the refund tests pass",
            "model": "repair-search",
            "repo": {"kind": "files", "files": {"refunds.py": REFUNDS, "test_refunds.py": TESTS}},
            "target": "refunds.py",
            "test": {"command": command, "timeout_s": 60},
            "verify": {"command": "python3 check.py", "files": {"check.py": CHECK}, "expect": "refunds are right"},
        },
    )
    require(made.status == 201, "the task is taken in", made)
    return str(made.body["id"])


def _cancel_one(desk: Platform) -> dict[str, Any]:
    """Cancel a task whose test never ends, and return the proof that nothing of it runs."""
    task_id = _submit(desk, "sleep 600")
    _until_step(desk, task_id, 6)
    asked = desk.call("POST", f"{_TASKS}/{task_id}/cancel", {"reason": "the tour changed its mind"})
    require(asked.status == 202, "the cancel is taken", asked)
    canceled = _until(desk, task_id)
    proof = (canceled["cancel"] or {}).get("proof") or {}
    is_proved = canceled["state"] == "canceled" and proof.get("kind") == "namespace_empty"
    require(is_proved, f"it is canceled with proof: {canceled['state']} {proof}")
    return dict(proof)


def _get(desk: Platform, task_id: str) -> dict[str, Any]:
    found = desk.call("GET", f"{_TASKS}/{task_id}?include=steps,diff")
    require(found.status == 200, "the task can be read", found)
    return dict(found.body)


def _until(desk: Platform, task_id: str) -> dict[str, Any]:
    deadline = time.perf_counter() + _WAIT_S
    while True:
        task = _get(desk, task_id)
        if task["state"] in _FINAL:
            return task
        require(time.perf_counter() < deadline, f"{task_id} ends within {_WAIT_S} s, it is {task['state']}")
        time.sleep(0.1)


def _until_step(desk: Platform, task_id: str, seq: int) -> None:
    """Wait until a tool of this step runs."""
    deadline = time.perf_counter() + _WAIT_S
    while len(_get(desk, task_id)["steps"]) < seq:
        require(time.perf_counter() < deadline, f"{task_id} gets to step {seq}")
        time.sleep(0.05)
    time.sleep(0.3)
