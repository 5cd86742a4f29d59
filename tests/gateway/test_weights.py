"""Weights of route versions over a real edge and a real store: verdicts, leases, sticky arms, counts."""

import asyncio
import json
from dataclasses import replace

import pytest

from interlock.contracts.rollouts import WeightInForce, WeightMode, WeightRefused
from interlock.foundation.audit import AuditLog
from interlock.foundation.flags import bump
from interlock.foundation.identity import IdentityService
from interlock.foundation.redaction import Redactor
from interlock.gateway import Actuator, RouteService, Weights
from interlock.gateway.domain.arms import is_copied
from interlock.gateway.domain.breaker import BreakerState
from interlock.gateway.domain.directory import Gate, RouteSpec, Target
from interlock.gateway.service.route_versions import RouteWanted
from interlock.gateway.service.weights import WeightWanted
from interlock.scheduler import FakeEngine, Fault, Script
from tests.gateway.test_door import throw
from tests.gateway.verdicts import Signer
from tests.gateway.worlds import CLOCK, IDS, PEPPER, SQL, patient, world
from tests.support.clocks import HandClock


class Rollout:
    """A route `shop` of two versions, each on a model server of its own, and everything that moves its weights."""

    def __init__(self, edge, scope, signer, engines, clock=CLOCK):
        self.edge = edge
        self.clock = clock
        self.scope = scope
        self.signer = signer
        self.engines = engines
        audit = AuditLog(clock, Redactor([]))
        self.identity = IdentityService(edge.store, audit, clock, IDS, PEPPER)
        self.weights = Weights(self.identity, signer.verifier, signer, audit, clock)
        self.versions = RouteService(self.identity, self.weights, audit, clock, IDS)
        self.actuator = Actuator(self.weights, self.identity)

    async def add(self, deployment, **fields):
        spec = RouteSpec(targets=(Target(deployment),), **fields)
        async with self.edge.store.transaction(self.scope) as tx:
            return await self.versions.add(tx, RouteWanted("shop", spec))

    async def set(self, weight, *, version=2, token=None, lease_s=600.0, mode=WeightMode.CANARY):
        async with self.edge.store.transaction(self.scope) as tx:
            found = await self.weights.set(tx, "shop", WeightWanted(version, weight, mode, token, lease_s))
        await self.edge.process.memory.reload()
        return found

    async def digest(self, version=2):
        return (await self.actuator.resolve(self.scope, "shop", version)).digest

    async def token(self, **fields):
        return self.signer.token("shop", await self.digest(), **fields)

    async def ask(self, session=None, **fields):
        headers = {} if session is None else {"x_interlock_session": session}
        return await self.edge.chat(model="shop", headers=headers, **fields)

    async def arms(self, sessions):
        found = [await self.ask(each) for each in sessions]
        return {each: reply.headers["x-interlock-arm"] for each, reply in zip(sessions, found, strict=True)}

    async def audited(self):
        async with self.edge.store.ops("audit of a test") as tx:
            rows = await tx._connection.fetch(
                "SELECT action, outcome, reason FROM audit_events WHERE organization_id = $1 ORDER BY seq",
                self.scope.organization_id,
            )
        return [tuple(row.values()) for row in rows]

    async def counts(self):
        now = self.clock.now_us() // 1_000_000
        return await self.actuator.read(self.scope, "shop", since_second=now - 600, until_second=now + 1)

    async def ship(self):
        await self.edge.process._arm_shipper.run_once(is_last=True)


async def make_upstream(store, scope, name, engine):
    url = await engine.listen()
    async with store.transaction(scope) as tx:
        await tx.execute(
            SQL.put_provider, scope.organization_id, f"p-{name}", IDS.new(), "openai", f"{url}/v1", None, None
        )
        await tx.execute(SQL.put_deployment, scope.organization_id, name, IDS.new(), f"p-{name}", "fake")
        await bump(tx, "routes")


