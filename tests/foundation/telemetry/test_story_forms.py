"""The compiled form of a story's way into the ring writes what the form in Python writes, byte for byte."""

import math
from uuid import UUID

import msgspec
import pytest
from asyncpg.pgproto import pgproto
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.foundation.native import load
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import (
    STEP_NUMBER,
    STEPS,
    Attempt,
    Cost,
    Link,
    Outcome,
    Spool,
    Story,
    Timing,
    Usage,
    spool,
)
from interlock.foundation.telemetry.steps import StepsInPython
from tests.foundation.telemetry.worlds import CLOCK, SMALL, HandClock

KERNEL = load("interlock.foundation.telemetry._native_story")
SECRET = "correct-horse-battery"

needs_kernel = pytest.mark.skipif(KERNEL is None, reason="there is no compiled form here")
_EDGES = [sign * (1 << bits) + by for bits in (5, 7, 8, 15, 16, 31, 32) for sign in (-1, 1) for by in (-1, 0)]
_NUMBERS = st.sampled_from(_EDGES) | st.integers(-(1 << 63), (1 << 64) - 1)
# What the platform says itself, and what others wrote: only there may a secret be.
_WORDS = st.text(max_size=99) | st.sampled_from(["", "a" * 31, "b" * 32, "é" * 127, "c" * 255, "d" * 256, "🜚" * 99])
_FREE = _WORDS | st.sampled_from([f"key {SECRET} shown", "sk-" + "A" * 40, "x" * 9_000, "ü" * 70_000, "nul \0"])
_MAYBE, _MAYBE_FREE = st.none() | _WORDS, st.none() | _FREE
_FLOATS = st.none() | st.floats() | st.integers(0, 9)
_IDS = st.none() | st.uuids() | st.binary(min_size=16, max_size=16).map(pgproto.UUID)
_STEPS = st.tuples(
    _NUMBERS, st.integers(0, len(STEPS) - 1) | st.just("own_step"), _WORDS, _WORDS | st.sampled_from(Outcome), _FREE
)  # fmt: skip
_STORIES = st.builds(
    Story,
    id=st.uuids(),
    started_us=_NUMBERS,
    complete=st.booleans(),
    organization_id=_IDS,
    workspace_id=_IDS,
    key_id=_IDS,
    client_request_id=_MAYBE_FREE,
    trace_id=_MAYBE_FREE,
    endpoint=_FREE,
    dialect=_MAYBE,
    stream=st.booleans(),
    outcome=st.sampled_from(Outcome) | st.just("ok"),
    status=st.integers(0, 599),
    rule=_WORDS,
    alias=_MAYBE_FREE,
    route_version=st.none() | _NUMBERS,
    degraded=_MAYBE_FREE,
    links=st.lists(st.builds(Link, _WORDS, _WORDS), max_size=2),
    attempts=st.lists(
        st.builds(
            Attempt, n=_NUMBERS, deployment=_WORDS, error=_MAYBE_FREE, ttft_ms=_FLOATS, upstream_request_id=_MAYBE_FREE
        ),
        max_size=20,
    ),
    usage=st.builds(Usage, input_tokens=st.none() | _NUMBERS, estimated=st.booleans()),
    cost=st.builds(Cost, usd=_MAYBE, price_version=st.none() | _NUMBERS | _WORDS),
    timing=st.builds(Timing, auth_ms=_FLOATS, total_ms=_FLOATS),
    decisions=st.lists(_STEPS, max_size=20),
    method=_WORDS,
    target=_FREE,
    tags=_FREE,
)


def spools(folder, redactors):
    """Two spools of one content: the first writes as it does here, the second in Python alone."""
    with pytest.MonkeyPatch.context() as patch:
        compiled = Spool(folder / "compiled.ring", CLOCK, SMALL, redactors[0])
        patch.setattr(spool, "_kernel", None)
        return compiled, Spool(folder / "python.ring", CLOCK, SMALL, redactors[1])


def content(one):
    """All that a spool has in its files, and what it says of itself."""
    segments = one._path.parent.glob(f"{one._path.stem}.*.seg")
    return one._ring._map[:], one.statistics(), [each.read_bytes() for each in sorted(segments)]


