"""What pages show of a record: rows, sentences, bars and figures. Pure: the time of the page comes in.

Decides nothing about who may see what; it only ever gets records that the caller's scope has read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Final

from interlock.console.render import milliseconds
from interlock.foundation.clock import rfc3339
from interlock.foundation.ids import format_id
from interlock.foundation.telemetry import Decision, RequestRecord, story_json

GO: Final = "go"
STOP: Final = "stop"
CAUTION: Final = "caution"
BAR_LEFT: Final = 200.0
BAR_WIDTH: Final = 700.0
BAR_WIDTH_MIN: Final = 2.0
_REFUSING: Final = frozenset({"refuse", "refused", "deny", "denied", "killed", "fail", "failed", "lost", "cut"})


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a list of requests."""

    id: str
    short_id: str
    created_at: str
    ago: str
    outcome: str
    tone: str
    status: str
    method: str
    endpoint: str
    alias: str
    rule: str
    ttft: str
    total: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One span of the waterfall, in the coordinates of its drawing."""

    name: str
    kind: str
    x: float
    width: float
    words: str


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One decision with its offset from the first."""

    offset: str
    step: str
    rule: str
    verdict: str
    tone: str
    detail: str


def tone_of(record: RequestRecord) -> str:
    """Return the signal of an outcome: answered, refused, or failed."""
    if record.status == 0:
        return CAUTION
    if record.status < 400 and record.error_code is None:
        return GO
    return STOP if record.status >= 500 or record.status < 400 else CAUTION


def row(record: RequestRecord, now_us: int) -> Row:
    """Return the line of a record as seen at `now_us`."""
    identifier = format_id("req", record.id)
    return Row(
        id=identifier,
        short_id=f"…{identifier[-8:]}",
        created_at=rfc3339(record.started_us),
        ago=ago(record.started_us, now_us),
        outcome=record.outcome or "open",
        tone=tone_of(record),
        status=str(record.status or "open"),
        method=record.method,
        endpoint=record.endpoint,
        alias=record.alias or "-",
        rule=record.rule or "-",
        ttft=milliseconds(record.timing.ttft_ms),
        total=milliseconds(record.timing.total_ms),
    )


def ago(then_us: int, now_us: int) -> str:
    """Render how long ago something was, in one unit."""
    seconds = max(now_us - then_us, 0) // 1_000_000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def sentence(record: RequestRecord) -> str:
    """Tell in one sentence what happened, for somebody who has a customer on the phone."""
    rule = record.rule or "no rule yet"
    if record.status == 0:
        return "The request is still open."
    if record.outcome == "worker_lost":
        return "The process that served this request died before it could answer; the client saw its connection break."
    if record.outcome == "client_gone":
        return f"The client closed the connection after {milliseconds(record.timing.total_ms)}; the work was stopped."
    if record.outcome == "stream_cut":
        return "The answer began, then the model server ended the stream before it was complete."
    if record.status < 400:
        where = f" by {record.deployment}" if record.deployment else ""
        return f"Answered{where} in {milliseconds(record.timing.total_ms)}; {rule} chose the target."
    last = next((each for each in reversed(record.decisions) if each.rule == record.rule), None)
    reason = f": {last.detail}" if last and last.detail else ""
    return f"Refused with status {record.status} by {rule}{reason}."


def decision_rows(record: RequestRecord) -> list[DecisionRow]:
    """Return the decisions with offsets from the arrival."""
    return [_decision_row(each, record.started_us) for each in record.decisions]


def _decision_row(each: Decision, started_us: int) -> DecisionRow:
    offset = f"{(each.at_us - started_us) / 1_000:.2f}"
    is_refusal = each.verdict.lower() in _REFUSING
    return DecisionRow(offset, each.step, each.rule, each.verdict, STOP if is_refusal else GO, each.detail)


