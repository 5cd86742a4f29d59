"""A chain to attack: an open log, its reader, its checkpoints, and a superuser who goes around every rule."""

import asyncpg
import pytest

from interlock.foundation.audit import (
    AuditConfig,
    AuditEntry,
    AuditFilter,
    AuditLog,
    AuditReader,
    Checkpointer,
    CheckpointFile,
    CheckpointKey,
    CheckpointKeys,
)
from interlock.foundation.clock import SystemClock
from interlock.foundation.redaction import Redactor

# All tests share a store, and who verifies every chain of it knows one signer, as on a platform.
SIGNING_KEY = CheckpointKey(bytes(range(32)))


class Chain:
    """One organization's chain with everything that reads and writes it."""

    def __init__(self, store, scope, path, key):
        self.store = store
        self.scope = scope
        self.path = path
        self.log = AuditLog(SystemClock(), Redactor([b"planted-secret-value"]))
        self.file = CheckpointFile(path)
        self.reader = AuditReader(store, CheckpointKeys([key.public]), self.file, AuditConfig(verify_rows=3))
        self.checkpointer = Checkpointer(store, SystemClock(), key, self.file, AuditConfig(checkpoint_events=4))

    async def append(self, count=1, **fields):
        for number in range(count):
            entry = {"action": "key.create", "target_kind": "key", "target_id": f"key_{number}", **fields}
            async with self.store.transaction(self.scope) as tx:
                await self.log.append(tx, AuditEntry(**entry))

    async def last_seq(self):
        return (await self.reader.events(self.scope, AuditFilter(), 1))[0].seq

    async def verify(self, extra=()):
        return (await self.reader.verify(self.scope.organization_id, extra)).public()


@pytest.fixture
def key():
    return SIGNING_KEY


@pytest.fixture
async def chain(store, scope, tmp_path, key):
    return Chain(store, scope, tmp_path / "checkpoints.jsonl", key)


@pytest.fixture
async def intruder(store_urls, chain):
    """A superuser whose session fires no trigger; takes the broken chain away at the end."""
    connection = await asyncpg.connect(store_urls.superuser, database="interlock")
    await connection.execute("SET session_replication_role = replica")
    yield connection
    for table in ("audit_events", "audit_heads", "audit_checkpoints"):
        await connection.execute(f"DELETE FROM {table} WHERE organization_id = $1", chain.scope.organization_id)
    await connection.close()
