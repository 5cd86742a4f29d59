"""Stories as spans to a collector of OpenTelemetry, over OTLP/HTTP: off until `otlp.endpoint` is set.

Never holds up a request or the shipping of stories: what the collector does not take in time is dropped and counted.
Exports no content of prompts or answers, as no story holds any.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from interlock.foundation.clock import Clock
from interlock.foundation.config import setting
from interlock.foundation.errors import BrokenWorldError
from interlock.foundation.telemetry.frames import Kind, decode_record
from interlock.foundation.telemetry.metrics import Merge, Metrics
from interlock.foundation.telemetry.records import RequestRecord
from interlock.foundation.telemetry.story import unpack

log = structlog.get_logger("interlock.telemetry")

_TRACES: Final = "/v1/traces"
_HASH_BITS: Final = 64
# Takes stories and sends them; returns whether the collector took them. Runs in a thread.
Send = Callable[[list[RequestRecord]], bool]


@dataclass(frozen=True, slots=True)
class OtlpConfig:
    """Section `otlp`."""

    endpoint: str = setting(
        "", "Where an OTLP/HTTP collector listens, such as http://127.0.0.1:4318; empty exports nothing."
    )
    headers: str = setting("", "Headers for the collector, `name=value,..`.", secret=True)
    sample_percent: float = setting(
        100.0,
        "Share of the traces that are exported, percent; a trace is exported whole or not.",
        minimum=0,
        maximum=100,
    )
    timeout_s: float = setting(10.0, "Time for one export with its repeats, seconds.", minimum=0.1, maximum=120)
    interval_ms: int = setting(1_000, "Pause between two exports, milliseconds.", minimum=10, maximum=60_000)
    queue_max: int = setting(
        4_096, "Requests that wait for an export; more are dropped and counted.", minimum=1, maximum=1 << 20
    )
    batch_max: int = setting(256, "Requests of one export.", minimum=1, maximum=10_000)


@dataclass(frozen=True, slots=True)
class OtlpStatistics:
    """Requests since the start by what became of their spans; `refused` ones the collector did not take."""

    exported: int
    dropped: int
    refused: int
    waiting: int


class SpanExport:
    """A bounded queue of stories in front of a collector. `offer` what was shipped, and `run` until cancelled."""

    def __init__(self, send: Send, clock: Clock, config: OtlpConfig) -> None:
        self._send = send
        self._clock = clock
        self._config = config
        self._waiting: deque[RequestRecord] = deque()
        self._exported = self._dropped = self._refused = 0
        self._sampled_below = round(config.sample_percent / 100 * (1 << _HASH_BITS))

    def offer(self, frames: list[tuple[int, bytes]]) -> None:
        """Take the stories among frames that the store has taken; decisions of other roles are not stories."""
        for kind, payload in frames:
            if kind not in (Kind.STORY, Kind.CLOSE):
                continue
            if len(self._waiting) >= self._config.queue_max:
                self._dropped += 1
                continue
            try:
                record = unpack(payload) if kind == Kind.STORY else decode_record(payload)
            except (msgspec.MsgspecError, ValueError):
                continue  # The shipper has named it.
            # As OpenTelemetry's ratio sampler: by the lower half of the trace's id, alike in every process.
            trace_id = int(record.trace_id, 16) if record.trace_id else record.id.int
            if trace_id % (1 << _HASH_BITS) < self._sampled_below:
                self._waiting.append(record)

    async def run(self) -> None:
        """Export until cancelled."""
        while True:
            await self._clock.sleep(self._config.interval_ms / 1_000)
            while self._waiting:
                await self.run_once()

    async def run_once(self) -> None:
        """Export one batch."""
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._config.batch_max))]
        if not batch:
            return
        if await asyncio.to_thread(self._send, batch):
            self._exported += len(batch)
        else:
            self._refused += len(batch)
            log.warning("spans_not_exported", requests=len(batch), endpoint=self._config.endpoint)

    def statistics(self) -> OtlpStatistics:
        """Return the counts."""
        return OtlpStatistics(self._exported, self._dropped, self._refused, len(self._waiting))


class SpanWatch(Collector):
    """The series of one export."""

    def __init__(self, metrics: Metrics, export: SpanExport) -> None:
        self._export = export
        metrics.collector(self, {"interlock_telemetry_otlp_waiting": Merge.SUM})

    def collect(self) -> Iterator[Metric]:
        """Yield the families as they are now."""
        held = self._export.statistics()
        yield GaugeMetricFamily(
            "interlock_telemetry_otlp_waiting", "Requests whose spans wait for the collector.", held.waiting
        )
        family = CounterMetricFamily(
            "interlock_telemetry_otlp_requests", "Requests by what became of their spans.", labels=["result"]
        )
        for result, count in (("exported", held.exported), ("dropped", held.dropped), ("refused", held.refused)):
            family.add_metric([result], count)
        yield family


def collector(config: OtlpConfig, process: str, version: str) -> Send:
    """Return what sends to the collector of the settings. Raises `BrokenWorldError` without the extra `otlp`."""
    try:
        from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415 - of the extra
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - the same
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415 - the same
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415 - the same

        from interlock.foundation.telemetry.spans import spans_of  # noqa: PLC0415 - needs it
    except ImportError as error:
        remedy = "install `interlock[otlp]`, or unset otlp.endpoint"
        raise BrokenWorldError("otlp_missing", "otlp.endpoint is set without the extra otlp", remedy) from error
    exporter = OTLPSpanExporter(
        endpoint=address_of(config),
        headers=headers_of(config.headers),
        timeout=config.timeout_s,
        compression=Compression.Gzip,
    )
    resource = Resource({"service.name": "interlock", "service.version": version, "service.instance.id": process})
    scope = InstrumentationScope("interlock", version)

    def send(records: list[RequestRecord]) -> bool:
        spans = [span for each in records for span in spans_of(each, resource, scope)]
        return exporter.export(spans) is SpanExportResult.SUCCESS

    return send


def address_of(config: OtlpConfig) -> str:
    """Return where spans are sent to."""
    base = config.endpoint.rstrip("/")
    return base if base.endswith(_TRACES) else base + _TRACES


def headers_of(text: str) -> dict[str, str]:
    """Return `name=value,..` as headers. Raises `BrokenWorldError` for what is none."""
    found = {}
    for each in filter(None, map(str.strip, text.split(","))):
        name, equals, value = each.partition("=")
        if not equals or not name.strip():
            # Never the text itself: it is a secret.
            raise BrokenWorldError("setting_invalid", "otlp.headers is not name=value,..", "correct otlp.headers")
        found[name.strip().lower()] = value.strip()
    return found