@pytest.fixture
async def rollout(store, scope):
    signer, clock = Signer(scope.organization_id), HandClock()
    engines = {name: FakeEngine(Script(tokens=3), clock=CLOCK, ids=IDS) for name in ("old", "new")}
    config = patient(arm_interval_s=30.0)
    try:
        async with world(store, scope, config=config, with_engine=False, verdicts=signer, clock=clock) as edge:
            for name, engine in engines.items():
                await make_upstream(store, scope, name, engine)
            made = Rollout(edge, scope, signer, engines, clock)
            await made.add("old")
            await made.add("new")
            await edge.process.memory.reload()
            yield made
    finally:
        for engine in engines.values():
            await engine.close()


SESSIONS = [f"session-{each}" for each in range(60)]


async def test_a_first_version_is_stable_and_a_later_one_is_a_draft_that_nobody_meets(rollout):
    first = await rollout.actuator.resolve(rollout.scope, "shop")
    second = await rollout.actuator.resolve(rollout.scope, "shop", 2)
    assert (first.version, first.state, second.state, second.stable_version) == (1, "stable", "draft", 1)
    assert first.digest.startswith("sha256:")
    assert first.digest != second.digest
    assert await rollout.actuator.resolve(rollout.scope, "shop", 3) is None
    assert await rollout.actuator.resolve(rollout.scope, "nothing") is None
    reply = await rollout.ask("s")
    assert (reply.headers["x-interlock-route"], reply.headers["x-interlock-arm"]) == ("shop@1/old", "stable")


async def test_weight_needs_a_live_matching_verdict(rollout):
    digest = await rollout.digest()
    other = Signer(rollout.scope.organization_id)
    refusals = {
        "verdict_required": None,
        "verdict_invalid": other.token("shop", digest),
        "verdict_expired": await rollout.token(ttl_s=-1),
        "verdict_digest_mismatch": rollout.signer.token("shop", await rollout.digest(1)),
        "verdict_weight_exceeded": await rollout.token(max_weight=4.9),
    }
    for code, token in refusals.items():
        found = await rollout.set(5, token=token)
        assert isinstance(found, WeightRefused), code
        assert (found.code, found.http_status) == (code, 403)
    assert (await rollout.set(5, token=rollout.signer.token("other", digest))).code == "verdict_invalid"
    told = [each for each in await rollout.audited() if each[0] == "route.weight"]
    assert told == [("route.weight", "refused", code) for code in (*refusals, "verdict_invalid")]
    assert set((await rollout.arms(SESSIONS[:10])).values()) == {"stable"}


async def test_units_are_sticky_and_none_leaves_the_canary_while_its_weight_rises(rollout):
    await rollout.set(20, token=await rollout.token())
    low = await rollout.arms(SESSIONS)
    assert await rollout.arms(SESSIONS) == low
    await rollout.set(60, token=await rollout.token())
    high = await rollout.arms(SESSIONS)
    canaries = {each for each, arm in low.items() if arm == "canary"}
    assert canaries
    assert canaries < {each for each, arm in high.items() if arm == "canary"}
    reply = await rollout.ask(next(iter(canaries)))
    assert reply.headers["x-interlock-route"] == "shop@2/new"
    story = await rollout.edge.story(reply.request_id)
    assert (story.arm, story.route_version, story.deployment) == ("canary", 2, "new")
    chosen = next(each for each in story.decisions if each.step == "arm")
    assert (chosen.rule, chosen.verdict) == ("weight.shop", "canary")


async def test_an_end_user_is_a_unit_where_there_is_no_session_and_else_the_key(rollout):
    await rollout.set(50, token=await rollout.token())
    users = {f"u{each}": (await rollout.ask(user=f"u{each}")).headers["x-interlock-arm"] for each in range(20)}
    assert set(users.values()) == {"stable", "canary"}
    for each in list(users)[:5]:
        assert (await rollout.ask(metadata={"user_id": each})).headers["x-interlock-arm"] == users[each]
    assert len({(await rollout.ask()).headers["x-interlock-arm"] for _ in range(5)}) == 1


