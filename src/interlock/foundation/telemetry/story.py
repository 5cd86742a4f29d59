"""A record at rest and in words: compact bytes for the store, the public object, the lines of `trace`.

Looks nothing up; `stories.py` reads the store.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import lz4.block
import msgspec

from interlock.foundation.clock import rfc3339
from interlock.foundation.ids import format_id
from interlock.foundation.telemetry.frames import encode
from interlock.foundation.telemetry.names import STEP_NUMBER, STEPS, WORKER_LOST_RULE, Outcome
from interlock.foundation.telemetry.records import Attempt, Cost, Decision, RequestRecord, Timing, ToldDecision, Usage

CUT_MARK: Final = "…[cut]"
_MARK_BYTES: Final = len(CUT_MARK.encode())
# A story is a tuple; the first byte at rest names the form, so that a later one can be told apart.
FORM: Final = b"\x01"
_LOST: Final = "the process ended before the request did"


class Story(RequestRecord, array_like=True, kw_only=True):
    """A record in the form at rest, which is how it is written down while its request runs."""

    decisions: list[ToldDecision] = msgspec.field(default_factory=list)  # type: ignore[assignment] # only at rest


class PackedRecord(RequestRecord, array_like=True, kw_only=True):
    """A record as it is shipped: nobody on that way reads its decisions, so they stay bytes."""

    decisions: msgspec.Raw  # type: ignore[assignment] # only on the way into the store


decode_packed: Final = msgspec.msgpack.Decoder(Story).decode
read_packed: Final = msgspec.msgpack.Decoder(PackedRecord).decode


def told(record: RequestRecord) -> Story:
    """Return a record in the form at rest."""
    started_us, number = record.started_us, STEP_NUMBER.get
    fields = {name: getattr(record, name) for name in RequestRecord.__struct_fields__}
    fields["decisions"] = [
        (each.at_us - started_us, number(each.step, each.step), each.rule, each.verdict, each.detail)
        for each in record.decisions
    ]
    return Story(**fields)


def step_of(decision: ToldDecision) -> str:
    """Return the name of a decision's step."""
    step = decision[1]
    return STEPS[step] if isinstance(step, int) else step


def lose(story: Story, now_us: int) -> None:
    """End the story of a request whose process died before it could."""
    story.outcome, story.status, story.error_code = Outcome.WORKER_LOST, 500, "internal_error"
    story.rule = WORKER_LOST_RULE
    number = STEP_NUMBER["finished"]
    story.decisions.append((now_us - story.started_us, number, WORKER_LOST_RULE, Outcome.WORKER_LOST, _LOST))


def whole(story: Story) -> RequestRecord:
    """Return the record of a story."""
    fields = {name: getattr(story, name) for name in RequestRecord.__struct_fields__}
    fields["decisions"] = [
        Decision(story.started_us + each[0], step_of(each), each[2], each[3], each[4]) for each in story.decisions
    ]
    return RequestRecord(**fields)


def pack(record: RequestRecord) -> bytes:
    """Return a record in the form of the store, before LZ4."""
    return encode(told(record))


def seal(packed: bytes) -> bytes:
    """Return the story that the store keeps of a packed record."""
    return FORM + bytes(lz4.block.compress(packed))


def encode_story(record: RequestRecord, bytes_max: int) -> bytes:
    """Return the story as the store keeps it: MessagePack of at most `bytes_max`, then LZ4."""
    packed = pack(record)
    if len(packed) > bytes_max:
        packed = pack(_shortened(record, len(packed) - bytes_max, bytes_max))
    return seal(packed)


def decode_story(story: bytes) -> RequestRecord:
    """Return the record of a stored story."""
    return unpack(lz4.block.decompress(memoryview(story)[1:]))


def unpack(packed: bytes) -> RequestRecord:
    """Return the record that was packed."""
    return whole(decode_packed(packed))


def cut_details(record: RequestRecord, bytes_max: int) -> RequestRecord:
    """Return a copy whose longest details are cut until its frame fits into `bytes_max`."""
    excess = len(pack(record)) - bytes_max
    return _shortened(record, excess, bytes_max) if excess > 0 else record


def without_details(record: RequestRecord) -> RequestRecord:
    """Return a copy that keeps usage, cost, rules and verdicts, and gives up all details."""
    bare = [msgspec.structs.replace(each, detail=CUT_MARK if each.detail else "") for each in record.decisions]
    return msgspec.structs.replace(record, decisions=bare)


