"""A story at rest, as the public object, and as the lines that support reads."""

import json
from uuid import UUID

import lz4.block
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.foundation.ids import format_id
from interlock.foundation.telemetry import (
    STEPS,
    Addendum,
    Decision,
    Link,
    Outcome,
    decode_story,
    story_json,
    trace_lines,
)
from interlock.foundation.telemetry.frames import HEADER, HEADER_BYTES, Kind, checksum, frame_bytes, parse
from interlock.foundation.telemetry.parts import extended, joined, stub_record
from interlock.foundation.telemetry.story import CUT_MARK, cut_details, encode_story, without_details
from tests.foundation.telemetry.worlds import IDS, START_US, record

FIELDS = [
    "id", "object", "complete", "created_at", "organization_id", "workspace_id", "key_id", "client_request_id",
    "trace_id", "endpoint", "dialect", "stream", "outcome", "status", "error_code", "rule", "alias", "route_version",
    "deployment", "arm", "degraded", "links", "attempts", "usage", "cost", "timing", "decisions",
]  # fmt: skip


def unpacked(story: bytes) -> bytes:
    return lz4.block.decompress(story[1:])


def test_a_story_comes_back_as_it_went_in():
    wanted = record(links=[Link("task", "task_x")], trace_id="0af7651916cd43dd8448eb211c80319c")
    assert decode_story(encode_story(wanted, 2_048)) == wanted


def test_the_public_object_has_exactly_the_documented_fields():
    told = story_json(record(links=[Link("task", "task_x")]))
    assert list(told) == FIELDS
    assert list(told["attempts"][0]) == [
        "n", "deployment", "status", "error", "connect_ms", "ttft_ms", "total_ms", "upstream_request_id",
    ]  # fmt: skip
    assert list(told["usage"]) == [
        "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "estimated",
    ]  # fmt: skip
    assert list(told["cost"]) == ["usd", "estimated_usd", "price_version"]
    assert list(told["timing"]) == ["auth_ms", "queue_ms", "connect_ms", "ttft_ms", "total_ms", "gateway_ms"]
    assert list(told["decisions"][0]) == ["seq", "at_us", "step", "rule", "verdict", "detail"]
    assert told["links"] == [{"kind": "task", "id": "task_x"}]
    assert told["cost"]["usd"] == "0.000120"
    assert told["created_at"] == "2026-11-25T03:00:00.000Z"
    json.dumps(told)


def test_ids_are_shown_in_their_public_form_and_absent_ones_as_null():
    wanted = record(organization_id=None, workspace_id=None, key_id=None)
    told = story_json(wanted)
    assert told["id"] == format_id("req", wanted.id)
    assert (told["organization_id"], told["workspace_id"], told["key_id"]) == (None, None, None)
    assert story_json(record())["key_id"] == format_id("key", UUID(int=9))


def test_trace_prints_the_eight_heads_and_a_line_for_each_decision():
    wanted = record()
    assert trace_lines(wanted) == [
        f"request: {format_id('req', wanted.id)}",
        "outcome: ok_stream",
        "status: 200",
        "rule: route.default",
        "route: default@1/embedded",
        "usage: input_tokens=12 output_tokens=34 estimated=false",
        "cost: usd=0.000120 estimated_usd=0.000200 price_version=3",
        "timing: auth_ms=0.1 total_ms=120.5",
        "+0.000 received http.received ok",
        "+0.150 authenticated key.active ok key …abcd",
        "+0.900 route route.default chosen took the first healthy target",
    ]
    assert trace_lines(json.loads(json.dumps(story_json(wanted)))) == trace_lines(wanted)


def test_trace_of_a_refusal_has_the_same_heads_with_a_dash_where_there_is_nothing():
    refused = record(
        organization_id=None, alias=None, route_version=None, deployment=None, outcome="unauthenticated", status=401,
        rule="key.form",
    )  # fmt: skip
    assert [line.partition(":")[0] for line in trace_lines(refused)[:8]] == [
        "request", "outcome", "status", "rule", "route", "usage", "cost", "timing",
    ]  # fmt: skip
    assert "route: -" in trace_lines(refused)


def test_there_are_32_outcome_classes():
    assert len(Outcome) == 32


def test_the_longest_detail_is_cut_first_and_marked():
    wanted = record(detail="é" * 5_000)
    kept = decode_story(encode_story(wanted, 2_048))
    assert len(unpacked(encode_story(wanted, 2_048))) <= 2_048
    assert kept.decisions[1] == wanted.decisions[1]
    assert kept.decisions[2].detail.endswith(CUT_MARK)
    assert kept.decisions[2].detail.startswith("éééé")


