"""How much a tenant's crawls may fetch now: from what waits, how old it is, and what the index still takes.

Measures nothing; bytes, lags and free space come in as numbers.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30
TENANT_BYTES_MIN: Final = 64 * MIB
RESERVE_BYTES_FIRST: Final = 256 << 10
LAG_S_OPEN: Final = 30.0
LAG_S_CLOSED: Final = 300.0
REOPEN_AT: Final = 0.8


class ValveState(StrEnum):
    """`open` takes everything, `closed` nothing."""

    OPEN = "open"
    THROTTLED = "throttled"
    CLOSED = "closed"


class Source(StrEnum):
    """What slows a crawl down."""

    INDEX = "index"
    EXTRACT = "extract"
    DISK = "disk"
    MEMORY = "memory"
    SINK_DOWN = "sink_down"


@dataclass(frozen=True, slots=True)
class Load:
    """What a crawl has on its way, and the state of what it goes through.

    `extract_bytes` wait for extraction, `outbox_bytes` for the index, `reserved_bytes` are being fetched;
    `credit_bytes` is what the index may still be sent, None before it was asked.
    """

    reserved_bytes: int
    extract_bytes: int
    outbox_bytes: int
    limit_bytes: int
    lag_s: float
    credit_bytes: int | None = None
    is_sink_down: bool = False

    @property
    def used_bytes(self) -> int:
        """All that is on its way."""
        return self.reserved_bytes + self.extract_bytes + self.outbox_bytes


@dataclass(frozen=True, slots=True)
class Machine:
    """The worker's own limits: free and whole disk in bytes, resident memory and its bound."""

    disk_free: int = 1 << 50
    disk_total: int = 1 << 50
    rss_bytes: int = 0
    rss_bytes_max: int = 3 * GIB // 2


@dataclass(frozen=True, slots=True)
class Valve:
    """The answer: a share of the fair grant, 0 to 1, and what decided where it is below 1."""

    state: ValveState
    share: float
    source: Source | None


def tenant_limit(limit_bytes: int, weight: float, weights_sum: float) -> int:
    """Return the bytes that one tenant may have on its way."""
    return max(TENANT_BYTES_MIN, int(limit_bytes * weight / weights_sum)) if weights_sum > 0 else limit_bytes


def reservation(ewma_bytes: float, body_bytes_max: int) -> int:
    """Return the bytes that a URL reserves before its size is known."""
    return min(body_bytes_max, int(2 * ewma_bytes)) if ewma_bytes > 0 else min(body_bytes_max, RESERVE_BYTES_FIRST)


def judge(load: Load, machine: Machine, *, was_closed: bool = False) -> Valve:
    """Return how far the valve of a crawl is open."""
    used = load.used_bytes / load.limit_bytes if load.limit_bytes else 1.0
    waits = _clamp((1 - used) / 0.5)
    if was_closed and used > REOPEN_AT:
        waits = 0.0
    late = _clamp((LAG_S_CLOSED - load.lag_s) / (LAG_S_CLOSED - LAG_S_OPEN))
    disk = _disk(machine)
    memory = 0.0 if machine.rss_bytes > machine.rss_bytes_max else 1.0
    credit = 0.0 if load.credit_bytes is not None and load.credit_bytes <= 0 else 1.0
    share = waits * late * disk * memory * credit
    if load.is_sink_down:
        share = min(share, 0.5)
    if share >= 1:
        return Valve(ValveState.OPEN, 1.0, None)
    return Valve(ValveState.THROTTLED if share > 0 else ValveState.CLOSED, share, _source(load, disk, memory))


def grant(fair: int, valve: Valve, load: Load, reserve_bytes: int) -> int:
    """Return how many URLs may be leased: the fair grant, less by the share, never beyond the index's credit."""
    count = int(fair * valve.share)
    if valve.share > 0 and fair > 0:
        count = max(1, count)
    if load.credit_bytes is not None:
        room = max(0, load.credit_bytes - load.used_bytes) // max(1, reserve_bytes)
        # A source with nothing on its way may try one page, however little the index takes at a time.
        is_first = load.used_bytes == 0 and load.credit_bytes > 0
        count = min(count, max(room, 1 if is_first else 0))
    return count


def _source(load: Load, disk: float, memory: float) -> Source:
    if memory < 1:
        return Source.MEMORY
    if disk < 1:
        return Source.DISK
    if load.is_sink_down:
        return Source.SINK_DOWN
    return Source.EXTRACT if load.extract_bytes > load.outbox_bytes and load.credit_bytes != 0 else Source.INDEX


def _disk(machine: Machine) -> float:
    share = machine.disk_free / machine.disk_total if machine.disk_total else 1.0
    if share < 0.05 or machine.disk_free < GIB:
        return 0.0
    return 0.5 if share < 0.10 or machine.disk_free < 2 * GIB else 1.0


def _clamp(value: float) -> float:
    return max(0.0, min(1.0, value))
