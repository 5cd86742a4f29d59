"""How agents and evals call models: a lent key, the public port, a story that names the work."""

import asyncio
import dataclasses

import pytest

from interlock.contracts.inference import ChatAnswer, ChatBegun, ChatCall, Credential, ModelClient, ModelRefused
from interlock.foundation.audit import AuditLog
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity import KeyBounds, LentKeys
from interlock.foundation.ids import format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Scope
from interlock.gateway import GatewayModelClient, InferenceConfig, register_offline
from interlock.gateway.adapters.public_addresses import PublicAddresses
from interlock.scheduler import FakeEngine, Fault, Script
from interlock.wiring.task_vault import KnownModels
from tests.gateway.worlds import CLOCK, DICE, IDS, MESSAGES, PEPPER, SYSTEM, TOKEN, patient, world
from tests.support.clocks import HandClock

CALL = ChatCall("default", MESSAGES, max_tokens=16)
TASK = format_id("task", IDS.new())


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope, config=patient(keep_alive_s=0.1), clock=HandClock()) as each:
        yield each


@pytest.fixture
async def asker(store, scope):
    """The scope of a developer of the workspace."""
    principal = Principal(IDS.new(), PrincipalKind.USER, scope.organization_id)
    async with store.transaction(scope) as tx:
        await tx._connection.execute(
            "INSERT INTO identity_memberships (organization_id, id, workspace_id, principal_id, principal_kind, role)"
            " VALUES ($1, $2, $3, $4, 'user', 'developer')",
            *(scope.organization_id, IDS.new(), scope.workspace_id, principal.id),
        )
    return Scope(scope.organization_id, scope.workspace_id, principal, IDS.new())


@pytest.fixture
def door(edge):
    return door_of(edge, CLOCK)


def door_of(edge, clock):
    keys = LentKeys(edge.store, AuditLog(CLOCK, Redactor([])), clock, DICE, IDS, PEPPER)
    made: ModelClient = GatewayModelClient(keys, edge.client, lambda: edge.url, CLOCK, InferenceConfig(connect_s=60.0))
    return made


class AheadClock:
    """The time as it will be."""

    def __init__(self, seconds):
        self.seconds = seconds

    def now_us(self):
        return CLOCK.now_us() + round(self.seconds * 1e6)


async def audited(edge):
    async with edge.store.ops("audit of a test") as tx:
        rows = await tx._connection.fetch(
            "SELECT action, target_id FROM audit_events WHERE organization_id = $1 ORDER BY seq",
            edge.scope.organization_id,
        )
    return [(row["action"], row["target_id"]) for row in rows]


async def test_a_lent_key_is_known_at_once_and_the_story_names_the_work_and_who_pays(edge, door, asker):
    credential = await door.lend(asker, link=TASK, ttl_s=3_000)
    assert credential.key.startswith("il_task_")
    assert len(credential.key) == 54
    assert credential.key not in repr(credential)
    answer = await door.chat(credential, CALL)
    assert isinstance(answer, ChatAnswer)
    assert (answer.finish_reason, answer.output_tokens) == ("stop", 5)
    story = await edge.story(answer.request_id)
    assert (story.outcome, story.organization_id, story.workspace_id) == (
        "ok",
        asker.organization_id,
        asker.workspace_id,
    )
    assert story.key_id == credential.key_id
    assert [(each.kind, each.id) for each in story.links] == [("task", TASK)]
    assert ("key.lend", format_id("key", credential.key_id)) in await audited(edge)


async def test_a_revoked_key_is_refused_at_once_and_ending_it_again_changes_nothing(edge, door, asker):
    credential = await door.lend(asker, link=TASK, ttl_s=3_000)
    assert isinstance(await door.chat(credential, CALL), ChatAnswer)
    await door.revoke(asker, credential)
    await edge.until(lambda: edge.process._parts.keys.find(credential.key[8:16]).record.revoked_us is not None)
    refused = await door.chat(credential, CALL)
    assert isinstance(refused, ModelRefused)
    assert (refused.code, refused.http_status, refused.retry_after_s) == ("key_revoked", 401, None)
    await door.revoke(asker, credential)
    assert [action for action, _ in await audited(edge)].count("key.revoke") == 1
    with pytest.raises(InterlockError, match="ended"):
        await door.extend(asker, credential, 60)


