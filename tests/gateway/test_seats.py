"""Places and the queue of one edge: bounds, shares and order, against every sequence that hypothesis can think of."""

import asyncio
import heapq
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from interlock.gateway.domain import seats as compiled
from interlock.gateway.domain.seats import Crowded, Rate, Seats, Waiter
from interlock.scheduler import Script
from tests.gateway.test_compiled_forms import in_python
from tests.gateway.worlds import patient, world
from tests.support.clocks import HandClock

PLACES, QUEUE = 20, 4
# A twentieth of them.
KEPT = 1
TENANTS = ["a", "b", "c"]


class SeatMachine(RuleBasedStateMachine):
    """`Seats` against a plain list of who sits and who stands in line."""

    form = compiled

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.seats = self.form.Seats(PLACES, QUEUE, 2.0, 0.0)
        self.sitting = []
        self.line = []

    @property
    def free(self):
        return PLACES - len(self.sitting)

    def is_inside(self, tenant):
        """Tell by the lists whether one place more is inside the share of a tenant."""
        present = {tenant, *self.sitting, *(each.organization_id for each in self.line)}
        return self.sitting.count(tenant) < max(1, max(0.1, 1 / len(present)) * PLACES)

    @rule(tenant=st.sampled_from(TENANTS), left_s=st.sampled_from([0.0, 0.5, 60.0]))
    def enter(self, tenant, left_s):
        may_sit = self.free > KEPT or (self.free > 0 and self.is_inside(tenant))
        is_kept = self.free > 0
        found = self.seats.enter(tenant, left_s, self.now, 0.5)
        assert (found is None) == may_sit, "a place is refused to nobody who may have it, and given to nobody else"
        if isinstance(found, self.form.Waiter):
            self.line.append(found)
        elif isinstance(found, self.form.Crowded):
            assert 0.1 <= found.retry_after_s <= 36
            assert (found.code == "fair_share_exceeded") == is_kept
        else:
            self.sitting.append(tenant)
        self.follow()

    @rule(tenant=st.sampled_from(TENANTS), count=st.integers(2, PLACES))
    def crowd(self, tenant, count):
        for _ in range(count):
            self.enter(tenant, 60.0)

    @precondition(lambda self: self.sitting)
    @rule(at=st.integers(0, 100))
    def leave(self, at):
        tenant = self.sitting.pop(at % len(self.sitting))
        inside = [each for each in self.line if self.is_inside(each.organization_id)]
        first = next(iter(inside or self.line), None)
        self.seats.leave(tenant, self.now)
        if first is not None and (inside or self.free > KEPT):
            assert first.verdict, "first in line is who is inside its share, then who came first"
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
        assert not self.line or self.free <= KEPT
        assert self.free == 0 or not any(self.is_inside(each.organization_id) for each in self.line)


class PlainSeatMachine(SeatMachine):
    """The same in Python, whatever was compiled."""

    (form,) = in_python("seats")


BOUNDS = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSeats, TestPlainSeats = SeatMachine.TestCase, PlainSeatMachine.TestCase
TestSeats.settings = TestPlainSeats.settings = BOUNDS


def test_how_fast_places_come_free_is_one_figure_in_both_forms():
    rates = [form.Rate(1.0) for form in (compiled, PlainSeatMachine.form)]
    for at in range(1, 400):
        for rate in rates:
            rate.note(1.0 + at * 0.037)
        assert rates[0].per_s(1.0 + at * 0.05) == rates[1].per_s(1.0 + at * 0.05)


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


def test_one_tenant_alone_may_have_every_place_but_the_last_twentieth_once_another_is_there():
    alone = Seats(40, 4, 2.0, 0.0)
    assert [alone.enter("big", 60, 0.0, 0.0) for _ in range(40)] == [None] * 40
    shared = Seats(40, 4, 2.0, 0.0)
    shared.enter("small", 60, 0.0, 0.0)
    assert [shared.enter("big", 60, 0.0, 0.0) for _ in range(37)] == [None] * 37
    waiting = shared.enter("big", 60, 0.0, 0.0)
    assert isinstance(waiting, Waiter), "it waits for the next place, although two are free"
    refused = [shared.enter("big", 60, 0.0, 0.0) for _ in range(4)][-1]
    assert (refused.code, refused.rule) == ("fair_share_exceeded", "edge.fair_share")
    assert [shared.enter("small", 60, 0.0, 0.0) for _ in range(2)] == [None, None], "which are for the other"


def test_a_line_of_one_each_is_not_shuffled_by_who_comes_later():
    seats = Seats(1, 2, 2.0, 0.0)
    seats.enter("a", 60, 0.0, 0.0)
    line = [seats.enter(each, 60, 0.0, 0.0) for each in ("b", "c")]
    assert seats.enter("d", 60, 0.0, 0.0).rule == "edge.queue_max"
    assert [each.verdict for each in line] == [None, None]


def test_a_flood_of_three_times_the_places_leaves_no_place_idle_and_refuses_nothing_of_a_small_tenant():
    """By a clock of its own: 20 places of 200 ms, 285 a second from one tenant, 5 a second from another, for 20 s."""
    answered, refused = flood(Seats(20, 40, 2.0, 0.0), {"big": 285.0, "small": 5.0}, seconds=20.0, served_s=0.2)
    assert answered["big"] + answered["small"] >= 0.95 * 20.0 / 0.2 * 20
    assert refused["small"] == 0
    assert refused["big"] > 0


def flood(seats, per_s, seconds, served_s):
    """Let tenants come at steady rates; returns how many of each had a place, and how many were refused."""
    comes = [(at / rate, "come", tenant) for tenant, rate in per_s.items() for at in range(1, int(seconds * rate))]
    heapq.heapify(comes)
    waiting, answered, refused = [], Counter(), Counter()
    while comes:
        now, what, tenant = heapq.heappop(comes)
        found = False
        if what == "go":
            seats.leave(tenant, now)
        else:
            found = seats.enter(tenant, 60.0, now, 0.0)
        if isinstance(found, Waiter):
            waiting.append(found)
        elif isinstance(found, Crowded):
            refused[tenant] += 1
        seated = [tenant] if found is None else []
        seated += [each.organization_id for each in waiting if each.verdict]
        refused.update(each.organization_id for each in waiting if each.verdict is False)
        waiting = [each for each in waiting if each.verdict is None]
        answered.update(each for each in seated if now + served_s <= seconds)
        for each in seated:
            heapq.heappush(comes, (now + served_s, "go", each))
    return answered, refused


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
