"""Settlements of pools do not wait for each other; at a bound the oldest is given up, said, and its lease ends it."""

import asyncio
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.contracts.scheduling import (
    AdoptedGrant,
    Granted,
    GrantProgress,
    PoolLeader,
    Settlement,
    SettleOutcome,
)
from interlock.foundation.ids import format_id
from interlock.foundation.wire import Client, ClientLimits
from interlock.gateway.adapters.grants import GrantClient
from interlock.gateway.adapters.schedulers import Schedulers
from interlock.gateway.config import EdgeConfig
from interlock.gateway.service.settlements import Closed, Settlements
from interlock.scheduler import EngineSpec, FrontService, PoolSpec, SchedulerConfig, SchedulerServer
from interlock.scheduler.domain import messages
from interlock.scheduler.domain.types import EngineCondition
from tests.gateway.worlds import CLOCK, IDS, TOKEN, patient
from tests.scheduler.calls import UNHURRIED, grant_request
from tests.support.clocks import HandClock

OK = Settlement(SettleOutcome.OK, 10, 0, 5, 100, 900)
POOL_MAX, ALL_MAX = 3, 5
POOLS = ("a", "b", "c")


class TwinScheduler:
    """Hears of settlements as the test says: yes, no, or not yet."""

    def __init__(self):
        self.heard, self.asked = [], {}

    async def tell(self, closed):
        pool = closed.asked.pool
        assert pool not in self.asked, "two of one pool at once"
        self.asked[pool] = answer = asyncio.get_running_loop().create_future()
        try:
            is_heard = await answer
        finally:
            del self.asked[pool]
        self.heard += [closed] if is_heard else []
        return is_heard


class Lanes:
    """The lanes, what went in, and where it came out."""

    def __init__(self):
        self.scheduler, self.added, self.given_up = TwinScheduler(), [], []
        config = replace(EdgeConfig(), settlements_pool_max=POOL_MAX, grants_held_max=ALL_MAX, progress_interval_s=0.0)
        self.lanes = Settlements(self.scheduler.tell, self.given_up.append, CLOCK, config)

    def add(self, pool):
        grant = SimpleNamespace(granted=SimpleNamespace(promise="final"))
        self.added.append(Closed(grant_request(pool=pool), grant, 0.0, OK, len(self.added), None, None))
        self.lanes.add(self.added[-1])

    def of(self, items, pool):
        return [each.request_id for each in items if each.asked.pool == pool]

    async def pause(self):
        for _ in range(4):
            await asyncio.sleep(0)

    def check(self):
        heard, given_up = self.scheduler.heard, self.given_up
        assert self.lanes.waiting == len(self.added) - len(heard) - len(given_up)
        assert self.lanes.waiting <= ALL_MAX
        assert self.lanes.longest() <= POOL_MAX
        assert self.lanes.dropped_total == len(given_up)
        assert not {each.request_id for each in heard} & {each.request_id for each in given_up}
        for pool in POOLS:
            # In the order in which they ended, each of them once.
            assert self.of(heard, pool) == sorted(set(self.of(heard, pool)))
            assert self.of(given_up, pool) == sorted(set(self.of(given_up, pool)))


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "add", "heard", "unheard"]), st.sampled_from(POOLS)), max_size=60
)


async def play(steps):
    world = Lanes()
    running = asyncio.ensure_future(world.lanes.run())
    for step, pool in steps:
        if step == "add":
            world.add(pool)
        elif (asked := world.scheduler.asked.get(pool)) is not None and not asked.done():
            asked.set_result(step == "heard")
        await world.pause()
        world.check()
    while world.lanes.waiting:
        assert not running.done(), "the lanes ended"
        for asked in list(world.scheduler.asked.values()):
            asked.set_result(True)
        await world.pause()
        world.check()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(world.added) == len(world.scheduler.heard) + len(world.given_up)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_each_settlement_is_heard_once_in_order_or_given_up_and_said(steps):
    asyncio.run(play(steps))


