"""A flag is on for a workspace or it is not, for a reason that has an order."""

import hashlib
import math
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode

from interlock.foundation.flags import Flag, FlagBook, FlagProvider, FlagSpec
from interlock.foundation.flags.domain.flags import BASIS_POINTS, bucket, evaluate
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID

FLAGS = "/admin/v1/flags"
TENANTS = st.integers(0, 3).map(lambda number: UUID(int=number))
ON = {"target", "on", "rollout"}
NAMES = st.sampled_from(["a", "b", "c"])
SPECS = st.builds(
    FlagSpec,
    salt=st.sampled_from(["s", "t"]),
    is_on=st.booleans(),
    is_killed=st.booleans(),
    rollout_bp=st.sampled_from([0, 1, 2_500, 5_000, 9_999, 10_000]),
    targets=st.lists(TENANTS.map(str), max_size=2),
    prerequisite=st.one_of(st.none(), NAMES),
)


def flag(name, spec, until_us=None):
    texts = {"kind": "boolean", "owner": "test", "reason": "test"}
    return Flag(organization_id=UUID(int=9), id=UUID(int=8), name=name, spec=spec, until_us=until_us, **texts)


def naive(flags, name, organization, workspace, now_us, depth=0):
    """The order of the page, one sentence after the other."""
    if name not in flags or depth > 8:
        return None
    each = flags[name]
    needed = each.spec.prerequisite
    is_missing = needed and naive(flags, needed, organization, workspace, now_us, depth + 1) not in ON
    for rule, holds in (
        ("kill", each.spec.is_killed),
        ("expired", each.until_us is not None and each.until_us <= now_us),
        ("prerequisite", is_missing),
        ("target", {str(organization), str(workspace)} & set(each.spec.targets)),
        ("on", each.spec.is_on),
    ):
        if holds:
            return rule
    digest = hashlib.sha256(f"{each.spec.salt}|{name}|{workspace}".encode()).hexdigest()
    return "rollout" if int(digest[:16], 16) % 10_000 < each.spec.rollout_bp else "default"


@settings(max_examples=600)
@given(
    st.dictionaries(NAMES, st.tuples(SPECS, st.one_of(st.none(), st.integers(0, 10))), min_size=1),
    NAMES,
    TENANTS,
    TENANTS,
    st.integers(0, 10),
)
def test_a_flag_is_decided_by_the_first_rule_of_the_order(specs, name, organization, workspace, now_us):
    flags = {each: flag(each, spec, until_us) for each, (spec, until_us) in specs.items()}
    found = evaluate(flags, name, organization, workspace, now_us)
    wanted = naive(flags, name, organization, workspace, now_us)
    assert (None if found is None else found.rule) == wanted
    if found is not None:
        assert found.value is (wanted in {"target", "on", "rollout"})


@given(st.lists(st.integers(0, BASIS_POINTS), min_size=2, max_size=6), st.uuids())
def test_a_rollout_that_grows_keeps_everybody_who_was_in(shares, workspace):
    was_in = False
    for share in sorted(shares):
        is_in = bucket("salt", "flag", str(workspace)) < share
        assert is_in or not was_in
        was_in = is_in


def test_a_rollout_reaches_about_its_share():
    units = 4_000
    inside = sum(bucket("salt", "flag", str(UUID(int=number))) < 2_500 for number in range(units))
    assert abs(inside / units - 0.25) < 5 * math.sqrt(0.25 * 0.75 / units)


async def book_of(world):
    book = FlagBook(world.store, world.clock)
    await book.reload()
    return book


async def test_a_flag_is_set_listed_evaluated_and_deleted(world, shop):
    body = {"name": "new-look", "reason": "trial", "state": "on", "target": shop.workspace_id}
    made = await shop.owner("POST", FLAGS, body)
    assert made.status == 201, made.content
    provider = FlagProvider(await book_of(world))
    tenant = {"organization_id": str(shop.scope.organization_id), "workspace_id": str(shop.scope.workspace_id)}
    context = EvaluationContext(attributes=tenant)
    found = provider.resolve_boolean_details("new-look", False, context)
    assert (found.value, found.variant, found.reason) == (True, "on", "TARGET")
    other = EvaluationContext(attributes={**tenant, "workspace_id": str(UUID(int=1))})
    assert provider.resolve_boolean_details("new-look", True, other).value is False
    assert (await shop.owner("GET", f"{FLAGS}/new-look")).json == made.json
    assert [each["name"] for each in (await shop.owner("GET", FLAGS)).json["data"]] == ["new-look"]
    assert (await shop.owner("DELETE", f"{FLAGS}/{made.json['id']}")).status == 200
    gone = FlagProvider(await book_of(world)).resolve_boolean_details("new-look", True, context)
    assert (gone.value, gone.error_code) == (True, ErrorCode.FLAG_NOT_FOUND)
    assert [each.action for each in await world.audited(shop.scope, "flag.set")] == ["flag.set"]


async def test_a_beta_says_what_asks_for_it_and_who_may(shop):
    beta = {
        "name": "long-tools", "kind": "beta", "match": {"header": "long-tools-2026"}, "allow": [shop.workspace_id],
        "from": "2026-01-01", "until": "2999-01-01",
    }  # fmt: skip
    made = await shop.owner("POST", FLAGS, beta)
    assert made.status == 201, made.content
    told = {name: made.json[name] for name in ("name", "kind", "match", "allow")}
    assert told == {name: beta[name] for name in told}
    assert made.json["from"].startswith("2026-01-01")
    assert (await shop.owner("GET", f"{FLAGS}/long-tools")).json == made.json
    for wrong in ({"match": {}}, {"match": {"header": "a", "endpoint": "b"}}, {"allow": ["all"]}, {"state": "on"}):
        assert (await shop.owner("POST", FLAGS, beta | wrong)).status == 400
    assert (await shop.owner("POST", FLAGS, {"name": "plain", "state": "on"})).status == 400
    assert (await shop.owner("POST", FLAGS, {"name": "plain", "reason": "r", "match": {"header": "a"}})).status == 400


