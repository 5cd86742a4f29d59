"""What a table of leased work looks like, and what its store must be able to do.

Holds no SQL and talks to nobody: `table.py` is the real store, the simulation has its twin.
"""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from interlock.foundation.ids import OrganizationId, PrincipalId, WorkspaceId
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Scope


class LeaseLostError(Exception):
    """The row is held by somebody else, or by nobody: whoever gets this must stop and write nothing more."""


@dataclass(frozen=True, slots=True)
class LeaseSpec:
    """A table of work with the shared lease columns of the data model, and its table of tenant shares.

    `due_sql` is a predicate over the row, alias `w`, beyond `due_at <= now()`. `cost` is what one claim charges a
    tenant; `heartbeat_s` defaults to a third of `ttl_s`. After `attempts_max` claims that did not finish, the reaper
    runs `dead_sql`, an assignment list, instead of making the row due again. `tenant` is the column that takes turns
    inside an organization; where it is no workspace, the work acts in the whole organization.
    """

    table: str
    shares_table: str
    key: str = "id"
    tenant: str = "workspace_id"
    due_sql: str = "true"
    dead_sql: str = "due_at = 'infinity'"
    ttl_s: float = 15.0
    attempts_max: int = 5
    cost: float = 1.0

    @property
    def heartbeat_s(self) -> float:
        """Seconds between two renewals."""
        return self.ttl_s / 3

    @property
    def give_up_s(self) -> float:
        """Seconds without a good renewal after which the holder stops itself, before the store takes the row back."""
        return self.ttl_s * 0.8

    def scope_of(self, lease: "Lease") -> Scope:
        """Return the scope of the tenant that the leased row belongs to, acting as the platform itself."""
        where = lease.workspace_id if self.tenant == "workspace_id" else None
        worker = Principal(PrincipalId(lease.key), PrincipalKind.SYSTEM, lease.organization_id, where)
        return Scope(lease.organization_id, where or ALL_WORKSPACES, worker)


@dataclass(frozen=True, slots=True)
class Fence:
    """The number that every write of leased work carries."""

    key: UUID
    token: int


@dataclass(frozen=True, slots=True)
class Lease:
    """One claimed row; `workspace_id` is what its table's `tenant` column holds."""

    organization_id: OrganizationId
    workspace_id: WorkspaceId
    key: UUID
    token: int
    attempts: int

    @property
    def fence(self) -> Fence:
        """What writes under this lease must name."""
        return Fence(self.key, self.token)


class LeaseStore(Protocol):
    """The five statements. Times are the store's own; a caller's clock never decides who holds a row."""

    async def claim(self, owner: str, count: int) -> list[Lease]:
        """Take up to `count` due rows, at most one of each tenant, tenants with the smallest virtual time first."""
        ...

    async def renew(self, owner: str, fences: list[Fence]) -> set[UUID]:
        """Extend leases; return the keys that are still held."""
        ...

    async def finish(self, fence: Fence, due_in_s: float | None) -> None:
        """End a lease well; `due_in_s` makes the row due again later, None never. Raises `LeaseLostError`."""
        ...

    async def release(self, fence: Fence, error: str | None, due_in_s: float) -> None:
        """Give a row back unfinished. Raises `LeaseLostError`."""
        ...

    async def reap(self) -> int:
        """Take expired rows back and return how many; over `attempts_max` they die with their last error."""
        ...
