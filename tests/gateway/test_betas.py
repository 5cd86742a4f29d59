"""Betas and versions of the API: unknown, not open, over, switched off, and what an upstream hears of them."""

import json

import pytest

from interlock.foundation.audit import AuditLog
from interlock.foundation.flags import FlagSpec, KillService, bump
from interlock.foundation.flags.domain.flags import BETA, Flag
from interlock.foundation.flags.domain.kills import Kill
from interlock.foundation.flags.store import put_flag
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, format_id
from interlock.foundation.redaction import Redactor
from interlock.gateway.domain.directory import ProviderKind
from interlock.gateway.domain.usage import GroupBy
from tests.gateway.test_usage import usage_of
from tests.gateway.vendors import lead, vendor
from tests.gateway.worlds import CLOCK, IDS, MESSAGES, SYSTEM, world

DAY_US = 86_400_000_000


@pytest.fixture
async def upstream():
    async with vendor() as each:
        yield each


@pytest.fixture
async def edge(store, scope, upstream):
    async with world(store, scope, with_engine=False) as each:
        await lead(each, "claude", ProviderKind.ANTHROPIC, f"{upstream.url}/v1")
        yield each


async def beta(edge, name, value, *, kind="header", allow=(), within=SYSTEM, **window):
    """Set a beta of the platform, or of the tenant, and wait until the edge knows it."""
    spec = FlagSpec(salt=name, targets=list(allow), match_kind=kind, match_value=value, from_us=window.get("from_us"))
    flag = Flag(
        organization_id=within.organization_id, id=IDS.new(), name=name, kind=BETA, spec=spec, owner="usr_x", reason="",
        until_us=window.get("until_us"),
    )  # fmt: skip
    async with edge.store.transaction(within) as tx:
        made = await put_flag(tx, flag)
        await bump(tx, "flags")
    book = lambda: edge.process.memory.directory.betas  # noqa: E731
    await edge.until(lambda: book().find(edge.scope.organization_id, kind, value if kind != "header" else asked(made)))
    return made


def asked(flag):
    return flag.name if flag.spec.match_value in ("anthropic-beta", "openai-beta") else flag.spec.match_value


def ours(edge):
    return [format_id("org", edge.scope.organization_id)]


async def ask(edge, *, names="", header="anthropic_beta", **fields):
    body = {"model": "claude", "max_tokens": 9, "messages": MESSAGES, **fields}
    return await edge.call("POST", "/v1/messages", json.dumps(body).encode(), **({header: names} if names else {}))


async def test_a_beta_is_unknown_not_open_early_over_or_open(edge, upstream):
    unknown = await ask(edge, names="nobody-knows-it")
    assert (unknown.status, unknown.body["interlock"]["code"]) == (400, "beta_unknown")
    story = await edge.story(unknown.request_id)
    assert (story.outcome, story.rule) == ("beta_refused", "beta.unknown")
    mark = IDS.new().hex
    now_us = CLOCK.now_us()
    await beta(edge, f"closed-{mark}", f"closed-{mark}")
    await beta(edge, f"early-{mark}", f"early-{mark}", allow=ours(edge), from_us=now_us + DAY_US)
    await beta(edge, f"over-{mark}", f"over-{mark}", allow=ours(edge), until_us=now_us - 1)
    await beta(edge, f"open-{mark}", "anthropic-beta", allow=ours(edge), from_us=now_us - 1)
    for name, code in (("closed", "beta_not_enabled"), ("early", "beta_not_enabled"), ("over", "beta_expired")):
        reply = await ask(edge, names=f"{name}-{mark}")
        assert (reply.status, reply.body["interlock"]["code"]) == (403, code)
    reply = await ask(edge, names=f" open-{mark} ")
    assert reply.status == 200
    assert upstream.last[2]["anthropic-beta"] == f"open-{mark}"
    assert f"beta.open-{mark}" in {each.rule for each in (await edge.story(reply.request_id)).decisions}
    assert (await ask(edge, names=f"open-{mark},nobody-knows-it")).status == 400
    assert (await ask(edge, names=f"open-{mark}", header="x_interlock_beta")).status == 200


