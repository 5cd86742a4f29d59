"""The compiled form of a shipment makes of a batch what the form in Python makes of it, or leaves it alone."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.foundation.native import load
from interlock.foundation.telemetry import Attempt, Cost, Link, Outcome, Spool, Story, Usage, ring, tallied
from interlock.foundation.telemetry.frames import Kind, encode
from interlock.foundation.telemetry.shipment import Shipment, swift
from interlock.foundation.telemetry.story import decode_story, told
from tests.foundation.telemetry.test_story_forms import _STORIES
from tests.foundation.telemetry.worlds import CLOCK, IDS, SMALL, START_US, record

pytestmark = pytest.mark.skipif(
    load("interlock.foundation.telemetry._native_ship") is None, reason="there is no compiled form here"
)
BYTES_MAX = 2_048
_NAMES, _FEW = st.none() | st.text(max_size=40), st.none() | st.integers(0, 300)
_LIKE = st.builds(
    dict,
    started_us=st.integers(START_US, START_US + 2 * 60_000_000),
    outcome=st.sampled_from(["ok", Outcome.OK, Outcome.CLIENT_GONE]),
    alias=st.sampled_from([None, "", "default", "é"]),
    key_id=st.sampled_from([None, IDS.new(), IDS.new()]),
    tags=st.sampled_from(["", "team=search"]),
    client_request_id=st.none() | st.text(max_size=9),
    attempts=st.lists(
        st.builds(Attempt, n=st.integers(1, 3), deployment=st.just("d"), upstream_request_id=_NAMES),
        max_size=3,
    ),
    usage=st.builds(Usage, input_tokens=st.none() | st.integers(0, 1 << 49), output_tokens=_FEW),
    cost=st.builds(
        Cost,
        usd=st.none() | st.sampled_from(["0", "0.000001", "1.25", "12345.678901"]),
        price_version=st.none() | st.integers(0, 3) | st.just("default@1"),
    ),
    links=st.lists(st.builds(Link, st.text(max_size=9), st.text(max_size=40)), max_size=2),
)  # fmt: skip


def frames_of(stories):
    return [(int(Kind.STORY), encode(each)) for each in stories]


def in_python(frames):
    """Rows and tallies as the form in Python makes them."""
    shipment = Shipment()
    for kind, payload in frames:
        shipment.take(kind, payload)
    return shipment.rows(BYTES_MAX), tallied(shipment.records.values())


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(_LIKE, min_size=1, max_size=12))
def test_usual_stories_make_the_same_rows_and_the_same_figures(changes):
    frames = frames_of([told(record(**each)) for each in changes])
    found = swift(frames, BYTES_MAX)
    assert found is not None
    assert found == in_python(frames)


@settings(max_examples=60, deadline=None)
@given(stories=st.lists(_STORIES, min_size=1, max_size=5, unique_by=lambda each: each.id))
def test_what_any_stories_are_made_into_is_the_same_where_the_compiled_form_takes_them(stories):
    frames = frames_of(stories)
    found = swift(frames, BYTES_MAX)
    assert found is None or found == in_python(frames)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), like=_LIKE)
def test_bytes_that_are_no_story_are_left_alone_or_read_alike(data, like):
    payload = bytearray(encode(told(record(**like))))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)) | st.just(len(payload)))
    frames = [(int(Kind.STORY), bytes(payload[:cut]))]
    found = swift(frames, BYTES_MAX)
    if found is not None:
        assert found == in_python(frames)


def test_a_story_that_is_too_long_is_shortened_and_the_others_go_on_as_they_are():
    long = told(record(detail="a longer story " * 300))
    frames = frames_of([told(record()), long, told(record())])
    rows, _ = swift(frames, BYTES_MAX)
    stories, starts, sizes = rows.columns[4:7]
    at, size = [int(each.strip("{}").split(",")[1]) for each in (starts, sizes)]
    kept = decode_story(stories[at - 1 : at - 1 + size])
    assert kept.id == long.id
    assert kept.decisions[-1].detail.endswith("…[cut]")


@pytest.mark.parametrize(
    "change",
    [
        {"complete": False}, {"started_us": -1}, {"id": msgspec.UNSET}, {"usage": Usage(input_tokens=-1)},
        {"usage": Usage(input_tokens=1 << 60)}, {"cost": Cost(usd="1e3")}, {"cost": Cost(usd="0.0000001")},
        {"cost": Cost(usd="9" * 15)}, {"attempts": [Attempt(n=n, deployment="d") for n in range(16)]},
    ],
    ids=str,
)  # fmt: skip
def test_a_story_that_is_not_the_usual_is_left_to_the_form_in_python(change):
    fields = {name: getattr(told(record()), name) for name in Story.__struct_fields__} | change
    if fields["id"] is msgspec.UNSET:
        fields["id"] = IDS.new().bytes[:15]
    assert swift([*frames_of([told(record())]), (int(Kind.STORY), encode(list(fields.values())))], BYTES_MAX) is None
    assert swift([(int(Kind.ADDENDUM), b"")], BYTES_MAX) is None
    assert swift([], BYTES_MAX) is None


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 3_000), min_size=1, max_size=40), limit=st.integers(1, 9))
def test_both_forms_take_the_same_frames_out_of_a_ring(tmp_path_factory, sizes, limit):
    spool = Spool(tmp_path_factory.mktemp("taken") / "one.ring", CLOCK, SMALL)
    for size in sizes:
        frame = spool.open(IDS.new(), START_US, "POST", "/" + "a" * size)
        taken = [spool._ring.taken(frozenset({5, 7}), limit)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ring, "_kernel", None)
            taken.append(spool._ring.taken(frozenset({5, 7}), limit))
        assert taken[0] == taken[1]
        if size % 2:
            frame.close(frame.story)
        if size % 5 == 0 and (batch := spool.take(limit)):
            spool.shipped(batch)
    spool.close()


def test_a_ring_that_says_more_than_it_holds_is_not_read_beyond_its_end(tmp_path):
    spool = Spool(tmp_path / "one.ring", CLOCK, SMALL)
    frame = spool.open(IDS.new(), START_US, "POST", "/")
    frame.close(frame.story)
    spool._ring._view[4_096:4_100] = b"\xff\xff\xff\x7f"
    with pytest.raises(ValueError, match="beyond"):
        spool.take(9)
    spool.close()
