"""The console of a real platform in a real Chromium: every screen, both themes, a phone's width and a desk's.

axe with the rules of WCAG 2.2 AA and its best practices; the page's own policy stays in force while it looks.
"""

import csv
import io
import re

import pytest

from tests.journeys.processes import until
from tests.support.browser import PATIENCE_MS, chromium, watched
from tests.support.platform import remove, start

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("platform")]

THEMES = ["light", "dark"]
WIDTHS = [1440, 390]
REACHABLE = """[...document.querySelectorAll(
    'a[href], button, input:not([type=hidden]), select, summary, [tabindex="0"]'
)].filter(each => each.checkVisibility({visibilityProperty: true}) && !each.closest('dialog')).length"""
EVIL = '"><script>document.title="taken"</script><img src=x onerror="document.title=1">=cmd()'


@pytest.fixture(scope="module")
def platform():
    running = start("--engine", "none")
    try:
        yield running
    finally:
        remove(running)


@pytest.fixture(scope="module")
def browser():
    with chromium() as each:
        yield each


@pytest.fixture(scope="module")
def told(platform):
    """Requests that ended in many ways, and names that would be scripts."""
    key = platform.key(EVIL, scopes=["inference", "requests:read"])
    caller = platform.as_key(key["key"])
    chat = {"model": "default", "messages": [{"role": "user", "content": "Hello"}]}
    ids = [
        caller.call("POST", "/v1/chat/completions", chat).request_id,
        caller.call("POST", "/v1/chat/completions", {**chat, "model": EVIL}).request_id,
        caller.call("GET", "/v1/models").request_id,
        platform.as_key("il_live_wrong").call("GET", "/v1/models").request_id,
        platform.owner.call("GET", "/v1/requests?limit=1").request_id,
    ]
    vendor = {"name": "vendor", "kind": "openai", "base_url": "https://models.example/v1"}
    limit = {"scope": "workspace", "target": "default", "dimension": "requests_per_minute", "model": "*", "limit": 600}
    for path, body in (
        ("providers", vendor),
        ("deployments", {"name": "small", "provider": "vendor", "upstream_model": "m-1"}),
        ("routes", {"alias": "shop", "targets": [{"deployment": "small"}]}),
        ("limits", limit),
    ):
        assert platform.owner.call("POST", f"/admin/v1/{path}", body).status == 201, path
    for request_id in ids:
        platform.story(request_id)
    return ids


@pytest.fixture
def signed_in(platform, told, browser):
    """Open a page signed in by the owner's key."""

    def opened(theme="light", width=1440):
        return _SignedIn(browser, platform, theme, width)

    return opened


class _SignedIn:
    def __init__(self, browser, platform, theme, width):
        self._watched = watched(browser, platform.url, theme, width)
        self._key = platform.owner_key

    def __enter__(self):
        seen = self._watched.__enter__()
        seen.open("/console/login?next=/console/requests")
        seen.page.get_by_label("API key").fill(self._key)
        seen.page.get_by_role("button", name="Sign in").click()
        seen.page.wait_for_url("**/console/requests")
        return seen

    def __exit__(self, *failure):
        return self._watched.__exit__(*failure)


def _screens(seen):
    listed = seen.page.evaluate("fetch('/console/screens.json').then(answer => answer.json())")["data"]
    seen_paths = {each["id"]: each["sample_path"] for each in listed if each["sample_path"]}
    assert {"overview", "requests", "story", "keys"} <= set(seen_paths)
    return list(seen_paths.values())


def _is_clean(seen, where):
    assert seen.violations() == [], where
    assert seen.errors == [], where
    assert seen.foreign == [], where
    page = seen.page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{where} scrolls sideways"
    assert page.locator("h1").count() == 1, where


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_screen_is_clean(signed_in, theme, width):
    with signed_in(theme, width) as seen:
        for path in _screens(seen):
            seen.open(path)
            _is_clean(seen, f"{path} {theme} {width}")
            assert seen.page.evaluate("document.documentElement.dataset.theme") == theme


