"""Stories as spans: by OpenTelemetry's own names, to a collector of the protocol, and never in anybody's way."""

import asyncio
import importlib
import sys
import threading

import pytest
from msgspec.structs import replace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from interlock.foundation.clock import SystemClock
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.ids import format_id
from interlock.foundation.telemetry import (
    PARENT_SPAN,
    Addendum,
    Attempt,
    Decision,
    Link,
    Metrics,
    OtlpConfig,
    SpanExport,
    SpanWatch,
    Timing,
    collector,
    merge,
)
from interlock.foundation.telemetry.frames import Kind, encode
from interlock.foundation.telemetry.names import OTEL
from interlock.foundation.telemetry.otlp import headers_of
from interlock.foundation.telemetry.story import pack
from tests.foundation.telemetry.worlds import IDS, START_US, record
from tests.support.collector import attributes, collecting

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
REGISTRY = ("gen_ai", "http", "url", "error")


@pytest.fixture
def sink():
    with collecting() as each:
        yield each


def config_of(sink, **fields):
    # A collector that is slow to take a batch would be sent it again, or not be heard.
    return OtlpConfig(endpoint=sink.url, timeout_s=120.0, **fields)


def export_to(sink, **fields):
    config = config_of(sink, **fields)
    return SpanExport(collector(config, "edge-0", "1.2.3"), SystemClock(), config)


def stories(*records):
    return [(int(Kind.STORY), pack(each)) for each in records]


def test_every_name_is_one_of_the_registry_of_the_conventions():
    known = set()
    for group in REGISTRY:
        module = importlib.import_module(f"opentelemetry.semconv._incubating.attributes.{group}_attributes")
        known |= {value for value in vars(module).values() if isinstance(value, str)}
    ours = {value for name, value in vars(OTEL).items() if not name.startswith("_")}
    assert len(ours) > 10
    assert ours <= known


async def test_a_request_is_a_span_of_the_server_with_one_of_the_client_for_each_call(sink):
    told = record(IDS.new())
    told.trace_id, told.links = TRACE, [Link(PARENT_SPAN, PARENT), Link("task", "task_1")]
    told.attempts = [
        Attempt(n=1, deployment="a", status=500, error="http_500", total_ms=20.0),
        Attempt(n=2, deployment="b", status=200, ttft_ms=8.0, total_ms=60.0, upstream_request_id="up-2"),
    ]
    told.decisions = [Decision(START_US + 1_000, "received", "http.received", "ok"),
                      Decision(START_US + 5_000, "attempt", "route.default", "failed", "a"),
                      Decision(START_US + 30_000, "attempt", "route.default", "ok", "b")]  # fmt: skip
    told.timing = Timing(ttft_ms=40.0, total_ms=120.0)
    export = export_to(sink)
    export.offer(stories(told))
    await export.run_once()

    request, first, second = sink.of_trace(TRACE)
    assert (request.kind, request.name) == (Span.SPAN_KIND_SERVER, "chat default")
    assert request.parent_span_id.hex() == PARENT
    assert request.end_time_unix_nano - request.start_time_unix_nano == 120_000_000
    said = attributes(request)
    assert said[OTEL.input_tokens] == 12
    assert said[OTEL.output_tokens] == 34
    assert said[OTEL.model] == "default"
    assert said[OTEL.first_chunk_s] == 0.04
    assert said["interlock.request_id"] == format_id("req", told.id)
    assert said["interlock.link.task"] == "task_1"
    assert not any(PARENT_SPAN in name for name in said)
    assert [each.name for each in request.events] == ["interlock.received", "interlock.attempt", "interlock.attempt"]
    assert request.status.code == Status.STATUS_CODE_UNSET
    assert [each.parent_span_id for each in (first, second)] == [request.span_id] * 2
    assert [each.kind for each in (first, second)] == [Span.SPAN_KIND_CLIENT] * 2
    assert first.start_time_unix_nano == (START_US + 5_000) * 1_000
    assert first.status.code == Status.STATUS_CODE_ERROR
    assert attributes(first)[OTEL.error_type] == "http_500"
    assert attributes(second)["interlock.upstream_request_id"] == "up-2"
    assert len({each.span_id for each in (request, first, second)}) == 3
    resource, _ = sink.spans[0]
    assert resource["service.name"] == "interlock"
    assert resource["service.instance.id"] == "edge-0"


