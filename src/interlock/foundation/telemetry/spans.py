"""A story as spans of OpenTelemetry: one of the server for the request, one of the client for each call of an upstream.

Pure; `otlp.py` sends them. Ids follow from the id of the request, so a story that is told twice gives the same spans.
Needs the extra `otlp`, so only `otlp.py` imports it, and only where an endpoint is set. Conventions:
https://opentelemetry.io/docs/specs/semconv/gen-ai/ and /http/.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from interlock.foundation.ids import format_id
from interlock.foundation.telemetry.names import GEN_AI_OPERATIONS, OTEL, PARENT_SPAN
from interlock.foundation.telemetry.records import Attempt, RequestRecord
from interlock.foundation.telemetry.traces import span_id_of

Attributes = dict[str, str | bool | int | float]

_SERVER_ERROR: Final = 500
# Answers whose head had gone out with 200 before they broke.
_BROKEN: Final = frozenset({"stream_cut", "upstream_error", "upstream_timeout", "worker_lost"})


def trace_id_of(record: RequestRecord) -> int:
    """Return the trace that the caller named, else one of the request's own."""
    return int(record.trace_id, 16) if record.trace_id else record.id.int


def spans_of(record: RequestRecord, resource: Resource, scope: InstrumentationScope) -> list[ReadableSpan]:
    """Return the spans of one request, its own first."""
    trace_id = trace_id_of(record)
    own = _context(trace_id, span_id_of(record.id, 0))
    common = {"resource": resource, "instrumentation_scope": scope}
    begun_ns, ended_ns = record.started_us * 1_000, _ended_us(record) * 1_000
    operation = GEN_AI_OPERATIONS.get(record.endpoint)
    request = ReadableSpan(
        name=f"{operation} {record.alias}" if operation and record.alias else f"{record.method} {record.endpoint}",
        context=own,
        parent=_parent(record, trace_id),
        attributes=_request_attributes(record, operation),
        events=[_event(each.step, each.at_us, each.rule, each.verdict, each.detail) for each in record.decisions],
        kind=SpanKind.SERVER,
        status=_status(record),
        start_time=begun_ns,
        end_time=ended_ns,
        **common,  # type: ignore[arg-type] # both are named in the signature
    )
    attempts = [
        ReadableSpan(
            name=f"{operation or 'call'} {each.deployment}",
            context=_context(trace_id, span_id_of(record.id, each.n)),
            parent=own,
            attributes=_attempt_attributes(each, operation),
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.ERROR, each.error) if each.error else Status(),
            start_time=at_us * 1_000,
            end_time=min(max(at_us, at_us + int((each.total_ms or 0) * 1_000)) * 1_000, max(ended_ns, at_us * 1_000)),
            **common,  # type: ignore[arg-type] # both are named in the signature
        )
        for each, at_us in _begun(record)
    ]
    return [request, *attempts]


def _request_attributes(record: RequestRecord, operation: str | None) -> Attributes:
    usage, tags = record.usage, dict(each.partition("=")[::2] for each in record.tags.split(",") if each)
    ids = {"organization": ("org", record.organization_id), "workspace": ("ws", record.workspace_id),
           "key": ("key", record.key_id)}  # fmt: skip
    known: Mapping[str, str | bool | int | float | None] = {
        OTEL.method: record.method or None,
        OTEL.route: record.endpoint or None,
        OTEL.path: record.target.partition("?")[0] or None,
        OTEL.status: record.status or None,
        OTEL.error_type: (record.error_code or record.outcome) if _is_error(record) else None,
        OTEL.operation: operation,
        OTEL.provider: record.dialect if operation else None,
        OTEL.model: record.alias if operation else None,
        OTEL.stream: record.stream if operation else None,
        OTEL.input_tokens: usage.input_tokens,
        OTEL.cached_tokens: usage.cached_input_tokens,
        OTEL.output_tokens: usage.output_tokens,
        OTEL.reasoning_tokens: usage.reasoning_tokens,
        OTEL.first_chunk_s: None if record.timing.ttft_ms is None else record.timing.ttft_ms / 1_000,
        "interlock.request_id": format_id("req", record.id),
        "interlock.client_request_id": record.client_request_id,
        "interlock.outcome": record.outcome or None,
        "interlock.rule": record.rule or None,
        "interlock.route_version": record.route_version,
        "interlock.deployment": record.deployment,
        "interlock.arm": record.arm,
        "interlock.degraded": record.degraded,
        "interlock.cost_usd": None if record.cost.usd is None else float(record.cost.usd),
        "interlock.usage_estimated": usage.estimated or None,
        **{f"interlock.{name}_id": format_id(kind, each) for name, (kind, each) in ids.items() if each is not None},
        **{f"interlock.tag.{name}": value for name, value in tags.items()},
        **{f"interlock.link.{each.kind}": each.id for each in record.links if each.kind != PARENT_SPAN},
    }
    return {name: value for name, value in known.items() if value is not None}


def _attempt_attributes(attempt: Attempt, operation: str | None) -> Attributes:
    known: Mapping[str, str | int | float | None] = {
        OTEL.operation: operation,
        OTEL.status: attempt.status,
        OTEL.error_type: attempt.error,
        OTEL.first_chunk_s: None if attempt.ttft_ms is None else attempt.ttft_ms / 1_000,
        "interlock.deployment": attempt.deployment,
        "interlock.attempt": attempt.n,
        "interlock.connect_ms": attempt.connect_ms,
        "interlock.upstream_request_id": attempt.upstream_request_id,
    }
    return {name: value for name, value in known.items() if value is not None}


def _event(step: str, at_us: int, rule: str, verdict: str, detail: str) -> Event:
    said = {"interlock.rule": rule, "interlock.verdict": verdict, "interlock.detail": detail}
    return Event(f"interlock.{step}", {name: text for name, text in said.items() if text}, at_us * 1_000)


def _begun(record: RequestRecord) -> Iterator[tuple[Attempt, int]]:
    """Yield each call with the moment at which it was written down, or that of the request where nobody did."""
    moments = [each.at_us for each in record.decisions if each.step == "attempt"]
    for number, attempt in enumerate(record.attempts):
        yield attempt, moments[number] if number < len(moments) else record.started_us


def _ended_us(record: RequestRecord) -> int:
    last_us = max((each.at_us for each in record.decisions), default=record.started_us)
    total_ms = record.timing.total_ms
    return last_us if total_ms is None else record.started_us + int(total_ms * 1_000)


def _is_error(record: RequestRecord) -> bool:
    return record.status >= _SERVER_ERROR or record.outcome in _BROKEN


def _status(record: RequestRecord) -> Status:
    # What a caller did wrong is no error of the server's span.
    return Status(StatusCode.ERROR, record.error_code or record.outcome) if _is_error(record) else Status()


def _parent(record: RequestRecord, trace_id: int) -> SpanContext | None:
    told = next((each.id for each in record.links if each.kind == PARENT_SPAN), None)
    return None if told is None or not record.trace_id else _context(trace_id, int(told, 16), is_remote=True)


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))
