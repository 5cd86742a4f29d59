"""What the telemetry tests share: a clock that is set by hand, and records as an edge would write them."""

import asyncio
from pathlib import Path
from uuid import UUID

from interlock.foundation.clock import SystemDice
from interlock.foundation.ids import IdFactory
from interlock.foundation.telemetry import (
    Attempt,
    Cost,
    Decision,
    RequestRecord,
    Spool,
    TelemetryConfig,
    Timing,
    Usage,
)
from interlock.foundation.telemetry.frames import Kind, decode_record
from interlock.foundation.telemetry.story import unpack

START_US = 1_795_575_600_000_000


class HandClock:
    """Time that moves when a test says so; a sleep only yields."""

    def __init__(self, now_us: int = START_US) -> None:
        self.now = now_us

    def now_us(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1e6

    async def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1e6)
        await asyncio.sleep(0)


CLOCK = HandClock()
IDS = IdFactory(CLOCK, SystemDice())
SMALL = TelemetryConfig(ring_bytes=1 << 16, spill_bytes=1 << 13, frame_bytes_max=1 << 12, segment_bytes=1 << 15)


def record(request_id: UUID | None = None, *, detail: str = "took the first healthy target", **fields) -> RequestRecord:
    at_us = START_US + 1_000
    known = {
        "started_us": START_US,
        "organization_id": UUID(int=7),
        "workspace_id": UUID(int=8),
        "key_id": UUID(int=9),
        "endpoint": "/v1/chat/completions",
        "dialect": "openai",
        "stream": True,
        "outcome": "ok_stream",
        "status": 200,
        "rule": "route.default",
        "alias": "default",
        "route_version": 1,
        "deployment": "embedded",
        "arm": "stable",
        "attempts": [Attempt(n=1, deployment="embedded", status=200, ttft_ms=8.25, upstream_request_id="up-1")],
        "usage": Usage(input_tokens=12, output_tokens=34),
        "cost": Cost(usd="0.000120", estimated_usd="0.000200", price_version=3),
        "timing": Timing(auth_ms=0.1, total_ms=120.5),
        "decisions": [
            Decision(at_us, "received", "http.received", "ok"),
            Decision(at_us + 150, "authenticated", "key.active", "ok", "key …abcd"),
            Decision(at_us + 900, "route", "route.default", "chosen", detail),
        ],
        "method": "POST",
        "target": "/v1/chat/completions",
    }
    return RequestRecord(id=request_id or IDS.new(), **(known | fields))


def drain(spool: Spool, frames_max: int = 1_000) -> list[RequestRecord]:
    """Take everything as a shipper would, and acknowledge it."""
    found = []
    while batch := spool.take(frames_max):
        found += [record_of(kind, payload) for kind, payload in batch.frames if kind != Kind.ADDENDUM]
        spool.shipped(batch)
    return found


def record_of(kind: int, payload: bytes) -> RequestRecord:
    """Read a closed record, as it is written now or as older rings hold it."""
    return unpack(payload) if kind == Kind.STORY else decode_record(payload)


def spool_at(folder: Path, config: TelemetryConfig = SMALL) -> Spool:
    return Spool(folder / "edge-0.ring", CLOCK, config)
