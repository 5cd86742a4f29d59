"""Canonical URLs: a fixed point, the rules of version 1, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.crawler.domain.types import CanonicalUrl, UrlRefused
from interlock.crawler.domain.urls import canonicalise, host_hash, is_ip_literal, url_key

_PIECES = st.sampled_from(
    ["a", "..", ".", "%2e", "%2E%2e", ";jsessionid=1", "%7e", "%2f", "%", "%4", "/", "?", "&", "=", "#", "utm_a=1",
     "sid=" + "0" * 32, "\u30c4", " ", "\\", "%C3%A9", ":", "@", "|", "'", "%3bjsessionid=2", "%75tm_b=3", "+"]
)  # fmt: skip


def _canonical(raw: str, base: str | None = None) -> CanonicalUrl:
    found = canonicalise(raw, base)
    assert isinstance(found, CanonicalUrl), found
    return found


@given(st.lists(_PIECES, max_size=14).map("".join))
def test_the_canonical_form_of_a_canonical_form_is_itself(rest):
    found = canonicalise(f"http://h.example/{rest}")
    if isinstance(found, CanonicalUrl):
        assert canonicalise(found.url) == found


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(raw):
    found = canonicalise(raw, "http://h.example/a/")
    assert isinstance(found, CanonicalUrl | UrlRefused)


@pytest.mark.parametrize(
    ("raw", "url"),
    [
        ("HTTP://Shop.Example:80", "http://shop.example/"),
        ("http://h/a#part", "http://h/a"),
        ("http://h/?", "http://h/"),
        ("http://h/%7euser/%c3%a9", "http://h/~user/%C3%A9"),
        ("http://h/a;jsessionid=ABC?x=1", "http://h/a?x=1"),
        ("http://h/a/..;jsessionid=1/b", "http://h/b"),
        ("http://h/?b=2&utm_source=x&a=1&gclid=3", "http://h/?b=2&a=1"),
        ("http://h/?%75tm_source=x", "http://h/"),
        ("http://h/?sid=0123456789abcdef0123456789abcdef", "http://h/"),
        ("http://h/?sid=kept", "http://h/?sid=kept"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://\u30c4.example/", "http://xn--bdk.example/"),
    ],
)
def test_rules_version_one(raw, url):
    assert _canonical(raw).url == url


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ("ftp://x/", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("mailto:a@b", "scheme"),
        ("http://u:p@h/", "userinfo"),
        ("http://u@h/", "userinfo"),
        ("http://", "no_host"),
        ("http://./", "no_host"),
        ("shop.example/", "malformed"),
        ("http://h/\ud800", "malformed"),
        ("http://[::1/", "malformed"),
        ("http://h/" + "a" * 2_040, "too_long"),
        ("http://h/" + "\u00e9" * 400, "too_long"),
    ],
)
def test_what_is_no_url_of_a_crawl_names_its_rule(raw, rule):
    found = canonicalise(raw)
    assert isinstance(found, UrlRefused)
    assert found.rule == rule


@pytest.mark.parametrize("host", ["shop.example.", "SHOP.example%2E", "shop.example\u3002", "shop.example.."])
def test_the_root_s_dot_makes_no_other_host(host):
    """With it a blocked host was visited all the same, and any host twice as often as its delay lets."""
    assert _canonical(f"http://{host}:8080/a") == _canonical("http://shop.example:8080/a")
    assert _canonical("http://1.2.3.4../").host == "1.2.3.4"


def test_a_url_of_exactly_the_limit_is_kept():
    raw = "http://h/" + "a" * (2_048 - 9)
    assert _canonical(raw).url == raw


def test_parts_name_the_port_and_the_registered_domain():
    found = _canonical("https://www.shop.co.uk/a?b=1")
    assert (found.authority, found.host, found.port) == ("https://www.shop.co.uk:443", "www.shop.co.uk", 443)
    assert (found.registered_domain, found.target) == ("shop.co.uk", "/a?b=1")
    literal = _canonical("http://[::1]:8080/")
    assert (literal.host, literal.port, literal.registered_domain) == ("[::1]", 8080, "[::1]")
    assert is_ip_literal("127.0.0.1") and is_ip_literal("[::1]") and not is_ip_literal("a.example")


def test_keys_depend_on_the_installation_and_hashes_fit_a_bigint():
    url = "http://h.example/"
    assert url_key(url, 1) != url_key(url, 2)
    assert url_key(url, 1) == url_key(url, 1)
    hashes = [host_hash(f"http://h{number}.example:80") for number in range(64)]
    assert all(-(1 << 63) <= each < 1 << 63 for each in hashes)
    assert any(each < 0 for each in hashes)


def test_a_relative_link_is_read_against_its_base():
    assert _canonical("../b?x=1#f", "http://h/a/c/d").url == "http://h/a/b?x=1"
