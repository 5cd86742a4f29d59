"""One look for all that waits in the store: who is told, who is told in turn, and what a look that fails means."""

import asyncio

from interlock.foundation.clock import SystemClock, until_tick
from interlock.foundation.sim.loop import simulate
from interlock.foundation.store import Query, StoreConfig
from interlock.foundation.store.lookout import Lookout
from interlock.foundation.store.pulse import Pulse
from tests.support.store import opened

CLOCK = SystemClock()
THERE = Query("there", "something waits", "SELECT FROM generate_series(1, 3)")
NOTHING = Query("nothing", "nothing waits", "SELECT WHERE false")
BROKEN = Query("broken", "cannot be asked", "SELECT FROM no_such_table")


async def test_who_has_work_is_told_at_each_look_and_everybody_else_in_turn(store):
    lookout, told = Lookout(store, CLOCK), []
    for name, question in (("a", NOTHING), ("b", THERE), ("c", NOTHING)):
        lookout.watch(question, lambda name=name: told.append(name))
    assert [await lookout.run_once() for _ in range(3)] == [1, 1, 1]
    assert sorted(told) == ["a", "b", "b", "b", "c"]


async def test_who_asks_later_is_heard_at_the_next_look(store):
    lookout, told = Lookout(store, CLOCK), []
    assert await lookout.run_once() == 0
    lookout.watch(NOTHING, lambda: None)
    await lookout.run_once()
    lookout.watch(THERE, lambda: told.append(1))
    assert await lookout.run_once() == 1
    assert told


async def test_who_asks_while_the_others_are_answered_is_heard_at_the_next_look(store):
    lookout, told = Lookout(store, CLOCK), []
    lookout.watch(NOTHING, lambda: None)
    looking = asyncio.ensure_future(lookout.run_once())
    await asyncio.sleep(0)
    lookout.watch(THERE, lambda: told.append(1))
    assert (await looking, told) == (0, [])
    assert (await lookout.run_once(), told) == (1, [1])


async def test_a_question_that_cannot_be_asked_makes_everybody_look(store):
    lookout, told = Lookout(store, CLOCK, every_s=0.05), [asyncio.Event(), asyncio.Event()]
    lookout.watch(BROKEN, told[0].set)
    lookout.watch(NOTHING, told[1].set)
    loop = asyncio.ensure_future(lookout.run())
    await asyncio.gather(*(each.wait() for each in told))
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_a_lookout_waits_for_a_store_that_is_away(store_urls):
    async with opened(store_urls) as own:
        lookout, told = Lookout(own, CLOCK, every_s=0.05), asyncio.Event()
        lookout.watch(THERE, told.set)
        own._pulse.is_up = False
        loop = asyncio.ensure_future(lookout.run())
        refused = own.statistics().outcomes["unavailable"]
        while own.statistics().outcomes["unavailable"] < refused + 2:
            await asyncio.sleep(0.01)
            own._pulse.is_up = False
        own._pulse.is_up = True
        await told.wait()
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


class StandingClock(SystemClock):
    """A clock that stands."""

    def __init__(self, at_s):
        self.monotonic = lambda: at_s


def test_loops_rest_until_the_same_moment_and_never_for_less_than_a_quarter():
    for every_s in (0.25, 0.5, 1.0, 5.0):
        for step in range(400):
            at_s = 1_000.0 + step / 80
            left_s = until_tick(StandingClock(at_s), every_s)
            ticks = (at_s + left_s) / every_s
            assert abs(ticks - round(ticks)) < 1e-6
            assert every_s / 4 <= left_s < 1.25 * every_s


def beats(heard_every_s):
    """How often a pulse asked in a minute in which the store answered somebody so often."""

    async def scenario(_dice, clock):
        class Answering:
            def is_closed(self):
                return False

            def terminate(self):
                pass

            async def fetchval(self, _sql):
                return 1

        async def connect():
            return Answering()

        pulse = Pulse(connect, StoreConfig(), is_busy=lambda: False, on_away=lambda: None)
        loop = asyncio.ensure_future(pulse.run())
        until_s = clock.monotonic() + 60.0
        while clock.monotonic() < until_s:
            await clock.sleep(heard_every_s)
            pulse.nudge()
            pulse.heard()
        loop.cancel()
        return pulse.beats

    return simulate(1, scenario)


def test_a_store_that_answers_others_is_not_asked_whether_it_lives():
    assert beats(heard_every_s=0.5) <= 2
    assert beats(heard_every_s=30.0) >= 50


def test_a_store_that_falls_silent_is_asked_at_once_though_it_was_heard_just_now():
    async def scenario(_dice, clock):
        class Silent:
            is_silent = False

            def is_closed(self):
                return False

            def terminate(self):
                pass

            async def fetchval(self, _sql):
                if self.is_silent:
                    await asyncio.Event().wait()

        connection, busy, away = Silent(), [False], asyncio.Event()

        async def connect():
            return connection

        pulse = Pulse(connect, StoreConfig(), is_busy=lambda: busy[0], on_away=away.set)
        loop = asyncio.ensure_future(pulse.run())
        await clock.sleep(3.0)
        pulse.nudge()
        pulse.heard()
        busy[0] = connection.is_silent = True
        pulse.nudge()
        began_s = clock.monotonic()
        await away.wait()
        loop.cancel()
        return clock.monotonic() - began_s

    config = StoreConfig()
    assert simulate(1, scenario) <= (config.pulse_interval_ms + config.pulse_timeout_ms + 1) / 1e3
