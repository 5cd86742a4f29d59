"""The playground over a real edge and a scripted model: who may ask, what is shown of an answer, what is kept of it."""

import json
import re
from dataclasses import replace
from html import unescape
from urllib.parse import urlencode

import httpx2
import pytest

from interlock.console.config import ConsoleConfig
from interlock.console.playground import Playground, PlaygroundParts, playground_pages
from interlock.evals.routes.runs import RunHandlers, run_routes
from interlock.evals.service.suites import Suites
from interlock.foundation.audit import AuditLog
from interlock.foundation.identity import KeyWanted
from interlock.foundation.ids import format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import ALL_WORKSPACES, Role
from interlock.foundation.wire import SseParser
from interlock.gateway import Stories
from interlock.scheduler import Fault, Script
from tests.console.conftest import signed_in
from tests.console.pictures import serving
from tests.console.worlds import make_world
from tests.gateway.test_model_client import door_of
from tests.gateway.test_routes import made_routing
from tests.gateway.worlds import CLOCK, patient, world
from tests.support.store import IDS, make_tenant, scope_of

SITE = {"sec_fetch_site": "same-origin", "content_type": "application/x-www-form-urlencoded"}
ASKED = {"alias": "default", "user": "Where is my order?", "max_tokens": "16"}
HOSTILE = '</textarea><script>alert("x")</script>'


@pytest.fixture
async def shop(store, tmp_path):
    return await make_world(store, tmp_path)


@pytest.fixture
async def edge(store, shop):
    tenant = scope_of(shop.owner.organization_id, shop.owner.workspace_id)
    async with world(store, tenant, config=patient(keep_alive_s=0.1)) as each:
        yield each


@pytest.fixture
def serve(store, shop, edge, tmp_path):
    """The application with the playground in it."""

    def served(**bounds):
        config = ConsoleConfig(playground_s=600.0, playground_whole_s=600.0, **bounds)
        audit = AuditLog(shop.clock, Redactor())
        _, versions, _ = made_routing(shop, audit, tmp_path)
        suites = Suites(audit, shop.clock, IDS, Redactor())
        frame = shop.console().frame
        models = door_of(edge, CLOCK)
        parts = PlaygroundParts(frame, models, versions, shop.identity, Stories(store, audit), suites, config)
        page = Playground(parts)
        return shop.app(*playground_pages(page), *run_routes(RunHandlers(suites, None, None, None, shop.clock))), page

    return served


@pytest.fixture
def app(serve):
    return serve()[0]


@pytest.fixture
async def owner(shop, app):
    return await signed_in(shop, app, shop.owner_key)


def text(answer):
    return answer.content.decode()


async def post(client, path="/console/playground", **fields):
    found = re.search(r'name="csrf_token" value="([^"]+)"', text(await client("GET", "/console")))
    body = urlencode({"csrf_token": found[1], **fields}).encode()
    return await client("POST", path, body, **SITE)


def told(answer):
    """The events of a stream, by name and content."""
    return [(each.event, each.data) for each in SseParser().feed(answer.content)]


async def key_row(shop, key_id):
    async with shop.store.ops("a key of a test") as tx:
        return await tx._connection.fetchrow("SELECT * FROM identity_api_keys WHERE id = $1", key_id)


def story_of(page):
    return re.search(r'href="/console/requests/(req_[0-9a-z]+)"', page)[1]


async def test_the_form_offers_the_aliases_and_an_answer_comes_whole_with_its_story(edge, owner, shop):
    form = text(await owner("GET", "/console/playground"))
    assert "<option>default</option>" in form
    assert form.count("<h1") == 1
    answer = await post(owner, **ASKED, system="Be brief.")
    page = text(answer)
    assert answer.status == 200, page
    assert ">answered</span>" in page
    assert "Be brief." in page, "the prompt stays in the form"
    story = await edge.story(story_of(page))
    assert (story.outcome, story.status, story.stream) == ("ok", 200, False)
    assert (story.organization_id, story.workspace_id) == (shop.owner.organization_id, shop.owner.workspace_id)
    assert [each.kind for each in story.links] == ["ses"], "the story names the session that asked"
    assert edge.engine.last_body["messages"][0] == {"role": "system", "content": "Be brief."}


async def test_an_answer_comes_as_it_is_written_and_ends_with_what_the_page_shows(edge, owner):
    answer = await post(owner, "/console/playground/stream", **ASKED, stream="1")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = told(answer)
    assert [name for name, _ in events][:: len(events) - 1] == ["begun", "end"]
    written = "".join(json.loads(data) for name, data in events if name == "text")
    assert written
    assert written in unescape(events[-1][1])
    story = await edge.story(json.loads(events[0][1]))
    assert (story.outcome, story.stream, story.usage.output_tokens) == ("ok_stream", True, 5)
    assert story_of(events[-1][1]) == json.loads(events[0][1])


