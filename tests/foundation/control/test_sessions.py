"""Console sessions: a cookie alone changes nothing, whoever made the browser send it."""

import pytest

from interlock.foundation.control import Reply
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import csrf_token_of
from tests.foundation.control.conftest import Client

FORM = {"content_type": "application/x-www-form-urlencoded"}
OWN = {"sec_fetch_site": "same-origin"}
TOKEN = csrf_token_of("cookie-token")


async def test_a_page_renders_with_the_token_of_its_session(browser):
    answer = await browser("GET", "/console/note")
    assert (answer.status, answer.content) == (200, f"<p>{TOKEN}</p>".encode())


async def test_a_form_of_our_own_page_is_taken(browser):
    body = f"name=n&csrf_token={TOKEN}".encode()
    answer = await browser("POST", "/console/note", body, **FORM, **OWN)
    assert (answer.status, answer.content) == (200, b"n")
    by_header = await browser("POST", "/console/note", b"name=n", **FORM, **OWN, x_csrf_token=TOKEN)
    assert by_header.status == 200


async def test_an_origin_stands_in_for_a_browser_without_fetch_metadata(browser):
    body = f"name=n&csrf_token={TOKEN}".encode()
    assert (await browser("POST", "/console/note", body, **FORM, origin="http://localhost:8080")).status == 200
    assert (await browser("POST", "/console/note", body, **FORM, origin="http://evil.example")).code == "csrf_refused"
    assert (await browser("POST", "/console/note", body, **FORM, origin="null")).code == "csrf_refused"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"name=n", OWN),
        (b"name=n&csrf_token=", OWN),
        (f"name=n&csrf_token={TOKEN[:-1]}".encode(), OWN),
        (f"name=n&csrf_token={csrf_token_of('another')}".encode(), OWN),
        (f"name=n&csrf_token={TOKEN}".encode(), {"sec_fetch_site": "cross-site"}),
        (f"name=n&csrf_token={TOKEN}".encode(), {"sec_fetch_site": "same-site"}),
        (f"name=n&csrf_token={TOKEN}".encode(), {"sec_fetch_site": "none"}),
        (f"name=n&csrf_token={TOKEN}".encode(), {}),
    ],
)
async def test_a_form_that_no_page_of_ours_sent_is_refused(browser, body, headers):
    answer = await browser("POST", "/console/note", body, **FORM, **headers)
    assert (answer.status, answer.code) == (403, "csrf_refused")


async def test_the_api_too_refuses_a_cookie_without_a_token(browser, world):
    answer = await browser("POST", "/admin/v1/notes", {"name": "n"}, sec_fetch_site="cross-site")
    assert answer.code == "csrf_refused"
    assert world.work == 0
    assert (await browser("POST", "/admin/v1/notes", {"name": "n"}, **OWN, x_csrf_token=TOKEN)).status == 201


async def test_a_key_needs_no_token(world, app):
    admin = Client(app, {"authorization": "Bearer il_admin", "cookie": "interlock_session=cookie-token"})
    assert (await admin("POST", "/admin/v1/notes", {"name": "n"}, sec_fetch_site="cross-site")).status == 201


async def test_an_unknown_session_is_expired(app):
    answer = await Client(app, {"cookie": "interlock_session=gone"})("GET", "/console/note")
    assert (answer.status, answer.code) == (401, "session_expired")


async def test_the_login_form_of_another_site_is_refused_and_a_program_may_log_in(anyone):
    assert (await anyone("POST", "/console/login", b"name=n", **FORM, sec_fetch_site="cross-site")).status == 403
    assert (await anyone("POST", "/console/login", b"name=n", **FORM, **OWN)).status == 200
    assert (await anyone("POST", "/console/login", b"name=n", **FORM)).status == 200


@pytest.mark.parametrize("body", [b"%ff=1", b"name=a%00b", "näme=1".encode(), b"novalue"])
async def test_a_malformed_form_is_refused(browser, body):
    assert (await browser("POST", "/console/note", body, **FORM, **OWN)).code == "invalid_request"


async def test_refusals_of_pages_are_pages(world):
    def page(error, request):
        return Reply(
            error.http_status, content=f"<h1>{error.code}</h1>".encode(), media_type="text/html; charset=utf-8"
        )

    client = Client(build_app(world.routes(), world.kit(error_page=page)))
    answer = await client("GET", "/console/note", cookie="interlock_session=gone")
    assert (answer.status, answer.content) == (401, b"<h1>session_expired</h1>")
    assert answer.headers["x-request-id"]
    lost = await client("GET", "/console/lost", accept="text/html,*/*")
    assert lost.content == b"<h1>not_found</h1>"
    assert (await client("GET", "/console/lost")).code == "not_found"
