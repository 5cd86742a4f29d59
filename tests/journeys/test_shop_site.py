"""From a page of the shop's site to a cited answer, and from its 410 to an answer without it."""

import time

import pytest
from examples.shop.site import ShopSite

from tests.support.platform import remove, start

pytestmark = [pytest.mark.real]
QUESTION = "How many days may a customer send an item back after it was handed over?"
PATIENCE_S = 240.0


def until(read, is_so):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = read()
        if is_so(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def cited(platform, base):
    answered = platform.call("POST", "/v1/retrieval/answers", {"query": QUESTION, "mode_answer": "extractive"})
    assert answered.status == 200, answered
    return [each["uri"] for each in answered.body["citations"] if each["uri"].startswith(base)]


def test_a_page_is_crawled_cited_removed_and_cited_no_more():
    site = ShopSite()
    running = start("--engine", "none", "--roles", "edge,control,worker", "--crawl-allow", site.allow)
    try:
        owner = running.owner
        spec = {"seeds": [f"{site.base}/"], "politeness": {"delay_s": 0.05}}
        crawl = owner.call("POST", "/v1/crawls", spec).body["id"]
        shown = until(lambda: owner.call("GET", f"/v1/crawls/{crawl}").body, lambda found: found["state"] == "finished")
        assert shown["counts"]["documents"] == len(site.paths) == 25
        page = f"{site.base}/help/returns-window"
        assert page in until(lambda: cited(owner, site.base), lambda uris: page in uris)
        site.gone.add("/help/returns-window")
        again = owner.call("POST", f"/v1/crawls/{crawl}/recrawl", {"urls": [page]})
        assert (again.status, again.body) == (202, {"scheduled": 1})
        began = time.monotonic()
        until(lambda: cited(owner, site.base), lambda uris: page not in uris)
        print(f"gone from answers {time.monotonic() - began:.2f} s after the recrawl was asked for")
        told = owner.call("GET", f"/v1/crawls/{crawl}/explain?url={page}").body
        assert (told["verdict"], told["rule"]) == ("gone", "http_410")
        watched = running.cli("crawl", "watch", crawl, "--json").stdout
        assert "document.tombstone" in watched
    finally:
        remove(running)
        site.close()
