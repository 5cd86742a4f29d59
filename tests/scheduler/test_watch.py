"""Engines that come, hang, break and come back, seen by the watch; the engines are scripted, the sockets real."""

import asyncio
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.contracts.scheduling import AdoptedGrant, Granted, GrantProgress, Settlement, SettleOutcome
from interlock.scheduler import (
    EngineSpec,
    EngineWatch,
    FakeEngine,
    Fault,
    FrontService,
    HttpProbe,
    PoolSpec,
    SchedulerConfig,
    Script,
)
from interlock.scheduler.domain.types import EngineCondition
from interlock.scheduler.service.signs import Signs
from interlock.scheduler.service.specs import without_killed
from tests.scheduler.calls import TOKEN, UNHURRIED, grant_request
from tests.support.clocks import HandClock

# What answers may take its time on a busy machine; who waits for what hangs says so by `hastily`.
CONFIG = SchedulerConfig(probe_timeout_s=60.0, canary_timeout_s=240.0, engine_start_s=0.0)
HASTY = replace(CONFIG, canary_timeout_s=0.3)


SILENT_MS = round(CONFIG.engine_silent_s * 1_000)
TIMED_OUT = Settlement(SettleOutcome.TIMEOUT, 10, 0, 5, 90, 900)


class Pair:
    """A front that watches one scripted engine."""

    def __init__(self, fake, front, watch, hasty):
        self.fake = fake
        self.front = front
        self.watch = watch
        self._hasty = hasty

    @contextmanager
    def hastily(self):
        """Give up soon what does not come: within this block it never does."""
        self.watch._probe, usual = self._hasty, self.watch._probe
        try:
            yield
        finally:
            self.watch._probe = usual

    async def fail(self, times, **changes):
        """Use grants that end without a byte."""
        figures = replace(Settlement(SettleOutcome.UPSTREAM_ERROR, 1, 0, 0, None, 5), **changes)
        for number in range(times):
            grant = await self.front.acquire(grant_request(f"req_{number}"))
            await self.front.settle(grant.grant_id, figures)

    async def look(self):
        await self.watch.run_once()
        [engine] = self.front.engines("embedded")
        return engine.condition


@pytest.fixture
async def pair(short_path, clock, ids, client):
    fake = FakeEngine(Script(tokens=3), clock=clock, ids=ids, token=TOKEN)
    url = await fake.listen_unix(short_path / "fake.sock")
    spec = PoolSpec("embedded", UNHURRIED, (EngineSpec(url, "fake", 2, 2_048),))
    front = FrontService([spec], clock=clock, ids=ids, config=CONFIG)
    probe = HttpProbe(client, token=TOKEN, config=CONFIG)
    hasty = HttpProbe(client, token=TOKEN, config=HASTY)
    yield Pair(fake, front, EngineWatch(front, probe, clock=clock, config=CONFIG), hasty)
    await fake.close()


async def test_an_engine_is_ready_after_one_canary_completion(pair):
    assert pair.front.engines("embedded")[0].condition is EngineCondition.STARTING
    assert await pair.look() is EngineCondition.READY
    assert pair.fake.statistics().requests == 1
    assert pair.fake.last_body["max_tokens"] == 4
    await pair.look()
    assert pair.fake.statistics().requests == 1


@pytest.mark.parametrize("fault", list(Fault))
async def test_an_engine_that_answers_wrong_is_never_ready(pair, fault):
    pair.fake.script = replace(pair.fake.script, fault=fault)
    with pair.hastily() if fault is Fault.HANG else nullcontext():
        assert await pair.look() is EngineCondition.DOWN
        assert await pair.look() is EngineCondition.DOWN
    pair.fake.script = replace(pair.fake.script, fault=None)
    assert await pair.look() is EngineCondition.READY


async def test_an_engine_without_text_is_not_ready(pair):
    pair.fake.script = Script(tokens=0)
    assert await pair.look() is EngineCondition.DOWN


