"""The one timer: whoever is late is told, and thousands who are late at once keep nobody else waiting."""

import asyncio
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
        ticker.members.add(each)
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
    for each in members[1:]:
        ticker.members.add(each)
    ticker.add(members[0])
    await asyncio.sleep(0.05)
    assert len(told) == 1
