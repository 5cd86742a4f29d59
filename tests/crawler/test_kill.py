"""Ten kills of the worker in one crawl of a real platform: nothing is lost, nothing is visited twice inside a lease."""

import asyncio
import os
import signal
import threading
import time
from collections import Counter

import asyncpg
import pytest

from interlock.crawler.adapters.practice_pages import Knobs
from interlock.crawler.adapters.practice_web import PracticeWeb
from interlock.foundation.clock import SystemClock
from tests.support.platform import remove, start

pytestmark = [pytest.mark.real, pytest.mark.timeout(1_200)]
PAGES, HOSTS, KILLS = 200, 10, 10
LEASED = "SELECT count(*) FROM crawler_urls WHERE state = 'leased' AND kind = 'page'"


class Served:
    """A practice web in a thread of its own, so that it answers while the test waits for commands."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.web = PracticeWeb(Knobs(hosts=HOSTS, pages=PAGES, page_kb=1, links=8, latency_ms=5), SystemClock())
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.web.start(), self.loop).result(240)

    def close(self):
        asyncio.run_coroutine_threadsafe(self.web.close(), self.loop).result(240)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(240)
        self.loop.close()


async def test_every_url_survives_ten_kills():
    served = Served()
    port = served.web.port
    try:
        arguments = ("--engine", "none", "--roles", "edge,control,worker", "--edge-workers", "1",
                     "--crawl-allow", f"127.20.0.0/16:{port}")  # fmt: skip
        # One that is held still to be counted is not hung.
        quick = {
            "INTERLOCK_SUPERVISOR__DEATHS_MAX": "100", "INTERLOCK_SUPERVISOR__BACKOFF_MAX_S": "0.2",
            "INTERLOCK_SUPERVISOR__HEARTBEAT_TIMEOUT_S": "600",
        }  # fmt: skip
        running = start(*arguments, env=quick)
        try:
            await crawl_and_kill(running, served.web, port)
        finally:
            remove(running)
    finally:
        served.close()


async def crawl_and_kill(running, web, port):
    seeds = [f"http://127.20.0.{host}:{port}/" for host in range(1, HOSTS + 1)]
    body = {"seeds": seeds, "politeness": {"delay_s": 0.02}, "extract": "none"}
    started = running.owner.call("POST", "/v1/crawls", body)
    assert started.status == 201, started.body
    crawl, leased_at_kills = started.body["id"], 0
    url = running.cli("store", "url", "--role", "superuser").stdout.strip()
    for kill in range(KILLS):
        wanted = (kill + 1) * PAGES * HOSTS // (KILLS + 2)
        await until(lambda wanted=wanted: len(web.log) >= wanted)
        pid = running.pid("worker")
        # Stopped first, so that what is leased can be counted while nothing moves.
        os.kill(pid, signal.SIGSTOP)
        leased_at_kills += await leased(url)
        os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: running.pid("worker") not in {pid, None})
        print(f"kill {kill + 1}: {len(web.log)} requests, {leased_at_kills} leased at the kills", flush=True)
    shown = {}

    def ended():
        shown.update(running.owner.call("GET", f"/v1/crawls/{crawl}").body)
        return shown["state"] == "finished"

    await until(ended, seconds=600)
    counts = shown["counts"]
    assert counts["discovered"] == PAGES * HOSTS
    assert counts["done"] == PAGES * HOSTS
    visits = Counter((each.host, each.path) for each in web.log if each.path not in {"/robots.txt", "/sitemap.xml"})
    assert len(visits) == PAGES * HOSTS
    refetched = sum(visits.values()) - len(visits)
    print(f"refetched {refetched}, leased at the kills {leased_at_kills}")
    assert refetched <= leased_at_kills


async def until(is_so, seconds=400.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.02)


async def leased(url):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(LEASED)
    finally:
        await connection.close()