async def test_a_lower_weight_needs_no_token_and_a_rollback_needs_nothing(rollout):
    await rollout.set(50, token=await rollout.token())
    lower = await rollout.set(10)
    assert isinstance(lower, WeightInForce)
    assert (await rollout.set(11)).code == "verdict_required"
    back = await rollout.actuator.rollback(rollout.scope, "shop", "it got worse")
    assert (back.version, back.weight, back.expires_at_us) == (1, 100.0, None)
    await rollout.edge.process.memory.reload()
    assert set((await rollout.arms(SESSIONS[:20])).values()) == {"stable"}
    assert ("route.rollback", "ok", "it got worse") in await rollout.audited()
    again = await rollout.actuator.rollback(rollout.scope, "shop", "twice")
    assert isinstance(again, WeightInForce)


async def test_whole_weight_makes_a_version_stable_without_a_lease(rollout):
    version = await rollout.actuator.resolve(rollout.scope, "shop", 2)
    found = await rollout.actuator.set_weight(
        rollout.scope, version, 100, token=await rollout.token(), lease_s=600, mode=WeightMode.CANARY
    )
    assert (found.version, found.weight, found.expires_at_us) == (2, 100.0, None)
    await rollout.edge.process.memory.reload()
    assert (await rollout.ask("x")).headers["x-interlock-route"] == "shop@2/new"
    states = [(await rollout.actuator.resolve(rollout.scope, "shop", each)).state for each in (1, 2)]
    assert states == ["retired", "stable"]


async def test_a_weight_that_nobody_renews_falls_to_nothing_and_a_renewal_never_outlives_the_verdict(rollout):
    await rollout.set(100 - 0.01, token=await rollout.token(ttl_s=300), lease_s=600)
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "canary"
    frozen = await rollout.actuator.freeze(rollout.scope, "shop", 600)
    assert frozen.expires_at_us <= rollout.clock.now_us() + 300_000_000
    await rollout.edge.process.memory.reload()
    rollout.clock.forward += 301
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "stable"
    lapsed = await rollout.actuator.freeze(rollout.scope, "shop", 60)
    assert (lapsed.code, lapsed.http_status) == ("verdict_required", 403)


async def test_a_renewed_lease_holds_on(rollout):
    await rollout.set(99.99, token=await rollout.token(), lease_s=300)
    rollout.clock.forward += 200
    await rollout.actuator.freeze(rollout.scope, "shop", 300)
    await rollout.edge.process.memory.reload()
    rollout.clock.forward += 200
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "canary"


async def test_a_lease_of_a_clock_that_runs_ahead_ends_all_the_same(rollout):
    """Whoever renews may take the next half hour for now; the edge knows how long a lease is at most."""
    rollout.weights._clock = ahead = HandClock()
    ahead.forward = 1_800.0
    found = await rollout.set(99.99, token=await rollout.token(ttl_s=3_000.0), lease_s=60.0)
    assert found.expires_at_us > rollout.clock.now_us() + 1_500_000_000
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "canary"
    rollout.clock.forward += 601
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "stable"


async def test_an_edge_checks_the_verdict_by_itself(rollout):
    """Whoever writes a weight past control, into the row itself, gives nobody anything."""
    await rollout.set(50, token=await rollout.token(max_weight=50))
    assert "canary" in (await rollout.arms(SESSIONS[:20])).values()
    async with rollout.edge.store.transaction(rollout.scope) as tx:
        await tx._connection.execute(
            "UPDATE gateway_route_weights SET weight_bp = 9000 WHERE organization_id = $1",
            rollout.scope.organization_id,
        )
    await rollout.edge.process.memory.reload()
    assert set((await rollout.arms(SESSIONS[:20])).values()) == {"stable"}
    refused = rollout.edge.process.arms.refused()
    assert refused[rollout.scope.organization_id, "shop"] == "verdict_weight_exceeded"