@pytest.mark.parametrize("theme", THEMES)
def test_dialogs_the_palette_refusals_and_sign_in_are_clean(platform, browser, signed_in, theme):
    with signed_in(theme, 390) as seen:
        seen.open("/console/keys")
        seen.page.get_by_role("button", name="Create a key").click()
        _is_clean(seen, "the dialog")
        seen.page.keyboard.press("Escape")
        seen.page.keyboard.press("Control+k")
        seen.page.locator("#palette[open]").wait_for()
        _is_clean(seen, "the palette")
        seen.open("/console/find?id=nothing")
        assert seen.page.locator("h1").inner_text() == "Nothing here"
        assert seen.violations() == []
    with watched(browser, platform.url, theme, 390) as seen:
        seen.open("/console/login")
        _is_clean(seen, "sign-in")


# Those of a phone and of a desk are among what makes a screen clean.
@pytest.mark.parametrize("width", [768, 2560])
def test_no_screen_scrolls_sideways_at_any_width(signed_in, width):
    with signed_in(width=width) as seen:
        for path in _screens(seen):
            seen.open(path)
            assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (path, width)


def test_the_keyboard_alone_reaches_everything_and_is_always_seen(signed_in):
    with signed_in() as seen:
        for path in _screens(seen):
            seen.open(path)
            page = seen.page
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
            wanted = page.evaluate(REACHABLE)
            reached = 1
            while reached < wanted:
                page.keyboard.press("Tab")
                style = page.evaluate(
                    "(() => { const each = document.activeElement; return each === document.body ? null :"
                    " [getComputedStyle(each).outlineStyle, parseFloat(getComputedStyle(each).outlineWidth)] })()"
                )
                assert style is not None, f"{path}: the focus was lost after {reached} of {wanted}"
                assert style[0] != "none", (path, page.evaluate("document.activeElement.outerHTML"))
                assert style[1] > 0
                reached += 1


def test_a_phone_finds_every_screen_behind_one_button(signed_in):
    with signed_in(width=390) as seen:
        page = seen.page
        screens = page.get_by_role("navigation", name="Screens")
        assert not screens.is_visible()
        button = page.get_by_role("button", name="Screens")
        button.click()
        assert button.get_attribute("aria-expanded") == "true"
        _is_clean(seen, "the open list of screens")
        screens.get_by_role("link", name="Incidents").click()
        page.wait_for_url("**/console/incidents")


def test_the_keys_go_where_they_say(signed_in, told):
    with signed_in() as seen:
        page = seen.page
        page.keyboard.press("/")
        page.keyboard.type(told[0])
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/console/requests/{told[0]}")
        page.keyboard.press("Control+k")
        page.locator("#palette[open] li").first.wait_for()
        page.keyboard.type("key")
        page.keyboard.press("Enter")
        page.wait_for_url("**/console/keys")
        page.keyboard.press("Control+k")
        page.locator("#palette[open]").wait_for()
        page.keyboard.press("Escape")
        page.locator("#palette[open]").wait_for(state="detached")


def test_the_theme_is_switched_and_remembered(signed_in):
    with signed_in("light") as seen:
        switch = seen.page.get_by_role("button", name="Dark")
        assert switch.get_attribute("aria-pressed") == "false"
        switch.click()
        seen.open("/console")
        assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert seen.page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "true"
        _is_clean(seen, "overview after the switch")


def test_the_overview_goes_on_by_itself(platform, signed_in):
    with signed_in() as seen:
        seen.open("/console")
        seen.page.locator("[data-live]").wait_for(state="visible")
        counted = seen.page.locator(".figures dd").first
        before = counted.inner_text()
        seen.page.evaluate("window.isSamePage = true")
        for _ in range(3):
            platform.owner.call("GET", "/v1/models")
        seen.page.wait_for_function(
            "before => document.querySelector('.figures dd').textContent !== before", arg=before
        )
        assert seen.page.evaluate("window.isSamePage")
        assert seen.page.locator(".chart canvas").count() == 1
        _is_clean(seen, "the live overview")


