"""What the leader of a pool does with a candidate: feeds a shadow, judges a canary, lets go of both, writes nothing."""

import asyncio
from dataclasses import replace
from uuid import UUID

import msgspec

from interlock.contracts.scheduling import Refused, Settlement, SettleOutcome
from interlock.foundation.ids import WorkspaceId
from interlock.scheduler import EngineSpec, FrontService, PoolSpec, SchedulerConfig
from interlock.scheduler.domain.arms import ArmName, arm_of
from interlock.scheduler.domain.decisions import RecordedPolicy
from interlock.scheduler.domain.types import EngineCondition
from interlock.scheduler.domain.versions import Candidate, PoolSettings
from interlock.scheduler.service.trials import HELD_MAX, Ended
from tests.scheduler.calls import UNHURRIED, grant_request
from tests.support.clocks import HandClock


class Led:
    """A front that leads one pool, whose clock stands still but for what a test lets pass."""

    def __init__(self, ids, *, slots=2):
        self.clock = HandClock()
        self.clock.stop()
        # Nobody looks at the canary but the test.
        config = SchedulerConfig(canary_look_s=3_600.0, shadow_calls_max=400)
        self.front = FrontService([], clock=self.clock, ids=ids, config=config)
        self.spec = PoolSpec("fast", UNHURRIED, (EngineSpec("http://a", "m", slots, 4_096, prefill_tps=1_000),))
        self.front.declare(self.spec)
        [state] = self.front.engines("fast")
        self.front.engine_changed("fast", replace(state, condition=EngineCondition.READY))
        self.calls = 0

    def tries(self, candidate):
        self.spec = replace(self.spec, candidate=candidate)
        self.front.declare(self.spec)

    def view(self):
        return self.front.trials.view("fast")

    def ask(self, *, arm=None, share_bp=5_000):
        """Ask for a place, for a workspace of an arm where that matters."""
        self.calls += 1
        spaces = (UUID(int=number) for number in range(1, 1_000))
        own = next(each for each in spaces if arm is None or arm_of(f"fast:{other().salt}", each, share_bp) is arm)
        request = replace(grant_request(f"r{self.calls}", pool="fast"), workspace_id=WorkspaceId(own))
        return asyncio.ensure_future(self.front.acquire(request))

    async def serve(self, *, arm=None, outcome=SettleOutcome.OK):
        granted = await self.ask(arm=arm)
        figures = Settlement(outcome, 10, 0, 5, 100, 900)
        return await self.front.settle(granted.grant_id, figures)

    async def end(self):
        """What the leader tells of the first try that it ended."""
        told = asyncio.Queue()
        loop = asyncio.ensure_future(self.front.trials.verdicts(told.put))
        try:
            return await told.get()
        finally:
            loop.cancel()


def other(number=1, share_bp=None, policy="fcfs"):
    return Candidate(number, PoolSettings(policy, 0.8, UNHURRIED), share_bp)


async def test_a_shadow_hears_what_the_front_decides_and_is_gone_when_it_is_dropped(ids):
    led = Led(ids)
    led.tries(other(policy="interlock"))
    for _ in range(5):
        await led.serve()
    assert led.view()["shadow"]["unheard"] > 10
    assert led.front.trials.feed() is False
    shown = led.view()
    assert (shown["stage"], shown["is_running"], shown["shadow"]["requests"]) == ("shadow", True, 5)
    assert shown["shadow"]["live"] == shown["shadow"]["candidate"] == {"granted": 5, "refused": 0}
    led.tries(None)
    assert led.view()["number"] is None
    assert led.front._pools["fast"].policy.tap is None
    await led.serve()


async def test_a_shadow_that_raises_or_falls_behind_is_dropped_and_the_pool_goes_on(ids):
    led = Led(ids)
    led.tries(other(1))
    led.front.trials._trials["fast"].shadow.hear = lambda _call: 1 / 0
    await led.serve()
    led.front.trials.feed()
    assert await led.end() == Ended("fast", 1, "failed", {"reason": "ZeroDivisionError: division by zero"})
    assert (led.view()["stage"], led.view()["is_running"]) == ("failed", False)
    assert (await led.serve()).in_slo
    led.tries(other(2))
    for _ in range(150):
        await led.serve()
    led.front.trials.feed()
    ended = await led.end()
    assert (ended.number, ended.stage, "calls behind" in ended.verdict["reason"]) == (2, "failed", True)


async def test_a_shadow_whose_calls_are_dear_lets_others_go_first(ids):
    led = Led(ids)
    led.tries(other())
    for _ in range(5):
        await led.serve()
    waiting, heard = led.view()["shadow"]["unheard"], []

    def dear(call):
        heard.append(call)
        led.clock.forward += 0.003

    led.front.trials._trials["fast"].shadow.hear = dear
    assert led.front.trials.feed() is True
    assert len(heard) == 2
    while led.front.trials.feed():
        pass
    assert len(heard) == waiting


async def test_a_try_waits_until_the_pool_holds_few_enough_to_be_copied(ids):
    led = Led(ids, slots=1)
    held = [led.ask() for _ in range(HELD_MAX + 1)]
    await asyncio.sleep(0)
    led.tries(other())
    assert (led.view()["stage"], led.view()["is_running"]) == ("shadow", False)
    for each in held[1:]:
        each.cancel()
    await asyncio.gather(*held[1:], return_exceptions=True)
    led.front.run_once()
    assert led.view()["is_running"] is True
    await led.front.settle((await held[0]).grant_id, Settlement(SettleOutcome.OK, 10, 0, 5, 100, 900))


