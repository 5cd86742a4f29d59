"""The first lines of the overview: how each thing stands, who is needed, and nothing of what a reader may not open."""

import re

import pytest

from interlock.console.moments import when_at
from interlock.console.standing import Standing, StandingLine, standing_sentence
from interlock.console.views import CAUTION, GO, STOP
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Role
from tests.console import samples
from tests.console.conftest import signed_in


def text(answer):
    return answer.content.decode()


def says(tone, words="two of them"):
    async def watcher(_scope):
        return Standing(tone, words)

    return watcher


async def test_an_hour_without_trouble_needs_nobody(world, owner):
    await world.ship(samples.answered(world.clock.now_us() - 60_000_000))
    page = text(await owner("GET", "/console"))
    assert "Nothing needs you right now." in page
    assert "1 came in the last five minutes; 0 refused, 0 failed" in page


async def test_failures_of_the_last_minutes_are_the_first_thing_said_and_older_ones_are_not(world, owner):
    now = world.clock.now_us()
    await world.ship(samples.failed(now - 1_800_000_000), samples.answered(now - 60_000_000))
    assert "Nothing needs you right now." in text(await owner("GET", "/console"))
    await world.ship(samples.failed(now - 30_000_000))
    app = world.app()
    page = text(await (await signed_in(world, app, world.owner_key))("GET", "/console"))
    assert re.search(r'1 thing needs somebody now\. <a href="/console/requests">Requests</a>', page)
    assert "2 came in the last five minutes; 0 refused, 1 failed" in page


async def test_each_line_leads_to_its_screen_and_a_signal_is_told_in_words_too(world):
    app = world.app(watchers={"keys": says(CAUTION, "<b>1 expires</b>")})
    page = text(await (await signed_in(world, app, world.owner_key))("GET", "/console"))
    assert re.search(r'<a href="/console/keys"><span class="lamp lamp-caution"', page)
    assert ", needs a look:</span>" in page
    assert "&lt;b&gt;1 expires&lt;/b&gt;" in page


async def test_a_line_of_a_screen_that_a_reader_may_not_open_is_not_there(world):
    app = world.app(watchers={"keys": says(STOP)})
    key = await world.sign_up("desk", Role.VIEWER, ("requests:read", "console"), None)
    page = text(await (await signed_in(world, app, key))("GET", "/console"))
    assert "/console/keys" not in page
    assert "two of them" not in page
    assert "Nothing needs you right now." in page


async def test_what_cannot_be_asked_is_said_to_be_unknown_and_never_fine(world):
    async def away(_scope):
        raise InterlockError("store_unavailable")

    app = world.app(watchers={"keys": away})
    page = text(await (await signed_in(world, app, world.owner_key))("GET", "/console"))
    assert "not known right now: store_unavailable" in page
    assert "1 thing needs a look." in page


async def test_two_looks_ask_once_and_an_open_page_is_told_news_alone(world):
    asked = []

    async def counting(_scope):
        asked.append(1)
        return Standing(GO, "all of them")

    client = await signed_in(world, world.app(watchers={"keys": counting}), world.owner_key)
    address = re.search(r'hx-get="(/console/standing\?seen=[0-9a-f]+)"', text(await client("GET", "/console")))[1]
    again = await client("GET", address)
    assert len(asked) == 1
    assert again.headers["hx-reswap"] == "none"
    assert "hx-reswap" not in (await client("GET", "/console/standing?seen=older")).headers


@pytest.mark.parametrize(
    ("tones", "words"),
    [
        ([], "Nothing needs you right now."),
        ([GO, ""], "Nothing needs you right now."),
        ([CAUTION, GO, CAUTION], "2 things need a look."),
        ([STOP], "1 thing needs somebody now."),
        ([STOP, STOP, CAUTION], "2 things need somebody now, 1 more needs a look."),
    ],
)
def test_one_sentence_says_whether_somebody_is_needed(tones, words):
    assert standing_sentence([StandingLine("x", "/x", tone, "", "") for tone in tones]) == words


@pytest.mark.parametrize(
    ("moment", "words"),
    [("2026-11-25T03:00:00.000Z", "19 s ago"), ("2026-11-25T05:00:19.000Z", "in 2 h"), (None, "-")],
)
def test_a_moment_is_told_in_one_unit_before_and_after_and_exactly_on_focus(moment, words):
    told = str(when_at(1_795_575_619_000_000)(moment))
    assert words in told
    assert moment is None or f'data-exact="{moment.replace("T", " ").replace("Z", " UTC")}" tabindex="0"' in told
