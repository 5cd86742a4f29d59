"""The twin of the lease statements, in memory; a test holds it equal to PostgreSQL, move by move.

Does not crash by itself: `CrashableLeases` puts crash points around each call.
"""

from dataclasses import dataclass, field
from uuid import UUID

from interlock.foundation.clock import Clock
from interlock.foundation.ids import OrganizationId, WorkspaceId
from interlock.foundation.leases.spec import Fence, Lease, LeaseLostError, LeaseSpec, LeaseStore
from interlock.foundation.sim.nemesis import SimProcess

Tenant = tuple[OrganizationId, WorkspaceId]


@dataclass(slots=True)
class Row:
    """One row of work with the shared lease columns; `due_at` is seconds of the twin's clock, None for never."""

    tenant: Tenant
    key: UUID
    priority: int = 0
    due_at: float | None = 0.0
    owner: str | None = None
    expires_at: float = 0.0
    token: int = 0
    attempts: int = 0


@dataclass(slots=True)
class Share:
    """One tenant's part in the fair claim."""

    weight: float = 1.0
    vtime: float = 0.0
    running: int = 0
    running_max: int = 16
    is_active: bool = False


@dataclass(slots=True)
class LeaseTwin:
    """Implements `LeaseStore` with the semantics of `leases/templates.sql`; each call is one transaction."""

    spec: LeaseSpec
    clock: Clock
    rows: dict[UUID, Row] = field(default_factory=dict)
    shares: dict[Tenant, Share] = field(default_factory=dict)

    async def claim(self, owner: str, count: int) -> list[Lease]:
        now = self.clock.monotonic()
        starts = (share.vtime - self.spec.cost / share.weight for share in self.shares.values() if share.is_active)
        floor = min(starts, default=None)
        ready = [
            tenant for tenant, share in self.shares.items() if share.running < share.running_max and self._due(tenant)
        ]
        ready.sort(key=lambda tenant: (self._start(self.shares[tenant], floor), tenant))
        leases = []
        for tenant in ready[:count]:
            share, row = self.shares[tenant], self._due(tenant)[0]
            share.vtime = self._start(share, floor) + self.spec.cost / share.weight
            share.running, share.is_active = share.running + 1, True
            row.owner, row.expires_at = owner, now + self.spec.ttl_s
            row.token, row.attempts = row.token + 1, row.attempts + 1
            leases.append(Lease(*tenant, row.key, row.token, row.attempts))
        return leases

    async def renew(self, owner: str, fences: list[Fence]) -> set[UUID]:
        kept = set()
        for fence in fences:
            row = self.rows[fence.key]
            if row.owner == owner and self.is_current(fence):
                row.expires_at = self.clock.monotonic() + self.spec.ttl_s
                kept.add(fence.key)
        return kept

    async def finish(self, fence: Fence, due_in_s: float | None) -> None:
        if not self.is_current(fence):
            raise LeaseLostError(str(fence.key))
        row = self.rows[fence.key]
        row.attempts = 0
        self._free(row, None if due_in_s is None else self.clock.monotonic() + due_in_s)

    async def release(self, fence: Fence, error: str | None, due_in_s: float) -> None:  # noqa: ARG002 - the text is for people
        row = self.rows[fence.key]
        if row.owner is None or row.token != fence.token:
            raise LeaseLostError(str(fence.key))
        self._free(row, self.clock.monotonic() + due_in_s)

    async def reap(self) -> int:
        now = self.clock.monotonic()
        expired = [row for row in self.rows.values() if row.owner is not None and row.expires_at <= now]
        for row in expired:
            is_dead = row.attempts >= self.spec.attempts_max
            self._free(row, None if is_dead else now + min(60.0, 2.0**row.attempts))
        return len(expired)

    def is_current(self, fence: Fence) -> bool:
        """Whether a write under this fence would be accepted now."""
        row = self.rows[fence.key]
        return row.owner is not None and row.token == fence.token and row.expires_at > self.clock.monotonic()

    def _due(self, tenant: Tenant) -> list[Row]:
        now = self.clock.monotonic()
        due = [
            row
            for row in self.rows.values()
            if row.tenant == tenant and row.owner is None and row.due_at is not None and row.due_at <= now
        ]
        return sorted(due, key=lambda row: (-row.priority, row.due_at, row.key))

    @staticmethod
    def _start(share: Share, floor: float | None) -> float:
        return share.vtime if share.is_active or floor is None else max(share.vtime, floor)

    def _free(self, row: Row, due_at: float | None) -> None:
        row.owner, row.expires_at, row.due_at = None, 0.0, due_at
        share = self.shares[row.tenant]
        share.running = max(share.running - 1, 0)
        share.is_active = share.running > 0 or bool(self._due(row.tenant))


@dataclass(slots=True)
class CrashableLeases:
    """A store as one mortal process reaches it: it can die before a call, and after one whose answer it never sees."""

    inner: LeaseStore
    process: SimProcess

    async def claim(self, owner: str, count: int) -> list[Lease]:
        await self.process.point()
        leases = await self.inner.claim(owner, count)
        await self.process.point()
        return leases

    async def renew(self, owner: str, fences: list[Fence]) -> set[UUID]:
        await self.process.point()
        kept = await self.inner.renew(owner, fences)
        await self.process.point()
        return kept

    async def finish(self, fence: Fence, due_in_s: float | None) -> None:
        await self.process.point()
        await self.inner.finish(fence, due_in_s)
        await self.process.point()

    async def release(self, fence: Fence, error: str | None, due_in_s: float) -> None:
        await self.process.point()
        await self.inner.release(fence, error, due_in_s)
        await self.process.point()

    async def reap(self) -> int:
        await self.process.point()
        reaped = await self.inner.reap()
        await self.process.point()
        return reaped
