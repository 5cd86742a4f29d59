"""The store dies under writers: what was acknowledged is in the chain, and the chain is whole."""

import asyncio
import os
import signal

from interlock.foundation.audit import AuditEntry, AuditFilter, AuditLog, AuditReader, CheckpointFile, CheckpointKeys
from interlock.foundation.clock import SystemClock
from interlock.foundation.errors import InterlockError
from interlock.foundation.redaction import Redactor
from tests.support.store import IDS, make_tenant, opened, running_store, scope_of

KILLS = 3
WRITERS = 8


async def test_no_acknowledged_event_is_lost_to_kill_9(tmp_path):
    acknowledged, codes = set(), set()
    async with running_store() as (launcher, urls), opened(urls, connections_max=WRITERS) as store:
        scope = scope_of(*await make_tenant(store))
        log = AuditLog(SystemClock(), Redactor())
        is_over = asyncio.Event()

        async def write():
            while not is_over.is_set():
                target = str(IDS.new())
                try:
                    async with store.transaction(scope) as tx:
                        await log.append(tx, AuditEntry("note.create", "note", target))
                except InterlockError as error:
                    codes.add(error.code)
                    await asyncio.sleep(0.01)
                else:
                    acknowledged.add(target)

        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(write())
            for _ in range(KILLS):
                before = len(acknowledged)
                while len(acknowledged) < before + 100:
                    await asyncio.sleep(0.01)
                os.kill(launcher.pid, signal.SIGKILL)
                await launcher.start()
            before = len(acknowledged)
            while len(acknowledged) < before + 100:
                await asyncio.sleep(0.01)
            is_over.set()

        reader = AuditReader(store, CheckpointKeys([]), CheckpointFile(tmp_path / "none"))
        assert (await reader.verify(scope.organization_id)).finding is None
        kept, before_seq = set(), None
        while events := await reader.events(scope, AuditFilter(), 200, before_seq):
            kept |= {event.target_id for event in events}
            before_seq = events[-1].seq
        assert acknowledged <= kept
        assert "store_unavailable" in codes, "the kills were felt"
        assert codes <= {"store_unavailable", "audit_unavailable"}
