"""Engines that are killed, stand still or lie in the middle of streams: what the caller sees, and that nothing leaks.

Real processes: `interlock up`, and `interlock engine fake` for the engines that are killed and stopped.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from interlock.scheduler import FakeEngine, Fault, Script
from interlock.scheduler.adapters.fake_engine import Shape
from interlock.scheduler.domain.engines import Dialect
from tests.journeys.engines import scripted_engine
from tests.journeys.processes import PATIENCE_S, until
from tests.journeys.test_pools import Scheduler
from tests.support.platform import ROOT, remove, start

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
# What stands still here stands still until the test lets it go on, so it may be found out soon.
SOON = {
    "INTERLOCK_SCHEDULER__PROBE_TIMEOUT_S": "2",
    "INTERLOCK_SCHEDULER__PROBE_FAILURES_MAX": "2",
    "INTERLOCK_SCHEDULER__CANARY_TIMEOUT_S": "6",
    "INTERLOCK_SCHEDULER__ENGINE_SILENT_S": "4",
}
SLOTS = 2
LONG = 4_000


class Process:
    """`interlock engine fake` in a process of its own, a few tokens a second."""

    def __init__(self, port=0):
        command = [sys.executable, "-m", "interlock", "engine", "fake", "--port", str(port), "--slots", str(SLOTS)]
        command += ["--profile", "embedded-cpu", "--speed", "0.1"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        line = next(each for each in self._process.stdout if each.startswith("ready "))
        self.url = line.split()[1]
        self.port = urlsplit(self.url).port

    def signal(self, number):
        os.kill(self._process.pid, number)

    def end(self):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()


class Stream:
    """A streamed answer that is read by the test, an event at a time."""

    def __init__(self, platform, alias, max_tokens=LONG):
        self._connection = http.client.HTTPConnection(urlsplit(platform.url).netloc, timeout=PATIENCE_S)
        body = {"model": alias, "messages": [{"role": "user", "content": "hello"}], "max_tokens": max_tokens}
        headers = {"authorization": f"Bearer {platform.owner_key}", "content-type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps({**body, "stream": True}), headers)
        self._answer = self._connection.getresponse()
        self.status, self.request_id = self._answer.status, self._answer.headers["x-request-id"]

    def events(self):
        with closing(self._connection), self._answer:
            for line in self._answer:
                if line.startswith(b"data: "):
                    yield line.removeprefix(b"data: ").strip().decode()


class Pool:
    """A pool of the platform and the alias that leads to it."""

    def __init__(self, platform, name, urls, adapter="vllm"):
        self.platform, self.name = platform, name
        engine = {"adapter": adapter, "model": "fake", "prefill_tps": 1_000_000, "slots": SLOTS}
        self.made("POST", "pools", {"name": name, "engines": [{"url": url, **engine} for url in urls]})
        # However slow the machine is, who waits may do so.
        late = {f"interactive.{each}": "3600000" for each in ("ttft_ms", "tpot_ms")}
        self.made("PUT", f"pools/{name}", {"settings": late})
        self.made("POST", "providers", {"name": name, "kind": "pool", "base_url": f"pool:{name}"})
        self.made("POST", "deployments", {"name": name, "provider": name, "upstream_model": "fake"})
        self.made("POST", "routes", {"alias": name, "targets": [{"deployment": name}]})
        until(lambda: set(self.states().values()) == {"ready"}, what="the pool's engines")
        until(lambda: self.ask()[0] == 200, what="an answer of the pool")
        self.leaks_nothing()

    def made(self, method, path, body=None):
        """Change something of the platform over HTTP; the commands have journeys of their own."""
        answer = self.platform.owner.call(method, f"/admin/v1/{path}", body)
        assert answer.status < 300, answer

    def view(self):
        return Scheduler(self.platform).call("GET", f"pools/{self.name}")[1]

    def states(self):
        return {each["url"]: each["state"] for each in self.view().get("engines", [])}

    def busy(self):
        return [each["url"] for each in self.view()["engines"] if each["granted"]]

    def ask(self, **changes):
        body = {"model": self.name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, **changes}
        answer = self.platform.owner.call("POST", "/v1/chat/completions", body)
        return answer.status, answer.error.get("code"), answer.request_id

    def leaks_nothing(self):
        """Seats, slots, unread prompts and KV are what they were before the first request."""

        def held():
            view = self.view()
            engines = [(each["granted"], each["prefill_left"], each["kv_reserved"]) for each in view["engines"]]
            return (view["queued"], view["granted"], *(each for one in engines for each in one))

        until(lambda: not any(held()), what=f"the end of all that {self.name} holds: {held()}")

    def remove(self):
        self.made("DELETE", f"pools/{self.name}")


@pytest.fixture(scope="module")
def platform():
    running = start("--engine", "none", "--edge-workers", "1", env=SOON)
    yield running
    remove(running)


@pytest.fixture
def pair(platform, request):
    """Two engine processes behind one pool."""
    engines = [Process(), Process()]
    pool = Pool(platform, f"pair{abs(hash(request.node.name)) % 10_000}", [each.url for each in engines])
    yield pool, {each.url: each for each in engines}
    pool.remove()
    for each in engines:
        each.end()


def begun(pool):
    """A stream whose first words came, and the engine that it runs on."""
    stream = Stream(pool.platform, pool.name)
    assert stream.status == 200
    events = stream.events()
    next(events)
    [url] = pool.busy()
    return stream, events, url


def ended(pool, stream, events):
    """The code of the event that ended a stream, and how its story ended."""
    last = json.loads(list(events)[-1])
    story = pool.platform.story(stream.request_id)
    return last["error"]["code"], story["outcome"], story["rule"]


def test_a_replica_that_is_killed_in_the_middle_ends_its_streams_and_takes_nobody_elses(pair):
    pool, engines = pair
    stream, events, url = begun(pool)
    engines[url].signal(signal.SIGKILL)
    assert ended(pool, stream, events) == ("upstream_stream_cut", "stream_cut", "upstream.broken")
    # Whoever comes is asked again on the other one, before and after it is known.
    answers = Counter(pool.ask()[:2] for _ in range(4))
    until(lambda: pool.states()[url] == "down", what="the end of the killed engine")
    answers += Counter(pool.ask()[:2] for _ in range(4))
    assert answers == {(200, None): 8}
    pool.leaks_nothing()
    engines[url].end()
    engines[url] = again = Process(engines[url].port)
    try:
        until(lambda: pool.states()[url] == "ready", what="its return")
    finally:
        again.end()


def test_a_replica_that_stands_still_ends_its_streams_as_timeouts_and_comes_back(pair):
    pool, engines = pair
    stream, events, url = begun(pool)
    engines[url].signal(signal.SIGSTOP)
    assert ended(pool, stream, events) == ("upstream_timeout", "stream_cut", "grant.engine_silent")
    assert pool.states()[url] == "down"
    assert Counter(pool.ask()[:2] for _ in range(2 * SLOTS + 1)) == {(200, None): 2 * SLOTS + 1}
    pool.leaks_nothing()
    engines[url].signal(signal.SIGCONT)
    until(lambda: pool.states()[url] == "ready", what="its return")
    both = [begun_anywhere(pool) for _ in range(2 * SLOTS)]
    assert sorted(pool.busy()) == sorted(engines)
    for each in both:
        each.close()
    pool.leaks_nothing()


def begun_anywhere(pool):
    events = Stream(pool.platform, pool.name).events()
    next(events)
    return events


def test_a_replica_whose_pages_answer_while_its_streams_stand_still_is_found_out(platform):
    with scripted_engine() as engine:
        pool = Pool(platform, "hangs", [engine.url], adapter="openai")
        hangs = Script(tokens=9, fault=Fault.HANG, fault_after_events=3)
        with engine.playing(hangs):
            stream = Stream(platform, "hangs")
            seen = list(stream.events())
            assert (len(seen), json.loads(seen[-1])["error"]["code"]) == (4, "upstream_timeout")
            story = platform.story(stream.request_id)
            assert (story["outcome"], story["rule"]) == ("stream_cut", "grant.engine_silent")
            assert pool.states()[engine.url] == "down"
            assert pool.ask()[:2] == (503, "no_capacity")
            pool.leaks_nothing()
        until(lambda: pool.states()[engine.url] == "ready", what="its return")
        assert pool.ask()[0] == 200
        pool.leaks_nothing()
        pool.remove()


class Liar(FakeEngine):
    """Serves honestly, no more than it can, and says something else on its pages."""

    lie = {}  # noqa: RUF012 - one engine a test
    most = 0

    def _state(self):
        return replace(super()._state(), **self.lie)

    @contextmanager
    def _counted(self):
        with super()._counted():
            self.most = max(self.most, self._statistics.running)
            yield


@pytest.mark.parametrize(
    "lie",
    [
        {"running": 0, "waiting": 0},
        {"running": 10**9, "waiting": 10**9, "held_tokens": 10**15},
        {"running": -7, "waiting": -7, "held_tokens": -(10**9)},
    ],
    ids=["idle while it is full", "absurdly busy", "less than nothing"],
)
def test_pages_that_lie_give_no_seat_too_many_and_stop_no_pool(platform, lie, request):
    with scripted_engine(kind=Liar, shape=Shape(dialect=Dialect.VLLM, slots=SLOTS)) as engine:
        engine.fake.lie = lie
        pool = Pool(platform, f"lies{request.node.callspec.indices['lie']}", [engine.url])
        engine.fake.most = 0
        gate = threading.Barrier(3 * SLOTS)
        with engine.playing(Script(tokens=30, token_s=0.1)):

            def ask(_):
                gate.wait(PATIENCE_S)
                return pool.ask(max_tokens=30)[:2]

            with ThreadPoolExecutor(3 * SLOTS) as threads:
                answers = Counter(threads.map(ask, range(3 * SLOTS)))
        assert answers == {(200, None): 3 * SLOTS}
        assert 1 <= engine.fake.most <= SLOTS
        assert pool.states()[engine.url] == "ready"
        pool.leaks_nothing()
        pool.remove()
