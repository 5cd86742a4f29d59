"""A crawl from its first seed to its last document, over the real store and real sockets."""

import asyncio
import re
from contextlib import suppress
from itertools import pairwise

import pytest

from interlock.crawler.domain.frontier import LeaseAsk
from interlock.crawler.domain.types import Fetched
from interlock.crawler.store import hosts as host_rows
from interlock.crawler.worker.pages import Visit
from interlock.foundation.errors import InterlockError
from interlock.foundation.store import Query
from interlock.foundation.telemetry import Metrics, merge
from tests.crawler.adapters.rawsite import ok, raw_site
from tests.crawler.world import CLOCK, FAST, MemorySink, World, tools_of, until, world
from tests.support.store import make_tenant, scope_of

HTML = "content-type: text/html; charset=utf-8"
BLOCKED = 40
EXTRACTED = Query("extracted", "a document", "UPDATE crawler_urls SET has_document = true WHERE crawl_id = $1")


def page(text, *links, head=""):
    listed = "".join(f'<a href="{each}">{each}</a> ' for each in links)
    return ok(f"<html><head><title>{text[:20]}</title>{head}</head><body><p>{text}</p>{listed}</body>".encode(), HTML)


def balanced(counts):
    resting = sum(counts[name] for name in ("done", "duplicate", "refused", "dead", "gone"))
    return resting == counts["discovered"] and counts["queued"] == counts["leased"] == 0


async def urls_of(w, scope, crawl, **wanted):
    wanted = {"state": None, "reason": None, "host": None, **wanted}
    rows = await w.reading.urls(scope, crawl.crawl_id, wanted, None, 1_000)
    return {row["url"]: row for row in rows}


async def test_a_site_is_crawled_once_and_whole(store, scope, tmp_path):
    async with world(store, tmp_path, pages=40, sitemap=True) as w:
        crawl = await w.start(scope, w.url())
        async with w.running():
            shown = await w.until(scope, crawl)
        assert balanced(shown["counts"])
        assert shown["counts"]["documents"] == len(w.sink.documents) == 40
        assert max(w.sink.puts.values()) == 1
        paths = [each.path for each in w.web.log if each.path != "/robots.txt"]
        assert len(paths) == len(set(paths))
        assert "/sitemap.xml" in paths


FORMS = (
    "http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://[::ffff:10.0.0.1]/", "http://localhost./",
    "http://169.254.169.254/latest/meta-data", "http://10.0.0.8:8080/", "http://[::1]/",
)  # fmt: skip


async def test_a_crawl_is_counted(store, scope, tmp_path):
    metrics = Metrics()
    async with world(store, tmp_path, pages=3) as crawler:
        crawl = await crawler.start(scope, crawler.url(), "http://10.0.0.1/", politeness={"delay_s": 1.0})
        async with crawler.running(metrics=metrics):
            shown = await crawler.until(scope, crawl)
    told = merge([metrics.snapshot()])
    counted = dict(re.findall(r"^(interlock_crawler_\S+) ([0-9.e+]+)$", told, re.MULTILINE))
    counts = shown["counts"]
    assert float(counted['interlock_crawler_fetches_total{outcome="ok"}']) >= counts["done"]
    assert float(counted['interlock_crawler_bytes_total{kind="body"}']) >= counts["bytes_body"] > 0
    # The store is shared: what crawls of other tests still had to do is counted as well.
    assert float(counted['interlock_crawler_egress_refused_total{rule="address"}']) >= 1
    assert float(counted["interlock_crawler_host_lateness_seconds_count"]) > counts["done"]
    assert float(counted['interlock_crawler_extract_seconds_count{mode="markdown"}']) >= counts["done"]
    assert 'interlock_crawler_frontier_urls{state="pending"}' in counted
    assert float(counted["interlock_crawler_stale_documents"]) == 0
    assert float(counted['interlock_crawler_cpu_seconds_total{stage="parse"}']) > 0
    assert str(scope.organization_id) not in told and "127.20" not in told


