"""The front in any order of calls, leaves, settlements, adoptions and dying engines: one end for each, nothing kept."""

import asyncio
from collections import Counter
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock.contracts.scheduling import AdoptedGrant, Granted, GrantProgress, Refused, Settlement, SettleOutcome
from interlock.foundation.clock import SystemDice
from interlock.foundation.ids import IdFactory, WorkspaceId
from interlock.scheduler import EngineSpec, FrontService, PoolSpec, SchedulerConfig
from interlock.scheduler.domain.decisions import RecordedPolicy
from interlock.scheduler.domain.types import EngineCondition
from interlock.scheduler.domain.versions import Candidate, PoolSettings
from tests.scheduler.calls import UNHURRIED, grant_request
from tests.support.clocks import HandClock

POOL, SLOTS, LEASE_S = "fast", 2, 10.0
SPEC = PoolSpec(
    POOL, UNHURRIED, tuple(EngineSpec(f"http://{each}", "m", SLOTS, 4_096, kv_tokens=65_536) for each in "ab")
)
FIGURES = {
    outcome: Settlement(outcome, 10, 0, 5 if outcome is SettleOutcome.OK else 0, 100 if outcome == "ok" else None, 900)
    for outcome in SettleOutcome
}


class World:
    """A front, its engines, and an edge that holds what it was granted."""

    def __init__(self, spec=SPEC):
        self.spec = spec
        self.clock = HandClock()
        self.clock.stop()
        ids = IdFactory(self.clock, SystemDice())
        self.front = FrontService(
            (), clock=self.clock, ids=ids, config=SchedulerConfig(lease_s=LEASE_S), observers=[self]
        )
        self.ended_by = Counter()
        self.grants_seen = Counter()
        self.calls, self.requests = {}, {}
        # By name: what the edge holds, and of what ended how.
        self.held, self.settled, self.gone = {}, {}, set()
        self.lead()

    def granted(self, grant):
        self.grants_seen[grant.request.request_id] += 1

    def decided(self, _pool, _took_s):
        pass

    def ended(self, record):
        self.ended_by[record.request.request_id] += 1

    def lead(self):
        self.front.declare(self.spec)
        for state in self.front.engines(POOL):
            self.front.engine_changed(POOL, replace(state, condition=EngineCondition.READY))

    async def turn(self):
        """Let what was decided arrive where it is awaited."""
        for _ in range(6):
            await asyncio.sleep(0)
        for name, call in list(self.calls.items()):
            if call.done() and not call.cancelled():
                del self.calls[name]
                answer = call.result()
                if isinstance(answer, Granted):
                    self.held[name] = answer
                else:
                    self.gone.add(name)

    def pick(self, among, number):
        names = sorted(among)
        return names[number % len(names)] if names else None

    async def step(self, kind, number):
        name = self.pick(self.held, number)
        match kind:
            case "ask":
                name = f"r{len(self.requests)}"
                request = grant_request(name, pool=POOL, max_tokens=20 + number)
                self.requests[name] = replace(request, workspace_id=WorkspaceId(UUID(int=1 + number % 4)))
                self.calls[name] = asyncio.ensure_future(self.front.acquire(self.requests[name]))
                if number % 3:
                    # Others are asked in the same moment.
                    return
            case "again" if name in self.front._grant_of:
                assert (await self.front.acquire(self.requests[name])).code == "grant_exists"
            case "leave" if self.calls:
                await self.leave(self.pick(self.calls, number))
            case "cancel" if self.calls:
                await self.cancel(self.pick(self.calls, number))
            case "settle" if name is not None:
                await self.settle(name, list(SettleOutcome)[number % 5])
            case "settle_again" if self.settled:
                await self.settle_again(self.pick(self.settled, number))
            case "report" if name is not None:
                await self.report()
            case "adopt" if name is not None:
                await self.adopt(self.held)
                await self.adopt(self.held)
            case "down" | "up":
                state = self.front.engines(POOL)[number % 2]
                condition = EngineCondition.DOWN if kind == "down" else EngineCondition.READY
                self.front.engine_changed(POOL, replace(state, condition=condition))
            case "pass":
                self.clock.forward += (0.01, 1.0, 4.0, LEASE_S)[number % 4]
                self.front.run_once()
            case "passed":
                await self.passed()
        await self.turn()

    async def leave(self, name):
        """The caller goes, queued or in the moment of its grant: seat and slot are free in this step."""
        call = self.calls.pop(name)
        is_granted = call.done()
        call.cancel()
        await asyncio.wait([call])
        if is_granted:
            # It was answered before; the edge gives it back.
            answer = call.result()
            if isinstance(answer, Granted):
                await self.front.settle(answer.grant_id, FIGURES[SettleOutcome.UNUSED])
        self.gone.add(name)
        assert name not in self.front._grant_of
        assert name not in self.front._pools[POOL].seats

    async def cancel(self, name):
        """Somebody else closes a held call; one that was answered in the same moment gives its grant back."""
        call = self.calls[name]
        await self.front.cancel(name)
        await self.turn()
        if name not in self.held:
            assert name not in self.front._grant_of
            assert name not in self.front._pools[POOL].seats
            self.calls.pop(name, None)
            self.gone.add(name)
            await asyncio.wait([call])

    async def settle(self, name, outcome):
        grant = self.held.pop(name)
        known = grant.grant_id in self.front._live
        answer = await self.front.settle(grant.grant_id, FIGURES[outcome])
        assert isinstance(answer, Refused) is not known
        assert name not in self.front._grant_of
        if known:
            self.settled[name] = (grant, FIGURES[outcome], answer)
        self.gone.add(name)

    async def settle_again(self, name):
        grant, figures, answer = self.settled[name]
        before = self.front.statistics(POOL)
        assert await self.front.settle(grant.grant_id, figures) == answer
        other = await self.front.settle(grant.grant_id, replace(figures, total_ms=figures.total_ms + 1))
        assert other.code == "grant_settled"
        assert (await self.adopt({name: grant})).rejected == (grant.grant_id,)
        assert (await self.front.progress([GrantProgress(grant.grant_id, 5)])).unknown == (grant.grant_id,)
        assert self.front.statistics(POOL) == before

    async def report(self):
        reply = await self.front.progress([GrantProgress(each.grant_id, 1, 50) for each in self.held.values()])
        unknown = {name: each for name, each in self.held.items() if each.grant_id in reply.unknown}
        assert {each.grant_id for each in unknown.values()}.isdisjoint(self.front._live)
        for name, grant in list(self.held.items()):
            if grant.grant_id in reply.revoked:
                await self.settle(name, SettleOutcome.TIMEOUT)
        await self.adopt({name: each for name, each in unknown.items() if name in self.held})

    async def adopt(self, grants):
        told = [
            AdoptedGrant(self.requests[name], each.grant_id, each.engine_id, 10, 1) for name, each in grants.items()
        ]
        known = {each.grant_id for each in told} & set(self.front._live)
        reply = await self.front.adopt("edge", told)
        assert known.isdisjoint(reply.rejected)
        assert reply.adopted + len(reply.rejected) == len(told)
        return reply

    async def passed(self):
        """Another leads for a moment; then this one again, and the edge tells it what it holds."""
        self.front.leave(POOL)
        await self.turn()
        assert not self.front._live
        assert not self.front._grant_of
        self.lead()
        await self.report()

    def check(self):
        front, pool = self.front, self.front._pools[POOL]
        statistics = front.statistics(POOL)
        assert {each.request.request_id for each in front._live.values()} == set(front._grant_of)
        assert set(pool.policy.running) == set(front._grant_of)
        if isinstance(pool.policy, RecordedPolicy):
            assert set(pool.policy.waiting) == set(pool.seats)
        assert statistics.granted == len(front._live)
        assert statistics.queued == len(pool.seats)
        for engine in statistics.engines:
            assert min(engine.granted, engine.prefill_left, engine.kv_reserved) >= 0
        # What an edge holds may be adopted beyond the slots after a change of leader; nothing is granted beyond them.
        assert statistics.granted <= len(self.held) + sum(call.done() for call in self.calls.values()) + len(
            self.lost()
        )
        assert max(self.ended_by.values(), default=0) <= 1 + max(self.grants_seen.values(), default=0)

    def lost(self):
        """Grants that the scheduler still counts and the edge has given up."""
        return set(self.front._grant_of) - set(self.held) - set(self.calls)

    async def end(self):
        for name in list(self.held):
            await self.settle(name, SettleOutcome.OK)
        for name in list(self.calls):
            await self.leave(name)
        for name in list(self.held):
            await self.settle(name, SettleOutcome.OK)
        statistics = self.front.statistics(POOL)
        assert (statistics.queued, statistics.granted) == (0, 0)
        assert [(e.granted, e.prefill_left, e.kv_reserved) for e in statistics.engines] == [(0, 0, 0)] * 2
        assert not any(each.silent_ms for each in self.front.signs._engines.values())
        assert not self.front.signs._engine_of
        assert all(count >= 1 for name, count in self.ended_by.items())


