"""Answers under an Idempotency-Key in PostgreSQL: claimed, kept sealed, released, their claims renewed.

Judges nothing; a claim that is not its owner's any more changes nothing.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from interlock.foundation.clock import Dice
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.foundation.store import Queries, Store
from interlock.gateway.domain.replies import Claim, Reply, ReplyName, Taken

SQL = Queries("interlock.gateway")
_NONCE_BYTES: Final = 12


class StoredReplies:
    """What a model said is nobody's to read in the store, so answers are sealed; `key` has 32 bytes."""

    def __init__(self, store: Store, key: bytes, dice: Dice) -> None:
        self._store = store
        self._sealer = AESGCM(key)
        self._dice = dice

    async def claim(self, name: ReplyName, owner: str, fingerprint: bytes, lease_s: float) -> Claim | Taken:
        """Claim a name in one round trip, or return who has it."""
        place = (name.organization_id, name.workspace_id, name.endpoint, name.key)
        row = (await self._store.single(SQL.claim_reply, *place, fingerprint, owner, lease_s))[0]
        if row["is_mine"]:
            return Claim(name, owner, fingerprint, row["claimed_at"])
        sealed = row["reply"] if row["is_same"] else None
        reply = None if sealed is None else self._open(sealed, fingerprint)
        return Taken(row["is_same"], row["state"] == "done", row["owner"] or "", reply)

    async def keep(self, scope: Scope, claim: Claim, reply: Reply | None, kept_s: float) -> bool:
        """Keep an answer, None for one that is too large; return whether the claim was still its owner's."""
        sealed = None if reply is None else self._seal(reply, claim.fingerprint)
        async with self._store.transaction(scope) as tx:
            return await tx.execute(SQL.keep_reply, *_place(claim), sealed, kept_s) == 1

    async def release(self, claim: Claim) -> None:
        """Forget a claim whose request made no answer."""
        async with self._store.ops("a claim without an answer") as tx:
            await tx.execute(SQL.release_reply, *_place(claim))

    async def renew(self, claims: Iterable[Claim], lease_s: float) -> None:
        """Hold claims for another while."""
        async with self._store.ops("claims on answers that are being made") as tx:
            await tx.executemany(SQL.renew_reply, [(*_place(each), lease_s) for each in claims])

    def _seal(self, reply: Reply, fingerprint: bytes) -> bytes:
        nonce = self._dice.randbytes(_NONCE_BYTES)
        return nonce + self._sealer.encrypt(nonce, msgspec.msgpack.encode(reply), fingerprint)

    def _open(self, sealed: bytes, fingerprint: bytes) -> Reply:
        try:
            packed = self._sealer.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], fingerprint)
        except InvalidTag as error:
            # The key was replaced since. The call was made and must not be made twice.
            raise InterlockError("internal_error", "The kept answer can no longer be opened.") from error
        return msgspec.msgpack.decode(packed, type=Reply)


def _place(claim: Claim) -> tuple[object, ...]:
    name = claim.name
    return (name.organization_id, name.workspace_id, name.endpoint, name.key, claim.claimed_at, claim.owner)
