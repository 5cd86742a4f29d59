"""The matrix of roles and routes: complete, as reviewed, and what the running application really answers."""

import re

import pytest
import yaml

from interlock.foundation.control.app import build_app
from interlock.foundation.control.route import Level
from interlock.foundation.identity import ALL_SCOPES
from interlock.foundation.scope import Role
from tests.foundation.control.conftest import Client
from tests.foundation.identity.conftest import shop, world
from tests.support import policy_matrix

__all__ = ["shop", "world"]

# The table of the specification, written down a second time: roles besides owner and admin.
SPECIFIED = {
    "inference": "developer support",
    "requests:read": "developer support auditor viewer",
    "retrieval:read": "developer support viewer",
    "retrieval:write": "developer",
    "retrieval:admin": "developer",
    "retrieval:delegate": "",
    "retrieval:explain": "support auditor",
    "agents:read": "developer auditor viewer",
    "agents:write": "developer",
    "agents:approve": "developer",
    "evals:read": "developer support auditor viewer",
    "evals:run": "developer",
    "evals:write": "developer",
    "gates:write": "",
    "gates:waive": "",
    "rollouts:write": "support",
    "incidents:write": "developer support",
    "crawls:read": "developer support auditor viewer",
    "crawls:write": "developer",
    "crawls:admin": "",
    "admin:read": "auditor",
    "admin:write": "",
    "kill:write": "support",
    "audit:read": "auditor",
    "metrics:read": "auditor",
    "console": "developer support auditor viewer",
}


# Posts that change nothing: a question too long or too private for an address.
READING = {
    "/admin/v1/policy/explain",
    "/admin/v1/audit/verify",
    "/console/audit/verify",
    "/console/retrieval",
    "/console/retrieval/why",
    "/v1/crawls/preview",
    "/v1/retrieval/answers",
    "/v1/retrieval/citations:verify",
    "/v1/retrieval/explain",
    "/v1/retrieval/search",
}


def reviewed():
    return yaml.safe_load(policy_matrix.FILE.read_text())


def test_the_matrix_is_the_one_that_was_reviewed():
    assert policy_matrix.FILE.read_text() == policy_matrix.text(), (
        "the policy changed: run `python -m tests.support.policy_matrix` and have the diff read"
    )


def test_scopes_and_roles_are_those_of_the_specification():
    wanted = {scope: {"owner", "admin", *roles.split()} for scope, roles in SPECIFIED.items()}
    assert {scope: set(roles) for scope, roles in reviewed()["scopes"].items()} == wanted


def test_every_route_has_an_action_that_exists_and_a_level():
    for route in policy_matrix.registry():
        assert isinstance(route.level, Level)
        assert (route.level is Level.PUBLIC) or route.action in ALL_SCOPES, route.path


def test_what_is_public_is_only_the_way_in():
    public = {name for name, each in reviewed()["routes"].items() if each["level"] == "public"}
    assert all("/console/login" in name or "/console/static/" in name for name in public), public


def test_a_route_that_changes_something_is_never_open_to_those_who_only_read():
    readers = {"viewer", "auditor"}
    for name, each in reviewed()["routes"].items():
        method, path = name.split(" ")
        if method == "GET" or each["level"] == "public" or path in READING:
            continue
        if each["action"] == "console":
            continue
        assert not readers & {role.rstrip("*") for role in each["everywhere"]}, name


def test_only_the_operator_makes_organizations():
    made = reviewed()["routes"]["POST /admin/v1/organizations"]
    assert (made["everywhere"], made["workspace"], made["operator"]) == ([], [], True)


@pytest.mark.parametrize("role", list(Role))
async def test_the_application_answers_each_role_as_the_matrix_says(world, shop, role):
    """Every route of identity and flags is called with a real key of the role; 403 exactly where the matrix says no."""
    app = build_app(world.registry, world.kit())
    everywhere = Client(app, {"authorization": f"Bearer {await world.person(shop.scope, role)}"})
    inside = Client(app, {"authorization": f"Bearer {await world.person(shop.scope, role, where=shop.workspace_id)}"})
    matrix = reviewed()["routes"]
    for route in world.registry:
        told = matrix[f"{route.method} {route.path}"]
        path = re.sub(r"{\w+}", "none", route.path)
        for client, allowed in ((everywhere, told["everywhere"]), (inside, told["workspace"])):
            answer = await client(route.method, path, None if route.body is None else {})
            is_allowed = str(role) in {each.rstrip("*") for each in allowed}
            assert (answer.status == 403) is not is_allowed, (route.method, path, role, answer.content)


@pytest.mark.parametrize("role", list(Role))
async def test_a_key_without_the_scope_is_refused_whatever_its_owner_may(world, shop, role):
    text = await world.person(shop.scope, role, {"requests:read"})
    client = world.client(text)
    for route in world.registry:
        path = re.sub(r"{\w+}", "none", route.path)
        answer = await client(route.method, path, None if route.body is None else {})
        assert answer.status == 403, (route.method, path)
        assert answer.code in {"scope_denied", "role_denied"}
        assert answer.json["error"]["detail"]["action"] == route.action


async def test_nobody_gets_anything_without_a_key(world):
    for route in world.registry:
        path = re.sub(r"{\w+}", "none", route.path)
        answer = await world.client()(route.method, path, None if route.body is None else {})
        assert (answer.status, answer.code) == (401, "invalid_key"), (route.method, path)
