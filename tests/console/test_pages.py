"""The pages of a console over a real store, asked as the edge's proxy asks."""

import csv
import io
import re
from dataclasses import replace
from urllib.parse import urlencode

import msgspec
import pytest

from interlock.console.assets import MEDIA_TYPES, assets
from interlock.console.config import ConsoleConfig
from interlock.console.frame import visible_kills
from interlock.console.sign_in import REFUSED
from interlock.foundation.flags import Kill
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID as SYSTEM
from interlock.foundation.ids import OrganizationId, format_id
from interlock.foundation.scope import Principal, PrincipalKind, Role
from interlock.foundation.telemetry import StoryFilters
from tests.console import samples
from tests.console.conftest import signed_in
from tests.foundation.control.conftest import Client
from tests.support.store import IDS, make_tenant, scope_of

SITE = {"sec_fetch_site": "same-origin", "content_type": "application/x-www-form-urlencoded"}
# Pages of the systems come with the systems, and are looked at by their tests.
OWN_SCREENS = {"overview", "requests", "story", "keys"}
PAGES = ["/console", "/console/requests", "/console/keys"]


def text(answer):
    return answer.content.decode()


def field(answer, name):
    return re.search(rf'name="{name}" value="([^"]*)"', text(answer))[1]


async def post(client, path, page="/console/keys", **fields):
    token = field(await client("GET", page), "csrf_token")
    return await client("POST", path, urlencode({"csrf_token": token, **fields}).encode(), **SITE)


@pytest.fixture
async def story(world):
    await world.ship(samples.limited(world.clock.now_us() - 5_000_000))
    found = await world.console().stories.search(
        scope_of(world.owner.organization_id), StoryFilters(), cursor=None, limit=1
    )
    return format_id("req", found.records[0].id)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_has_one_heading_a_title_and_a_strict_policy(owner, path):
    answer = await owner("GET", path)
    assert answer.status == 200, text(answer)
    assert len(re.findall(r"<h1[ >]", text(answer))) == 1
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


async def test_a_page_that_is_open_learns_of_a_switch_and_is_left_alone_while_nothing_changes(world, owner):
    seen = re.search(r'hx-get="(/console/bars\?seen=[0-9a-f]+)"', text(await owner("GET", "/console/keys")))[1]
    same = await owner("GET", seen)
    assert (same.status, same.headers["hx-reswap"]) == (200, "none")
    kill = Kill(
        id="kill_x", organization_id=world.owner.organization_id, scope="route", target="shop", mode="reject",
        reason="it <b>lies</b>", actor="usr_x", created_us=0,
    )  # fmt: skip
    world.kills.kills = (kill,)
    news = await owner("GET", seen)
    assert "hx-reswap" not in news.headers
    assert "Kill switch on: route" in text(news)
    assert "&lt;b&gt;lies" in text(news)
    assert "<main" not in text(news)


@pytest.mark.parametrize("path", PAGES)
async def test_nothing_on_a_page_runs_or_is_styled_inline(world, owner, path):
    await world.ship(*samples.an_hour(world.clock.now_us(), 40))
    page = text(await owner("GET", path))
    assert re.findall(r"\sstyle=|\son[a-z]+=|hx-on|javascript:|<style", page) == []
    assert [each for each in re.findall(r"<script([^>]*)>", page) if "src=" not in each and "json" not in each] == []


@pytest.mark.parametrize("path", [*PAGES, "/console/requests/req_0", "/console/find?id=x", "/console/requests.csv"])
async def test_who_is_not_signed_in_gets_the_form_and_comes_back_to_the_page(anyone, path):
    answer = await anyone("GET", path)
    assert answer.status == 401
    assert "<h1>Sign in to Interlock</h1>" in text(answer)
    action = re.search(r'<form action="([^"]+)"', text(answer))[1]
    assert action == ("/console/login" if path == "/console" else f"/console/login?{urlencode({'next': path})}")


