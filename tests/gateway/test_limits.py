"""Limits at the door: a refusal names rule, numbers and time, consumes nothing, and no process admits too much."""

import asyncio

import pytest

from interlock.gateway.domain.directory import Dimension, LimitMode, LimitScope
from interlock.scheduler import Fault, Script
from tests.gateway.worlds import CLOCK, IDS, take_away, world
from tests.support.store import opened

SLOW = 1


@pytest.fixture
async def edge(store, scope, still):
    async with world(store, scope, clock=still) as each:
        yield each


async def test_a_refusal_names_the_rule_the_numbers_and_the_time(edge):
    limit = await edge.limit(SLOW, burst=2)
    first = await edge.chat()
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert first.headers["x-interlock-limit-scope"] == "workspace"
    assert (await edge.chat()).status == 200
    refused = await edge.chat()
    assert refused.status == 429
    assert refused.body["error"]["type"] == "rate_limit_error"
    told = refused.body["interlock"]
    assert (told["code"], told["scope"], told["dimension"], told["model"]) == (
        "requests_limit", "workspace", "requests_per_minute", "*",
    )  # fmt: skip
    assert (told["limit"], told["used"], told["requested"]) == (1, 2, 1)
    assert told["rule"].startswith("limit_")
    assert 0 < told["retry_after_s"] <= 60
    assert told["retry_at"].endswith("Z")
    assert int(refused.headers["retry-after"]) == -(-int(refused.headers["retry-after-ms"]) // 1_000) <= 60
    assert refused.headers["x-should-retry"] == "true"
    story = await edge.story(refused.request_id)
    assert (story.outcome, story.rule) == ("limited_requests", told["rule"])
    assert "workspace/requests_per_minute/*" in str(story.decisions)
    assert edge.engine.statistics().requests == 2
    assert await edge.level(limit) < 1


async def test_a_wait_that_is_too_long_is_not_worth_a_retry(edge):
    await edge.limit(SLOW, Dimension.TOKENS, burst=3_000)
    assert (await edge.chat(max_tokens=2_000)).status == 200
    await edge.settled()
    await edge.chat(max_tokens=2_900)
    refused = await edge.chat(max_tokens=2_990 - 30)
    assert refused.status == 429
    assert refused.body["interlock"]["code"] == "tokens_limit"
    assert refused.headers["x-should-retry"] == "false"


async def test_a_refusal_consumes_nothing(edge):
    plenty = await edge.limit(SLOW, burst=50)
    tokens = await edge.limit(SLOW, Dimension.TOKENS, burst=5_000, scope=LimitScope.KEY)
    scarce = await edge.limit(SLOW, burst=1, scope=LimitScope.ORGANIZATION)
    assert (await edge.chat()).status == 200
    await edge.settled()
    before = [await edge.level(each) for each in (plenty, tokens, scarce)]
    for _ in range(5):
        assert (await edge.chat()).status == 429
    after = [await edge.level(each) for each in (plenty, tokens, scarce)]
    assert all(0 <= then - now < 0.5 for now, then in zip(before, after, strict=True))


async def test_the_refusal_that_is_named_is_the_one_that_lasts_longest(edge):
    await edge.limit(600, burst=1)
    slow = await edge.limit(SLOW, burst=1, scope=LimitScope.ORGANIZATION)
    assert (await edge.chat()).status == 200
    refused = await edge.chat()
    assert refused.body["interlock"]["scope"] == "organization"
    assert refused.body["interlock"]["rule"] == (await edge.story(refused.request_id)).rule
    assert slow.burst == 1


async def test_tokens_are_reserved_by_estimate_and_settled_by_count(edge):
    limit = await edge.limit(SLOW, Dimension.TOKENS, burst=1_000)
    reply = await edge.chat(max_tokens=800)
    assert reply.headers["x-ratelimit-limit-tokens"] == "1"
    assert int(reply.headers["x-ratelimit-remaining-tokens"]) < 200
    await edge.settled()
    used = reply.body["usage"]["total_tokens"]
    assert 1_000 - used <= await edge.level(limit) < 1_000 - used + 1
    story = await edge.story(reply.request_id)
    assert next(each for each in story.decisions if each.step == "settle").detail.endswith(f"used {used}")


async def test_an_answer_longer_than_its_reservation_makes_a_debt(edge):
    edge.engine.script = Script(tokens=700)
    limit = await edge.limit(SLOW, Dimension.TOKENS, burst=600)
    assert (await edge.chat()).status == 200
    await edge.settled()
    assert -150 < await edge.level(limit) < -80
    assert (await edge.chat(max_tokens=1)).status == 429


async def test_what_can_never_fit_is_refused_with_what_would(edge):
    await edge.limit(SLOW, Dimension.TOKENS, burst=500)
    refused = await edge.chat(max_tokens=5_000)
    assert (refused.status, refused.body["error"]["code"]) == (413, "request_exceeds_limit")
    fits = refused.body["interlock"]["fits_max_tokens"]
    assert 400 < fits < 500
    assert "retry-after" not in refused.headers
    assert (await edge.story(refused.request_id)).outcome == "too_large"
    assert (await edge.chat(max_tokens=fits)).status == 200


async def test_an_input_that_is_too_long_by_itself_fits_with_nothing(edge):
    await edge.limit(SLOW, Dimension.TOKENS, burst=100)
    refused = await edge.chat(messages=[{"role": "user", "content": "word " * 400}])
    assert refused.status == 413
    assert "fits_max_tokens" not in refused.body["interlock"]


async def test_observing_lets_pass_and_counts(edge):
    limit = await edge.limit(SLOW, burst=1, mode=LimitMode.OBSERVE)
    assert [(await edge.chat()).status for _ in range(4)] == [200] * 4
    async with edge.store.transaction(edge.scope) as tx:
        found = await tx._connection.fetchval(
            "SELECT observed_refusals[1] FROM gateway_limit_buckets WHERE bucket_id = $1", limit.id
        )
    assert found == 3


async def test_a_limit_of_another_model_does_not_apply(edge):
    await edge.limit(SLOW, burst=1, model="fake")
    assert [(await edge.chat()).status for _ in range(3)] == [200] * 3
    assert [(await edge.chat(model="fake")).status for _ in range(2)] == [200, 429]


async def test_a_key_without_limits_never_asks_the_store(edge, store):
    await edge.chat()
    await edge.until(lambda: not edge.process.limiter.statistics().settling)
    asked = []
    single = store.single

    async def counted(*args):
        asked.append(args)
        return await single(*args)

    store.single = counted
    assert (await edge.chat()).status == 200
    assert asked == []
    await edge.limit(1_000)
    assert (await edge.chat()).status == 200
    await edge.settled()
    assert {query.name for query, *_ in asked} == {"lease", "limit_heartbeat"}


async def test_a_request_that_called_no_model_server_gets_all_back(edge):
    limit = await edge.limit(SLOW, burst=10)
    tokens = await edge.limit(SLOW, Dimension.TOKENS, burst=5_000)
    await edge.engine.close()
    assert (await edge.chat()).status == 502
    await edge.settled()
    assert await edge.level(limit) >= 10
    assert await edge.level(tokens) >= 5_000


async def test_a_failed_call_keeps_its_request_but_not_its_tokens(edge):
    edge.engine.script = Script(fault=Fault.SERVER_ERROR)
    limit = await edge.limit(SLOW, burst=10)
    tokens = await edge.limit(SLOW, Dimension.TOKENS, burst=5_000)
    assert (await edge.chat()).status == 502
    await edge.settled()
    assert 9 <= await edge.level(limit) < 9.5
    assert await edge.level(tokens) >= 5_000


async def test_a_client_that_leaves_pays_for_what_was_streamed(edge):
    edge.engine.script = Script(tokens=500, token_s=1.0)
    tokens = await edge.limit(SLOW, Dimension.TOKENS, burst=5_000)
    async with edge.streaming(max_tokens=1_000) as answer:
        async for _ in answer.chunks():
            break
    await edge.until(lambda: edge.engine.statistics().running == 0)
    await CLOCK.sleep(0.05)
    await edge.settled()
    assert 4_900 < await edge.level(tokens) < 5_000


async def test_slots_of_a_machine_that_died_are_told_as_free_once_their_lease_has_ended(edge):
    limit = await edge.limit(3, Dimension.CONCURRENCY, scope=LimitScope.KEY)
    assert (await edge.chat()).status == 200
    await edge.settled()
    place = (edge.scope.organization_id, limit.id)
    async with edge.store.transaction(edge.scope) as tx:
        await tx._connection.execute(
            "INSERT INTO gateway_limit_leases VALUES ($1, $2, $3, 2000000, gateway_now_us() - 1, 1)",
            *place, IDS.new(),
        )  # fmt: skip
        await tx._connection.execute(
            "UPDATE gateway_limit_buckets SET leased_micro = leased_micro + 2000000"
            " WHERE organization_id = $1 AND bucket_id = $2",
            *place,
        )
    async with asyncio.timeout(240):
        while await edge.level(limit) < 2:
            await CLOCK.sleep(0.05)


async def test_forty_at_once_on_twenty_a_minute(edge):
    await edge.limit(20)
    began = CLOCK.monotonic()
    replies = await asyncio.gather(*(edge.chat() for _ in range(40)))
    statuses = [each.status for each in replies]
    refilled = (CLOCK.monotonic() - began) * 20 / 60
    assert 20 <= statuses.count(200) <= 20 + refilled
    assert statuses.count(200) + statuses.count(429) == 40


async def test_a_changed_limit_counts_on_at_the_level_it_had(edge):
    limit = await edge.limit(SLOW, burst=2)
    assert [(await edge.chat()).status for _ in range(3)] == [200, 200, 429]
    changed = await edge.limit(SLOW, burst=40)
    assert (changed.id, changed.version) == (limit.id, 2)
    assert (await edge.chat()).status == 429


async def test_a_store_that_is_away_leaves_one_machine_all_of_its_limit(store_urls, scope, still, monkeypatch):
    """The store is reached through a store object of its own, which is taken away under the edge."""
    async with opened(store_urls) as own, world(own, scope, clock=still) as edge:
        await edge.limit(SLOW, burst=3)
        assert (await edge.chat()).status == 200
        await edge.until(lambda: edge.process.limits.broker.statistics().machines == 1)
        with monkeypatch.context() as patch:
            take_away(patch, own)
            statuses = [(await edge.chat()).status for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        assert edge.process.limiter.statistics().share_total >= 2
        await edge.until(lambda: not edge.is_settling())
        assert (await edge.chat()).status == 429


async def test_slots_that_were_given_without_the_store_come_back_beside_another_limit(
    store_urls, scope, still, monkeypatch
):
    """The other limit asks the broker each time, so a slot that the worker kept would never be used again."""
    async with opened(store_urls) as own, world(own, scope, clock=still) as edge:
        await edge.limit(40, dimension=Dimension.CONCURRENCY)
        await edge.limit(1_000)
        assert (await edge.chat()).status == 200
        await edge.until(lambda: edge.process.limits.broker.statistics().machines == 1)
        with monkeypatch.context() as patch:
            take_away(patch, own)
            assert [(await edge.chat()).status for _ in range(60)] == [200] * 60
        assert edge.process.limiter.statistics().share_total >= 40


async def test_a_machine_without_a_share_says_that_limits_are_unavailable(store_urls, scope, still, monkeypatch):
    async with opened(store_urls) as own, world(own, scope, clock=still) as edge:
        await edge.limit(1_000)
        with monkeypatch.context() as patch:
            take_away(patch, own)
            refused = await edge.chat()
        assert (refused.status, refused.body["error"]["code"]) == (503, "limits_unavailable")
        assert refused.headers["retry-after"] == "1"
        story = await edge.story(refused.request_id)
        assert (story.outcome, story.rule) == ("infra_unavailable", "limits.store_away")
