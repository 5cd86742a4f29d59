"""Robots files in a worker's hands: compiled once, fetched when they are absent or old, and what an answer means.

Dials by the loop's leave only: a robots request is the host's next request and keeps its spacing.
"""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from interlock.crawler.domain.frontier import HostLease
from interlock.crawler.domain.robots import BODY_BYTES_MAX, parse_robots
from interlock.crawler.domain.types import Fetched, FetchRequest, RobotsRules
from interlock.crawler.store import hosts as host_rows
from interlock.foundation.store import Store

AGENT: Final = "InterlockBot"
HOPS_MAX: Final = 5
TTL_S_MIN: Final = 3_600.0
TTL_S_MAX: Final = 86_400.0
_KEPT_MAX: Final = 4_096
_INLINE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class RobotsAnswer:
    """What a fetched robots.txt means: `rules`, `allow` or `unreachable`."""

    status_class: str
    body: bytes | None
    ttl_s: float


def robots_request(url: str) -> FetchRequest:
    """Return the request of a robots.txt: its first 500 KiB count."""
    return FetchRequest(url, wire_bytes_max=BODY_BYTES_MAX, body_bytes_max=BODY_BYTES_MAX, truncate=True)


def answer_of(fetched: Fetched) -> RobotsAnswer:
    """Return what an answer that is no redirect means (RFC 9309, section 2.3.1); 429 is no leave to go on."""
    status = fetched.status
    if fetched.fault is not None or status is None or status == 429 or status >= 500 or 300 <= status < 400:
        return RobotsAnswer("unreachable", None, 0.0)
    ttl_s = _ttl_s(fetched.header("cache-control"))
    if status >= 400:
        return RobotsAnswer("allow", None, ttl_s)
    return RobotsAnswer("rules", fetched.body, ttl_s)


async def read(body: bytes) -> RobotsRules:
    """Return the rules of a file; a long one is read in a thread, or every host would wait for it."""
    if len(body) <= _INLINE_BYTES_MAX:
        return parse_robots(body, AGENT)
    return await asyncio.to_thread(parse_robots, body, AGENT)


@dataclass(slots=True)
class RobotsShelf:
    """Compiled rules of hosts, the newest used kept."""

    store: Store
    _rules: OrderedDict[int, tuple[int, RobotsRules]] = field(default_factory=OrderedDict)

    async def prepare(self, leases: list[HostLease]) -> None:
        """Bring the files that are valid and not compiled yet from the store."""
        wanted = [
            each.key.host_hash
            for each in leases
            if each.robots is not None and each.robots.status_class == "rules" and each.robots.expires_in_s > 0
            and self._known(each) is None
        ]  # fmt: skip
        if wanted:
            for host, (fetched_at_us, body) in (await host_rows.robots_bodies(self.store, wanted)).items():
                self.keep(host, fetched_at_us, await read(body))

    def rules_of(self, lease: HostLease) -> RobotsRules | None:
        """Return the rules that hold for a host now, None where the file has to be fetched first."""
        robots = lease.robots
        if robots is None or robots.expires_in_s <= 0 or robots.status_class == "unreachable":
            return None
        return parse_robots(b"", AGENT) if robots.status_class == "allow" else self._known(lease)

    def keep(self, host_hash: int, fetched_at_us: int, rules: RobotsRules) -> None:
        """Remember rules."""
        self._rules[host_hash] = (fetched_at_us, rules)
        self._rules.move_to_end(host_hash)
        while len(self._rules) > _KEPT_MAX:
            self._rules.popitem(last=False)

    async def save(self, lease: HostLease, fetched: Fetched, answer: RobotsAnswer, at_us: int) -> None:
        """Write down what was fetched."""
        digest = None if answer.body is None else hashlib.sha256(answer.body).digest()
        file = host_rows.RobotsFile(
            lease.key.host_hash, answer.status_class, fetched.status, at_us, answer.ttl_s, answer.body, digest
        )
        await host_rows.save_robots(self.store, file)

    def _known(self, lease: HostLease) -> RobotsRules | None:
        found = self._rules.get(lease.key.host_hash)
        return found[1] if found and lease.robots is not None and found[0] == lease.robots.fetched_at_us else None


def _ttl_s(cache_control: str | None) -> float:
    for part in (cache_control or "").split(","):
        name, _, value = part.strip().partition("=")
        seconds = value.strip('"')
        if name.lower() == "max-age" and seconds.isascii() and seconds.isdigit():
            return min(TTL_S_MAX, max(TTL_S_MIN, float(seconds[:9])))
    return TTL_S_MAX
