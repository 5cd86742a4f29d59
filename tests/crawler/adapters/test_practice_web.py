"""The practice web: the same from the same seed, reachable, and a log that says when it was not left alone."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest

from interlock.crawler.adapters.practice_pages import Knobs, tree_page
from interlock.crawler.adapters.practice_web import PracticeWeb, address_of
from interlock.crawler.domain.types import FetchRequest
from interlock.foundation.clock import SystemClock
from tests.crawler.adapters.test_fetcher import fetching


@asynccontextmanager
async def practising(**knobs):
    web = PracticeWeb(Knobs(**knobs), SystemClock())
    await web.start()
    async with fetching() as fetcher:

        async def get(path: str, host: int = 1, **more):
            return await fetcher.fetch(FetchRequest(f"http://{address_of(host)}:{web.port}{path}", **more))

        yield web, get
    await web.close()


def test_addresses_never_leave_the_block():
    assert [address_of(number) for number in (1, 250, 251, 10_000)] == [
        "127.20.0.1", "127.20.0.250", "127.20.1.1", "127.20.39.250",
    ]  # fmt: skip


async def test_every_page_is_reached_from_the_first_and_hosts_differ_by_their_label():
    async with practising(hosts=2, pages=40, redirects=0.3) as (web, get):
        seen, todo = set(), ["/"]
        while todo:
            path = todo.pop()
            if path in seen:
                continue
            seen.add(path)
            found = await get(path)
            body = found.body.decode()
            todo += [part.partition('"')[0] for part in body.split('href="')[1:]]
            if found.status == 301:
                todo.append(found.header("location"))
        assert {path for path in seen if not path.startswith("/r/")} >= {"/", *(f"/p/{n}" for n in range(1, 40))}
        assert any(path.startswith("/r/") for path in seen)
        one, two = await get("/p/1"), await get("/p/1", host=2)
    assert one.body != two.body and len(one.body) == len(two.body)
    assert len(web.log) == len(seen) + 2


def test_one_seed_is_one_web():
    assert tree_page(Knobs(seed=3), 5, 0) == tree_page(Knobs(seed=3), 5, 0)
    assert tree_page(Knobs(seed=3), 5, 0) != tree_page(Knobs(seed=4), 5, 0)


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_failing_host_announces_a_window_and_logs_who_came_inside(form):
    knobs = {"error_share": 1.0, "error": 429, "error_every": 2, "clock_skew_s": -9_000}
    async with practising(**knobs, retry_after=form, retry_after_s=900) as (web, get):
        found = [await get("/") for _ in range(3)]
    assert [each.status for each in found] == [200, 429, 429]
    assert [row.is_inside for row in web.log] == [False, False, True]
    said = found[1].header("retry-after")
    assert said == "900" if form == "seconds" else said.endswith("GMT")


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        ("allow", 200, b"Allow: /"), ("deny", 200, b"Disallow: /\n"), ("partial", 200, b"/private/"),
        ("missing", 404, b""), ("5xx", 503, b""), ("delay=2.5", 200, b"Crawl-delay: 2.5"), ("huge", 200, b"# words"),
    ],
)  # fmt: skip
async def test_robots_of_each_kind(kind, status, body):
    async with practising(robots=kind, sitemap=True) as (_, get):
        found = await get("/robots.txt", truncate=True, body_bytes_max=512_000)
    assert (found.status, body in found.body) == (status, True)


async def test_pages_change_go_and_answer_unchanged():
    async with practising(pages=30, gone_share=1.0) as (web, get):
        assert [(await get("/p/3")).status for _ in range(2)] == [200, 410]
        web.gone.add((address_of(1), "/"))
        assert (await get("/")).status == 410
    async with practising(changes_per_visit=1.0) as (_, get):
        first, second = await get("/"), await get("/")
    assert first.body != second.body
    async with practising() as (_, get):
        first = await get("/")
        again = await get("/", etag=first.header("etag"))
    assert (again.status, again.body) == (304, b"")


async def test_doors_of_traps_stand_on_the_first_page_and_lead_on():
    traps = ("calendar", "session", "repeat", "facets", "soft404", "loop")
    async with practising(traps=traps, bombs=True, slow_loris=True, robots="partial") as (_, get):
        body = (await get("/")).body.decode()
        for door in ("/calendar/", "/session/", "/repeat/", "/facets/", "/loop/a", "/bomb", "/loris", "/private/1"):
            assert f'href="{door}"' in body
        assert b"/calendar/2026-02-01" in (await get("/calendar/")).body
        assert b"/repeat/deep/er/" in (await get("/repeat/")).body
        assert (await get("/loop/a")).header("location") == "/loop/b"
        assert (await get("/no-such-page")).status == 200
        assert (await get("/bomb")).fault == "decompression_bomb"
    async with practising() as (_, get):
        assert (await get("/no-such-page")).status == 404


async def test_a_slow_host_is_slow_and_a_copy_has_its_original_s_text():
    async with practising(hosts=2, slow_share=0.5, slow_ms=300, duplicates=1.0) as (_, get):
        slow, quick = await get("/"), await get("/", host=2)
        for _ in range(100):
            # A machine that stood still makes anything slow, but not each time.
            if quick.timings.total_ms < 295:
                break
            quick = await get("/", host=2)
        two, three = await get("/p/2", host=2), await get("/p/3", host=2)
    assert slow.timings.total_ms >= 295 > quick.timings.total_ms
    assert b"This is page 2" in three.body and b"This is page 1," in two.body


async def test_the_log_is_read_over_http_and_a_page_can_be_removed():
    async with practising() as (web, get), fetching() as fetcher:
        await get("/p/1")
        told = await fetcher.fetch(FetchRequest(f"http://127.0.0.1:{web.port}/_log?since=0"))
        await fetcher.fetch(FetchRequest(f"http://127.0.0.1:{web.port}/_gone?host=127.20.0.1&path=/p/1"))
        assert (await get("/p/1")).status == 410
        assert (await fetcher.fetch(FetchRequest(f"http://127.20.0.1:{web.port}/_log"))).status == 404
    shown = json.loads(told.body)
    assert shown["next"] == 1
    assert {key: shown["data"][0][key] for key in ("host", "path", "status", "inside_block")} == {
        "host": "127.20.0.1", "path": "/p/1", "status": 200, "inside_block": False,
    }  # fmt: skip


async def test_the_command_serves_until_it_is_told_to_stop():
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "interlock", "crawl", "practice-web", "--hosts", "3",
        "--traps", "loop", "--robots", "delay=2",
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONWARNINGS": "default"},
    )  # fmt: skip
    try:
        told = json.loads(await asyncio.wait_for(started.stdout.readline(), 240))
        async with fetching() as fetcher:
            found = await fetcher.fetch(FetchRequest(told["hosts"][2]))
        assert (found.status, len(told["hosts"])) == (200, 3)
    finally:
        started.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(started.wait(), 240) == 0


def _robots(tmp_path, body: bytes, *arguments: str):
    (tmp_path / "robots.txt").write_bytes(body)
    command = [sys.executable, "-m", "interlock", "crawl", "robots", str(tmp_path / "robots.txt"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_robots_says_the_line_and_exits_by_the_verdict(tmp_path):
    body = b"user-agent: *\ndisallow: /a\nallow: /a/b\x1b[31m\n"
    denied = _robots(tmp_path, body, "--agent", "InterlockBot", "http://h/a/x")
    assert (denied.returncode, denied.stdout) == (1, "disallow 2 Disallow: /a\n")
    allowed = _robots(tmp_path, body, "--agent", "InterlockBot", "http://h/a/b%1B[31m")
    assert (allowed.returncode, allowed.stdout) == (0, "allow 3 Allow: /a/b?[31m\n")
    bad = _robots(tmp_path, body, "--agent", "InterlockBot", "ftp://h/")
    assert bad.returncode == 2 and "invalid_url: scheme" in bad.stderr