def waterfall(record: RequestRecord) -> list[Bar]:
    """Return where the time went: spans one after the other, and what the gateway itself took."""
    timing = record.timing
    total = timing.total_ms or 0.0
    if total <= 0:
        return [Bar("total", "own", BAR_LEFT, BAR_WIDTH_MIN, "not measured")]
    bars, at = [], 0.0
    first_token = timing.ttft_ms
    spans = [
        ("identity", "own", timing.auth_ms),
        ("queue", "wait", timing.queue_ms),
        ("connect", "own", timing.connect_ms),
    ]
    for name, kind, length in spans:
        if length is not None:
            bars.append(_bar(name, kind, at, length, total))
            at += length
    if first_token is not None:
        bars.append(_bar("first token", "wait", at, max(first_token - at, 0.0), total))
        bars.append(_bar("answer", "work", first_token, max(total - first_token, 0.0), total))
    if timing.gateway_ms is not None:
        bars.append(_bar("gateway's own", "own", 0.0, timing.gateway_ms, total))
    bars.append(_bar("total", "own", 0.0, total, total))
    return bars


def _bar(name: str, kind: str, at_ms: float, length_ms: float, total_ms: float) -> Bar:
    x = BAR_LEFT + BAR_WIDTH * min(at_ms / total_ms, 1.0)
    room = BAR_LEFT + BAR_WIDTH - x
    width = min(max(BAR_WIDTH * length_ms / total_ms, BAR_WIDTH_MIN), max(room, BAR_WIDTH_MIN))
    return Bar(name, kind, round(x, 1), round(width, 1), milliseconds(length_ms))


def tokens(record: RequestRecord) -> str:
    """Render the usage in words."""
    usage = record.usage
    if usage.input_tokens is None and usage.output_tokens is None:
        return "none"
    cached = f" ({usage.cached_input_tokens} cached)" if usage.cached_input_tokens else ""
    suffix = ", estimated" if usage.estimated else ""
    return f"{usage.input_tokens or 0} in{cached}, {usage.output_tokens or 0} out{suffix}"


def figures(records: Iterable[RequestRecord]) -> dict[str, str]:
    """Return the figures of the overview over a set of records."""
    known = list(records)
    by_tone = {tone: sum(tone_of(each) == tone for each in known) for tone in (GO, CAUTION, STOP)}
    ttfts = sorted(each.timing.ttft_ms for each in known if each.timing.ttft_ms is not None)
    share = by_tone[STOP] / len(known) if known else 0.0
    return {
        "requests": f"{len(known):,}",
        "answered": f"{by_tone[GO]:,}",
        "refused": f"{by_tone[CAUTION]:,}",
        "failed": f"{by_tone[STOP]:,}",
        "failed_share": f"{share:.1%}",
        "ttft_p50": milliseconds(_quantile(ttfts, 50)),
        "ttft_p95": milliseconds(_quantile(ttfts, 95)),
        "output_tokens": f"{sum(each.usage.output_tokens or 0 for each in known):,}",
        "input_tokens": f"{sum(each.usage.input_tokens or 0 for each in known):,}",
    }


def _quantile(values: list[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def minutes(records: Iterable[RequestRecord], now_us: int, count: int) -> list[dict[str, int]]:
    """Return the counts of each of the last minutes, oldest first, empty minutes included."""
    this_minute = now_us // 60_000_000
    rows = {minute: {GO: 0, CAUTION: 0, STOP: 0} for minute in range(this_minute - count + 1, this_minute + 1)}
    for each in records:
        minute = each.started_us // 60_000_000
        if minute in rows:
            rows[minute][tone_of(each)] += 1
    return [
        {"at": minute * 60, "answered": counts[GO], "refused": counts[CAUTION], "failed": counts[STOP]}
        for minute, counts in rows.items()
    ]


def story(record: RequestRecord) -> Mapping[str, Any]:
    """Return the public object of a record; the page shows exactly what the API says."""
    return story_json(record)