async def test_a_parameter_and_an_endpoint_may_be_betas(edge):
    assert (await ask(edge, container="c")).status == 200
    mark = IDS.new().hex
    await beta(edge, f"box-{mark}", f"box-{mark}", kind="parameter")
    refused = await ask(edge, **{f"box-{mark}": 1})
    assert (refused.status, refused.body["interlock"]["code"]) == (403, "beta_not_enabled")
    assert (await ask(edge, **{f"box-{mark}": None})).status == 200
    await beta(edge, f"counting-{mark}", "/v1/messages/count_tokens", kind="endpoint", within=edge.scope)
    closed = await edge.call("POST", "/v1/messages/count_tokens", json.dumps({"model": "claude"}).encode())
    assert (closed.status, closed.body["interlock"]["beta"]) == (403, f"counting-{mark}")


async def test_a_tenant_cannot_open_what_the_platform_keeps_closed(edge):
    mark = IDS.new().hex
    await beta(edge, f"mine-{mark}", f"mine-{mark}", allow=ours(edge), within=edge.scope)
    assert (await ask(edge, names=f"mine-{mark}")).status == 200
    made = await beta(edge, f"theirs-{mark}", f"mine-{mark}")
    await edge.until(lambda: _governs(edge, made))
    assert (await ask(edge, names=f"mine-{mark}")).status == 403


def _governs(edge, flag):
    found = edge.process.memory.directory.betas.find(edge.scope.organization_id, "header", flag.spec.match_value)
    return found is not None and found.organization_id == SYSTEM_ORGANIZATION_ID


async def test_a_switch_on_a_beta_closes_it_and_nothing_else(edge):
    mark = IDS.new().hex
    await beta(edge, f"live-{mark}", f"live-{mark}", allow=ours(edge))
    assert (await ask(edge, names=f"live-{mark}")).status == 200
    kills = KillService(edge.store, AuditLog(CLOCK, Redactor()), CLOCK, IDS)
    wanted = Kill(
        id="", organization_id=edge.scope.organization_id, scope="beta", target=f"live-{mark}", mode="reject",
        reason="it misbehaves", actor="", created_us=0,
    )  # fmt: skip
    await kills.turn_on(edge.scope, wanted)
    await edge.until(lambda: any(each.target == wanted.target for each in edge.switches.kills))
    reply = await ask(edge, names=f"live-{mark}")
    assert (reply.status, reply.body["interlock"]["code"]) == (403, "beta_disabled")
    assert (await ask(edge)).status == 200


async def test_a_version_is_a_day_that_was_and_is_served(edge):
    for given in ("2019-01-01", "2999-01-01", "yesterday"):
        refused = await edge.call("POST", "/v1/messages", b"{}", interlock_version=given)
        assert (refused.status, refused.body["interlock"]["code"]) == (400, "version_unknown")
        assert refused.body["interlock"]["versions"] == ["2026-01-01"]
    body = json.dumps({"model": "claude", "messages": MESSAGES}).encode()
    assert (await edge.call("POST", "/v1/messages", body, interlock_version="2026-02-03")).status == 200


async def test_each_beta_of_a_long_list_is_looked_at(edge):
    mark = IDS.new().hex
    await beta(edge, f"one-{mark}", f"one-{mark}", allow=ours(edge))
    repeated = ",".join([f"one-{mark}"] * 40)
    assert (await ask(edge, names=repeated)).status == 200
    refused = await ask(edge, names=f"{repeated},nobody-knows-it")
    assert (refused.status, refused.body["interlock"]["code"]) == (400, "beta_unknown")


async def test_how_much_a_beta_is_used_stands_in_usage(edge):
    mark = IDS.new().hex
    await beta(edge, f"counted-{mark}", f"counted-{mark}", allow=ours(edge))
    for names in (f"counted-{mark}", f"counted-{mark},counted-{mark}", ""):
        reply = await ask(edge, names=names)
        assert reply.status == 200
        await edge.story(reply.request_id)
    found = {row["tag"]: row["requests"] for row in await usage_of(edge, GroupBy.TAG)}
    assert found == {f"beta=counted-{mark}": 2, "": 1}
    (whole,) = await usage_of(edge, GroupBy.MODEL)
    assert whole["requests"] == 3, "a tag doubles nothing"
