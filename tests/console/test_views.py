"""What pages say of a record."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.console.overview import chart_words
from interlock.console.sign_in import safe_next
from interlock.console.views import (
    ago,
    decision_rows,
    figures,
    marks,
    minutes,
    row,
    sample,
    sentence,
    tone_of,
    waterfall,
)
from interlock.foundation.telemetry import Outcome, RequestRecord, Timing
from tests.console import samples

NOW_US = 1_795_575_600_000_000


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            samples.answered(NOW_US),
            "Answered by embedded in 1.24 s, its first token after 84 ms; route.default chose the target.",
        ),
        (
            samples.answered(NOW_US, stream=False, timing=Timing(ttft_ms=70.0, total_ms=510.0)),
            "Answered by embedded in 510 ms; route.default chose the target.",
        ),
        (
            samples.limited(NOW_US),
            f"Refused with status 429 by limits.requests: {samples.LIMITED}.",
        ),
        (
            samples.failed(NOW_US),
            "Failed with status 502 by upstream.status_500: HTTP 500 from the model server.",
        ),
        (
            samples.answered(NOW_US, outcome="killed", error_code="killed", rule="kill.route.default"),
            "The answer began, then kill.route.default ended it before it was complete.",
        ),
        (
            samples.answered(NOW_US, outcome="ok_replayed", rule="idempotency.replayed"),
            "Answered in 1.24 s with what the first call of this key got.",
        ),
        (samples.gone(NOW_US), "The client closed the connection after 412 ms; the work was stopped."),
    ],
)
def test_a_sentence_tells_what_happened_and_which_rule_decided(record, words):
    assert sentence(record) == words


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_a_sentence_and_a_colour(outcome):
    for status in (0, 200, 404, 500):
        record = RequestRecord(id=samples.IDS.new(), started_us=NOW_US, outcome=outcome, status=status)
        assert sentence(record).endswith(".")
        assert tone_of(record) in {"go", "caution", "stop"}


def test_a_request_that_is_still_open_is_neither_answered_nor_failed():
    record = RequestRecord(id=samples.IDS.new(), started_us=NOW_US, outcome="", status=0, complete=False)
    assert (row(record, NOW_US).outcome, row(record, NOW_US).status, tone_of(record)) == ("open", "open", "caution")


def test_only_the_refusal_and_the_end_are_coloured_among_the_decisions():
    rows = decision_rows(samples.limited(NOW_US))
    assert [each.tone for each in rows] == ["", "", "", "stop", "caution"]
    assert rows[3].offset == "1.6 ms"


def test_the_bars_follow_each_other_and_end_with_the_request():
    record = samples.answered(NOW_US, ttft_ms=84.0, total_ms=1_240.0)
    bars = {each.name: each for each in waterfall(record)}
    assert list(bars) == ["identity", "queue", "connect", "first token", "answer", "total"]
    assert bars["answer"].x == pytest.approx(1_000 * 84 / 1_240, abs=0.1)
    assert bars["answer"].x + bars["answer"].width == pytest.approx(1_000, abs=0.2)
    assert len(marks(record)) == len(record.decisions)


@given(
    total=st.floats(0.001, 1e7),
    parts=st.lists(st.none() | st.floats(0, 1e8), min_size=5, max_size=5),
)
def test_no_bar_leaves_its_track_whatever_was_measured(total, parts):
    auth, queue, connect, ttft, gateway = parts
    timing = Timing(auth_ms=auth, queue_ms=queue, connect_ms=connect, ttft_ms=ttft, total_ms=total, gateway_ms=gateway)
    for bar in waterfall(samples.answered(NOW_US, timing=timing)):
        assert bar.width > 0
        assert 0 <= bar.x <= bar.x + bar.width <= 1_000.2


def test_a_request_that_nobody_timed_has_no_bars():
    assert waterfall(samples.answered(NOW_US, timing=Timing())) == []
    assert marks(samples.answered(NOW_US, timing=Timing())) == []


def test_the_figures_add_up():
    records = [samples.answered(NOW_US)] * 6 + [samples.limited(NOW_US)] * 3 + [samples.failed(NOW_US)]
    told = figures(sample(each) for each in records)
    assert (told["requests"], told["answered"], told["refused"], told["failed"]) == ("10", "6", "3", "1")
    assert (told["refused_share"], told["failed_share"], told["ttft_p50"]) == ("30.0%", "10.0%", "84 ms")
    assert (told["input_tokens"], told["output_tokens"]) == ("354", "768")


def test_an_empty_hour_has_figures_too():
    assert figures([])["ttft_p95"] == "-"
    assert chart_words(minutes([], NOW_US, 60)).startswith("Requests a minute over the last 60 minutes: 0 answered")


def test_every_minute_is_there_and_counts_its_own():
    counted = minutes([sample(samples.answered(NOW_US - 60_000_000 * age)) for age in (0, 1, 1, 59, 60)], NOW_US, 60)
    assert len(counted) == 60
    assert [each["answered"] for each in counted][-2:] == [2, 1]
    assert counted[0]["answered"] == 1
    assert sum(each["answered"] for each in counted) == 4


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7_200, "2 h ago"), (90_000, "1 d ago")]
)
def test_how_long_ago_in_one_unit(seconds, words):
    assert ago(NOW_US - seconds * 1_000_000, NOW_US) == words


@pytest.mark.parametrize(
    "wanted",
    ["//evil", "https://evil/", "/\\evil", "\\\\evil", "javascript:alert(1)", "", "console", "/a\r\nset-cookie: x",
     "/ä", "/a b", "///evil", "/" + "a" * 3_000],
)  # fmt: skip
def test_sign_in_goes_on_to_no_other_place(wanted):
    assert safe_next(wanted) == "/console"


@pytest.mark.parametrize("wanted", ["/console/requests?outcome=killed&within=1+hour", "/console/keys"])
def test_sign_in_goes_on_to_the_page_that_was_asked_for(wanted):
    assert safe_next(wanted) == wanted