async def test_no_private_address_is_dialled_in_whatever_form_it_is_written(store, scope, tmp_path):
    async with world(store, tmp_path, pages=3) as w:
        # Everything but the allow-list: the practice web is as private as the rest.
        bare = World(store, tools_of(store, ""), MemorySink(), tmp_path, "", w.web)
        polite = {"delay_s": 1.0, "concurrency": 1}
        crawl = await bare.start(scope, w.url(), *FORMS, politeness=polite)
        async with bare.running():
            shown = await bare.until(scope, crawl)
        rows = await urls_of(bare, scope, crawl)
        assert {(row["state"], row["reason"]) for row in rows.values()} == {("refused", "egress_blocked")}
        assert len(rows) == shown["counts"]["refused"]
        assert w.web.log == []


async def test_a_redirect_into_the_private_network_is_refused(store, scope, tmp_path):
    async with raw_site({
        "/robots.txt": ok(b"", status="404 Not Found"),
        "/": ok(b"", "location: http://127.0.0.1:9/inner", status="302 Found"),
    }) as site:  # fmt: skip
        w = World(store, tools_of(store, f"127.0.0.1:{site.port}"), MemorySink(), tmp_path, "", None)
        crawl = await w.start(scope, f"http://127.0.0.1:{site.port}/")
        async with w.running():
            await w.until(scope, crawl)
        rows = await urls_of(w, scope, crawl)
        assert rows["http://127.0.0.1:9/inner"]["reason"] == "egress_blocked"


class Timed:
    """A fetcher that remembers for when the loop decided each of its requests.

    Not when it is called: a machine that stands still between the two makes two of them look closer than they are.
    """

    def __init__(self, loop):
        self.fetcher, self.jobs, self.times = loop.fetcher, loop._jobs, []

    async def fetch(self, request):
        (job,) = [each for each in self.jobs.values() if each.request is request]
        self.times.append(job.started_s)
        return await self.fetcher.fetch(request)

    async def close(self):
        await self.fetcher.close()

    def spaces_ms(self):
        return [(after - before) * 1e3 for before, after in pairwise(self.times)]


