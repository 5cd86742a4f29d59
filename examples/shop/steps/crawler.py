"""The shop's own site is crawled: by its rules, at its pace, into the index."""

import time
from itertools import pairwise
from typing import Any, Final
from urllib.parse import quote

from examples.shop.client import Platform
from examples.shop.site import PAGES, ROBOTS_LINE
from examples.shop.steps.kit import Shop, Shown, require

DELAY_S: Final = 0.05
CLOCK_GRACE_S: Final = 0.001
CRAWL_S_MAX: Final = 60.0


def crawl_the_shop_site(shop: Shop) -> Shown:
    """25 pages behind a robots.txt: the disallowed ones are not visited, the delay is kept, the others are indexed."""
    site, reader = shop.site, _key(shop)
    spec = {"seeds": [f"{site.base}/"], "name": "shop site", "politeness": {"delay_s": DELAY_S}}
    started = reader.call("POST", "/v1/crawls", spec)
    require(started.status == 201, "the crawl starts", started)
    crawl = _ended(reader, started.body["id"])
    counts = crawl["counts"]
    require(crawl["state"] == "finished", f"the crawl ends ({crawl['state']}, {counts})")
    require(counts["documents"] == PAGES, f"{PAGES} pages are in the index (has {counts})")
    _require_obeyed(shop, reader, crawl["id"])
    came = sorted(visit.at_s for visit in site.visits)
    closest_s = min(after - before for before, after in pairwise(came))
    require(closest_s >= DELAY_S - CLOCK_GRACE_S, f"no two visits are closer than {DELAY_S} s (has {closest_s:.4f})")
    found = reader.call("POST", "/v1/retrieval/search", {"query": "how long may a customer send an item back"})
    require(found.status == 200, "the index answers", found)
    require(any(hit["uri"].startswith(site.base) for hit in found.body["hits"]), "a page of the site is found", found)
    return Shown(
        f"{counts['documents']} pages, {len(came)} visits at least {closest_s * 1000:.0f} ms apart, robots obeyed",
        crawl["id"],
    )


def _require_obeyed(shop: Shop, reader: Platform, crawl_id: str) -> None:
    refused_url = f"{shop.site.base}/staff/rota"
    require(not [visit for visit in shop.site.visits if "/staff/" in visit.path], "no disallowed page was visited")
    told = reader.call("GET", f"/v1/crawls/{crawl_id}/explain?url={quote(refused_url, safe='')}")
    require(told.status == 200 and told.body["rule"] == "robots_denied", "the refusal names robots.txt", told)
    require(told.body["robots"]["line"] == ROBOTS_LINE, f"it names line {ROBOTS_LINE}", told)


def _key(shop: Shop) -> Platform:
    scopes = ["crawls:read", "crawls:write", "retrieval:read", "requests:read"]
    body = {"workspace_id": shop.workspaces["support-desk"], "name": f"site {shop.run}", "scopes": scopes}
    made = shop.owner.call("POST", "/admin/v1/keys", body)
    require(made.status == 201, "a key for the crawl is made", made)
    return Platform(shop.url, made.body["key"])


def _ended(reader: Platform, crawl_id: str) -> dict[str, Any]:
    deadline = time.perf_counter() + CRAWL_S_MAX
    while True:
        shown = reader.call("GET", f"/v1/crawls/{crawl_id}")
        require(shown.status == 200, "the crawl is shown", shown)
        if shown.body["state"] in {"finished", "canceled"} or time.perf_counter() > deadline:
            return dict(shown.body)
        time.sleep(0.1)
