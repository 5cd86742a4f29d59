"""The story of every request: records, the spool that outlives its process, the store, metrics, logs.

Knows no system and decides no outcome.
"""

from interlock.foundation.telemetry.abandoned import AbandonedRings
from interlock.foundation.telemetry.config import TelemetryConfig
from interlock.foundation.telemetry.events import EventLog
from interlock.foundation.telemetry.logs import NamedRequest, bind_request, configure_logs
from interlock.foundation.telemetry.metrics import SECONDS_BUCKETS, Merge, Metrics, merge
from interlock.foundation.telemetry.names import PARENT_SPAN, STEP_NUMBER, STEPS, Outcome
from interlock.foundation.telemetry.otlp import OtlpConfig, SpanExport, SpanWatch, collector
from interlock.foundation.telemetry.records import (
    Addendum,
    Attempt,
    Cost,
    Decision,
    Link,
    RequestRecord,
    Timing,
    ToldDecision,
    Usage,
)
from interlock.foundation.telemetry.retention import Retention
from interlock.foundation.telemetry.shipper import Shipper
from interlock.foundation.telemetry.spool import Frame, Spool
from interlock.foundation.telemetry.steps import Steps
from interlock.foundation.telemetry.stories import StoryFilters, StoryStore
from interlock.foundation.telemetry.story import Story, decode_story, step_of, story_json, trace_lines
from interlock.foundation.telemetry.tally import Tally, tallied
from interlock.foundation.telemetry.watch import SpoolWatch, TelemetryCounters

__all__ = [
    "PARENT_SPAN", "SECONDS_BUCKETS", "STEPS", "STEP_NUMBER", "AbandonedRings", "Addendum", "Attempt", "Cost",
    "Decision", "EventLog", "Frame", "Link", "Merge", "Metrics", "NamedRequest", "OtlpConfig", "Outcome",
    "RequestRecord", "Retention", "Shipper", "SpanExport", "SpanWatch", "Spool", "SpoolWatch",
    "Steps", "Story", "StoryFilters", "StoryStore", "Tally", "TelemetryConfig", "TelemetryCounters", "Timing",
    "ToldDecision", "Usage", "bind_request", "collector", "configure_logs", "decode_story", "merge", "step_of",
    "story_json", "tallied", "trace_lines",
]  # fmt: skip