async def test_two_workspaces_share_one_delay_and_see_only_their_own(store, scope, tmp_path):
    other = scope_of(*await make_tenant(store))
    async with world(store, tmp_path, pages=12) as w:
        # All pages are named, or one crawl could be alone with the host while the links of the other are still read.
        seeds = [w.url(), *(w.url(f"/p/{number}") for number in range(1, 12))]
        mine = await w.start(scope, *seeds, politeness={"delay_s": 0.1})
        theirs = await w.start(other, *seeds, politeness={"delay_s": 0.02})
        async with w.running() as worker:
            worker.loop.fetcher = timed = Timed(worker.loop)
            await w.until(scope, mine)
            shown = await w.until(other, theirs)
        spaces = timed.spaces_ms()
        # The largest floor of the crawls that wait for the host holds; only the last ones may belong to one alone.
        assert min(spaces[: len(spaces) // 2]) >= 99
        assert min(spaces) >= 19
        assert shown["counts"]["discovered"] == 12
        with pytest.raises(InterlockError, match="crawl_not_found"):
            await w.crawl(other, mine)
        assert len(set(map(str, w.sink.acls))) == 2


async def test_a_closed_index_stops_the_visits_and_says_so(store, scope, tmp_path):
    async with world(store, tmp_path, pages=60, latency_ms=20) as w:
        w.sink.is_open = False
        crawl = await w.start(scope, w.url(), politeness={"delay_s": 0.0, "concurrency": 2})
        async with w.running():
            shown = await w.until_shown(scope, crawl, lambda it: it["backpressure"].get("state") == "closed")
            assert (shown["state"], shown["backpressure"]["source"]) == ("throttled", "index")
            before = await w.until_nothing_is_leased(scope, crawl)
            await asyncio.sleep(0.7)
            assert len(w.web.log) == before
            assert not w.sink.documents
            w.sink.is_open = True
            shown = await w.until(scope, crawl)
        assert balanced(shown["counts"])
        assert shown["counts"]["documents"] == 60


async def test_an_index_that_is_away_loses_nothing(store, scope, tmp_path):
    async with world(store, tmp_path, pages=10) as w:
        w.sink.is_down = True
        crawl = await w.start(scope, w.url())
        async with w.running():
            await until(lambda: w.web.log)
            await asyncio.sleep(2.0)
            w.sink.is_down = False
            shown = await w.until(scope, crawl)
        assert shown["counts"]["documents"] == len(w.sink.documents) == 10


async def test_a_page_that_is_gone_leaves_the_index_and_the_oldest_twin_takes_its_place(store, scope, tmp_path):
    twin = page("The same words stand on both pages, and that is enough.")
    pages = {
        "/robots.txt": ok(b"", status="404 Not Found"),
        "/sitemap.xml": ok(b"", status="404 Not Found"),
        "/": page("Home", "/a", "/b"),
        "/a": twin,
        "/b": twin,
    }
    async with raw_site(pages) as site:
        w = World(store, tools_of(store, f"127.0.0.1:{site.port}"), MemorySink(), tmp_path, "", None)
        base = f"http://127.0.0.1:{site.port}"
        crawl = await w.start(scope, f"{base}/")
        async with w.running():
            shown = await w.until(scope, crawl)
            assert shown["counts"]["duplicate"] == 1
            rows = await urls_of(w, scope, crawl)
            first = next(url for url, row in rows.items() if row["state"] == "done" and url != f"{base}/")
            second = next(url for url, row in rows.items() if row["state"] == "duplicate")
            told = await w.explained(scope, crawl, second)
            assert told["rule"] == "duplicate_exact" and first in told["because"]
            pages[first.removeprefix(base)] = ok(b"", status="410 Gone")
            async with store.transaction(scope) as tx:
                assert await w.control.recrawl(tx, crawl.crawl_id, [first]) == 1
            shown = await w.until(scope, crawl)
            await until(lambda: first not in w.sink.uris and second in w.sink.uris)
            shown = await w.until(scope, crawl)
        assert w.sink.uris == sorted([f"{base}/", second])
        assert shown["counts"]["gone"] == 1 and balanced(shown["counts"])
        assert [reason for _, reason in w.sink.tombstones] == ["gone"]


async def test_pause_stops_the_dials_within_a_second_and_resume_goes_on(store, scope, tmp_path):
    async with world(store, tmp_path, pages=60, latency_ms=5) as w:
        crawl = await w.start(scope, w.url(), politeness={"delay_s": 0.2})
        async with w.running() as worker:
            await until(lambda: len(w.web.log) >= 6)
            async with store.transaction(scope) as tx:
                await w.control.pause(tx, crawl.crawl_id, "enough")
            await until(lambda: crawl.crawl_id not in worker.book.active)
            before = await w.until_nothing_is_leased(scope, crawl)
            await asyncio.sleep(0.7)
            assert len(w.web.log) == before < 60
            told = await w.explained(scope, crawl, w.url("/p/1"))
            assert told["verdict"] in {"fetched", "waiting"}
            async with store.transaction(scope) as tx:
                await w.control.resume(tx, crawl.crawl_id, None)
                await w.control.change(tx, crawl.crawl_id, {"politeness": FAST})
            shown = await w.until(scope, crawl)
        assert shown["counts"]["documents"] == 60


async def test_a_block_acts_on_every_crawl_within_a_second(store, scope, tmp_path):
    async with world(store, tmp_path, pages=40, hosts=BLOCKED) as w:
        # An address of its own: a block is every crawl's, also that of the tests which come after.
        name = f"127.20.0.{BLOCKED}"
        crawl = await w.start(scope, w.url(), w.url(host=BLOCKED), politeness={"delay_s": 0.2})

        def came():
            return len([1 for each in w.web.log if each.host == name])

        async with w.running():
            await until(lambda: came() >= 4)
            async with store.transaction(scope) as tx:
                await w.rules.put(tx, name, None, None, is_blocked=True, reason="they wrote to us")
            blocked = await host_once(w, scope, crawl, name, lambda row: row.leased == 0)
            before = came()
            await asyncio.sleep(0.7)
            assert came() == before < 40
            assert (blocked.shared.state, blocked.shared.reason) == ("blocked", "they wrote to us")
            waiting = [each for each in await urls_of(w, scope, crawl, state="queued") if f"//{name}:" in each]
            told = await w.explained(scope, crawl, waiting[0])
            assert told["blocking"]["rule"] == "host_blocked"
            async with store.transaction(scope) as tx:
                await w.rules.put(tx, name, None, None, is_blocked=False, reason="agreed again")
                await w.control.change(tx, crawl.crawl_id, {"politeness": FAST})
            await w.until(scope, crawl)
        assert len(w.sink.documents) == 80


async def host_once(w, scope, crawl, name, is_so):
    while True:
        hosts = {row.authority: row for row in await w.reading.hosts(scope, crawl.crawl_id, None, 100)}
        if is_so(row := hosts[f"http://{name}:{w.web.port}"]):
            return row
        await asyncio.sleep(0.05)


async def test_a_page_that_asks_to_stay_out_of_indexes_yields_no_document(store, scope, tmp_path):
    pages = {
        "/robots.txt": ok(b"", status="404 Not Found"),
        "/sitemap.xml": ok(b"", status="404 Not Found"),
        "/": page("Home", "/a", "/b"),
        "/a": page("A page", "/c", head='<meta name="robots" content="noindex, nofollow">'),
        "/b": ok(b"<p>B</p>", HTML, "x-robots-tag: nosnippet"),
        "/c": page("Only A links here"),
    }
    async with raw_site(pages) as site:
        base = f"http://127.0.0.1:{site.port}"
        w = World(store, tools_of(store, f"127.0.0.1:{site.port}"), MemorySink(), tmp_path, "", None)
        crawl = await w.start(scope, f"{base}/")
        async with w.running():
            await w.until(scope, crawl)
        assert w.sink.uris == [f"{base}/", f"{base}/b"]
        told = await w.explained(scope, crawl, f"{base}/a")
        assert (told["verdict"], told["rule"]) == ("refused", "signal_noindex")
        assert "meta" in told["because"]
        assert next(d for d in w.sink.documents.values() if d.uri.endswith("/b")).snippet_chars_max == 0


@pytest.mark.parametrize("announced", ["seconds", "date"])
async def test_no_request_falls_inside_an_announced_window(store, scope, tmp_path, announced):
    knobs = {"error_share": 1.0, "error": 429, "error_every": 4, "retry_after": announced, "retry_after_s": 1}
    async with world(store, tmp_path, pages=8, clock_skew_s=3_600, **knobs) as w:
        crawl = await w.start(scope, w.url(), politeness={"delay_s": 0.0})
        async with w.running():
            shown = await w.until(scope, crawl)
        assert not [each for each in w.web.log if each.is_inside]
        assert sum(each.status == 429 for each in w.web.log) >= 2
        assert shown["counts"]["documents"] == 8


async def test_budgets_end_a_crawl_and_are_named(store, scope, tmp_path):
    async with world(store, tmp_path, pages=50) as w:
        crawl = await w.start(scope, w.url(), budgets={"pages": 10})
        async with w.running():
            shown = await w.until(scope, crawl)
        assert shown["counts"]["done"] == 10
        assert balanced(shown["counts"])
        refused = await urls_of(w, scope, crawl, state="refused")
        assert {row["reason"] for row in refused.values()} == {"budget_pages"}


async def test_an_unreachable_robots_disallows(store, scope, tmp_path):
    async with world(store, tmp_path, pages=5, robots="5xx") as w:
        crawl = await w.start(scope, w.url())
        async with w.running():
            await until(lambda: w.web.log)
            await asyncio.sleep(0.7)
            assert {each.path for each in w.web.log} == {"/robots.txt"}
            told = await w.explained(scope, crawl, w.url())
        assert told["verdict"] == "waiting"
        assert told["blocking"]["rule"] == "robots_unreachable"


async def test_a_deleted_crawl_takes_its_documents_along(store, scope, tmp_path):
    async with world(store, tmp_path, pages=6) as w:
        crawl = await w.start(scope, w.url())
        async with w.running():
            await w.until(scope, crawl)
            async with store.transaction(scope) as tx:
                assert await w.control.delete(tx, crawl.crawl_id, keeps=False) == 6
            with suppress(InterlockError):
                await w.until(scope, crawl, "deleted")
        with pytest.raises(InterlockError, match="crawl_not_found"):
            await w.crawl(scope, crawl)
        assert not w.sink.documents
        assert {str(reason) for _, reason in w.sink.tombstones} == {"crawl_deleted"}


async def test_what_a_host_asks_of_another_s_robots_txt_holds_for_all(store, scope, tmp_path):
    away = ok(b"", "retry-after: 3600", status="429 Too Many Requests")
    async with raw_site({"/rules": away}, host="127.20.0.91") as other:
        rules = f"http://127.20.0.91:{other.port}/rules"
        moved = ok(b"", f"location: {rules}", status="302 Found")
        async with raw_site({"/robots.txt": moved}, host="127.20.0.92") as site:
            allow = f"127.20.0.91/32:{other.port},127.20.0.92/32:{site.port}"
            w = World(store, tools_of(store, allow), MemorySink(), tmp_path, allow, None)
            crawl = await w.start(scope, f"http://127.20.0.92:{site.port}/")
            async with w.running():
                deadline = CLOCK.monotonic() + 240
                while "http_429" not in [each.reason for each in await w.states.listed("", 9, "127.20.0.91")]:
                    assert CLOCK.monotonic() < deadline
                    await asyncio.sleep(0.1)
            async with store.transaction(scope) as tx:
                await w.control.cancel(tx, crawl.crawl_id, None)
            assert len(other.heads) == 1


async def test_a_document_that_comes_up_while_its_page_is_found_gone_leaves_too(store, scope, tmp_path):
    """The lease was taken before the text was extracted, and so knows of no document."""
    w = World(store, tools_of(store, "127.20.0.93/32:9"), MemorySink(), tmp_path, "", None)
    crawl = await w.start(scope, "http://127.20.0.93:9/")
    worker = w.worker()
    await host_rows.adopt(store)
    await worker.book.load(store)
    (lease,) = await worker.frontier.lease("w", LeaseAsk(9, {crawl.crawl_id: 9}))
    async with store.ops("a test") as tx:
        await tx.execute(EXTRACTED, crawl.crawl_id)
    forgotten = b'<meta name="robots" content="noindex"><meta http-equiv="refresh" content="0; url=/b">'
    html = (("content-type", "text/html"),)
    moved, gone = (
        worker.turns.reader.outcome(
            Visit(lease.urls[0], worker.book.active[crawl.crawl_id], lease.key.host_hash, lease.fence, fetched, 1)
        )
        for fetched in (Fetched(200, headers=html, body=forgotten), Fetched(410))
    )
    assert (moved.reason, moved.withdraw) == ("redirect", "signal")
    await worker.frontier.ack("w", [gone], [])
    await worker.parts.fetcher.close()
    leaving = await worker.outbox.claim("w", "deliver", "tombstone", 9)
    assert [each.reason for each in leaving if each.crawl.crawl_id == crawl.crawl_id] == ["gone"]
    await worker.outbox.withdrawn("w", leaving)