async def test_two_failed_probes_take_an_engine_down_and_one_good_one_with_a_canary_brings_it_back(
    pair, short_path, clock, ids
):
    assert await pair.look() is EngineCondition.READY
    await pair.fake.close()
    assert await pair.look() is EngineCondition.READY
    assert await pair.look() is EngineCondition.DOWN
    again = FakeEngine(Script(), clock=clock, ids=ids, token=TOKEN)
    await again.listen_unix(short_path / "fake.sock")
    assert await pair.look() is EngineCondition.READY
    assert again.statistics().requests == 1
    await again.close()


async def test_an_engine_that_is_not_there_at_the_start_is_down_after_two_looks(pair):
    await pair.fake.close()
    assert await pair.look() is EngineCondition.STARTING
    assert await pair.look() is EngineCondition.DOWN


async def test_a_call_waits_for_an_engine_that_still_loads(pair, short_path, clock, ids):
    """While the platform starts, the engine is the last to answer; nobody is refused for that."""
    await pair.fake.close()
    patient = EngineWatch(pair.front, pair.watch._probe, clock=clock, config=SchedulerConfig(engine_start_s=3_600.0))
    call = asyncio.create_task(pair.front.acquire(grant_request()))
    for _ in range(5):
        await patient.run_once()
    assert not call.done()
    late = FakeEngine(Script(), clock=clock, ids=ids, token=TOKEN)
    await late.listen_unix(short_path / "fake.sock")
    await patient.run_once()
    assert isinstance(await call, Granted)
    await late.close()


async def test_calls_wait_for_the_canary_of_an_engine_that_came_back_but_not_for_one_that_failed_it(
    pair, short_path, clock, ids
):
    await pair.look()
    await pair.fake.close()
    for _ in range(2):
        await pair.look()
    again = FakeEngine(Script(first_token_s=0.1), clock=clock, ids=ids, token=TOKEN)
    await again.listen_unix(short_path / "fake.sock")
    looking = asyncio.create_task(pair.look())
    while not again.statistics().requests:
        await clock.sleep(0.005)
    assert isinstance(await pair.front.acquire(grant_request("req_a")), Granted)
    assert await looking is EngineCondition.READY
    again.script = Script(fault=Fault.HANG)
    await pair.fail(3)
    with pair.hastily():
        assert await pair.look() is EngineCondition.DOWN
        looking = asyncio.create_task(pair.look())
        await clock.sleep(0.05)
        assert (await pair.front.acquire(grant_request("req_b"))).code == "no_capacity"
        assert await looking is EngineCondition.DOWN
    await again.close()


async def test_a_call_that_comes_before_the_first_look_waits_for_it(pair):
    """So a scheduler that was killed and started again loses none of the calls that reconnect at once."""
    call = asyncio.create_task(pair.front.acquire(grant_request()))
    await pair.look()
    assert isinstance(await call, Granted)


async def test_streams_that_a_new_leader_adopts_are_not_revoked_by_a_canary_that_waits_behind_them(pair):
    pair.fake.script = Script(fault=Fault.HANG)
    [engine] = pair.front.engines("embedded")
    adopted = AdoptedGrant(grant_request(), "gnt_0000000000000000000000000a", engine.engine_id, 900, 4)
    await pair.front.adopt("edge-0", [adopted])
    with pair.hastily():
        assert await pair.look() is EngineCondition.STARTING
    reply = await pair.front.progress([GrantProgress(adopted.grant_id, 5)])
    assert (reply.unknown, reply.revoked) == ((), ())
    pair.fake.script = Script()
    assert await pair.look() is EngineCondition.READY


async def test_streams_that_a_new_leader_adopts_prove_their_engine_before_the_canary_does(pair):
    """The canary waits behind them for a slot, and nobody has to wait for that."""
    [engine] = pair.front.engines("embedded")
    pair.fake.script = Script(fault=Fault.HANG)
    running = AdoptedGrant(grant_request("req_old"), "gnt_a", engine.engine_id, 900, 4)
    await pair.front.adopt("edge-0", [running])
    looking = asyncio.create_task(pair.look())
    tokens = 4
    async with asyncio.timeout(240):
        while not looking.done():
            tokens += 1
            await pair.front.progress([GrantProgress("gnt_a", tokens, 90)])
            await asyncio.sleep(0.02)
    assert await looking is EngineCondition.READY


