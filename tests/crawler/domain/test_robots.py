"""robots.txt: the line that decides, groups, limits, escapes."""

import pytest

from interlock.crawler.adapters.decoding import Body
from interlock.crawler.domain.robots import BODY_BYTES_MAX, parse_robots
from interlock.crawler.domain.types import Fetched
from interlock.crawler.worker.robots import TTL_S_MAX, TTL_S_MIN, answer_of, robots_request

AGENT = "InterlockBot"


def _judge(body: str, target: str, agent: str = AGENT):
    return parse_robots(body.encode(), agent).verdict(target)


def test_the_longest_pattern_decides_and_names_its_line():
    body = "User-agent: *\nDisallow: /a\n\nAllow: /a/b # why\n"
    allowed = _judge(body, "/a/b/c")
    assert (allowed.allowed, allowed.line, allowed.text, allowed.group) == (True, 4, "Allow: /a/b", "*")
    denied = _judge(body, "/a/x")
    assert (denied.allowed, denied.line, denied.text) == (False, 2, "Disallow: /a")
    assert _judge(body, "/z").line == 0


def test_an_allow_wins_a_tie():
    assert _judge("user-agent: *\ndisallow: /p\nallow: /p\n", "/p").allowed


def test_own_groups_are_merged_and_win_over_all_others():
    body = (
        "User-agent: *\nDisallow: /\nCrawl-delay: 9\n\nuser-agent: INTERLOCKBOT\nDisallow: /a\nCrawl-delay: 2\n"
        "\nUser-agent: other\nDisallow: /o\nUser-Agent: interlockbot/9\nDisallow: /b\nCrawl-delay: 3\n"
    )
    rules = parse_robots(body.encode(), AGENT)
    assert [rules.verdict(path).allowed for path in ("/a", "/b", "/c", "/o")] == [False, False, True, True]
    assert rules.crawl_delay_s == 3
    assert rules.verdict("/a").group == "INTERLOCKBOT"
    assert parse_robots(body.encode(), "elsebot").crawl_delay_s == 9


def test_an_own_group_without_rules_allows_everything():
    assert _judge("user-agent: *\ndisallow: /\nuser-agent: interlockbot\ndisallow:\n", "/x").allowed


@pytest.mark.parametrize(
    ("pattern", "target", "is_allowed"),
    [
        ("/*.pdf$", "/a/b.pdf", False),
        ("/*.pdf$", "/a/b.pdf?x", True),
        ("/a*b*c$", "/aXXbYYc", False),
        ("/a*b*c$", "/aXXbYYcc", False),
        ("/a*c$", "/ac", False),
        ("/ab*b$", "/ab", True),
        ("*", "/", False),
        ("/%7Euser", "/~user", False),
        ("/%e3%83%84", "/%E3%83%84", False),
        ("/\u30c4", "/%E3%83%84", False),
        ("/a%2Ab", "/a*b", False),
        ("/a%2Ab", "/aXb", True),
        ("/a$b", "/a$b", False),
        ("/a b", "/a%20b", False),
        ("/a%2Fb", "/a/b", True),
        ("", "/a", True),
    ],
)
def test_patterns(pattern, target, is_allowed):
    assert _judge(f"user-agent: *\ndisallow: {pattern}\n", target).allowed is is_allowed


def test_robots_txt_itself_is_always_allowed():
    assert _judge("user-agent: *\ndisallow: /\n", "/robots.txt").allowed


def test_marks_line_ends_and_misspellings_are_accepted():
    body = b"\xef\xbb\xbfuser agent: *\rdissallow: /a\r\nDisallow /b\n\x00\nsitemap: http://h/s.xml\n"
    rules = parse_robots(body, AGENT)
    assert (rules.verdict("/a").line, rules.verdict("/b").line) == (2, 3)
    assert rules.sitemaps == ("http://h/s.xml",)


def test_only_the_first_500_kib_count_and_half_a_line_does_not():
    head = b"user-agent: *\ndisallow: /early\n"
    filler = b"#" * 79 + b"\n"
    body = head + filler * ((BODY_BYTES_MAX - len(head)) // len(filler)) + b"disallow: /" + b"x" * 200
    rules = parse_robots(body + b"\ndisallow: /late\n", AGENT)
    assert not rules.verdict("/early").allowed
    assert rules.verdict("/late").allowed and rules.verdict("/x").allowed


def test_a_file_that_was_cut_where_it_was_fetched_ends_with_no_half_line():
    head = b"user-agent: *\ndisallow: /early\n"
    last = b"\ndisallow: /"
    filler = b"#" * (BODY_BYTES_MAX - len(head) - len(last))
    body = Body.of("", robots_request("http://h/robots.txt").body_bytes_max, truncate=True)
    for line in (b"".join(filler[at : at + 999] + b"\n" for at in range(0, len(filler), 1_000))[: len(filler)],):
        body.feed(head + line + last + b"private/of/one\n")
    rules = parse_robots(body.finish(), AGENT)
    assert not rules.verdict("/early").allowed
    assert rules.verdict("/shop").allowed


@pytest.mark.parametrize(
    ("told", "ttl_s"),
    [("max-age=7200", 7_200.0), ("max-age=\u00b2", TTL_S_MAX), ("max-age=", TTL_S_MAX), ("max-age=1", TTL_S_MIN)],
)
def test_how_long_a_file_holds_is_read_from_any_header(told, ttl_s):
    fetched = Fetched(200, headers=(("cache-control", told),), body=b"")
    assert answer_of(fetched).ttl_s == ttl_s


def test_a_line_past_8_kib_is_ignored():
    assert _judge("user-agent: *\ndisallow: /" + "*a" * 5_000 + "\n", "/" + "a" * 100).allowed
    assert _judge("user-agent: *\n" + "x" * 60_000 + "\ndisallow: /a\n", "/a").line == 3


def test_many_stars_cost_no_time_that_grows_with_their_product():
    body = "user-agent: *\ndisallow: /" + "*a" * 2_000 + "b$\n"
    assert _judge(body, "/" + "a" * 2_000).allowed


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "soon", ""])
def test_a_delay_that_is_no_delay_is_none(value):
    assert parse_robots(f"user-agent: *\ncrawl-delay: {value}\n".encode(), AGENT).crawl_delay_s is None


def test_content_signals_are_kept_as_data():
    rules = parse_robots(b"user-agent: *\nContent-Signal: ai-train=no\nallow: /\n", AGENT)
    assert [(each.line, each.text) for each in rules.content_signals] == [(2, "ai-train=no")]
