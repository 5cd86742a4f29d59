"""Places and the queue of one edge: bounds, shares and order, against every sequence that hypothesis can think of."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from interlock.gateway.domain.seats import Crowded, Rate, Seats, Waiter
from interlock.scheduler import Script
from tests.gateway.worlds import patient, world
from tests.support.clocks import HandClock

PLACES, QUEUE = 10, 4
TENANTS = ["a", "b", "c"]


class SeatMachine(RuleBasedStateMachine):
    """`Seats` against a plain list of who sits and who stands in line."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.seats = Seats(PLACES, QUEUE, 2.0, 0.0)
        self.sitting = []
        self.line = []

    @rule(tenant=st.sampled_from(TENANTS), left_s=st.sampled_from([0.0, 0.5, 60.0]))
    def enter(self, tenant, left_s):
        before = self.sitting.count(tenant)
        was_tight = len(self.sitting) >= 0.8 * PLACES
        found = self.seats.enter(tenant, left_s, self.now, 0.5)
        if isinstance(found, Waiter):
            self.line.append(found)
        elif isinstance(found, Crowded):
            assert 0.1 <= found.retry_after_s <= 36
            assert was_tight
        else:
            self.sitting.append(tenant)
            active = len({*self.sitting, *(each.organization_id for each in self.line)})
            assert not was_tight or before < max(1, max(0.1, 1 / active) * PLACES)
        self.follow()

    @precondition(lambda self: self.sitting)
    @rule(at=st.integers(0, 100))
    def leave(self, at):
        tenant = self.sitting.pop(at % len(self.sitting))
        self.seats.leave(tenant, self.now)
        self.follow()

    @precondition(lambda self: self.line)
    @rule(at=st.integers(0, 100))
    def give_up(self, at):
        self.seats.give_up(self.line.pop(at % len(self.line)))
        self.follow()

    @rule(seconds=st.sampled_from([0.01, 0.2, 3.0]))
    def pass_time(self, seconds):
        self.now += seconds

    def follow(self):
        """Whoever has a verdict has left the line."""
        for waiter in [each for each in self.line if each.verdict is not None]:
            self.line.remove(waiter)
            if waiter.verdict:
                self.sitting.append(waiter.organization_id)

    @invariant()
    def bounds_hold_and_nobody_is_forgotten(self):
        found = self.seats.statistics(self.now)
        assert found.taken == len(self.sitting) <= PLACES
        assert found.waiting == len(self.line) <= QUEUE
        assert found.organizations == len({*self.sitting, *(each.organization_id for each in self.line)})

    @invariant()
    def a_place_is_free_only_when_nobody_in_line_may_have_it(self):
        if len(self.sitting) < PLACES:
            assert all(not self.seats._is_inside(each.organization_id) for each in self.line)


SeatMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSeats = SeatMachine.TestCase


def test_a_small_tenant_finds_a_place_and_a_place_in_line_under_the_flood_of_another():
    seats = Seats(10, 4, 2.0, 0.0)
    flood = [seats.enter("big", 60, 0.0, 0.0) for _ in range(14)]
    assert [each for each in flood if each is None] == [None] * 10
    assert isinstance(seats.enter("big", 60, 0.0, 0.0), Crowded), "the line is full"
    small = seats.enter("small", 60, 0.0, 0.0)
    assert isinstance(small, Waiter)
    assert flood[-1].verdict is False, "the last of the longest line gave way"
    seats.leave("big", 0.1)
    assert small.verdict is True, "before those who were there first and hold more than their share"


def test_a_wait_that_would_be_too_long_is_refused_at_once_with_its_length():
    seats = Seats(4, 100, 2.0, 0.0)
    for _ in range(4):
        seats.enter("a", 60, 0.0, 0.0)
    for at in range(1, 9):
        seats.leave("a", at * 0.5)
        seats.enter("a", 60, at * 0.5, 0.0)
    line = [seats.enter("a", 60, 4.0, 0.0) for _ in range(8)]
    waiting = [each for each in line if isinstance(each, Waiter)]
    refused = [each for each in line if isinstance(each, Crowded)]
    assert 1 <= len(waiting) <= 4
    assert {each.rule for each in refused} == {"edge.predicted_wait"}
    assert all(each.retry_after_s > 2 for each in refused)
    assert isinstance(seats.enter("a", 0.01, 4.0, 0.0), Crowded)


def test_the_rate_is_right_from_the_first_second_on():
    rate = Rate(0.0)
    assert rate.per_s(0.1) == float("inf")
    for at in range(1, 11):
        rate.note(at / 10)
    assert 8 < rate.per_s(1.0) < 12


async def test_a_full_edge_lets_wait_and_says_how_long(store, scope):
    config = patient(inflight_max=1, queue_max=1, queue_s_max=60.0)
    async with world(store, scope, config=config, script=Script(tokens=100_000, token_s=0.05)) as edge:
        # By a clock that goes on, half a second in which no place came free is a line that nobody may join.
        edge.process.entrance._clock = still = HandClock()
        still.stop()
        async with edge.streaming() as answer:
            async for _ in answer.chunks():
                break
            waiting = asyncio.create_task(edge.chat(max_tokens=1))
            await edge.until(lambda: edge.process.entrance.statistics().waiting == 1)
            refused = await edge.chat()
            edge.engine.script = Script(tokens=2)
        reply = await waiting
        story = await edge.story(reply.request_id)
    assert (refused.status, refused.body["error"]["code"]) == (503, "overloaded")
    assert refused.headers["x-should-retry"] == "true"
    assert int(refused.headers["retry-after-ms"]) >= 100
    assert reply.status == 200
    assert "queue;dur=" in reply.headers["server-timing"]
    assert ("queue", "edge.queue") in [(each.step, each.rule) for each in story.decisions]
