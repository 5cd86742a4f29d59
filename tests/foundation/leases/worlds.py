"""A table of work over the platform's own ticks, and the moves that tests make on it and on its twin."""

from dataclasses import dataclass
from uuid import UUID

from interlock.foundation.leases import LeaseSpec, LeaseTable
from interlock.foundation.sim.leases import LeaseTwin, Row, Share
from interlock.foundation.store import Query, Store
from tests.support.store import IDS

SPEC = LeaseSpec("leases_ticks", "leases_shares", due_sql="w.name LIKE 'test %'", ttl_s=6_000.0, attempts_max=3)

ADD_SHARE = Query(
    "add_share",
    "a tenant that takes part",
    "INSERT INTO leases_shares (organization_id, workspace_id, weight, running_max) VALUES ($1, $2, $3, $4)",
)
ADD_ROW = Query(
    "add_row",
    "a row of work",
    "INSERT INTO leases_ticks (organization_id, workspace_id, id, name, priority, due_at)"
    " VALUES ($1, $2, $3, $4, $5, now() - interval '1 minute')",
)
EXPIRE = Query(
    "expire",
    "time passes over a lease",
    "UPDATE leases_ticks SET lease_expires_at = now() - interval '1 second' WHERE id = $1 AND lease_owner IS NOT NULL",
)
MAKE_DUE = Query(
    "make_due",
    "time passes over a backoff",
    "UPDATE leases_ticks SET due_at = now() - interval '1 minute'"
    " WHERE id = $1 AND lease_owner IS NULL AND due_at < 'infinity'",
)
LOOK = Query(
    "look",
    "the state that twin and table share",
    "SELECT id, lease_owner, lease_token, attempts, due_at <= now() AS is_due, due_at = 'infinity' AS is_never,"
    " lease_expires_at > now() AS is_live FROM leases_ticks WHERE name LIKE 'test %' ORDER BY id",
)
LOOK_SHARES = Query(
    "look_shares",
    "the tenants' part of it",
    "SELECT organization_id, workspace_id, vtime, running, is_active FROM leases_shares"
    " WHERE organization_id = ANY($1::uuid[])",
)
PURGE = Query("purge", "leave nothing to other tests", "DELETE FROM leases_ticks WHERE name LIKE 'test %'")
IDLE = Query("idle", "nobody of an earlier test is active", "UPDATE leases_shares SET running = 0, is_active = false")


class StillClock:
    """A clock that stands: moves of the test stand for time."""

    def __init__(self):
        self.now_s = 1_000.0

    def monotonic(self):
        return self.now_s

    def now_us(self):
        return int(self.now_s * 1e6)

    async def sleep(self, seconds):
        raise AssertionError("nothing sleeps here")


@dataclass
class Pair:
    """The real table and its twin, with the same rows."""

    store: Store
    real: LeaseTable
    twin: LeaseTwin
    keys: list[UUID]

    async def expire(self, key):
        async with self.store.ops("test") as tx:
            await tx.execute(EXPIRE, key)
        if self.twin.rows[key].owner is not None:
            self.twin.rows[key].expires_at = self.twin.clock.monotonic() - 1

    async def make_due(self, key):
        async with self.store.ops("test") as tx:
            await tx.execute(MAKE_DUE, key)
        row = self.twin.rows[key]
        if row.owner is None and row.due_at is not None:
            row.due_at = self.twin.clock.monotonic() - 60

    async def assert_equal(self):
        async with self.store.ops("test") as tx:
            rows = await tx.fetch(LOOK)
            shares = await tx.fetch(LOOK_SHARES, sorted({tenant[0] for tenant in self.twin.shares}))
        now = self.twin.clock.monotonic()
        for row in rows:
            twin = self.twin.rows[row["id"]]
            assert (row["lease_owner"], row["lease_token"], row["attempts"]) == (twin.owner, twin.token, twin.attempts)
            assert row["is_never"] == (twin.due_at is None)
            if twin.owner is None:
                assert row["is_due"] == (twin.due_at is not None and twin.due_at <= now)
            else:
                assert row["is_live"] == (twin.expires_at > now)
        assert len(rows) == len(self.twin.rows)
        for row in shares:
            share = self.twin.shares[row["organization_id"], row["workspace_id"]]
            assert (row["running"], row["is_active"]) == (share.running, share.is_active)
            assert abs(row["vtime"] - share.vtime) < 1e-9


async def make_pair(store, tenants=3, rows=4, weights=(1.0, 2.0, 1.0), running_max=2):
    """Insert tenants with rows of work, the same in both."""
    real, twin = LeaseTable(SPEC, store), LeaseTwin(SPEC, StillClock())
    keys = []
    async with store.ops("test") as tx:
        await tx.execute(PURGE)
        await tx.execute(IDLE)
        for number in range(tenants):
            tenant = (IDS.new(), IDS.new())
            weight = weights[number % len(weights)]
            await tx.execute(ADD_SHARE, *tenant, weight, running_max)
            twin.shares[tenant] = Share(weight=weight, running_max=running_max)
            for _ in range(rows):
                key = IDS.new()
                await tx.execute(ADD_ROW, *tenant, key, f"test {key}", len(keys) % 2)
                twin.rows[key] = Row(tenant, key, priority=len(keys) % 2, due_at=twin.clock.monotonic() - 60)
                keys.append(key)
    return Pair(store, real, twin, keys)
