"""All keys in memory, each with its principal: what the edge asks for every request.

Does not judge a key; `authenticate.py` does. Rebuilt whole when the feed says that keys, groups or roles changed.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import msgspec

from interlock.foundation.identity.config import IdentityConfig
from interlock.foundation.identity.domain.policy import scopes_held
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID, KeyId, OrganizationId, PrincipalId, WorkspaceId
from interlock.foundation.scope import Membership, Principal, PrincipalKind, Role
from interlock.foundation.store import Queries, Store, Transaction

SQL: Final = Queries("interlock.foundation.identity")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_ADDRESSES_KEPT_MAX: Final = 64


class KeyRecord(msgspec.Struct, kw_only=True):
    """One key as it is kept: its HMAC, what it may do, and the roles and groups of the principal that it acts for."""

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
        """Return the principal that this key acts for; its scopes are the lesser of the key's and the owner's roles."""
        memberships = tuple(
            Membership(Role(role), WorkspaceId(where) if where else None) for role, where in self.memberships
        )
        return Principal(
            PrincipalId(self.owner_id),
            PrincipalKind(self.owner_kind),
            OrganizationId(self.organization_id),
            WorkspaceId(self.workspace_id),
            memberships,
            frozenset(self.groups),
            scopes_held(memberships, self.workspace_id).intersection(self.scopes),
            KeyId(self.id),
            is_platform_operator=self.is_operator,
        )


class KnownKey:
    """A key ready to be judged: its principal is built and its networks are parsed once."""

    __slots__ = ("_placed", "networks", "principal", "record")

    def __init__(self, record: KeyRecord) -> None:
        self.record = record
        self.principal = record.principal()
        self.networks: tuple[Network, ...] = tuple(ipaddress.ip_network(each) for each in record.cidrs)
        self._placed: dict[str, Principal] = {}

    def principal_at(self, address: str | None) -> Principal:
        """Return the principal as it calls from an address."""
        if address is None:
            return self.principal
        placed = self._placed.get(address)
        if placed is None:
            if len(self._placed) >= _ADDRESSES_KEPT_MAX:
                self._placed.clear()
            placed = self._placed[address] = replace(self.principal, address=address)
        return placed


class KeyDirectory:
    """Keys by their look-up part."""

    def __init__(self, store: Store, config: IdentityConfig | None = None) -> None:
        self._store = store
        self._config = config or IdentityConfig()
        self._keys: dict[str, KnownKey] = {}
        self._encoded: bytes | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, lookup: str) -> KnownKey | None:
        """Return the key that memory knows, or None."""
        return self._keys.get(lookup)

    def statistics(self) -> dict[str, int]:
        """Return how many keys are held and how many may be."""
        return {"keys": len(self._keys), "keys_max": self._config.keys_max}

    async def reload(self) -> None:
        """Read everything anew; a failure leaves what is known."""
        async with self._store.ops("keys of all organizations") as tx:
            rows = await tx.fetch(SQL.all_keys, self._config.keys_max)
            records = await _with_roles(tx, rows, None)
        self._replace(records)

    async def look_up(self, lookup: str) -> KnownKey | None:
        """Ask the store about one key that memory does not know. Raises `store_unavailable`."""
        async with self._store.ops("a key that is not in memory") as tx:
            row = await tx.fetchrow(SQL.find_key, lookup)
            if row is None:
                return None
            (record,) = await _with_roles(tx, [row], row["owner_id"])
        known = KnownKey(record)
        if len(self._keys) < self._config.keys_max:
            self._keys[lookup] = known
            self._encoded = None
        return known

    def to_bytes(self) -> bytes:
        """Return all keys for the start state."""
        if self._encoded is None:
            self._encoded = msgspec.msgpack.encode([known.record for known in self._keys.values()])
        return self._encoded

    def load(self, content: bytes) -> None:
        """Take the keys of a start state. Raises `msgspec.DecodeError` or `ValueError`."""
        self._replace(msgspec.msgpack.decode(content, type=list[KeyRecord]))

    def _replace(self, records: Iterable[KeyRecord]) -> None:
        """Take the new truth; what did not change is kept as it was built."""
        old = self._keys
        fresh: dict[str, KnownKey] = {}
        for record in records:
            known = old.get(record.lookup)
            fresh[record.lookup] = known if known is not None and known.record == record else KnownKey(record)
        self._keys = fresh
        self._encoded = None


async def _with_roles(tx: Transaction, rows: list[Mapping[str, Any]], owner_id: UUID | None) -> list[KeyRecord]:
    """Return records of rows with the roles and groups of their owners; `owner_id` where all have the same one."""
    groups: dict[UUID, list[UUID]] = {}
    for each in await tx.fetch(SQL.groups_above, owner_id):
        groups.setdefault(each["owner_id"], []).append(each["group_id"])
    wanted = None if owner_id is None else [owner_id, *groups.get(owner_id, ())]
    roles: dict[tuple[UUID, UUID], list[tuple[str, UUID | None]]] = {}
    operators: set[UUID] = set()
    for each in await tx.fetch(SQL.all_memberships, wanted):
        roles.setdefault((each["organization_id"], each["principal_id"]), []).append(
            (each["role"], each["workspace_id"])
        )
        if each["organization_id"] == SYSTEM_ORGANIZATION_ID and each["role"] == Role.OWNER:
            operators.add(each["principal_id"])
    found = []
    for row in rows:
        tenant, owner = row["organization_id"], row["owner_id"]
        above = sorted(groups.get(owner, ()))
        held = {role for holder in (owner, *above) for role in roles.get((tenant, holder), ())}
        found.append(
            KeyRecord(
                **row,
                memberships=sorted(held, key=repr),
                groups=above,
                is_operator=owner in operators,
            )
        )
    return found
