"""What pages show of a record: rows, sentences, bars and figures. Pure: the time of the page comes in.

Decides nothing about who may see what; it only ever gets records that the caller's scope has read.
"""

from collections import Counter
from collections.abc import Iterable
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
BAR_WIDTH: Final = 1000.0
BAR_WIDTH_MIN: Final = 3.0
CSV_COLUMNS: Final = (
    "id", "created_at", "outcome", "status", "error_code", "rule", "method", "endpoint", "stream", "alias",
    "deployment", "workspace_id", "key_id", "client_request_id", "trace_id", "input_tokens", "output_tokens",
    "queue_ms", "ttft_ms", "total_ms", "gateway_ms",
)  # fmt: skip
# Outcomes that no rule of ours explains; the braces hold how long it took.
_SENTENCES: Final = {
    "worker_lost": (
        "The process that served this request died before it could answer; the client saw its connection break."
    ),
    "client_gone": "The client closed the connection after {}; the work was stopped.",
    "stream_cut": "The answer began, then the model server ended the stream before it was complete.",
    "ok_replayed": "Answered in {} with what the first call of this key got.",
}
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_REFUSING: Final = frozenset({"refuse", "refused", "deny", "denied", "killed", "fail", "failed", "worker_lost", "cut"})


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
    share: str


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One decision with its offset from the first."""

    offset: str
    step: str
    rule: str
    verdict: str
    tone: str
    detail: str


def is_of_console(record: RequestRecord) -> bool:
    """Tell whether a page of this console made the request: a reader's own looking around is not what they look for."""
    return record.endpoint == "/console" or record.endpoint.startswith("/console/")


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
    """Render how long ago something was, or how soon it will be, in one unit."""
    seconds = abs(now_us - then_us) // 1_000_000
    size, unit = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    words = f"{seconds // size} {unit}"
    return f"in {words}" if then_us > now_us and seconds else f"{words} ago"


def sentence(record: RequestRecord) -> str:
    """Tell in one sentence what happened, for somebody who has a customer on the phone."""
    if record.status == 0:
        return "The request is still open."
    took, rule = milliseconds(record.timing.total_ms), record.rule or "no rule yet"
    special = _SENTENCES.get(record.outcome)
    if special is not None:
        return special.format(took)
    if record.status < 400:
        return _answered(record, took, rule)
    deciding = [each.detail for each in record.decisions if each.rule == record.rule and each.step != "finished"]
    reason = f": {deciding[-1]}" if deciding and deciding[-1] else ""
    verb = "Failed" if record.status >= 500 and record.status != 503 else "Refused"
    return f"{verb} with status {record.status} by {rule}{reason}."


def _answered(record: RequestRecord, took: str, rule: str) -> str:
    if record.error_code is not None:
        return f"The answer began, then {rule} ended it before it was complete."
    where = f" by {record.deployment}" if record.deployment else ""
    chosen = f"; {rule} chose the target" if record.alias else ""
    first = record.timing.ttft_ms if record.stream else None
    token = "" if first is None else f", its first token after {milliseconds(first)}"
    return f"Answered{where} in {took}{token}{chosen}."


def decision_rows(record: RequestRecord) -> list[DecisionRow]:
    """Return the decisions with offsets from the arrival; only refusals and the end are coloured."""
    return [_decision_row(each, record) for each in record.decisions]


def _decision_row(each: Decision, record: RequestRecord) -> DecisionRow:
    offset = milliseconds((each.at_us - record.started_us) / 1_000)
    tone = STOP if each.verdict.lower() in _REFUSING else ""
    if each.step == "finished":
        tone = tone_of(record)
    return DecisionRow(offset, each.step, each.rule, each.verdict, tone, each.detail)


def waterfall(record: RequestRecord) -> list[Bar]:
    """Return where the time went, span after span; empty for a request that nobody timed."""
    timing = record.timing
    total = timing.total_ms or 0.0
    if total <= 0:
        return []
    bars, at = [], 0.0
    spans = (
        ("identity", "own", timing.auth_ms),
        ("queue", "wait", timing.queue_ms),
        ("connect", "own", timing.connect_ms),
    )
    for name, kind, length in spans:
        if length is not None:
            bars.append(_bar(name, kind, at, length, total))
            at += length
    first = timing.ttft_ms
    if first is not None:
        bars.append(_bar("first token", "wait", at, max(first - at, 0.0), total))
        bars.append(_bar("answer", "work", first, max(total - first, 0.0), total))
    bars.append(_bar("total", "total", 0.0, total, total))
    return bars


