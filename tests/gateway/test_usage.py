"""Usage: each request counts once, by whom it was made, for what and with which tags."""

from decimal import Decimal

import pytest

from interlock.foundation.ids import format_id
from interlock.foundation.telemetry import Attempt, Cost, Outcome, RequestRecord, Usage, tallied
from interlock.gateway import UsageConfig, UsageService
from interlock.gateway.domain.directory import Dimension
from interlock.gateway.domain.usage import GroupBy, Span, parse_tags, with_beta
from interlock.gateway.store.usage import roll_up
from tests.gateway.worlds import CLOCK, IDS, take_away, world

pytestmark = pytest.mark.usefixtures("still")

NAMES = {"key_id", "workspace_id", "model", "tag"}


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope) as each:
        yield each


async def usage_of(edge, group_by, span=Span.HOUR):
    service = UsageService(edge.store, CLOCK, UsageConfig())
    found = await service.page(edge.scope, service.query(group_by, span, None, None), 50)
    groups = {}
    for _, row in found:
        named = tuple(value for name, value in row.items() if name in NAMES)
        groups.setdefault(named, []).append(row)
    # An hour may end while the test runs, and then each has rows of its own.
    return [whole(rows) for rows in groups.values()]


def whole(rows):
    """The rows of one group as one."""
    counted = {name: sum(row[name] for row in rows) for name, value in rows[0].items() if isinstance(value, int)}
    cost = sum(Decimal(row["cost_usd"]) for row in rows)
    return rows[0] | counted | {"cost_usd": str(cost)}


async def test_usage_is_told_by_key_model_workspace_and_tag(edge):
    tags = {"x-interlock-tags": "team=search, env=prod"}
    answers = [await edge.chat(headers=tags), await edge.chat(headers=tags), await edge.chat()]
    for each in answers:
        await edge.story(each.request_id)
    tokens = sum(each.body["usage"]["completion_tokens"] for each in answers)
    (row,) = await usage_of(edge, GroupBy.MODEL)
    assert (row["model"], row["requests"], row["refused"], row["output_tokens"]) == ("default", 3, 0, tokens)
    assert (row["unpriced"], row["cost_usd"]) == (3, "0.000000")
    (row,) = await usage_of(edge, GroupBy.WORKSPACE, Span.DAY)
    assert row["workspace_id"] == format_id("ws", edge.scope.workspace_id)
    assert sum(each["requests"] for each in await usage_of(edge, GroupBy.KEY, Span.MINUTE)) == 3
    by_tag = {each["tag"]: each["requests"] for each in await usage_of(edge, GroupBy.TAG)}
    assert by_tag == {"": 1, "env=prod": 2, "team=search": 2}


async def test_a_refused_request_is_counted_apart(edge):
    await edge.limit(1, burst=1)
    for each in [await edge.chat(), await edge.chat()]:
        await edge.story(each.request_id)
    (row,) = await usage_of(edge, GroupBy.MODEL)
    assert (row["requests"], row["refused"]) == (1, 1)


async def test_an_answer_that_is_given_again_is_a_request_that_used_nothing(edge):
    answers = [await edge.chat(headers={"idempotency_key": "once"}) for _ in range(2)]
    assert answers[1].headers["x-interlock-replayed"] == "true"
    for each in answers:
        await edge.story(each.request_id)
    (row,) = await usage_of(edge, GroupBy.MODEL)
    tokens = answers[0].body["usage"]["completion_tokens"]
    assert (row["requests"], row["refused"], row["unpriced"], row["output_tokens"]) == (2, 0, 1, tokens)


async def test_a_store_that_was_away_misses_no_usage(edge, monkeypatch):
    with monkeypatch.context() as patch:
        take_away(patch, edge.store)
        answers = [await edge.chat() for _ in range(5)]
    assert [each.status for each in answers] == [200] * 5
    for each in answers:
        await edge.story(each.request_id)
    (row,) = await usage_of(edge, GroupBy.MODEL)
    assert row["requests"] == 5


async def test_what_a_request_cost_is_added_up_to_the_millionth(edge, scope):
    async with edge.store.ops("usage of a test") as tx:
        await roll_up(tx, tallied([record(scope, "0.000001"), record(scope, "1.250000"), record(scope, None)]))
    (row,) = await usage_of(edge, GroupBy.MODEL)
    assert (row["requests"], row["unpriced"], row["cost_usd"]) == (3, 1, "1.250001")


async def test_a_story_says_what_a_request_might_have_cost_a_refused_one_too(edge):
    async with edge.store.transaction(edge.scope) as tx:
        await tx._connection.execute(
            "UPDATE gateway_deployments SET input_price_micro = 0, output_price_micro = 2000000"
            " WHERE organization_id = $1",
            edge.scope.organization_id,
        )
    await edge.process.memory.reload()
    story = await edge.story((await edge.chat(max_tokens=500)).request_id)
    assert story.cost.estimated_usd == "0.001000"
    assert story.cost.usd == f"0.{2 * story.usage.output_tokens:06d}"
    await edge.limit(300, Dimension.USD_DAY)
    refused = await edge.chat(max_tokens=500)
    story = await edge.story(refused.request_id)
    assert (refused.status, story.cost.usd, story.cost.estimated_usd) == (413, None, "0.001000")
    await edge.limit(2_000, Dimension.USD_DAY)
    story = await edge.story((await edge.chat(max_tokens=500)).request_id)
    told = next(each.detail for each in story.decisions if each.step == "limits")
    assert "limit=0.002 used=0.001000 requested=0.001000" in told, "one unit for all three"


def record(scope, usd):
    return RequestRecord(
        id=IDS.new(), started_us=CLOCK.now_us(), organization_id=scope.organization_id,
        workspace_id=scope.workspace_id, key_id=scope.workspace_id, alias="default", outcome=Outcome.OK, status=200,
        attempts=[Attempt(n=1, deployment="d", status=200)], usage=Usage(input_tokens=1, output_tokens=1),
        cost=Cost(usd=usd, price_version="default@1"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "given", ["team", "a=1,a=2", "a=" + "x" * 129, "a=<script>", ",".join(f"t{at}=1" for at in range(11)), ""]
)
async def test_tags_that_are_none_are_refused(edge, given):
    answer = await edge.chat(headers={"x-interlock-tags": given})
    assert (answer.status, answer.body["error"]["param"]) == (400, "x-interlock-tags")


def test_tags_are_told_in_one_order():
    assert parse_tags(b"team=search,env=prod") == parse_tags(b"env=prod, team=search") == "env=prod,team=search"


def test_a_beta_is_a_tag_among_those_of_the_caller_and_never_makes_them_too_long():
    assert with_beta("", "files") == with_beta("beta=files", "files") == "beta=files"
    assert with_beta("env=prod,team=search", "files") == "beta=files,env=prod,team=search"
    assert with_beta("", "a,b") == "beta=a b", "a comma would make two of it"
    long = ",".join(f"t{at}={'x' * 128}" for at in range(10))
    for at in range(20):
        long = with_beta(long, f"{at}{'y' * 120}")
    assert len(long) <= 2_048