async def test_what_is_on_its_way_is_never_given_up_for_another():
    world = Lanes()
    world.lanes._config = replace(world.lanes._config, grants_held_max=2)
    running = asyncio.ensure_future(world.lanes.run())
    for pool in POOLS:
        world.add(pool)
        await world.pause()
    assert (len(world.scheduler.asked), world.given_up) == (3, [])
    world.add("a")
    world.add("b")
    assert [each.request_id for each in world.given_up] == [3], "of those that wait the oldest"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_pool_whose_scheduler_is_slow_holds_up_no_other():
    world = Lanes()
    running = asyncio.ensure_future(world.lanes.run())
    world.add("a")
    await world.pause()
    slow = world.scheduler.asked["a"]
    for _ in range(20):
        world.add("b")
        await world.pause()
        world.scheduler.asked["b"].set_result(True)
        await world.pause()
    assert len(world.of(world.scheduler.heard, "b")) == 20
    assert (slow.done(), world.lanes.waiting) == (False, 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Stalling:
    """A scheduler whose process stands still: it takes calls and answers none."""

    def __init__(self):
        self.calls = 0
        self.released = asyncio.Event()

    async def take(self, _reader, writer):
        self.calls += 1
        await self.released.wait()
        writer.close()


@pytest.fixture
async def two():
    """A scheduler that stands still and leads `slow`, one that leads `fast`, and an edge's client of both."""
    folder = Path(tempfile.mkdtemp(prefix="il-settle-"))
    stalling, clock = Stalling(), HandClock()
    clock.stop()
    config = SchedulerConfig(lease_s=10.0)
    server = await asyncio.start_unix_server(stalling.take, folder / "slow.sock")
    spec = PoolSpec("fast", UNHURRIED, (EngineSpec("unix:/engine", "m", 8, 2_048),))
    front = FrontService([spec], clock=clock, ids=IDS, config=config)
    for state in front.engines("fast"):
        front.engine_changed("fast", replace(state, condition=EngineCondition.READY))
    fast = SchedulerServer(front, token=TOKEN, leader="scheduler-1", clock=CLOCK, ids=IDS, config=config)
    await fast.listen(folder / "fast.sock")
    addresses = {name: f"unix:{folder / name}.sock:" for name in ("slow", "fast")}
    schedulers = Schedulers(list(addresses.values()))
    for pool, address in addresses.items():
        schedulers.learn(PoolLeader(pool, address, 1))
    wire = Client(ClientLimits(), CLOCK)
    client = GrantClient(wire, schedulers, TOKEN, patient())
    client._note_pool("gnt_of_slow", "slow")
    yield SimpleNamespace(front=front, clock=clock, client=client, schedulers=schedulers, stalling=stalling)
    stalling.released.set()
    server.close()
    await fast.drain(0.2)
    await wire.close()
    shutil.rmtree(folder)


async def until(fact):
    async with asyncio.timeout(240):
        while not fact():
            await asyncio.sleep(0.005)


async def test_a_scheduler_that_stands_still_delays_no_report_to_another(two):
    granted = await two.client.acquire(grant_request(pool="fast"))
    two.clock.forward += 9.0
    reports = [GrantProgress("gnt_of_slow", 1), GrantProgress(granted.grant_id, 3)]
    reporting = asyncio.ensure_future(two.client.progress(reports))
    await until(lambda: two.front._live[granted.grant_id].output_tokens == 3)
    await until(lambda: two.stalling.calls == 1)
    assert not reporting.done()
    # The lease was renewed meanwhile, so its grant outlives what it had left.
    two.clock.forward += 9.0
    two.front.run_once()
    assert two.front.statistics("fast").granted == 1
    # Once another leads the pool of the one that stands still, nobody waits for that one.
    two.schedulers.learn(PoolLeader("slow", two.schedulers.of("fast"), 2))
    with pytest.raises(ConnectionError):
        await reporting
    assert (await two.client.progress(reports)).unknown == ("gnt_of_slow",)


async def test_who_is_sent_elsewhere_and_back_is_not_refused_for_the_call_that_was_left(two):
    """A scheduler may hear of the new call before it sees that nobody waits for the old one."""
    front, here, there = two.front, two.schedulers.of("fast"), two.schedulers.of("slow")
    [engine] = front.engines("fast")
    front.engine_changed("fast", replace(engine, condition=EngineCondition.STARTING))
    acquire, is_seen, asked = front.acquire, asyncio.Event(), []

    async def late(request):
        asked.append(call := asyncio.ensure_future(acquire(request)))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await is_seen.wait()
            call.cancel()
            raise

    front.acquire, two.client._client.clock = late, two.clock
    waiting = asyncio.ensure_future(two.client.acquire(grant_request(pool="fast")))
    await until(lambda: front.statistics("fast").queued == 1)
    # It has waited in line for longer than it would wait for a scheduler that is away.
    two.clock.forward += 60.0
    two.schedulers.learn(PoolLeader("fast", there, 2))
    await until(lambda: two.stalling.calls == 1)
    two.schedulers.learn(PoolLeader("fast", here, 3))
    await until(lambda: len(asked) > 1 and asked[1].done())
    is_seen.set()
    await until(lambda: waiting.done() or (asked[0].done() and front.statistics("fast").queued == 1))
    front.engine_changed("fast", replace(engine, condition=EngineCondition.READY))
    assert isinstance(await waiting, Granted)
    assert front.statistics("fast").granted == 1


async def test_who_stood_long_in_line_is_asked_for_again_until_its_killed_scheduler_is_back(two):
    """How long it stood there says nothing of how long a start takes."""
    schedulers, wire = Schedulers([two.schedulers.of("slow")]), two.client._client
    wire.clock = two.clock
    waiting = asyncio.ensure_future(GrantClient(wire, schedulers, TOKEN, patient()).acquire(grant_request(pool="fast")))
    await until(lambda: two.stalling.calls == 1)
    two.clock.forward += 60.0
    two.stalling.released.set()
    await until(lambda: two.stalling.calls == 4 or waiting.done())
    assert not waiting.done()
    schedulers.learn(PoolLeader("fast", two.schedulers.of("fast"), 2))
    assert isinstance(await waiting, Granted)


async def test_a_leader_that_begins_anew_at_its_address_is_told_what_runs(two):
    told = []
    two.client.on_new_leader = lambda: told.append(fence)
    for fence in (1, 2, 2, 1, 3):
        two.schedulers.learn(PoolLeader("fast", two.schedulers.of("fast"), fence))
    assert told == [2, 3]


class FormerLine(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a report as it was before edges measured silence."""

    grant_id: str
    output_tokens: int
    ttft_ms: int | None = None


class FormerBody(msgspec.Struct, forbid_unknown_fields=True):
    grants: list[FormerLine]


async def test_a_scheduler_that_does_not_know_of_silence_yet_renews_all_the_same(two, monkeypatch):
    granted = await two.client.acquire(grant_request(pool="fast"))
    bodies, decode, clock = [], messages.decode, HandClock()
    clock.stop()
    two.client._client.clock = clock

    def former(content, kind):
        if kind is not messages.ProgressBody:
            return decode(content, kind)
        bodies.append(content)
        decode(content, FormerBody)
        return decode(content, kind)

    async def report(tokens):
        before = len(bodies)
        told = [GrantProgress(granted.grant_id, tokens, 90, 1_500)]
        assert (await two.client.progress(told)).unknown == ()
        assert two.front._live[granted.grant_id].output_tokens == tokens
        return [b"silent_ms" in each for each in bodies[before:]]

    monkeypatch.setattr(messages, "decode", former)
    assert [await report(tokens) for tokens in (1, 2, 3)] == [[True, False], [False], [False]]
    # It is asked again after a while, which is what an update of it takes to be seen.
    clock.forward += 61.0
    assert await report(4) == [True, False]
    monkeypatch.setattr(messages, "decode", lambda content, kind: bodies.append(content) or decode(content, kind))
    clock.forward += 61.0
    assert [await report(tokens) for tokens in (5, 6)] == [[True], [True]]


async def test_a_report_that_is_refused_in_any_form_is_not_taken_for_silence(two):
    granted = await two.client.acquire(grant_request(pool="fast"))
    with pytest.raises(ConnectionError):
        await two.client.progress([GrantProgress(granted.grant_id, -1, 90, 1_500)])
    assert two.client._plain_until == {}


async def test_the_pool_of_a_grant_is_kept_until_its_scheduler_said_the_last_word(two):
    granted = await two.client.acquire(grant_request(pool="fast"))
    two.client._note_pool("gnt_nobodys", "fast")
    assert (await two.client.settle("gnt_nobodys", OK)).code == "grant_unknown"
    await two.client.settle(granted.grant_id, OK)
    assert list(two.client._pool_of) == ["gnt_of_slow"]
    # What another scheduler takes over is settled there.
    again = format_id("gnt", IDS.new())
    taken = AdoptedGrant(grant_request("again", pool="fast"), again, granted.engine_id, 10, 1)
    assert (await two.client.adopt("edge", [taken])).adopted == 1
    assert (await two.client.settle(again, OK)).wasted_tokens == 0
    assert list(two.client._pool_of) == ["gnt_of_slow"]


async def test_a_stream_that_is_reported_keeps_its_pool_however_many_others_were_given_up(two):
    two.client._pools_kept_max = 3
    granted = await two.client.acquire(grant_request(pool="fast"))
    for number in range(6):
        await two.client.progress([GrantProgress(granted.grant_id, number)])
        two.client._note_pool(f"gnt_given_up_{number}", "fast")
    assert granted.grant_id in two.client._pool_of
    assert len(two.client._pool_of) == 3
