"""Keys of kind `il_task_`: lent to one piece of work, in memory only, ended with it.

No call of the API makes one. Does not say what the work is; the key's name is its link, `task_..` or `run_..`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock, Dice
from interlock.foundation.errors import InterlockError
from interlock.foundation.flags import bump
from interlock.foundation.identity.config import IdentityConfig
from interlock.foundation.identity.directory import SQL
from interlock.foundation.identity.domain.bounds import KeyBounds
from interlock.foundation.identity.domain.keys import TASK, hash_key, make_key
from interlock.foundation.identity.domain.policy import scopes_held
from interlock.foundation.identity.effective import effective
from interlock.foundation.ids import IdFactory, KeyId, format_id
from interlock.foundation.scope import AllWorkspaces, PrincipalKind, Scope
from interlock.foundation.store import Store

_UNBOUND: Final = KeyBounds()
_OWNER_KINDS: Final = {PrincipalKind.USER: "user", PrincipalKind.SERVICE_ACCOUNT: "sa"}


@dataclass(frozen=True, slots=True)
class LentKey:
    """A key in the hands of the work; `text` is never stored."""

    id: KeyId
    text: str = field(repr=False)
    expires_us: int


class LentKeys:
    """Lends keys. A process learns of one by its first use, and of its end at once."""

    def __init__(  # noqa: PLR0913 - the parts of the composition root
        self,
        store: Store,
        audit: AuditLog,
        clock: Clock,
        dice: Dice,
        ids: IdFactory,
        pepper: bytes,
        *,
        config: IdentityConfig | None = None,
    ) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._dice = dice
        self._ids = ids
        self._pepper = pepper
        self._config = config or IdentityConfig()

    async def lend(
        self, scope: Scope, link: str, ttl_s: float, scopes: Sequence[str], bounds: KeyBounds = _UNBOUND
    ) -> LentKey:
        """Return a key that acts for the scope's principal in its workspace, with those of `scopes` that it holds.

        Whoever comes with a key, or with a session that a key opened, is lent one for the same models and class, and no
        more than `bounds`: work that comes with no key of its own names what the key that began it allowed.
        Raises `role_denied` where it holds none of them, `ValueError` for a scope that no key can stand for.
        """
        principal = scope.principal
        if isinstance(scope.workspace_id, AllWorkspaces) or principal.kind not in _OWNER_KINDS:
            raise ValueError("a key is lent to a user or service account, in one workspace")
        held = await self._held(scope)
        if principal.key_id is not None or principal.session_id is not None:
            held &= principal.scopes
        granted = [each for each in dict.fromkeys(scopes) if each in held]
        if not granted:
            raise InterlockError("role_denied", detail={"action": scopes[0] if scopes else ""})
        within = bounds.within(await self.bounds_of(scope))
        made = make_key(TASK, self._dice)
        key, now_us = KeyId(self._ids.new()), self._clock.now_us()
        expires_us = now_us + round(ttl_s * 1e6)
        async with self._store.transaction(scope) as tx:
            await tx.execute(
                SQL.add_key,
                scope.organization_id,
                scope.workspace_id,
                key,
                made.lookup,
                made.kind,
                hash_key(made.text, self._pepper),
                made.last4,
                link,
                principal.id,
                str(principal.kind),
                granted,
                list(within.models),
                [],
                within.class_max,
                expires_us,
                now_us,
            )
            detail = {"link": link, "scopes": ",".join(granted), "ttl_s": ttl_s}
            await self._audit.append(tx, AuditEntry("key.lend", "key", format_id("key", key), detail=detail))
        return LentKey(key, made.text, expires_us)

    async def bounds_of(self, scope: Scope) -> KeyBounds:
        """Return what a key lent to this scope may ask for: what the key may that came, or that opened its session.

        Background work comes with none and is not bound. Raises `role_denied` where the key of a session is gone.
        """
        principal = scope.principal
        if principal.key_id is None and principal.session_id is None:
            return _UNBOUND
        # It may belong to another workspace of the organization than the one it is lent for.
        async with self._store.ops("the key that a borrower came with") as tx:
            row = await tx.fetchrow(SQL.lender_of, scope.organization_id, principal.key_id, principal.session_id)
        if row is None:
            raise InterlockError("role_denied", "The key of this session is gone.")
        return KeyBounds(tuple(row["models"]), row["class_max"])

    async def extend(self, scope: Scope, key_id: UUID, ttl_s: float) -> int:
        """Let a key live `ttl_s` from now and return when it ends. Raises `not_found` where it was ended."""
        ends_us = self._clock.now_us() + round(ttl_s * 1e6)
        async with self._store.transaction(scope) as tx:
            found = await tx.fetchval(SQL.extend_task_key, scope.organization_id, key_id, ends_us)
        if found is None:
            raise InterlockError("not_found", "The lent key was ended.")
        return int(found)

    async def revoke(self, scope: Scope, key_id: UUID) -> None:
        """End a key everywhere at once; one that has ended stays as it is."""
        async with self._store.transaction(scope) as tx:
            ended = await tx.fetchval(SQL.revoke_task_key, scope.organization_id, key_id, self._clock.now_us())
            if ended is None:
                return
            await self._audit.append(tx, AuditEntry("key.revoke", "key", format_id("key", key_id)))
            await bump(tx, "keys")

    async def forget(self) -> None:
        """Delete lent keys that ended a while ago."""
        before_us = self._clock.now_us() - round(self._config.lent_kept_s * 1e6)
        async with self._store.ops("lent keys that ended") as tx:
            await tx.execute(SQL.forget_task_keys, before_us)

    async def _held(self, scope: Scope) -> frozenset[str]:
        principal = scope.principal
        whole = await effective(self._store, scope, principal.id, _OWNER_KINDS[principal.kind])
        workspace_id = None if isinstance(scope.workspace_id, AllWorkspaces) else scope.workspace_id
        return scopes_held(whole.principal().memberships, workspace_id)
