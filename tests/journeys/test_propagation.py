"""A change that takes something away is in force soon, through every edge process.

A few rounds each: every edge comes to refuse, and none serves again once it did. That it takes no second is what
`make bench B=propagation` measures, over four processes.
"""

import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from itertools import groupby

import pytest

from tests.journeys.processes import PATIENCE_S, await_each_edge, connections_to_each_edge, lives, until

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
CHAT = "/v1/chat/completions"
ROUNDS = 3
BODY = json.dumps({"model": "default", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})


class Callers:
    """One caller on each edge process, calling all the time; keeps when each call began and how it ended."""

    def __init__(self, each_edge, key):
        self.seen = {name: [] for name in each_edge}
        self._is_over = threading.Event()
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._threads = [threading.Thread(target=self._call, args=each) for each in each_edge.items()]

    def _call(self, name, connections):
        connection = connections[0]
        while not self._is_over.is_set():
            began = time.monotonic()
            connection.request("POST", CHAT, BODY, self._headers)
            answer = connection.getresponse()
            content = answer.read()
            code = json.loads(content)["error"]["code"] if answer.status != 200 else ""
            self.seen[name].append((began, answer.status, code))
            # Refusals are few: an address that fails a hundred times a minute is told to wait instead.
            time.sleep(0.005 if answer.status == 200 else 0.1)

    def all_say(self, *statuses):
        return all(calls and calls[-1][1] in statuses for calls in self.seen.values())

    def last_accepted(self):
        """The latest moment at which a call began that was served, over all edges."""
        return max((began for calls in self.seen.values() for began, status, _ in calls if status == 200), default=0.0)

    def is_final(self, status):
        """Whether no edge served a call after one that it refused with this status."""
        said = [[status for _, status, _ in calls] for calls in self.seen.values()]
        return all(200 not in each[each.index(status) :] for each in said if status in each)

    def turns(self):
        """What each edge answered, as `(status, code)` in its order, without repetitions."""
        return {name: [each for each, _ in groupby(call[1:] for call in calls)] for name, calls in self.seen.items()}

    def codes(self):
        return {code for calls in self.seen.values() for _, _, code in calls if code}

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join(240)


@contextmanager
def callers(running, key):
    """Yield callers that are served through both edges."""
    with connections_to_each_edge(running) as each_edge, Callers(each_edge, key) as calling:
        until(lambda: calling.all_say(200), PATIENCE_S, "the first answers")
        yield calling


def test_a_revoked_key_is_refused_everywhere(scripted):
    delays = []
    for number in range(ROUNDS):
        key = scripted.key(f"to be revoked {number}")
        with callers(scripted, key["key"]) as calling:
            began = time.monotonic()
            if number == 0:
                revoked = scripted.cli("keys", "revoke", key["id"])
                assert revoked.returncode == 0, revoked.stderr
                began = time.monotonic()
            else:
                assert scripted.owner.call("DELETE", f"/admin/v1/keys/{key['id']}").status == 200
            until(lambda calling=calling: calling.all_say(401, 429), PATIENCE_S, "the refusal")
            delays.append(max(0.0, calling.last_accepted() - began))
        assert calling.is_final(401), calling.turns()
        assert calling.codes() - {"requests_limit"} == {"key_revoked"}
    delays.sort()
    print(f"revoked: last accepted call after p50 {delays[len(delays) // 2]:.3f} s, at most {delays[-1]:.3f} s")


def test_a_kill_switch_refuses_everywhere_and_lifting_it_serves_again(scripted):
    key = scripted.key("under a switch")
    delays = []
    with callers(scripted, key["key"]) as calling:
        for _ in range(ROUNDS):
            body = {"scope": "key", "target": key["id"], "mode": "reject", "reason": "a journey"}
            began = time.monotonic()
            made = scripted.owner.call("POST", "/admin/v1/kill-switches", body)
            assert made.status == 201, made
            # The answer waits a second at most, and then names who has not confirmed.
            assert made.body["missing"] == [] or made.body["propagation_ms"] >= 1_000
            until(lambda: calling.all_say(503), PATIENCE_S, "the refusal")
            delays.append(max(0.0, calling.last_accepted() - began))
            lifted = scripted.owner.call("DELETE", f"/admin/v1/kill-switches/{made.body['id']}", {"reason": "over"})
            assert lifted.status == 200
            until(lambda: calling.all_say(200), PATIENCE_S, "service after the switch")
        assert calling.codes() == {"killed"}
    delays.sort()
    print(f"killed: last accepted call after p50 {delays[len(delays) // 2]:.3f} s, at most {delays[-1]:.3f} s")