KINDS = [
    "cancel",
    "ask",
    "ask",
    "ask",
    "settle",
    "leave",
    "again",
    "settle_again",
    "report",
    "adopt",
    "down",
    "up",
    "pass",
    "passed",
]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 11)), max_size=50)


async def play(steps, spec=SPEC):
    world = World(spec)
    for kind, number in steps:
        await world.step(kind, number)
        world.check()
    await world.turn()
    await world.end()
    return world


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_each_request_ends_once_and_nothing_is_kept_of_it(steps):
    asyncio.run(play(steps))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.sampled_from(["interlock", "fcfs"]))
def test_the_same_holds_while_a_candidate_decides_for_half_of_the_workspaces(steps, policy):
    asyncio.run(play(steps, replace(SPEC, candidate=Candidate(1, PoolSettings(policy, 0.8, UNHURRIED), 5_000))))


@pytest.mark.parametrize("is_granted", [False, True])
async def test_whoever_leaves_in_the_moment_of_its_grant_gives_it_back_in_the_same_step(is_granted):
    world = World()
    for _ in range(2 * SLOTS):
        await world.step("ask", 0)
    await world.step("ask", 0)
    waits = world.calls["r4"]
    assert not waits.done()
    if is_granted:
        # The seat becomes a grant, and before its caller hears of it, it is gone.
        settling = asyncio.ensure_future(world.settle("r0", SettleOutcome.OK))
        await settling
    await world.leave("r4")
    assert world.front.statistics(POOL).granted == 2 * SLOTS - is_granted
    assert world.front.statistics(POOL).queued == 0
    await world.end()


async def test_nothing_is_kept_of_an_engine_that_was_taken_out():
    world = World()
    for _ in range(4):
        await world.step("ask", 0)
        await world.step("report", 0)
    for name in list(world.held):
        await world.settle(name, SettleOutcome.UPSTREAM_ERROR)
    signs = world.front.signs._engines
    assert len(signs) == 2
    world.front.declare(replace(SPEC, engines=SPEC.engines[:1]))
    assert list(signs) == [each.engine_id for each in world.front.engines(POOL)]
    world.front.leave(POOL)
    assert not signs
