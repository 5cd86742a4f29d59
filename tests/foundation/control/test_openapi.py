"""The description of the API is generated, valid and complete."""

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from interlock.foundation.control import Level, Route
from interlock.foundation.control.openapi import codes_of, document
from interlock.foundation.errors import ERRORS


async def test_it_is_valid_openapi_3_1(anyone):
    answer = await anyone("GET", "/openapi.json")
    assert answer.json["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(answer.json).validate()


async def test_every_route_is_there_with_its_action_and_level(anyone, app):
    paths = (await anyone("GET", "/openapi.json")).json["paths"]
    for route in app.state.registry:
        operation = paths[route.path][route.method.lower()]
        assert operation.get("x-interlock-action") == route.action
        assert operation["x-interlock-level"] == route.level
        assert str(route.status) in operation["responses"]


async def test_every_code_stands_under_its_status(anyone, app):
    paths = (await anyone("GET", "/openapi.json")).json["paths"]
    for route in app.state.registry:
        responses = paths[route.path][route.method.lower()]["responses"]
        for code in codes_of(route):
            assert code in responses[str(ERRORS[code].http_status)]["x-interlock-codes"]


async def test_bodies_lists_and_keys_are_described(anyone):
    create = (await anyone("GET", "/openapi.json")).json["paths"]["/admin/v1/notes"]
    assert create["post"]["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/NoteBody"
    }
    names = {parameter["name"] for parameter in create["post"]["parameters"]}
    assert "Idempotency-Key" in names
    listing = create["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(listing["properties"]) == {"data", "next_cursor"}
    assert {"limit", "cursor", "name"} == {parameter["name"] for parameter in create["get"]["parameters"]}


def test_a_route_without_an_action_is_not_a_route():
    async def handler(call):
        raise AssertionError(call)

    with pytest.raises(ValueError, match="unless it is public"):
        Route("GET", "/x", Level.WORKSPACE, handler, "X.")
    with pytest.raises(ValueError, match="unless it is public"):
        Route("GET", "/x", Level.PUBLIC, handler, "X.", action="admin:read")
    assert document([])["paths"] == {}