async def test_a_key_ends_with_its_time_and_one_that_was_extended_goes_on(edge, asker):
    door = door_of(edge, CLOCK)
    short = await door.lend(asker, link=TASK, ttl_s=300)
    longer = await door.lend(asker, link=TASK, ttl_s=300)
    assert isinstance(await door.chat(short, CALL), ChatAnswer)
    assert isinstance(await door.chat(longer, CALL), ChatAnswer)
    longer = await door.extend(asker, longer, 3_600)
    edge.clock.forward += 301
    refused = await door.chat(short, CALL)
    assert (refused.code, refused.http_status) == ("key_expired", 401)
    assert isinstance(await door.chat(longer, CALL), ChatAnswer)


async def test_a_key_has_the_scopes_that_its_principal_holds_and_no_other(edge, door, asker):
    credential = await door.lend(asker, link=TASK, ttl_s=3_000, scopes=("inference", "retrieval:read", "admin:write"))
    known = await edge.process._parts.keys.look_up(credential.key[8:16])
    assert known.record.scopes == ["inference", "retrieval:read"]
    with pytest.raises(InterlockError) as refused:
        await door.lend(asker, link=TASK, ttl_s=3_000, scopes=("admin:write",))
    assert refused.value.code == "role_denied"
    stranger = Scope(
        asker.organization_id, asker.workspace_id, Principal(IDS.new(), PrincipalKind.USER, asker.organization_id)
    )
    with pytest.raises(InterlockError):
        await door.lend(stranger, link=TASK, ttl_s=3_000)


async def test_a_key_is_lent_within_what_the_work_names_and_within_the_key_of_whoever_asks(edge, door, asker):
    opener = await door.lend(asker, link=TASK, ttl_s=3_000, bounds=KeyBounds(("default", "fake"), "standard"))
    holder = dataclasses.replace(
        asker.principal, key_id=opener.key_id, workspace_id=asker.workspace_id, scopes=frozenset({"inference"})
    )
    bound = dataclasses.replace(asker, principal=holder)

    async def lent(link=TASK, **bounds):
        credential = await door.lend(bound, link=link, ttl_s=3_000, bounds=KeyBounds(**bounds))
        record = (await edge.process._parts.keys.look_up(credential.key[8:16])).record
        return credential, (record.models, record.class_max)

    assert (await lent())[1] == (["default", "fake"], "standard")
    assert (await lent(class_max="interactive"))[1] == (["default", "fake"], "standard"), "a better class than its own"
    assert (await lent(class_max="batch"))[1] == (["default", "fake"], "batch")
    assert (await lent(format_id("run", IDS.new()), class_max="interactive"))[1] == (["default", "fake"], "batch")
    narrow, told = await lent(models=("default", "dear"))
    assert told == (["default"], "standard"), "a model that the key of the asker may not ask for"
    assert isinstance(await door.chat(narrow, CALL), ChatAnswer)
    refused = await door.chat(narrow, dataclasses.replace(CALL, model="fake"))
    assert (refused.code, refused.http_status) == ("model_not_allowed", 403)
    nothing, told = await lent(models=("dear",))
    assert told == ([], "standard")
    assert (await door.chat(nothing, CALL)).code == "model_not_allowed"


async def test_a_task_names_no_model_that_its_openers_key_may_not_ask_for_and_keeps_its_bounds(edge, door, asker):
    keys = LentKeys(edge.store, AuditLog(CLOCK, Redactor([])), CLOCK, DICE, IDS, PEPPER)
    known = KnownModels(edge.store, keys)
    assert await known.bounds_for(asker, "default") == KeyBounds()
    assert await known.bounds_for(asker, "no-such-model") is None
    opener = await door.lend(asker, link=TASK, ttl_s=3_000, bounds=KeyBounds(("def*", "fake"), "batch"))
    bound = dataclasses.replace(asker, principal=dataclasses.replace(asker.principal, key_id=opener.key_id))
    assert await known.bounds_for(bound, "fake") == KeyBounds(("def*", "fake"), "batch")
    assert await known.bounds_for(bound, "default") is None, "the edge knows names, and no patterns"


