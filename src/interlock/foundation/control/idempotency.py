"""`Idempotency-Key`: reservation, work and stored reply in the one transaction of the call.

Stores replies of calls that succeeded; a call that failed left nothing behind and may simply run again.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from interlock.foundation.clock import Dice
from interlock.foundation.control.config import ControlConfig
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.store import LockNotAvailable, Queries, Transaction

SQL = Queries(__package__)
# The whole organization in the key of the table; no workspace has this id.
_WHOLE_ORGANIZATION: Final = UUID(int=0)
_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class StoredReply:
    """What is given again: status, headers and the exact bytes of the body."""

    status: int
    headers: dict[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Reservation:
    """One call with an Idempotency-Key. `fingerprint` covers caller, target and body."""

    endpoint: str
    key: str
    fingerprint: bytes


class Idempotency:
    """Replies are sealed at rest: a created API key is in one of them, and the store must not give it away."""

    def __init__(self, key: bytes, dice: Dice, config: ControlConfig | None = None) -> None:
        self._sealer = AESGCM(hashlib.sha256(b"interlock-stored-reply-v1\x00" + key).digest())
        self._dice = dice
        self._config = config or ControlConfig()
        self._running: dict[str, asyncio.Event] = {}

    def reservation(self, endpoint: str, key: str, scope: Scope, target: str, body: bytes) -> Reservation:
        """Return the reservation of a call. Raises `invalid_request` for a key of the wrong form."""
        if not 1 <= len(key) <= self._config.idempotency_key_chars_max or not key.isprintable() or not key.isascii():
            limit = self._config.idempotency_key_chars_max
            raise InterlockError("invalid_request", f"Idempotency-Key is 1 to {limit} printable characters.")
        digest = hashlib.sha256()
        for part in (scope.principal.id.bytes, target.encode(), body):
            digest.update(len(part).to_bytes(8, "big") + part)
        return Reservation(endpoint, key, digest.digest())

    @asynccontextmanager
    async def turn(self, scope: Scope, mine: Reservation) -> AsyncIterator[None]:
        """Let twins in this process wait for each other without holding a connection each.

        Raises `idempotency_in_progress` when the running one outlasts the wait.
        """
        name = _lock_name(scope, mine)
        try:
            async with asyncio.timeout(self._config.idempotency_wait_ms / 1e3):
                while (running := self._running.get(name)) is not None:
                    await running.wait()
        except TimeoutError as error:
            raise InterlockError("idempotency_in_progress") from error
        self._running[name] = asyncio.Event()
        try:
            yield
        finally:
            self._running.pop(name).set()

    async def reserve(self, tx: Transaction, mine: Reservation) -> StoredReply | None:
        """Wait for a twin, then return the reply to give again, or None: the call is ours to run.

        Raises `idempotency_mismatch` and, when the twin outlasts the wait, `idempotency_in_progress`.
        """
        organization_id, workspace_id = _tenant(tx.scope)
        lock = _lock_name(tx.scope, mine)
        try:
            # PostgreSQL takes 0 for no limit, so the shortest wait is one millisecond.
            await tx.fetchval(SQL.lock_idempotency_key, f"{max(1, self._config.idempotency_wait_ms)}ms", lock)
        except LockNotAvailable as error:
            raise InterlockError("idempotency_in_progress") from error
        row = await tx.fetchrow(SQL.find_idempotency_key, organization_id, workspace_id, mine.endpoint, mine.key)
        if row is None or row["fingerprint"] is None:
            return None
        if row["fingerprint"] != mine.fingerprint:
            raise InterlockError("idempotency_mismatch")
        headers, content = self._open(row["reply"], mine)
        return StoredReply(row["reply_status"], headers, content)

    async def keep(self, tx: Transaction, mine: Reservation, reply: StoredReply) -> None:
        """Store the reply in the transaction of the work."""
        organization_id, workspace_id = _tenant(tx.scope)
        await tx.execute(
            SQL.keep_reply,
            organization_id,
            workspace_id,
            mine.endpoint,
            mine.key,
            mine.fingerprint,
            str(tx.scope.principal.id),
            reply.status,
            self._seal(reply, mine),
            self._config.idempotency_ttl_s,
        )

    def _seal(self, reply: StoredReply, mine: Reservation) -> bytes:
        nonce = self._dice.randbytes(_NONCE_BYTES)
        return nonce + self._sealer.encrypt(
            nonce, msgspec.msgpack.encode((reply.headers, reply.content)), mine.fingerprint
        )

    def _open(self, sealed: bytes, mine: Reservation) -> tuple[dict[str, str], bytes]:
        try:
            packed = self._sealer.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], mine.fingerprint)
        except InvalidTag as error:
            # The sealing key was replaced since. The work is done and must not be done twice.
            raise InterlockError("internal_error", "The stored reply can no longer be opened.") from error
        return msgspec.msgpack.decode(packed, type=tuple[dict[str, str], bytes])


def _lock_name(scope: Scope, mine: Reservation) -> str:
    organization_id, workspace_id = _tenant(scope)
    return f"{organization_id}|{workspace_id}|{mine.endpoint}|{mine.key}"


def _tenant(scope: Scope) -> tuple[UUID, UUID]:
    workspace_id = scope.workspace_id
    return scope.organization_id, _WHOLE_ORGANIZATION if isinstance(workspace_id, AllWorkspaces) else workspace_id
