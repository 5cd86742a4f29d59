"""One control call, step by step: who, may they, what, and an answer that always carries its id."""

import pytest

from interlock.foundation.control import STORY_HEADER, ControlStory, Level, Reply, Route
from interlock.foundation.control.app import build_app
from interlock.foundation.control.config import ControlConfig
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.ids import format_id, parse_id
from tests.foundation.control.conftest import Client
from tests.support.clocks import HandClock
from tests.support.store import IDS


def standing():
    """A clock of which no second passes: nothing is refilled, however slow the machine."""
    clock = HandClock()
    clock.stop()
    return clock


async def test_every_answer_carries_the_id_of_the_edge_under_both_names(admin, anyone):
    mine = format_id("req", IDS.new())
    for answer in (
        await admin("GET", "/admin/v1/notes", x_request_id=mine),
        await anyone("GET", "/admin/v1/notes", x_request_id=mine),
        await anyone("GET", "/nowhere", x_request_id=mine),
        await admin("PATCH", "/admin/v1/notes", x_request_id=mine),
        await admin("GET", "/admin/v1/broken", x_request_id=mine),
        await admin("GET", "/v1/stream", x_request_id=mine),
    ):
        assert answer.headers["x-request-id"] == answer.headers["request-id"] == mine


@pytest.mark.parametrize("given", [None, "", "x", "req_", "key_" + "0" * 26, "req_" + "u" * 26, "req_\x00"])
async def test_an_id_that_is_none_is_replaced_by_a_fresh_one(anyone, given):
    answer = await anyone("GET", "/nowhere", x_request_id=given)
    assert parse_id("req", answer.headers["x-request-id"])
    assert answer.json["error"]["request_id"] == answer.headers["x-request-id"]


async def test_the_envelope_has_its_five_fields(anyone):
    answer = await anyone("GET", "/nowhere")
    assert answer.status == 404
    assert set(answer.json["error"]) == {"code", "message", "request_id", "retry_after_s", "detail"}
    assert answer.headers["content-type"] == "application/json"


async def test_a_key_may_come_in_either_header_and_its_absence_is_401(admin, viewer, anyone):
    assert (await admin("GET", "/admin/v1/notes")).status == 200
    assert (await viewer("GET", "/admin/v1/notes")).status == 200
    missing = await anyone("GET", "/admin/v1/notes")
    assert (missing.status, missing.code) == (401, "invalid_key")
    assert missing.headers["www-authenticate"] == "Bearer"


async def test_a_wrong_key_and_another_scheme_answer_alike(anyone, browser):
    wrong = await anyone("GET", "/admin/v1/notes", authorization="Bearer il_nobody")
    basic = await browser("GET", "/admin/v1/notes", authorization="Basic eDp5")
    assert wrong.code == basic.code == "invalid_key"
    assert wrong.json["error"]["message"] == basic.json["error"]["message"]


async def test_a_key_that_only_the_store_knows_is_asked_for_there(world, anyone):
    world.keys.only_in_store["il_fresh"] = world.principal("admin:read")
    assert (await anyone("GET", "/admin/v1/notes", authorization="Bearer il_fresh")).status == 200


async def test_a_refused_administrative_action_names_action_and_roles_and_is_audited(world, viewer):
    answer = await viewer("POST", "/admin/v1/notes", {"name": "n"})
    assert (answer.status, answer.code) == (403, "role_denied")
    assert answer.json["error"]["detail"] == {"action": "admin:write", "roles": ["owner", "admin"]}
    (event,) = await world.audited("policy.refuse")
    assert (event.outcome, event.reason, event.target_id) == ("refused", "role_denied", "POST /admin/v1/notes")
    assert format_id("req", event.request_id) == answer.headers["x-request-id"]
    assert world.work == 0


async def test_a_crowd_of_refusals_cannot_flood_the_chain(world):
    app = build_app(world.routes(), world.kit(config=ControlConfig(refusals_audited_per_s=3), clock=standing()))
    viewer = Client(app, {"x-api-key": "il_viewer"})
    for _ in range(12):
        assert (await viewer("POST", "/admin/v1/notes", {"name": "n"})).status == 403
    assert len(await world.audited("policy.refuse")) == 3


