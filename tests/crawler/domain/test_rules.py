"""Delay, circuit, shares, slots, valves and states: what has to hold whatever a site and its visitors do."""

import re
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import interlock
from interlock.crawler.domain import backpressure, circuit, delay, fair, retry
from interlock.crawler.domain.slots import SLOW_SHARE, SlotAsk, Slots
from interlock.crawler.domain.spec import glob_source
from interlock.crawler.domain.states import TRANSITIONS, UrlState
from interlock.crawler.domain.templates import closes

ROOT = Path(interlock.__file__).parents[2]
NOW_US = 1_750_000_000_000_000
DATE = "Sun, 15 Jun 2025 15:06:40 GMT"  # NOW_US
ids = st.integers(1, 6).map(lambda number: UUID(int=number))


def test_the_states_are_those_of_the_schema_and_of_the_design():
    migration = next((ROOT / "src/interlock/migrations").glob("*_crawler_frontier.sql")).read_text()
    urls = migration[migration.index("CREATE TABLE crawler_urls") :]
    check = re.search(r"state IN \(([^)]*)\)", urls).group(1)
    assert set(re.findall(r"'(\w+)'", check)) == set(UrlState)
    page = (ROOT / "docs/design/crawler.md").read_text()
    table = page[page.index("| from |") :].partition("\n\n")[0]
    told = dict(re.findall(r"^\| (\w+) \| ([\w, ]+) \|$", table, re.MULTILINE))
    told.pop("from")
    assert {name: set(targets.split(", ")) for name, targets in told.items()} == {
        str(state): set(map(str, targets)) for state, targets in TRANSITIONS.items()
    }


@given(
    st.builds(delay.Pace, st.integers(0, 5_000), st.integers(0, 300_000), st.floats(0, 60_000), st.floats(0, 60_000)),
    st.sampled_from([400, 401, 403, 429, 500, 503]),
    st.floats(0.1, 5_000),
)
def test_a_fast_error_never_shortens_the_delay(pace, status, latency_ms):
    assert delay.after_answer(pace, status, latency_ms) == pace
    assert delay.after_pushback(pace).delay_ms >= pace.delay_ms


@given(st.lists(st.tuples(st.sampled_from([200, 404, 429]), st.floats(1, 9_000)), max_size=40), st.integers(0, 4_000))
def test_the_delay_never_falls_under_the_floor_or_the_crawl_delay(answers, crawl_delay_ms):
    pace = delay.Pace(floor_ms=1_000, crawl_delay_ms=crawl_delay_ms)
    for status, latency_ms in answers:
        pace = delay.after_pushback(pace) if status == 429 else delay.after_answer(pace, status, latency_ms)
        assert max(1_000, crawl_delay_ms) <= pace.delay_ms <= max(delay.DELAY_MS_MAX, crawl_delay_ms)


@pytest.mark.parametrize(
    ("value", "date", "wanted"),
    [
        ("120", None, 120.0),
        ("0", None, 0.0),
        ("Sun, 15 Jun 2025 15:08:40 GMT", DATE, 120.0),
        # Its clock is an hour ahead of ours: measured by its own Date the window is the same.
        ("Sun, 15 Jun 2025 16:08:40 GMT", "Sun, 15 Jun 2025 16:06:40 GMT", 120.0),
        # More than a day off is no clock at all.
        ("Sun, 15 Jun 2025 15:08:40 GMT", "Sun, 15 Jun 2020 15:06:40 GMT", 120.0),
        ("Sun, 15 Jun 2025 15:08:40 GMT", None, 120.0),
        ("99999999", None, delay.RETRY_AFTER_S_MAX),
        ("0.5", None, 1.0),
        ("120.2", None, 121.0),
        ("60, 120", None, 120.0),
        # The form of asctime names no zone.
        ("Sun Jun 15 15:08:40 2025", DATE, 120.0),
        ("Sunday, 15-Jun-25 15:08:40 GMT", DATE, 120.0),
        ("soon", None, None),
        ("-5", None, None),
        (None, DATE, None),
    ],
)
def test_retry_after_is_read_as_the_site_means_it(value, date, wanted):
    assert delay.retry_after_s(value, date, NOW_US) == wanted


def test_a_time_without_a_zone_is_not_of_the_machine_s_zone(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        waited_s = delay.retry_after_s("Sun Jun 15 15:08:40 2025", DATE, NOW_US)
    time.tzset()
    assert waited_s == 120.0


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True))
def test_a_block_without_a_time_grows_and_is_bounded(pushbacks, roll):
    found = delay.headerless_block_s(pushbacks, roll)
    assert 30.0 <= found <= delay.BLOCK_S_MAX
    assert delay.headerless_block_s(pushbacks + 1, roll) >= found


@given(st.lists(st.booleans(), max_size=60))
def test_a_circuit_opens_for_a_reason_and_closes_by_a_success(outcomes):
    state = circuit.Circuit()
    for number, is_fault in enumerate(outcomes):
        before = state
        state = circuit.after_fault(state) if is_fault else circuit.after_success(state)
        assert 0 <= state.size <= circuit.WINDOW and state.bits.bit_count() <= state.size
        if not is_fault:
            assert state.state == "closed" and state.openings == 0
        if state.state == "open" and before.state == "closed":
            recent = outcomes[max(0, number - 19) : number + 1]
            assert all(outcomes[number - 4 : number + 1]) or 2 * sum(recent) >= circuit.JUDGED_MIN


