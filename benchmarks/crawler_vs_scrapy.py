"""CPU of a page beside Scrapy 2.19 with its job directory, on one practice web, without an archive on either side.

Each round crawls the same sites with both, in turn. Interlock's worker and its PostgreSQL are counted apart; text is
extracted on neither side. Scrapy lives in an environment of its own; where it cannot be had, nothing is measured.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.platform import Running, remove, start

from benchmarks.record import record

SCRAPY = "2.19.0"
HOME = Path(__file__).parents[1] / ".cache" / "bench" / f"scrapy-{SCRAPY}"
ROUNDS = 3
HOSTS = 128
PAGES = 32
WEB = ("--hosts", str(HOSTS), "--pages", str(PAGES), "--page-kb", "22", "--links", "57")
AT_ONCE = 8
TICKS = os.sysconf("SC_CLK_TCK")
Peer = tuple[float, float, int]
Own = tuple[float, float, float, int]
SPIDER = """
    import sys
    import scrapy
    from scrapy.crawler import CrawlerProcess
    from scrapy.linkextractors import LinkExtractor

    class Spider(scrapy.Spider):
        name = "peer"
        links = LinkExtractor()

        def parse(self, response):
            for link in self.links.extract_links(response):
                yield scrapy.Request(link.url)

    seeds, folder, at_once = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3])
    Spider.start_urls = seeds
    Spider.allowed_domains = [seed.split("//")[1].split(":")[0] for seed in seeds]
    process = CrawlerProcess({
        "JOBDIR": folder, "ROBOTSTXT_OBEY": True, "CONCURRENT_REQUESTS": 64, "DOWNLOAD_DELAY": 0,
        "CONCURRENT_REQUESTS_PER_DOMAIN": at_once, "LOG_LEVEL": "ERROR", "TELNETCONSOLE_ENABLED": False,
        "HTTPERROR_ALLOW_ALL": True,
    })
    crawler = process.create_crawler(Spider)
    process.crawl(crawler)
    process.start()
    print(crawler.stats.get_value("response_received_count"))
"""


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, those of its children that live and of those that it has reaped."""
    total = 0.0
    for each in (pid, *_children(pid)):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / TICKS
    return total


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def practice_web() -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "interlock", "crawl", "practice-web", *WEB]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def with_scrapy(seeds: list[str]) -> Peer:
    """Return wall seconds, CPU seconds and pages."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [HOME / "bin" / "python", "-c", textwrap.dedent(SPIDER), ",".join(seeds), folder, str(AT_ONCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, spent, int(done.stdout.split()[-1])


def with_interlock(running: Running, seeds: list[str]) -> Own:
    """Return wall seconds, CPU seconds of the worker and of PostgreSQL, and pages."""
    worker, store = running.pid("worker"), running.pid("store")
    before, began = (cpu_s(worker), cpu_s(store)), time.perf_counter()
    body = {"seeds": seeds, "extract": "none", "politeness": {"delay_s": 0, "concurrency": AT_ONCE}}
    body |= {"sources": {"links": True, "sitemaps": False, "feeds": False}, "scope": {"mode": "host"}}
    made = running.owner.call("POST", "/v1/crawls", body)
    assert made.status == 201, made.body
    shown = made.body
    while shown["state"] != "finished":
        time.sleep(0.1)
        shown = running.owner.call("GET", f"/v1/crawls/{shown['id']}").body
    took = time.perf_counter() - began
    return took, cpu_s(worker) - before[0], cpu_s(store) - before[1], shown["counts"]["done"]


def show(peer: Peer, own: Own) -> None:
    wall, cpu, pages = peer
    print(f"Scrapy {pages} pages in {wall:.1f} s, {cpu / pages * 1e3:.2f} ms CPU a page", flush=True)
    wall, worker, store, done = own
    each = f"worker {worker / done * 1e3:.2f} ms, PostgreSQL {store / done * 1e3:.2f} ms"
    print(f"Interlock {done} pages in {wall:.1f} s, {each} CPU a page", flush=True)


def main() -> int:
    if not (HOME / "bin" / "scrapy").exists():
        subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
        wanted = [HOME / "bin" / "python", "-m", "pip", "install", "-q", f"scrapy=={SCRAPY}"]
        if subprocess.run(wanted, check=False).returncode:
            print(f"skipped: scrapy {SCRAPY} cannot be installed here")
            return 0
    rows: list[tuple[Peer, Own]] = []
    with practice_web() as web:
        flags = ("--engine", "none", "--crawl-allow", f"127.20.0.0/16:{web['port']}")
        flags += ("--crawl-contact", "mailto:bench@shop.example")
        running = start(*flags)
        try:
            for _ in range(ROUNDS):
                rows.append((with_scrapy(web["hosts"]), with_interlock(running, web["hosts"])))
                show(*rows[-1])
        finally:
            remove(running)
    by_worker = statistics.median((peer[1] / peer[2]) / (own[1] / own[3]) for peer, own in rows)
    with_store = statistics.median((peer[1] / peer[2]) / ((own[1] + own[2]) / own[3]) for peer, own in rows)
    pace = statistics.median((own[3] / own[0]) / (peer[2] / peer[0]) for peer, own in rows)
    print(f"less CPU a page: worker {by_worker:.1f}x, with PostgreSQL {with_store:.1f}x; pages/s {pace:.1f}x")
    met = record("crawler_vs_scrapy worker cpu", by_worker, "x", "higher", 8.0)
    met &= record("crawler_vs_scrapy worker and store cpu", with_store, "x", "higher", 6.0)
    met &= record("crawler_vs_scrapy pages per second", pace, "x", "higher", 10.0)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
