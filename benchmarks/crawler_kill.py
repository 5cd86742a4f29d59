"""Ten kills of the worker in one crawl of 2,000 pages whose text goes to the index: what is lost, what is twice.

Each page is one document: its text is its own. When the crawl has ended, pages and documents are counted by the API of
each side; requests are those that arrived.
"""

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from examples.shop.client import Platform

from benchmarks.record import record
from benchmarks.worlds.crawler import arrivals, crawling, ended, practice_web, start

HOSTS, PAGES, KILLS = 10, 200, 10
QUICK = {"INTERLOCK_SUPERVISOR__DEATHS_MAX": "100", "INTERLOCK_SUPERVISOR__BACKOFF_MAX_S": "0.2"}
PATIENCE_S = 240.0


def main() -> int:
    os.environ.update(QUICK)
    knobs = ("--hosts", str(HOSTS), "--pages", str(PAGES), "--page-kb", "2", "--links", "8")
    with practice_web(*knobs) as web, crawling(web) as (owner, data):
        politeness = {"delay_s": 0.02, "concurrency": 2}
        crawl = start(owner, web["hosts"], politeness=politeness, sources={"sitemaps": False})
        for kill in range(KILLS):
            wanted = (kill + 1) * HOSTS * PAGES // (KILLS + 2)
            until(lambda wanted=wanted: reached(owner, crawl) >= wanted)
            pid = worker_of(data)
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: worker_of(data) not in {pid, 0})
        shown = ended(owner, crawl, PATIENCE_S)
        counts = shown["counts"]
        visits = Counter((each["host"], each["path"]) for each in arrivals(web) if each["path"] != "/robots.txt")
        documents = live_documents(owner)
    told = f"{counts['done'] + counts['duplicate']} of {HOSTS * PAGES} pages done, {counts['documents']} documents"
    twice = sum(visits.values()) - len(visits)
    print(f"{told}, {len(documents)} in the index, {twice} pages asked for again; {shown['state']}")
    lost = HOSTS * PAGES - counts["done"] - counts["duplicate"]
    met = record("crawler_kill pages lost", lost, "pages", "lower", 0.0)
    missing = counts["documents"] - len(set(documents))
    met &= record("crawler_kill documents missing", abs(missing), "documents", "lower", 0.0)
    met &= record("crawler_kill documents twice", len(documents) - len(set(documents)), "documents", "lower", 0.0)
    record("crawler_kill pages asked for again", twice, "pages", "lower")
    return 0 if met and shown["state"] == "finished" else 1


def reached(owner: Platform, crawl: str) -> int:
    counts: dict[str, int] = owner.call("GET", f"/v1/crawls/{crawl}").body["counts"]
    return counts["done"] + counts["duplicate"]


def worker_of(data: Path) -> int:
    for file in (data / "run").glob("worker-*.pid"):
        return int(file.read_text() or 0)
    return 0


def live_documents(owner: Platform) -> list[str]:
    """Return the outside names of all live documents."""
    names: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page: dict[str, Any] = owner.call(
            "GET", f"/v1/retrieval/documents?state=live&limit=200{'&cursor=' + cursor if cursor else ''}"
        ).body
        names += [each["external_id"] for each in page["data"]]
        cursor = page["next_cursor"]
    return names


def until(is_so: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit("it did not come to pass")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
