"""The lines of log of this process while a block runs, as what reads them sees them."""

import io
import json
import logging
from contextlib import contextmanager

import structlog

from interlock.foundation.clock import SystemClock
from interlock.foundation.redaction import Redactor
from interlock.foundation.telemetry import bind_request, configure_logs


@contextmanager
def logging_lines(*secrets, clock=None, on_suppressed=None):
    """Yield what returns the lines so far."""
    stream, root = io.StringIO(), logging.getLogger()
    configure_logs(
        "edge-0", stream, clock=clock or SystemClock(), redactor=Redactor(secrets), level=logging.DEBUG,
        on_suppressed=on_suppressed,
    )  # fmt: skip
    handlers, level = root.handlers, root.level
    try:
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    finally:
        bind_request(None)
        structlog.reset_defaults()
        root.handlers, root.level = [each for each in handlers if "Forward" not in type(each).__name__], level
