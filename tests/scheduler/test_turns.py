"""Seats come free as surely as they are promised: counted over many lives, with lengths that are drawn again."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.scheduler.domain.asks import CLASSES
from interlock.scheduler.domain.length import SAMPLES_MIN, LengthBook
from interlock.scheduler.domain.order_log import opened
from interlock.scheduler.domain.profiles import A100_LLAMA3_8B
from interlock.scheduler.domain.replay import capacity_rps, order_of
from interlock.scheduler.domain.simulate import Hardware, Simulation
from interlock.scheduler.domain.trace import Mix, TraceRow, offer, stretched
from interlock.scheduler.domain.turns import SURE_SHARE, SeatBook

SIGMA = 0.6
PACE_US = 20_000
LIVES = 1_500


def taught(dice, sigma, hold_tokens=100):
    """A book that has seen two thousand answers."""
    book = SeatBook()
    for _ in range(2_000):
        book.ended(100, round(100 * dice.lognormvariate(0, sigma)))
        book.held(round(hold_tokens * dice.expovariate(1) * PACE_US))
    return book


def lived(dice, predicted, made):
    """How much further an answer goes, of those of its prediction that went so far at least."""
    while True:
        length = predicted * dice.lognormvariate(0, SIGMA)
        if length > made:
            return length - made


def freed_us(dice, decoding, hold_tokens):
    """When seats come free in one life, in order: each ends, and whoever comes to it holds it in turn."""
    times = []
    for predicted, made, pace_us in decoding:
        at_us = lived(dice, predicted, made) * pace_us
        while at_us < 40 * hold_tokens * PACE_US:
            times.append(at_us)
            at_us += dice.expovariate(1) * hold_tokens * PACE_US
    return sorted(times)


@pytest.mark.parametrize("seats", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_seat_that_is_promised_is_free_in_ninety_nine_lives_of_a_hundred(seats, seed):
    dice = Random(seed)
    book = taught(dice, SIGMA)
    decoding = [(dice.randint(20, 300), 0, PACE_US) for _ in range(seats)]
    decoding = [(predicted, round(dice.uniform(0, 1.5) * predicted), pace) for predicted, _, pace in decoding]
    waits = book.waits_us(decoding)
    late = [0] * seats
    for _ in range(LIVES):
        freed = freed_us(dice, decoding, 100)
        late = [count + (freed[at] > waits[at]) for at, count in enumerate(late)]
    # Twice the standard deviation of a count so small is left to chance.
    assert max(late) <= LIVES * (1 - SURE_SHARE) + 2 * math.sqrt(LIVES * (1 - SURE_SHARE))


def test_what_is_predicted_without_error_is_believed():
    book = SeatBook()
    for _ in range(20_000):
        book.ended(100, 100)
    decoding = [(100, made, PACE_US) for made in (10, 50, 70, 90)]
    for wait, left in zip(book.waits_us(decoding), (10, 30, 50, 90), strict=True):
        assert left * PACE_US <= wait <= (left + 10) * PACE_US


def test_an_answer_that_outlived_its_prediction_is_not_about_to_end():
    book = taught(Random(1), SIGMA)
    first = [book.waits_us([(30, made, PACE_US)] * 8)[0] for made in (30, 120, 480)]
    assert first == sorted(first)
    assert first[0] > PACE_US


def test_the_worse_the_predictions_the_later_the_last_seat_is_promised():
    decoding = [(100, 20, PACE_US)] * 8
    last = [taught(Random(1), sigma).waits_us(decoding)[-1] for sigma in (0.1, 0.3, 0.6, 0.9)]
    assert last == sorted(last)


def test_the_first_answers_to_end_do_not_make_the_last_seat_sooner():
    """They are the short ones: whoever believed them would promise the seats of the long ones."""
    decoding = [(100, 20, PACE_US)] * 8
    before, book = SeatBook().waits_us(decoding), SeatBook()
    for _ in range(8):
        book.ended(100, 20)
        book.held(20 * PACE_US)
    assert book.waits_us(decoding)[-1] >= before[-1]
    for _ in range(200):
        book.ended(100, 400)
    assert all(after > each for after, each in zip(book.waits_us(decoding), before, strict=True))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 100_000), st.integers(0, 1_000_000), st.integers(1, 10**6)), max_size=300))
def test_there_is_a_wait_for_each_seat_and_none_before_the_one_in_front(decoding):
    waits = SeatBook().waits_us(decoding)
    assert len(waits) == len(decoding)
    assert list(waits) == sorted(waits)
    assert all(each >= 0 for each in waits)


def test_a_part_of_many_answers_stands_for_all_of_them():
    dice = Random(3)
    book = taught(dice, SIGMA)
    one = [(dice.randint(20, 300), dice.randint(0, 300), PACE_US) for _ in range(120)]
    few, many = book.waits_us(one), book.waits_us(one * 8)
    assert many[400] == pytest.approx(few[50], rel=0.5)


def chat(seed, requests=600):
    """A trace of short prompts and long-tailed answers, so that seats are short and reading is not."""
    dice, rows, at_us = Random(seed), [], 0
    for _ in range(requests):
        at_us += round(dice.expovariate(2.0) * 1_000_000)
        taken, made = round(dice.lognormvariate(5.5, 0.8)), round(dice.lognormvariate(4.8, 0.9))
        rows.append(TraceRow(at_us, min(max(taken, 1), 2_000), min(max(made, 1), 900)))
    return rows


@pytest.mark.parametrize(("slots", "is_online"), [(4, False), (8, True), (16, True)])
@pytest.mark.parametrize("load", [0.8, 1.5, 3.0])
def test_a_pool_of_few_seats_keeps_what_it_accepts(slots, is_online, load):
    hardware = Hardware(A100_LLAMA3_8B, 1, slots)
    offered = offer(chat(slots), Mix(), Random(1))
    requests = stretched(offered, load * capacity_rps(offered, hardware))
    order = order_of(opened("interlock", 0.8, A100_LLAMA3_8B.prefill_tps, 1, CLASSES))
    run = Simulation(order, hardware, lengths=LengthBook() if is_online else None).run(requests)
    ended = sorted(each.ended_us for each in run.outcomes if each.ended_us is not None)
    # Who comes before a first few answers have ended is promised by a guess.
    known = [each for each in run.outcomes if each.offered.at_us > ended[SAMPLES_MIN]]
    accepted = [each for each in known if each.ended_us is not None]
    assert sum(each.is_success for each in accepted) >= SURE_SHARE * len(accepted)
    assert len(accepted) >= {0.8: 0.7, 1.5: 0.45, 3.0: 0.25}[load] * len(known)


def test_the_error_that_was_seen_is_what_the_book_says():
    book = taught(Random(5), 0.4)
    assert book.sigma == pytest.approx(0.4, abs=0.03)
    assert SeatBook().sigma == pytest.approx(SIGMA)
    assert math.isclose(SeatBook().hold_us, 0)
