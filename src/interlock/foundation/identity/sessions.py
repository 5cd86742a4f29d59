"""Console sessions: signed in by a key with the scope `console` or by a one-time link, known by a cookie's hash.

Knows no page and no cookie name; a session ends with its key.
"""

import hashlib
from collections import OrderedDict, deque
from typing import Final

from interlock.foundation.clock import Clock, Dice
from interlock.foundation.errors import InterlockError
from interlock.foundation.identity.authenticate import Authenticated, Authenticator
from interlock.foundation.identity.config import IdentityConfig
from interlock.foundation.identity.directory import SQL, KeyDirectory, KeyRecord
from interlock.foundation.identity.domain.keys import lookup_of
from interlock.foundation.ids import IdFactory
from interlock.foundation.scope import Principal
from interlock.foundation.store import Store

_TOKEN_BYTES: Final = 32
_WINDOW_S: Final = 600.0
_ADDRESSES_MAX: Final = 10_000
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
        clock: Clock,
        dice: Dice,
        ids: IdFactory,
        config: IdentityConfig | None = None,
    ) -> None:
        self._store = store
        self._directory = directory
        self._authenticator = authenticator
        self._clock = clock
        self._dice = dice
        self._ids = ids
        self._config = config or IdentityConfig()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    async def sign_in(self, presented: str, address: str | None) -> str:
        """Return a session token for a key. Raises `invalid_key` whatever the cause, `admin_rate_limit`."""
        self._require_patience(address)
        found = self._authenticator.check(presented, address, self._clock.now_us())
        if getattr(found, "is_miss", False):
            found = await self._authenticator.check_store(presented, address)
        if not isinstance(found, Authenticated) or _CONSOLE not in found.principal.scopes:
            raise self._failed(address)
        return await self._open(found.key)

    async def sign_in_once(self, token: str, address: str | None) -> str:
        """Return a session token for a one-time link, which is used up. Raises as `sign_in` does."""
        self._require_patience(address)
        async with self._store.ops("a one-time link is used") as tx:
            row = await tx.fetchrow(SQL.use_login_token, _hash(token))
        found = None
        if row is not None and row["expires_us"] > self._clock.now_us():
            found = self._directory.find(row["key_lookup"]) or await self._directory.look_up(row["key_lookup"])
        if found is None or found[0].revoked_us is not None:
            raise self._failed(address)
        return await self._open(found[0])

    async def make_login_token(self, key: str) -> str:
        """Return the token of a link that signs in once as the owner of a key."""
        found = self._directory.find(lookup_of(key)) or await self._directory.look_up(lookup_of(key))
        if found is None:
            raise InterlockError("invalid_key")
        token = self._dice.randbytes(_TOKEN_BYTES).hex()
        expires_us = self._clock.now_us() + round(self._config.login_token_s * 1e6)
        async with self._store.ops("a one-time link is made") as tx:
            await tx.execute(SQL.add_login_token, found[0].organization_id, _hash(token), found[0].lookup, expires_us)
        return token

    async def check(self, token: str, address: str | None) -> Principal:
        """Return who signed in. Raises `session_expired`, `store_unavailable`."""
        now_us = self._clock.now_us()
        idle_us = now_us - round(self._config.session_idle_s * 1e6)
        oldest_us = now_us - round(self._config.session_max_s * 1e6)
        async with self._store.ops("a session is used") as tx:
            row = await tx.fetchrow(SQL.touch_session, _hash(token), now_us, idle_us, oldest_us)
        found = None if row is None else self._directory.find(row["key_lookup"])
        if row is None or found is None or found[0].revoked_us is not None:
            raise InterlockError("session_expired")
        if found[0].expires_us is not None and found[0].expires_us <= now_us:
            raise InterlockError("session_expired")
        key, principal = found
        return Principal(
            principal.id,
            principal.kind,
            principal.organization_id,
            principal.workspace_id,
            principal.memberships,
            principal.groups,
            principal.scopes,
            session_id=row["id"],
            address=address,
            is_platform_operator=key.is_operator,
        )

    async def end(self, token: str) -> None:
        """Sign out; an unknown token is nothing to do."""
        async with self._store.ops("a session ends") as tx:
            await tx.fetchrow(SQL.end_session, _hash(token), self._clock.now_us())

    async def forget(self) -> int:
        """Delete sessions that ended a week ago."""
        async with self._store.ops("old sessions") as tx:
            return await tx.execute(SQL.forget_sessions, self._clock.now_us() - _KEPT_US)

    async def _open(self, key: KeyRecord) -> str:
        token = self._dice.randbytes(_TOKEN_BYTES).hex()
        async with self._store.ops("a session opens") as tx:
            await tx.execute(
                SQL.add_session, key.organization_id, _hash(token), self._ids.new(), key.lookup, self._clock.now_us()
            )
        return token

    def _require_patience(self, address: str | None) -> None:
        failures = self._failures.get(address or "")
        now = self._clock.monotonic()
        while failures and now - failures[0] > _WINDOW_S:
            failures.popleft()
        if failures and len(failures) >= self._config.failed_logins_max:
            wait_s = _WINDOW_S - (now - failures[0])
            raise InterlockError("admin_rate_limit", "Too many failed sign-ins.", retry_after_s=wait_s)

    def _failed(self, address: str | None) -> InterlockError:
        failures = self._failures.setdefault(address or "", deque())
        failures.append(self._clock.monotonic())
        self._failures.move_to_end(address or "")
        while len(self._failures) > _ADDRESSES_MAX:
            self._failures.popitem(last=False)
        return InterlockError("invalid_key")


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
