"""Who gives way for a newcomer is the same as when the plan is read again from its front after each who has gone."""

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from interlock.scheduler.domain.plan import COST, DEADLINE, KEY, PROVISIONAL, Pace, Plan, order_key
from interlock.scheduler.domain.scan import Scan

NOW_US = 1_000


def planned(rows):
    plan = Plan()
    for key, (tier, deadline_us, prefill, cost) in enumerate(rows):
        row = (key, deadline_us, prefill, cost)
        plan.insert(order_key(tier, deadline_us), row, is_provisional=tier > 0)
    return plan


def read_again_and_again(plan, pace, own, *, displaces):
    """Take out one at a time and begin anew, as a reader would by hand; the plan is used up by it."""
    at_risk, begin, displaced = 0, 0, []
    while True:
        slacks = plan.slacks(NOW_US, pace).tolist()
        late = next((at for at in range(begin, len(slacks)) if slacks[at] < 0), None)
        if late is None:
            return at_risk, displaced, None
        place, rows = plan.place_of(own), plan.rows
        may_go = [at for at in range(late + 1) if rows[PROVISIONAL, at] and (displaces or at == place)]
        victim = max(may_go, key=lambda at: (rows[COST, at], rows[KEY, at]), default=None)
        if victim is None and late < place:
            at_risk, begin = at_risk + 1, late + 1
        elif victim is None or victim == place:
            return at_risk, [], (place, slacks[place])
        else:
            displaced.append((plan.key_at(victim), slacks[victim]))
            plan.remove(victim)


TIERS = st.sampled_from([0, 0, 0, 1, 1, 2])
ROWS = st.tuples(TIERS, st.integers(0, 3_000_000), st.integers(1, 4_000), st.integers(1, 40))


@settings(max_examples=400, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=150), st.data())
def test_one_reading_finds_whom_many_readings_find(rows, data):
    waits = tuple(sorted(data.draw(st.lists(st.integers(0, 900_000), max_size=5))))
    pace = Pace(
        data.draw(st.integers(0, 9_000)), data.draw(st.sampled_from([2_000.0, 20_000.0, 150_000.0])),
        data.draw(st.integers(0, 12)), waits, data.draw(st.sampled_from([0, 1, 50_000])), data.draw(st.integers(1, 3)),
    )  # fmt: skip
    own, displaces = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.sampled_from([True, True, True, False]))
    plan = planned(rows)
    before = plan.rows.tolist()
    found = Scan(plan, NOW_US, pace, plan.slacks(NOW_US, pace)).settle(own, displaces=displaces)
    assert plan.rows.tolist() == before
    slow = read_again_and_again(plan, pace, own, displaces=displaces)
    assert (len(found.at_risk), found.displaced, found.own) == slow
    event("refused" if found.own else "displaced" if found.displaced else "nobody")


@pytest.mark.parametrize("count", [40, 300])
def test_more_may_give_way_than_are_looked_out_at_once(count):
    rows = [(1, 2_000_000 + 10 * number, 500, 1 + number * 7 % 90) for number in range(count)]
    rows.append((0, 5_000_000, 400, 1))
    pace = Pace(0, 10_000.0, 4, (1_000, 2_000), 30_000)
    plan = planned(rows)
    found = Scan(plan, NOW_US, pace, plan.slacks(NOW_US, pace)).settle(count, displaces=True)
    slow = read_again_and_again(plan, pace, count, displaces=True)
    assert (len(found.at_risk), found.displaced, found.own) == slow
    assert found.own is None
    assert count == 40 or len(found.displaced) > 64


def test_promises_that_are_late_anyway_are_counted_and_stay():
    """Nobody who could give way stands before them: the newcomer behind them is judged by its own deadline."""
    rows = [*((0, number, 100, 1) for number in range(50)), (0, 60_000_000, 100, 1)]
    plan = planned(rows)
    pace = Pace(0, 1_000.0, 60)
    found = Scan(plan, NOW_US, pace, plan.slacks(NOW_US, pace)).settle(50, displaces=True)
    assert (found.at_risk, found.displaced, found.own) == (list(range(50)), [], None)
    assert plan.rows[DEADLINE].max() == 60_000_000


def test_a_row_is_noted_once_wherever_it_moves():
    plan = planned([(0, 10 * number, 100, 1) for number in range(5)])
    assert plan.note([1, 2]) == 2
    plan.remove(0)
    plan.insert(order_key(0, 15), (9, 15, 100, 1), is_provisional=False)
    assert plan.note([0, 1, 2]) == 1
    assert plan.note([]) == 0
