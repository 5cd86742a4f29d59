"""The cache of names: times to live, one look-up at a time, what fails is not remembered."""

import asyncio

import pytest

from interlock.crawler.adapters.resolver import (
    NAMES_MAX,
    TTL_S_MAX,
    TTL_S_MIN,
    Answer,
    AresLookup,
    LookupFailedError,
    Resolver,
)


class HandClock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return round(self.now * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Counting:
    def __init__(self, answer: Answer | None) -> None:
        self.answer, self.asked, self.gate = answer, 0, asyncio.Event()
        self.gate.set()

    async def ask(self, host: str) -> Answer:
        self.asked += 1
        await self.gate.wait()
        if self.answer is None:
            raise LookupFailedError(host)
        return self.answer

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(0, TTL_S_MIN), (60, 60), (86_400, TTL_S_MAX)])
async def test_an_answer_counts_for_its_own_time_within_bounds(ttl_s, kept_s):
    clock, lookup = HandClock(), Counting(Answer(("192.0.2.1",), ttl_s))
    resolver = Resolver(lookup, clock)
    await resolver.resolve("a.example")
    clock.now += kept_s - 0.1
    await resolver.resolve("a.example")
    assert lookup.asked == 1
    clock.now += 0.2
    await resolver.resolve("a.example")
    assert lookup.asked == 2


async def test_callers_of_one_name_share_one_look_up_and_one_that_leaves_takes_nothing_away():
    lookup = Counting(Answer(("192.0.2.1",), 60))
    lookup.gate.clear()
    resolver = Resolver(lookup, HandClock())
    callers = [asyncio.create_task(resolver.resolve("a.example")) for _ in range(5)]
    await asyncio.sleep(0)
    callers[0].cancel()
    lookup.gate.set()
    answers = await asyncio.gather(*callers[1:])
    assert lookup.asked == 1
    assert {each.addresses for each in answers} == {("192.0.2.1",)}
    await resolver.close()


async def test_a_failure_is_told_to_all_and_not_remembered():
    lookup = Counting(None)
    resolver = Resolver(lookup, HandClock())
    failed = await asyncio.gather(*(resolver.resolve("a.example") for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in failed] == [LookupFailedError] * 3
    lookup.answer = Answer(("192.0.2.1",), 60)
    assert (await resolver.resolve("a.example")).addresses == ("192.0.2.1",)


async def test_the_cache_is_bounded():
    resolver = Resolver(Counting(Answer(("192.0.2.1",), 60)), HandClock())
    for number in range(NAMES_MAX + 5):
        await resolver.resolve(f"h{number}.example")
    assert resolver.statistics()["names"] == NAMES_MAX


async def test_the_machine_s_own_name_resolves():
    lookup = AresLookup()
    answer = await lookup.ask("localhost")
    await lookup.close()
    assert "127.0.0.1" in answer.addresses
