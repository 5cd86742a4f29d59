"""Kills: each role, the store under writers, a stopped store, the supervisor. What was answered 2xx is still there.

Five kills of the store here; `make bench B=store_recovery_up` does twenty and prints how long each took, and
`make bench B=restart` how fast each role is back. These tests are patient, since others share the cores with them.
"""

import json
import os
import signal
import threading
import time
from collections import Counter

import pytest

from tests.gateway.worlds import unknown_key
from tests.journeys.processes import connections_to_each_edge, lives, pids, tree, until
from tests.journeys.test_pools import Scheduler
from tests.support.platform import remove, start

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
BACK_S = 240.0
KILLS = 5
WRITERS = 8
WRITTEN = 40
STOPPED_S = 3.5
# A question to a store that stands still is given up after a second; until then nobody knows that it does.
UNGRANTED_S = 6.0
# A store that stands still is to be found out while the test waits for it.
PULSE = {"INTERLOCK_STORE__PULSE_TIMEOUT_MS": "2000", "INTERLOCK_STORE__CONNECT_TIMEOUT_MS": "2000"}
# What a test stops, the supervisor must not take for hung and end, however slow the machine is.
STILL = {"INTERLOCK_SUPERVISOR__HEARTBEAT_TIMEOUT_S": "600"}
HELLO = {"model": "default", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def platform():
    running = start("--engine", "embedded", "--edge-workers", "2", "--schedulers", "2", env=PULSE | STILL)
    yield running.promise_late()
    remove(running)


@pytest.mark.parametrize("name", ["edge-0", "edge-1", "control-0", "worker-0", "scheduler-0", "engine-0", "store-0"])
def test_a_killed_role_is_back_within_seconds(platform, name):
    role, _, index = name.partition("-")
    before = platform.pid(role, int(index))
    os.kill(before, signal.SIGKILL)
    took_s = until(lambda: platform.pid(role, int(index)) not in {None, before}, BACK_S, f"a new {name}")
    took_s += platform.await_ready(BACK_S)
    listed = until(lambda: platform.owner.call("GET", "/admin/v1/workspaces").status == 200, BACK_S, "control")
    print(f"{name}: ready after {took_s:.2f} s, control answers after {took_s + listed:.2f} s")


def said(platform, method, path, body=None, **options):
    """What is answered while the store is up; one that stands still with its machine is soon taken for away."""
    found = []

    def is_answered():
        found.append(platform.owner.call(method, path, body, **options))
        return found[-1].error.get("code") != "store_unavailable"

    until(is_answered, BACK_S, "an answer with the store up")
    return found[-1]


def new_key(platform, name):
    return key_object(platform, name)["key"]


def key_object(platform, name):
    body = {"workspace_id": said(platform, "GET", "/admin/v1/workspaces").body["data"][0]["id"], "name": name}
    made = said(platform, "POST", "/admin/v1/keys", {**body, "scopes": ["inference", "requests:read"]})
    assert made.status == 201, made
    return made.body


def test_after_all_kills_a_model_still_answers(platform):
    caller, answers = platform.as_key(new_key(platform, "after the kills")), []

    def is_answered():
        # An engine that was killed a moment ago still loads, and says so.
        answers.append(caller.call("POST", "/v1/chat/completions", HELLO))
        assert answers[-1].status in {200, 429, 502, 503}, answers[-1]
        return answers[-1].status == 200

    until(is_answered, BACK_S, "an answer")
    assert platform.story(answers[-1].request_id)["outcome"] == "ok"


def leaders(platform):
    """What each scheduler that is asked says of the pool: the leader answers, others name it; 0 of one that is away."""
    return [told_by(platform, name) for name in ("scheduler.sock", "scheduler-1.sock")]


def told_by(platform, name):
    try:
        return Scheduler(platform, platform.directory / "run" / name).call("GET", "pools/embedded")[0]
    except OSError:
        return 0


def test_a_stopped_leader_is_passed_and_finds_it_out(platform):
    caller = platform.as_key(new_key(platform, "while the leader is stopped"))
    index = await_one_leader(platform)
    stopped = platform.pid("scheduler", index)
    other = "scheduler-1.sock" if index == 0 else "scheduler.sock"
    os.kill(stopped, signal.SIGSTOP)
    try:
        until(lambda: told_by(platform, other) == 200, BACK_S, "another leader")
        until(lambda: caller.call("POST", "/v1/chat/completions", HELLO).status == 200, BACK_S, "an answer")
    finally:
        os.kill(stopped, signal.SIGCONT)
    until(lambda: sorted(leaders(platform)) == [200, 421], BACK_S, "one leader alone")
    assert platform.pid("scheduler", index) == stopped


def await_one_leader(platform):
    """Return the index of the scheduler that leads while the other knows it."""
    told = []

    def is_led():
        told[:] = leaders(platform)
        return sorted(told) == [200, 421]

    until(is_led, BACK_S, "one leader alone")
    return told.index(200)


def is_granted(platform, path, name):
    """Whether a scheduler gives a place within the moments that a grant takes; the call is left after them."""
    asked = {"pool": "embedded", "class": "interactive", "input_tokens": 10, "max_tokens": 2}
    scheduler = Scheduler(platform, path, timeout_s=UNGRANTED_S)
    try:
        status, body = scheduler.acquire(name, **asked)
    except TimeoutError:
        return False
    if status == 200:
        scheduler.settle(body["grant_id"])
    return status == 200


def test_a_passed_leader_that_wakes_while_the_store_stands_still_grants_nothing(platform):
    # Who leads and stood still itself for a part of its lease rightly grants nothing either: then it is played anew.
    until(lambda: is_who_leads_granting_beside_a_passed_one(platform), BACK_S, "a grant of who leads")


def is_who_leads_granting_beside_a_passed_one(platform):
    """Stop the leader, then the store, and wake the leader, who may grant nothing; tell whether the other one does."""
    index = await_one_leader(platform)
    sockets = [platform.directory / "run" / name for name in ("scheduler.sock", "scheduler-1.sock")]
    passed, other = sockets[index], sockets[1 - index]
    until(lambda: is_granted(platform, passed, "req_before"), BACK_S, "a grant of the leader")
    store, stopped = tree(platform.pid("store")), [platform.pid("scheduler", index)]
    os.kill(stopped[0], signal.SIGSTOP)
    try:
        until(lambda: Scheduler(platform, other).call("GET", "pools/embedded")[0] == 200, BACK_S, "another leader")
        stopped += store
        for pid in store:
            os.kill(pid, signal.SIGSTOP)
        os.kill(stopped[0], signal.SIGCONT)
        # It still believes that it leads: nobody can tell it.
        until(lambda: Scheduler(platform, passed).call("GET", "pools/embedded")[0] == 200, BACK_S, "its belief")
        assert not is_granted(platform, passed, "req_passed")
        is_led = any(is_granted(platform, other, "req_led") for _ in range(3))
    finally:
        for pid in stopped:
            if lives(pid):
                os.kill(pid, signal.SIGCONT)
    until(lambda: Scheduler(platform, passed).call("GET", "pools/embedded")[0] == 421, BACK_S, "its insight")
    return is_led


class Writers:
    """Threads that create workspaces, each under its own Idempotency-Key, until they are told to stop."""

    def __init__(self, platform, prefix):
        self.made = {}
        self.statuses = Counter()
        self.broken = []
        self._platform = platform
        self._prefix = prefix
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join(240)

    def _write(self, number):
        owner, count = self._platform.owner, 0
        while not self._is_over.is_set():
            count += 1
            name = f"{self._prefix}-{number}-{count}"
            status = 0
            while status != 201 and not self._is_over.is_set():
                try:
                    answer = owner.call("POST", "/admin/v1/workspaces", {"name": name}, idempotency_key=name)
                except OSError as error:
                    self.broken.append(repr(error))
                    continue
                status = answer.status
                self.statuses[status] += 1
                if status == 201:
                    self.made[name] = answer.body["id"]
                else:
                    time.sleep(0.05)


def listed_workspaces(platform):
    found, cursor = {}, ""
    while True:
        page = said(platform, "GET", f"/admin/v1/workspaces?limit=200{cursor}")
        assert page.status == 200, page
        found |= {each["name"]: each["id"] for each in page.body["data"]}
        if page.body["next_cursor"] is None:
            return found
        cursor = f"&cursor={page.body['next_cursor']}"


def test_kills_of_the_store_under_writers_lose_no_acknowledged_write(platform):
    with Writers(platform, "write") as writers:
        for number in range(KILLS):
            known = len(writers.made)
            until(lambda known=known: len(writers.made) >= known + WRITTEN, BACK_S, "writes between the kills")
            before = platform.pid("store")
            os.kill(before, signal.SIGKILL)
            until(lambda before=before: platform.pid("store") not in {None, before}, BACK_S, "a new store")
            known = len(writers.made)
            until(lambda known=known: len(writers.made) > known, BACK_S, f"a write after kill {number + 1}")
    assert writers.broken == []
    assert set(writers.statuses) <= {201, 429, 503}, writers.statuses
    assert writers.statuses[503], "no writer met the kills"
    print(f"{KILLS} kills, statuses {dict(writers.statuses)}, acknowledged {len(writers.made)}")
    listed = listed_workspaces(platform)
    assert {name: listed.get(name) for name in writers.made} == writers.made
    for name in list(writers.made)[:: max(1, len(writers.made) // 20)]:
        again = said(platform, "POST", "/admin/v1/workspaces", {"name": name}, idempotency_key=name)
        assert (again.status, again.body["id"]) == (201, writers.made[name])
        assert again.headers["x-interlock-replayed"] == "true"
    verified = platform.cli("audit", "verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert json.loads(verified.stdout)["events"] >= len(writers.made)


def ask(connection, key):
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(HELLO), headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_stopped_store_is_said_while_it_stands_and_known_keys_go_on(platform):
    known = key_object(platform, "known")
    key = known["key"]
    with connections_to_each_edge(platform) as each_edge:
        opened = [connection for (connection,) in each_edge.values()]
        assert [ask(each, key)[0] for each in opened] == [200, 200]
        strangers = []

        def ask_both():
            strangers.append(ask(opened[0], unknown_key()))
            return [ask(each, key) for each in opened]

        refuse_while_stopped(platform, ask_both)
    assert [(status, b"identity_unavailable" in body) for status, body in strangers] == [(503, True)]
    until(lambda: platform.owner.call("GET", "/admin/v1/workspaces").status == 200, BACK_S, "recovery")
    platform.await_ready(BACK_S)
    until(lambda: used_by(platform, known["id"]) == 4, BACK_S, "the usage of what was answered meanwhile")


def used_by(platform, key_id):
    told = platform.owner.call("GET", "/v1/usage?group_by=key&bucket=day")
    return sum(each["requests"] for each in told.body["data"] if each["key_id"] == key_id) if told.status == 200 else 0


def refuse_while_stopped(platform, ask_both):
    store = platform.pid("store")
    stopped = tree(store)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        refused = []
        while time.monotonic() - began < STOPPED_S or len(refused) < 2:
            answer = platform.owner.call("POST", "/admin/v1/workspaces", {"name": "while stopped"})
            refused.append((answer.status, answer.error.get("code"), answer.seconds))
            time.sleep(0.1)
        served = ask_both()
    finally:
        for pid in stopped:
            if lives(pid):
                os.kill(pid, signal.SIGCONT)
    slowest_s = max(seconds for _, _, seconds in refused)
    print(f"stopped store: {len(refused)} refusals, the slowest after {slowest_s:.2f} s")
    assert {(status, code) for status, code, _ in refused} == {(503, "store_unavailable")}
    # All of it was said while the store stood still: it goes on only behind the block above.
    assert [status for status, _ in served] == [200, 200], served


def test_after_a_kill_of_the_supervisor_up_finds_the_same_data_and_down_leaves_no_orphan():
    running = start("--engine", "none", "--edge-workers", "2")
    everyone = set()
    try:
        made = running.owner.call("POST", "/admin/v1/workspaces", {"name": "survivor"})
        assert made.status == 201
        named = pids(running.directory)
        everyone |= tree(named["supervisor"]) | tree(named["store-0"])
        os.kill(named["supervisor"], signal.SIGKILL)
        running.process.wait(240)
        others = [pid for name, pid in named.items() if name != "store-0"]
        until(lambda: not [pid for pid in others if lives(pid)], BACK_S, "the end of the children")
        running = start("--engine", "none", "--edge-workers", "2", directory=running.directory)
        assert listed_workspaces(running)["survivor"] == made.body["id"]
        named = pids(running.directory)
        everyone |= tree(named["supervisor"]) | tree(named["store-0"])
        down = running.cli("down")
        assert down.returncode == 0, down.stderr
        until(lambda: not [pid for pid in everyone if lives(pid)], BACK_S, "the end of everyone")
        verified = running.cli("audit", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        remove(running)