async def test_a_request_without_a_trace_has_one_of_its_own_and_the_same_when_it_is_told_twice(sink):
    told = replace(record(IDS.new()), trace_id=None)
    export = export_to(sink)
    for _ in range(2):
        export.offer(stories(told))
        await export.run_once()
    spans = sink.of_trace(told.id.hex)
    assert len(spans) == 2 * (1 + len(told.attempts))
    assert len({each.span_id for each in spans}) == 1 + len(told.attempts)
    assert {each.parent_span_id for each in spans if each.kind == Span.SPAN_KIND_SERVER} == {b""}


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [("ok", 200, Status.STATUS_CODE_UNSET), ("bad_request", 400, Status.STATUS_CODE_UNSET),
     ("overloaded", 503, Status.STATUS_CODE_ERROR), ("stream_cut", 200, Status.STATUS_CODE_ERROR)],
)  # fmt: skip
async def test_only_what_the_server_did_wrong_is_an_error(sink, outcome, status, code):
    told = replace(record(IDS.new()), outcome=outcome, status=status)
    export = export_to(sink)
    export.offer(stories(told))
    await export.run_once()
    assert sink.spans[0][1].status.code == code


async def test_decisions_of_other_roles_are_no_spans(sink):
    export = export_to(sink)
    export.offer([(int(Kind.ADDENDUM), encode(Addendum(id=IDS.new(), organization_id=IDS.new())))])
    assert export.statistics().waiting == 0


async def test_what_does_not_fit_is_dropped_and_counted(sink):
    export = export_to(sink, queue_max=3, batch_max=2)
    export.offer(stories(*(record(IDS.new()) for _ in range(5))))
    await export.run_once()
    await export.run_once()
    found = export.statistics()
    assert (found.exported, found.dropped, found.refused, found.waiting) == (3, 2, 0, 0)
    metrics = Metrics()
    SpanWatch(metrics, export)
    assert 'interlock_telemetry_otlp_requests_total{result="dropped"} 2.0' in merge([metrics.snapshot()])


async def test_a_collector_that_refuses_costs_the_batch_and_nothing_else(sink):
    export = export_to(sink)
    sink.status = 400
    export.offer(stories(record(IDS.new())))
    await export.run_once()
    sink.status = 200
    export.offer(stories(record(IDS.new())))
    await export.run_once()
    found = export.statistics()
    assert (found.exported, found.refused) == (1, 1)


async def test_half_of_the_traces_are_exported_whole_or_not_at_all(sink):
    export = export_to(sink, sample_percent=50.0)
    traces = [f"{'0' * 16}{number * 2**54:016x}" for number in range(1, 1_000)]
    for _ in range(2):
        export.offer(stories(*(replace(record(IDS.new()), trace_id=each) for each in traces)))
    assert export.statistics().waiting == 2 * sum(int(each, 16) < 2**63 for each in traces)


async def test_a_slow_collector_does_not_hold_up_the_loop(sink):
    is_asked, may_answer = threading.Event(), threading.Event()

    def send(_):
        is_asked.set()
        return may_answer.wait(60)

    export = SpanExport(send, SystemClock(), config_of(sink))
    export.offer(stories(record(IDS.new())))
    async with asyncio.TaskGroup() as group:
        group.create_task(export.run_once())
        while not is_asked.is_set():
            await asyncio.sleep(0.001)
        export.offer(stories(record(IDS.new())))
        assert export.statistics().waiting == 1
        may_answer.set()
    assert export.statistics().exported == 1


async def test_headers_reach_the_collector(sink):
    export = export_to(sink, headers="Authorization=Bearer collector, x-tenant = shop")
    export.offer(stories(record(IDS.new())))
    await export.run_once()
    assert sink.headers[0]["authorization"] == "Bearer collector"
    assert sink.headers[0]["x-tenant"] == "shop"


def test_what_are_no_headers_is_refused_and_never_shown():
    with pytest.raises(BrokenWorldError) as refused:
        headers_of("hunter2")
    assert "hunter2" not in str(refused.value)


def test_without_the_extra_the_finding_says_how_to_get_it(sink, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(BrokenWorldError, match=r"interlock\[otlp\]"):
        collector(config_of(sink), "edge-0", "1.2.3")
