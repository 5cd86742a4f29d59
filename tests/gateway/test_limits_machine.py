"""The store's limits do what the exact model does, after any sequence of reservations, settlements and pauses."""

import asyncio

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from interlock.foundation.store import Queries
from interlock.gateway.domain.directory import array_literal
from tests.gateway.bucket_model import MICRO, Bucket, Model
from tests.support.store import IDS

SQL = Queries("interlock.gateway")
BUCKETS = 3
LEVEL = """SELECT level_micro, refilled_us FROM gateway_limit_buckets WHERE bucket_id = $1"""


class LimitsMachine(RuleBasedStateMachine):
    """Three buckets of one tenant: requests, tokens, and one that only observes."""

    urls = None
    loop = None

    def __init__(self):
        super().__init__()
        self.organization = IDS.new()
        self.names = sorted(IDS.new() for _ in range(BUCKETS))
        self.requests = []
        self.model = Model()
        self.started_us = 0
        self.paused_us = 0
        self.app = self.run(asyncpg.connect(self.urls.app))
        self.run(self.app.execute("SELECT set_config('interlock.organization_id', $1, false)", str(self.organization)))

    def run(self, work):
        return self.loop.run_until_complete(work)

    def teardown(self):
        self.run(self.app.close())

    def now_us(self):
        return self.run(self.app.fetchval("SELECT gateway_now_us()"))

    def row(self, name):
        return self.run(self.app.fetchrow(LEVEL, name))

    @initialize(bursts=st.tuples(*[st.integers(1, 50)] * BUCKETS), rates=st.tuples(*[st.integers(1, 6_000)] * BUCKETS))
    def limits(self, bursts, rates):
        self.started_us = self.now_us()
        for at, name in enumerate(self.names):
            self.model.buckets[name] = Bucket(
                rates[at], bursts[at], bursts[at] * MICRO, 0, is_enforced=at < 2, is_tokens=at == 1
            )

    @rule(tokens=st.integers(1, 60), uses=st.sets(st.integers(0, BUCKETS - 1), min_size=1))
    def reserve(self, tokens, uses):
        names = [self.names[at] for at in sorted(uses)]
        amounts = {name: (tokens if self.model.buckets[name].is_tokens else 1) * MICRO for name in names}
        before_us = self.now_us()
        request = IDS.new()
        buckets = [self.model.buckets[name] for name in names]
        rows = self.run(
            self.app.fetch(
                SQL.reserve.sql,
                *(self.organization, request, array_literal(names), array_literal([1] * len(names))),
                array_literal(each.per_minute for each in buckets),
                array_literal(each.burst for each in buckets),
                array_literal(each.is_enforced for each in buckets),
                array_literal(each.is_tokens for each in buckets),
                array_literal(amounts.values()),
            )
        )
        after_us = self.now_us()
        refused = [
            name
            for name, row in zip(names, rows, strict=True)
            if row["is_short"] and self.model.buckets[name].is_enforced
        ]
        if refused:
            assert set(refused) <= set(self.model.refusing(amounts, before_us))
            assert set(self.model.refusing(amounts, after_us)) <= set(refused)
            for name, row in zip(names, rows, strict=True):
                low, high = (self.model.buckets[name].level_at(at) for at in (before_us, after_us))
                assert low <= row["level_micro"] <= high
            return
        debited = [name for name, row in zip(names, rows, strict=True) if not row["is_short"]]
        moments = {self.row(name)["refilled_us"] for name in debited}
        assert len(moments) <= 1
        now_us = moments.pop() if moments else after_us
        assert self.model.refusing(amounts, now_us) == []
        self.model.debit(request, amounts, now_us)
        for name, row in zip(names, rows, strict=True):
            if not row["is_short"]:
                assert row["level_micro"] == self.model.buckets[name].level
        self.requests.append(request)

    @rule(data=st.data(), tokens=st.integers(0, 120), is_called=st.booleans())
    def settle(self, data, tokens, is_called):
        if not self.requests:
            return
        # Those settled before come again: the second time must change nothing.
        request = data.draw(st.sampled_from(self.requests))
        moved = self.model.credits(request, tokens * MICRO, is_called=is_called)
        self.run(
            self.app.fetch(
                SQL.settle.sql,
                self.organization,
                array_literal([request]),
                array_literal([tokens * MICRO]),
                array_literal([is_called]),
            )
        )
        for name, credit in moved.items():
            row = self.row(name)
            bucket = self.model.buckets[name]
            bucket.move(credit, row["refilled_us"])
            assert row["level_micro"] == bucket.level

    @rule(seconds=st.integers(1, 90))
    def pause(self, seconds):
        """Time passes: the moment of the last refill moves into the past."""
        pause_us = seconds * 1_000_000
        self.paused_us += pause_us
        self.run(self.app.execute("UPDATE gateway_limit_buckets SET refilled_us = refilled_us - $1::bigint", pause_us))
        for bucket in self.model.buckets.values():
            bucket.refilled_us -= pause_us

    @invariant()
    def levels_are_the_models(self):
        for name, bucket in self.model.buckets.items():
            row = self.row(name)
            if row is not None and bucket.refilled_us > 0:
                assert row["level_micro"] == bucket.level
                assert -bucket.burst * MICRO <= row["level_micro"] <= bucket.burst * MICRO

    @invariant()
    def never_more_than_the_burst_and_its_refill(self):
        elapsed_us = self.now_us() - self.started_us + self.paused_us
        for name, bucket in self.model.buckets.items():
            if not bucket.is_tokens and bucket.is_enforced:
                held = sum(each.get(name, 0) for each in self.model.holds.values())
                assert held <= bucket.burst * MICRO + elapsed_us * bucket.per_minute / 60


def test_the_store_follows_the_exact_model(store_urls):
    loop = asyncio.new_event_loop()
    LimitsMachine.urls, LimitsMachine.loop = store_urls, loop
    bounds = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    try:
        run_state_machine_as_test(LimitsMachine, settings=bounds)
    finally:
        loop.close()
