"""Use cases of secrets: set, list, remove, open, and ask for a rotation. Does not rotate; `rotation.py` does."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, format_id
from interlock.foundation.redaction import Redactor
from interlock.foundation.scope import AllWorkspaces, Scope
from interlock.foundation.secrets.box import Envelope, Place, SecretBox
from interlock.foundation.secrets.config import SecretsConfig
from interlock.foundation.store import Queries, Store, Transaction

SQL = Queries(__package__)
WHOLE_ORGANIZATION: Final = UUID(int=0)
_NAME_CHARS_MAX: Final = 200
# Of a shorter secret four characters would be too large a part to show.
_CHARS_FOR_LAST4: Final = 16


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """What may be known about a secret by those who may not read it."""

    id: UUID
    workspace_id: UUID | None
    name: str
    last4: str
    kek_id: str
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RotationState:
    """The newest rotation: `wanted`, `running` or `done`, and the envelopes it rewrapped so far."""

    state: str
    kek_id: str | None
    rewrapped: int
    requested_at: datetime
    finished_at: datetime | None


class SecretService:
    """Secrets of a scope: of its workspace, or of the whole organization."""

    def __init__(
        self, box: SecretBox, audit: AuditLog, ids: IdFactory, redactor: Redactor, config: SecretsConfig | None = None
    ) -> None:
        self._box = box
        self._audit = audit
        self._ids = ids
        self._redactor = redactor
        self._config = config or SecretsConfig()
        self._opened = 0

    async def set(self, tx: Transaction, name: str, value: str) -> SecretRecord:
        """Store a value under a name, the first or a new one. Audited without the value."""
        raw = value.encode()
        if not 1 <= len(raw) <= self._config.value_bytes_max:
            raise InterlockError("invalid_request", f"A secret has 1 to {self._config.value_bytes_max} bytes.")
        _require_name(name)
        self._redactor.learn([raw])
        organization_id, workspace_id = _tenant(tx.scope)
        last4 = value[-4:] if len(value) >= _CHARS_FOR_LAST4 else ""
        row = None
        while row is None:
            # Whoever loses the race for the first value of a name replaces the winner's.
            known: UUID | None = await tx.fetchval(SQL.lock, organization_id, workspace_id, name)
            secret_id = known or self._ids.new()
            sealed = self._box.seal(place_of(organization_id, secret_id), raw)
            kept = (sealed.ciphertext, sealed.wrapped_key, sealed.kek_id, last4)
            key = (organization_id, workspace_id, name)
            if known is None:
                row = await tx.fetchrow(SQL.add, *key, secret_id, *kept)
            else:
                row = await tx.fetchrow(SQL.replace, *key, *kept)
        entry = AuditEntry("secret.set", "secret", format_id("sec", secret_id), detail={"name": name})
        await self._audit.append(tx, entry)
        return SecretRecord(
            id=secret_id,
            workspace_id=_workspace(workspace_id),
            name=name,
            last4=last4,
            kek_id=sealed.kek_id,
            **_stamps(row),
        )

    async def names(
        self, store: Store, scope: Scope, limit: int, after: tuple[UUID, str] | None = None
    ) -> list[SecretRecord]:
        """Return what is set, by workspace and name."""
        workspace_id, name = after or (WHOLE_ORGANIZATION, "")
        async with store.transaction(scope) as tx:
            rows = await tx.fetch(SQL.names, scope.organization_id, workspace_id, name, limit)
        return [SecretRecord(**{**row, "workspace_id": _workspace(row["workspace_id"])}) for row in rows]

    async def remove(self, tx: Transaction, name: str) -> None:
        """Forget a secret. Raises `not_found`."""
        organization_id, workspace_id = _tenant(tx.scope)
        secret_id = await tx.fetchval(SQL.lock, organization_id, workspace_id, name)
        if secret_id is None:
            raise InterlockError("not_found")
        await tx.execute(SQL.remove, organization_id, workspace_id, name)
        entry = AuditEntry("secret.remove", "secret", format_id("sec", secret_id), detail={"name": name})
        await self._audit.append(tx, entry)

    async def open(self, tx: Transaction, name: str) -> bytes | None:
        """Return a secret's value, None when the name is not set; from then on the redactor hides it.

        Raises `SecretUnreadableError` in a process without the private half, and for a moved envelope.
        """
        organization_id, workspace_id = _tenant(tx.scope)
        row = await tx.fetchrow(SQL.find, organization_id, workspace_id, name)
        if row is None:
            return None
        envelope = Envelope(row["ciphertext"], row["wrapped_key"], row["kek_id"])
        value = self._box.open(place_of(organization_id, row["id"]), envelope)
        self._redactor.learn([value])
        self._opened += 1
        return value

    async def want_rotation(self, tx: Transaction) -> RotationState:
        """Ask for a rotation, or join the one that is under way. Needs the scope of the `system` organization."""
        rotation_id = self._ids.new()
        made = await tx.execute(SQL.want_rotation, tx.scope.organization_id, rotation_id)
        if made:
            await self._audit.append(tx, AuditEntry("secret.rotate", "master_key", "current"))
        state = await self.rotation(tx)
        if state is None:
            raise InterlockError("in_use")
        return state

    async def rotation(self, tx: Transaction) -> RotationState | None:
        """Return the newest rotation."""
        row = await tx.fetchrow(SQL.last_rotation, tx.scope.organization_id)
        if row is None:
            return None
        return RotationState(row["state"], row["kek_id"], row["rewrapped"], row["requested_at"], row["finished_at"])

    def statistics(self) -> dict[str, int]:
        """Return how many secrets this process opened."""
        return {"opened": self._opened}


def place_of(organization_id: UUID, secret_id: UUID) -> Place:
    """Return where the envelope of a secret lies."""
    return Place(organization_id, "secrets_envelopes", secret_id, "ciphertext")


def _tenant(scope: Scope) -> tuple[UUID, UUID]:
    workspace_id = scope.workspace_id
    return scope.organization_id, WHOLE_ORGANIZATION if isinstance(workspace_id, AllWorkspaces) else workspace_id


def _workspace(workspace_id: UUID) -> UUID | None:
    return None if workspace_id == WHOLE_ORGANIZATION else workspace_id


def _stamps(row: Any) -> dict[str, Any]:
    return {"version": row["version"], "created_at": row["created_at"], "updated_at": row["updated_at"]}


def _require_name(name: str) -> None:
    if not 1 <= len(name) <= _NAME_CHARS_MAX or not name.isprintable():
        raise InterlockError("invalid_request", f"A name has 1 to {_NAME_CHARS_MAX} printable characters.")