async def test_a_revoked_key_ends_what_it_admitted(rollout):
    await rollout.set(99.99, token=await rollout.token())
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "canary"
    rollout.signer.keys = {"vk_1": replace(rollout.signer.key, is_revoked=True)}
    await rollout.edge.process.memory._look_at_keys()
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "stable"


async def test_a_deployment_that_is_not_what_it_was_is_another_artifact(rollout):
    token = await rollout.token()
    await rollout.set(99.99, token=token)
    async with rollout.edge.store.transaction(rollout.scope) as tx:
        await tx._connection.execute(
            "UPDATE gateway_deployments SET upstream_model = 'other' WHERE organization_id = $1 AND name = 'new'",
            rollout.scope.organization_id,
        )
    await rollout.edge.process.memory.reload()
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "stable"
    assert (await rollout.set(100, token=token)).code == "verdict_digest_mismatch"


async def test_weights_and_keys_survive_in_the_start_state(rollout):
    await rollout.set(99.99, token=await rollout.token(), lease_s=300)
    await rollout.edge.followed()
    memory, published = rollout.edge.process.memory, rollout.signer.keys
    memory.save()
    # Nobody publishes them any more, so that no look at the store can bring them back.
    rollout.signer.keys = {}
    memory._replace(memory.directory, {})
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "stable", "without keys nothing is admitted"
    memory._restore()
    assert memory.verifying == published
    rollout.signer.keys = published
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "canary"
    rollout.clock.forward += 301
    assert (await rollout.ask("x")).headers["x-interlock-arm"] == "stable"


async def test_arms_are_counted_by_the_second_with_their_bad_units(rollout):
    await rollout.set(50, token=await rollout.token())
    rollout.engines["new"].script = Script(fault=Fault.SERVER_ERROR)
    arms = await rollout.arms(SESSIONS[:20])
    await rollout.arms(SESSIONS[:20])
    await rollout.ship()
    found = await rollout.counts()
    totals = {}
    for each in found:
        units, requests, bad, hashes = totals.get(each.arm, (0, 0, 0, frozenset()))
        errors = each.bad["errors"]
        totals[each.arm] = (
            units + each.units, requests + each.requests, bad + errors.requests, hashes | errors.units
        )  # fmt: skip
        assert each.weight == 0.5
        assert each.version == {"stable": 1, "canary": 2}[each.arm]
    canaries = sum(arm == "canary" for arm in arms.values())
    assert totals["stable"] == (20 - canaries, 2 * (20 - canaries), 0, frozenset())
    assert totals["canary"][:3] == (canaries, 2 * canaries, 2 * canaries)
    assert len(totals["canary"][3]) == canaries
    assert {len(each) for each in totals["canary"][3]} == {8}


async def test_a_slow_first_token_counts_and_a_caller_who_asks_wrongly_does_not(rollout):
    await rollout.add("new", objective_ttft_ms=1)
    digest = await rollout.digest(3)
    rollout.engines["new"].script = Script(tokens=2, first_token_s=0.05)
    await rollout.set(99.99, version=3, token=rollout.signer.token("shop", digest))
    await rollout.ask("a", stream=True)
    await rollout.ask("b")
    await rollout.ship()
    # A minute may turn between the two calls; each has counts of its own.
    found = [each for each in await rollout.counts() if each.arm == "canary"]
    assert ({each.version for each in found}, sum(each.requests for each in found)) == ({3}, 2)
    assert sum(each.bad["slow"].requests for each in found) == 1
    assert sum(len(each.bad["slow"].units) for each in found) == 1
    assert sum(each.bad["errors"].requests for each in found) == 0


async def test_counts_wait_for_a_store_that_is_away_and_are_shipped_once(rollout, monkeypatch):
    await rollout.set(50, token=await rollout.token())
    await rollout.ask("a")
    shipper = rollout.edge.process._arm_shipper
    with monkeypatch.context() as away:
        away.setattr(shipper._store, "_require_up", lambda: (_ for _ in ()).throw(OSError("away")))
        await rollout.ship()
    assert rollout.edge.process.arm_book.statistics()["waiting"] == 1
    taken = rollout.edge.process.arm_book.take(1 << 40)
    rollout.edge.process.arm_book.give_back(dict(taken))
    await rollout.ship()
    rollout.edge.process.arm_book.give_back(dict(taken))
    await rollout.ship()
    assert sum(each.requests for each in await rollout.counts()) == 1