async def test_tokens_from_before_a_leader_began_prove_nothing_of_an_engine_that_stands_still_now(pair):
    [engine] = pair.front.engines("embedded")
    pair.fake.script = Script(fault=Fault.HANG)
    await pair.front.adopt("edge-0", [AdoptedGrant(grant_request("req_old"), "gnt_a", engine.engine_id, 900, 4)])
    with pair.hastily():
        looking = asyncio.create_task(pair.look())
        while not looking.done():
            await pair.front.progress([GrantProgress("gnt_a", 4, 90)])
            await asyncio.sleep(0.02)
        assert await looking is EngineCondition.STARTING


async def test_an_engine_that_is_declared_while_the_watch_rests_is_looked_at_at_once(pair, clock):
    """So that a new leader, who declares its pools a moment after it began, grants as soon as it may."""
    [url] = [each.url for each in pair.front.engines("embedded")]
    pair.front.leave("embedded")
    rests_long = replace(CONFIG, probe_interval_s=3_600.0, probe_starting_s=3_600.0)
    running = asyncio.create_task(EngineWatch(pair.front, pair.watch._probe, clock=clock, config=rests_long).run())
    for _ in range(3):
        await asyncio.sleep(0)
    pair.front.declare(PoolSpec("embedded", UNHURRIED, (EngineSpec(url, "fake", 2, 2_048),)))
    async with asyncio.timeout(240):
        assert isinstance(await pair.front.acquire(grant_request()), Granted)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_three_connect_errors_take_a_dead_engine_down_at_the_first_look(pair):
    assert await pair.look() is EngineCondition.READY
    await pair.fake.close()
    await pair.fail(3)
    assert await pair.look() is EngineCondition.DOWN
    refused = await pair.front.acquire(grant_request("req_next"))
    assert (refused.code, refused.retry_after_s) == ("no_capacity", 5.0)


async def test_an_engine_that_lists_its_models_but_answers_nothing_goes_down(pair):
    assert await pair.look() is EngineCondition.READY
    pair.fake.script = Script(fault=Fault.SERVER_ERROR)
    await pair.fail(2)
    assert await pair.look() is EngineCondition.READY
    await pair.fail(1)
    assert await pair.look() is EngineCondition.DOWN


async def test_requests_that_no_engine_would_answer_do_not_take_it_from_the_others(pair):
    assert await pair.look() is EngineCondition.READY
    for _ in range(3):
        await pair.fail(3)
        assert await pair.look() is EngineCondition.READY
    assert pair.fake.statistics().requests == 4


async def test_grants_that_got_an_answer_end_the_suspicion(pair):
    assert await pair.look() is EngineCondition.READY
    await pair.fail(2)
    await pair.fail(1, outcome=SettleOutcome.OK, ttft_ms=5)
    await pair.fail(2)
    await pair.look()
    assert pair.fake.statistics().requests == 1


async def test_the_internal_token_is_not_sent_to_a_url(clock, ids, client):
    fake = FakeEngine(Script(), clock=clock, ids=ids, token=TOKEN)
    url = await fake.listen()
    spec = PoolSpec("embedded", UNHURRIED, (EngineSpec(url, "fake", 2, 2_048),))
    front = FrontService([spec], clock=clock, ids=ids, config=CONFIG)
    assert not await HttpProbe(client, token=TOKEN, config=CONFIG).is_alive(front.engines("embedded")[0])
    await fake.close()


def test_an_engine_that_a_switch_stops_gets_no_grants_until_it_is_lifted(clock, ids):
    engines = tuple(EngineSpec(url, "m", 2, 2_048) for url in ("http://a", "http://b"))
    spec = PoolSpec("fast", UNHURRIED, engines)
    front = FrontService([spec], clock=clock, ids=ids, config=CONFIG)
    one, other = (each.engine_id for each in front.engines("fast"))
    for killed, condition in (({one}, EngineCondition.DRAINING), (set(), EngineCondition.STARTING)):
        for declared in without_killed([spec], killed):
            front.declare(declared)
        conditions = {each.engine_id: each.condition for each in front.engines("fast")}
        assert conditions == {one: condition, other: EngineCondition.STARTING}


