"""Pools: a grant for every request, renewed while it runs, given back once, and adopted by a new scheduler."""

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest

from interlock.contracts.scheduling import (
    BypassEngine,
    GrantProgress,
    GrantRequest,
    ProgressReply,
    Refused,
    ServiceClass,
    Settlement,
    SettleOutcome,
)
from interlock.foundation.audit import AuditLog
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import Evaluation, Kill, KillSwitches
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Scope
from interlock.foundation.wire import UpstreamError
from interlock.gateway import PoolEngine, register_engine
from interlock.gateway.adapters.bypass import BypassBroker
from interlock.gateway.config import EdgeConfig
from interlock.gateway.service.place import class_words, service_class
from interlock.scheduler import (
    EMBEDDED_OBJECTIVES,
    EngineSpec,
    Fault,
    FrontService,
    PoolSpec,
    SchedulerConfig,
    SchedulerServer,
    Script,
)
from interlock.scheduler.domain.types import EngineCondition
from interlock.scheduler.service.bypass import Bypass
from interlock.scheduler.service.pools import EngineWanted, PoolService
from tests.gateway.worlds import CLOCK, IDS, TOKEN, world
from tests.scheduler.calls import UNHURRIED
from tests.support.clocks import HandClock

POOL = "embedded"
# Where a caller is when it leaves, and what its story calls that.
PHASES = {"queued": "queued", "waiting": "prefill", "streaming": "decode"}

FEW_SEATS = SchedulerConfig(queue_seats_max=100, tenant_seat_share=0.01, lease_s=300.0)


@asynccontextmanager
async def scheduler(edge, slots=2, config=None, clock=CLOCK):
    """A real scheduler on the edge's socket, with the scripted engine as its only one."""
    socket = edge.folder / "engine.sock"
    url = f"unix:{socket}"
    if not socket.exists():
        await edge.engine.listen_unix(socket)
    spec = PoolSpec(POOL, UNHURRIED, (EngineSpec(url, "fake", slots, 2_048),))
    config = config or SchedulerConfig(lease_s=300.0)
    front = FrontService([spec], clock=clock, ids=IDS, config=config)
    for state in front.engines(POOL):
        front.engine_changed(POOL, ready(state))
    server = SchedulerServer(front, token=TOKEN, leader="scheduler-0", clock=clock, ids=IDS, config=config)
    await server.listen(edge.folder / "scheduler.sock")
    running = asyncio.create_task(front.run())
    try:
        yield front
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.drain(0.2)


def ready(state):
    return type(state)(
        **{name: getattr(state, name) for name in state.__dataclass_fields__} | {"condition": EngineCondition.READY}
    )


@pytest.fixture
async def edge(store, scope):
    async with world(store, scope, with_engine=False) as each:
        await register_engine(store, scope, PoolEngine(POOL, "fake"), clock=CLOCK, ids=IDS)
        await each.process.memory.reload()
        yield each


def counts(front):
    found = front.statistics(POOL)
    return found.queued, found.granted


def has_begun(edge):
    held = [each.grant for each in list(edge.process.edge._passages)]
    return any(grant is not None and grant.ttft_ms is not None for grant in held)


async def canceled(edge):
    """What the newest story tells of the place that its caller left: once the scheduler has it back."""
    async with asyncio.timeout(240):
        while not (told := [each.detail for each in (await edge.latest()).decisions if each.rule == "canceled"]):
            await CLOCK.sleep(0.05)
    return told


async def test_a_stream_runs_under_a_grant_and_its_story_tells_all_of_it(edge):
    async with scheduler(edge) as front:
        reply = await edge.chat(stream=True)
        assert reply.status == 200
        assert reply.events[-1] == "[DONE]"
        await edge.settled()
        assert counts(front) == (0, 0)
        assert front.statistics(POOL).settled == 1
        story = await edge.story(reply.request_id)
        await edge.shipper.run_once()
        story = await edge.story(reply.request_id)
    grant = [each.rule for each in story.decisions if each.step == "grant"]
    assert grant == ["arrived", "predicted", "queued", "granted", f"pool.{POOL}", "first_token", "settled"]
    assert story.timing.queue_ms is not None
    assert edge.engine.last_body["model"] == "fake"


