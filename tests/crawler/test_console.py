"""The crawler's pages over a real crawl: what they say is what the API says, and strangers' words stay words."""

import csv
import io
import re
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from interlock.console.crawls import CrawlPages, crawl_pages, robots_lines
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Role
from tests.console.conftest import signed_in
from tests.console.worlds import make_world
from tests.crawler.world import world
from tests.support.store import scope_of


@dataclass
class Seen:
    """A finished crawl, and readers of its pages."""

    crawler: object
    crawl_id: str
    owner: object
    viewer: object
    sampler: object
    scope: object


@pytest.fixture
async def seen(store, tmp_path):
    console = await make_world(store, tmp_path / "console")
    own = scope_of(console.owner.organization_id, console.owner.workspace_id)
    async with world(store, tmp_path, pages=12, robots="partial", noindex_share=0.3) as crawler:
        crawl = await crawler.start(
            own, crawler.url(), crawler.url("/?<script>alert(1)</script>=1"), name="<b>shop</b>"
        )
        async with crawler.running():
            await crawler.until(own, crawl)
        pages = CrawlPages(console.console().frame, crawler.reading, crawler.explain, crawler.states)
        app = console.app(*crawl_pages(pages))
        owner = await signed_in(console, app, console.owner_key)
        key = await console.sign_up("reader", Role.VIEWER, ("crawls:read", "console"))
        viewer = await signed_in(console, app, key)
        yield Seen(crawler, format_id("crawl", crawl.crawl_id), owner, viewer, pages.sampler, own)


async def shown(client, path, status=200):
    answer = await client("GET", path)
    page = answer.content.decode()
    assert answer.status == status, page
    assert len(re.findall(r"<h1[ >]", page)) == 1
    # What stands within quotes is text.
    bare = re.sub(r'"[^"]*"', '""', page)
    assert re.findall(r"\sstyle=|\son[a-z]+=|hx-on|<style|<script(?![^>]*src=)", bare) == []
    return page


async def test_the_list_and_the_crawl_say_what_the_api_says(seen):
    listed = await shown(seen.owner, "/console/crawls")
    assert f'href="/console/crawls/{seen.crawl_id}"' in listed
    assert "&lt;b&gt;shop&lt;/b&gt;" in listed and "<b>shop" not in listed
    page = await shown(seen.owner, f"/console/crawls/{seen.crawl_id}")
    counts = (await seen.crawler.crawl(seen.scope, await _ref(seen)))["counts"]
    assert f"{counts['discovered']:,} URLs are at rest, {counts['documents']} documents made" in page
    assert "robots_denied" in page and "signal_noindex" in page
    assert f"http://127.20.0.1:{seen.crawler.web.port}" in page
    assert 'hx-get="/console/crawls' not in page, "a crawl that has ended is not asked again"


async def test_crawls_come_as_csv(seen):
    answer = await seen.owner("GET", "/console/crawls.csv")
    (told,) = csv.DictReader(io.StringIO(answer.content.decode(), newline=""))
    counts = (await seen.crawler.crawl(seen.scope, await _ref(seen)))["counts"]
    assert (told["id"], told["name"]) == (seen.crawl_id, "<b>shop</b>")
    assert int(told["documents"]) == counts["documents"] > 0


async def test_explain_begins_with_the_sentence_and_marks_the_line_that_decided(seen):
    form = await shown(seen.owner, f"/console/crawls/{seen.crawl_id}/explain")
    assert "interlock crawl explain" in form
    page = await shown(seen.owner, _explain(seen, seen.crawler.url("/private/1")))
    assert page.index("robots.txt disallows it in line 2") < page.index("Decisions")
    assert re.search(r"<mark><strong><code>2 Disallow: /private/</code></strong></mark> decides", page)
    page = await shown(seen.owner, _explain(seen, seen.crawler.url("/never-seen")))
    assert "never; the rules were run now" in page
    page = await shown(seen.owner, _explain(seen, "http://127.0.0.1/"))
    assert "egress_blocked" in page
    refused = await shown(seen.owner, _explain(seen, "ftp://x/"), 400)
    assert 'role="status"' in refused


@pytest.mark.parametrize(
    "payload", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\u202egnp.exe", "\x1b[31m"]
)
async def test_strangers_words_stay_words(seen, payload):
    page = await shown(seen.owner, _explain(seen, seen.crawler.url(f"/?{payload}")))
    assert "<img src=x" not in page and "<script>alert" not in page
    assert "\x1b" not in page.replace(payload, "")


async def test_hosts_are_the_operator_s_and_another_workspace_has_no_such_crawl(seen):
    refused = await seen.viewer("GET", "/console/crawl-hosts")
    assert refused.status in {403, 404}
    assert (await seen.viewer("GET", "/console/crawls/crawl_0000000000000000000000000a")).status == 404
    assert (await seen.owner("GET", "/console/crawls/nonsense")).status == 404
    await shown(seen.viewer, f"/console/crawls/{seen.crawl_id}")


async def test_the_sample_of_the_screens_is_the_newest_crawl(seen):
    assert await seen.sampler(seen.scope) == seen.crawl_id


def test_lines_of_robots_are_counted_as_its_parser_counts_them():
    lines = robots_lines(b"a\rb\r\nc\n\nd\x1b", 5)
    assert [(each["number"], each["is_deciding"]) for each in lines] == [(2, False), (3, False), (4, False), (5, True)]
    assert lines[-1]["text"] == "d\\x1b"


def _explain(seen, url):
    return f"/console/crawls/{seen.crawl_id}/explain?url={quote(url, safe='')}"


async def _ref(seen):
    rows = await seen.crawler.reading.listed(seen.scope, 1, None)

    class Ref:
        crawl_id = rows[0]["crawl_id"]

    return Ref
