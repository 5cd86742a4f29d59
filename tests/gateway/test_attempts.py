"""Several targets, retries, fallbacks and a lesser alias, over a real edge with scripted upstreams."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from interlock.foundation.flags import bump
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.gateway.domain.directory import (
    Capabilities,
    Deployment,
    Fallback,
    ProviderKind,
    RouteSpec,
    Strategy,
    Target,
    Timeouts,
    Trouble,
    Weight,
)
from interlock.gateway.domain.versions import canonical_spec, digest_of
from interlock.gateway.service.register import SQL
from interlock.gateway.store import routes as rows
from interlock.scheduler import Script
from tests.gateway.vendors import vendor
from tests.gateway.worlds import CLOCK, IDS, patient, world
from tests.support.clocks import HandClock


@asynccontextmanager
async def routed(store, scope, count=2, **options):
    """Yield an edge and `count` upstreams `u0`..; each is a deployment of its own.

    Its monotonic clock stands still: a breaker judges ten seconds, which a slow machine may need for one call.
    """
    clock = HandClock()
    clock.stop()
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(world(store, scope, clock=clock, **options))
        vendors = [await stack.enter_async_context(vendor()) for _ in range(count)]
        for at, each in enumerate(vendors):
            await add_upstream(edge, f"u{at}", each.url + "/v1")
        yield edge, vendors


async def add_upstream(edge, name, base_url, **bounds):
    owner = edge.scope.organization_id
    async with edge.store.transaction(edge.scope) as tx:
        address = (ProviderKind.OPENAI, base_url, None, None)
        await tx.execute(SQL.put_provider, owner, name, IDS.new(), *address)
        await tx.execute(
            SQL.add_deployment, owner, name, IDS.new(), name, "m", *bounds.get("prices", (None,) * 4),
            bounds.get("most"), bounds.get("can", "{}"), CLOCK.now_us(),
        )  # fmt: skip


async def lead(edge, alias="shop", *, targets=("u0", "u1"), **fields):
    """Put a first version of an alias in place and wait until the edge knows it."""
    owner = edge.scope.organization_id
    spec = RouteSpec(
        targets=tuple(Target(*each) if isinstance(each, tuple) else Target(each) for each in targets), **fields
    )
    named = [Deployment(owner, name, name, "m") for name in spec.deployments]
    async with edge.store.transaction(edge.scope) as tx:
        content = (canonical_spec(spec), digest_of(spec, named))
        await rows.add_version(tx, (owner, alias), IDS.new(), content, CLOCK.now_us())
        await rows.put_weight(tx, Weight(owner, alias, 1))
        await bump(tx, "routes")
    await edge.until(lambda: edge.process.memory.directory.find(owner, alias) is not None)


def fail(vendor, status=500, body=b'{"error":{"message":"no"}}'):
    vendor.status, vendor.script = status, [body]


async def test_weights_are_kept_smoothly_and_the_story_says_why(store, scope):
    async with routed(store, scope) as (edge, (first, second)):
        await lead(edge, targets=(("u0", 3.0), ("u1", 1.0)))
        replies = [await edge.chat(model="shop") for _ in range(8)]
        assert (len(first.seen), len(second.seen)) == (6, 2)
        served = [each.headers["x-interlock-route"].rpartition("/")[2] for each in replies]
        assert served[:4].count("u1") == 1
        story = await edge.story(replies[0].request_id)
        route = next(each for each in story.decisions if each.step == "route")
        assert route.rule == "route.shop.weighted"
        assert "u0 weight 3" in route.detail


async def test_a_server_error_is_asked_again_elsewhere_and_the_caller_sees_one_answer(store, scope):
    async with routed(store, scope) as (edge, (first, second)):
        await lead(edge, strategy=Strategy.PRIORITY)
        fail(first)
        reply = await edge.chat(model="shop")
        assert (reply.status, reply.headers["x-interlock-attempts"]) == (200, "2")
        assert reply.headers["x-interlock-route"] == "shop@1/u1"
        assert (len(first.seen), len(second.seen)) == (1, 1)
        story = await edge.story(reply.request_id)
        assert [(each.deployment, each.status) for each in story.attempts] == [("u0", 500), ("u1", 200)]
        assert (story.outcome, story.deployment) == ("ok", "u1")
        assert [each.rule for each in story.decisions if each.step == "retry"] == ["upstream.status_500"]


@asynccontextmanager
async def mute():
    """A server that hears a request and says nothing."""

    async def listen(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def test_whose_time_was_over_is_told_the_routes_or_the_callers(store, scope):
    async with world(store, scope, with_engine=False) as edge, mute() as url:
        await add_upstream(edge, "mute", url)
        await lead(edge, targets=("mute",), timeouts_ms=Timeouts(total=300))
        told = {"route.timeout_total": {}, "deadline.caller": {"x_interlock_deadline_ms": "200"}}
        for rule, headers in told.items():
            reply = await edge.chat(model="shop", headers=headers)
            assert (reply.status, reply.body["error"]["code"]) == (504, "deadline_exceeded")
            assert (reply.body["interlock"]["rule"], (await edge.story(reply.request_id)).rule) == (rule, rule)


async def test_what_the_caller_did_wrong_is_not_asked_again(store, scope):
    async with routed(store, scope) as (edge, (first, second)):
        await lead(edge, strategy=Strategy.PRIORITY, fallbacks=(Fallback("u1", tuple(Trouble)),))
        fail(first, 400)
        reply = await edge.chat(model="shop")
        assert (reply.status, len(first.seen), len(second.seen)) == (400, 1, 0)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("status", "on", "is_asked"), [
    (500, Trouble.ERROR, True), (429, Trouble.LIMITED, True), (500, Trouble.LIMITED, False),
    (504, Trouble.TIMEOUT, True),
])  # fmt: skip
async def test_a_fallback_is_asked_for_its_troubles_only(store, scope, status, on, is_asked, stream):
    async with routed(store, scope) as (edge, (first, second)):
        await lead(edge, targets=("u0",), fallbacks=(Fallback("u1", (on,)),), attempts_max=1)
        fail(first, status)
        reply = await edge.chat(model="shop", stream=stream)
        story = await edge.story(reply.request_id)
        assert len(second.seen) == int(is_asked)
        assert (story.outcome == "ok_fallback") is is_asked
        if is_asked:
            assert (reply.status, story.rule) == (200, "route.shop.fallbacks")
            assert reply.headers["x-interlock-route"] == "shop@1/u1"


async def test_a_broken_target_leaves_the_rotation_and_comes_back_by_probes(store, scope):
    async with routed(store, scope) as (edge, (first, _second)):
        await lead(edge, strategy=Strategy.PRIORITY)
        fail(first)
        for _ in range(24):
            assert (await edge.chat(model="shop")).status == 200
        states = {each.deployment: each.breaker for each in edge.process.targets.statistics()}
        assert states["u0"] == "open"
        calls = len(first.seen)
        assert calls == 20
        reply = await edge.chat(model="shop")
        assert (len(first.seen), reply.headers["x-interlock-attempts"]) == (calls, "1")
        story = await edge.story(reply.request_id)
        told = {
            (family.name, *sample.labels.values()): sample.value
            for family in edge.process.edge._metrics.collect()
            for sample in family.samples
        }
        assert told["interlock_gateway_breaker_state", "u0"] == 2
        assert told["interlock_gateway_retries", "status_500"] == 20
        assert told["interlock_gateway_arm_requests", "stable"] == 25
        assert "u0 out: breaker open" in next(each.detail for each in story.decisions if each.step == "route")
        first.status, first.script = 200, []
        breaker = edge.process.targets.loads[scope.organization_id.int, "u0"].breaker
        edge.clock.forward += 6
        for _ in range(3):
            await edge.chat(model="shop")
        assert (breaker.state, len(first.seen)) == ("closed", calls + 3)


async def test_nobody_left_is_said_with_the_time_of_the_next_probe(store, scope):
    async with routed(store, scope, 1) as (edge, (only,)):
        await lead(edge, targets=("u0",), attempts_max=1)
        fail(only)
        for _ in range(20):
            assert (await edge.chat(model="shop")).status == 502
        reply = await edge.chat(model="shop")
        assert (reply.status, reply.body["error"]["code"]) == (503, "route_unavailable")
        assert 1 <= int(reply.headers["retry-after"]) <= 6
        assert reply.body["interlock"]["rule"] == "deployment.u0.breaker"
        assert (await edge.story(reply.request_id)).outcome == "overloaded"


async def test_a_lesser_alias_answers_where_there_is_no_room_and_says_so(store, scope):
    async with routed(store, scope) as (edge, (first, second)):
        await lead(edge, "small", targets=("u1",))
        await lead(edge, targets=("u0",), degrade_to="small", attempts_max=1)
        fail(first)
        for _ in range(20):
            await edge.chat(model="shop")
        reply = await edge.chat(model="shop")
        assert (reply.status, reply.headers["x-interlock-route"]) == (200, "small@1/u1")
        assert reply.headers["x-interlock-degraded"] == "model=small; reason=route_unavailable"
        story = await edge.story(reply.request_id)
        assert (story.outcome, story.alias, story.degraded) == (
            "ok_degraded", "shop", "model=small; reason=route_unavailable",
        )  # fmt: skip
        never = await edge.chat(model="shop", headers={"x_interlock_degrade": "never"})
        assert (never.status, len(second.seen)) == (503, 1)


async def test_a_full_deployment_is_waited_for_in_line_and_then_the_lesser_alias_answers(store, scope):
    async with routed(store, scope, 1, config=patient(queue_max=1, queue_s_max=60.0)) as (edge, (spare,)):
        await add_upstream(edge, "narrow", f"{edge.engine_url}/v1", most=1)
        await lead(edge, "small", targets=("u0",))
        await lead(edge, targets=("narrow",), degrade_to="small")
        edge.engine.script = Script(tokens=3, first_token_s=600)
        holder = asyncio.create_task(edge.chat(model="shop"))
        await edge.until(lambda: edge.engine.statistics().running == 1)
        waiting = asyncio.create_task(edge.chat(model="shop"))
        await edge.until(lambda: len(edge.process.targets._waiting) == 1)
        third = await edge.chat(model="shop")
        assert (third.status, len(spare.seen)) == (200, 1), "the line is full"
        assert third.headers["x-interlock-degraded"] == "model=small; reason=overloaded"
        edge.engine.script = Script(tokens=3)
        holder.cancel()
        reply = await waiting
        assert (reply.status, reply.headers["x-interlock-route"]) == (200, "shop@1/narrow")
        assert not edge.process.targets._waiting


async def test_what_a_model_cannot_do_excludes_it(store, scope):
    async with routed(store, scope, 0) as (edge, _):
        async with vendor() as plain, vendor() as skilled:
            await add_upstream(edge, "plain", plain.url + "/v1", can='{"tools": false, "context_tokens": 40}')
            await add_upstream(edge, "skilled", skilled.url + "/v1")
            await lead(edge, targets=("plain", "skilled"), strategy=Strategy.PRIORITY)
            tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
            assert (await edge.chat(model="shop")).headers["x-interlock-route"] == "shop@1/plain"
            assert (await edge.chat(model="shop", tools=[tool])).headers["x-interlock-route"] == "shop@1/skilled"
            long = [{"role": "user", "content": "word " * 500}]
            reply = await edge.chat(model="shop", messages=long)
            assert reply.headers["x-interlock-route"] == "shop@1/skilled"
            assert Capabilities() == edge.process.memory.directory.rows.deployments[-1].capabilities


def test_a_version_that_says_nothing_new_is_the_artifact_it_was():
    """Verdicts are about digests; one that was given before there were strategies must still hold."""
    spec = RouteSpec(targets=(Target("a"),))
    assert canonical_spec(spec) == (
        '{"gate":"required","objective_ttft_ms":null,"targets":[{"deployment":"a","weight":1.0}],'
        '"timeouts_ms":{"connect":null,"idle":null,"total":null,"ttft":null}}'
    )
    named = [Deployment(SYSTEM_ORGANIZATION_ID, "a", "p", "m")]
    digests = {
        digest_of(each, named)
        for each in (
            spec,
            RouteSpec(targets=(Target("a"),), strategy=Strategy.COST),
            RouteSpec(targets=(Target("a"),), fallbacks=(Fallback("a", (Trouble.ERROR,)),)),
            RouteSpec(targets=(Target("a"),), degrade_to="b"),
            RouteSpec(targets=(Target("a"),), attempts_max=3),
        )
    }
    assert len(digests) == 5