async def test_without_a_scheduler_the_pool_has_no_capacity(edge):
    reply = await edge.chat()
    assert (reply.status, reply.body["error"]["code"]) == (503, "no_capacity")
    assert reply.headers["x-should-retry"] == "true"
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.rule) == ("overloaded", "scheduler.away")


async def test_an_unknown_pool_keeps_the_schedulers_own_status(edge):
    async with scheduler(edge):
        await register_engine(edge.store, edge.scope, PoolEngine("elsewhere", "fake"), clock=CLOCK, ids=IDS)
        # A reload that began before the change may still end after one that saw it; the feed's next look settles it.
        async with asyncio.timeout(240):
            while (reply := await edge.chat()).status == 200:
                await CLOCK.sleep(0.05)
        assert (reply.status, reply.body["error"]["code"]) == (404, "pool_unknown")


@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_leaves_gives_seat_and_slot_back(edge, phase):
    async with scheduler(edge, slots=1) as front:
        edge.engine.script = Script(tokens=100_000, first_token_s=600 if phase == "waiting" else 0, token_s=0.05)
        others = []
        if phase == "queued":
            others.append(asyncio.create_task(leave_after(edge)))
            await edge.until(lambda: counts(front) == (0, 1))
        mine = asyncio.create_task(leave_after(edge))
        expected = (1, 1) if phase == "queued" else (0, 1)
        await edge.until(lambda: counts(front) == expected)
        if phase == "streaming":
            await edge.until(lambda: has_begun(edge))
        mine.cancel()
        after = (0, 1) if phase == "queued" else (0, 0)
        await edge.until(lambda: counts(front) == after)
        for other in others:
            other.cancel()
        await asyncio.gather(mine, *others, return_exceptions=True)
        await edge.until(lambda: counts(front) == (0, 0))
        await edge.until(lambda: edge.engine.statistics().running == 0)
        await edge.until(lambda: not edge.process.edge._passages)
        assert (await edge.latest()).outcome == "client_gone"
        [said] = await canceled(edge)
        assert re.fullmatch(rf"phase={PHASES[phase]} slot_back_ms=\d+", said)


@pytest.mark.parametrize("is_overloaded", [False, True])
async def test_a_grant_on_its_way_to_a_caller_who_leaves_is_given_back(edge, is_overloaded):
    async with scheduler(edge) as front:
        acquire, cancel, told = front.acquire, front.cancel, []

        async def granted(request):
            answer = await acquire(request)
            # The answer goes out in this very step, to an edge whose client is gone.
            for passage in list(edge.process.edge._passages):
                passage.exchange._wire.drop()
            return answer

        async def canceled(request_id):
            told.append(request_id)
            if is_overloaded and len(told) == 1:
                raise InterlockError("no_capacity")
            await cancel(request_id)

        front.acquire, front.cancel = granted, canceled
        for _ in range(3):
            with pytest.raises(UpstreamError):
                await edge.chat(stream=True)
        await edge.until(lambda: len(set(told)) == 3 and counts(front) == (0, 0))
        await edge.until(lambda: not edge.process.edge._passages)
        assert front.statistics(POOL).settled == 3
        assert (await edge.latest()).outcome == "client_gone"


async def leave_after(edge):
    """Read a stream that nobody ends but its reader."""
    async with edge.streaming() as answer:
        async for _ in answer.chunks():
            pass


def switch_on(edge, scope="gateway", target="nobody", mode="reject"):
    """Turn on this switch alone, as a start state would."""
    stopping = Kill(
        id="kill_1", organization_id=SYSTEM_ORGANIZATION_ID, scope=scope, target=target, mode=mode, reason="a test",
        actor="a test", created_us=0,
    )  # fmt: skip
    edge.switches.load(msgspec.msgpack.encode((stopping,)))