def _shortened(record: RequestRecord, excess: int, bytes_max: int) -> RequestRecord:
    details = [each.detail for each in record.decisions]
    for at in sorted(range(len(details)), key=lambda n: -len(details[n].encode())):
        if excess <= 0:
            break
        details[at], saved = _cut(details[at], excess)
        excess -= saved
    decisions = [
        msgspec.structs.replace(each, detail=text) for each, text in zip(record.decisions, details, strict=True)
    ]
    shorter = msgspec.structs.replace(record, decisions=decisions)
    if excess > 0:
        # No detail is left: what upstreams and clients wrote freely goes next, never a rule or a verdict.
        room = max(bytes_max // 16, _MARK_BYTES)
        shorter.attempts = [
            msgspec.structs.replace(each, error=_cut(each.error, len(each.error.encode()) - room)[0])
            if each.error
            else each
            for each in record.attempts
        ]
        shorter.target = _cut(record.target, len(record.target.encode()) - room)[0]
    return shorter


def _cut(text: str, excess: int) -> tuple[str, int]:
    """Return the text shortened by at least `excess` bytes where it can be, and the bytes saved."""
    raw = text.encode()
    if excess <= 0 or len(raw) <= _MARK_BYTES:
        return text, 0
    kept = raw[: max(0, len(raw) - excess - _MARK_BYTES)].decode(errors="ignore")
    return kept + CUT_MARK, len(raw) - len(kept.encode()) - _MARK_BYTES


def story_json(record: RequestRecord) -> dict[str, Any]:
    """Return the public object of a request, JSON-encodable, in the documented order of fields."""
    return {
        "id": format_id("req", record.id),
        "object": "request",
        "complete": record.complete,
        "created_at": rfc3339(record.started_us),
        "organization_id": _id("org", record.organization_id),
        "workspace_id": _id("ws", record.workspace_id),
        "key_id": _id("key", record.key_id),
        "client_request_id": record.client_request_id,
        "trace_id": record.trace_id,
        "endpoint": record.endpoint,
        "dialect": record.dialect,
        "stream": record.stream,
        "outcome": record.outcome or None,
        "status": record.status or None,
        "error_code": record.error_code,
        "rule": record.rule or None,
        "alias": record.alias,
        "route_version": record.route_version,
        "deployment": record.deployment,
        "arm": record.arm,
        "degraded": record.degraded,
        "links": [{"kind": link.kind, "id": link.id} for link in record.links],
        "attempts": [_named(attempt, Attempt) for attempt in record.attempts],
        "usage": _named(record.usage, Usage),
        "cost": _named(record.cost, Cost),
        "timing": _named(record.timing, Timing),
        "decisions": [
            {
                "seq": seq,
                "at_us": each.at_us,
                "step": each.step,
                "rule": each.rule,
                "verdict": each.verdict,
                "detail": each.detail,
            }
            for seq, each in enumerate(record.decisions)
        ],
    }


def trace_lines(story: RequestRecord | Mapping[str, Any]) -> list[str]:
    """Return what `interlock trace` prints of a record, or of the public object of one."""
    told = story_json(story) if isinstance(story, RequestRecord) else story
    target = f"{told['alias']}@{_word(told['route_version'])}/{_word(told['deployment'])}" if told["alias"] else "-"
    lines = [
        f"request: {told['id']}",
        f"outcome: {told['outcome']}",
        f"status: {told['status']}",
        f"rule: {told['rule']}",
        f"route: {target}",
        *(f"{name}: {_pairs(told[name])}" for name in ("usage", "cost", "timing")),
    ]
    decisions = told["decisions"]
    started_us = decisions[0]["at_us"] if decisions else 0
    for each in decisions:
        offset_ms = (each["at_us"] - started_us) / 1_000
        lines.append(f"+{offset_ms:.3f} {each['step']} {each['rule']} {each['verdict']} {each['detail']}".rstrip())
    return lines


def _id(kind: str, value: UUID | None) -> str | None:
    return None if value is None else format_id(kind, value)


def _named(value: msgspec.Struct, kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: _rounded(getattr(value, name)) for name in kind.__struct_fields__}


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value


def _pairs(values: Mapping[str, Any]) -> str:
    known = [f"{name}={str(value).lower()}" for name, value in values.items() if value is not None]
    return " ".join(known) or "-"


def _word(value: object) -> str:
    return "-" if value is None else str(value)
