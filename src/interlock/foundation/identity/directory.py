"""All keys in memory, each with its principal: what the edge asks for every request.

Does not judge a key; `authenticate.py` does. Compared with the store when the feed says that keys, groups or roles
changed, page by page, so that requests are served in between.
"""

import asyncio
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
RoleHeld = tuple[str, UUID | None]
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
    version: int = 1
    memberships: list[RoleHeld] = []
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
        self._reading = asyncio.Lock()
        # Reloads that began or ended, and what was asked for singly since the one that runs began.
        self._turn = 0
        self._asked: dict[str, KnownKey] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, lookup: str) -> KnownKey | None:
        """Return the key that memory knows, or None."""
        return self._keys.get(lookup)

    def statistics(self) -> dict[str, int]:
        """Return how many keys are held and how many may be."""
        return {"keys": len(self._keys), "keys_max": self._config.keys_max}

    async def reload(self) -> None:
        """Compare every key with the store and take what changed; a failure leaves what is known."""
        async with self._reading:
            self._turn += 1
            try:
                fresh = await self._read()
                # What was asked for singly meanwhile was read before this read it, or later: its number tells which.
                for lookup, asked in self._asked.items():
                    read = fresh.get(lookup)
                    if read is None or read.record.version <= asked.record.version:
                        fresh[lookup] = asked
                self._replace(fresh)
            finally:
                self._turn += 1
                self._asked = {}

    async def look_up(self, lookup: str) -> KnownKey | None:
        """Ask the store about one key that memory does not know. Raises `store_unavailable`."""
        turn = self._turn
        async with self._store.ops("a key that is not in memory") as tx:
            rows = await tx.fetch(SQL.keys_at, [lookup])
            if not rows:
                return None
            owners = await _owners(tx, rows[0]["owner_id"])
        known = KnownKey(owners.record(rows[0]))
        # Beside a reload that began or ended meanwhile nobody knows which of the two read later.
        if turn == self._turn:
            self._keep(known)
        return known

    def to_bytes(self) -> bytes:
        """Return all keys for the start state."""
        if self._encoded is None:
            self._encoded = msgspec.msgpack.encode([known.record for known in self._keys.values()])
        return self._encoded

    def load(self, content: bytes) -> None:
        """Take the keys of a start state. Raises `msgspec.DecodeError` or `ValueError`."""
        records = msgspec.msgpack.decode(content, type=list[KeyRecord])
        self._replace({record.lookup: KnownKey(record) for record in records})

    async def _read(self) -> dict[str, KnownKey]:
        fresh: dict[str, KnownKey] = {}
        async with self._store.ops("keys of all organizations") as tx:
            pages = await self._pages(tx)
            # After the keys: a key that was made meanwhile must not be known without the role that was made with it.
            owners = await _owners(tx, None)
            for page in pages:
                fresh.update(await self._page(tx, page, owners))
        return fresh

    def _keep(self, known: KnownKey) -> None:
        lookup = known.record.lookup
        held = self._keys.get(lookup)
        if held is None and len(self._keys) >= self._config.keys_max:
            return
        # Of two look-ups at once the one that read later counts, whichever ends first.
        if held is not None and held.record.version > known.record.version:
            return
        self._keys[lookup] = known
        self._encoded = None
        if self._reading.locked():
            self._asked[lookup] = known

    async def _pages(self, tx: Transaction) -> list[list[Any]]:
        config, after = self._config, ""
        pages: list[list[Any]] = []
        oldest_us = await tx.fetchval(SQL.store_now_us) - round(config.revoked_kept_s * 1e6)
        while len(pages) * config.keys_page < config.keys_max:
            pages.append(await tx.fetch(SQL.key_states, after, oldest_us, config.keys_page))
            if len(pages[-1]) < config.keys_page:
                break
            after = pages[-1][-1]["lookup"]
        return pages

    async def _page(self, tx: Transaction, page: Iterable[Mapping[str, Any]], owners: "_Owners") -> dict[str, KnownKey]:
        kept: dict[str, KnownKey] = {}
        stale: list[str] = []
        for state in page:
            known = self._keys.get(state["lookup"])
            if known is not None and owners.is_same(known.record, state):
                kept[state["lookup"]] = known
            else:
                stale.append(state["lookup"])
        if stale:
            rows = await tx.fetch(SQL.keys_at, stale)
            # Read after the keys: one that was made meanwhile would stand there without the roles made with it.
            owners = await _owners(tx, None)
            for row in rows:
                kept[row["lookup"]] = KnownKey(owners.record(row))
        return kept

    def _replace(self, fresh: dict[str, KnownKey]) -> None:
        if fresh != self._keys:
            self._encoded = None
        self._keys = fresh


class _Owners:
    """Roles and groups of those who own keys, each worked out once."""

    def __init__(self, groups: Mapping[UUID, list[UUID]], roles: Mapping[tuple[UUID, UUID], list[RoleHeld]]) -> None:
        self._groups = groups
        self._roles = roles
        self._held: dict[UUID, tuple[list[RoleHeld], list[UUID], bool]] = {}

    def is_same(self, record: KeyRecord, state: Mapping[str, Any]) -> bool:
        """Return whether a record is still what the store says."""
        if record.version != state["version"] or record.revoked_us != state["revoked_us"]:
            return False
        held = self._of(state["organization_id"], state["owner_id"])
        return (record.memberships, record.groups, record.is_operator) == held

    def record(self, row: Mapping[str, Any]) -> KeyRecord:
        """Return the record of a row."""
        memberships, groups, is_operator = self._of(row["organization_id"], row["owner_id"])
        return KeyRecord(**row, memberships=memberships, groups=groups, is_operator=is_operator)

    def _of(self, organization_id: UUID, owner_id: UUID) -> tuple[list[RoleHeld], list[UUID], bool]:
        held = self._held.get(owner_id)
        if held is None:
            groups = sorted(self._groups.get(owner_id, ()))
            roles = {role for holder in (owner_id, *groups) for role in self._roles.get((organization_id, holder), ())}
            is_operator = (Role.OWNER, None) in self._roles.get((SYSTEM_ORGANIZATION_ID, owner_id), ())
            held = self._held[owner_id] = (sorted(roles, key=repr), groups, is_operator)
        return held


async def _owners(tx: Transaction, owner_id: UUID | None) -> _Owners:
    """Read roles and groups of all owners of keys, or of one."""
    groups: dict[UUID, list[UUID]] = {}
    for each in await tx.fetch(SQL.groups_above, owner_id):
        groups.setdefault(each["owner_id"], []).append(each["group_id"])
    wanted = None if owner_id is None else [owner_id, *groups.get(owner_id, ())]
    roles: dict[tuple[UUID, UUID], list[RoleHeld]] = {}
    for each in await tx.fetch(SQL.all_memberships, wanted):
        holder = (each["organization_id"], each["principal_id"])
        roles.setdefault(holder, []).append((each["role"], each["workspace_id"]))
    return _Owners(groups, roles)