def test_twelve_buckets_and_three_attempts_fit():
    limits = [
        Decision(START_US + n, "limits", f"limit_{n:026d}", "ok", "tokens_per_minute 60000 used 1234 asked 900 enforce")
        for n in range(12)
    ]
    wanted = record(decisions=limits, attempts=[*record().attempts] * 3)
    assert len(unpacked(encode_story(wanted, 2_048))) <= 2_048
    assert decode_story(encode_story(wanted, 2_048)).usage == wanted.usage


_TEXT = st.text(max_size=400)
_DECISIONS = st.lists(
    st.builds(
        Decision,
        st.integers(START_US, START_US + 10**9),
        st.sampled_from([*STEPS, "own_step"]),
        st.sampled_from(["limit.rpm", "route.default", "key.form"]),
        st.sampled_from(["ok", "refused", "chosen"]),
        _TEXT,
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(decisions=_DECISIONS, error=_TEXT, target=_TEXT)
def test_whatever_is_cut_rules_and_verdicts_stay_and_the_bound_holds(decisions, error, target):
    attempt = msgspec.structs.replace(record().attempts[0], error=error)
    wanted = record(decisions=decisions, attempts=[attempt], target=target)
    story = encode_story(wanted, 2_048)
    kept = decode_story(story)

    assert len(unpacked(story)) <= 2_048
    assert [(each.at_us, each.step, each.rule, each.verdict) for each in kept.decisions] == [
        (each.at_us, each.step, each.rule, each.verdict) for each in decisions
    ]
    assert (kept.usage, kept.cost, kept.rule, kept.outcome) == (wanted.usage, wanted.cost, wanted.rule, wanted.outcome)


def test_without_details_keeps_what_is_paid_for():
    bare = without_details(record())
    assert (bare.usage, bare.cost, bare.status) == (record().usage, record().cost, 200)
    assert [each.rule for each in bare.decisions] == [each.rule for each in record().decisions]


def test_a_record_that_fits_is_not_cut():
    wanted = record()
    assert cut_details(wanted, 60_000) is wanted


def _part(request_id: UUID) -> Addendum:
    return Addendum(
        id=request_id,
        organization_id=UUID(int=7),
        decisions=[Decision(START_US + 1_500, "grant", "pool.slot", "granted", "waited 3 ms")],
        links=[Link("task", "task_1")],
    )


def test_the_order_in_which_parts_of_a_story_arrive_does_not_matter():
    wanted = record()
    part = _part(wanted.id)
    first = extended(wanted, part)
    second = joined(extended(stub_record(part), part), wanted)

    assert first == second
    assert [each.step for each in first.decisions] == ["received", "authenticated", "grant", "route"]
    assert first.complete


def test_a_part_that_arrives_twice_counts_once():
    wanted = record()
    part = _part(wanted.id)
    once = extended(wanted, part)
    assert extended(once, part) == once
    assert joined(once, wanted) == once


def test_a_story_of_which_only_a_part_is_there_says_so():
    part = _part(IDS.new())
    told = story_json(extended(stub_record(part), part))
    assert (told["complete"], told["outcome"], told["status"], told["rule"]) == (False, None, None, None)


@settings(max_examples=300)
@given(kind=st.sampled_from(list(Kind)), payload=st.binary(max_size=300), position=st.integers(0, 1 << 60))
def test_a_frame_verifies_as_written_and_at_no_other_position(kind, payload, position):
    raw = HEADER.pack(len(payload), checksum(position, kind, payload), position, kind) + payload
    assert parse(raw, 0, position) == (kind, payload)
    assert parse(raw, 0, position + 8) is None
    assert frame_bytes(len(payload)) % 8 == 0
    assert frame_bytes(len(payload)) >= HEADER_BYTES + len(payload)


@settings(max_examples=300)
@given(payload=st.binary(min_size=1, max_size=300), at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_frame_with_a_flipped_bit_does_not_verify(payload, at, bit):
    raw = bytearray(HEADER.pack(len(payload), checksum(64, Kind.CLOSE, payload), 64, Kind.CLOSE) + payload)
    place = at % len(raw)
    raw[place] ^= 1 << bit
    # The seven pad bytes behind the kind carry nothing.
    in_pad = HEADER_BYTES - 7 <= place < HEADER_BYTES
    assert (parse(bytes(raw), 0, 64) is None) is not in_pad
