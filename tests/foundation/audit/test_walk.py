"""The walk without a store: any chain, any single change, always found at or before the place of the change."""

from dataclasses import replace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from interlock.foundation.audit.checkpoints import CheckpointKey, CheckpointKeys
from interlock.foundation.audit.event import AuditEvent, around_seq, canonical, first_prev_hash, plain
from interlock.foundation.audit.verifier import ChainEnd, ChainWalk

ORGANIZATION = UUID(int=7)
KEY = CheckpointKey(bytes(32))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
DETAIL = st.dictionaries(TEXT, st.integers(-(1 << 62), 1 << 62) | TEXT, max_size=3)
FIELDS = {
    "at_us": lambda event: event.at_us + 1,
    "actor": lambda event: {**event.actor, "id": "usr_x"},
    "action": lambda event: event.action + "x",
    "target_kind": lambda event: event.target_kind + "x",
    "target_id": lambda event: event.target_id + "x",
    "outcome": lambda event: event.outcome + "x",
    "reason": lambda event: (event.reason or "") + "x",
    "request_id": lambda event: UUID(int=(event.request_id or UUID(int=0)).int + 1),
    "detail": lambda event: {**event.detail, "x": "y"},
    "prev_hash": lambda event: bytes(32),
    "hash": lambda event: bytes(32),
    "seq": lambda event: event.seq + 100,
}


@st.composite
def chains(draw):
    events, prev_hash = [], first_prev_hash(ORGANIZATION)
    for seq in range(1, draw(st.integers(1, 12)) + 1):
        bare = AuditEvent(
            organization_id=ORGANIZATION,
            seq=seq,
            at_us=draw(st.integers(0, 1 << 50)),
            actor={"kind": "user", "id": draw(TEXT)},
            action=draw(TEXT),
            target_kind="key",
            target_id=draw(TEXT),
            outcome="ok",
            reason=draw(st.none() | TEXT),
            request_id=draw(st.none() | st.uuids()),
            detail=draw(DETAIL),
            prev_hash=prev_hash,
        )
        events.append(replace(bare, hash=bare.expected_hash(prev_hash)))
        prev_hash = events[-1].hash
    return events


def finding(events, whole, checkpoints=()):
    """Walk what is left of a chain whose head was not touched."""
    last = max((event.seq for event in events), default=None)
    walked = ChainWalk(
        ORGANIZATION, ChainEnd(whole[-1].seq, whole[-1].hash, last), checkpoints, CheckpointKeys([KEY.public])
    )
    for event in sorted(events, key=lambda each: each.seq):
        walked.feed(event)
        if walked.is_broken:
            break
    return walked.finish()


@given(chains())
def test_a_whole_chain_has_no_finding(whole):
    signed = [KEY.sign(ORGANIZATION, event.seq, event.hash, event.at_us) for event in whole]
    assert finding(whole, whole, signed) is None


@given(chains(), st.data(), st.sampled_from(sorted(FIELDS)))
def test_any_changed_field_is_found_where_it_is(whole, data, name):
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = list(whole)
    changed[place] = replace(whole[place], **{name: FIELDS[name](whole[place])})
    found = finding(changed, whole)
    assert found is not None
    assert found.first_bad_seq == place + 1


@given(chains(), st.data())
def test_any_missing_row_is_found_where_it_was(whole, data):
    place = data.draw(st.integers(0, len(whole) - 1))
    found = finding(whole[:place] + whole[place + 1 :], whole)
    assert found is not None
    assert found.first_bad_seq == place + 1


@given(chains(), st.data())
def test_any_two_contents_that_change_places_are_found(whole, data):
    if len(whole) < 2:
        return
    first, second = sorted(data.draw(st.sets(st.integers(0, len(whole) - 1), min_size=2, max_size=2)))
    changed = list(whole)
    changed[first] = replace(whole[second], seq=first + 1)
    changed[second] = replace(whole[first], seq=second + 1)
    found = finding(changed, whole)
    assert found is not None
    assert found.first_bad_seq == first + 1


@given(chains(), st.data())
def test_a_cut_that_also_rewinds_the_head_is_found_by_any_later_checkpoint(whole, data):
    keep = data.draw(st.integers(0, len(whole) - 1))
    signed = data.draw(st.integers(keep + 1, len(whole)))
    checkpoint = KEY.sign(ORGANIZATION, signed, whole[signed - 1].hash, 1)
    left = whole[:keep]
    walked = ChainWalk(
        ORGANIZATION,
        ChainEnd(keep, left[-1].hash if left else first_prev_hash(ORGANIZATION), keep or None),
        [checkpoint],
        CheckpointKeys([KEY.public]),
    )
    for event in left:
        walked.feed(event)
    found = walked.finish()
    assert found is not None
    assert found.first_bad_seq == keep + 1


@given(chains())
def test_the_text_around_the_number_is_the_canonical_text(whole):
    for event in whole:
        head, tail = around_seq(event)
        assert f"{head}{event.seq}{tail}".encode() == canonical(event.public())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(ANYTHING)
def test_every_detail_becomes_something_that_json_and_the_store_can_hold(value):
    text = canonical({"detail": plain(value)}).decode()
    assert "\x00" not in text
    assert "\\u0000" not in text