async def test_a_key_signs_in_and_the_cookie_is_for_this_host_and_no_script(world, anyone):
    form = urlencode({"key": world.owner_key}).encode()
    answer = await anyone("POST", "/console/login?next=%2Fconsole%2Fkeys", form, **SITE)
    assert (answer.status, answer.headers["location"]) == (303, "/console/keys")
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(r"interlock_session=\w{64}; Path=/; HttpOnly; SameSite=Lax", cookie)
    page = await anyone("GET", "/console", cookie=cookie.partition(";")[0])
    assert page.status == 200


async def test_over_https_the_cookie_is_bound_to_the_host(world):
    client = Client(world.app(public_url="https://models.example"), {"host": "models.example"})
    answer = await client("POST", "/console/login", urlencode({"key": world.owner_key}).encode(), **SITE)
    assert re.fullmatch(
        r"__Host-interlock_session=\w{64}; Path=/; HttpOnly; SameSite=Lax; Secure", answer.headers["set-cookie"]
    )


async def test_every_wrong_credential_gets_the_same_page(world, anyone):
    without = await world.sign_up("program", Role.DEVELOPER, ("inference",))
    wrong = world.owner_key[:-8] + "00000000"
    pages = set()
    for fields in ({"key": wrong}, {"key": "x"}, {"key": ""}, {"key": without}, {"once": "a" * 64}):
        answer = await anyone("POST", "/console/login", urlencode(fields).encode(), **SITE)
        assert answer.status == 401
        assert "set-cookie" not in answer.headers
        pages.add(text(answer))
    assert len(pages) == 1
    assert REFUSED in pages.pop()


async def test_the_eleventh_failure_waits(anyone):
    for _ in range(10):
        answer = await anyone("POST", "/console/login", b"key=x", x_interlock_address="198.51.100.7", **SITE)
        assert answer.status == 401
    answer = await anyone("POST", "/console/login", b"key=x", x_interlock_address="198.51.100.7", **SITE)
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) > 0
    assert "Sign in to Interlock" in text(answer)


async def test_a_one_time_link_asks_before_it_is_used_and_works_once(world, anyone):
    once = await world.sessions.make_login_token(world.owner_key)
    form = await anyone("GET", f"/console/login?once={once}")
    assert field(form, "once") == once
    assert (await anyone("POST", "/console/login", urlencode({"once": once}).encode(), **SITE)).status == 303
    assert (await anyone("POST", "/console/login", urlencode({"once": once}).encode(), **SITE)).status == 401


async def test_another_sites_form_does_not_sign_in(world, anyone):
    form = urlencode({"key": world.owner_key}).encode()
    answer = await anyone(
        "POST", "/console/login", form, sec_fetch_site="cross-site", content_type=SITE["content_type"]
    )
    assert answer.status == 403
    assert "set-cookie" not in answer.headers


async def test_signing_out_ends_the_session_and_the_cookie(owner):
    answer = await post(owner, "/console/logout")
    assert (answer.status, answer.headers["location"]) == (303, "/console/login")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert (await owner("GET", "/console")).status == 401


async def test_an_empty_overview_says_what_would_fill_it(owner):
    page = text(await owner("GET", "/console"))
    assert "No request in the last hour" in page
    assert "/v1/chat/completions" in page
    assert "None in the last hour." in page


async def test_the_overview_counts_the_last_hour_and_names_the_troubles(world, owner):
    now = world.clock.now_us()
    await world.ship(
        *[samples.answered(now - 60_000_000)] * 3,
        samples.limited(now - 30_000_000),
        samples.answered(now - 7_200_000_000),
    )
    page = text(await owner("GET", "/console"))
    assert re.search(r"<dt>Requests</dt><dd>4</dd>", page)
    assert re.search(r"<dt>Refused</dt><dd>1</dd>", page)
    assert "limits.requests" in page
    assert "3 answered, 1 refused, 0 failed; at most" in page


async def test_the_overview_says_when_it_does_not_count_everything(world):
    await world.ship(*samples.an_hour(world.clock.now_us(), 12))
    client = await signed_in(world, world.app(config=ConsoleConfig(overview_records_max=5)), world.owner_key)
    assert "figures of its latest 5 requests" in text(await client("GET", "/console"))


