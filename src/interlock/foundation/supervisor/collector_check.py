"""What `interlock doctor` asks the collector of OpenTelemetry: whether it is there, and takes what it is sent.

Sends no story: an export without a span is one that every collector takes.
"""

import gzip
import http.client
import re
import urllib.parse
from typing import Final

from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.supervisor.doctor import Finding, Verdict
from interlock.foundation.telemetry import OtlpConfig
from interlock.foundation.telemetry.otlp import address_of, headers_of

_NAME: Final = "otlp"
_REMEDY: Final = "start the collector or correct otlp.endpoint; until then its spans are lost, stories are not"
_REFUSED: Final = "correct otlp.headers; until then its spans are lost, stories are not"
_LOST: Final = re.compile(
    rb'^interlock_telemetry_otlp_requests_total\{[^}]*result="(?:dropped|refused)"[^}]*\} ([0-9.e+]+)$', re.MULTILINE
)


def collector_finding(config: OtlpConfig, metrics: bytes = b"") -> Finding:
    """Return the finding of an export; `metrics` is what a running platform tells of those that went before."""
    if not config.endpoint:
        return Finding(Verdict.OK, _NAME, "nothing is exported, otlp.endpoint is not set")
    lost = sum(int(float(each)) for each in _LOST.findall(metrics))
    before = f"; it lost {lost} requests of the running platform" if lost else ""
    try:
        status = _export_nothing(config)
    except BrokenWorldError as error:
        return Finding(Verdict.FAIL, _NAME, error.finding, error.remedy)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = f"{type(error).__name__} {error}".strip()
        return Finding(Verdict.WARN, _NAME, f"no answer from {config.endpoint}: {reason}{before}", _REMEDY)
    if not 200 <= status < 300:
        remedy = _REFUSED if status in (401, 403) else _REMEDY
        return Finding(Verdict.WARN, _NAME, f"{config.endpoint} refuses with {status}{before}", remedy)
    if lost:
        return Finding(Verdict.WARN, _NAME, f"{config.endpoint} takes spans now{before}", "see the log for when")
    return Finding(Verdict.OK, _NAME, f"{config.endpoint} takes spans")


def _export_nothing(config: OtlpConfig) -> int:
    """Export no span, as the exporter does its own; return the status."""
    parts = urllib.parse.urlsplit(address_of(config))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BrokenWorldError("setting_invalid", "otlp.endpoint is no http address", "correct otlp.endpoint")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=config.timeout_s)
    sent = {"content-type": "application/x-protobuf", "content-encoding": "gzip", **headers_of(config.headers)}
    try:
        connection.request("POST", parts.path, gzip.compress(b""), sent)
        return connection.getresponse().status
    finally:
        connection.close()
