"""The scanner: links as a tree builder finds them, signals, what is no page, linear work."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from interlock.crawler.adapters.scanner import TagScanner, media_type_of, tags_of
from interlock.crawler.domain.types import Scanned, Unsupported

HTML = (("content-type", "text/html; charset=utf-8"),)
URL = "http://h.example/a/b"
SOUP = st.sampled_from(
    [
        "<a href=/x>",
        '<a href="/y" rel=nofollow>',
        "</a>",
        "<a\nHREF='/z'>",
        "<a/href=q>",
        '<a href="a>b">',
        "<p>",
        "text",
        '<div title="<a href=no>">',
        "<!-- <a href=c> -->",
        "<!-->",
        '<a x="1"y=2 href=3>',
        "<a href>",
        "<a href=>",
        "<a =x href=5>",
        '<a href="&amp;&lt;x">',
        "<style><a href=s></style>",
        '<script>"<a href=n>"</script>',
        "<title><a href=t></title>",
        "<",
        "<3",
        "<!x>",
        "<?y>",
        "'",
        '"',
        ">",
        "/",
        " href=8 ",
    ]
)


def _scan(html: str, headers=HTML) -> Scanned:
    found = TagScanner().scan(URL, headers, html.encode())
    assert isinstance(found, Scanned), found
    return found


@settings(max_examples=400)
@given(st.lists(SOUP, max_size=8).map("".join))
def test_links_are_those_that_a_tree_builder_finds(html):
    built = dict.fromkeys(node.attributes.get("href") or "" for node in LexborHTMLParser(html).tags("a"))
    read = dict.fromkeys(tag.get("href", "") for tag in tags_of(html)["a"])
    assert read == built


@given(st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=200))
def test_no_text_breaks_the_scanner(html):
    assert isinstance(_scan(html), Scanned)


def test_links_are_joined_with_the_base_and_named_once():
    found = _scan(
        "<base href='/c/'><base href='/d/'><a href=x>1</a><a href='x'>2</a><a href='#part'><a href='JavaScript:1'>"
        "<a href=mailto:a@b><a href='http://o.example/' rel='ugc NoFollow'><a href=y rel=nofollow><a href=y>"
        "<link rel=alternate href=/fr hreflang=fr><link rel=alternate type=application/rss+xml href=/feed>"
    )
    assert [(link.url, link.is_nofollow) for link in found.links] == [
        ("http://h.example/c/x", False), ("http://o.example/", True), ("http://h.example/c/y", False),
        ("http://h.example/fr", False),
    ]  # fmt: skip


@pytest.mark.parametrize("base", ["javascript:1//", "data:text/html,x", "http://[", ""])
def test_a_base_that_is_none_of_the_web_is_ignored(base):
    assert _scan(f"<base href='{base}'><a href=c>").links[0].url == "http://h.example/a/c"


def test_canonical_refresh_and_signals():
    found = _scan(
        "<link rel='canonical' href='/one'><link rel=canonical href=/two>"
        "<meta http-equiv=Refresh content=\"5; URL='/next'\">"
        "<meta name=robots content='noindex, nofollow'>",
        (*HTML, ("x-robots-tag", "nosnippet")),
    )
    assert (found.canonical, found.refresh) == ("http://h.example/one", "http://h.example/next")
    assert {name: signal.origin for name, signal in found.signals.items()} == {
        "noindex": "meta", "nofollow": "meta", "nosnippet": "header",
    }  # fmt: skip
    assert _scan("<meta http-equiv=refresh content=30>").refresh is None


@pytest.mark.parametrize(
    ("content_type", "body", "media_type"),
    [
        ("text/html", b"%PDF-1.7", "application/pdf"), ("text/html", b"\x89PNG\r\n", "image/png"),
        ("text/html", b"PK\x03\x04", "application/zip"), ("text/html", b"a\x00b", "application/octet-stream"),
        ("application/pdf", b"<html>", "application/pdf"), ("Text/HTML;x", b"<html>", "text/html"),
        (None, b"<html>", "text/html"), ("text/html", "\ufeffx".encode("utf-16-le"), "text/html"),
    ],
)  # fmt: skip
def test_first_octets_win_over_a_type_that_they_contradict(content_type, body, media_type):
    headers = () if content_type is None else (("content-type", content_type),)
    assert media_type_of(headers, body) == media_type
    if media_type != "text/html":
        assert TagScanner().scan(URL, headers, body) == Unsupported(media_type)


def test_plain_text_has_headers_signals_and_no_links():
    found = _scan("<a href=x>", (("content-type", "text/plain"), ("x-robots-tag", "noindex")))
    assert (found.links, set(found.signals)) == ((), {"noindex"})


def test_a_page_in_another_charset_is_read_in_it():
    body = "<meta charset=koi8-r><a href='/\u0436'>".encode("koi8-r")
    found = TagScanner().scan(URL, (("content-type", "text/html"),), body)
    assert found.links[0].url == "http://h.example/%D0%B6"


def _cpu_s(html: str) -> float:
    started = time.process_time()
    tags_of(html)
    return time.process_time() - started


@pytest.mark.parametrize(
    "piece",
    [
        "<a href=/x/1>x</a>",
        "<div>",
        "<a ",
        '<a href="',
        "<!--",
        "<script>",
        "<a =",
        "<title></x",
        "<a x1 x2 ",
        "<p><b><i>",
    ],
)
def test_link_pass_is_linear(piece):
    """Four times the page is four times the work, not sixteen, whatever its octets: a tree takes minutes of some."""
    short, long = (min(_cpu_s(piece * count) for _ in range(3)) for count in (25_000, 100_000))
    assert long < 9 * short + 0.02
