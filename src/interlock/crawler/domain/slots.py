"""Slots: how many requests a worker has in flight, and which host gets the next one.

A host that waits holds none; slow hosts together hold at most a quarter, so they cannot hold up the others.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

HOST_SHARE: Final = 0.10
SLOW_SHARE: Final = 0.25
SLOW_MS: Final = 2_000.0
ADDRESS_CAP: Final = 8
DOMAIN_CAP: Final = 4


@dataclass(frozen=True, slots=True)
class SlotAsk:
    """Who asks for a slot. `address` is None while no address of the host is known."""

    host_hash: int
    cap: int
    domain: str
    address: str | None
    is_slow: bool


class Slots:
    """The slots of one worker; `workers` live ones share the caps of addresses and domains."""

    def __init__(self, total: int, workers: int = 1) -> None:
        self.total = total
        self.workers = max(1, workers)
        self._hosts: Counter[int] = Counter()
        self._addresses: Counter[str] = Counter()
        self._domains: Counter[str] = Counter()
        self._slow: Counter[int] = Counter()

    @property
    def in_use(self) -> int:
        """Requests in flight."""
        return self._hosts.total()

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self.total - self.in_use

    def in_flight(self, host_hash: int) -> int:
        """Return how many requests a host has in flight."""
        return self._hosts[host_hash]

    def refusal(self, ask: SlotAsk) -> str | None:
        """Return the rule that keeps a host from a slot now, None where it may have one."""
        if self.in_use >= self.total:
            return "slots"
        if self._hosts[ask.host_hash] >= min(ask.cap, math.ceil(self.total * HOST_SHARE)):
            return "host_cap"
        if self._domains[ask.domain] >= self._worker_cap(DOMAIN_CAP, ask.cap):
            return "domain_cap"
        if ask.address is not None and self._addresses[ask.address] >= self._worker_cap(ADDRESS_CAP, ask.cap):
            return "address_cap"
        if ask.is_slow and self._slow.total() >= max(1, math.floor(self.total * SLOW_SHARE)):
            return "slow_class"
        return None

    def take(self, ask: SlotAsk) -> None:
        """Hold a slot that was not refused."""
        self._hosts[ask.host_hash] += 1
        self._domains[ask.domain] += 1
        if ask.address is not None:
            self._addresses[ask.address] += 1
        if ask.is_slow:
            self._slow[ask.host_hash] += 1

    def turn_slow(self, host_hash: int) -> None:
        """Count a request in flight as slow from now on."""
        if self._slow[host_hash] < self._hosts[host_hash]:
            self._slow[host_hash] += 1

    def give(self, ask: SlotAsk) -> None:
        """Give back what `take` held."""
        _lower(self._hosts, ask.host_hash)
        _lower(self._domains, ask.domain)
        if ask.address is not None:
            _lower(self._addresses, ask.address)
        if self._slow[ask.host_hash] > self._hosts[ask.host_hash] or ask.is_slow:
            _lower(self._slow, ask.host_hash)

    def statistics(self) -> dict[str, int]:
        """Return what is held, in all and by slow hosts."""
        return {"in_use": self.in_use, "slow": self._slow.total(), "total": self.total}

    def _worker_cap(self, cap: int, asked: int) -> int:
        # A host whose owner allows more at once is not held to the bound for strangers.
        return max(1, max(cap, asked) // self.workers)


def _lower(counter: Counter, key: object) -> None:  # type: ignore[type-arg] # of hosts, domains and addresses alike
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