async def test_the_live_overview_tells_what_is_new_and_only_that(world):
    now = world.clock.now_us()
    await world.ship(samples.answered(now - 2_000_000))
    # On a machine that stands still a second may hold one look alone.
    for seconds in (1.0, 30.0):
        config = ConsoleConfig(live_interval_s=0.1, live_seconds_max=seconds)
        client = await signed_in(world, world.app(config=config), world.owner_key)
        answer = await client("GET", "/console/live/overview")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = text(answer).split("\n\n")
        if ": same" in events:
            break
    assert [each.partition("\n")[0] for each in events[:3]] == ["event: figures", "event: minutes", "event: troubles"]
    assert ": same" in events


async def test_one_live_page_too_many_is_told_to_come_back(world):
    client = await signed_in(world, world.app(config=ConsoleConfig(live_streams_max=0)), world.owner_key)
    answer = await client("GET", "/console/live/overview")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")


async def test_filters_live_in_the_url_and_narrow_the_list(world, owner):
    now = world.clock.now_us()
    await world.ship(
        samples.answered(now - 9_000_000), samples.limited(now - 8_000_000), samples.gone(now - 4_000_000_000)
    )
    assert text(await owner("GET", "/console/requests")).count("<tr>") == 4
    refused = text(await owner("GET", "/console/requests?outcome=limited_requests"))
    assert refused.count("<tr>") == 2
    assert "<option selected>limited_requests</option>" in refused
    assert 'href="/console/requests.csv?outcome=limited_requests"' in refused
    assert text(await owner("GET", "/console/requests?within=1+hour")).count("<tr>") == 3
    nothing = text(await owner("GET", "/console/requests?alias=none&outcome="))
    assert "No request matches these filters" in nothing


@pytest.mark.parametrize(
    "query", ["outcome=nonsense", "within=ever", "key_id=ws_1", "cursor=abc", "alias=" + "a" * 300]
)
async def test_a_filter_that_names_nothing_is_a_page_that_says_so(owner, query):
    answer = await owner("GET", f"/console/requests?{query}")
    assert answer.status == 400
    assert "<h1>That is not a question we understand</h1>" in text(answer)


async def test_pages_of_the_list_follow_each_other_without_a_gap(world, owner):
    now = world.clock.now_us()
    await world.ship(*[samples.listed(now - 1_000_000 * at) for at in range(1, 121)])
    seen, path = [], "/console/requests"
    while path:
        page = text(await owner("GET", path))
        seen += re.findall(r'href="/console/requests/(req_\w+)"', page)
        older = re.search(r'<a class="button" href="([^"]+)">Older</a>', page)
        path = older and older[1].replace("&amp;", "&")
    assert len(seen) == 120
    assert seen == sorted(seen, reverse=True)


async def test_new_requests_are_announced_and_not_pushed_into_the_list(world, owner):
    await world.ship(samples.answered(world.clock.now_us() - 9_000_000))
    page = text(await owner("GET", "/console/requests"))
    fresh = re.search(r'hx-get="(/console/requests/fresh[^"]+)"', page)[1].replace("&amp;", "&")
    assert text(await owner("GET", fresh)).strip() == ""
    await world.ship(samples.answered(world.clock.now_us() - 1_000_000))
    assert "1 new request<" in text(await owner("GET", fresh))


