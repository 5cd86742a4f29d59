"""What a `traceparent` may say, and what is said in one of ours."""

import pytest

from interlock.foundation.clock import SystemClock, SystemDice
from interlock.foundation.ids import IdFactory
from interlock.foundation.telemetry.traces import end_of_lines, parent_lines, parse_traceparent, span_id_of

IDS = IdFactory(SystemClock(), SystemDice())
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
WHOLE = f"00-{TRACE}-{SPAN}-01".encode()


@pytest.mark.parametrize(
    ("said", "is_sampled"),
    [(WHOLE, True), (f"00-{TRACE}-{SPAN}-00".encode(), False), (f"00-{TRACE}-{SPAN}-03".encode(), True),
     (f"cc-{TRACE}-{SPAN}-01-more-of-a-later-version".encode(), True)],
)  # fmt: skip
def test_a_callers_span_is_read_from_every_version_that_may_be(said, is_sampled):
    found = parse_traceparent(said)
    assert (found.trace_id, found.span_id, found.is_sampled) == (TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "said",
    [None, b"", b"00", WHOLE + b"-more", WHOLE + b"x", f"ff-{TRACE}-{SPAN}-01".encode(), WHOLE.upper(), b" " + WHOLE,
     f"00-{'0' * 32}-{SPAN}-01".encode(), f"00-{TRACE}-{'0' * 16}-01".encode(), f"cc-{TRACE}-{SPAN}-01x".encode()],
)  # fmt: skip
def test_what_is_no_span_says_nothing(said):
    assert parse_traceparent(said) is None


def test_calls_of_a_request_have_spans_of_their_own_below_one_trace():
    request = IDS.new()
    lines = [parent_lines(request, number, TRACE, b"-01\r\n").decode() for number in (1, 2)]
    assert lines == [f"traceparent: 00-{TRACE}-{span_id_of(request, number):016x}-01\r\n" for number in (1, 2)]
    assert len({span_id_of(request, number) for number in range(100)}) == 100
    assert parent_lines(request, 1, None, b"-01\r\n").decode().split("-")[1] == request.hex


def test_a_callers_flag_and_state_go_on_and_a_state_without_its_trace_does_not():
    assert end_of_lines(None, [b"a=1"]) == b"-01\r\n"
    assert end_of_lines(f"00-{TRACE}-{SPAN}-00".encode(), []) == b"-00\r\n"
    assert end_of_lines(WHOLE, [b"a=1", b"b=2"]) == b"-01\r\ntracestate: a=1,b=2\r\n"
    assert end_of_lines(WHOLE, [b"a=" + b"x" * 511]) == end_of_lines(WHOLE, ["é".encode()]) == b"-01\r\n"