async def test_what_runs_on_a_drained_engine_goes_on_and_ends_after_five_minutes(pair):
    assert await pair.look() is EngineCondition.READY
    grant = await pair.front.acquire(grant_request())
    [engine] = pair.front.engines("embedded")
    spec = PoolSpec("embedded", UNHURRIED, (EngineSpec(engine.url, "fake", 2, 2_048, is_draining=True),))
    pair.front.declare(spec)

    async def revoked_after(seconds):
        pair.watch._clock.forward = seconds
        assert await pair.look() is EngineCondition.DRAINING
        return (await pair.front.progress([GrantProgress(grant.grant_id, 1)])).revoked

    pair.watch._clock = HandClock()
    pair.watch._clock.stop()
    assert await revoked_after(0) == ()
    assert await revoked_after(299) == ()
    assert await revoked_after(300) == (grant.grant_id,)
    await pair.front.settle(grant.grant_id, Settlement(SettleOutcome.TIMEOUT, 1, 0, 1, None, 5))
    assert pair.front.slots_of("embedded", engine.engine_id)[0] == 0


class Meanwhile(HttpProbe):
    """A probe that something else happens beside."""

    def __init__(self, client, happens, *, at_canary):
        super().__init__(client, token=TOKEN, config=CONFIG)
        self._happens, self._at_canary = happens, at_canary

    async def is_alive(self, engine):
        if not self._at_canary:
            self._happens()
        return await super().is_alive(engine)

    async def answers(self, engine):
        if self._at_canary:
            self._happens()
        return await super().answers(engine)


@pytest.mark.parametrize("is_draining", [True, False])
async def test_what_is_declared_of_an_engine_amid_its_canary_stays(pair, client, is_draining):
    """A drain, of an operator or of a switch, is not lifted by a look that began before it; nor are figures undone."""
    [engine] = pair.front.engines("embedded")
    declared = PoolSpec("embedded", UNHURRIED, (EngineSpec(engine.url, "fake", 1, 2_048, is_draining=is_draining),))
    usual = pair.watch._probe
    pair.watch._probe = Meanwhile(client, lambda: pair.front.declare(declared), at_canary=True)
    assert await pair.look() is (EngineCondition.DRAINING if is_draining else EngineCondition.READY)
    assert pair.front.engines("embedded")[0].slots == 1
    pair.watch._probe = usual
    assert await pair.look() is (EngineCondition.DRAINING if is_draining else EngineCondition.READY)


async def test_an_engine_that_is_given_work_again_amid_a_look_is_not_drained_by_its_end(pair, client):
    assert await pair.look() is EngineCondition.READY
    grant = await pair.front.acquire(grant_request())
    [engine] = pair.front.engines("embedded")
    drained, again = (
        PoolSpec("embedded", UNHURRIED, (EngineSpec(engine.url, "fake", 2, 2_048, is_draining=each),))
        for each in (True, False)
    )
    pair.front.declare(drained)
    pair.watch._clock = HandClock()
    pair.watch._clock.stop()
    assert await pair.look() is EngineCondition.DRAINING
    pair.watch._clock.forward = CONFIG.drain_s
    pair.watch._probe = Meanwhile(client, lambda: pair.front.declare(again), at_canary=False)
    assert await pair.look() is EngineCondition.STARTING
    assert (await pair.front.progress([GrantProgress(grant.grant_id, 1)])).revoked == ()


async def streams(pair, *names):
    """Grants whose streams have begun."""
    assert await pair.look() is EngineCondition.READY
    granted = [await pair.front.acquire(grant_request(each)) for each in names]
    await pair.front.progress([GrantProgress(each.grant_id, 3, 90) for each in granted])
    return [each.grant_id for each in granted]


def let_pass(pair, seconds):
    """Let time pass for the front and the watch, and for nobody else."""
    if not isinstance(pair.front._clock, HandClock):
        pair.front._clock = pair.watch._clock = HandClock()
    pair.front._clock.forward += seconds


