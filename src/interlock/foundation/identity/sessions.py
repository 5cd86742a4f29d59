"""Console sessions: signed in by a key with the scope `console` or by a one-time link, known by a cookie's hash.

Knows no page and no cookie name; a session ends with its key.
"""

import hashlib
from collections import OrderedDict, deque
from dataclasses import replace
from typing import Final
from uuid import UUID

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity.authenticate import Authenticated, Authenticator, Refused, is_inside
from interlock.foundation.identity.config import IdentityConfig
from interlock.foundation.identity.directory import SQL, KeyDirectory, KnownKey
from interlock.foundation.identity.domain.keys import is_well_formed, lookup_of
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.scope import ALL_WORKSPACES, Principal, Scope
from interlock.foundation.store import Store, Transaction

_TOKEN_BYTES: Final = 32
_WINDOW_S: Final = 600.0
_FAILING_MAX: Final = 10_000
_CONSOLE: Final = "console"
_KEPT_US: Final = 7 * 86_400 * 1_000_000


class Sessions:
    """Opens, checks and ends sessions."""

    def __init__(  # noqa: PLR0913 - one argument for each thing a session is made of
        self,
        *,
        store: Store,
        directory: KeyDirectory,
        authenticator: Authenticator,
        audit: AuditLog,
        clock: Clock,
        dice: Dice,
        ids: IdFactory,
        config: IdentityConfig | None = None,
    ) -> None:
        self._store = store
        self._directory = directory
        self._authenticator = authenticator
        self._audit = audit
        self._clock = clock
        self._dice = dice
        self._ids = ids
        self._config = config or IdentityConfig()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    async def sign_in(self, presented: str, address: str | None) -> str:
        """Return a session token for a key. Raises `invalid_key` whatever the cause, `admin_rate_limit`."""
        account = lookup_of(presented) if is_well_formed(presented) else None
        self._require_patience(account, address)
        found = self._authenticator.check(presented, address, self._clock.now_us())
        if isinstance(found, Refused) and found.is_miss:
            found = await self._authenticator.check_store(presented, address)
        if isinstance(found, Refused) and found.code == "identity_unavailable":
            raise InterlockError("identity_unavailable")
        if not isinstance(found, Authenticated) or _CONSOLE not in found.principal.scopes:
            raise self._failed(account, address)
        return await self._open(found.principal, found.key.lookup, address)

    async def sign_in_once(self, token: str, address: str | None) -> str:
        """Return a session token for a one-time link, which is used up. Raises as `sign_in` does."""
        self._require_patience(None, address)
        async with self._store.ops("a one-time link is used") as tx:
            row = await tx.fetchrow(SQL.use_login_token, _hash(token))
        known = None
        if row is not None and row["expires_us"] > self._clock.now_us():
            known = await self._live_key(row["key_lookup"])
        if known is None or _CONSOLE not in known.principal.scopes:
            raise self._failed(None, address)
        _require_network(known, address)
        return await self._open(known.principal, known.record.lookup, address)

    async def make_login_token(self, key: str) -> str:
        """Return the token of a link that signs in once as the owner of a key. Raises `invalid_key`."""
        known = await self._live_key(lookup_of(key)) if is_well_formed(key) else None
        if known is None:
            raise InterlockError("invalid_key")
        token = self._dice.randbytes(_TOKEN_BYTES).hex()
        record = known.record
        expires_us = self._clock.now_us() + round(self._config.login_token_s * 1e6)
        async with self._store.ops("a one-time link is made") as tx:
            await tx.execute(SQL.add_login_token, record.organization_id, _hash(token), record.lookup, expires_us)
        return token

    async def check(self, token: str, address: str | None) -> Principal:
        """Return who signed in. Raises `session_expired`, `ip_denied`, `store_unavailable`."""
        now_us = self._clock.now_us()
        idle_us = now_us - round(self._config.session_idle_s * 1e6)
        oldest_us = now_us - round(self._config.session_max_s * 1e6)
        async with self._store.ops("a session is used") as tx:
            row = await tx.fetchrow(SQL.find_session, _hash(token), idle_us, oldest_us)
            if row is not None and now_us - row["seen_us"] >= self._config.session_touch_s * 1e6:
                await tx.execute(SQL.touch_session, _hash(token), now_us)
        known = None if row is None else await self._live_key(row["key_lookup"])
        if row is None or known is None:
            raise InterlockError("session_expired")
        _require_network(known, address)
        return replace(known.principal, key_id=None, session_id=row["id"], address=address)

    async def end(self, token: str) -> None:
        """Sign out; an unknown token is nothing to do."""
        async with self._store.ops("a session ends") as tx:
            row = await tx.fetchrow(SQL.end_session, _hash(token), self._clock.now_us())
            known = None if row is None else self._directory.find(row["key_lookup"])
            if row is not None and known is not None:
                principal = replace(known.principal, session_id=row["id"])
                await self._told(tx, "session.end", row["id"], principal)

    async def forget(self) -> int:
        """Delete sessions that ended a week ago, and links that nobody used."""
        now_us = self._clock.now_us()
        async with self._store.ops("old sessions") as tx:
            await tx.execute(SQL.forget_login_tokens, now_us)
            return await tx.execute(SQL.forget_sessions, now_us - _KEPT_US)

    def statistics(self) -> dict[str, int]:
        """Return of how many addresses and keys failed sign-ins are remembered, and the bound."""
        return {"failing": len(self._failures), "failing_max": _FAILING_MAX}

    async def _live_key(self, lookup: str) -> KnownKey | None:
        known = self._directory.find(lookup) or await self._directory.look_up(lookup)
        if known is None or known.record.revoked_us is not None:
            return None
        expires_us = known.record.expires_us
        return None if expires_us is not None and expires_us <= self._clock.now_us() else known

    async def _open(self, principal: Principal, lookup: str, address: str | None) -> str:
        token, session_id = self._dice.randbytes(_TOKEN_BYTES).hex(), self._ids.new()
        async with self._store.ops("a session opens") as tx:
            now_us = self._clock.now_us()
            await tx.execute(SQL.add_session, principal.organization_id, _hash(token), session_id, lookup, now_us)
            await self._told(tx, "session.open", session_id, replace(principal, address=address))
        return token

    async def _told(self, tx: Transaction, action: str, session_id: UUID, principal: Principal) -> None:
        scope = Scope(principal.organization_id, ALL_WORKSPACES, principal)
        await self._audit.append(tx, AuditEntry(action, "session", format_id("ses", session_id)), scope)

    def _require_patience(self, account: str | None, address: str | None) -> None:
        now = self._clock.monotonic()
        for name in _names(account, address):
            failures = self._failures.get(name)
            while failures and now - failures[0] > _WINDOW_S:
                failures.popleft()
            if failures and len(failures) >= self._config.failed_logins_max:
                wait_s = _WINDOW_S - (now - failures[0])
                raise InterlockError("admin_rate_limit", "Too many failed sign-ins.", retry_after_s=wait_s)

    def _failed(self, account: str | None, address: str | None) -> InterlockError:
        """Remember a failure by who was meant and where it came from; the words are the same for every cause."""
        for name in _names(account, address):
            failures = self._failures.setdefault(name, deque(maxlen=self._config.failed_logins_max))
            failures.append(self._clock.monotonic())
            self._failures.move_to_end(name)
        while len(self._failures) > _FAILING_MAX:
            self._failures.popitem(last=False)
        return InterlockError("invalid_key")


def _require_network(known: KnownKey, address: str | None) -> None:
    """Refuse a session where its key would be refused; a cookie that was carried away is worth no more than the key."""
    if known.networks and not is_inside(address, known):
        raise InterlockError("ip_denied")


def _names(account: str | None, address: str | None) -> list[str]:
    return [f"address {address}", *([f"key {account}"] if account is not None else [])]


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
