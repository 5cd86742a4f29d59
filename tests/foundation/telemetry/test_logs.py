"""A line of log is one JSON object, bounded, redacted last, and a request cannot flood it."""

import io
import json
import logging
import stat

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import NamedRequest, TelemetryConfig, bind_request, configure_logs
from tests.foundation.telemetry.worlds import CLOCK
from tests.support.lines import logging_lines

SECRET = "correct-horse-battery"


@pytest.fixture
def lines():
    with logging_lines(SECRET.encode(), clock=CLOCK) as each:
        yield each


def test_the_first_fields_are_always_there_and_in_order(lines):
    structlog.get_logger().info("started", port=8080)
    (line,) = lines()
    assert list(line) == ["ts", "level", "event", "request_id", "trace_id", "role", "port"]
    assert line["ts"] == "2026-11-25T03:00:00.000Z"
    assert (line["level"], line["event"], line["role"], line["port"]) == ("info", "started", "edge-0", 8080)


def test_lines_of_a_request_carry_its_id(lines):
    bind_request(NamedRequest("req_1", "trace-1"))
    structlog.get_logger().info("admitted")
    (line,) = lines()
    assert (line["request_id"], line["trace_id"]) == ("req_1", "trace-1")


def test_a_secret_is_gone_wherever_it_stands(lines):
    log = structlog.get_logger()
    log.info(SECRET, field=SECRET, nested={"a": [SECRET]}, **{SECRET: 1})
    try:
        int(SECRET)
    except ValueError:
        log.exception("failed")
    logging.getLogger("library").warning("says %s", SECRET)
    assert len(lines()) == 3
    assert SECRET not in json.dumps(lines())
    assert "[redacted:secret]" in lines()[1]["exception"]


def test_twenty_lines_of_a_request_then_one_that_says_so(lines):
    bind_request(NamedRequest("req_1"))
    for number in range(50):
        structlog.get_logger().info("step", number=number)
    bind_request(NamedRequest("req_2"))
    structlog.get_logger().info("other")
    found = lines()
    assert [line["event"] for line in found] == ["step"] * 20 + ["log_suppressed", "other"]
    assert (found[20]["request_id"], found[20]["lines_max"]) == ("req_1", 20)


def test_lines_without_a_request_are_not_counted(lines):
    for _ in range(50):
        structlog.get_logger().info("tick")
    assert len(lines()) == 50


def test_events_of_libraries_take_the_same_way(lines):
    logging.getLogger("some.library").error("broke: %s", "here")
    (line,) = lines()
    assert (line["event"], line["logger_name"], line["message"]) == ("library_log", "some.library", "broke: here")


@settings(max_examples=100, deadline=None)
@given(fields=st.dictionaries(st.sampled_from("abcdefgh"), st.text(max_size=9_000), max_size=4))
def test_a_line_is_at_most_8_kib(fields):
    stream = io.StringIO()
    configure_logs("edge-0", stream, clock=CLOCK, redactor=Redactor())
    try:
        structlog.get_logger().info("long", **fields)
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
    raw = stream.getvalue().rstrip("\n")
    assert len(raw.encode()) <= 8 << 10
    assert json.loads(raw)["event"] == "long"


def test_log_files_are_rotated_by_size_and_private(tmp_path):
    bounds = TelemetryConfig(log_file_bytes=1 << 16, log_files_max=3)
    configure_logs(
        "worker-1", file=tmp_path / "logs" / "worker-1.jsonl", clock=CLOCK, redactor=Redactor(), config=bounds
    )
    try:
        for number in range(3_000):
            structlog.get_logger().info("tick", number=number, text="x" * 100)
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
    files = sorted((tmp_path / "logs").iterdir())
    assert [each.name for each in files] == ["worker-1.jsonl", "worker-1.jsonl.1", "worker-1.jsonl.2"]
    assert all(each.stat().st_size <= bounds.log_file_bytes for each in files)
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert json.loads(files[0].read_text().splitlines()[-1])["number"] == 2_999