async def test_an_unknown_path_is_404_and_an_unknown_method_405_with_allow(anyone, admin):
    assert (await anyone("GET", "/admin/v1/nothing")).code == "not_found"
    assert (await admin("GET", "/admin/v1/notes/")).code == "not_found"
    answer = await anyone("PATCH", "/admin/v1/notes")
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_head_is_get(admin):
    assert (await admin("HEAD", "/admin/v1/notes")).status == 200


async def test_a_defect_is_a_500_that_tells_nothing_but_its_id(admin):
    answer = await admin("GET", "/admin/v1/broken")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert b"sk-secret" not in answer.content


async def test_a_mutation_that_fails_leaves_nothing_behind(world, admin):
    answer = await admin("DELETE", "/admin/v1/notes/1")
    assert (answer.status, answer.code) == (409, "name_taken")
    assert answer.json["error"]["detail"] == {"name": "x"}
    assert await world.audited("note.fail") == []


async def test_an_unknown_query_parameter_is_named(admin):
    answer = await admin("GET", "/admin/v1/notes?nam=x")
    assert (answer.status, answer.code) == (400, "unknown_field")
    assert answer.json["error"]["detail"] == {"field": "nam"}


@pytest.mark.parametrize("query", ["limit=1&limit=2", "name=%00", "name=%ff"])
async def test_an_ambiguous_query_is_refused(admin, query):
    assert (await admin("GET", f"/admin/v1/notes?{query}")).code == "invalid_request"


async def test_the_201st_mutation_of_a_second_is_refused_and_says_when_to_come_back(world):
    app = build_app(world.routes(), world.kit(config=ControlConfig(mutations_per_s=5), clock=standing()))
    admin = Client(app, {"authorization": "Bearer il_admin"})
    answers = [await admin("POST", "/admin/v1/notes", {"name": "n"}) for _ in range(20)]
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 15
    assert refused[0].code == "admin_rate_limit"
    assert int(refused[0].headers["retry-after"]) >= 1
    assert world.work == len(answers) - len(refused)
    assert (await admin("GET", "/admin/v1/notes")).status == 200, "reads have no part in it"
    assert app.state.dispatcher.statistics()["mutations"]["refused"] == len(refused)


async def test_the_story_tells_tenant_outcome_and_rule(world, admin, viewer, anyone):
    def story(answer):
        return ControlStory.from_header(answer.headers[STORY_HEADER])

    served = story(await admin("GET", "/admin/v1/notes"))
    assert (served.organization_id, served.outcome_code) == (world.scope.organization_id, "ok")
    assert [each.rule for each in served.decisions] == ["identity.key", "admin:read"]
    refused = story(await viewer("POST", "/admin/v1/notes", {"name": "n"}))
    assert (refused.outcome_code, refused.rule) == ("role_denied", "control.role_denied")
    assert refused.organization_id == world.scope.organization_id
    nobody = story(await anyone("GET", "/nowhere"))
    assert (nobody.organization_id, nobody.rule) == (None, "http.not_found")


async def test_a_stream_is_passed_on_piece_by_piece(admin):
    answer = await admin("GET", "/v1/stream")
    assert answer.content == b"data: 1\n\ndata: 2\n\n"
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"


async def test_two_routes_of_one_address_are_refused_at_the_start(world):
    with pytest.raises(ValueError, match="there twice"):
        build_app([*world.routes(), world.routes()[0]], world.kit())


async def test_a_literal_path_goes_before_a_parameter(world):
    async def special(call):
        return Reply(body={"is": "special"})

    routes = [*world.routes(), Route("GET", "/admin/v1/notes/special", Level.PUBLIC, special, "Special.")]
    answer = await Client(build_app(routes, world.kit()))("GET", "/admin/v1/notes/special")
    assert answer.json == {"is": "special"}


async def test_with_the_store_away_a_known_key_is_still_known_and_is_told_to_come_back(world, admin):
    await world.store.close()
    answer = await admin("POST", "/admin/v1/notes", {"name": "n"})
    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-should-retry"] == "true"
    assert (await admin("GET", "/admin/v1/notes")).status == 200


def test_the_kit_does_not_print_its_key(world):
    assert isinstance(world.kit(), Kit)
    assert "kkkk" not in repr(world.kit())
