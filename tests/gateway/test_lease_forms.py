"""What a worker leases of limits, in the compiled form and in Python: whatever happens, both say and hold the same."""

import gc
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from interlock.gateway.domain import directory, limits, pools
from tests.gateway.test_compiled_forms import in_python

pytestmark = pytest.mark.skipif(pools._compiled is None, reason="nothing was compiled here")
FORMS = [(directory, limits, pools), in_python("directory", "limits", "pools")]
TENANT = UUID(int=7)
DIMENSIONS = list(directory.Dimension)
FIGURES = (
    "left", "half", "level", "level_us", "back", "spent", "slots", "passed", "credit", "ends_at", "workers", "_used",
)  # fmt: skip
# 2026-01-31, shortly before a month ends.
START_US = 1_769_903_999_000_000
FEW, MANY = st.integers(1, 200), st.sampled_from([1, 10**6, 10**9, 10**12])
ASKED = st.one_of(st.integers(0, 300), st.sampled_from([10**6, 10**9, 10**12]))
# What a model server says that it used may be anything.
USED = st.one_of(st.integers(-1, 300), st.sampled_from([10**6, 10**9, 5 * 10**12, 9 * 10**12, 10**25, -(10**25)]))


class Side:
    """One form of the plan of the same limits."""

    def __init__(self, form, given, model="é*"):
        rows, self.rules, held = form
        made = [
            rows.Limit(
                UUID(int=at), TENANT, rows.LimitScope(scope), "t", rows.Dimension(dimension), model, limit, burst,
                rows.LimitMode(mode), 1,
            )
            for at, (dimension, limit, burst, mode, scope) in enumerate(given, start=1)
        ]  # fmt: skip
        self.form = held
        self.limits = made
        self.plan = held.Plan(TENANT, tuple(made), [held.pool_of(TENANT, each, 0.0) for each in made])
        self.due, self.running = set(), []

    def figures(self):
        """All that the pools hold, and which of them have something to tell."""
        return [(*(getattr(each, name) for name in FIGURES), each in self.due) for each in self.plan.pools]

    def take(self, given, made, usd, now, now_us):
        """Reserve; what was said of it, or None."""
        found = self.rules.lease(self.plan, self.rules.Ask(given, made, 1, usd), now, now_us, self.due)
        if found is None:
            return None
        self.running.append(found)
        return found.described(), found.headers(), found.levels_micro, found.tokens, found.at_us, str(found.mode)

    def end(self, at, used):
        """Settle one of those that run; which slots are free."""
        used = None if used is None else self.rules.Used(*used)
        slots = self.running.pop(at % len(self.running)).give_back(used, self.due)
        return [(self.plan.pools.index(pool), amount) for pool, amount in slots]


class Leases(RuleBasedStateMachine):
    """Leases come, are spent, settled and given up in any order, while the time goes on, or back."""

    @initialize(
        given=st.lists(
            st.tuples(
                st.sampled_from([str(each) for each in DIMENSIONS]), st.one_of(FEW, MANY), st.one_of(FEW, MANY),
                st.sampled_from(["enforce", "observe"]), st.sampled_from(["key", "tier", "organization"]),
            ),
            min_size=1,
            max_size=5,
        )
    )  # fmt: skip
    def begin(self, given):
        self.sides = [Side(form, given) for form in FORMS]
        self.now, self.now_us = 10.0, START_US

    def both(self, ask):
        compiled, plain = [ask(side) for side in self.sides]
        assert compiled == plain
        return compiled

    @rule(
        at=st.integers(0, 4),
        leased=st.sampled_from([0, 10**6, 10**8, 10**12, 10**17]),
        level=st.one_of(st.integers(-(10**9), 10**9), st.sampled_from([-(2**63), -(10**18), 10**18, 0])),
        for_s=st.sampled_from([0.0, 2.0, 900.0]),
    )
    def a_lease_comes(self, at, leased, level, for_s):
        for side in self.sides:
            pool = side.plan.pools[at % len(side.plan.pools)]
            pool.refill(leased, min(level, pool.bucket.burst_micro), self.now_us, self.now + for_s)

    @rule()
    def plenty_comes(self):
        for side in self.sides:
            for pool in side.plan.pools:
                pool.refill(10**17, pool.bucket.burst_micro, self.now_us, self.now + 900)

    @rule(given=ASKED, made=ASKED, usd=ASKED)
    def a_request_comes(self, given, made, usd):
        self.both(lambda side: side.take(given, made, usd, self.now, self.now_us))

    @rule(count=st.integers(1, 9))
    def requests_come(self, count):
        for at in range(count):
            self.a_request_comes(at, at, 1)

    @precondition(lambda self: self.sides[0].running)
    @rule(at=st.integers(0, 99), used=st.none() | st.tuples(USED, USED, USED))
    def a_request_ends(self, at, used):
        self.both(lambda side: side.end(at, used))

    @rule(seconds=st.sampled_from([0.0, 0.3, 61.0, 3_600.0, 86_400.0, -5.0, 2_678_400.0]))
    def time_passes(self, seconds):
        self.now += max(0.0, seconds)
        self.now_us += int(seconds * 1_000_000)

    @rule(at=st.integers(0, 4), burst=st.one_of(FEW, MANY))
    def a_limit_changes(self, at, burst):
        for side in self.sides:
            at_most = side.limits[at % len(side.limits)]
            changed = type(at_most)(*(getattr(at_most, each) for each in at_most.__struct_fields__[:7]), burst,
                at_most.mode, 2)  # fmt: skip
            side.plan.pools[at % len(side.limits)].bucket = side.form.pool_of(TENANT, changed, 0.0).bucket

    @rule()
    def what_is_due_is_told(self):
        self.both(lambda side: [each.wanted(self.now) for each in side.plan.pools])
        for side in self.sides:
            for pool in side.plan.pools:
                pool.credit = pool.back = pool.spent = 0
            side.due.clear()

    @rule(at=st.integers(0, 4))
    def a_lease_is_given_up(self, at):
        for side in self.sides:
            side.plan.pools[at % len(side.plan.pools)].expire()

    @invariant()
    def both_hold_the_same(self):
        if hasattr(self, "sides"):
            self.both(Side.figures)


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def plan_of(count):
    """A plan of limits of five requests, which are all leased."""
    (rows, _, held), _ = FORMS
    named = (TENANT, rows.LimitScope.KEY, "t", rows.Dimension.REQUESTS, "*", 5, 5, rows.LimitMode.ENFORCE, 1)
    made = tuple(rows.Limit(UUID(int=at), *named) for at in range(1, count + 1))
    plan = held.Plan(TENANT, made, [held.pool_of(TENANT, each, 0.0) for each in made])
    for pool in plan.pools:
        pool.refill(5_000_000, 5_000_000, START_US, 20.0)
    return plan


