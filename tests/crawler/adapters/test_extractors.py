"""Documents of pages, and a pool that loses one page to a hostile one, never itself."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.crawler.adapters.extractors import PoolExtractor
from interlock.crawler.adapters.markdown import document_of, plain_document, text_digest
from interlock.crawler.domain.types import ExtractRequest

HTML = (("content-type", "text/html; charset=utf-8"),)
URL = "http://h.example/d/page"
PAGE = """<!doctype html><html lang="en-GB"><head><title> Returns &amp;
 refunds </title><meta property="article:modified_time" content="2026-01-02T00:00:00Z"></head><body>
<nav><ul><li><a href="/a">Home</a></li></ul></nav><main><article><h1>Returns</h1>
<p>You may return a parcel within <a href="/x?y=(1)">30 [working] days</a> of delivery. It is free.</p>
<h2>How</h2><ol><li>Print the label</li><li>Go to the depot<ul><li>with the box</li></ul></li></ol>
<pre>code  here</pre><table><tr><th>Size</th><th>Price</th></tr><tr><td>S</td><td>1</td></tr></table>
<p># not a heading</p><p><a href="javascript:alert(1)">press</a></p></article></main>
<footer>Imprint</footer><script>alert("never")</script></body></html>"""


def test_main_content_becomes_markdown_with_its_source():
    found = document_of(URL, HTML, PAGE.encode())
    assert (found.title, found.language, found.modified_at_us) == ("Returns & refunds", "en-gb", 1_767_312_000_000_000)
    assert found.markdown.split("\n\n") == [
        "# Returns",
        "You may return a parcel within [30 \\[working\\] days](http://h.example/x?y=%281%29) of delivery. It is free.",
        "## How",
        "1. Print the label\n2. Go to the depot\n   - with the box",
        "```\ncode  here\n```",
        "Size | Price",
        "S | 1",
        "\\# not a heading",
        "press",
    ]
    assert not found.is_plain


def test_digests_see_text_and_not_its_white_space_or_its_tags():
    one = document_of(URL, HTML, b"<main><p>some  words\nof a page</p></main>")
    two = document_of(URL, HTML, b"<main><p>some words of a page</p><!-- x --></main>")
    three = document_of(URL, HTML, b"<main><p>other words of a page</p></main>")
    assert one.text_digest == two.text_digest == text_digest("some words of a page")
    assert one.text_digest != three.text_digest


def test_what_a_page_leaves_out():
    bare = document_of(
        URL, (("last-modified", "Fri, 02 Jan 2026 00:00:00 GMT"), ("content-language", "de, en")), b"<p>x"
    )
    assert (bare.title, bare.language, bare.modified_at_us) == (URL, "de", 1_767_312_000_000_000)
    assert document_of(URL, HTML, b"<html lang='<script>'><h1>Only a heading</h1>").title == "Only a heading"
    empty = document_of(URL, HTML, b"")
    assert (empty.markdown, empty.language, empty.text_digest) == ("", None, text_digest(""))


def test_plain_text_is_itself_and_text_that_no_store_takes_is_gone():
    assert document_of(URL, (("content-type", "text/plain"),), b"a\n# b").markdown == "a\n# b"
    assert "\x00" not in document_of(URL, HTML, b"<p>a&#0;b\x00c&#xD800;d</p>").markdown


@settings(max_examples=200)
@given(st.binary(max_size=300), st.sampled_from([HTML, (), (("content-type", "text/plain; charset=utf-16"),)]))
def test_no_octets_break_the_plain_document(body, headers):
    found = plain_document(URL, headers, body)
    assert found.is_plain and found.title


def test_the_plain_document_has_no_tags_and_no_scripts():
    found = plain_document(URL, HTML, PAGE.encode())
    assert "never" not in found.markdown and "<" not in found.markdown
    assert "You may return a parcel within" in found.markdown
    assert found.title == "Returns & refunds"
    for piece in (b"<", b"<script>", b"<style", b"<title>", b"&lt;"):
        assert plain_document(URL, HTML, piece * 100_000).is_plain


@asynccontextmanager
async def pooling(**limits):
    pool = PoolExtractor(**limits)
    try:
        yield pool
    finally:
        await pool.close()


@pytest.fixture
def asked(tmp_path):
    def put(body: bytes, name: str = "page") -> ExtractRequest:
        path = tmp_path / name
        path.write_bytes(body)
        return ExtractRequest(URL, HTML, str(path))

    return put


async def test_a_pool_makes_many_pages_with_few_processes(asked):
    async with pooling(processes=1) as pool:
        found = await asyncio.gather(*(pool.extract(asked(PAGE.encode(), f"p{n}")) for n in range(8)))
        assert {each.title for each in found} == {"Returns & refunds"}
        assert pool.statistics() == {"processes": 1, "free": 1, "pages": 8, "failed": 0}


async def test_a_page_that_takes_for_ever_is_kept_as_plain_text_and_the_next_one_is_not(asked):
    # What a page takes grows with the square of its depth; a machine that stands still gets more of both.
    for page_s, depth in ((0.7, 100_000), (20.0, 600_000)):
        async with pooling(processes=1, page_s_max=page_s) as pool:
            await pool.extract(asked(PAGE.encode()))
            before = pool.statistics()["failed"]
            hostile = await pool.extract(asked(b"<title>deep</title>" + b"<div>" * depth + b"words"))
            after = await pool.extract(asked(PAGE.encode()))
            failed = pool.statistics()["failed"] - before
        if not after.is_plain:
            break
    assert (hostile.is_plain, hostile.title, hostile.markdown) == (True, "deep", "deep\nwords")
    assert not after.is_plain
    assert failed == 1


async def test_a_process_that_dies_costs_its_page_alone(asked):
    async with pooling(processes=1) as pool:
        await pool.extract(asked(PAGE.encode()))
        pid = pool._children[0]._process.pid
        os.kill(pid, signal.SIGSTOP)
        page = asyncio.create_task(pool.extract(asked(PAGE.encode())))
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        assert (await page).is_plain
        assert not (await pool.extract(asked(PAGE.encode()))).is_plain


async def test_an_idle_process_that_died_is_replaced(asked):
    async with pooling(processes=1) as pool:
        await pool.extract(asked(PAGE.encode()))
        process = pool._children[0]._process
        process.kill()
        await process.wait()
        assert not (await pool.extract(asked(PAGE.encode()))).is_plain


async def test_a_cancelled_page_frees_its_place(asked):
    async with pooling(processes=1) as pool:
        await pool.extract(asked(PAGE.encode()))
        page = asyncio.create_task(pool.extract(asked(b"<div>" * 100_000)))
        await asyncio.sleep(0.2)
        page.cancel()
        with pytest.raises(asyncio.CancelledError):
            await page
        assert not (await pool.extract(asked(PAGE.encode()))).is_plain


async def test_a_process_of_the_pool_inherits_no_secret(asked, monkeypatch):
    monkeypatch.setenv("INTERLOCK_TEST_SECRET", "never")
    async with pooling(processes=1) as pool:
        await pool.extract(asked(PAGE.encode()))
        pid = pool._children[0]._process.pid
        assert b"never" not in Path(f"/proc/{pid}/environ").read_bytes()
        limits = Path(f"/proc/{pid}/limits").read_text()
    assert "Max address space         1073741824" in limits and "Max file size             0" in limits
