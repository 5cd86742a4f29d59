"""Secrets over HTTP: no answer holds a value."""

import pytest

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.identity import authorize
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Membership, Principal, PrincipalKind, Role
from interlock.foundation.secrets.routes import routes
from tests.foundation.control.conftest import Client, Keys
from tests.foundation.secrets.test_service import safe  # noqa: F401 - the fixture
from tests.support.store import IDS, scope_of

VALUE = "sk-a-long-provider-key"


def caller(organization_id, role, *, is_operator=False):
    return Principal(
        IDS.new(), PrincipalKind.USER, organization_id, memberships=(Membership(role, None),),
        scopes=frozenset({"admin:read", "admin:write"}), is_platform_operator=is_operator,
    )  # fmt: skip


@pytest.fixture
def ask(safe):  # noqa: F811 - the fixture
    keys = Keys()
    keys.known["owner"] = caller(safe.scope.organization_id, Role.OWNER)
    keys.known["operator"] = caller(safe.scope.organization_id, Role.OWNER, is_operator=True)
    keys.known["viewer"] = caller(safe.scope.organization_id, Role.VIEWER)
    kit = Kit(
        store=safe.store, audit=safe.control._audit, gate=Gate(keys, None, authorize), ids=IDS, clock=SystemClock(),
        dice=SystemDice(), key=b"k",
    )  # fmt: skip
    app = build_app(routes(safe.control), kit)
    return lambda who, *call, **headers: Client(app, {"authorization": f"Bearer {who}"})(*call, **headers)


async def test_a_secret_is_set_listed_and_removed_without_ever_being_shown(safe, ask):  # noqa: F811
    made = await ask("owner", "PUT", "/admin/v1/secrets/openai", {"value": VALUE}, idempotency_key="k1")
    assert (made.status, made.json["last4"], made.json["version"]) == (200, "-key", 1)
    listed = await ask("owner", "GET", "/admin/v1/secrets")
    assert [each["name"] for each in listed.json["data"]] == ["openai"]
    assert VALUE.encode() not in made.content + listed.content
    assert await safe.open("openai") == VALUE.encode()
    assert (await ask("owner", "DELETE", "/admin/v1/secrets/openai")).status == 204
    assert (await ask("owner", "DELETE", "/admin/v1/secrets/openai")).code == "not_found"


async def test_whoever_keeps_an_opened_secret_is_told_of_every_change(safe, ask):  # noqa: F811
    epochs = []
    for method, body in (("PUT", {"value": VALUE}), ("PUT", {"value": VALUE + "2"}), ("DELETE", None)):
        await ask("owner", method, "/admin/v1/secrets/openai", *([body] if body else []))
        async with safe.store.ops("epochs of a test") as tx:
            found = await tx._connection.fetchval("SELECT epoch FROM flags_epochs WHERE topic = 'secrets'")
        epochs.append(found or 0)
    assert 0 < epochs[0] < epochs[1] < epochs[2]


async def test_a_secret_of_a_workspace_is_apart(safe, ask, scope):  # noqa: F811
    where = format_id("ws", scope.workspace_id)
    await ask("owner", "PUT", f"/admin/v1/secrets/openai?workspace_id={where}", {"value": VALUE})
    assert await safe.open("openai") is None
    assert await safe.open("openai", scope_of(scope.organization_id, scope.workspace_id)) == VALUE.encode()
    assert (await ask("owner", "GET", "/admin/v1/secrets")).json["data"][0]["workspace_id"] == where


async def test_the_list_pages(safe, ask):  # noqa: F811
    for number in range(5):
        await safe.put(f"s{number}", VALUE)
    first = (await ask("owner", "GET", "/admin/v1/secrets?limit=3")).json
    rest = (await ask("owner", "GET", f"/admin/v1/secrets?limit=3&cursor={first['next_cursor']}")).json
    assert [each["name"] for each in first["data"] + rest["data"]] == ["s0", "s1", "s2", "s3", "s4"]


async def test_who_may_not_set_is_refused_and_a_workspace_that_is_none_too(ask):
    assert (await ask("viewer", "PUT", "/admin/v1/secrets/x", {"value": VALUE})).code == "role_denied"
    assert (await ask("owner", "PUT", "/admin/v1/secrets/x?workspace_id=nope", {"value": VALUE})).code == "not_found"
    assert (await ask("owner", "PUT", "/admin/v1/secrets/x", {"valeu": VALUE})).code == "unknown_field"


async def test_only_the_platforms_operator_rotates(safe, ask):  # noqa: F811
    await safe.put("s", VALUE)
    assert (await ask("owner", "POST", "/admin/v1/secrets/rotate")).code == "role_denied"
    assert (await ask("operator", "GET", "/admin/v1/secrets/rotate")).code == "not_found"
    wanted = await ask("operator", "POST", "/admin/v1/secrets/rotate")
    assert (wanted.status, wanted.json["state"]) == (202, "wanted")
    while await safe.rotator.run_once():
        pass
    done = (await ask("operator", "GET", "/admin/v1/secrets/rotate")).json
    assert (done["state"], done["rewrapped"]) == ("done", 1)
    assert await safe.open("s") == VALUE.encode()
