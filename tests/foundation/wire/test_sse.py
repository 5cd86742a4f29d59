"""Server-Sent Events mean the same however the bytes are cut, and what we encode every reader can read."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.foundation.wire import HEARTBEAT, SseEvent, SseParser, SseReplay, SseTooLongError, encode_event

LINE_ENDS = ["\n", "\r", "\r\n"]


def parse(pieces: list[bytes]) -> list[SseEvent]:
    parser = SseParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def naive(raw: bytes) -> list[tuple[str, str, str]]:
    """The algorithm of the standard over the whole text, line by line."""
    text = raw.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events, lines, name, last_id = [], [], "", ""
    for line in text.split("\n")[:-1]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if lines:
                events.append((name or "message", "\n".join(lines), last_id))
            lines, name = [], ""
        elif field == "data":
            lines.append(value)
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            last_id = value
    return events


PIECES = st.sampled_from([
    "data", "data: a", "data:b", "data:  c", "event: e", "id: 7", "id", "id: \0", "retry: 10", "retry: x", ": note",
    "unknown: z", "", "", "dataset: q", "data: ä€", "\ufeffdata: bom",
])  # fmt: skip


@st.composite
def streams(draw) -> bytes:
    lines = draw(st.lists(st.tuples(PIECES, st.sampled_from(LINE_ENDS)), max_size=14))
    bom = draw(st.sampled_from(["", "\ufeff"]))
    return (bom + "".join(line + end for line, end in lines)).encode()


@given(streams(), st.data())
def test_events_mean_the_same_wherever_the_bytes_are_split(raw, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=10)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    whole = parse([raw])
    assert parse(pieces) == whole
    assert [(event.event, event.data, event.id) for event in whole] == naive(raw)


def test_every_single_border_of_a_rich_stream():
    raw = "\ufeffevent: a\r\ndata: 1\rdata: 2\r\n\r\nid: 5\n\n: x\ndata: ä\r\rretry: 250\rdata\n\n".encode()
    expected = [SseEvent("a", "1\n2", "", None), SseEvent("message", "ä", "5", None), SseEvent("message", "", "5", 250)]
    assert parse([raw]) == expected
    for at in range(len(raw)):
        assert parse([raw[:at], raw[at:]]) == expected
    assert parse([bytes([byte]) for byte in raw]) == expected


def test_an_event_is_told_at_the_cr_and_does_not_wait_for_the_lf():
    parser = SseParser()
    assert parser.feed(b"data: a\r\n\r") == [SseEvent("message", "a", "", None)]
    assert parser.feed(b"\ndata: b\n\n") == [SseEvent("message", "b", "", None)]


def test_an_event_that_the_stream_never_ended_is_not_told():
    assert parse([b"data: a\n\ndata: b\n"]) == [SseEvent("message", "a", "", None)]


def test_a_broken_byte_is_replaced_and_not_fatal():
    assert parse([b"data: \xff\n\n"])[0].data == "\ufffd"


@pytest.mark.parametrize("raw", [b"data: " + b"x" * 200, b"data: x\n" * 60, b"x" * 200])
def test_an_event_without_end_is_bounded(raw):
    parser = SseParser(event_bytes_max=100)
    pieces = (raw[at : at + 50] for at in range(0, len(raw), 50))
    with pytest.raises(SseTooLongError):
        list(map(parser.feed, pieces))


def test_many_small_events_in_one_piece_are_not_too_long():
    assert len(SseParser(event_bytes_max=100).feed(b"data: x\n\n" * 1_000)) == 1_000


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1),
)
@example("a\r\nb\rc\nd", "e")
@example("", "\ufeff")
def test_what_is_encoded_comes_back(text, name):
    encoded = encode_event(text, event=name, id=name, retry=9)
    [event] = parse([encoded])
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    assert event == SseEvent(name, lines, name, 9)


@pytest.mark.parametrize("field", [{"event": "a\nb"}, {"id": "a\r"}, {"id": "\0"}])
def test_a_field_of_one_line_stays_one_line(field):
    with pytest.raises(ValueError, match="one line"):
        encode_event("x", **field)


def test_a_heartbeat_is_no_event():
    assert parse([HEARTBEAT + encode_event("x") + HEARTBEAT])[0].data == "x"
    assert len(parse([HEARTBEAT * 3])) == 0


def test_a_replay_holds_what_fits_and_says_when_it_cannot_help():
    replay = SseReplay(events_max=3, bytes_max=20)
    for number in range(5):
        replay.add(str(number), b"xx")
    assert replay.after("2") == [b"xx", b"xx"]
    assert replay.after("4") == []
    assert replay.after("1") is None
    replay.add("big", b"y" * 19)
    assert replay.bytes_held == 19
    assert replay.after("4") is None
