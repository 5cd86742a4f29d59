"""The audit chain over HTTP: own organization only, and what the policy allows."""

import json

import pytest

from interlock.foundation.audit.routes import routes
from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.control.app import build_app
from interlock.foundation.control.caller import Gate
from interlock.foundation.control.dispatch import Kit
from interlock.foundation.identity import authorize
from interlock.foundation.ids import format_id
from interlock.foundation.scope import Membership, Principal, PrincipalKind, Role
from tests.foundation.control.conftest import Client, Keys
from tests.support.store import IDS, make_tenant


class Callers(Keys):
    """Keys by role."""

    def add(self, name, organization_id, role, *, is_operator=False):
        scopes = frozenset({"audit:read", "admin:write"})
        self.known[name] = Principal(
            IDS.new(), PrincipalKind.USER, organization_id, memberships=(Membership(role, None),), scopes=scopes,
            is_platform_operator=is_operator,
        )  # fmt: skip


@pytest.fixture
async def keys(chain, store):
    found = Callers()
    found.add("auditor", chain.scope.organization_id, Role.AUDITOR)
    found.add("owner", chain.scope.organization_id, Role.OWNER)
    found.add("viewer", chain.scope.organization_id, Role.VIEWER)
    stranger, _ = await make_tenant(store)
    found.add("stranger", stranger, Role.OWNER)
    found.add("operator", stranger, Role.OWNER, is_operator=True)
    return found


@pytest.fixture
def ask(chain, keys):
    kit = Kit(
        store=chain.store, audit=chain.log, gate=Gate(keys, None, authorize), ids=IDS, clock=SystemClock(),
        dice=SystemDice(), key=b"k",
    )  # fmt: skip
    app = build_app(routes(chain.log, chain.reader, chain.checkpointer), kit)
    return lambda who, *call, **headers: Client(app, {"authorization": f"Bearer {who}"})(*call, **headers)


async def test_the_list_is_newest_first_and_pages(chain, ask):
    await chain.append(5)
    first = (await ask("auditor", "GET", "/admin/v1/audit?limit=3")).json
    assert [event["seq"] for event in first["data"]] == [5, 4, 3]
    rest = (await ask("auditor", "GET", f"/admin/v1/audit?limit=3&cursor={first['next_cursor']}")).json
    assert [event["seq"] for event in rest["data"]] == [2, 1]
    assert rest["next_cursor"] is None


async def test_an_event_shows_what_is_hashed(chain, ask):
    await chain.append(target_id="key_abc", reason="why", detail={"n": 1})
    (event,) = (await ask("auditor", "GET", "/admin/v1/audit?action=key.create&target=key_abc")).json["data"]
    assert event["organization_id"] == format_id("org", chain.scope.organization_id)
    assert (event["target"], event["reason"], event["detail"]) == ({"kind": "key", "id": "key_abc"}, "why", {"n": 1})
    assert set(event["actor"]) == {"kind", "id", "key_id", "session_id", "ip"}
    assert event["request_id"].startswith("req_")


async def test_times_narrow_the_list_and_nonsense_is_named(chain, ask):
    await chain.append(2)
    assert len((await ask("auditor", "GET", "/admin/v1/audit?from=2020-01-01T00:00:00Z")).json["data"]) == 2
    assert (await ask("auditor", "GET", "/admin/v1/audit?to=2020-01-01T00:00:00Z")).json["data"] == []
    for text in ("yesterday", "9999-13-01", "", "2020-01-01T00:00:00%2B99:00"):
        assert (await ask("auditor", "GET", f"/admin/v1/audit?from={text}")).code == "invalid_request"


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/verify"), ("GET", "/export")])
async def test_a_viewer_sees_nothing_of_it(ask, method, path):
    assert (await ask("viewer", method, f"/admin/v1/audit{path}")).code == "role_denied"


async def test_an_auditor_reads_and_does_not_sign(chain, ask):
    await chain.append(2)
    assert (await ask("auditor", "POST", "/admin/v1/audit/checkpoint")).code == "role_denied"
    made = (await ask("owner", "POST", "/admin/v1/audit/checkpoint")).json["data"]
    assert [each["seq"] for each in made] == [3], "the refused call left an event"
    assert (await ask("auditor", "POST", "/admin/v1/audit/verify")).json["checkpoints"] == 1


async def test_verify_answers_for_the_callers_chain_only(chain, ask, intruder):
    await chain.append(3)
    mine = format_id("org", chain.scope.organization_id)
    assert (await ask("auditor", "POST", "/admin/v1/audit/verify")).json == {
        "ok": True, "events": 3, "organizations": 1, "checkpoints": 0,
    }  # fmt: skip
    await intruder.execute(
        "UPDATE audit_events SET reason = 'x' WHERE organization_id = $1 AND seq = 2", chain.scope.organization_id
    )
    broken = (await ask("auditor", "POST", "/admin/v1/audit/verify")).json
    assert (broken["ok"], broken["first_bad_seq"], broken["code"]) == (False, 2, "hash_mismatch")
    assert broken["organization_id"] == mine
    assert (await ask("stranger", "POST", "/admin/v1/audit/verify")).json["events"] == 0
    assert (await ask("stranger", "POST", "/admin/v1/audit/verify", {"organization_id": mine})).code == "not_found"
    asked = await ask("operator", "POST", "/admin/v1/audit/verify", {"organization_id": mine})
    assert asked.json["code"] == "hash_mismatch"
    assert (await ask("operator", "POST", "/admin/v1/audit/verify")).json["ok"] is False


async def test_verify_takes_checkpoints_that_were_kept_elsewhere(chain, ask, key):
    await chain.append(3)
    kept = key.sign(chain.scope.organization_id, 5, bytes(32), 1).public()
    answer = await ask("auditor", "POST", "/admin/v1/audit/verify", {"checkpoints": [kept]})
    assert (answer.json["code"], answer.json["first_bad_seq"]) == ("tail_truncated", 4)
    nonsense = await ask("auditor", "POST", "/admin/v1/audit/verify", {"checkpoints": [{"seq": 1}]})
    assert nonsense.code == "invalid_request"


async def test_the_export_is_json_lines(chain, ask):
    await chain.append(4)
    await chain.checkpointer.checkpoint(chain.scope.organization_id)
    answer = await ask("auditor", "GET", "/admin/v1/audit/export")
    lines = [json.loads(line) for line in answer.content.splitlines()]
    assert [line["event"]["seq"] for line in lines[:-1]] == [1, 2, 3, 4]
    assert lines[-1]["checkpoint"]["seq"] == 4
    assert answer.headers["content-type"].startswith("application/x-ndjson")


async def test_a_walk_in_pages_of_three_misses_nothing(chain):
    await chain.append(7)
    seqs = [event.seq async for event in chain.reader.chain(chain.scope.organization_id, 7)]
    assert seqs == [1, 2, 3, 4, 5, 6, 7]