async def test_an_owner_may_turn_a_gate_off_and_then_no_verdict_is_needed(rollout):
    async with rollout.edge.store.transaction(rollout.scope) as tx:
        await tx._connection.execute(
            "INSERT INTO gateway_route_versions SELECT organization_id, alias, 3, 'sha256:x', $2::text::jsonb, 0"
            " FROM gateway_routes WHERE organization_id = $1",
            rollout.scope.organization_id,
            json.dumps({"targets": [{"deployment": "new"}], "gate": str(Gate.OFF)}),
        )
    assert isinstance(await rollout.set(99.99, version=3), WeightInForce)
    assert (await rollout.ask("x")).headers["x-interlock-route"] == "shop@3/new"


async def test_of_two_who_raise_at_once_the_second_sees_what_the_first_did(rollout):
    token = await rollout.token()
    version = await rollout.actuator.resolve(rollout.scope, "shop", 2)
    found = await asyncio.gather(
        *(
            rollout.actuator.set_weight(
                rollout.scope, version, weight, token=token, lease_s=600, mode=WeightMode.CANARY
            )
            for weight in (5, 10, 20, 40)
        )
    )
    epochs = sorted(each.epoch for each in found)
    assert len(set(epochs)) == 4
    last = max(found, key=lambda each: each.epoch)
    await rollout.edge.process.memory.reload()
    weight = rollout.edge.process.memory.directory.alias(rollout.scope.organization_id, "shop").weight
    assert weight.weight_bp == last.weight * 100


async def in_shadow(rollout, weight=100.0, **fields):
    """Put version 2 in the shadow and return what the edge says of it."""
    found = await rollout.set(weight, token=await rollout.token(**fields), mode=WeightMode.SHADOW)
    assert isinstance(found, WeightInForce), found
    return found


async def ended(rollout, story):
    """The closed story of a request's copy."""
    (copy,) = [each.id for each in story.links if each.kind == "shadow"]
    await rollout.edge.until(lambda: not rollout.edge.process.shadows.running())
    return copy, await rollout.edge.story(copy)


async def test_a_version_in_the_shadow_sees_copies_and_answers_nobody(rollout):
    assert (await rollout.set(100, mode=WeightMode.SHADOW)).code == "verdict_required"
    await in_shadow(rollout)
    assert (await rollout.actuator.resolve(rollout.scope, "shop", 2)).state == "shadow"
    reply = await rollout.ask("s")
    assert (reply.status, reply.headers["x-interlock-route"]) == (200, "shop@1/old")
    assert (reply.headers["x-interlock-arm"], reply.headers["x-interlock-attempts"]) == ("stable", "1")
    story = await rollout.edge.story(reply.request_id)
    assert ("arm", "weight.shop", "copied") in [(each.step, each.rule, each.verdict) for each in story.decisions]
    named, copy = await ended(rollout, story)
    assert (copy.arm, copy.route_version, copy.deployment, copy.outcome) == ("shadow", 2, "new", "ok")
    assert (copy.key_id, copy.workspace_id, copy.tags) == (None, rollout.scope.workspace_id, "shadow=shop@2")
    assert [(each.kind, each.id) for each in copy.links] == [("request", reply.request_id), ("verdict", "vdt_1")]
    assert copy.usage.output_tokens == 3
    assert rollout.engines["new"].last_body["messages"] == rollout.engines["old"].last_body["messages"]
    async with rollout.edge.store.transaction(rollout.scope) as tx:
        used = await tx._connection.fetch("SELECT tag_set, requests FROM gateway_usage_minutes ORDER BY tag_set")
    assert [tuple(each) for each in used] == [("", 1), ("shadow=shop@2", 1)], f"{named} is charged to its version"
    await rollout.ask("s", stream=True)
    assert rollout.engines["new"].statistics().requests == 1, "a stream is not copied"
    await rollout.ship()
    (count,) = await rollout.counts()
    told = (count.arm, count.version, count.units, count.requests, count.bad["errors"].requests)
    assert told == ("shadow", 2, 0, 1, 0), "no arm is judged by copies"