async def test_the_key_is_lent_for_one_call_and_ended_behind_it(edge, owner, shop):
    for path in ("/console/playground", "/console/playground/stream"):
        answer = await post(owner, path, **ASKED)
        assert answer.status == 200
        story = await edge.story(story_of(text(answer)))
        row = await key_row(shop, story.key_id)
        assert row["kind"] == "task"
        assert row["revoked_us"] is not None
        assert row["owner_id"] == shop.owner.owner_id


async def test_a_refusal_tells_code_reason_and_when_it_opens(edge, owner):
    page = text(await post(owner, **{**ASKED, "alias": "no-such-model"}))
    assert "<code>model_not_found</code> 404" in page
    assert "The same call would be refused again." in page
    assert story_of(page)
    await edge.limit(1)
    refused = [text(await post(owner, **ASKED)) for _ in range(2)][1]
    assert "<code>requests_limit</code> 429" in refused
    assert len(re.findall(r"Try again in [\d.]+ s\.", refused)) == 1
    ended = told(await post(owner, "/console/playground/stream", **ASKED))
    assert [name for name, _ in ended] == ["end"]
    assert "requests_limit" in ended[0][1]


async def test_a_stream_that_breaks_shows_what_came_and_why_it_ended(edge, owner):
    edge.engine.script = Script(tokens=5, fault=Fault.CUT, fault_after_events=3)
    events = told(await post(owner, "/console/playground/stream", **ASKED))
    assert [name for name, _ in events][-1] == "end"
    assert ">cut</span>" in events[-1][1]
    assert "upstream_stream_cut" in events[-1][1]


async def test_whoever_leaves_stops_the_model_and_the_key_ends_too(edge, app, shop):
    edge.engine.script = Script(tokens=16, token_s=30)
    token = await shop.sessions.sign_in(shop.owner_key, None)
    async with serving(app) as origin, httpx2.AsyncClient(base_url=origin, timeout=600) as http:
        own = {"cookie": f"interlock_session={token}", "sec-fetch-site": "same-origin"}
        form = (await http.get("/console/playground", headers=own)).text
        fields = {**ASKED, "csrf_token": re.search(r'name="csrf_token" value="([^"]+)"', form)[1]}
        async with http.stream("POST", "/console/playground/stream", data=fields, headers=own) as answer:
            begun = await anext(answer.aiter_text())
            await edge.until(lambda: edge.engine.statistics().running > 0)
        await edge.until(lambda: edge.engine.statistics().running == 0)
        story = await edge.story(re.search(r"req_[0-9a-z]+", begun)[0])
        assert story.outcome == "client_gone"
        while (await key_row(shop, story.key_id))["revoked_us"] is None:
            await CLOCK.sleep(0.02)


async def test_what_cannot_be_asked_is_refused_before_anybody_is_asked(edge, owner):
    for wrong in ({"user": " "}, {"alias": ""}, {"max_tokens": "many"}, {"max_tokens": "0"}, {"temperature": "3"},
                  {"temperature": "nan"}):  # fmt: skip
        answer = await post(owner, **{**ASKED, **wrong})
        assert answer.status == 400, wrong
    assert edge.engine.statistics().requests == 0


async def test_who_may_not_call_models_sees_no_playground(shop, app, store):
    reader = await signed_in(shop, app, await shop.sign_up("reader", Role.VIEWER, ("requests:read", "console")))
    assert (await reader("GET", "/console/playground")).status == 403
    assert (await post(reader, **ASKED)).status == 403
    assert (await post(reader, "/console/playground/stream", **ASKED)).status == 403
    assert "/console/playground" not in text(await reader("GET", "/console"))
    asker = await signed_in(
        shop, app, await shop.sign_up("asker", Role.SUPPORT, ("inference", "console", "requests:read"))
    )
    page = text(await post(asker, **ASKED))
    assert ">answered</span>" in page
    assert "Save as a case" not in page, "support may not write suites"
    assert (await post(asker, "/console/playground/cases", **ASKED)).status == 403


async def test_a_workspace_of_another_organization_is_none(shop, app, owner, store):
    _, foreign = await make_tenant(store)
    named = format_id("ws", foreign)
    assert (await owner("GET", f"/console/playground?workspace_id={named}")).status == 404
    for path in ("/console/playground", "/console/playground/stream"):
        assert (await post(owner, path, **ASKED, workspace_id=named)).status == 404
    case = {**ASKED, "suite": "s", "key": "k", "reference": "r", "oracle": "equals"}
    assert (await post(owner, f"/console/playground/cases?workspace_id={named}", **case)).status == 404
    assert (await owner("GET", "/console/playground?workspace_id=ws_x")).status in (400, 404)


