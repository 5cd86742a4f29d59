"""All keys in memory, each with its principal: what the edge asks for every request.

Does not judge a key; `authenticate.py` does. Rebuilt whole when the feed says that keys or groups changed.
"""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

import msgspec

from interlock.foundation.identity.config import IdentityConfig
from interlock.foundation.identity.domain.groups import closure
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, KeyId, OrganizationId, PrincipalId, WorkspaceId
from interlock.foundation.scope import Membership, Principal, PrincipalKind, Role
from interlock.foundation.store import Queries, Store

SQL: Final = Queries("interlock.foundation.identity")


class KeyRecord(msgspec.Struct, kw_only=True):
    """One key as it is kept: its HMAC, what it may do, and the principal that it acts for."""

    organization_id: UUID
    workspace_id: UUID
    id: UUID
    lookup: str
    kind: str
    hmac: bytes
    last4: str
    name: str
    owner_id: UUID
    owner_kind: str
    scopes: list[str]
    models: list[str]
    cidrs: list[str]
    class_max: str | None = None
    expires_us: int | None = None
    revoked_us: int | None = None
    memberships: list[tuple[str, UUID | None]] = []
    groups: list[UUID] = []
    is_operator: bool = False

    def principal(self) -> Principal:
        """Return the principal that this key acts for."""
        return Principal(
            PrincipalId(self.owner_id),
            PrincipalKind(self.owner_kind),
            OrganizationId(self.organization_id),
            WorkspaceId(self.workspace_id),
            tuple(Membership(Role(role), WorkspaceId(where) if where else None) for role, where in self.memberships),
            frozenset(self.groups),
            frozenset(self.scopes),
            KeyId(self.id),
            is_platform_operator=self.is_operator,
        )


class KeyDirectory:
    """Keys by their look-up part."""

    def __init__(self, store: Store, config: IdentityConfig | None = None) -> None:
        self._store = store
        self._config = config or IdentityConfig()
        self._keys: dict[str, tuple[KeyRecord, Principal]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, lookup: str) -> tuple[KeyRecord, Principal] | None:
        """Return the key and its principal, or None."""
        return self._keys.get(lookup)

    async def reload(self) -> None:
        """Read everything anew; a failure leaves what is known."""
        async with self._store.ops("keys of all organizations") as tx:
            rows = await tx.fetch(SQL.all_keys, self._config.keys_max)
            memberships = await tx.fetch(SQL.all_memberships)
            edges = await tx.fetch(SQL.all_edges)
        self._replace(_records(rows, memberships, edges))

    async def look_up(self, lookup: str) -> tuple[KeyRecord, Principal] | None:
        """Ask the store about one key that memory does not know. Raises `store_unavailable`."""
        async with self._store.ops("a key that is not in memory") as tx:
            row = await tx.fetchrow(SQL.find_key, lookup)
            if row is None:
                return None
            memberships = await tx.fetch(SQL.all_memberships)
            edges = await tx.fetch(SQL.all_edges)
        record = _records([row], memberships, edges)[0]
        self._keys[lookup] = (record, record.principal())
        return self._keys[lookup]

    def to_bytes(self) -> bytes:
        """Return all keys for the start state."""
        return msgspec.msgpack.encode([record for record, _ in self._keys.values()])

    def load(self, content: bytes) -> None:
        """Take the keys of a start state. Raises `msgspec.DecodeError`."""
        self._replace(msgspec.msgpack.decode(content, type=list[KeyRecord]))

    def _replace(self, records: Iterable[KeyRecord]) -> None:
        self._keys = {record.lookup: (record, record.principal()) for record in records}


def _records(rows: Iterable, memberships: Iterable, edges: Iterable) -> list[KeyRecord]:  # type: ignore[type-arg] # driver rows
    roles: dict[tuple[UUID, UUID], list[tuple[str, UUID | None]]] = {}
    operators: set[UUID] = set()
    for each in memberships:
        where = (each["organization_id"], each["principal_id"])
        roles.setdefault(where, []).append((each["role"], each["workspace_id"]))
        if each["organization_id"] == SYSTEM_ORGANIZATION_ID and each["role"] == Role.OWNER:
            operators.add(each["principal_id"])
    groups_of: dict[UUID, list[UUID]] = {}
    for each in edges:
        groups_of.setdefault(each["member_id"], []).append(each["group_id"])
    closures: dict[UUID, list[UUID]] = {}
    found = []
    for row in rows:
        owner = row["owner_id"]
        if owner not in closures:
            closures[owner] = list(closure(owner, groups_of))
        fields = {name: row[name] for name in KeyRecord.__struct_fields__ if name in row}
        found.append(
            KeyRecord(
                **fields,
                memberships=roles.get((row["organization_id"], owner), []),
                groups=closures[owner],
                is_operator=owner in operators,
            )
        )
    return found