def test_a_local_kill_works_with_the_store_and_control_dead(scripted):
    key = scripted.key("local")
    supervisor, store, control = (scripted.pid(role) for role in ("supervisor", "store", "control"))
    with callers(scripted, key["key"]) as calling:
        # A stopped supervisor brings nobody back.
        os.kill(supervisor, signal.SIGSTOP)
        try:
            for pid in (store, control):
                os.kill(pid, signal.SIGKILL)
            until(lambda: not lives(store) and not lives(control), PATIENCE_S, "the end of store and control")
            assert scripted.owner.call("GET", "/admin/v1/keys").status == 502
            made = scripted.cli(
                "kill", "on", "gateway", "*", "--mode", "reject", "--reason", "fire", "--local", "--json"
            )
            began = time.monotonic()
            assert made.returncode == 0, made.stderr
            until(lambda: calling.all_say(503), PATIENCE_S, "the refusal")
            delay_s = max(0.0, calling.last_accepted() - began)
            switch = json.loads(made.stdout)["id"]
            lifted = scripted.cli("kill", "off", switch, "--local")
            assert lifted.returncode == 0, lifted.stderr
            until(lambda: calling.all_say(200), PATIENCE_S, "service after the switch")
        finally:
            os.kill(supervisor, signal.SIGCONT)
    print(f"killed by a file: last accepted call {delay_s:.3f} s after the command ended")
    until(lambda: scripted.pid("control") not in {None, control}, PATIENCE_S, "a new control")
    until(lambda: scripted.owner.call("GET", "/admin/v1/keys").status == 200, PATIENCE_S, "control's answers")
    scripted.await_ready()
    # Each edge finds its store again by itself; one that knows a key which was made now has.
    await_each_edge(scripted, scripted.key("after the store")["key"], json.loads(BODY))


def test_a_role_that_came_with_a_group_goes_with_it_within_a_second(scripted):
    owner, run = scripted.owner, time.monotonic_ns()
    account = owner.call(
        "POST", "/admin/v1/service-accounts", {"name": f"bot {run}", "workspace_id": scripted.workspace()}
    )
    group = owner.call("POST", "/admin/v1/groups", {"name": f"admins {run}"})
    assert (account.status, group.status) == (201, 201), (account, group)
    member = {"principal": f"group:{group.body['id']}", "role": "admin"}
    assert owner.call("POST", "/admin/v1/memberships", member).status == 201
    path = f"/admin/v1/groups/{group.body['id']}/members/sa:{account.body['id']}"
    joined = owner.call("PUT", path)
    assert joined.status == 200, joined
    fields = {"scopes": ["admin:read"], "service_account": account.body["id"]}
    bot = scripted.as_key(scripted.key(f"bot {run}", **fields)["key"])
    delays, epochs = [], [joined.body["epoch"]]
    for _ in range(ROUNDS):
        until(lambda: bot.call("GET", "/admin/v1/groups").status == 200, PATIENCE_S, "the role")
        began = time.monotonic()
        left = owner.call("DELETE", path)
        assert left.status == 200
        assert left.body["consistency_token"]
        until(lambda: bot.call("GET", "/admin/v1/groups").status == 403, PATIENCE_S, "the refusal")
        delays.append(time.monotonic() - began)
        joined = owner.call("PUT", path)
        epochs += [left.body["epoch"], joined.body["epoch"]]
    assert epochs == sorted(set(epochs)), "each change has an epoch above the last one"
    print(f"group left: refused after at most {max(delays):.3f} s")