async def test_a_switch_stops_a_pool_a_class_and_what_runs_on_an_engine(edge):
    async with scheduler(edge, slots=1) as front:
        for scope, target in (("pool", POOL), ("class", "interactive")):
            switch_on(edge, scope, target)
            reply = await edge.chat()
            assert (reply.status, reply.body["error"]["code"]) == (503, "killed")
            assert (await edge.story(reply.request_id)).rule == f"kill.{scope}.{target}"
        for scope, target in (("pool", "elsewhere"), ("class", "batch"), ("engine", "eng_elsewhere")):
            switch_on(edge, scope, target, "abort")
            assert (await edge.chat()).status == 200
        await edge.settled()
        edge.engine.script = Script(tokens=100_000, token_s=0.05)
        runs = asyncio.create_task(edge.chat(stream=True))
        await edge.until(lambda: counts(front) == (0, 1))
        waits = asyncio.create_task(edge.chat())
        await edge.until(lambda: counts(front) == (1, 1))
        switch_on(edge, "pool", POOL, "drain")
        assert ((await waits).status, counts(front)[1]) == (503, 1)
        [engine] = front.engines(POOL)
        switch_on(edge, "engine", engine.engine_id, "abort")
        assert '"code":"killed"' in (await runs).events[-1]
        await edge.until(lambda: counts(front) == (0, 0))


async def test_progress_keeps_the_lease_of_a_long_stream(edge):
    edge.engine.script = Script(tokens=100_000, token_s=0.05)
    clock = HandClock()
    clock.stop()
    heard = []
    async with scheduler(edge, config=SchedulerConfig(lease_s=10.0, tick_s=0.05), clock=clock) as front:
        progress = front.progress

        async def noted(reports):
            reply = await progress(reports)
            heard.append(clock.monotonic())
            return reply

        front.progress = noted
        task = asyncio.create_task(leave_after(edge))
        await edge.until(lambda: counts(front) == (0, 1))
        for _ in range(5):
            # Time stands still until the edge was heard at this moment; then most of a lease goes by.
            await edge.until(lambda: heard and heard[-1] == clock.monotonic())
            clock.forward += 8.0
        assert counts(front) == (0, 1)
        assert front.statistics(POOL).lost == 0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # The edge tells it after the client is gone.
        await edge.until(lambda: front.statistics(POOL).settled == 1)