@needs_kernel
@settings(max_examples=60, deadline=None)
@given(stories=st.lists(st.tuples(_STORIES, _STORIES, st.booleans()), min_size=1, max_size=6), ships=st.booleans())
def test_both_forms_leave_the_same_bytes(tmp_path_factory, stories, ships):
    redactors = [Redactor([SECRET.encode()]) for _ in range(2)]
    both = spools(tmp_path_factory.mktemp("forms"), redactors)
    for begun, ended, is_noted in stories * 3:
        for one in both:
            story = msgspec.structs.replace(begun)
            frame = one.begin(story)
            if is_noted:
                frame.note(alias="later")
            frame.close(msgspec.structs.replace(ended, id=begun.id))
        assert content(both[0]) == content(both[1])
        if ships:
            for one in both:
                while batch := one.take(3):
                    one.shipped(batch)
    assert SECRET.encode() not in both[0]._ring._map[:]
    for one in both:
        one.close()


@needs_kernel
def test_a_secret_that_is_learned_later_is_not_written_by_either_form(tmp_path):
    redactors = [Redactor() for _ in range(2)]
    both = spools(tmp_path, redactors)
    for learns in (False, True):
        for one, redactor in zip(both, redactors, strict=True):
            if learns:
                redactor.learn([SECRET.encode()])
            words = [(1, STEP_NUMBER[step], "rule", "ok", f"told {SECRET}") for step in ("received", "limits")]
            called = [Attempt(n=1, deployment="d", upstream_request_id=f"up-{SECRET}")]
            frame = one.begin(Story(id=UUID(int=7), started_us=1, decisions=words, client_request_id=SECRET))
            frame.story.attempts = called
            frame.close(frame.story)
    assert content(both[0]) == content(both[1])
    # Three in the first frame and four in the second, of the one story that came before.
    assert both[0]._ring._map[:].count(SECRET.encode()) == 7


@needs_kernel
@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("target", "\ud800", UnicodeEncodeError),
        ("started_us", 1 << 64, OverflowError),
        ("usage", object(), TypeError),
        ("decisions", [(1 << 70, 0, "", "", "")], OverflowError),
    ],
)
def test_what_cannot_be_written_is_refused_by_both_and_the_next_story_is_written(tmp_path, field, value, error):
    both = spools(tmp_path, [Redactor(), Redactor()])
    for one in both:
        with pytest.raises(error):
            one.begin(Story(**{"id": UUID(int=1), "started_us": 1, field: value}))
        one.begin(Story(id=UUID(int=2), started_us=2))
    assert content(both[0]) == content(both[1])


def steps_of(form, clock, received):
    """An empty list of steps of one form."""

    class Request(form):
        __slots__ = ()

    made = Request()
    made._monotonic, made._received, made.decisions = clock.monotonic, received, []
    return made


@needs_kernel
@given(
    moments=st.lists(st.integers(-(10**15), 10**15), max_size=5),
    received=st.floats(-1e9, 1e9),
    step=st.sampled_from(["received", "finished", "own_step"]),
)
def test_both_forms_date_a_step_alike(moments, received, step):
    clock = HandClock()
    both = [steps_of(form, clock, received) for form in (StepsInPython, KERNEL.Steps)]
    for moment in moments:
        clock.now = moment
        for each in both:
            each.decide(step, "rule", Outcome.OK)
            each.decide(step, rule="rule", verdict="ok", detail="words")
    assert both[0].decisions == both[1].decisions


@needs_kernel
@pytest.mark.parametrize("moment", [math.inf, -math.inf, math.nan])
def test_no_form_dates_a_step_by_what_is_no_number(moment):
    class Broken:
        def monotonic(self):
            return moment

    for form in (StepsInPython, KERNEL.Steps):
        with pytest.raises((OverflowError, ValueError)):
            steps_of(form, Broken(), 0.0).decide("received", "rule", "ok")


class Told:
    """A source with slots."""

    __slots__ = ("is_stream", "unset", "words")


@needs_kernel
def test_slots_are_copied_by_their_names_and_strangers_refused():
    form = KERNEL.SlotCopier
    source, story = Told(), Story(id=UUID(int=1), started_us=1)
    source.is_stream, source.words = True, "k=v"
    form(Told, Story, {"is_stream": "stream", "words": "tags"})(source, story)
    assert (story.stream, story.tags) == (True, "k=v")
    with pytest.raises(AttributeError, match="unset"):
        form(Told, Story, {"unset": "tags"})(source, story)
    with pytest.raises(TypeError):
        form(Told, Story, {"words": "tags"})(story, source)
    with pytest.raises(AttributeError):
        form(Told, Story, {"nothing": "tags"})
