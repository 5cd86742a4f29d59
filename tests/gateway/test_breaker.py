"""The breaker against a model that remembers every call: when it opens, for how long, who may try, when it closes."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from interlock.gateway.domain import balance, breaker
from interlock.gateway.domain.breaker import (
    CALLS_MIN,
    CONNECTS_MAX,
    FAILED_SHARE,
    JITTER,
    OPEN_S,
    OPEN_S_MAX,
    PROBES,
    TRANSITIONS,
    WINDOW_S,
    BreakerEvent,
    BreakerState,
    RetryBudget,
)  # fmt: skip
from tests.gateway.test_compiled_forms import in_python

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class BreakerMachine(RuleBasedStateMachine):
    """One deployment; calls begin where they are admitted, and end in any order and way, late ones too."""

    form = breaker

    def __init__(self):
        super().__init__()
        self.breaker, self.now = self.form.Breaker(), 1_000.0
        self.running = []
        self.state, self.ends_at, self.opened = CLOSED, 0.0, 0
        # Of the time since the breaker was last closed: (second, failed), and failed connects in a row.
        self.calls, self.connects, self.passed, self.probe = [], 0, 0, None

    @rule(seconds=st.one_of(st.floats(0, 4), st.sampled_from([WINDOW_S - 1, WINDOW_S])))
    def time_passes(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.state is OPEN)
    @rule(late_s=st.sampled_from([-0.5, 0.0, 1.0]), answered=st.integers(0, PROBES + 1))
    def the_wait_ends(self, late_s, answered):
        self.now = max(self.now, self.ends_at + late_s)
        self.calls_come_and_end(["succeeds"] * answered)

    @rule(ends=st.lists(st.sampled_from(["succeeds", "fails", "connect fails"]), min_size=1, max_size=24))
    def calls_come(self, ends):
        self.calls_come_and_end(ends)

    def calls_come_and_end(self, ends):
        for end in ends:
            if self.begins():
                self.call_ends(-1, end, 0.5, None)

    @rule()
    def a_call_begins(self):
        self.begins()

    @precondition(lambda self: self.running)
    @rule(
        at=st.integers(0, 1 << 16), end=st.sampled_from(["succeeds", "fails", "connect fails", "is left"]),
        jitter=st.floats(0, 1), wait_s=st.none() | st.floats(0, 300),
    )  # fmt: skip
    def a_call_ends(self, at, end, jitter, wait_s):
        self.call_ends(at % len(self.running), end, jitter, wait_s)

    def begins(self):
        if self.state is OPEN and self.now >= self.ends_at:
            self.state, self.passed, self.probe = HALF_OPEN, 0, None
        may = self.state is CLOSED or (self.state is HALF_OPEN and self.probe is None)
        assert self.breaker.admits(self.now) is may
        if may:
            call, is_probe = object(), self.breaker.begin()
            assert is_probe is (self.state is HALF_OPEN)
            self.probe = call if is_probe else self.probe
            self.running.append((call, is_probe))
        return may

    def call_ends(self, at, end, jitter, wait_s):
        call, is_probe = self.running.pop(at)
        self.probe = None if call is self.probe else self.probe
        if end == "is left":
            self.breaker.abandon(is_probe=is_probe)
        elif end == "succeeds":
            self.breaker.succeed(self.now, is_probe=is_probe)
            self.succeeds(is_probe=is_probe)
        else:
            is_connect = end == "connect fails"
            self.breaker.fail(self.now, jitter, is_probe=is_probe, is_connect=is_connect, wait_s=wait_s)
            self.fails(jitter, wait_s, is_probe=is_probe, is_connect=is_connect)

    def succeeds(self, *, is_probe):
        self.connects = 0
        if self.state is CLOSED:
            self.calls.append((int(self.now), False))
        elif self.state is HALF_OPEN and is_probe:
            self.passed += 1
            if self.passed == PROBES:
                self.state, self.opened = CLOSED, 0
                self.forget()

    def fails(self, jitter, wait_s, *, is_probe, is_connect):
        if self.state is HALF_OPEN and is_probe:
            self.open(jitter)
        elif self.state is CLOSED:
            self.connects = self.connects + 1 if is_connect else 0
            self.calls.append((int(self.now), True))
            lately = [failed for second, failed in self.calls if second > int(self.now) - WINDOW_S]
            is_half = len(lately) >= CALLS_MIN and sum(lately) >= FAILED_SHARE * len(lately)
            if is_half or self.connects >= CONNECTS_MAX:
                self.open(jitter)
        if wait_s is not None and self.state is OPEN:
            self.ends_at = max(self.ends_at, self.now + wait_s)

    @invariant()
    def it_is_where_the_model_is(self):
        assert self.breaker.state == self.state
        if self.state is OPEN:
            assert math.isclose(self.breaker.until, self.ends_at)

    def open(self, jitter):
        wait_s = min(OPEN_S_MAX, OPEN_S * 2 ** min(self.opened, 10))
        self.state, self.opened, self.ends_at = OPEN, self.opened + 1, self.now + wait_s * (1 + JITTER * jitter)
        self.forget()

    def forget(self):
        self.calls, self.connects = [], 0


PLAIN, PLAIN_BALANCE = in_python("breaker", "balance")


class PlainBreakerMachine(BreakerMachine):
    """The same in Python, whatever was compiled."""

    form = PLAIN


TestBreaker, TestPlainBreaker = BreakerMachine.TestCase, PlainBreakerMachine.TestCase
TestBreaker.settings = TestPlainBreaker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_latency_is_one_figure_in_both_forms():
    loads = [form.Load() for form in (balance, PLAIN_BALANCE)]
    for at in range(400):
        now = at * 0.31
        for load in loads:
            load.observe(at * 7 % 1_003 / 3, now)
        assert loads[0].peak_ms(now + 2.0) == loads[1].peak_ms(now + 2.0)


def test_every_state_is_left_by_the_events_of_the_table_alone():
    assert {state for state, _ in TRANSITIONS} == set(BreakerState) == set(TRANSITIONS.values())
    assert {event for _, event in TRANSITIONS} == set(BreakerEvent)


def test_retries_are_a_tenth_of_the_requests_and_three_a_second_at_least():
    budget = RetryBudget()
    assert sum(budget.take(100.0) for _ in range(100)) == 3 * WINDOW_S
    for _ in range(1_000):
        budget.note(100.0 + WINDOW_S)
    assert sum(budget.take(100.0 + WINDOW_S) for _ in range(1_000)) == 100
