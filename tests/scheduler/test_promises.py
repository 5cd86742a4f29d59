"""Shares, plans and promises: what is promised is kept, what is shared is shared, and the flood gives way first."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.contracts.scheduling import ServiceClass
from interlock.scheduler.domain.asks import CLASSES, Ask, Fate, Room, StepSeen
from interlock.scheduler.domain.margin import StepMargin
from interlock.scheduler.domain.plan import HEADROOM, Pace, Plan, order_key
from interlock.scheduler.domain.profiles import (
    A100_LLAMA3_8B,
    CHUNK_MAX,
    ProfileInvalidError,
    StepProfile,
    chunk_of,
    read_vidur,
)
from interlock.scheduler.domain.promises import PromiseOrder
from interlock.scheduler.domain.rates import Rates
from interlock.scheduler.domain.share import Shares, water_level

FREE = Room(seats=8, prefill_left=0, kv_free=1_000_000)
FULL = Room(seats=0, prefill_left=0, kv_free=1_000_000)
pairs = st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0.1, 100)), min_size=1, max_size=20)


def ask(key, tenant="a", prefill=400, output=10, at_us=0, service_class=ServiceClass.INTERACTIVE):
    return Ask(key, (tenant,), service_class, at_us, CLASSES[service_class].ttft_us, prefill, output)


def fates(verdicts):
    return {each.key: each.fate for each in verdicts}


@given(pairs, st.floats(0.1, 1e6), st.randoms())
def test_the_water_level_gives_out_what_there_is_and_no_more_whatever_the_order(demands, capacity, dice):
    level = water_level(demands, capacity)
    served = [min(demand, level * weight) for demand, weight in demands]
    total = sum(demand for demand, _ in demands)
    assert sum(served) == pytest.approx(min(total, capacity))
    assert math.isinf(level) == (total <= capacity)
    shuffled = list(demands)
    dice.shuffle(shuffled)
    assert water_level(shuffled, capacity) == pytest.approx(level)


@given(pairs, st.floats(0.1, 1e6))
def test_nobody_gets_more_a_weight_than_one_who_did_not_get_all(demands, capacity):
    level = water_level(demands, capacity)
    for (demand, weight), (other, other_weight) in itertools.permutations(demands, 2):
        if min(demand, level * weight) < demand:
            assert min(other, level * other_weight) / other_weight <= level * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.sampled_from([0.1, 1.0, 1.0, 7.5])), min_size=70, max_size=120),
    st.floats(0.001, 1.2),
    st.integers(0, 5_000_000),
)
def test_a_level_of_many_tenants_is_filled_like_a_small_one(tenants, share, later_us):
    shares = Shares(weights={f"t{at}": weight for at, (_, weight) in enumerate(tenants)})
    for at, (cost, _) in enumerate(tenants):
        shares.offer(at, (f"t{at}",), cost)
    now_us = len(tenants) + later_us
    demands = [(node.demand_now(now_us), node.weight) for node in shares._levels[()].values()]
    capacity = share * sum(demand for demand, _ in demands)
    active = [(demand, weight) for demand, weight in demands if demand > 1]
    assert shares.level(now_us, capacity) == pytest.approx(water_level(active, capacity))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["enter", "leave", "charge", "refund"])), max_size=60)
)
def test_debt_is_the_lead_over_the_least_served_whatever_came_before(steps):
    shares = Shares()
    for at, (name, what) in enumerate(steps):
        held = shares._node((), name).held
        if what == "enter":
            shares.enter((name,))
        elif what == "leave" and held:
            shares.leave((name,))
        elif held:
            shares.charge((name,), (at + 1) * (1_000 if what == "charge" else -100))
        least = min((each.counter for each in shares._levels[()].values() if each.held), default=None)
        own = shares._node((), name).counter
        assert shares.debt((name,)) == max(0.0, own - (own if least is None else least))


def test_a_tenant_alone_is_never_over_its_share():
    shares = Shares()
    for _ in range(100):
        shares.offer(0, ("a",), 1_000_000)
    assert shares.excess(0, ("a",), 1.0) <= 1.0


def test_the_demand_of_a_flood_is_forgotten_with_time():
    shares = Shares()
    shares.enter(("b",))
    shares.offer(0, ("b",), 100)
    shares.offer(0, ("a",), 1_000_000)
    assert shares.excess(0, ("a",), 1_000.0) > 1.0
    assert shares.excess(120_000_000, ("a",), 1_000.0) <= 1.0


def test_idle_saves_no_credit():
    """A tenant that comes back stands where the least served of those that stayed stands."""
    shares = Shares()
    shares.enter(("busy",))
    shares.charge(("busy",), 50_000)
    shares.enter(("idle",))
    assert shares.debt(("busy",)) == 0.0
    assert shares.debt(("idle",)) == 0.0


def free_seat(pace, needed):
    """When the seat of a number comes free: all of those in use in turn, then the first of them once more."""
    waits = pace.seat_waits_us
    if not pace.hold_us:
        return waits[min(needed, len(waits) - 1)]
    return waits[needed % len(waits)] + needed // len(waits) * max(pace.hold_us, waits[-1] - waits[0])


def slow_slacks(rows, now_us, pace):
    """The plan once more, row by row, as a reader would compute it by hand."""
    finish = now_us + pace.prefill_left * 1_000_000 // max(1, round(pace.rho))
    rate = max(1, round(HEADROOM * pace.rho))
    tokens, slacks = 0, []
    for place, (_, _, deadline_us, prefill, _, _) in enumerate(rows):
        tokens += prefill
        wait = 0
        if place >= pace.seats and pace.seat_waits_us:
            wait = free_seat(pace, place - max(pace.seats, 0))
        slacks.append(deadline_us - (finish + tokens * 1_000_000 // rate + wait))
    return slacks


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_arrays_of_a_plan_say_what_the_slow_list_says(data):
    plan, rows = Plan(), []
    for key in range(data.draw(st.integers(1, 40))):
        if rows and data.draw(st.booleans()) and data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(rows) - 1))
            assert plan.remove(at) == rows.pop(at)[1]
            continue
        tier, deadline_us = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 5_000_000))
        prefill, cost = data.draw(st.integers(1, 4_000)), data.draw(st.integers(1, 9_000))
        is_provisional = tier > 0
        at = plan.insert(order_key(tier, deadline_us), (key, deadline_us, prefill, cost), is_provisional=is_provisional)
        rows.insert(at, (order_key(tier, deadline_us), key, deadline_us, prefill, cost, is_provisional))
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    waits = tuple(sorted(data.draw(st.lists(st.integers(0, 900_000), max_size=5))))
    pace = Pace(
        data.draw(st.integers(0, 9_000)), data.draw(st.floats(100, 20_000)), data.draw(st.integers(0, 12)), waits,
        data.draw(st.sampled_from([0, 1, 50_000, 700_000])),
    )  # fmt: skip
    slow = slow_slacks(rows, 1_000, pace)
    assert plan.slacks(1_000, pace).tolist() == slow
    for order, deadline_us, prefill in [(each[0], each[2], 50) for each in rows[::9]] + [
        (1, 1, 1),
        (order_key(5, 0), 9, 1),
    ]:
        at = sum(row[0] <= order for row in rows)
        after = slow_slacks([*rows[:at], (order, -1, deadline_us, prefill, 0, False), *rows[at:]], 1_000, pace)
        own = after.pop(at)
        is_held = own >= 0 and all(new >= 0 or old < 0 for new, old in zip(after, slow, strict=True))
        assert plan.would_hold(1_000, pace, [(order, deadline_us, prefill)]) == [is_held]


def test_ten_at_once_are_as_many_as_the_first_second_can_prefill():
    """A pool of 1,000 prompt tokens a second: of ten prompts of 400, two are in time."""
    order = PromiseOrder(Rates.declared(1_000))
    verdicts = [fates(order.arrive(0, ask(key), FULL))[key] for key in range(10)]
    assert verdicts.count(Fate.QUEUED) == 2
    assert set(verdicts) == {Fate.QUEUED, Fate.DEADLINE_INFEASIBLE}


def test_who_is_over_its_share_gives_way_to_who_is_not():
    order = PromiseOrder(Rates(rho=1_000.0, capacity=200.0))
    order.arrive(0, ask(1, "small", prefill=100), FULL)
    order.shares.offer(0, ("flood",), 4_200)
    assert fates(order.arrive(0, ask(2, "flood"), FULL)) == {2: Fate.QUEUED}
    assert fates(order.arrive(0, ask(3, "flood"), FULL)) == {3: Fate.QUEUED}
    assert fates(order.arrive(0, ask(4, "flood"), FULL)) == {4: Fate.FAIR_SHARE_EXCEEDED}
    assert fates(order.arrive(0, ask(5, "small", prefill=300), FULL)) == {3: Fate.DISPLACED, 5: Fate.QUEUED}
    # A provisional request whose first token is overdue gives way by itself; a final one still has its bound.
    assert fates(order.expire(1_000_000)) == {2: Fate.DISPLACED}
    assert order.queued == 2


def test_nobody_is_displaced_for_a_request_that_is_refused_in_the_end():
    order = PromiseOrder(Rates(rho=1_000.0, capacity=200.0), Shares(weights={"heavy": 100.0}))
    order.arrive(0, ask(1, "heavy", prefill=100), FULL)
    order.shares.offer(0, ("flood",), 4_200)
    assert fates(order.arrive(0, ask(2, "flood"), FULL)) == {2: Fate.QUEUED}
    refused = order.arrive(0, ask(3, "heavy", prefill=1_200, output=1), FULL)
    assert fates(refused) == {3: Fate.DEADLINE_INFEASIBLE}
    assert order.queued == 2


@pytest.mark.parametrize("seed", range(30))
def test_no_final_request_is_ever_displaced_and_every_request_has_one_end(seed):
    dice = random.Random(seed)
    order = PromiseOrder(Rates.declared(2_000))
    ends, now_us, granted = {}, 0, {}
    for key in range(400):
        now_us += dice.randrange(60_000)
        room = Room(dice.randrange(4), dice.randrange(600), 100_000)
        service_class = dice.choice(list(ServiceClass))
        tenant = dice.choice(["a", "a", "a", "b", "c"])
        given = ask(key, tenant, dice.randrange(1, 900), dice.randrange(1, 300), now_us, service_class)
        for verdict in [*order.arrive(now_us, given, room), *order.expire(now_us)]:
            if verdict.fate is Fate.QUEUED:
                continue
            assert verdict.key not in ends
            assert not (verdict.fate is Fate.DISPLACED and verdict.was_final)
            ends[verdict.key] = verdict.fate
        while (taken := order.next_grant(now_us, room)) is not None:
            assert taken.key not in ends
            ends[taken.key] = "granted"
            granted[taken.key] = taken
            room = Room(room.seats - 1, room.prefill_left + taken.prefill, room.kv_free)
    for verdict in order.expire(now_us + 1_000_000_000):
        assert verdict.key not in ends
        ends[verdict.key] = verdict.fate
    assert order.queued == 0
    assert set(ends) == set(range(400))
    for each in granted.values():
        order.settled(now_us, each, each.output)
    assert all(node.held == 0 for level in order.shares._levels.values() for node in level.values())


def test_nothing_waits_longer_than_three_times_its_objective():
    order = PromiseOrder(Rates.declared(100_000))
    assert fates(order.arrive(0, ask(1), FULL)) == {1: Fate.QUEUED}
    assert order.expire(2_999_999) == []
    assert fates(order.expire(3_000_000)) == {1: Fate.QUEUE_TIME_EXCEEDED}


def test_a_longer_prompt_takes_longer_and_a_chunk_fits_its_limit():
    times = [A100_LLAMA3_8B.step_us(size) for size in range(1, 9_000, 7)]
    assert times == sorted(times)
    for limit_us in (15_000, 30_000, 47_500, 95_000):
        chunk = chunk_of(A100_LLAMA3_8B, limit_us, 40, 50_000, 1_000)
        assert chunk == 32 or A100_LLAMA3_8B.step_us(chunk, 40, 50_000, chunk * (1_000 + chunk // 2)) <= limit_us
        assert chunk <= CHUNK_MAX


def test_a_chunk_ends_with_a_tile_and_not_a_token_behind_it():
    """Behind 512 tokens the next 64 cost as much as the 256 before: what fits is read slower than what is read best."""
    tiled = StepProfile("tiled", ((1, 9_000), (512, 36_000), (513, 46_000), (576, 48_000)), 0, 0, 0)
    assert tiled.step_us(576) <= 49_000
    assert chunk_of(tiled, 49_000, 0, 0, 0) == 512
    assert chunk_of(tiled, 49_000, 20, 0, 0) == 492
    assert chunk_of(tiled, 30_000, 0, 0, 0) == 384
    assert chunk_of(tiled, 1, 40, 0, 0) == 32


def test_a_profile_that_is_none_is_refused_with_its_line():
    with pytest.raises(ProfileInvalidError, match="no columns"):
        read_vidur("x", ["a,b\n", "1,2\n"])
    with pytest.raises(ProfileInvalidError, match="line 2"):
        read_vidur("x", ["time_stats.a.median,num_tokens,num_tensor_parallel_workers\n", "oops,1,1\n"])


def test_the_plan_is_made_of_integers():
    plan = Plan()
    plan.insert(order_key(1, 5), (1, 5, 10, 20), is_provisional=True)
    assert plan.slacks(0, Pace(0, 1_000.0, 1)).dtype == np.int64
    assert plan.first == 1
    with pytest.raises(KeyError):
        plan.place_of(2)


def test_a_tenant_that_is_back_inside_its_share_is_promised_before_anybody_gives_way():
    """A burst of the shop looks like a flood; seconds later only the flood still does, and it alone gives way."""
    shares = Shares()
    order = PromiseOrder(Rates(rho=10_000.0, capacity=1_000.0), shares)
    shares.offer(0, ("shop",), 5_000)
    shares.offer(0, ("flood",), 32_000)
    burst = ask(1, "shop", prefill=1_000, service_class=ServiceClass.STANDARD)
    queued = order.arrive(0, burst, FULL)
    assert (fates(queued), queued[-1].was_final) == ({1: Fate.QUEUED}, False)
    at_us = 4_500_000
    shares.offer(at_us, ("flood",), 32_000)
    found = order.arrive(at_us, ask(2, "flood", prefill=9_000, at_us=at_us), FULL)
    assert fates(found) == {2: Fate.FAIR_SHARE_EXCEEDED}
    assert order.expire(5_000_001) == []
    assert fates(order.expire(15_000_001)) == {1: Fate.QUEUE_TIME_EXCEEDED}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(1, 50_000)), min_size=1, max_size=40),
    st.floats(100, 50_000),
)
def test_inside_says_of_many_what_excess_says_of_one(offers, capacity):
    shares = Shares()
    for at, (organization, workspace, cost) in enumerate(offers):
        shares.offer(at * 100_000, (organization, workspace), cost)
    now_us = len(offers) * 100_000
    paths = sorted({(organization, workspace) for organization, workspace, _ in offers})
    assert shares.inside(now_us, paths, capacity) == [
        path for path in paths if shares.excess(now_us, path, capacity) <= 1.0
    ]


def test_a_slowdown_counts_at_once_and_a_first_token_waits_for_the_end_of_its_step():
    rates = Rates.declared(10_000)
    for _ in range(200):
        rates.learn(StepSeen(50_000, 500, 500, is_backlogged=True))
    assert rates.planned == pytest.approx(10_000)
    for _ in range(5):
        rates.learn(StepSeen(100_000, 500, 500, is_backlogged=True))
    assert rates.planned < 6_000
    assert rates.rho > 8_000
    plan = Plan()
    plan.insert(1, (1, 10_000_000, 1_000, 1), is_provisional=False)
    paces = [Pace(0, 10_000.0, 8, step_us=step_us) for step_us in (0, 40_000)]
    assert plan.slacks(0, paces[0])[0] - plan.slacks(0, paces[1])[0] == 40_000


def test_a_prompt_is_read_by_one_replica_however_many_there_are():
    plan = Plan()
    plan.insert(1, (1, 10_000_000, 9_500, 1), is_provisional=False)
    one = plan.slacks(0, Pace(0, 10_000.0, 8))
    assert plan.slacks(0, Pace(0, 40_000.0, 8, replicas=4)).tolist() == one.tolist()


def test_the_margin_of_a_step_is_what_predictions_were_wrong_by():
    margin = StepMargin()
    for _ in range(64):
        margin.learn(40_000, 40_000)
    assert margin.share == 0.995
    for number in range(128):
        margin.learn(40_000, 44_000 if number % 5 == 0 else 40_000)
    assert margin.share == pytest.approx(1 / 1.1)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 4), st.integers(1, 8))
def test_service_gap_bound(dice, tenants, slots):
    """Tenants of one weight who always wait: none gets further ahead than the published bound, whatever they send."""
    order = PromiseOrder(Rates(rho=1e9, capacity=1_000.0))
    largest_in, largest_out = dice.choice([(600, 20), (4_000, 300)])
    names = [f"t{number}" for number in range(tenants)]
    for name in names:
        order.shares.offer(0, (name,), 1_000_000)
    served, running, keys = dict.fromkeys(names, 0), [], itertools.count()

    def sends(name):
        key = next(keys)
        sent = ask(key, name, dice.randint(1, largest_in), dice.randint(1, largest_out), key)
        assert fates(order.arrive(0, sent, FREE)) == {key: Fate.QUEUED}

    for name in names:
        for _ in range(dice.randint(1, 30)):
            sends(name)
    bound = max(4_000, 1.75 * 1_000) + 2 * (largest_in + 2 * slots * largest_out)
    for _ in range(300):
        taken = order.next_grant(0, Room(slots, 0, 1_000_000))
        output = dice.randint(1, largest_out)
        served[taken.path[0]] += taken.prefill + 2 * output
        running.append((taken, output))
        sends(taken.path[0])
        if len(running) == slots:
            order.settled(0, *running.pop(dice.randrange(slots)))
        assert max(served.values()) - min(served.values()) <= bound


def test_a_queue_longer_than_the_seats_waits_for_who_stands_before_it_too():
    """Eight seats that are held for 400 ms each: of thirty at once those of the third turn are too late."""
    order = PromiseOrder(Rates.declared(1_000_000))
    full = Room(0, 0, 1_000_000, tuple(50_000 * number for number in range(1, 9)), 400_000)
    verdicts = [fates(order.arrive(0, ask(key, prefill=10), full))[key] for key in range(30)]
    assert verdicts.count(Fate.QUEUED) == 19
    assert set(verdicts[19:]) == {Fate.DEADLINE_INFEASIBLE}
    # Without a turn that anybody has seen, all behind the last seat are taken to be as late as it.
    unknown = PromiseOrder(Rates.declared(1_000_000))
    blind = Room(0, 0, 1_000_000, full.seat_waits_us)
    assert all(fates(unknown.arrive(0, ask(key, prefill=10), blind))[key] is Fate.QUEUED for key in range(30))


def test_each_node_is_shown_among_its_siblings_and_a_request_where_it_is_furthest_over():
    shares = Shares()
    hog, modest, other = ("a", "hog"), ("a", "modest"), ("b", "only")
    for path, cost in ((hog, 8_000), (modest, 1_000), (other, 1_000)):
        shares.enter(path)
        shares.offer(0, path, cost)
    fits = {path: shares.own_standing(0, path, 2_000.0) for path in (("a",), hog, modest)}
    assert {path: round(each.demand_tps) for path, each in fits.items()} == {("a",): 900, hog: 800, modest: 100}
    assert not any(each.is_over_share for each in fits.values())
    scarce = {path: shares.own_standing(0, path, 500.0) for path in (("a",), hog, modest, ("b",), other)}
    assert {path: each.is_over_share for path, each in scarce.items()} == {
        ("a",): True, hog: True, modest: False, ("b",): False, other: False,
    }  # fmt: skip
    assert round(scarce["a",].share_tps) == 400
    assert round(scarce[hog].share_tps) == 300
    # A request of the modest one is judged by its organization as well, which asks for too much.
    assert shares.standing(0, modest, 500.0).is_over_share
