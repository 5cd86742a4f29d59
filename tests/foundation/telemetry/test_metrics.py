"""Metrics of several processes become one text that the reference parser takes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from interlock.foundation.telemetry import Metrics, SpoolWatch, TelemetryCounters, merge
from tests.foundation.telemetry.worlds import START_US, record, spool_at


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_and_histograms_of_two_processes_add_up():
    snapshots = []
    for count in (2, 5):
        metrics = Metrics()
        requests = metrics.counter("gateway_requests_total", "Requests.", ("endpoint", "outcome"))
        requests.labels("/v1/models", "ok").inc(count)
        seconds = metrics.histogram("wire_request_seconds", "Time.", ("route",), buckets=(0.1, 1.0))
        for _ in range(count):
            seconds.labels("/v1/models").observe(0.5)
        snapshots.append(metrics.snapshot())
    found = samples(merge(snapshots))

    labels = (("endpoint", "/v1/models"), ("outcome", "ok"))
    assert found["interlock_gateway_requests_total", labels] == 7
    assert found["interlock_wire_request_seconds_bucket", (("le", "0.1"), ("route", "/v1/models"))] == 0
    assert found["interlock_wire_request_seconds_bucket", (("le", "1.0"), ("route", "/v1/models"))] == 7
    assert found["interlock_wire_request_seconds_sum", (("route", "/v1/models"),)] == pytest.approx(3.5)


@pytest.mark.parametrize(("rule", "expected"), [("sum", 7), ("max", 4), ("last", 3)])
def test_a_gauge_says_itself_what_several_make_together(rule, expected):
    snapshots = []
    for value in (4, 3):
        metrics = Metrics()
        metrics.gauge("flags_config_age_seconds", "Age.", merge=rule).set(value)
        snapshots.append(metrics.snapshot())
    assert samples(merge(snapshots))["interlock_flags_config_age_seconds", ()] == expected


def test_series_that_only_one_process_has_stay():
    one, other = Metrics(), Metrics()
    one.counter("wire_refused_total", "Refused.", ("code",)).labels("bad_http").inc()
    other.counter("wire_refused_total", "Refused.", ("code",)).labels("request_timeout").inc(2)
    other.gauge("wire_sse_streams", "Streams.").set(1)
    found = samples(merge([one.snapshot(), other.snapshot()]))
    assert found["interlock_wire_refused_total", (("code", "bad_http"),)] == 1
    assert found["interlock_wire_refused_total", (("code", "request_timeout"),)] == 2
    assert found["interlock_wire_sse_streams", ()] == 1


def test_the_build_is_named_once():
    one, other = Metrics(), Metrics()
    one.build_info("0.1.0")
    other.build_info("0.1.0")
    assert samples(merge([one.snapshot(), other.snapshot()])) == {("interlock_build_info", (("version", "0.1.0"),)): 1}


def test_an_exemplar_keeps_its_trace():
    metrics = Metrics()
    metrics.histogram("gateway_ttft_seconds", "Time.").observe(0.02, {"trace_id": "0af7"})
    found = [
        sample.exemplar.labels
        for family in text_string_to_metric_families(merge([metrics.snapshot()]))
        for sample in family.samples
        if sample.exemplar
    ]
    assert found == [{"trace_id": "0af7"}]


def test_no_process_at_all_is_still_a_text():
    assert list(text_string_to_metric_families(merge([]))) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.integers(0, 100)), max_size=10))
def test_any_label_survives_the_way(values):
    metrics = Metrics()
    counter = metrics.counter("redaction_hits_total", "Hits.", ("kind",))
    wanted: dict[str, int] = {}
    for kind, count in values:
        counter.labels(kind).inc(count)
        wanted[kind] = wanted.get(kind, 0) + count
    found = samples(merge([metrics.snapshot()]))
    assert found == {("interlock_redaction_hits_total", (("kind", kind),)): count for kind, count in wanted.items()}


def test_the_spool_and_the_logs_say_how_they_are(tmp_path):
    metrics = Metrics()
    spool = spool_at(tmp_path)
    SpoolWatch(metrics, spool)
    counters = TelemetryCounters(metrics)
    wanted = record(detail="y" * 50_000)
    spool.open(wanted.id, START_US, "POST", "/").close(wanted)
    counters.on_suppressed()
    counters.on_hit("jwt")
    found = samples(merge([metrics.snapshot(), metrics.snapshot()]))

    assert found["interlock_telemetry_spool_bytes", ()] == 2 * spool.statistics().ring_bytes_used
    assert found["interlock_telemetry_spool_dropped_total", (("kind", "detail"),)] == 2
    assert found["interlock_telemetry_spool_dropped_total", (("kind", "usage"),)] == 0
    assert found["interlock_telemetry_spool_pending", ()] == 2
    assert found["interlock_telemetry_logs_suppressed_total", ()] == 2
    assert found["interlock_redaction_hits_total", (("kind", "jwt"),)] == 2
