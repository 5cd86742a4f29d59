"""Lists page by cursors that fit one list of one tenant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.foundation.control.cursors import Cursors
from interlock.foundation.errors import InterlockError
from tests.foundation.control.conftest import Client
from tests.support.store import IDS, scope_of

CURSORS = Cursors(b"k" * 32)
ROUTE = "GET /admin/v1/notes"


async def test_all_pages_together_are_the_whole_list(admin):
    seen, cursor = [], ""
    while cursor is not None:
        answer = await admin("GET", f"/admin/v1/notes?limit=3{cursor and '&cursor=' + cursor}")
        seen += answer.json["data"]
        assert set(answer.json) == {"data", "next_cursor"}
        cursor = answer.json["next_cursor"]
    assert seen == [1, 2, 3, 4, 5, 6, 7]


async def test_a_last_full_page_has_no_next(admin):
    assert (await admin("GET", "/admin/v1/notes?limit=7")).json == {"data": [1, 2, 3, 4, 5, 6, 7], "next_cursor": None}


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "", "1.0", "9999999", "%C2%B2"])
async def test_a_limit_out_of_range_is_refused(admin, limit):
    assert (await admin("GET", f"/admin/v1/notes?limit={limit}")).code == "invalid_request"


async def test_a_cursor_of_another_list_or_tenant_is_refused(world, app, admin):
    cursor = (await admin("GET", "/admin/v1/notes?limit=3")).json["next_cursor"]
    other_list = await admin("GET", f"/admin/v1/notes/1?cursor={cursor}")
    assert (other_list.status, other_list.code) == (400, "invalid_cursor")
    world.keys.known["il_other"] = world.principal("admin:read", organization_id=IDS.new())
    stranger = await Client(app)("GET", f"/admin/v1/notes?cursor={cursor}", x_api_key="il_other")
    assert stranger.code == "invalid_cursor"


@given(st.text(max_size=80))
def test_no_text_of_a_stranger_is_a_cursor(text):
    with pytest.raises(InterlockError) as refused:
        CURSORS.read(ROUTE, scope_of(IDS.new()), text)
    assert refused.value.code == "invalid_cursor"


@given(
    st.lists(st.integers(-(1 << 63), 1 << 63) | st.text(max_size=50) | st.binary(max_size=20), min_size=1, max_size=4)
)
def test_a_position_survives(parts):
    scope = scope_of(IDS.new())
    assert CURSORS.read(ROUTE, scope, CURSORS.issue(ROUTE, scope, tuple(parts))) == tuple(parts)


@given(st.data())
def test_a_changed_character_is_noticed(data):
    scope = scope_of(IDS.new())
    cursor = CURSORS.issue(ROUTE, scope, (42,))
    # The last character also holds bits that base64 leaves unused, so it is left alone.
    position = data.draw(st.integers(0, len(cursor) - 2))
    other = data.draw(st.sampled_from("ABCabc019-_"))
    if other == cursor[position]:
        other = "Z"
    with pytest.raises(InterlockError):
        CURSORS.read(ROUTE, scope, cursor[:position] + other + cursor[position + 1 :])
