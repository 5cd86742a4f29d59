"""The store's limits do what the exact model does, after any sequence of flights, late ones and pauses."""

import asyncio

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from interlock.foundation.store import Queries
from interlock.gateway.domain.buckets import Bucket, Refill
from interlock.gateway.domain.leasing import Flight, Take
from interlock.gateway.store.limit_leases import flight_arguments, landed_of
from tests.gateway.bucket_model import MICRO, Model
from tests.gateway.worlds import CLOCK
from tests.support.store import IDS

SQL = Queries("interlock.gateway")
REFILLS = (Refill.MINUTE, Refill.MINUTE, Refill.MINUTE, Refill.SLOTS)
OBSERVED = 2
TTL_US = 2 * MICRO
FIGURES = st.integers(0, 40)
ASKS = st.lists(st.tuples(st.sets(st.integers(0, 3), min_size=1), st.integers(1, 30)), max_size=3)


class LimitsMachine(RuleBasedStateMachine):
    """Four buckets of one tenant: two that refuse, one that observes, one of slots; two machines lease from them."""

    urls = None
    loop = None

    def __init__(self):
        super().__init__()
        self.organization = IDS.new()
        self.ids = sorted(IDS.new() for _ in REFILLS)
        self.owners = [IDS.new(), IDS.new()]
        self.held = [[0] * len(REFILLS) for _ in self.owners]
        self.fence = 0
        self.flown = []
        self.model = Model()
        self.elapsed_us = 0
        self.app = self.run(asyncpg.connect(self.urls.app))
        self.run(self.app.execute("SELECT set_config('interlock.organization_id', $1, false)", str(self.organization)))
        self.started_us = self.run(self.app.fetchval("SELECT gateway_now_us()"))

    def run(self, work):
        return self.loop.run_until_complete(work)

    def teardown(self):
        self.run(self.app.close())

    def row(self, name):
        return self.run(self.app.fetchrow("SELECT * FROM gateway_limit_buckets WHERE bucket_id = $1", name))

    @initialize(
        bursts=st.tuples(*[st.integers(1, 60)] * len(REFILLS)), rates=st.tuples(*[st.integers(1, 6_000)] * len(REFILLS))
    )
    def limits(self, bursts, rates):
        self.buckets = [
            Bucket(self.organization, name, refill, rate * MICRO, burst * MICRO, 1)
            for name, refill, rate, burst in zip(self.ids, REFILLS, rates, bursts, strict=True)
        ]

    @rule(
        owner=st.integers(0, 1),
        uses=st.sets(st.integers(0, 3), min_size=1),
        told=st.lists(st.tuples(st.integers(-20, 20), FIGURES, FIGURES, FIGURES), min_size=4, max_size=4),
        asks=ASKS,
    )
    def fly(self, owner, uses, told, asks):
        """A machine reports some of what it holds as used and given back, settles, and asks."""
        uses = sorted(uses | {at for names, _ in asks for at in names})
        held, backs = self.held[owner], []
        for at in uses:
            _, back, spent, _ = told[at]
            backs.append(min(back * MICRO, held[at]))
            held[at] = max(0, held[at] - backs[-1] - spent * MICRO)
        self.fence += 1
        flight = Flight(
            self.organization,
            self.owners[owner],
            self.fence,
            [self.buckets[at] for at in uses],
            [0 if self.buckets[at].is_slots else told[at][0] * MICRO for at in uses],
            [0 if self.buckets[at].is_slots else back for at, back in zip(uses, backs, strict=True)],
            [held[at] for at in uses],
            [told[at][3] * MICRO for at in uses],
            [self.ask(names, amount) for names, amount in asks],
        )
        self.model.is_reaping = self.store_reaps()
        answer = self.send(flight)
        expected = self.model.fly(flight, self.row(flight.buckets[0].id)["refilled_us"], TTL_US)
        assert answer == expected
        for at, leased in zip(uses, answer.leased, strict=True):
            held[at] += leased
        for ask, shorts in zip(flight.asks, answer.shorts, strict=True):
            if not any(short and must for short, must in zip(shorts, ask.enforced, strict=True)):
                for bucket, need, short in zip(ask.buckets, ask.needs, shorts, strict=True):
                    held[self.buckets.index(bucket)] += need if bucket.is_slots and not short else 0
        self.flown.append(flight)

    @rule(data=st.data())
    def fly_again(self, data):
        """A flight that comes a second time, or late, changes nothing and lets nobody in."""
        if not self.flown:
            return
        flight = data.draw(st.sampled_from(self.flown))
        is_noted = any(
            self.model.buckets[each.id].leases[flight.owner].fence >= flight.fence for each in flight.buckets
        )
        if is_noted and any(self.lease(each.id, flight.owner) is not None for each in flight.buckets):
            before = [self.row(name) for name in self.ids], self.leases()
            answer = self.send(flight)
            assert all(all(shorts) for shorts in answer.shorts)
            assert not any(answer.leased)
            assert ([self.row(name) for name in self.ids], self.leases()) == before

    @rule(pause_us=st.integers(0, 15_000_000))
    def pause(self, pause_us):
        self.elapsed_us += pause_us
        self.run(self.app.execute("UPDATE gateway_limit_buckets SET refilled_us = refilled_us - $1::bigint", pause_us))
        self.run(self.app.execute("UPDATE gateway_limit_leases SET expires_us = expires_us - $1::bigint", pause_us))
        for bucket in self.model.buckets.values():
            bucket.refilled_us -= pause_us
            for lease in bucket.leases.values():
                lease.expires_us -= pause_us

    @invariant()
    def levels_are_the_models(self):
        for bucket in self.model.buckets:
            row, known = self.row(bucket), self.model.buckets[bucket]
            assert (row["level_micro"], row["leased_micro"]) == (known.level, known.leased)
            assert -known.burst <= row["level_micro"]
            # A burst of slots that run already is not taken back.
            assert known.is_slots or row["level_micro"] + row["leased_micro"] <= known.burst

    def ask(self, names, amount):
        names = sorted(names)
        needs = [MICRO if self.buckets[at].is_slots else amount * MICRO for at in names]
        return Take([self.buckets[at] for at in names], needs, [at != OBSERVED for at in names], [0] * len(names))

    def send(self, flight):
        return landed_of(flight, self.run(self.app.fetchrow(SQL.lease.sql, *flight_arguments(flight, TTL_US))))

    def store_reaps(self):
        """Whether the store is up for so long that leases are reaped: it is, or is waited for, as it cannot be held."""
        query = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())"
        while (up_s := float(self.run(self.app.fetchval(query)))) <= 10.1:
            self.run(CLOCK.sleep(0.1))
        return up_s > 10

    def leases(self):
        return self.run(self.app.fetch("SELECT * FROM gateway_limit_leases ORDER BY bucket_id, owner"))

    def lease(self, bucket, owner):
        query = "SELECT fence FROM gateway_limit_leases WHERE bucket_id = $1 AND owner = $2"
        return self.run(self.app.fetchval(query, bucket, owner))


def test_the_store_follows_the_exact_model(store_urls):
    loop = asyncio.new_event_loop()
    LimitsMachine.urls, LimitsMachine.loop = store_urls, loop
    bounds = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    try:
        run_state_machine_as_test(LimitsMachine, settings=bounds)
    finally:
        loop.close()


def test_a_flight_that_comes_again_takes_nothing_from_who_is_late(store_urls):
    loop = asyncio.new_event_loop()
    LimitsMachine.urls, LimitsMachine.loop = store_urls, loop
    machine = LimitsMachine()
    try:
        machine.limits(bursts=(20,) * 4, rates=(1,) * 4)
        told = [(0, 0, 0, 5)] * 4
        machine.fly(owner=0, uses={0}, told=told, asks=[])
        machine.fly(owner=1, uses={0}, told=told, asks=[])
        machine.pause(pause_us=15_000_000)
        before = machine.leases()
        machine.send(machine.flown[-1])
        assert machine.leases() == before
        # What the late one held is lent again, to the last token.
        machine.fly(owner=1, uses={0}, told=[(0, 0, 0, 40)] * 4, asks=[])
        machine.levels_are_the_models()
    finally:
        machine.teardown()
        loop.close()
