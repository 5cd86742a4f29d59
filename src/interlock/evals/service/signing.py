"""The key that signs a workspace's verdicts and bundles: its private half lies among the secrets, sealed.

Only a process that may open secrets signs; whoever checks needs the public half alone, which is a row.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from interlock.contracts.gates import VerifyingKey
from interlock.evals.config import EvalsConfig
from interlock.evals.domain.evidence import Signer
from interlock.evals.service.suites import tenant_of
from interlock.evals.store import SQL
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.flags import bump
from interlock.foundation.ids import IdFactory, OrganizationId
from interlock.foundation.secrets import SecretService
from interlock.foundation.store import Store, Transaction

_DAY_US: Final = 86_400_000_000
# Ends the text of a secret, so that the four characters that lists show are none of the key's.
_TAIL: Final = ".ed25519"


class SigningKeys:
    """Finds or makes the key of the workspace in whose transaction it is asked."""

    def __init__(
        self, secrets: SecretService, audit: AuditLog, clock: Clock, ids: IdFactory, config: EvalsConfig
    ) -> None:
        self._secrets = secrets
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._config = config

    async def signer(self, tx: Transaction) -> Signer:
        """Return the key that signs now; makes one where there is none that still signs."""
        organization_id, workspace_id = tenant_of(tx.scope)
        row = await tx.fetchrow(SQL.signing_key, organization_id, workspace_id, self._clock.now_us() + _DAY_US)
        key_id = await self._make(tx) if row is None else row["key_id"]
        raw = await self._secrets.open(tx, secret_name(key_id))
        if raw is None:
            key_id = await self._make(tx)
            raw = await self._secrets.open(tx, secret_name(key_id))
        private = Ed25519PrivateKey.from_private_bytes(base64.b64decode((raw or b"").decode().removesuffix(_TAIL)))
        return Signer(key_id, private.public_key().public_bytes_raw(), private.sign)

    async def _make(self, tx: Transaction) -> str:
        organization_id, workspace_id = tenant_of(tx.scope)
        private = Ed25519PrivateKey.generate()
        key_id = f"vk_{self._ids.new().hex[-12:]}"
        raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        ends_us = self._clock.now_us() + self._config.key_days * _DAY_US
        await self._secrets.set(tx, secret_name(key_id), base64.b64encode(raw).decode() + _TAIL)
        await tx.execute(SQL.add_signing_key, organization_id, workspace_id, key_id, public, ends_us)
        await self._audit.append(tx, AuditEntry("verdict_key.create", "verdict_key", key_id))
        await bump(tx, "routes")
        return key_id


class PublishedKeys:
    """`contracts.gates.VerifyingKeys` over the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> Mapping[str, VerifyingKey]:
        """Return all keys of all organizations by `key_id`."""
        async with self._store.ops("keys that verdicts are checked with") as tx:
            found = await tx.fetch(SQL.all_signing_keys)
        return {row["key_id"]: _key_of(row) for row in found}


def secret_name(key_id: str) -> str:
    """Return the name of the secret that holds the private half."""
    return f"evals/{key_id}"


def _key_of(row: Mapping[str, Any]) -> VerifyingKey:
    organization_id: UUID = row["organization_id"]
    is_revoked = row["revoked_us"] is not None
    return VerifyingKey(
        row["key_id"], OrganizationId(organization_id), bytes(row["public_key"]), row["not_after_us"], is_revoked
    )