def test_a_key_is_made_used_rotated_and_revoked_by_hand(platform, signed_in):
    with signed_in() as seen:
        page = seen.page
        seen.open("/console/keys")
        page.get_by_role("button", name="Create a key").click()
        page.get_by_label("Name").fill("made by hand")
        page.get_by_role("button", name="Create the key").click()
        page.get_by_role("heading", name="Key created").wait_for()
        key = page.locator("#fresh-key").inner_text()
        _is_clean(seen, "the new key")
        caller = platform.as_key(key)
        assert caller.call("GET", "/v1/models").status == 200
        seen.open("/console/keys")
        assert key not in page.content()
        page.get_by_role("button", name="Revoke made by hand").click()
        page.get_by_role("button", name="Revoke the key").click()
        page.wait_for_url("**/console/keys")
        page.get_by_text("revoked").wait_for()
        until(lambda: caller.call("GET", "/v1/models").status == 401, what="the refusal")


@pytest.mark.parametrize("theme", THEMES)
def test_a_prompt_is_sent_and_its_answer_leads_to_its_story(platform, signed_in, theme):
    with signed_in(theme, 390) as seen:
        page = seen.page
        seen.open("/console/playground")
        page.get_by_label("User message").fill(EVIL)
        page.keyboard.press("Control+Enter")
        page.locator("#outcome h2 + .state").get_by_text(re.compile("answered|refused|cut")).wait_for()
        page.locator("#told").get_by_text("The model").wait_for()
        assert page.title().endswith("· Interlock")
        _is_clean(seen, "the answer")
        story = page.locator("#outcome").get_by_role("link", name="Story").get_attribute("href")
        platform.story(story.rpartition("/")[2])
        seen.open(story)
        page.get_by_role("link", name="Rerun in playground").click()
        page.get_by_text("Stories keep no messages").wait_for()
        assert EVIL not in page.get_by_label("User message").input_value()
        _is_clean(seen, "the form of a story")


def test_names_that_would_be_scripts_stay_text(platform, signed_in):
    with signed_in() as seen:
        for path in [*_screens(seen), "/console/requests?outcome=model_not_found"]:
            seen.open(path)
            assert seen.page.title().endswith("· Interlock"), path
        seen.open("/console/keys")
        assert seen.page.get_by_role("link", name=EVIL).count() == 1
        exported = seen.page.evaluate("fetch('/console/requests.csv').then(answer => answer.text())")
        cells = [cell for line in csv.reader(io.StringIO(exported)) for cell in line]
        assert cells
        assert [cell for cell in cells if re.match(r"[=+\-@\t\r]", cell)] == []
        _is_clean(seen, "after the injections")


def test_pages_are_read_without_javascript(platform, told, browser):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1440, "height": 900})
    try:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(f"{platform.url}/console/login?next=/console/requests/{told[0]}")
        page.get_by_label("API key").fill(platform.owner_key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"**/console/requests/{told[0]}")
        assert page.get_by_role("heading", name="Request story").count() == 1
        assert page.locator(".span-row svg rect").count() > 0
        page.goto(f"{platform.url}/console")
        assert page.locator(".figures dd").first.inner_text() != "0"
        page.goto(f"{platform.url}/console/playground")
        page.get_by_label("User message").fill("Hello")
        page.get_by_role("button", name="Send").click()
        page.locator("#outcome").get_by_role("link", name="Story").wait_for()
        page.goto(f"{platform.url}/console/requests?outcome=ok")
        assert page.locator("tbody tr").count() > 0
        assert page.locator("[data-copy]:visible, .needs-script:visible").count() == 0
    finally:
        context.close()


def test_the_first_load_stays_within_its_weight(platform, signed_in, browser):
    with signed_in() as seen:
        fresh = browser.new_context(storage_state=seen.page.context.storage_state())
    try:
        fresh.set_default_timeout(PATIENCE_MS)
        page = fresh.new_page()
        page.goto(f"{platform.url}/console", wait_until="load")
        page.wait_for_function("performance.getEntriesByType('resource').length > 9")
        page.wait_for_timeout(500)
        loaded = page.evaluate(
            "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
            ".map(each => [each.name, each.encodedBodySize])"
        )
        assert sum(size for _, size in loaded) <= 260_000, loaded
    finally:
        fresh.close()
