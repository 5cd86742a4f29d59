"""The last five minutes of a pool in spans of ten seconds, and what ended last: what its page draws.

Reads no clock; the window that it is made of came with its times.
"""

from collections.abc import Sequence
from typing import Any, Final

from interlock.foundation.ids import format_id
from interlock.scheduler.domain.measures import SPAN_US, Window, figures_of
from interlock.scheduler.domain.records import DecisionRecord

BUCKET_US: Final = 10_000_000
RECENT_MAX: Final = 40


def history(window: Window, now_us: int) -> list[dict[str, Any]]:
    """Return the metrics of each span, oldest first; what nobody measured in one is None."""
    count = SPAN_US // BUCKET_US
    first_us = now_us - SPAN_US
    within: list[list[DecisionRecord]] = [[] for _ in range(count)]
    for each in window.recent(now_us):
        within[min(count - 1, max(0, (each.at_us - first_us) // BUCKET_US))].append(each)
    return [
        _span(records, window.utilization_in(first_us + at * BUCKET_US, BUCKET_US)) for at, records in enumerate(within)
    ]


def recent(window: Window, now_us: int) -> list[dict[str, Any]]:
    """Return what ended last, newest first: refusals with their code, answers with what was promised of them."""
    return [_ended(each, now_us) for each in reversed(window.recent(now_us)[-RECENT_MAX:])]


def _span(records: Sequence[DecisionRecord], utilization: float | None) -> dict[str, Any]:
    found = figures_of(records, BUCKET_US / 1_000_000)
    tokens = found["tokens_per_second"]
    return {
        "time_to_first_token_s": found["time_to_first_token_s"]["p50"],
        "tokens_per_second": tokens["prefill"] + tokens["output"],
        "queue_wait_time_s": found["queue_wait_time_s"]["p50"],
        "end_to_end_latency_s": found["end_to_end_latency_s"]["p95"],
        "gpu_utilization": utilization,
        "overload_rejections": sum(found["overload_rejections"].values()),
        "cost_per_successful_request_usd": found["cost_per_successful_request_usd"],
    }


def _ended(record: DecisionRecord, now_us: int) -> dict[str, Any]:
    request = record.request
    return {
        "request_id": request.request_id,
        "organization_id": format_id("org", request.organization_id),
        "class": request.service_class.value,
        "ago_s": max(0, now_us - record.at_us) // 1_000_000,
        "outcome": record.outcome,
        "code": record.code,
        "promise": record.promise,
        "queue_wait_ms": record.queue_wait_ms,
        "predicted_ttft_ms": record.predicted_ttft_ms,
        "ttft_ms": record.ttft_ms,
        "in_slo": record.is_in_slo,
    }
