"""Who comes back when told is granted, and the book holds nothing of who came, was admitted, or stayed away."""

import asyncio
import heapq
from dataclasses import replace

import pytest

from interlock.contracts.scheduling import Granted, Refused, Settlement, SettleOutcome
from interlock.scheduler import ACCELERATOR_OBJECTIVES, EngineSpec, FrontService, PoolSpec
from interlock.scheduler.config import SchedulerConfig
from interlock.scheduler.domain.policy import Policy
from interlock.scheduler.domain.retries import KeptPlace, RetryBook, Telling
from interlock.scheduler.domain.types import EngineCondition, EngineState, PoolRules
from tests.scheduler.calls import grant_request

SECOND_US = 1_000_000
LOOK_US = 10_000


@pytest.mark.parametrize("end", ["admitted", "back in time", "stayed away"])
def test_nothing_is_left_of_who_was_told(end):
    book = RetryBook()
    for number in range(50):
        place = KeptPlace(("shop", f"workspace {number % 3}"), SECOND_US, 100, 0)
        book.tell(0, Telling(str(number), "deadline_infeasible", None, SECOND_US, 1_000, place))
    assert book.kept(0) is not None
    if end == "admitted":
        for number in range(50):
            book.forget(str(number))
    elif end == "back in time":
        for number in range(50):
            assert book.early(31 * SECOND_US, str(number)) is None
    assert book.kept(600 * SECOND_US) is None
    assert book._inside == {}


def test_the_error_of_what_was_told_leaves_the_callers_own_delay_out():
    book, place = RetryBook(), KeptPlace(("shop",), SECOND_US, 100, 0)
    telling = Telling("a", "deadline_infeasible", None, SECOND_US, 1_000, place)
    first_us = round(book.tell(0, telling) * SECOND_US)
    assert book.early(first_us // 2, "a") is not None, "too early changes nothing"
    assert book.early(first_us + 5 * SECOND_US, "a") is None
    again_us = round(book.tell(first_us + 5 * SECOND_US, telling) * SECOND_US)
    assert book.early(first_us + 6 * SECOND_US + again_us, "a") is None
    book.forget("a")
    assert book.granted("a", 30_000) == again_us + 30_000
    assert book.granted("a", 30_000) is None, "it is judged once"
    assert book.granted("never told", 30_000) is None


@pytest.mark.parametrize("reports", ["while it runs", "at its end", "never"])
@pytest.mark.parametrize("hold_us", [400_000, 1_000_000, 1_500_000])
def test_all_who_come_back_when_told_are_granted_however_long_a_seat_is_held(hold_us, reports):
    """Ten at once, two in time. Of the others each is queued at its first return, though nobody tells that a prompt was
    read before its answer ends, and though four seats may be scarcer than the speed of reading.
    """
    rules = PoolRules("p", ACCELERATOR_OBJECTIVES, 10_000, 2_500, 3.0, lease_us=60 * SECOND_US)
    policy = Policy(rules)
    engine = EngineState("eng_a", "unix:/a", "m", 4, 8_192, EngineCondition.READY, prefill_tps=1_000)
    policy.engine_changed(0, engine)
    ttft_ms = None if reports == "never" else 400
    done = Settlement(SettleOutcome.OK, 400, 0, 20, ttft_ms, hold_us // 1_000)
    events = [(number, "arrive", f"req_{number}") for number in range(10)]
    refused, granted = [], []
    while events:
        now_us, what, name = heapq.heappop(events)
        if what == "arrive":
            outcome = policy.arrive(now_us, grant_request(name, input_tokens=400, max_tokens=100)).outcome
            if isinstance(outcome, Refused):
                refused.append(name)
                heapq.heappush(events, (now_us + round(outcome.retry_after_s * SECOND_US), "arrive", name))
        elif what == "read":
            policy.progress(now_us, name, 1, 400)
        elif what == "end":
            policy.settle(now_us, name, done)
        for grant in policy.next_grants(now_us):
            granted.append(grant.request.request_id)
            assert (grant.retry_error_us is not None) == (granted[-1] in refused)
            heapq.heappush(events, (now_us + hold_us, "end", granted[-1]))
            if reports == "while it runs":
                heapq.heappush(events, (now_us + 399_999, "read", granted[-1]))
        opens_us = policy.opens_in_us(now_us)
        if opens_us is not None:
            heapq.heappush(events, (now_us + max(LOOK_US, opens_us), "look", ""))
    assert len(refused) == len(set(refused)) == 8
    assert sorted(granted) == sorted(f"req_{number}" for number in range(10))


async def test_who_waits_is_granted_when_the_engine_should_have_read_though_nothing_happens(clock, ids):
    """No tick, no report and no settlement come: the pool looks at the moment that it knows of."""
    spec = PoolSpec("p", ACCELERATOR_OBJECTIVES, (EngineSpec("unix:/a", "m", 4, 8_192, prefill_tps=20_000),))
    front = FrontService([spec], clock=clock, ids=ids, config=SchedulerConfig(tick_s=5.0))
    [engine] = front.engines("p")
    front.engine_changed("p", replace(engine, condition=EngineCondition.READY))
    calls = [front.acquire(grant_request(name, pool="p", input_tokens=6_000)) for name in "ab"]
    assert all(isinstance(each, Granted) for each in await asyncio.gather(*calls))
