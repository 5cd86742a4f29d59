"""crawler_slow_hosts: whether slow hosts hold up the others. 100 hosts, 20 % of them answer after 3 s, against the same
web without a slow one, in the same run. The figures: when 99 % of the healthy hosts' pages were there, as a ratio, and
the longest time that a healthy host with pages left waited beyond its own pace.

Goals: <= 1.3 and < 250 ms. Run: `make bench B=crawler_slow_hosts`; ROUNDS sets how often.
"""

import os
import statistics
import sys
import time
from itertools import pairwise

from benchmarks.record import record
from benchmarks.worlds.crawler import arrivals, crawling, practice_web, start

ROUNDS = int(os.environ.get("ROUNDS", "1"))
HOSTS, PAGES, DELAY_S, SLOW = 100, 12, 1.0, 0.2
RATIO_MAX, STALL_MS_MAX = 1.3, 250.0


def once(share: float) -> tuple[float, float]:
    """Return the seconds until 99 % of the healthy hosts' pages, and the longest stall of a healthy host in ms."""
    knobs = ("--hosts", str(HOSTS), "--pages", str(PAGES), "--page-kb", "1", "--slow-share", str(share))
    with practice_web(*knobs) as web:
        slow = {f"127.20.0.{number}" for number in range(1, round(HOSTS * share) + 1)}
        wanted = (HOSTS - len(slow)) * PAGES
        with crawling(web) as (owner, _):
            spec = {"politeness": {"delay_s": DELAY_S}, "extract": "none", "sources": {"sitemaps": False}}
            start(owner, web["hosts"], **spec)
            rows = _until(web, slow, wanted)
    healthy = sorted(row["at"] for row in rows if row["host"] not in slow and row["path"] != "/robots.txt")
    t99_s = healthy[int(0.99 * len(healthy)) - 1] - rows[0]["at"]
    stalls = []
    for host in {row["host"] for row in rows} - slow:
        came = sorted(row["at"] for row in rows if row["host"] == host)
        stalls += [after - before - DELAY_S for before, after in pairwise(came)]
    return t99_s, max(stalls) * 1_000


def _until(web: dict, slow: set[str], wanted: int) -> list[dict]:
    deadline = time.monotonic() + 240
    while True:
        rows = arrivals(web)
        pages = [row for row in rows if row["host"] not in slow and row["path"] != "/robots.txt"]
        if len(pages) >= wanted:
            return rows
        if time.monotonic() > deadline:
            raise SystemExit(f"only {len(pages)} of {wanted} pages of healthy hosts came")
        time.sleep(0.5)


def main() -> int:
    ratios, stalls = [], []
    for turn in range(ROUNDS):
        plain_s, plain_ms = once(0.0)
        mixed_s, stall_ms = once(SLOW)
        ratios.append(mixed_s / plain_s)
        stalls.append(stall_ms)
        shown = f"t99 {plain_s:.2f} s alone, {mixed_s:.2f} s beside; stall {plain_ms:.0f} and {stall_ms:.0f} ms"
        print(f"  round {turn + 1}: {shown}", flush=True)
    ratio, stall = statistics.median(ratios), statistics.median(stalls)
    is_met = record("crawler slow hosts t99", ratio, "ratio", "lower", RATIO_MAX)
    is_met = record("crawler slow hosts stall", stall, "ms", "lower", STALL_MS_MAX) and is_met
    print(f"crawler_slow_hosts: {ratio:.2f} (<= {RATIO_MAX}), longest stall {stall:.0f} ms (< {STALL_MS_MAX:.0f})")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