def waterfall_words(bars: list[Bar]) -> str:
    """Tell the bars to those who do not see them."""
    return "Time of each phase: " + ", ".join(f"{bar.name} {bar.words}" for bar in bars)


def marks(record: RequestRecord) -> list[float]:
    """Return where on the bars each decision was taken."""
    total_us = (record.timing.total_ms or 0.0) * 1_000
    if total_us <= 0:
        return []
    offsets = ((each.at_us - record.started_us) / total_us for each in record.decisions)
    return [round(BAR_WIDTH * min(max(at, 0.0), 1.0), 1) for at in offsets]


def _bar(name: str, kind: str, at_ms: float, length_ms: float, total_ms: float) -> Bar:
    width = min(max(BAR_WIDTH * length_ms / total_ms, BAR_WIDTH_MIN), BAR_WIDTH)
    x = min(BAR_WIDTH * at_ms / total_ms, BAR_WIDTH - width)
    part = length_ms / total_ms
    share = "" if kind == "total" else "< 1%" if 0 < part < 0.005 else f"{part:.0%}"
    return Bar(name, kind, round(x, 1), round(width, 1), milliseconds(length_ms), share)


def tokens(record: RequestRecord) -> str:
    """Render the usage in words."""
    usage = record.usage
    if usage.input_tokens is None and usage.output_tokens is None:
        return "none"
    cached = f" ({usage.cached_input_tokens} cached)" if usage.cached_input_tokens else ""
    suffix = ", estimated" if usage.estimated else ""
    return f"{usage.input_tokens or 0} in{cached}, {usage.output_tokens or 0} out{suffix}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What the figures need of one request."""

    started_us: int
    tone: str
    ttft_ms: float | None
    input_tokens: int
    output_tokens: int


def sample(record: RequestRecord) -> Sample:
    """Return the sample of a record."""
    return Sample(
        record.started_us,
        tone_of(record),
        record.timing.ttft_ms,
        record.usage.input_tokens or 0,
        record.usage.output_tokens or 0,
    )


def figures(samples: Iterable[Sample]) -> dict[str, str]:
    """Return the figures of the overview over a set of requests."""
    known = list(samples)
    by_tone = Counter(each.tone for each in known)
    ttfts = sorted(each.ttft_ms for each in known if each.ttft_ms is not None)
    return {
        "requests": f"{len(known):,}",
        "answered": f"{by_tone[GO]:,}",
        "refused": f"{by_tone[CAUTION]:,}",
        "refused_share": _share(by_tone[CAUTION], len(known)),
        "failed": f"{by_tone[STOP]:,}",
        "failed_share": _share(by_tone[STOP], len(known)),
        "ttft_p50": milliseconds(_quantile(ttfts, 50)),
        "ttft_p95": milliseconds(_quantile(ttfts, 95)),
        "output_tokens": f"{sum(each.output_tokens for each in known):,}",
        "input_tokens": f"{sum(each.input_tokens for each in known):,}",
    }


def minutes(samples: Iterable[Sample], now_us: int, count: int) -> list[dict[str, int]]:
    """Return the counts of each of the last minutes, oldest first, empty minutes included."""
    this_minute = now_us // 60_000_000
    counted = Counter((each.started_us // 60_000_000, each.tone) for each in samples)
    return [
        {
            "at": minute * 60,
            "answered": counted[minute, GO],
            "refused": counted[minute, CAUTION],
            "failed": counted[minute, STOP],
        }
        for minute in range(this_minute - count + 1, this_minute + 1)
    ]


def exported(record: RequestRecord) -> dict[str, Any]:
    """Return the line of an export; `CSV_COLUMNS` names its cells."""
    told = story_json(record)
    return {**told, **told["usage"], **told["timing"], "method": record.method}


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0 %"


def _quantile(values: list[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return quantiles(values, n=100, method="inclusive")[percent - 1]
