"""Filters of the requests page that a person named: theirs alone, whole in the address, text wherever they stand."""

import re
from html import unescape
from urllib.parse import urlencode

import pytest

from interlock.console.filters import FILTERS_MAX, kept_of
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Role
from tests.console.conftest import signed_in
from tests.support.store import make_tenant, scope_of

SITE = {"sec_fetch_site": "same-origin", "content_type": "application/x-www-form-urlencoded"}
FILTERED = "/console/requests?outcome=ok&alias=shop"
HOSTILE = '"><script>alert(1)</script>'


def text(answer):
    return answer.content.decode()


async def post(client, path="/console/requests/filters", **fields):
    token = re.search(r'name="csrf_token" value="([^"]+)"', text(await client("GET", FILTERED)))[1]
    return await client("POST", path, urlencode({"csrf_token": token, **fields}).encode(), **SITE)


def chips(page):
    listed = re.search(r'aria-label="Saved filters">(.*?)</nav>', page)
    return [] if listed is None else re.findall(r'href="([^"]+)"[^>]*>([^<]+)</a>', listed[1])


async def actions(world):
    async with world.store.ops("audit of a test") as tx:
        rows = await tx._connection.fetch(
            "SELECT action FROM audit_events WHERE organization_id = $1 ORDER BY seq", world.owner.organization_id
        )
    return [row["action"] for row in rows if row["action"].startswith("console.")]


async def test_a_filter_is_named_opened_and_deleted_and_each_change_is_audited(world, owner):
    page = text(await owner("GET", FILTERED))
    query = unescape(re.search(r'name="query" value="([^"]+)"', page)[1])
    saved = await post(owner, name=" late refusals ", query=query)
    assert saved.status == 303
    assert saved.headers["location"] == f"/console/requests?{query}"
    plain = text(await owner("GET", "/console/requests"))
    ((url, name),) = chips(plain)
    assert name == "late refusals"
    assert "Save this filter" not in plain, "everything is no filter"
    opened = text(await owner("GET", unescape(url)))
    assert 'aria-current="true">late refusals</a>' in opened
    assert re.search(r"<option selected>ok</option>", opened)
    assert (await post(owner, "/console/requests/filters/delete", name="late refusals")).status == 303
    assert chips(text(await owner("GET", "/console/requests"))) == []
    assert await actions(world) == ["console.filter.save", "console.filter.delete"]


async def test_a_filter_is_its_persons_and_nobody_elses(world, app, owner, viewer):
    await post(owner, name="mine", query="alias=shop")
    assert chips(text(await viewer("GET", "/console/requests"))) == []
    await post(viewer, "/console/requests/filters/delete", name="mine")
    assert len(chips(text(await owner("GET", "/console/requests")))) == 1, "nobody deletes another's"
    assert (await post(viewer, name="mine", query="alias=desk")).status == 303, "who may read may keep a filter"
    assert chips(text(await owner("GET", "/console/requests")))[0][0] == "/console/requests?alias=shop"
    elsewhere = scope_of(*await make_tenant(world.store))
    other = await signed_in(
        world, app, await world.sign_up("other", Role.OWNER, ("requests:read", "console"), elsewhere)
    )
    assert chips(text(await other("GET", "/console/requests"))) == []


async def test_the_same_name_replaces_and_there_are_so_many_at_most(owner):
    for number in range(FILTERS_MAX):
        assert (await post(owner, name=f"filter {number}", query=f"alias=a{number}")).status == 303
    assert (await post(owner, name="filter 0", query="alias=b")).status == 303
    assert (await post(owner, name="one more", query="alias=b")).status == 400
    listed = chips(text(await owner("GET", "/console/requests")))
    assert len(listed) == FILTERS_MAX
    assert {name: url for url, name in listed}["filter 0"] == "/console/requests?alias=b"


async def test_a_name_that_would_be_a_script_stays_text_and_what_is_no_filter_is_refused(owner):
    assert (await post(owner, name=HOSTILE, query=urlencode({"alias": HOSTILE}))).status == 303
    page = text(await owner("GET", "/console/requests"))
    assert "<script>alert" not in page
    assert (await owner("GET", unescape(chips(page)[0][0]))).status == 200
    for wrong in ({"name": "", "query": "alias=a"}, {"name": "a", "query": ""}, {"name": "a" * 61, "query": "alias=a"},
                  {"name": "a", "query": "csrf_token=x"}, {"name": "a\nb", "query": "alias=a"}):  # fmt: skip
        assert (await post(owner, **wrong)).status == 400, wrong
    bare = await owner(
        "POST", "/console/requests/filters", urlencode({"name": "a", "query": "alias=a"}).encode(), **SITE
    )
    assert bare.status == 403, "without the token of the session"


def test_a_filter_keeps_what_filters_and_nothing_else():
    assert kept_of("cursor=x&alias=shop&next=//evil&within=1+hour&own=1") == "alias=shop&within=1+hour&own=1"
    for empty in ("", "cursor=x", "alias=" + "a" * 3_000, "&".join("alias=a" for _ in range(40))):
        with pytest.raises(InterlockError):
            kept_of(empty)