def test_a_half_open_circuit_opens_again_at_once_and_for_longer():
    opened = circuit.Circuit()
    for _ in range(5):
        opened = circuit.after_fault(opened)
    again = circuit.after_fault(replace(opened, state=circuit.CircuitState.HALF_OPEN))
    assert (opened.open_s, again.open_s, again.state) == (60.0, 120.0, "open")
    while not again.is_hopeless:
        again = circuit.after_fault(again)
    assert again.openings == circuit.OPENINGS_MAX


@given(st.dictionaries(ids, st.tuples(st.integers(0, 200), st.sampled_from([0.5, 1.0, 3.0])), min_size=1),
       st.integers(0, 400))  # fmt: skip
def test_a_round_is_split_without_waste_and_nobody_gets_more_than_asked(wanted, total):
    shares = fair.max_min(float(total), {key: (float(demand), weight) for key, (demand, weight) in wanted.items()})
    demand_sum = sum(demand for demand, _ in wanted.values())
    assert sum(shares.values()) == pytest.approx(min(total, demand_sum))
    for key, (demand, _) in wanted.items():
        assert shares[key] <= demand + 1e-6
    unmet = [shares[key] / weight for key, (demand, weight) in wanted.items() if shares[key] < demand - 1e-6]
    assert max(unmet, default=0) - min(unmet, default=0) < 1e-6


@given(st.integers(1, 16), st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=2, max_size=4))
def test_queues_of_a_host_take_by_weight_over_time(count, weights):
    queues = {UUID(int=number): [weight, 0.0] for number, weight in enumerate(weights, 1)}
    took = dict.fromkeys(queues, 0)
    rounds = 200
    for _ in range(rounds):
        offered = [fair.QueueShare(key, weight, deficit, count) for key, (weight, deficit) in queues.items()]
        taken, deficits = fair.deal(offered, count)
        for key, queue in queues.items():
            took[key] += taken[key]
            queue[1] = deficits[key]
    total, weight_sum = sum(took.values()), sum(weights)
    for key, (weight, _) in queues.items():
        assert took[key] == pytest.approx(total * weight / weight_sum, abs=20)


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), max_size=80), st.integers(1, 64))
def test_slots_keep_their_caps_and_come_back(steps, total):
    slots, held = Slots(total), []
    for host, is_slow, gives_back in steps:
        ask = SlotAsk(host, 1, f"d{host % 3}", f"10.0.0.{host % 2}", is_slow)
        if slots.refusal(ask) is None:
            slots.take(ask)
            held.append(ask)
        elif gives_back and held:
            slots.give(held.pop(0))
        shown = slots.statistics()
        assert shown["in_use"] == len(held) <= total
        assert shown["slow"] <= max(1, int(total * SLOW_SHARE))
        assert len({each.host_hash for each in held}) == len(held)
        for domain in range(3):
            assert sum(each.domain == f"d{domain}" for each in held) <= 4
    for ask in held:
        slots.give(ask)
    assert slots.statistics() == {"in_use": 0, "slow": 0, "total": total}


@given(st.integers(0, 1 << 30), st.floats(0, 1_000), st.one_of(st.none(), st.integers(0, 1 << 30)), st.booleans())
def test_a_valve_is_monotone_and_a_credit_of_nothing_closes_it(used, lag_s, credit, is_down):
    load = backpressure.Load(0, 0, used, 1 << 28, lag_s, credit, is_down)
    valve = backpressure.judge(load, backpressure.Machine())
    worse = backpressure.judge(replace(load, lag_s=lag_s + 10, outbox_bytes=used + 1_000), backpressure.Machine())
    assert 0 <= worse.share <= valve.share <= 1
    assert (valve.source is None) == (valve.share == 1)
    if credit == 0:
        assert valve.state == "closed" and backpressure.grant(100, valve, load, 1_000) == 0
    granted = backpressure.grant(100, valve, load, 1_000)
    assert granted <= 100
    if credit is not None and load.used_bytes:
        assert granted * 1_000 <= max(0, credit - load.used_bytes)


def test_low_disk_pauses_and_says_so():
    load = backpressure.Load(0, 0, 0, 1 << 28, 0.0, 1 << 28)
    low = backpressure.judge(load, backpressure.Machine(disk_free=backpressure.GIB // 2, disk_total=1 << 40))
    half = backpressure.judge(load, backpressure.Machine(disk_free=(1 << 40) // 12, disk_total=1 << 40))
    assert (low.state, low.source, half.share) == ("closed", "disk", 0.5)


@pytest.mark.parametrize("kind", sorted(retry.TABLE))
def test_every_class_of_failure_ends(kind):
    attempt = 1
    while isinstance(found := retry.decide(kind, attempt, 0.5), retry.Again):
        assert found.after_s > 0
        attempt += 1
    assert attempt <= 5


def test_a_shape_is_closed_by_what_it_brings():
    novel = (1 << 50) - 1
    assert closes(500, 500, 0) is None
    assert closes(501, 500, 0) == "trap_low_novelty"
    assert closes(501, 500, novel) is None
    assert closes(501, 20, 0) is None
    assert closes(5_001, 5_000, novel) == "trap_template_budget"


@pytest.mark.parametrize(
    ("glob", "text", "is_match"),
    [
        ("https://a/*", "https://a/x", True),
        ("https://a/*", "https://a/x/y", False),
        ("https://a/**", "https://a/x/y?z", True),
        ("**/p?ge", "https://a/page", True),
        ("https://a/x.html", "https://a/xxhtml", False),
    ],
)
def test_a_star_stays_in_its_segment_and_two_cross(glob, text, is_match):
    assert bool(re.fullmatch(glob_source(glob), text)) is is_match
