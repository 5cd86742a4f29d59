"""The story of every request: records, the spool that outlives its process, the store, metrics, logs.

Knows no system and decides no outcome.
"""

from interlock.foundation.telemetry.config import TelemetryConfig
from interlock.foundation.telemetry.names import STEPS, Outcome
from interlock.foundation.telemetry.records import (
    Addendum,
    Attempt,
    Cost,
    Decision,
    Link,
    RequestRecord,
    Timing,
    Usage,
)
from interlock.foundation.telemetry.ring import RingBusyError
from interlock.foundation.telemetry.spool import Frame, Spool, SpoolStatistics
from interlock.foundation.telemetry.story import decode_story, encode_story, story_json, trace_lines

__all__ = [
    "STEPS",
    "Addendum",
    "Attempt",
    "Cost",
    "Decision",
    "Frame",
    "Link",
    "Outcome",
    "RequestRecord",
    "RingBusyError",
    "Spool",
    "SpoolStatistics",
    "TelemetryConfig",
    "Timing",
    "Usage",
    "decode_story",
    "encode_story",
    "story_json",
    "trace_lines",
]
