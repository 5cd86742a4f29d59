"""Sitemaps, page signals, charsets and traps."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.crawler.domain.charset import codec_of, decoded
from interlock.crawler.domain.signals import page_signals, snippet_chars_max
from interlock.crawler.domain.sitemap import DECODED_BYTES_MAX, TAGS_MAX, parse_sitemap, when_us
from interlock.crawler.domain.traps import is_exhausted, template_of, trapped
from interlock.crawler.domain.types import CanonicalUrl, Sitemap, SitemapInvalid
from interlock.crawler.domain.urls import canonicalise

NS = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
NOW_US = 1_796_000_000_000_000


def _sitemap(body: bytes) -> Sitemap:
    found = parse_sitemap(body)
    assert isinstance(found, Sitemap), found
    return found


def _url(raw: str) -> CanonicalUrl:
    found = canonicalise(raw)
    assert isinstance(found, CanonicalUrl)
    return found


def test_a_sitemap_an_index_text_rss_and_atom_are_read():
    urlset = f"<urlset {NS}><url><loc> http://h/a </loc><lastmod>2026-01-02</lastmod></url><url/></urlset>"
    found = _sitemap(urlset.encode())
    assert [(each.loc, each.lastmod_us) for each in found.entries] == [("http://h/a", 1_767_312_000_000_000)]
    index = f"<?xml version='1.0'?><sitemapindex {NS}><sitemap><loc>http://h/s.xml</loc></sitemap></sitemapindex>"
    assert _sitemap(gzip.compress(index.encode())).children == ("http://h/s.xml",)
    assert [each.loc for each in _sitemap(b"\xef\xbb\xbfhttp://h/1\r\nnot\nhttps://h/2").entries] == [
        "http://h/1",
        "https://h/2",
    ]
    item = b"<item><link>http://h/i</link><pubDate>Fri, 02 Jan 2026 00:00:00 GMT</pubDate></item>"
    rss = b"<rss><channel>" + item + b"</channel></rss>"
    assert _sitemap(rss).entries[0].lastmod_us == 1_767_312_000_000_000
    atom = b'<feed xmlns="http://www.w3.org/2005/Atom"><entry><link href="http://h/e"/></entry></feed>'
    assert _sitemap(atom).entries[0].loc == "http://h/e"


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><urlset><url><loc>&e;</loc></url></urlset>', "dtd"),
        (b'<!DOCTYPE urlset SYSTEM "http://127.0.0.1/x.dtd"><urlset/>', "dtd"),
        (b"<urlset><url><loc>http://h/&undefined;</loc></url></urlset>", "bad_xml"),
        (b"<urlset><url>", "bad_xml"),
        (b"<html><body>no</body></html>", "bad_xml"),
        (b"  ", "empty"),
        (b"words", "bad_xml"),
        (gzip.compress(b"<urlset/>", mtime=0)[:-9], "bad_gzip"),
        (b"\x1f\x8bnot", "bad_gzip"),
        (b" " * (DECODED_BYTES_MAX + 1), "too_large"),
        (gzip.compress(b" " * (DECODED_BYTES_MAX + 1), mtime=0), "bomb"),
        # Of nothing but tags: read one by one, such a file of 47 KB held a whole worker up for a minute and a half.
        (b"<urlset>" + b"<a/>" * TAGS_MAX + b"</urlset>", "too_many"),
        (b"<urlset>" + b"<url><loc>http://h/</loc></url>" * 50_001 + b"</urlset>", "too_many"),
    ],
)
def test_what_is_no_sitemap_names_its_rule(body, rule):
    assert parse_sitemap(body) == SitemapInvalid(rule)


@given(st.binary(max_size=300))
def test_no_octets_break_a_parser(body):
    assert isinstance(parse_sitemap(body), Sitemap | SitemapInvalid)
    assert isinstance(decoded(body, None)[0], str)


@pytest.mark.parametrize("text", [None, "", "soon", "9999-99-99", "0000-00-00", "x" * 41, "0001-01-01T00:00:00+23:59"])
def test_a_date_that_is_none_is_none(text):
    assert when_us(text) is None or text == "0001-01-01T00:00:00+23:59"


def test_the_strictest_wish_counts_whoever_says_it():
    headers = (
        ("x-robots-tag", "otherbot: noindex, nosnippet"),
        ("x-robots-tag", "max-snippet: 80, interlockbot: nofollow"),
    )
    found = page_signals(headers, [("ROBOTS", "max-snippet:50, index"), ("googlebot", "noindex")])
    assert {name: (each.value, each.origin) for name, each in found.items()} == {
        "nofollow": ("1", "header"),
        "max_snippet": ("50", "meta"),
    }
    assert snippet_chars_max(found) == 50


def test_none_means_both_and_nosnippet_means_no_character():
    found = page_signals((), [("interlockbot", "None, NOSNIPPET, max-snippet:-1")])
    assert set(found) == {"noindex", "nofollow", "nosnippet"}
    assert snippet_chars_max(found) == 0
    assert snippet_chars_max({}) is None


@pytest.mark.parametrize(
    ("body", "header", "codec"),
    [
        (b"\xef\xbb\xbf<meta charset=koi8-r>", "text/html; charset=latin1", "utf-8"),
        (b"<meta charset=koi8-r>", "text/html; charset=UTF-8", "utf-8"),
        (b"<meta charset=koi8-r>", "text/html; charset=nonsense", "koi8-r"),
        (b"<!-- <meta charset=koi8-r> --><meta http-equiv=Content-Type content='a; charset=gbk'>", None, "gb18030"),
        (b"<meta charset=utf-16>", None, "utf-8"),
        (b"<meta charset=rot13>", None, "cp1252"),
        (b" " * 1_024 + b"<meta charset=koi8-r>", None, "cp1252"),
        (b"plain", None, "cp1252"),
    ],
)
def test_the_order_of_charsets(body, header, codec):
    assert codec_of(body, header) == codec


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/a/b/a/b/a/b", None),
        ("/a/b/a/b/a/b/a/b", "trap_repeat"),
        ("/x/y/y/y/y", "trap_repeat"),
        ("/" + "/".join(f"s{number}" for number in range(16)), None),
        ("/" + "/".join(f"s{number}" for number in range(17)), "trap_depth"),
        ("/?" + "&".join(f"k{number}=1" for number in range(8)), None),
        ("/?" + "&".join(f"k{number}=1" for number in range(9)), "trap_query"),
        ("/calendar/2031/05/01", "trap_calendar"),
        ("/calendar?day=2031-05-01", "trap_calendar"),
        ("/calendar/2027-05-01", None),
        ("/item/203105", None),
    ],
)
def test_forms_that_a_site_can_make_without_end(path, rule):
    found = trapped(_url(f"http://h{path}"), NOW_US)
    assert (found and found.rule) == rule


def test_pages_of_one_kind_share_a_template():
    templates = {template_of(_url(f"http://h/p/{number}/2026-01-0{number}?b={number}&a=1")) for number in (1, 2, 3)}
    assert templates == {"/p/{n}/{date}?a&b"}
    assert template_of(_url("http://h/d/0123abcdef")) == "/d/{hex}"
    assert template_of(_url("http://h/about")) == "/about"


def test_a_template_ends_when_it_brings_nothing_new():
    assert not is_exhausted(500, 0)
    assert is_exhausted(501, 4)
    assert not is_exhausted(501, 5)