async def test_a_new_scheduler_adopts_what_runs(edge):
    edge.engine.script = Script(tokens=100_000, token_s=0.05)
    async with scheduler(edge):
        task = asyncio.create_task(edge.chat(stream=True))
        await edge.until(lambda: edge.engine.statistics().tokens > 3)
    async with scheduler(edge) as front:
        await edge.until(lambda: counts(front) == (0, 1))
        await edge.until(lambda: edge.process.grants.statistics().adopted_total == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await edge.until(lambda: edge.engine.statistics().running == 0)
        await edge.settled()
        assert counts(front) == (0, 0)
        assert front.statistics(POOL).settled == 1


async def test_a_settlement_waits_for_a_scheduler_that_is_away(edge):
    edge.engine.script = Script(tokens=100_000, token_s=0.05)
    async with scheduler(edge):
        task = asyncio.create_task(edge.chat(stream=True))
        await edge.until(lambda: edge.engine.statistics().running == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await edge.until(lambda: edge.process.grants.statistics().settling == 1)
    async with scheduler(edge):
        await edge.settled()
    assert edge.process.grants.statistics().settled_total == 1


async def test_settlements_that_nobody_hears_are_given_up_said_and_ended_by_their_leases(edge):
    clock, few = HandClock(), 16
    clock.stop()
    grants = edge.process.grants
    grants._settlements._config = EdgeConfig(settlements_pool_max=few)
    async with scheduler(edge, slots=64, config=SchedulerConfig(lease_s=10.0, tick_s=0.05), clock=clock) as front:
        settle = grants._broker.settle

        async def away(*_):
            raise ConnectionError

        grants._broker.settle = away
        replies = [await edge.chat() for _ in range(few + 2)]
        assert [each.status for each in replies] == [200] * (few + 2)
        statistics = grants.statistics()
        assert (statistics.settling, statistics.settling_longest, statistics.dropped_total) == (few, few, 2)
        counted = {each.name: each.value for family in edge.process.edge._metrics.collect() for each in family.samples}
        assert counted["interlock_gateway_settlements_given_up_total"] == 2
        assert counted["interlock_gateway_settlements_waiting"] == few
        # One may be on its way; those behind it are the oldest.
        stories = [await edge.story(each.request_id) for each in replies[:3]]
        said = [each.rule for story in stories for each in story.decisions if each.verdict == "given_up"]
        assert said == ["unsettled", "unsettled"]
        assert front.statistics(POOL).granted == few + 2
        grants._broker.settle = settle
        await edge.settled()
        assert front.statistics(POOL).granted == 2
        clock.forward += 10.0
        await edge.until(lambda: counts(front) == (0, 0))
        assert (front.statistics(POOL).settled, front.statistics(POOL).lost) == (few, 2)


async def test_bodies_that_the_engine_refuses_do_not_count_against_it(edge):
    async with scheduler(edge) as front:
        edge.engine.script = Script(fault=Fault.RATE_LIMITED)
        for _ in range(6):
            assert (await edge.chat()).status == 429
        await edge.settled()
        assert not any(front.signs.is_suspect(each.engine_id) for each in front.engines(POOL))
        edge.engine.script = Script(fault=Fault.SERVER_ERROR)
        for _ in range(3):
            assert (await edge.chat()).status == 502
        await edge.settled()
        assert any(front.signs.is_suspect(each.engine_id) for each in front.engines(POOL))


async def test_a_refusal_of_the_scheduler_keeps_its_numbers(edge):
    edge.engine.script = Script(tokens=100_000, token_s=0.05)
    async with scheduler(edge, slots=1, config=FEW_SEATS) as front:
        running = [asyncio.create_task(leave_after(edge)) for _ in range(2)]
        await edge.until(lambda: counts(front) == (1, 1))
        refused = await edge.chat()
        assert (refused.status, refused.body["error"]["code"]) == (429, "tenant_queue_full")
        assert refused.body["interlock"]["pool"] == POOL
        assert int(refused.headers["retry-after-ms"]) > 0
        assert (await edge.story(refused.request_id)).outcome == "overloaded"
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Roster:
    """The engines that an edge finds by itself; None while the scheduler is asked."""

    def __init__(self, engines):
        self.engines = engines

    async def load(self):
        return None if self.engines is None else {POOL: self.engines}


class Asked:
    """A scheduler that notes what it is asked."""

    def __init__(self):
        self.calls = []

    async def acquire(self, request):
        self.calls.append(request.request_id)
        return Refused("no_capacity", 503, 1.0)

    async def progress(self, grants):
        self.calls += [each.grant_id for each in grants]
        return ProgressReply((), ())

    async def settle(self, grant_id, settlement):
        self.calls.append(grant_id)
        return Refused("grant_unknown", 404, None)


def bypassing(inner, engines, switches=None):
    stopped = switches or KillSwitches(None, CLOCK, None, b"")
    return BypassBroker(inner, Roster(engines), CLOCK, IDS, stopped, EdgeConfig(bypass_inflight_max=2))


def wanted(name):
    return GrantRequest(name, POOL, IDS.new(), IDS.new(), IDS.new(), ServiceClass.INTERACTIVE, 10, 10)


async def test_engines_take_turns_within_their_cap_and_one_that_failed_rests():
    asked, engines = Asked(), [BypassEngine(f"eng_{each}", f"http://{each}", "m", 64) for each in "ab"]
    broker = bypassing(asked, None)
    await broker.reload()
    await broker.acquire(wanted("before"))
    broker.source.engines = engines
    await broker.reload()
    grants = [await broker.acquire(wanted(str(number))) for number in range(5)]
    assert [each.engine_id for each in grants[:4]] == ["eng_a", "eng_b", "eng_a", "eng_b"]
    assert {each.promise for each in grants[:4]} == {"none"}
    assert (grants[4].code, grants[4].detail["rule"]) == ("no_capacity", "scheduler.bypass")
    assert (await broker.progress([GrantProgress(grants[0].grant_id, 1)])).unknown == ()
    for grant, outcome in zip(grants[:4], ("upstream_error", "ok", "ok", "ok"), strict=True):
        ended = Settlement(SettleOutcome(outcome), 10, 0, 5, None, 10)
        assert (await broker.settle(grant.grant_id, ended)).code == "grant_unknown"
    after = [await broker.acquire(wanted(f"after-{number}")) for number in range(3)]
    assert [each.engine_id for each in after[:2]] == ["eng_b", "eng_b"]
    assert after[2].code == "no_capacity"
    await broker.settle("gnt_of_the_scheduler", Settlement(SettleOutcome.OK, 10, 0, 5, 1, 10))
    assert asked.calls == ["before", "gnt_of_the_scheduler"]


async def test_without_the_scheduler_a_copy_takes_no_place_from_a_caller():
    broker = bypassing(Asked(), [BypassEngine("eng_a", "http://a", "m", 1)])
    await broker.reload()
    copied = await broker.acquire(replace(wanted("copy"), is_copy=True))
    assert (copied.code, copied.detail["rule"]) == ("no_capacity", "scheduler.bypass")
    assert (await broker.acquire(wanted("caller"))).engine_id == "eng_a"


async def test_without_the_scheduler_an_answer_says_that_nothing_was_promised(edge):
    socket = edge.folder / "bypass.sock"
    await edge.engine.listen_unix(socket)
    broker = bypassing(edge.process.grants._broker, [BypassEngine("eng_x", f"unix:{socket}", "fake", 2)], edge.switches)
    await broker.reload()
    edge.process.grants._broker = broker
    reply = await edge.chat()
    assert (reply.status, reply.headers["x-interlock-degraded"]) == (200, "reason=scheduler_bypass")
    story = await edge.story(reply.request_id)
    assert (story.outcome, story.rule) == ("ok_degraded", "scheduler.bypass")
    switch_on(edge, "engine", "eng_x")
    assert (await edge.chat()).body["error"]["code"] == "no_capacity"


async def test_what_no_scheduler_hears_keeps_no_place_of_the_bypass(edge):
    grants = edge.process.grants
    async with scheduler(edge):
        settle = grants._broker.settle

        async def away(*_):
            raise ConnectionError

        grants._broker.settle = away
        assert (await edge.chat()).status == 200
        await edge.until(lambda: grants.statistics().settling == 1)
    engine = BypassEngine("eng_x", f"unix:{edge.folder / 'engine.sock'}", "fake", 2)
    broker = bypassing(grants._broker, [engine], edge.switches)
    await broker.reload()
    usual, grants._broker = grants._broker, broker
    for _ in range(5):
        # Each gives its place back, though what the scheduler has to hear waits for it.
        assert (await edge.chat()).status == 200
        await edge.until(lambda: grants.statistics().settling == 1)
    assert broker._uses["eng_x"].inflight == 0
    grants._broker, usual.settle = usual, settle
    async with scheduler(edge):
        await edge.settled()


class OneFlag:
    """The flags of the platform, of which one is set."""

    value = None

    async def reload(self):
        """Nothing changes by itself."""

    def evaluate(self, name, organization_id, workspace_id):
        assert organization_id == SYSTEM_ORGANIZATION_ID
        is_asked = name == "scheduler.bypass" and self.value is not None
        return Evaluation(self.value, "on", "default") if is_asked else None


async def test_the_engines_of_a_bypass_are_those_that_are_declared_and_not_drained(store):
    pools, name, flags = PoolService(AuditLog(CLOCK, Redactor([])), CLOCK, IDS), f"pool-{IDS.new().hex}", OneFlag()
    operator = Principal(IDS.new(), PrincipalKind.SYSTEM, SYSTEM_ORGANIZATION_ID, is_platform_operator=True)
    async with store.transaction(Scope(SYSTEM_ORGANIZATION_ID, ALL_WORKSPACES, operator)) as tx:
        await pools.add(tx, name, EMBEDDED_OBJECTIVES)
        engines = [EngineWanted(url, "vllm", "m", 8, 2_048, None, 1_000, None, 0.0) for url in ("http://a", "http://b")]
        drained, _ = [await pools.add_engine(tx, name, each) for each in engines]
        await pools.drain_engine(tx, name, drained, is_draining=True)
    source = Bypass(store, flags)
    assert await source.load() is None
    flags.value = False
    assert await source.load() is None
    flags.value = True
    assert [(each.url, each.model, each.slots) for each in (await source.load())[name]] == [("http://b", "m", 8)]
    async with store.transaction(Scope(SYSTEM_ORGANIZATION_ID, ALL_WORKSPACES, operator)) as tx:
        await pools.remove(tx, name)


@pytest.mark.parametrize(
    ("asked", "class_max", "told"),
    [
        (None, None, "class interactive"),
        (b"batch", "standard", "class batch"),
        (b"interactive", "standard", "class standard, lowered from interactive by the key's class_max"),
        (None, "batch", "class batch, lowered from interactive by the key's class_max"),
    ],
)
def test_a_story_tells_when_a_class_was_lowered(asked, class_max, told):
    assert class_words(asked, service_class(asked, class_max)) == told