def test_plans_of_no_limit_or_of_very_many_are_left_to_python():
    for count, is_compiled in ((0, False), (1, True), (16, True), (17, False)):
        plan = plan_of(count)
        assert (plan.leases is not None) is is_compiled
        assert len(limits.lease(plan, limits.Ask(1, 1), 10.0, START_US, set()).levels_micro) == count


def test_what_no_lease_could_ever_cover_is_left_to_whoever_decides_without_one():
    plan = plan_of(1)
    for ask in (limits.Ask(10**25, 1), limits.Ask(1, 10**13), limits.Ask(-1, 1)):
        assert limits.lease(plan, ask, 10.0, START_US, set()) is None
    assert plan.pools[0].left == 5_000_000


def test_a_pool_is_freed_with_its_plan_and_what_is_reserved_of_it():
    gc.collect()
    before = sum(isinstance(each, pools.Pool) for each in gc.get_objects())
    plan = plan_of(3)
    reservation = limits.lease(plan, limits.Ask(1, 1), 10.0, START_US, set())
    assert sum(isinstance(each, pools.Pool) for each in gc.get_objects()) == before + 3
    del plan, reservation
    gc.collect()
    assert sum(isinstance(each, pools.Pool) for each in gc.get_objects()) == before


@pytest.mark.parametrize("form", FORMS, ids=["compiled", "python"])
@pytest.mark.parametrize("count", [4_500_000_000_000, 6_000_000_000_000, 9_000_000_000_000])
def test_a_model_server_that_names_trillions_of_tokens_leaves_a_debt_and_gives_no_credit(form, count):
    side = Side(form, [("tokens_per_minute", 10**12, 10**12, "enforce", "key")])
    (pool,) = side.plan.pools
    pool.refill(10**17, pool.level, START_US, 20.0)
    assert side.take(10, 10, 0, 10.0, START_US)
    side.end(0, (count, count, 0))
    assert pool.credit == (20 - 2 * count) * 10**6


@pytest.mark.parametrize("form", FORMS, ids=["compiled", "python"])
@pytest.mark.parametrize("dimension", ["tokens_per_minute", "usd_per_day"])
def test_the_deepest_debt_that_the_store_can_hold_is_told_as_it_is(form, dimension):
    side = Side(form, [(dimension, 10**12, 10**12, "enforce", "key")])
    (pool,) = side.plan.pools
    pool.refill(10**17, -(2**63), START_US, 20.0)
    described, _, (level,), *_ = side.take(10, 10, 0, 10.0, START_US)
    used = pool.bucket.burst_micro - level
    figure = f"{used // 10**6}.{used % 10**6:06d}" if dimension.startswith("usd") else -(-used // 10**6)
    assert f" used={figure} " in described


@pytest.mark.parametrize("dimension", ["tokens_per_minute", "usd_per_day"])
@pytest.mark.parametrize("letters", [1, 60, 90, 130, 1_000, 5_000])
def test_models_with_the_longest_names_are_told_whole_in_both_forms(dimension, letters):
    told = []
    for form in FORMS:
        side = Side(form, [(dimension, 10**12, 10**12, "enforce", "key")] * 16, "é" * letters)
        for pool in side.plan.pools:
            pool.refill(10**17, pool.level, START_US, 20.0)
        told.append(side.take(10, 10, 7, 10.0, START_US))
    assert told[0] == told[1]
    assert told[0][0].count("é" * letters + " mode=") == 16


def test_a_second_in_which_more_is_used_than_64_bits_hold_asks_for_the_largest_lease_in_both_forms():
    for form in FORMS:
        (pool,) = Side(form, [("tokens_per_minute", 10**12, 10**12, "enforce", "key")]).plan.pools
        for _ in range(12):
            pool.note_use(10**18)
        assert pool.wanted(0.5) == pool.wanted(1.5) == 10**18 // 20