async def test_neither_the_platform_itself_nor_a_whole_organization_is_lent_a_key(door, asker):
    system = Principal(IDS.new(), PrincipalKind.SYSTEM, asker.organization_id)
    for scope in (
        Scope(asker.organization_id, asker.workspace_id, system),
        Scope(asker.organization_id, ALL_WORKSPACES, asker.principal),
    ):
        with pytest.raises(ValueError, match="lent"):
            await door.lend(scope, link=TASK, ttl_s=3_000)


async def test_only_the_key_of_the_work_may_name_it(edge, door, asker):
    reply = await edge.chat(headers={"x_interlock_task": TASK})
    assert (reply.status, reply.body["error"]["param"]) == (400, "x-interlock-task")
    credential = await door.lend(asker, link=TASK, ttl_s=3_000)
    other = Credential(credential.key_id, credential.key, credential.expires_at_us, format_id("task", IDS.new()))
    refused = await door.chat(other, CALL)
    assert (refused.code, refused.http_status) == ("invalid_request", 400)


async def test_a_call_that_is_given_up_stops_the_upstream(edge, door, asker):
    edge.engine.script = Script(tokens=16, first_token_s=30)
    credential = await door.lend(asker, link=TASK, ttl_s=3_000)
    asking = asyncio.create_task(door.chat(credential, CALL))
    await edge.until(lambda: edge.engine.statistics().running > 0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await edge.until(lambda: edge.engine.statistics().running == 0)
    await edge.until(lambda: not edge.process.edge._passages)
    assert (await edge.latest()).outcome == "client_gone"


async def test_an_answer_may_come_in_pieces_and_whoever_leaves_stops_it(edge, door, asker):
    credential = await door.lend(asker, link=TASK, ttl_s=3_000)
    pieces = [each async for each in door.stream(credential, CALL)]
    begun, *texts, answer = pieces
    assert isinstance(begun, ChatBegun)
    assert isinstance(answer, ChatAnswer)
    assert "".join(each.text for each in texts) == answer.text
    assert (answer.request_id, answer.finish_reason, answer.output_tokens) == (begun.request_id, "stop", 5)
    assert (await edge.story(begun.request_id)).outcome == "ok_stream"
    edge.engine.script = Script(tokens=16, token_s=30)
    leaving = door.stream(credential, CALL)
    assert isinstance(await anext(leaving), ChatBegun)
    await leaving.aclose()
    await edge.until(lambda: edge.engine.statistics().running == 0)
    await edge.until(lambda: not edge.process.edge._passages)
    assert (await edge.latest()).outcome == "client_gone"


async def test_a_stream_that_is_refused_or_cut_ends_with_why(edge, door, asker):
    credential = await door.lend(asker, link=TASK, ttl_s=3_000)
    (refused,) = [each async for each in door.stream(credential, ChatCall("no-such-model", MESSAGES))]
    assert (refused.code, refused.http_status) == ("model_not_found", 404)
    edge.engine.script = Script(tokens=8, fault=Fault.CUT, fault_after_events=4)
    pieces = [each async for each in door.stream(credential, CALL)]
    assert isinstance(pieces[0], ChatBegun)
    assert isinstance(pieces[-1], ModelRefused)
    assert (pieces[-1].code, pieces[-1].request_id) == ("upstream_stream_cut", pieces[0].request_id)
    await edge.limit(1)
    limited = [await door.chat(credential, CALL) for _ in range(2)][1]
    assert limited.code == "requests_limit"
    assert 0 < limited.opens_after_s <= 60


async def test_refusals_are_values_with_the_words_of_the_front_door(edge, door, asker):
    credential = await door.lend(asker, link=TASK, ttl_s=3_000)
    refused = await door.chat(credential, ChatCall("no-such-model", MESSAGES))
    assert (refused.code, refused.http_status, refused.retry_after_s) == ("model_not_found", 404, None)
    assert refused.request_id.startswith("req_")
    keys = LentKeys(edge.store, AuditLog(CLOCK, Redactor([])), CLOCK, DICE, IDS, PEPPER)
    nowhere = GatewayModelClient(
        keys, edge.client, lambda: "http://127.0.0.1:9", CLOCK, InferenceConfig(connect_s=60.0)
    )
    refused = await nowhere.chat(credential, CALL)
    assert (refused.code, refused.http_status, refused.retry_after_s) == ("control_unavailable", 0, 1.0)


async def test_keys_that_ended_long_ago_are_forgotten_and_live_ones_stay(edge, asker):
    long_ago = door_of(edge, AheadClock(-200_000))
    gone = await long_ago.lend(asker, link=TASK, ttl_s=10)
    kept = await door_of(edge, CLOCK).lend(asker, link=TASK, ttl_s=3_000)
    await LentKeys(edge.store, AuditLog(CLOCK, Redactor([])), CLOCK, DICE, IDS, PEPPER).forget()
    assert await edge.process._parts.keys.look_up(gone.key[8:16]) is None
    assert await edge.process._parts.keys.look_up(kept.key[8:16]) is not None


async def test_one_version_may_be_asked_for_by_number_and_is_no_arm(edge, door, asker):
    credential = await door.lend(asker, link=TASK, ttl_s=3_000)
    answer = await door.chat(credential, dataclasses.replace(CALL, route_version=1))
    story = await edge.story(answer.request_id)
    assert (story.route_version, story.arm) == (1, "pinned")
    refused = await door.chat(credential, dataclasses.replace(CALL, route_version=7))
    assert (refused.code, refused.http_status) == ("model_not_found", 404)
    reply = await edge.chat(headers={"x_interlock_route_version": "1"})
    assert (reply.status, reply.body["error"]["param"]) == (400, "x-interlock-route-version")


async def test_a_deployment_with_a_price_makes_a_cost_in_the_answer_and_the_story(edge, door, asker):
    credential = await door.lend(asker, link=TASK, ttl_s=3_000)
    assert (await door.chat(credential, CALL)).cost_usd_micros is None
    async with edge.store.transaction(edge.scope) as tx:
        await tx._connection.execute(
            "UPDATE gateway_deployments SET input_price_micro = 1000000, output_price_micro = 2000000"
            " WHERE organization_id = $1",
            edge.scope.organization_id,
        )
    await edge.process.memory.reload()
    answer = await door.chat(credential, CALL)
    micros = answer.input_tokens + 2 * answer.output_tokens
    assert answer.cost_usd_micros == micros
    story = await edge.story(answer.request_id)
    assert (story.cost.usd, story.cost.price_version) == (f"0.{micros:06d}", "default@1")
    async with edge.store.transaction(edge.scope) as tx:
        await tx._connection.execute(
            "UPDATE gateway_deployments SET price_version = 'list-7' WHERE organization_id = $1",
            edge.scope.organization_id,
        )
    await edge.process.memory.reload()
    story = await edge.story((await door.chat(credential, CALL)).request_id)
    assert story.cost.price_version == "list-7", "the list that the price was taken from"


async def test_models_of_the_platforms_own_behind_a_socket_serve_every_organization(edge, door, asker, tmp_path):
    engine = FakeEngine(Script(tokens=2), clock=CLOCK, ids=IDS, token=TOKEN)
    names = [f"own-{IDS.new().hex[-12:]}", f"own-{IDS.new().hex[-12:]}"]
    path = tmp_path / "models.sock"
    await engine.listen_unix(path)
    try:
        made = await register_offline(edge.store, SYSTEM, str(path), names, clock=CLOCK, ids=IDS)
        assert list(made) == names
        await edge.process.memory.reload()
        credential = await door.lend(asker, link=TASK, ttl_s=3_000)
        for name in names:
            answer = await door.chat(credential, ChatCall(name, MESSAGES))
            assert answer.output_tokens == 2
        assert (await edge.story(answer.request_id)).deployment == names[1]
        await register_offline(edge.store, SYSTEM, str(path), names[:1], clock=CLOCK, ids=IDS)
        await edge.process.memory.reload()
        assert isinstance(await door.chat(credential, ChatCall(names[0], MESSAGES)), ChatAnswer)
        assert (await door.chat(credential, ChatCall(names[1], MESSAGES))).code == "model_not_found"
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("::1", False),
        ("::ffff:10.0.0.1", False),
        ("::10.0.0.1", False),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::8.8.8.8", True),
        ("2002:0a00:0001::1", False),
        ("fe80::1%eth0", False),
        ("unix:/run/x.sock", False),
        ("224.0.0.1", False),
    ],
)
def test_an_organizations_own_provider_lives_at_a_public_address(address, is_public):
    assert PublicAddresses().permits("host", address, 443) is is_public
