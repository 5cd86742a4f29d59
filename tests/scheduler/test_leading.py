"""Who leads a pool: two schedulers and an edge in any order of stops, outages and hand-overs; the real store's word."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from interlock.contracts.scheduling import AdoptedGrant, Granted, GrantProgress, PoolLeader, Settlement, SettleOutcome
from interlock.foundation.clock import SystemDice
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory
from interlock.foundation.store import Query
from interlock.gateway.adapters.schedulers import Schedulers
from interlock.scheduler import EngineSpec, FrontService, PoolSpec, SchedulerConfig
from interlock.scheduler.domain.leading import Candidate, Term
from interlock.scheduler.domain.records import DecisionRecord
from interlock.scheduler.domain.types import EngineCondition
from interlock.scheduler.domain.usage import minutes_of
from interlock.scheduler.service.leading import Leading, StoredLeaders
from interlock.scheduler.store import add_usage, keep_checkpoints, read_checkpoints, write_decisions
from tests.scheduler.calls import UNHURRIED, grant_request
from tests.support.clocks import HandClock

POOL, SLOTS = "fast", 2
CONFIG = SchedulerConfig(lease_s=300.0)
A, B = (Candidate(f"{name}/{name}.1/1", name, f"unix:/{name}.sock:") for name in ("a", "b"))
SPEC = PoolSpec(POOL, UNHURRIED, (EngineSpec("unix:/engine", "m", SLOTS, 2_048),))
OK = Settlement(SettleOutcome.OK, 10, 0, 5, 100, 900)


class TwinLeaders:
    """`LeaderStore` in memory: what `take_pools` and the others say, by the same clock."""

    def __init__(self, clock):
        self.clock = clock
        self.rows = {}
        self.is_away = False

    def _ask(self):
        if self.is_away:
            raise InterlockError("store_unavailable")
        return self.clock.monotonic()

    async def take(self, pools, me, lease_s, *, from_late, ended=()):
        now_s, taken = self._ask(), {}
        for pool in pools:
            holder, seat, _, fence, until_s = self.rows.get(pool, (None, me.seat, None, 0, 0.0))
            if holder in ended or (until_s < now_s and (from_late or seat == me.seat)):
                self.rows[pool] = (me.holder, me.seat, me.address, fence + 1, now_s + lease_s)
                taken[pool] = fence + 1
        return taken

    async def renew(self, fences, lease_s):
        now_s, kept = self._ask(), set()
        for pool, fence in fences.items():
            if self.rows[pool][3] == fence:
                self.rows[pool] = (*self.rows[pool][:4], now_s + lease_s)
                kept.add(pool)
        return kept

    async def leave(self, fences):
        now_s = self._ask()
        for pool, fence in fences.items():
            if self.rows[pool][3] == fence:
                self.rows[pool] = (*self.rows[pool][:4], now_s - 1.0)

    async def terms(self):
        now_s = self._ask()
        return [Term(pool, row[0], row[2], row[3], row[4] - now_s) for pool, row in self.rows.items()]


class Host:
    """One scheduler: its front and what it leads."""

    def __init__(self, me, store, clock, ids, ended=()):
        self.me, self.is_stopped = me, False
        self.front = FrontService((), clock=clock, ids=ids, config=CONFIG)
        self.leading = Leading(store, me, clock=clock, config=CONFIG, is_over=lambda mark: mark in ended)
        self.front.ask_before_granting(self.leading.may_grant)
        self.leading.on_change(self._take, self.front.leave, self.front.look)
        self.leading.want([POOL])

    async def _take(self, pools):
        self.front.declare(SPEC)
        for state in self.front.engines(POOL):
            self.front.engine_changed(POOL, replace(state, condition=EngineCondition.READY))


class World:
    """Two schedulers, their store, and the edges, which hear of a change before a new leader grants."""

    def __init__(self):
        self.clock = HandClock()
        self.clock.stop()
        ids = IdFactory(self.clock, SystemDice())
        self.store = TwinLeaders(self.clock)
        # The marks of processes that have ended.
        self.ended = set()
        self.hosts = [Host(each, self.store, self.clock, ids, self.ended) for each in (A, B)]
        self.edge = Schedulers([A.address, B.address])
        self.held = {}
        self.asked = 0

    @property
    def leader(self):
        """The scheduler that the store names."""
        row = self.store.rows.get(POOL)
        return None if row is None else next(each for each in self.hosts if each.me.holder == row[0])

    async def run_for(self, seconds):
        self.clock.forward += seconds
        for host in self.hosts:
            if not host.is_stopped:
                await host.leading.look()
                host.front.run_once()
        await self.hear()

    async def hear(self):
        """The edges learn who leads, and tell it what runs."""
        if not self.store.is_away and POOL in self.store.rows:
            _, _, address, fence, _ = self.store.rows[POOL]
            self.edge.learn(PoolLeader(POOL, address, fence))
        host = self._asked_host()
        if host.is_stopped or not host.leading.leads(POOL):
            return
        reply = await host.front.progress([GrantProgress(each, 1, 50) for each in self.held])
        unknown = [self.held[each] for each in reply.unknown]
        assert (await host.front.adopt("edge", unknown)).rejected == ()

    def _asked_host(self):
        return next(each for each in self.hosts if each.me.address == self.edge.of(POOL))

    async def ask(self, host):
        """A call that is decided at once or given up: of whoever the edge would ask, or of a leader of the past."""
        self.asked += 1
        if host.is_stopped or not host.leading.leads(POOL):
            return None
        request = grant_request(f"r{self.asked}", pool=POOL)
        call = asyncio.ensure_future(host.front.acquire(request))
        for _ in range(4):
            await asyncio.sleep(0)
        if not call.done():
            call.cancel()
            await asyncio.wait([call])
            return None
        answer = call.result()
        if not isinstance(answer, Granted):
            return None
        assert host is self.leader, f"{host.me.seat} granted under a fence that was passed"
        self.held[answer.grant_id] = AdoptedGrant(request, answer.grant_id, answer.engine_id, 10, 1)
        return answer

    async def end(self):
        grant_id = next(iter(self.held), None)
        host = self._asked_host()
        if grant_id is None or host.is_stopped or not host.leading.leads(POOL):
            return
        await host.front.settle(grant_id, OK)
        del self.held[grant_id]

    def check(self):
        """What runs under all fences together never exceeds the slots, and its leader knows of it."""
        assert len(self.held) <= SLOTS
        for host in self.hosts:
            statistics = host.front.statistics(POOL)
            if statistics is not None:
                [engine] = statistics.engines
                assert 0 <= engine.granted <= SLOTS
        leader = self.leader
        if leader is self._asked_host() and not leader.is_stopped and leader.leading.leads(POOL):
            assert leader.front.statistics(POOL).granted == len(self.held)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from([0.01, 0.1, 0.3, 0.7, 0.75, 1.6, 4.0])),
        st.tuples(st.sampled_from(["ask", "ask_past", "stop", "wake", "look"]), st.sampled_from([0, 1])),
        st.tuples(st.sampled_from(["end", "away", "back"]), st.none()),
    ),
    max_size=60,
)


async def play(steps):
    world = World()
    await world.run_for(0.0)
    await world.run_for(1.0)
    for step, value in steps:
        match step:
            case "pass":
                await world.run_for(value)
            case "ask":
                await world.ask(world._asked_host())
            case "ask_past":
                await world.ask(world.hosts[value])
            case "look" if not world.hosts[value].is_stopped:
                await world.hosts[value].leading.look()
                await world.hear()
            case "stop" | "wake":
                world.hosts[value].is_stopped = step == "stop"
            case "end":
                await world.end()
            case "away" | "back":
                world.store.is_away = step == "away"
        world.check()
    return world


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
@example([("away", None), ("pass", 4.0), ("back", None), ("look", 1), ("ask_past", 0)])
@example([("stop", 0), *[("pass", 0.7)] * 8, ("away", None), ("wake", 0), ("pass", 0.7), ("ask_past", 0)])
@example(
    [("away", None), ("pass", 4.0), ("stop", 1), ("pass", 4.0), ("back", None), ("wake", 1), ("look", 1), ("ask", 0)]
)
def test_no_order_of_stops_and_outages_gives_a_slot_twice(steps):
    asyncio.run(play(steps))


async def test_who_is_stopped_is_passed_and_finds_it_out_when_it_wakes():
    world = await play([("ask", 0), ("stop", 0), ("pass", 0.7), ("pass", 0.7), ("pass", 0.7)])
    a, b = world.hosts
    assert world.leader is b
    assert b.front.statistics(POOL).granted == 1
    a.is_stopped = False
    assert a.leading.leads(POOL)
    assert await world.ask(a) is None
    await world.run_for(0.1)
    assert not a.leading.leads(POOL)
    assert a.front.statistics(POOL) is None
    assert a.leading.leader(POOL).address == B.address


async def test_who_stood_still_while_it_asked_the_store_asks_again_before_it_grants():
    world = await play([("stop", 1), *[("pass", 0.7)] * 8])
    a, b = world.hosts

    async def stands_still(_fences, _lease_s):
        world.store.renew = renew
        b.is_stopped = False
        a.is_stopped = True
        for _ in range(8):
            await world.run_for(0.7)
        a.is_stopped = False
        raise InterlockError("store_unavailable")

    renew, world.store.renew = world.store.renew, stands_still
    await a.leading.look()
    assert world.leader is b
    assert a.leading.leads(POOL)
    assert await world.ask(a) is None


async def test_while_the_store_is_away_the_leader_grants_and_nobody_takes_over():
    world = await play([("away", None), *[("pass", 0.7)] * 20, ("ask", 0)])
    assert len(world.held) == 1
    world.store.is_away = False
    await world.run_for(0.7)
    assert world.leader is world.hosts[0]
    assert not world.hosts[1].leading.leads(POOL)


async def test_who_was_passed_and_wakes_while_the_store_is_away_grants_nothing_until_it_answers():
    world = await play([("ask", 0), ("stop", 0), *[("pass", 0.7)] * 8, ("away", None), ("wake", 0)])
    a, b = world.hosts
    assert world.leader is b
    for _ in range(20):
        await world.run_for(0.7)
        # It knows of no other leader, and of its own no more than that it was one.
        assert a.leading.leads(POOL)
        assert await world.ask(a) is None
    assert isinstance(await world.ask(b), Granted)
    world.store.is_away = False
    await world.run_for(0.7)
    assert (a.leading.leads(POOL), b.leading.leads(POOL)) == (False, True)


async def test_who_stood_still_alone_grants_again_as_soon_as_the_store_answers():
    world = await play([("stop", 1), ("stop", 0), ("pass", 4.0), ("away", None), ("wake", 0), ("pass", 0.7)])
    a, _ = world.hosts
    assert await world.ask(a) is None
    world.store.is_away = False
    await world.run_for(0.7)
    assert world.leader is a
    assert isinstance(await world.ask(a), Granted)


async def test_who_starts_without_the_store_grants_however_late_it_first_asks():
    world = await play([("stop", 1), ("away", None)])
    standing_in = next_life(world)
    standing_in.leading.stand_in(POOL)
    await standing_in._take([POOL])
    for passed_s in (4.0, 1.0, 1.0, 1.0):
        world.clock.forward += passed_s
        assert standing_in.leading.may_grant(POOL)
        await standing_in.leading.look()
    world.clock.forward += 1.6
    await standing_in.leading.look()
    assert not standing_in.leading.may_grant(POOL)


def next_life(world, number=2):
    """Another process at the seat and on the socket of the first scheduler."""
    me = replace(A, holder=f"a/a.{number}/{number}")
    life = Host(me, world.store, world.clock, IdFactory(world.clock, SystemDice()), world.ended)
    world.hosts.insert(0, life)
    return life


async def test_the_next_life_of_a_killed_leader_leads_at_once_though_its_lease_runs():
    world = await play([("ask", 0)])
    killed, _ = world.hosts
    killed.is_stopped = True
    world.ended.add("a.1")
    life = next_life(world)
    await world.run_for(0.1)
    assert world.leader is life
    # It was told what runs before it grants, and the waiting for that is all.
    assert len(world.held) == 1
    assert await world.ask(life) is None
    await world.run_for(0.3)
    assert isinstance(await world.ask(life), Granted)
    assert await world.ask(life) is None
    world.check()


async def test_another_scheduler_of_the_machine_passes_a_killed_leader_as_soon_as_it_looks():
    world = await play([("ask", 0)])
    killed, other = world.hosts
    killed.is_stopped = True
    world.ended.add("a.1")
    await world.run_for(0.1)
    assert world.leader is other
    assert other.front.statistics(POOL).granted == 1


@pytest.mark.parametrize("is_started_twice", [True, False])
async def test_a_second_process_at_a_seat_takes_nothing_while_the_first_may_live(is_started_twice):
    """The first may grant until its lease is over, whether it goes on or stands still; a seat proves nothing."""
    world = await play([("ask", 0)])
    first, other = world.hosts
    other.is_stopped, first.is_stopped = True, not is_started_twice
    second = next_life(world)
    for _ in range(8):
        await world.run_for(0.1)
        assert world.leader is first
        assert not second.leading.leads(POOL)
    for _ in range(12):
        await world.run_for(0.1)
    assert world.leader is (first if is_started_twice else second)
    first.is_stopped = False
    await world.run_for(0.3)
    assert [each.leading.leads(POOL) for each in (first, second)] == [is_started_twice, not is_started_twice]


async def test_who_starts_without_the_store_leads_on_when_that_says_that_its_former_life_did():
    world = await play([("ask", 0)])
    world.hosts[0].is_stopped = world.hosts[1].is_stopped = True
    world.ended.add("a.1")
    life = next_life(world)
    life.leading.stand_in(POOL)
    await life._take([POOL])
    await world.run_for(0.3)
    assert world.leader is life
    assert life.leading.leads(POOL)
    assert life.front.statistics(POOL).granted == 1


async def test_a_leader_that_ends_is_not_waited_for():
    world = await play([("pass", 0.7)] * 8)
    await world.hosts[0].leading.leave()
    world.hosts[0].is_stopped = True
    await world.run_for(0.1)
    assert world.leader is world.hosts[1]


@pytest.fixture
def pool(ids):
    return f"pool-{ids.new().hex}"


async def test_the_store_gives_a_pool_to_one_and_to_another_when_the_first_is_late(store, pool):
    leaders = StoredLeaders(store)
    assert await leaders.take([pool], A, 600.0, from_late=True) == {pool: 1}
    assert await leaders.take([pool], B, 600.0, from_late=True) == {}
    assert await leaders.renew({pool: 1}, 600.0) == {pool}
    restarted = replace(A, holder="a/a.2/2")
    assert await leaders.take([pool], restarted, 600.0, from_late=True) == {}
    assert await leaders.take([pool], restarted, 600.0, from_late=False, ended=[B.holder]) == {}
    assert await leaders.take([pool], restarted, -1.0, from_late=False, ended=[A.holder]) == {pool: 2}
    assert await leaders.renew({pool: 1}, 600.0) == set()
    assert await leaders.take([pool], B, 600.0, from_late=False) == {}
    assert await leaders.take([pool], B, 600.0, from_late=True) == {pool: 3}
    [term] = [each for each in await leaders.terms() if each.pool == pool]
    assert (term.holder, term.address, term.fence, term.left_s > 60) == (B.holder, B.address, 3, True)
    assert PoolLeader(pool, B.address, 3) in await leaders.load()
    await leaders.leave({pool: 3})
    assert await leaders.take([pool], A, 600.0, from_late=False) == {}
    # A seat that was left is its next life's at once, and anybody else's once nobody can be about to renew.
    assert await leaders.take([pool], replace(B, holder="b/b.2/2"), 600.0, from_late=False) == {pool: 4}
    await leaders.leave({pool: 4})
    assert await leaders.take([pool], A, 600.0, from_late=True) == {pool: 5}


async def test_a_passed_fence_writes_nothing(store, pool, clock):
    leaders = StoredLeaders(store)
    await leaders.take([pool], A, -1.0, from_late=True)
    now_us = clock.now_us()
    record = DecisionRecord(grant_request(f"r-{pool}", pool=pool), "ok", now_us)

    async def write(kept, fence):
        async with store.ops("what a leader knows") as tx:
            await keep_checkpoints(tx, {pool: kept}, {pool: fence}, now_us)
            await write_decisions(tx, [record], {pool: fence})
            await add_usage(tx, minutes_of([record]), {pool: fence})

    async def found():
        async with store.ops("what is there") as tx:
            counts = [await tx.fetchval(query, pool) for query in (DECISIONS, USAGE)]
            return (await read_checkpoints(tx)).get(pool), *counts

    await leaders.take([pool], B, 600.0, from_late=True)
    await write({"capacity": 1}, 1)
    assert await found() == (None, 0, None)
    await write({"capacity": 2}, 2)
    assert await found() == ({"capacity": 2}, 1, 1)
    await write({"capacity": 3}, 1)
    assert await found() == ({"capacity": 2}, 1, 1)


DECISIONS = Query("decisions", "what was written", "SELECT count(*) FROM scheduler_decisions WHERE pool = $1")
USAGE = Query("usage", "what was summed", "SELECT sum(requests)::bigint FROM scheduler_usage_minutes WHERE pool = $1")
