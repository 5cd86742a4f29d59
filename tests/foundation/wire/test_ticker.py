"""The one timer: whoever is late is told, and thousands who are late at once keep nobody else waiting."""

import asyncio
import random
from itertools import pairwise

from interlock.foundation.wire.limits import NEVER, Ticker
from tests.foundation.wire.harness import HandClock, story, until


class Late:
    """Late from the beginning on; notes when it was told."""

    def __init__(self, told):
        self.told = told
        self.deadline = 1.0

    def expire(self, _now):
        self.told.append(self)
        self.deadline = NEVER


@story
async def test_many_who_are_late_at_once_are_told_in_turns_with_everybody_else(stage):
    told, others = [], []
    ticker = Ticker(HandClock(), tick_s=0.01)
    members = [Late(told) for _ in range(1_000)]

    def beside():
        others.append(len(told))
        if len(told) < len(members):
            asyncio.get_running_loop().call_soon(beside)

    for each in members:
        ticker.add(each)
    beside()
    ticker.add(members[0])
    await until(lambda: len(told) == len(members))
    assert set(told) == set(members)
    assert max(after - before for before, after in pairwise(others)) <= 8
    for each in members:
        ticker.discard(each)


@story
async def test_who_has_gone_meanwhile_is_not_told(stage):
    told = []
    ticker = Ticker(HandClock(), tick_s=0.01)

    class Alone(Late):
        def expire(self, now):
            super().expire(now)
            for each in members:
                ticker.discard(each)

    members = [Alone(told) for _ in range(200)]
    # With the first one the timer begins to run, and that one waits for nothing.
    members[0].deadline = NEVER
    for each in members:
        ticker.add(each)
    await until(lambda: not ticker.members)
    await asyncio.sleep(0.05)
    assert len(told) == 1


@story
async def test_who_fails_has_nobody_else_forgotten(stage):
    told, failed = [], []
    ticker = Ticker(HandClock(), tick_s=0.01)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context["exception"]))

    class Fails(Late):
        def expire(self, now):
            super().expire(now)
            raise LookupError

    idle, members = Late(told), [Fails(told) for _ in range(20)]
    # With it the timer begins to run, and it waits for nothing.
    idle.deadline = NEVER
    for each in (idle, *members):
        ticker.add(each)
    await until(lambda: len(failed) == len(members))
    assert set(told) == set(members)
    for each in (idle, *members):
        ticker.discard(each)


class Waits:
    """Waits for several times; its deadline is never later than the earliest of them, and may be too early."""

    def __init__(self, ticker):
        self.ticker = ticker
        self.times = []
        self.deadline = NEVER

    def await_time(self, by):
        self.times.append(by)
        if by < self.deadline:
            self.deadline = by
            self.ticker.watch(self)

    def expire(self, now):
        self.times = [each for each in self.times if each > now]
        self.deadline = min(self.times, default=NEVER)


@story
async def test_at_every_tick_everybody_is_told_whose_time_has_come(stage):
    dice, clock = random.Random(7), HandClock()
    ticker = Ticker(clock, tick_s=0.001)
    members = [Waits(ticker) for _ in range(30)]
    for each in members:
        ticker.add(each)
    for _ in range(60):
        for each in dice.sample(members, 8):
            each.await_time(clock.monotonic() + dice.choice((0.001, 1.0, 10.0, 75.0)) * dice.random())
            each.times = each.times[-dice.randint(1, 4) :]
        gone = members.pop() if dice.random() < 0.2 else None
        if gone is not None:
            ticker.discard(gone)
        clock.move(dice.choice((0.0005, 0.5, 20.0)) * dice.random())
        now = clock.monotonic()
        await until(lambda now=now: ticker.now == now and all(min(each.times, default=NEVER) > now for each in members))
        assert ticker.members.keys() == set(members)
    for each in members:
        ticker.discard(each)
    assert not ticker._wheel