async def test_a_session_asks_for_no_model_that_its_key_may_not_ask_for(shop, app):
    own = scope_of(shop.owner.organization_id, ALL_WORKSPACES)
    chief = replace(own, principal=replace(own.principal, is_platform_operator=True))
    async with shop.store.transaction(chief) as tx:
        wanted = KeyWanted("", "narrow", ("inference", "console", "requests:read"), models=("fake",))
        owner = (shop.owner.owner_id, "user")
        _, key = await shop.keys.insert_for(tx, owner, shop.owner.workspace_id, wanted)
    await shop.directory.reload()
    narrow = await signed_in(shop, app, key)
    form = text(await narrow("GET", "/console/playground"))
    assert "<option>fake</option>" in form
    assert "<option>default</option>" not in form
    refused = text(await post(narrow, **ASKED))
    assert ">refused</span>" in refused
    assert ">answered</span>" in text(await post(narrow, **{**ASKED, "alias": "fake"}))


async def test_one_call_too_many_is_told_to_come_back(serve, shop):
    app, page = serve(playground_calls_max=1)
    client = await signed_in(shop, app, shop.owner_key)
    page._calls = 1
    for path in ("/console/playground", "/console/playground/stream"):
        refused = await post(client, path, **ASKED)
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    page._calls = 0
    assert (await post(client, **ASKED)).status == 200
    assert page.statistics() == {"playground_calls": 0, "playground_calls_max": 1}


async def test_what_a_reader_or_a_model_wrote_stays_text(edge, owner):
    for path in ("/console/playground", "/console/playground/stream"):
        page = text(await post(owner, path, **{**ASKED, "user": HOSTILE, "system": HOSTILE}))
        assert "<script>alert" not in page
        assert page.count("</textarea><script") == 0
    assert edge.engine.last_body["messages"][-1]["content"] == HOSTILE


async def test_a_prompt_and_its_answer_become_a_case_of_a_suite(owner, shop):
    asked = {**ASKED, "system": "Be brief."}
    page = text(await post(owner, **asked))
    action = unescape(re.search(r'action="(/console/playground/cases[^"]+)"', page)[1])
    case = {"suite": "kept", "key": "order", "reference": "It is on\r\nits way.", "oracle": "contains_all",
            "request_id": story_of(page)}  # fmt: skip
    saved = await post(owner, action, **asked, **case)
    assert saved.status == 201, text(saved)
    assert "Case order stands in suite kept, version 1." in text(saved)
    listed = json.loads((await owner("GET", "/v1/evals/suites/kept/cases")).content)["data"]
    assert [(each["key"], each["oracle"], each["provenance"]) for each in listed] == [
        ("order", [{"type": "contains_all", "value": ["It is on\nits way."]}], story_of(page)),
    ]  # fmt: skip
    assert [each["content"] for each in listed[0]["input"]["messages"]] == ["Be brief.", ASKED["user"]]
    again = await post(owner, action, **asked, **{**case, "oracle": "equals"})
    assert "version 2" in text(again), "a case of the same key is replaced"
    for wrong in ({"suite": ""}, {"reference": " "}, {"oracle": "judge"}, {"user": ""}):
        assert (await post(owner, action, **{**asked, **case, **wrong})).status == 400, wrong
    unsigned = await owner("POST", action, urlencode({**asked, **case}).encode(), **SITE)
    assert unsigned.status == 403, "another site's form has no token"


async def test_a_story_is_asked_again_with_what_it_kept(edge, owner, shop, app):
    first = story_of(text(await post(owner, "/console/playground/stream", **{**ASKED, "alias": "fake"})))
    await edge.story(first)
    shown = text(await owner("GET", f"/console/requests/{first}"))
    again = unescape(re.search(r'href="(/console/playground\?[^"]+)"', shown)[1])
    form = text(await owner("GET", again))
    assert "<option selected>fake</option>" in form
    assert 'name="stream" value="1" checked' in form
    assert "Stories keep no messages" in form
    assert ASKED["user"] not in form
    reader = await signed_in(shop, app, await shop.sign_up("reader", Role.VIEWER, ("requests:read", "console")))
    assert "Rerun in playground" not in text(await reader("GET", f"/console/requests/{first}"))
    assert (await owner("GET", "/console/playground?request_id=req_nothing")).status == 404
    elsewhere = scope_of(*await make_tenant(shop.store))
    scopes = ("inference", "console", "requests:read")
    other = await signed_in(shop, app, await shop.sign_up("other", Role.OWNER, scopes, elsewhere))
    assert (await other("GET", f"/console/playground?request_id={first}")).status == 404
