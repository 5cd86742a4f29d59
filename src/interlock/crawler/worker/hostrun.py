"""One leased host in the hands of a worker: its URLs, its pace, its lease, and why it must stop.

Dials nothing; `loop.py` decides when, `visits.py` what.
"""

from collections import deque
from dataclasses import dataclass, field
from uuid import UUID

from interlock.crawler.domain.circuit import Circuit
from interlock.crawler.domain.delay import Pace
from interlock.crawler.domain.frontier import HostAck, HostLease, LeasedUrl
from interlock.crawler.domain.slots import SLOW_MS, SlotAsk
from interlock.crawler.domain.types import RobotsRules

# What a request may take at worst before the lease ends under it, and how far two clocks may differ meanwhile.
DIAL_MARGIN_S = 5.0 + 2.0


@dataclass(slots=True)
class HostRun:
    """Times are those of the worker's monotonic clock. `robots` is None while the file has to be fetched first."""

    lease: HostLease
    urls: deque[LeasedUrl]
    pace: Pace
    circuit: Circuit
    lease_until_s: float
    due_s: float
    robots: RobotsRules | None = None
    robots_at_us: int = 0
    robots_url: str | None = None
    robots_hops: int = 0
    robots_tries: int = 0
    pushbacks: int = 0
    ewma_bytes: float = 0.0
    address: str | None = None
    in_flight: int = 0
    asked_sitemaps: set[UUID] = field(default_factory=set)
    blocked_until_s: float = 0.0
    blocked_reason: str | None = None
    is_lost: bool = False
    is_stopped: bool = False
    is_ended: bool = False

    @property
    def host_hash(self) -> int:
        """The key of the host."""
        return self.lease.key.host_hash

    @property
    def is_slow(self) -> bool:
        """Whether the host belongs to the slow class."""
        return self.pace.ewma_latency_ms > SLOW_MS

    def ask(self) -> SlotAsk:
        """Return the host's claim to a slot."""
        key = self.lease.key
        return SlotAsk(key.host_hash, self.cap, key.registered_domain, self.address, self.is_slow)

    @property
    def cap(self) -> int:
        """Requests at once; one while the circuit is being tried."""
        return self.lease.cap if self.circuit.state == "closed" else 1

    def may_dial(self, now_s: float) -> bool:
        """Tell whether a request that begins now ends within the lease."""
        return not self.is_lost and now_s + DIAL_MARGIN_S < self.lease_until_s

    def block(self, now_s: float, seconds: float, reason: str) -> None:
        """Stop visiting; the longest block counts."""
        self.is_stopped = True
        if now_s + seconds > self.blocked_until_s:
            self.blocked_until_s, self.blocked_reason = now_s + seconds, reason

    def fact(self, now_s: float, *, is_final: bool) -> HostAck:
        """Return what is known of the host now."""
        return HostAck(
            host_hash=self.host_hash,
            fence=self.lease.fence,
            pace=self.pace,
            circuit=self.circuit,
            next_in_s=max(0.0, self.due_s - now_s),
            cap=self.lease.cap,
            pushbacks=self.pushbacks,
            robots_tries=self.robots_tries,
            ewma_bytes=self.ewma_bytes,
            blocked_in_s=max(0.0, self.blocked_until_s - now_s),
            blocked_reason=self.blocked_reason,
            is_final=is_final,
        )
