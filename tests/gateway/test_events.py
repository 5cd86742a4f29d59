"""A stream reaches the client byte for byte, however the network cuts it, less what it did not ask for."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.gateway.domain.events import ChatScanner, StreamTooLongError, read_reply


def event(**body):
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def delta(text, finish=None):
    return event(id="c", choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
USAGE_EVENT = event(id="c", choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"
STREAM = [
    delta("a"),
    b": ping\n\n",
    delta('say "finish_reason": "stop" and [DONE]'),
    delta("", "stop"),
    USAGE_EVENT,
    DONE,
]


def scan(pieces, *, keeps_usage=False, event_bytes_max=1 << 20):
    scanner = ChatScanner(keeps_usage=keeps_usage, event_bytes_max=event_bytes_max)
    return scanner, b"".join(scanner.feed(piece) for piece in pieces)


def test_the_usage_chunk_is_read_but_passed_on_only_to_those_who_asked():
    scanner, seen = scan(STREAM)
    assert seen == b"".join(each for each in STREAM if each is not USAGE_EVENT)
    assert (scanner.usage.input_tokens, scanner.usage.output_tokens, scanner.usage.cached_input_tokens) == (11, 3, 4)
    assert scanner.is_done
    assert scanner.is_finished
    _, seen = scan(STREAM, keeps_usage=True)
    assert seen == b"".join(STREAM)


@given(st.data())
def test_every_cut_gives_the_same_bytes_and_findings(data):
    line_end = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    whole = b"".join(STREAM).replace(b"\n", line_end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    edges = [0, *cuts, len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    scanner, seen = scan(pieces)
    assert seen == b"".join(each for each in STREAM if each is not USAGE_EVENT)
    assert scanner.is_done
    assert scanner.is_finished
    assert scanner.usage.output_tokens == 3
    assert scanner.events == 3


WORDS = [
    "a",
    " word",
    '"',
    "\\",
    '\\"',
    "usage",
    '"usage":{"prompt_tokens":1}',
    "[DONE]",
    "data: [DONE]",
    "\n\n",
    ":",
    "",
    "}",
    '"}',
    "é",
]

# In the place of a text: what ends it, or its event, and says something.
HIDDEN = [b'"},"finish_reason":"stop","x":{"y":"', b"a\n\ndata: [DONE]\n\nb", b"a\r\rdata: [DONE]\r\rb"]


def compact(text, **more):
    body = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


EVENTS = st.one_of(
    st.sampled_from(WORDS).map(compact),
    st.sampled_from(WORDS).map(lambda text: compact(text, obfuscation=text * 2)),
    st.sampled_from(WORDS).map(lambda text: compact(text, usage=USAGE)),
    st.sampled_from([b": ping\n\n", delta("x"), delta("", "stop"), USAGE_EVENT, DONE, event(error={"message": "no"})]),
    st.sampled_from(WORDS).map(lambda text: compact(text) + b"data: x"),
    st.sampled_from(WORDS).map(lambda text: compact(text) + compact("b")),
    st.sampled_from(HIDDEN).map(lambda hidden: hidden.join(compact("|").split(b"|"))),
    st.sampled_from([b'data: {"content":"}\n\n', b'data: {"content":"\n\n', b"\n", b"data: x"]),
)


@given(st.lists(EVENTS, max_size=12))
def test_an_event_like_the_one_before_means_what_it_means_alone(told):
    """A scanner that learns nothing gives the same bytes and findings, piece by piece."""
    scanner = ChatScanner(keeps_usage=True, event_bytes_max=1 << 20)
    alone = ChatScanner(keeps_usage=True, event_bytes_max=1 << 20)
    alone._in_vain = 1 << 20
    assert [scanner.feed(each) for each in told] == [alone.feed(each) for each in told]
    for name in ("events", "usage", "is_finished", "is_done", "failure"):
        assert getattr(scanner, name) == getattr(alone, name), name


@pytest.mark.parametrize("hidden", HIDDEN)
def test_an_event_that_only_looks_like_the_one_before_is_read(hidden):
    scanner, _ = scan([compact("a"), compact("b"), hidden.join(compact("|").split(b"|"))])
    assert scanner.is_done or scanner.is_finished


def test_of_a_stream_in_which_no_event_is_like_another_few_are_learned():
    scanner, _ = scan([compact("a", obfuscation=str(number)) for number in range(100)])
    assert scanner.events == 100
    assert scanner._in_vain == 8
    scanner, _ = scan([compact(str(number)) for number in range(100)])
    assert (scanner.events, scanner._in_vain) == (100, 0)


def test_words_of_the_protocol_inside_a_text_mean_nothing():
    text = 'data: [DONE] "usage":{"prompt_tokens":1} {"error":1} "finish_reason":"stop"'
    scanner, seen = scan([delta(text)])
    assert seen == delta(text)
    assert not scanner.is_done
    assert not scanner.is_finished
    assert scanner.usage is None
    assert scanner.failure is None


def test_an_error_event_is_held_back_and_told():
    scanner, seen = scan([delta("a"), event(error={"message": "boom"}), delta("late")])
    assert seen == delta("a")
    assert "boom" in scanner.failure


def test_nothing_behind_the_end_is_passed_on():
    _, seen = scan([delta("a") + DONE + delta("late")])
    assert seen == delta("a") + DONE


def test_an_unfinished_event_is_never_passed_on():
    scanner, seen = scan([delta("a"), delta("b")[:-1]])
    assert seen == delta("a")
    assert not scanner.is_done


def test_an_event_without_end_is_refused():
    scanner = ChatScanner(keeps_usage=False, event_bytes_max=100)
    scanner.feed(b"data: " + b"x" * 90)
    with pytest.raises(StreamTooLongError):
        scanner.feed(b"x" * 10)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"choices":1}', b"<html>", b'{"choices":[]'])
def test_a_reply_that_is_no_completion_is_told_apart(content):
    with pytest.raises(ValueError):
        read_reply(content)


def test_a_reply_tells_its_usage():
    usage = read_reply(json.dumps({"choices": [{}], "usage": USAGE}).encode())
    assert (usage.input_tokens, usage.output_tokens) == (11, 3)
    assert read_reply(b'{"choices":[]}') is None
