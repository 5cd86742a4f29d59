"""Is this key good: form and checksum, HMAC, state, address. From memory; the store only for a key nobody knows yet.

Never says which of the checks of a wrong key failed, and never says that a good key is wrong because the store is away.
"""

import hashlib
import hmac
import ipaddress
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity.config import IdentityConfig
from interlock.foundation.identity.directory import KeyDirectory, KeyRecord, KnownKey
from interlock.foundation.identity.domain.keys import TASK, hash_key, is_well_formed, lookup_of
from interlock.foundation.scope import Principal


class Authenticated(msgspec.Struct, frozen=True, gc=False):
    """A good key and whom it acts for."""

    principal: Principal
    key: KeyRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """Not a good key. `is_miss`: the form is right but memory does not know it, so the store may."""

    code: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    is_miss: bool = False


class KeyUse(msgspec.Struct, frozen=True, gc=False):
    """The last use of a key. `fresh_hmac` is set while the row still has the HMAC under the pepper before."""

    at_us: int
    fresh_hmac: bytes | None = None


_UNPROVED: Final = (b"", b"")
_INVALID: Final = Refused("invalid_key")
_MISS: Final = Refused("invalid_key", is_miss=True)
_UNAVAILABLE: Final = Refused("identity_unavailable")
_REVOKED: Final = Refused("key_revoked")
_EXPIRED: Final = Refused("key_expired")
_MISS_EXPIRED: Final = Refused("key_expired", is_miss=True)
_OUTSIDE: Final = Refused("ip_denied")
_log = structlog.get_logger("interlock.identity")


class Authenticator:
    """Judges keys. `peppers` holds the current pepper first, then the one before it."""

    def __init__(
        self, directory: KeyDirectory, peppers: Sequence[bytes], clock: Clock, config: IdentityConfig | None = None
    ) -> None:
        self._directory = directory
        self._pepper, *self._old_peppers = peppers
        self._clock = clock
        self._config = config or IdentityConfig()
        self._unknown: OrderedDict[str, tuple[float, Authenticated | Refused]] = OrderedDict()
        self._tokens = float(self._config.misses_per_s)
        self._tokens_at = clock.monotonic()
        self._used: dict[str, KeyUse] = {}
        self._outside: dict[str, tuple[Principal, str]] = {}
        self._asked = 0
        # What proved right under the pepper in use: the HMAC of its row, by look-up part, beside a faster MAC of its
        # text. Only the peppers know the MAC's key, and no text is kept.
        self._proved: dict[str, tuple[bytes, bytes]] = {}
        self._proof_key = hashlib.sha256(b"proved keys\0" + self._pepper).digest()

    def check(self, presented: str, address: str | None, now_us: int) -> Authenticated | Refused:
        """Judge a key from memory."""
        lookup = lookup_of(presented)
        known = self._directory.find(lookup)
        if (known is None or lookup not in self._proved) and not is_well_formed(presented):
            return _INVALID
        if known is None:
            return _MISS
        found = self._judge(known, presented, address, now_us)
        # A lent key is extended while its work goes on, without a word to the edges: its row knows better than they.
        return _MISS_EXPIRED if found is _EXPIRED and known.record.kind == TASK else found

    def renew(self, found: Authenticated, now_us: int) -> bool:
        """Tell whether what was found of a key holds as it comes again from the same address; if so, note its use."""
        key = found.key
        known = self._directory.find(key.lookup)
        if known is None or known.record is not key or (key.expires_us is not None and now_us >= key.expires_us):
            return False
        if self._proved.get(key.lookup, _UNPROVED)[1] != key.hmac:
            return False
        self._used[key.lookup] = KeyUse(now_us)
        return True

    async def check_store(self, presented: str, address: str | None) -> Authenticated | Refused:
        """Ask the store about a key that memory does not know, a bounded number of times a second."""
        if not is_well_formed(presented):
            return _INVALID
        lookup, now = lookup_of(presented), self._clock.monotonic()
        unknown = self._unknown.get(lookup)
        if unknown is not None and now - unknown[0] < self._config.miss_cache_s:
            return unknown[1]
        try:
            known = await self._directory.look_up(lookup) if self._may_ask(now) else _UNAVAILABLE
        except (InterlockError, OSError):
            known = _UNAVAILABLE
        if isinstance(known, Refused):
            return known
        found = _INVALID if known is None else self._judge(known, presented, address, self._clock.now_us())
        if known is None or found is _EXPIRED:
            self._remember(lookup, now, found)
        else:
            self._unknown.pop(lookup, None)
        return found

    def take_used(self) -> dict[str, KeyUse]:
        """Return the last use of each key since the last call, by look-up part, and forget it."""
        used, self._used = self._used, {}
        return used

    def take_outside(self) -> list[tuple[Principal, str]]:
        """Return who used a key from outside its networks since the last call, once a key and address."""
        outside, self._outside = self._outside, {}
        return list(outside.values())

    def statistics(self) -> dict[str, int]:
        """Return how often the store was asked, and what waits to be written."""
        return {"store_asked": self._asked, "unknown_kept": len(self._unknown), "used_waiting": len(self._used)}

    def _judge(self, known: KnownKey, presented: str, address: str | None, now_us: int) -> Authenticated | Refused:
        key = known.record
        fresh = None
        proof = hashlib.blake2b(presented.encode("utf-8", "replace"), digest_size=32, key=self._proof_key).digest()
        proved, row = self._proved.get(key.lookup, _UNPROVED)
        if row != key.hmac or not hmac.compare_digest(proved, proof):
            if not is_well_formed(presented):
                return _INVALID
            current = hash_key(presented, self._pepper)
            if hmac.compare_digest(current, key.hmac):
                self._prove(key, proof)
            elif not any(hmac.compare_digest(hash_key(presented, old), key.hmac) for old in self._old_peppers):
                return _INVALID
            else:
                fresh = current
        if key.revoked_us is not None:
            return _REVOKED
        if key.expires_us is not None and now_us >= key.expires_us:
            return _EXPIRED
        if known.networks and not is_inside(address, known):
            self._note_outside(known, address)
            return _OUTSIDE
        self._used[key.lookup] = KeyUse(now_us, fresh)
        return Authenticated(known.principal_at(address), key)

    def _prove(self, key: KeyRecord, proof: bytes) -> None:
        if len(self._proved) >= self._config.keys_max:
            self._proved.clear()
        self._proved[key.lookup] = (proof, key.hmac)

    def _remember(self, lookup: str, now: float, found: Authenticated | Refused) -> None:
        """Say this of the key for a while, without asking the store."""
        self._unknown[lookup] = (now, found)
        self._unknown.move_to_end(lookup)
        while len(self._unknown) > self._config.miss_cache_max:
            self._unknown.popitem(last=False)

    def _note_outside(self, known: KnownKey, address: str | None) -> None:
        name = f"{known.record.lookup} {address}"
        if name not in self._outside and len(self._outside) < self._config.outside_max:
            self._outside[name] = (known.principal_at(address), address or "")
            _log.warning("key_used_outside_its_networks", last4=known.record.last4, address=address)

    def _may_ask(self, now: float) -> bool:
        rate = float(self._config.misses_per_s)
        self._tokens = min(rate, self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self._asked += 1
        return True


def is_inside(address: str | None, known: KnownKey) -> bool:
    """Return whether an address lies in one of the networks of a key that has some."""
    if address is None:
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in known.networks)