async def test_a_beta_of_the_operator_is_the_platforms(world, shop):
    operator = await world.operator()
    body = {"name": f"b-{shop.workspace_id}", "kind": "beta", "match": {"parameter": "x"}, "allow": [shop.workspace_id]}
    made = await operator("POST", FLAGS, body)
    assert made.status == 201, made.content
    assert made.json["name"] in {each["name"] for each in (await operator("GET", FLAGS)).json["data"]}
    assert (await shop.owner("GET", f"{FLAGS}/{body['name']}")).status == 404
    assert (await shop.owner("DELETE", f"{FLAGS}/{made.json['id']}")).status == 404
    assert (await operator("DELETE", f"{FLAGS}/{made.json['id']}")).status == 200
    assert (await operator("GET", f"{FLAGS}/{body['name']}")).status == 404


async def test_a_flag_of_the_scheduler_is_the_platforms_where_its_operator_sets_it(world, shop):
    """The scheduler, which all organizations share, looks for it nowhere else."""
    operator, name = await world.operator(), f"scheduler.trial-{shop.workspace_id}"
    of_shop = await shop.owner("POST", FLAGS, {"name": name, "reason": "ours", "state": "on"})
    assert of_shop.status == 201
    assert (await book_of(world)).evaluate(name, SYSTEM_ORGANIZATION_ID, UUID(int=0)) is None
    made = await operator("POST", FLAGS, {"name": name, "reason": "trial", "state": "on"})
    assert made.status == 201, made.content
    assert (await book_of(world)).evaluate(name, SYSTEM_ORGANIZATION_ID, UUID(int=0)).value is True
    assert (await operator("DELETE", f"{FLAGS}/{made.json['id']}")).status == 200
    assert (await book_of(world)).evaluate(name, SYSTEM_ORGANIZATION_ID, UUID(int=0)) is None


async def test_setting_a_flag_again_is_a_newer_version_of_the_same(shop):
    first = (await shop.owner("POST", FLAGS, {"name": "f", "reason": "r", "rollout": 10})).json
    second = (await shop.owner("POST", FLAGS, {"name": "f", "reason": "r", "rollout": 12.5})).json
    assert (second["id"], second["version"], second["rollout"]) == (first["id"], first["version"] + 1, 12.5)


async def test_an_expired_flag_answers_its_default(world, shop):
    body = {"name": "brief", "reason": "r", "state": "on", "until": "2999-01-01"}
    await shop.owner("POST", FLAGS, body)
    book = await book_of(world)
    where = (shop.scope.organization_id, shop.scope.workspace_id)
    assert book.evaluate("brief", *where).rule == "on"
    world.clock.forward += 1_000 * 366 * 86_400
    assert (book.evaluate("brief", *where).rule, book.evaluate("brief", *where).value) == ("expired", False)


async def test_a_variant_has_the_type_that_is_asked_for(world, shop):
    body = {"name": "colour", "reason": "r", "state": "on", "variants": {"on": "green", "off": "grey"}}
    assert (await shop.owner("POST", FLAGS, body)).json["kind"] == "variant"
    provider = FlagProvider(await book_of(world))
    context = EvaluationContext(
        attributes={
            "organization_id": str(shop.scope.organization_id),
            "workspace_id": str(shop.scope.workspace_id),
        }
    )
    assert provider.resolve_string_details("colour", "red", context).value == "green"
    for wrong in (
        provider.resolve_boolean_details("colour", False, context),
        provider.resolve_integer_details("colour", 1, context),
    ):
        assert wrong.error_code is ErrorCode.TYPE_MISMATCH
    assert provider.resolve_string_details("colour", "red", EvaluationContext()).error_code is ErrorCode.INVALID_CONTEXT


async def test_a_flag_of_another_organization_does_not_exist(world, shop, rival):
    theirs = (await rival.owner("POST", FLAGS, {"name": "secret", "reason": "r", "state": "on"})).json
    assert (await shop.owner("GET", f"{FLAGS}/{theirs['id']}")).status == 404
    assert (await shop.owner("GET", f"{FLAGS}/secret")).status == 404
    assert (await shop.owner("DELETE", f"{FLAGS}/{theirs['id']}")).status == 404
    book = await book_of(world)
    assert book.evaluate("secret", shop.scope.organization_id, shop.scope.workspace_id) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"rollout": 101}, {"rollout": -1}, {"rollout": 1e308},
        {"until": "0001-01-01T00:00:00+14:00"}, {"until": "9999-12-31T23:59:59-14:00"},
        {"state": "maybe"}, {"name": ""}, {"target": "somebody"},
        {"until": "soon"}, {"variants": {"a": 1}}, {"reason": None}, {"colour": "red"},
    ],
)  # fmt: skip
async def test_a_flag_that_makes_no_sense_is_refused(shop, wrong):
    refused = await shop.owner("POST", FLAGS, {"name": "f", "reason": "r", **wrong})
    assert refused.status == 400, refused.content
