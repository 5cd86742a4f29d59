from hypothesis import given
from hypothesis import strategies as st

from interlock.foundation.supervisor import SupervisorConfig
from interlock.foundation.supervisor.restarts import RestartRule

CONFIG = SupervisorConfig()


def test_waits_double_to_the_bound():
    rule = RestartRule(SupervisorConfig(deaths_max=100))
    waits = [rule.died(now_s=number, up_s=0).delay_s for number in range(8)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_the_sixth_death_within_a_minute_is_failed_and_tried_each_half_minute():
    rule = RestartRule(CONFIG)
    deaths = [rule.died(now_s=number, up_s=0) for number in range(6)]
    assert [each.is_failed for each in deaths] == [False] * 5 + [True]
    assert deaths[-1].delay_s == 30
    assert rule.died(now_s=500, up_s=59).is_failed


def test_deaths_spread_over_more_than_a_minute_never_fail():
    rule = RestartRule(CONFIG)
    assert not any(rule.died(now_s=number * 13, up_s=12).is_failed for number in range(50))


def test_a_minute_of_health_clears_the_record():
    rule = RestartRule(CONFIG)
    for number in range(6):
        rule.died(now_s=number, up_s=0)
    again = rule.died(now_s=100, up_s=60)
    assert again.delay_s == 0.1
    assert not again.is_failed


@given(st.lists(st.tuples(st.floats(0.01, 200), st.floats(0, 1)), min_size=1, max_size=60))
def test_every_wait_is_in_its_bounds_and_failed_means_six_deaths(steps):
    rule, now_s, recent = RestartRule(CONFIG), 0.0, []
    was_failed = False
    for gap_s, share in steps:
        now_s += gap_s
        up_s = gap_s * share
        again = rule.died(now_s, up_s)
        if up_s >= 60:
            recent, was_failed = [], False
        recent = [at_s for at_s in [*recent, now_s] if now_s - at_s <= 60]
        was_failed = was_failed or len(recent) >= 6
        assert again.is_failed is was_failed
        assert again.delay_s == 30 if was_failed else 0.1 <= again.delay_s <= 5.0