async def test_what_a_copy_comes_to_changes_no_answer(rollout):
    await in_shadow(rollout)
    rollout.engines["new"].script = Script(fault=Fault.SERVER_ERROR)
    replies = [await rollout.ask(f"s{each}") for each in range(25)]
    assert {(each.status, each.headers["x-interlock-route"]) for each in replies} == {(200, "shop@1/old")}
    _, copy = await ended(rollout, await rollout.edge.story(replies[-1].request_id))
    assert (copy.outcome, copy.error_code, len(copy.attempts)) == ("upstream_error", "upstream_error", 1)
    await rollout.ship()
    counts = await rollout.counts()
    assert sum(each.requests for each in counts) == sum(each.bad["errors"].requests for each in counts) > 0
    assert {(each.arm, each.units, each.bad["errors"].units) for each in counts} == {("shadow", 0, frozenset())}
    (new,) = [each for each in rollout.edge.process.targets.statistics() if each.deployment == "new"]
    assert (new.breaker, new.inflight) == (BreakerState.CLOSED, 0), "a copy judges no server for callers"


async def test_only_so_many_copies_run_and_a_switch_ends_them(rollout):
    await in_shadow(rollout)
    rollout.engines["new"].script = Script(first_token_s=600)
    process = rollout.edge.process
    replies = [await rollout.ask(f"s{each}") for each in range(18)]
    assert {each.status for each in replies} == {200}
    assert process.shadows.running() == 16
    last = await rollout.edge.story(replies[-1].request_id)
    (told,) = [each for each in last.decisions if each.verdict == "not_copied"]
    assert told.detail == "edge.shadows_max: 16 run, 16 at most of one organization"
    first = await rollout.edge.story(replies[0].request_id)
    throw(rollout.edge, "route", "shop", "abort")
    _, copy = await ended(rollout, first)
    assert (copy.outcome, copy.rule) == ("killed", "kill.route.shop")
    await rollout.edge.until(lambda: rollout.engines["new"].statistics().running == 0)


async def test_a_switch_that_comes_while_a_copy_is_placed_keeps_it_from_its_server(rollout):
    await in_shadow(rollout)
    placer = rollout.edge.process._placer
    place = placer.place

    async def placed(passage, ask):
        found = await place(passage, ask)
        if passage.arm == "shadow":
            throw(rollout.edge, "deployment", "new", "reject")
        return found

    placer.place = placed
    reply = await rollout.ask("s")
    assert reply.status == 200
    _, copy = await ended(rollout, await rollout.edge.story(reply.request_id))
    assert (copy.outcome, copy.rule, copy.attempts) == ("killed", "kill.deployment.new", [])
    assert rollout.engines["new"].statistics().requests == 0


async def test_out_of_the_shadow_leads_another_verdict_and_a_lease_ends_it(rollout):
    await in_shadow(rollout, ttl_s=300)
    assert (await rollout.set(5)).code == "verdict_required", "less than it sees, but of callers"
    rollout.clock.forward += 301
    await rollout.ask("s")
    assert rollout.engines["new"].statistics().requests == 0
    assert (await rollout.set(100, version=1, mode=WeightMode.SHADOW)).code == "invalid_request"


def test_a_share_of_requests_is_copied_and_by_chance():
    chosen = sum(is_copied(IDS.new(), 500) for _ in range(20_000))
    assert 800 < chosen < 1_200
    assert all(is_copied(IDS.new(), 10_000) for _ in range(100))
    assert not any(is_copied(IDS.new(), 0) for _ in range(100))
