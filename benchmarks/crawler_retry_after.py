"""crawler_retry_after: what a site asked for, kept. 20 % of the hosts answer 429 with a window, in seconds, as a date,
and as a date of a clock that is an hour off; two workers crawl, one is killed with -9. Counted by the web itself:
requests inside a window that was announced, and pairs of requests of one host closer than the delay (within 1 ms).

Goal: 0 and 0. Run: `make bench B=crawler_retry_after`.
"""

import os
import signal
import sys
import time
from itertools import pairwise

from benchmarks.record import record
from benchmarks.worlds.crawler import arrivals, crawling, ended, practice_web, start

HOSTS, PAGES, DELAY_S = 20, 12, 0.2
FORMS = {
    "seconds": ("--retry-after", "seconds"),
    "date": ("--retry-after", "date"),
    "skewed date": ("--retry-after", "date", "--clock-skew-s", "3600"),
}
ERRORS = ("--error-share", "0.2", "--error", "429", "--error-every", "4", "--retry-after-s", "3")


def once(*form: str) -> tuple[int, int, int]:
    """Return requests inside windows, pairs that were too close, and requests in all."""
    with practice_web("--hosts", str(HOSTS), "--pages", str(PAGES), "--page-kb", "1", *ERRORS, *form) as web:
        with crawling(web, "--workers", "2") as (owner, data):
            spec = {"politeness": {"delay_s": DELAY_S}, "extract": "none", "sources": {"sitemaps": False}}
            crawl = start(owner, web["hosts"], **spec)
            time.sleep(1.5)
            os.kill(int((data / "run" / "worker-0.pid").read_text().split()[0]), signal.SIGKILL)
            shown = ended(owner, crawl, 240)
        if shown["state"] != "finished" or shown["counts"]["done"] != HOSTS * PAGES:
            raise SystemExit(f"the crawl did not end whole: {shown['state']} {shown['counts']}")
        rows = arrivals(web)
    inside = sum(row["inside_block"] for row in rows)
    close = 0
    for host in {row["host"] for row in rows}:
        came = sorted(row["at"] for row in rows if row["host"] == host)
        close += sum(after - before < DELAY_S - 0.001 for before, after in pairwise(came))
    return inside, close, len(rows)


def main() -> int:
    inside = close = 0
    for name, form in FORMS.items():
        found = once(*form)
        print(f"  {name:<12} {found[0]} inside windows, {found[1]} pairs too close, {found[2]} requests", flush=True)
        inside, close = inside + found[0], close + found[1]
    is_met = record("crawler requests inside announced windows", inside, "requests", "lower", 0)
    is_met = record("crawler pairs closer than the delay", close, "pairs", "lower", 0) and is_met
    print(f"crawler_retry_after: {inside} and {close} (goal 0 and 0), 2 workers, one kill -9 a form")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