async def test_a_canary_decides_for_its_workspaces_and_is_rolled_back_when_it_keeps_fewer_promises(ids):
    led = Led(ids)
    led.tries(other(share_bp=5_000))
    for _ in range(60):
        assert (await led.serve(arm=ArmName.LIVE)).in_slo
    led.front.trials.look_once()
    assert led.view()["is_running"] is True
    for _ in range(30):
        assert not (await led.serve(arm=ArmName.CANDIDATE, outcome=SettleOutcome.UPSTREAM_ERROR)).in_slo
    shown = led.view()["canary"]
    assert (shown["live"]["judged"], shown["live"]["kept"]) == (60, 60)
    assert (shown["candidate"]["judged"], shown["candidate"]["kept"]) == (30, 0)
    led.front.trials.look_once()
    ended = await led.end()
    assert (ended.stage, ended.verdict["look"], ended.verdict["candidate"]) == ("rolled_back", 2, shown["candidate"])
    # From this moment on it decides nothing; the store may be told later.
    led.front.run_once()
    assert isinstance(led.front._pools["fast"].policy, RecordedPolicy)
    assert (await led.serve(arm=ArmName.CANDIDATE)).in_slo
    assert led.view()["canary"]["candidate"]["judged"] == 30
    msgspec.json.encode(ended.verdict)


def failed(led, number=1, share_bp=5_000):
    """Let a canary run and break."""
    led.tries(other(number, share_bp))
    led.front._pools["fast"].policy.failure = "planted"
    led.front.run_once()
    assert led.view()["stage"] == "failed"


async def test_who_widens_what_was_just_ended_widens_nothing(ids):
    led = Led(ids)
    failed(led)
    led.tries(other(2, 9_000))
    assert (led.view()["number"], led.view()["stage"]) == (2, "failed")
    led.front.run_once()
    assert isinstance(led.front._pools["fast"].policy, RecordedPolicy)
    # The first try is over in the store, and what is told is about the one that is open there.
    ended = await led.end()
    assert (ended.number, ended.verdict) == (2, {"reason": "planted"})
    # Whoever wants to see it again begins anew.
    led.tries(other(3))
    assert led.view()["is_running"] is True


async def test_a_larger_share_of_the_same_candidate_only_adds_workspaces_and_counts_anew(ids):
    led = Led(ids)
    led.tries(other(2, share_bp=500))
    spaces, salt = [UUID(int=number) for number in range(1, 400)], led.front._pools["fast"].policy._salt
    await led.serve()
    led.tries(other(3, share_bp=2_000))
    led.front.run_once()
    wider = led.front._pools["fast"].policy
    assert (led.view()["number"], wider.arms()[0].arrived, wider.share_bp) == (3, 0, 2_000)
    chosen = [
        {each for each in spaces if arm_of(name, each, bp) is ArmName.CANDIDATE}
        for name, bp in ((salt, 500), (wider._salt, 2_000))
    ]
    assert chosen[0] < chosen[1]
    assert other(4, policy="vtc").salt != other(4).salt


async def test_what_ended_under_a_leader_that_was_passed_is_not_told(ids):
    led = Led(ids)
    failed(led)
    led.front.leave("fast")
    led.spec = replace(led.spec, candidate=None)
    led.front.declare(led.spec)
    failed(led, number=7)
    assert (await led.end()).number == 7


async def test_a_flag_of_the_platform_is_about_what_is_tried_too_and_begins_nothing_again_that_ended(ids):
    led = Led(ids)
    led.tries(other(policy="interlock", share_bp=10_000))

    def switch(*, displaces):
        led.spec = replace(led.spec, flags=replace(led.spec.flags, displaces=displaces))
        led.front.declare(led.spec)
        led.front.run_once()

    switch(displaces=False)
    canary = led.front._pools["fast"].policy
    assert canary.core.rules.displaces is False
    canary.failure = "planted"
    canary.close()
    led.front.run_once()
    assert led.view()["stage"] == "failed"
    switch(displaces=True)
    assert isinstance(led.front._pools["fast"].policy, RecordedPolicy)
    assert led.view()["stage"] == "failed"


async def test_a_canary_that_ends_keeps_the_seats_that_it_gave(ids):
    led = Led(ids, slots=1)
    led.tries(other(share_bp=5_000))
    first = await led.ask(arm=ArmName.LIVE)
    waits = led.ask(arm=ArmName.CANDIDATE)
    await asyncio.sleep(0)
    assert led.front.statistics("fast").queued == 1
    led.tries(None)
    led.front.run_once()
    assert not waits.done()
    await led.front.settle(first.grant_id, Settlement(SettleOutcome.OK, 10, 0, 5, 100, 900))
    second = await waits
    assert not isinstance(second, Refused)
    led.front.run_once()
    assert isinstance(led.front._pools["fast"].policy, RecordedPolicy)
    assert led.front.statistics("fast").granted == 1
    await led.front.settle(second.grant_id, Settlement(SettleOutcome.OK, 10, 0, 5, 100, 900))
    assert led.front.statistics("fast").granted == 0


async def test_an_end_that_waits_for_the_store_delays_no_other_pools(ids):
    led = Led(ids)
    trials, told, away = led.front.trials, [], asyncio.Event()
    led.front.declare(replace(led.spec, name="slow"))

    async def tell(ended):
        if ended.pool == "slow":
            await away.wait()
        told.append(ended.pool)

    loop = asyncio.ensure_future(trials.verdicts(tell))
    for pool in ("slow", "fast"):
        led.front.declare(replace(led.spec, name=pool, candidate=other()))
        trials._end(pool, trials._trials[pool], "failed", {})
    for _ in range(8):
        await asyncio.sleep(0)
    assert told == ["fast"]
    away.set()
    for _ in range(8):
        await asyncio.sleep(0)
    assert told == ["fast", "slow"]
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