async def test_an_engine_whose_streams_all_stand_still_is_down_though_it_answers_probes(pair):
    one, other = await streams(pair, "req_a", "req_b")
    [engine] = pair.front.engines("embedded")
    let_pass(pair, CONFIG.engine_silent_s)
    pair.fake.script = Script(fault=Fault.HANG)
    await pair.front.progress([GrantProgress(one, 3, 90, SILENT_MS), GrantProgress(other, 3, 90, SILENT_MS - 1)])
    with pair.hastily():
        assert await pair.look() is EngineCondition.READY
        reply = await pair.front.progress([GrantProgress(other, 3, 90, SILENT_MS)])
        assert reply.revoked == ()
        # Its pages answer; the canary hangs as the streams do, and nobody waits for such an engine.
        assert await pair.look() is EngineCondition.DOWN
        assert (await pair.front.acquire(grant_request("req_c"))).code == "no_capacity"
        reply = await pair.front.progress([GrantProgress(each, 3, 90, SILENT_MS) for each in (one, other)])
        assert (set(reply.revoked), reply.drained) == ({one, other}, ())
        assert await pair.look() is EngineCondition.DOWN
    for each in (one, other):
        settled = await pair.front.settle(each, TIMED_OUT)
        assert (settled.in_slo, settled.wasted_tokens) == (False, 15)
    statistics = pair.front.statistics("embedded")
    assert (statistics.granted, statistics.engines[0].prefill_left, statistics.engines[0].kv_reserved) == (0, 0, 0)
    pair.fake.script = Script()
    assert await pair.look() is EngineCondition.READY
    granted = [await pair.front.acquire(grant_request(f"req_{each}")) for each in range(engine.slots)]
    assert all(isinstance(each, Granted) for each in granted)
    await pair.front.progress([GrantProgress(each.grant_id, 1, 90) for each in granted])
    assert await pair.look() is EngineCondition.READY


async def test_an_engine_that_completes_its_canary_may_hold_the_tokens_of_a_stream_back(pair):
    (one,) = await streams(pair, "req_a")
    asked, half = pair.fake.statistics().requests, CONFIG.engine_silent_s / 2
    for number in range(1, 7):
        let_pass(pair, half)
        await pair.front.progress([GrantProgress(one, 3, 90, round(number * half * 1_000))])
        assert await pair.look() is EngineCondition.READY
        # Asked once each half of the time, not at each look.
        assert await pair.look() is EngineCondition.READY
        assert pair.fake.statistics().requests == asked + number
    pair.fake.script = Script(fault=Fault.HANG)
    let_pass(pair, 2 * half)
    await pair.front.progress([GrantProgress(one, 3, 90, round(8 * half * 1_000))])
    with pair.hastily():
        assert await pair.look() is EngineCondition.DOWN
    reply = await pair.front.progress([GrantProgress(one, 3, 90, round(8 * half * 1_000))])
    assert reply.revoked == (one,)


@pytest.mark.parametrize("proof", ["a token", "a slow reader", "a whole answer", "a scheduler that stood still"])
async def test_an_engine_of_which_that_is_not_known_is_not_silent(pair, proof):
    one, other = await streams(pair, "req_a", "req_b")
    reports = {
        "a token": [GrantProgress(one, 3, 90, 3 * SILENT_MS), GrantProgress(other, 4, 90)],
        # Its edge does not read on, so it does not know.
        "a slow reader": [GrantProgress(one, 3, 90), GrantProgress(other, 3, 90)],
        "a whole answer": [GrantProgress(one, 0), GrantProgress(other, 0)],
        # What came meanwhile waits to be read by it.
        "a scheduler that stood still": [],
    }
    if proof == "a scheduler that stood still":
        await pair.front.progress([GrantProgress(each, 3, 90, 250) for each in (one, other)])
    let_pass(pair, 3 * CONFIG.engine_silent_s)
    await pair.front.progress(reports[proof])
    assert await pair.look() is EngineCondition.READY


