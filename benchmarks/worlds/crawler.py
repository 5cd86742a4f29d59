"""A practice web in a process of its own, and crawls of it by a platform that a user would start."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from examples.shop.client import Platform

from benchmarks.idle import platform


@contextmanager
def practice_web(*knobs: str) -> Iterator[dict[str, Any]]:
    """Yield the description of a practice web."""
    argv = [sys.executable, "-m", "interlock", "crawl", "practice-web", *knobs]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


@contextmanager
def crawling(web: dict[str, Any], *flags: str) -> Iterator[tuple[Platform, Any]]:
    """Yield a platform that may crawl the web, as its owner sees it, and its data directory."""
    allow = f"127.20.0.0/16:{web['port']}"
    roles = ("--engine", "none", "--roles", "edge,control,worker", "--edge-workers", "1")
    with platform(*roles, "--crawl-allow", allow, *flags) as (data, _):
        url = (data / "run" / "url").read_text().strip()
        yield Platform(url, (data / "owner.key").read_text().strip()), data


def start(owner: Platform, seeds: list[str], **spec: Any) -> str:
    """Start a crawl and return its id."""
    made = owner.call("POST", "/v1/crawls", {"seeds": seeds, **spec})
    if made.status != 201:
        raise SystemExit(f"the crawl did not start: {made.body}")
    return str(made.body["id"])


def ended(owner: Platform, crawl: str, seconds: float) -> dict[str, Any]:
    """Wait for the end of a crawl."""
    deadline = time.monotonic() + seconds
    while True:
        shown = owner.call("GET", f"/v1/crawls/{crawl}").body
        if shown["state"] == "finished" or time.monotonic() > deadline:
            return dict(shown)
        time.sleep(0.2)


def arrivals(web: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the whole log of the web."""
    rows: list[dict[str, Any]] = []
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", web["port"], timeout=10)
        connection.request("GET", f"/_log?since={len(rows)}")
        answer = json.loads(connection.getresponse().read())
        connection.close()
        rows += answer["data"]
        if not answer["data"]:
            return rows