async def test_an_export_is_csv_that_runs_nothing(world, owner):
    await world.ship(samples.answered(world.clock.now_us(), client_request_id='=HYPERLINK("http://evil")'))
    answer = await owner("GET", "/console/requests.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="requests.csv"'
    rows = list(csv.DictReader(io.StringIO(text(answer))))
    assert rows[0]["client_request_id"] == '\'=HYPERLINK("http://evil")'


async def test_a_story_tells_what_happened_why_and_how_to_see_it_again(owner, story):
    page = text(await owner("GET", f"/console/requests/{story}"))
    assert "Refused with status 429 by limits.requests: requests limit of workspace default" in page
    assert f"interlock trace {story}" in page
    assert "$INTERLOCK_URL/v1/chat/completions" in page
    assert page.count('<tr class="refusing">') == 1
    assert 'aria-label="Time of each phase: identity 0.16 ms, total 1.7 ms"' in page
    assert "hx-trigger" not in page.partition('id="story"')[2]


async def test_what_callers_wrote_stays_text(world, owner):
    evil = '<script>alert(1)</script>"onload=x'
    record = samples.failed(world.clock.now_us(), client_request_id=evil, alias=evil, rule=evil, target=f"/{evil}")
    await world.ship(record)
    listed = text(await owner("GET", "/console/requests"))
    story = re.search(r"/console/requests/(req_\w+)", listed)[1]
    for page in (listed, text(await owner("GET", f"/console/requests/{story}")), text(await owner("GET", "/console"))):
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page


async def test_another_tenants_story_is_one_that_never_was(world, app, owner):
    other = scope_of(*await make_tenant(world.store))
    await world.ship(samples.answered(world.clock.now_us(), organization_id=other.organization_id,
                                      workspace_id=other.workspace_id))  # fmt: skip
    key = await world.sign_up("stranger", Role.OWNER, ("requests:read", "console"), other)
    stranger = await signed_in(world, app, key)
    theirs = re.search(r"/console/requests/(req_\w+)", text(await stranger("GET", "/console/requests")))[1]
    unknown = format_id("req", IDS.new())
    pages = []
    for request_id in (theirs, unknown):
        answer = await owner("GET", f"/console/requests/{request_id}")
        assert answer.status == 404
        own = answer.headers["x-request-id"]
        pages.append(text(answer).replace(request_id, "ID").replace(own, "OWN"))
    assert pages[0] == pages[1]
    assert (await stranger("GET", f"/console/requests/{theirs}")).status == 200


async def test_an_id_opens_what_it_names(world, owner, story):
    assert (await owner("GET", f"/console/find?id={story}")).headers["location"] == f"/console/requests/{story}"
    key = format_id("key", world.owner.id)
    assert (await owner("GET", f"/console/find?id={key}")).headers["location"] == f"/console/requests?key_id={key}"
    for nothing in ("", "nonsense", "req_zzz", "a" * 400):
        answer = await owner("GET", f"/console/find?{urlencode({'id': nothing})}")
        assert answer.status == 404
        assert "<h1>Nothing here</h1>" in text(answer)


async def test_a_new_key_is_shown_once_and_then_listed_without_its_text(world, owner):
    answer = await post(
        owner, "/console/keys", name="checkout", workspace_id=format_id("ws", world.owner.workspace_id),
        scope_inference="on", lifetime="90 days", models="default, fast", cidrs="10.0.0.0/8",
    )  # fmt: skip
    assert answer.status == 201, text(answer)
    made = re.search(r"il_live_\w{46}", text(answer))[0]
    await world.directory.reload()
    found = world.authenticator.check(made, "10.1.2.3", world.clock.now_us()).key
    assert (found.name, found.scopes, found.models, found.cidrs) == (
        "checkout", ["inference"], ["default", "fast"], ["10.0.0.0/8"],
    )  # fmt: skip
    listed = text(await owner("GET", "/console/keys"))
    assert "checkout" in listed
    assert made not in listed
    assert "10.0.0.0/8" in listed


async def test_a_key_is_rotated_and_revoked_by_its_forms(world, owner):
    workspace = format_id("ws", world.owner.workspace_id)
    made = await post(owner, "/console/keys", name="bot", workspace_id=workspace, scope_inference="on")
    key = re.search(r"key_\w+", text(made))[0]
    rotated = await post(owner, f"/console/keys/{key}/rotate")
    assert rotated.status == 201
    assert "which goes on for 24 hours" in text(rotated)
    assert ">replaced<" in text(await owner("GET", "/console/keys"))
    revoked = await post(owner, f"/console/keys/{key}/revoke")
    assert (revoked.status, revoked.headers["location"]) == (303, "/console/keys")
    assert ">revoked<" in text(await owner("GET", "/console/keys"))


@pytest.mark.parametrize("fields", [{"name": ""}, {"name": "x", "lifetime": "for good"}, {"name": "x"}])
async def test_a_form_that_asks_for_no_key_is_refused(world, owner, fields):
    workspace = format_id("ws", world.owner.workspace_id)
    answer = await post(owner, "/console/keys", workspace_id=workspace, **fields)
    assert answer.status == 400
    assert text(await owner("GET", "/console/keys")).count("state-go") == 1


@pytest.mark.parametrize("path", ["/console/keys", "/console/keys/key_x/revoke", "/console/logout"])
async def test_a_form_without_its_token_or_from_another_site_changes_nothing(owner, path):
    missing = await owner("POST", path, b"name=x", **SITE)
    token = field(await owner("GET", "/console/keys"), "csrf_token")
    foreign = await owner(
        "POST", path, urlencode({"csrf_token": token}).encode(), sec_fetch_site="cross-site",
        content_type=SITE["content_type"],
    )  # fmt: skip
    assert (missing.status, foreign.status) == (403, 403)
    assert "<h1>Not for you</h1>" in text(missing)
    assert (await owner("GET", "/console")).status == 200


async def test_who_may_not_change_keys_is_offered_no_form(world, app):
    auditor = await signed_in(world, app, await world.sign_up("auditor", Role.AUDITOR, ("admin:read", "console")))
    page = text(await auditor("GET", "/console/keys"))
    assert "data-dialog" not in page
    assert 'action="/console/keys"' not in page


async def test_who_may_not_see_keys_is_told_which_roles_may(viewer):
    answer = await viewer("GET", "/console/keys")
    assert answer.status == 403
    assert "admin:read" in text(answer)
    assert (await viewer("GET", "/console/requests")).status == 200


async def test_navigation_and_palette_show_what_a_reader_may_open_and_nothing_else(owner, viewer):
    for reader, may in ((owner, True), (viewer, False)):
        for path in ("/console", "/console/keys"):
            page = text(await reader("GET", path))
            assert '<li><a href="/console/requests"' in page
            assert ('<li><a href="/console/keys"' in page) is may, path
        listed = (await reader("GET", "/console/screens.json")).json["data"]
        assert ("keys" in [each["id"] for each in listed]) is may


async def test_a_kill_and_a_fault_are_bars_on_every_page_of_those_whom_they_concern(world, owner):
    on = {"mode": "reject", "actor": "usr", "created_us": 0}
    own, other = world.owner.organization_id, IDS.new()
    world.kills.load(
        msgspec.msgpack.encode([
            Kill(id="kill_1", organization_id=own, scope="route", target="fast", reason="wrong answers", **on),
            Kill(id="kill_2", organization_id=other, scope="route", target="slow", reason="secret of others", **on),
            Kill(id="kill_3", organization_id=SYSTEM, scope="route", target="all", reason="of everybody", **on),
            Kill(id="kill_4", organization_id=SYSTEM, scope="key", target="x", reason="secret of others", **on),
        ])
    )  # fmt: skip
    world.degraded = ("store",)
    for path in PAGES:
        page = text(await owner("GET", path))
        assert re.search(r'Kill switch on: route <span class="id">fast</span>', page)
        assert "of everybody" in page
        assert "secret of others" not in page
        assert "store; what is shown may be behind" in page


def test_the_operator_sees_every_switch_that_is_on():
    on = {"mode": "reject", "actor": "usr", "created_us": 0, "reason": "fire"}
    switches = [
        Kill(id="kill_1", organization_id=SYSTEM, scope="route", target="shop", **on),
        Kill(id="kill_2", organization_id=IDS.new(), scope="key", target="x", **on),
    ]
    reader = Principal(IDS.new(), PrincipalKind.USER, OrganizationId(IDS.new()), is_platform_operator=True)
    assert visible_kills(switches, reader) == switches
    assert visible_kills(switches, replace(reader, is_platform_operator=False)) == switches[:1]


async def test_the_list_of_screens_has_something_to_look_at(owner, story):
    found = (await owner("GET", "/console/screens.json")).json["data"]
    listed = [each for each in found if each["id"] in OWN_SCREENS]
    assert [(each["id"], each["sample_path"]) for each in listed] == [
        ("overview", "/console"),
        ("requests", "/console/requests"),
        ("story", f"/console/requests/{story}"),
        ("keys", "/console/keys"),
    ]
    for each in listed:
        assert (await owner("GET", each["sample_path"])).status == 200


async def test_a_story_screen_without_any_request_has_no_sample(owner):
    listed = (await owner("GET", "/console/screens.json")).json["data"]
    assert next(each for each in listed if each["id"] == "story")["sample_path"] is None


@pytest.mark.parametrize("path", sorted(assets()))
async def test_every_file_is_served_with_its_type_and_kept_for_good(anyone, path):
    asset = assets()[path]
    answer = await anyone("GET", f"/console/static/{path}?v={asset.tag}")
    assert (answer.status, answer.content) == (200, asset.content)
    assert answer.headers["content-type"] == MEDIA_TYPES[path.rpartition(".")[2]]
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    again = await anyone("GET", f"/console/static/{path}", if_none_match=answer.headers["etag"])
    assert (again.status, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["../routes.py", "..%2froutes.py", "%2e%2e/routes.py", "/etc/passwd", "vendor", "vendor/README.md", "app.css/",
     "./app.css", "vendor//htmx.min.js", ""],
)  # fmt: skip
async def test_no_file_outside_the_table_is_served(anyone, path):
    assert (await anyone("GET", f"/console/static/{path}")).status == 404


async def test_a_page_names_every_file_by_its_content(owner):
    page = text(await owner("GET", "/console"))
    named = re.findall(r'(?:src|href)="(/console/static/[^"]+)"', page)
    assert len(named) > 8
    for each in named:
        path, _, tag = each.removeprefix("/console/static/").partition("?v=")
        assert assets()[path].tag == tag


async def test_the_first_load_stays_within_its_weight(world, owner):
    await world.ship(*samples.an_hour(world.clock.now_us(), 60))
    page = await owner("GET", "/console")
    named = set(re.findall(r'/console/static/([^"?]+)', text(page)))
    fonts = {path for path in assets() if path.startswith("fonts/")}
    weight = len(page.content) + sum(len(assets()[path].content) for path in named | fonts)
    assert weight <= 260_000


async def test_our_own_scripts_stay_small():
    own = [asset for path, asset in assets().items() if path.endswith(".js") and "/" not in path]
    assert sum(asset.content.count(b"\n") for asset in own) <= 600


async def test_an_unknown_page_is_a_page(owner, anyone):
    answer = await owner("GET", "/console/nothing")
    assert answer.status == 404
    assert "<h1>Nothing here</h1>" in text(answer)
    assert answer.headers["x-request-id"] in text(answer)


async def test_a_readers_own_looking_around_is_left_out_until_asked_for(world, owner):
    now = world.clock.now_us()
    own = [samples.listed(now - 1_000 * at, endpoint="/console/requests") for at in range(1, 130)]
    await world.ship(*own, samples.listed(now - 5_000_000), samples.listed(now - 6_000_000, endpoint="/consoles"))
    page = text(await owner("GET", "/console/requests"))
    assert page.count("<tr>") == 3
    assert text(await owner("GET", "/console/requests?own=1")).count("<tr>") == 51
    assert re.search(r"<dt>Requests</dt><dd>2</dd>", text(await owner("GET", "/console")))
    fresh = re.search(r'hx-get="(/console/requests/fresh[^"]+)"', page)[1].replace("&amp;", "&")
    await world.ship(samples.listed(now, endpoint="/console/requests/fresh"))
    assert text(await owner("GET", fresh)).strip() == ""
    assert len(list(csv.reader(io.StringIO(text(await owner("GET", "/console/requests.csv")))))) == 3


async def test_the_list_of_keys_is_exported_without_a_secret_or_a_formula(world, owner):
    await world.sign_up("=cmd|'/c calc'!A1", Role.VIEWER, ("console",))
    answer = await owner("GET", "/console/keys.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="keys.csv"'
    rows = list(csv.DictReader(io.StringIO(text(answer))))
    assert [(each["name"], each["state"]) for each in rows] == [("owner", "live"), ("'=cmd|'/c calc'!A1", "live")]
    assert "il_live_" not in text(answer)