async def test_an_engine_that_reads_a_long_prompt_may_be_silent_for_as_long_as_that_takes(pair, clock, ids):
    [engine] = pair.front.engines("embedded")
    slow = EngineSpec(engine.url, "fake", 2, 2_048, prefill_tps=100)
    pair.front = pair.watch._front = FrontService(
        [PoolSpec("embedded", UNHURRIED, (slow,))], clock=clock, ids=ids, config=CONFIG
    )
    (one,) = await streams(pair, "req_a")
    unread = await pair.front.acquire(grant_request("req_b", input_tokens=1_500))
    for silent_ms, condition in (
        (SILENT_MS + 14_000, EngineCondition.READY),
        (SILENT_MS + 16_000, EngineCondition.DOWN),
    ):
        let_pass(pair, silent_ms / 1_000)
        await pair.front.progress([GrantProgress(one, 3, 90, silent_ms), GrantProgress(unread.grant_id, 0)])
        pair.fake.script = Script(fault=Fault.HANG)
        with pair.hastily():
            assert await pair.look() is condition


async def test_a_drained_engine_that_stands_still_gives_its_grants_back_and_stays_drained(pair):
    (one,) = await streams(pair, "req_a")
    [engine] = pair.front.engines("embedded")
    pair.front.declare(PoolSpec("embedded", UNHURRIED, (EngineSpec(engine.url, "fake", 2, 2_048, is_draining=True),)))
    let_pass(pair, CONFIG.engine_silent_s)
    await pair.front.progress([GrantProgress(one, 3, 90, SILENT_MS)])
    pair.fake.script = Script(fault=Fault.HANG)
    with pair.hastily():
        assert await pair.look() is EngineCondition.DRAINING
    reply = await pair.front.progress([GrantProgress(one, 3, 90, SILENT_MS)])
    assert reply.revoked == reply.drained == (one,)


async def test_an_engine_that_keeps_its_canary_waiting_delays_no_look_at_another(pair, clock, ids, short_path):
    pair.fake.script = Script(fault=Fault.HANG)
    other = FakeEngine(Script(), clock=clock, ids=ids, token=TOKEN)
    url = await other.listen_unix(short_path / "other.sock")
    [engine] = pair.front.engines("embedded")
    specs = tuple(EngineSpec(each, "fake", 2, 2_048) for each in (engine.url, url))
    pair.front.declare(PoolSpec("embedded", UNHURRIED, specs))
    pair.watch._config = replace(CONFIG, probe_interval_s=0.05, probe_starting_s=0.01)
    running = asyncio.create_task(pair.watch.run())

    async def until(condition):
        async with asyncio.timeout(240):
            while {each.url: each.condition for each in pair.front.engines("embedded")}[url] is not condition:
                await asyncio.sleep(0.01)

    await until(EngineCondition.READY)
    await other.close()
    await until(EngineCondition.DOWN)
    assert pair.fake.statistics().running == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class SilenceModel:
    """What is known of the streams of one engine, told slowly."""

    def __init__(self, silent_s):
        self.silent_s, self.moved_s, self.streams = silent_s, 0.0, {}

    def is_silent(self, now_s):
        known = [each for each in self.streams.values() if each is not None]
        waits = bool(known) and all(each >= self.silent_s * 1_000 for each in known)
        return waits and now_s - self.moved_s >= self.silent_s


REPORTS = st.lists(
    st.tuples(
        st.sampled_from(["grown", "waits", "unknown", "ended", "acquitted"]),
        st.sampled_from("abc"),
        st.sampled_from([0, 5_000, 9_999, 10_000, 12_000]),
        st.sampled_from([0.0, 0.25, 4.0, 10.0]),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(REPORTS)
def test_an_engine_is_silent_when_all_that_wait_for_it_have_done_so_too_long(reports):
    signs, model, now_s, is_known = Signs(CONFIG), SilenceModel(CONFIG.engine_silent_s), 0.0, False
    for kind, grant, silent_ms, passed_s in reports:
        now_s += passed_s
        if kind == "ended":
            signs.forget(grant)
            model.streams.pop(grant, None)
        elif kind == "acquitted":
            signs.acquit("eng")
            model.streams.clear()
            is_known = False
        else:
            told = GrantProgress(grant, 1, 90, silent_ms if kind == "waits" else None)
            signs.reported(now_s, "eng", told, has_grown=kind == "grown")
            if kind == "grown" or not is_known:
                model.moved_s = now_s
            is_known = True
            model.streams[grant] = {"grown": 0, "waits": silent_ms, "unknown": None}[kind]
        assert signs.is_silent(now_s, "eng") is model.is_silent(now_s)
