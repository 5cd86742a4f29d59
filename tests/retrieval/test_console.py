"""The pages of retrieval: a query looked into, its record, and the path of an access."""

import html
import re
from urllib.parse import urlencode

import pytest

from interlock.console import routes
from interlock.console.retrieval import RetrievalPages, retrieval_pages
from interlock.foundation.audit import AuditLog
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.identity import authorize
from interlock.foundation.ids import format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import Role
from interlock.retrieval.service.explain import ExplainService
from tests.console.conftest import signed_in
from tests.console.worlds import make_world
from tests.retrieval.conftest import searching
from tests.retrieval.world import World
from tests.support.store import IDS

SITE = {"sec_fetch_site": "same-origin", "content_type": "application/x-www-form-urlencoded"}
SCOPES = ("console", "requests:read", "retrieval:read")


@pytest.fixture
async def shown(store, tmp_path):
    """Return the console's world, retrieval's in the same organization, and the application of both."""
    console_world = await make_world(store, tmp_path)
    owner = console_world.owner
    world = World(store, owner.organization_id, owner.workspace_id)
    console, audit, search = console_world.console(), AuditLog(SystemClock(), Redactor()), searching(store)
    pages = RetrievalPages(console.frame, search, ExplainService(search.parts, audit), SystemClock())
    kit = Kit(
        store=store, audit=audit, gate=Gate(console_world.authenticator, console_world.sessions, authorize), ids=IDS,
        clock=SystemClock(), dice=SystemDice(), key=b"k" * 32, error_page=console.error_page,
    )  # fmt: skip
    app = build_app([*routes(console), *retrieval_pages(pages, console.samples)], kit)
    world.people["owner"] = owner.owner_id
    return console_world, world, app


def text(answer):
    return answer.content.decode()


async def run(client, **fields):
    page = text(await client("GET", "/console/retrieval"))
    token = re.search(r'name="csrf_token" value="([^"]*)"', page)[1]
    return await client("POST", "/console/retrieval", urlencode({"csrf_token": token, **fields}).encode(), **SITE)


async def test_a_query_is_run_and_laid_out_and_its_record_holds_no_text(shown):
    console_world, world, app = shown
    owner = await signed_in(console_world, app, console_world.owner_key)
    assert "interlock search" in text(await owner("GET", "/console/retrieval"))
    mine = await world.document("Refunds take thirty days.", world.acl("owner"), title="Refund policy")
    await world.user("bob")
    await world.document("Refunds for bob.", world.acl("bob"), title="Hidden title")
    page = text(await run(owner, query="refund", mode="hybrid"))
    assert "Refunds take thirty days." in page
    assert "Hidden title" not in page
    assert "You see what" not in page
    assert len(re.findall(r"<h1[ >]", page)) == 1
    record = re.search(r'href="(/console/retrieval/requests/req_\w+)"', page)[1]
    told = text(await owner("GET", record))
    assert format_id("doc", mine) in told
    assert "Refund" not in told
    assert record.rpartition("/")[2] in text(await owner("GET", "/console/retrieval"))
    screens = (await owner("GET", "/console/screens.json")).json["data"]
    assert record in [each["sample_path"] for each in screens]


async def test_a_look_as_somebody_else_says_so_and_is_in_the_audit(shown):
    console_world, world, app = shown
    owner = await signed_in(console_world, app, console_world.owner_key)
    bob = await world.user("bob")
    await world.document("Refunds for bob.", world.acl("bob"), title="Bobs note")
    page = text(await run(owner, query="refund", mode="hybrid", principal=f"user:{format_id('usr', bob)}"))
    assert "You see what" in page
    assert "Bobs note" in page
    (row,) = await world.sql("SELECT target_id FROM audit_events WHERE action = 'retrieval.delegate'")
    assert row["target_id"] == f"user:{format_id('usr', bob)}"


async def test_who_may_less_sees_less(shown):
    console_world, world, app = shown
    reader = await signed_in(console_world, app, await console_world.sign_up("reader", Role.VIEWER, SCOPES))
    await world.user("bob")
    page = text(await reader("GET", "/console/retrieval"))
    assert 'name="principal"' not in page
    assert (await run(reader, query="x", mode="hybrid", principal="everyone")).status == 403
    assert (await run(reader, query="x", mode="nonsense")).status == 400
    assert (await reader("GET", "/console/retrieval/why")).status == 403
    assert (await reader("GET", "/console/retrieval/requests/req_none")).status == 403


async def test_why_draws_the_path(shown):
    console_world, world, app = shown
    owner = await signed_in(console_world, app, console_world.owner_key)
    bob = await world.user("bob")
    await world.group("g-support", "bob")
    refund = await world.document("Refunds.", world.acl("g-support"))
    empty = text(await owner("GET", "/console/retrieval/why"))
    assert "interlock sources why" in empty
    asked = {"principal": f"user:{format_id('usr', bob)}", "document_id": format_id("doc", refund)}
    page = text(await owner("GET", f"/console/retrieval/why?{urlencode(asked)}"))
    path = re.search(r'<ol class="access-path">(.*?)</ol>', page, re.DOTALL)[1]
    names = re.findall(r"<code>([^<]*)</code>", path)
    group = f"group:{format_id('grp', world.people['g-support'])}"
    assert names == [asked["principal"], group, group, asked["document_id"]]
    assert "may read" in page
    # Over time: a slider to the epoch of now, and the epochs at which the document became another.
    now = await world.epoch()
    page = text(await owner("GET", f"/console/retrieval/why?{urlencode(asked)}"))
    assert f'type="range" name="at" min="0" max="{now}" value="{now}"' in page
    turn, cause = re.search(r'href="(/console/retrieval/why[^"]*at=\d+)">\d+ (\w+)</a>', page).groups()
    assert cause == "put"
    then = text(await owner("GET", html.unescape(turn)))
    assert 'aria-current="true"' in then
    assert "may read" in then
    for broken in ({"document_id": "doc_<b>"}, {"principal": "user:nobody@x"}, {"at": "soon"}, {"at": "9" * 12}):
        answer = await owner("GET", f"/console/retrieval/why?{urlencode(asked | broken)}")
        assert answer.status == 200
        assert 'class="notice"' in text(answer)
        assert "<b>" not in text(answer)
    assert (await owner("GET", "/console/retrieval/requests/req_none")).status == 404
