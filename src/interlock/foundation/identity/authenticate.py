"""Is this key good: form and checksum, HMAC, state, address. From memory; the store only for a key nobody knows yet.

Never says which of the checks of a wrong key failed, and never says that a good key is wrong because the store is away.
"""

import hmac
import ipaddress
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity.config import IdentityConfig
from interlock.foundation.identity.directory import KeyDirectory, KeyRecord
from interlock.foundation.identity.domain.keys import hash_key, is_well_formed, lookup_of
from interlock.foundation.scope import Principal


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A good key and whom it acts for."""

    principal: Principal
    key: KeyRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """Not a good key. `is_miss`: the form is right but memory does not know it, so the store may."""

    code: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    is_miss: bool = False


_INVALID = Refused("invalid_key")
_MISS = Refused("invalid_key", is_miss=True)
_UNAVAILABLE = Refused("identity_unavailable")


class Authenticator:
    """Judges keys. `peppers` holds the current pepper first, then the one before it."""

    def __init__(
        self, directory: KeyDirectory, peppers: Sequence[bytes], clock: Clock, config: IdentityConfig | None = None
    ) -> None:
        self._directory = directory
        self._peppers = tuple(peppers)
        self._clock = clock
        self._config = config or IdentityConfig()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._tokens = float(self._config.misses_per_s)
        self._tokens_at = clock.monotonic()
        self._used: dict[str, int] = {}

    def check(self, presented: str, address: str | None, now_us: int) -> Authenticated | Refused:
        """Judge a key from memory."""
        if not is_well_formed(presented):
            return _INVALID
        found = self._directory.find(lookup_of(presented))
        if found is None:
            return _MISS
        return self._judge(found, presented, address, now_us)

    async def check_store(self, presented: str, address: str | None) -> Authenticated | Refused:
        """Ask the store about a key that memory does not know, a bounded number of times a second."""
        lookup, now = lookup_of(presented), self._clock.monotonic()
        unknown_at = self._unknown.get(lookup)
        if unknown_at is not None and now - unknown_at < self._config.miss_cache_s:
            return _INVALID
        if not self._may_ask(now):
            return _UNAVAILABLE
        try:
            found = await self._directory.look_up(lookup)
        except (InterlockError, OSError):
            return _UNAVAILABLE
        if found is None:
            self._unknown[lookup] = now
            while len(self._unknown) > self._config.miss_cache_max:
                self._unknown.popitem(last=False)
            return _INVALID
        return self._judge(found, presented, address, self._clock.now_us())

    def take_used(self) -> dict[str, int]:
        """Return when keys were used since the last call, by look-up part, and forget it."""
        used, self._used = self._used, {}
        return used

    def _judge(
        self, found: tuple[KeyRecord, Principal], presented: str, address: str | None, now_us: int
    ) -> Authenticated | Refused:
        key, principal = found
        if not any(hmac.compare_digest(hash_key(presented, pepper), key.hmac) for pepper in self._peppers):
            return _INVALID
        if key.revoked_us is not None:
            return Refused("key_revoked")
        if key.expires_us is not None and now_us >= key.expires_us:
            return Refused("key_expired")
        if key.cidrs and not _is_inside(address, key.cidrs):
            return Refused("ip_denied")
        self._used[key.lookup] = now_us
        return Authenticated(principal, key)

    def _may_ask(self, now: float) -> bool:
        rate = float(self._config.misses_per_s)
        self._tokens = min(rate, self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _is_inside(address: str | None, cidrs: Sequence[str]) -> bool:
    if address is None:
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in ipaddress.ip_network(cidr) for cidr in cidrs)
