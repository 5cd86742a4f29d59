"""Reading, verifying, signing and exporting chains. Does not append: that is `AuditLog`, inside the change."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec
import structlog

from interlock.foundation.audit.checkpoints import (
    Checkpoint,
    CheckpointFile,
    CheckpointKey,
    CheckpointKeys,
    MalformedCheckpointError,
)
from interlock.foundation.audit.config import AuditConfig
from interlock.foundation.audit.event import AuditEvent
from interlock.foundation.audit.log import SQL, event_of
from interlock.foundation.audit.verifier import ChainEnd, ChainWalk, Finding, FindingCode, Verdict, known_of, walk
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import SYSTEM_ORGANIZATION_ID
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction

_log = structlog.get_logger("audit")


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which events of a list; `from_us` is inclusive, `to_us` is not."""

    action: str | None = None
    target_id: str | None = None
    actor: str | None = None
    from_us: int | None = None
    to_us: int | None = None


class AuditReader:
    """Lists and verifies. Needs only public keys, so it runs wherever the store can be reached."""

    def __init__(
        self, store: Store, keys: CheckpointKeys, file: CheckpointFile, config: AuditConfig | None = None
    ) -> None:
        self._store = store
        self._keys = keys
        self._file = file
        self._config = config or AuditConfig()

    async def events(
        self, scope: Scope, wanted: AuditFilter, limit: int, before_seq: int | None = None
    ) -> list[AuditEvent]:
        """Return events of the scope's organization, newest first."""
        async with self._store.transaction(scope) as tx:
            rows = await tx.fetch(
                SQL.listed,
                scope.organization_id,
                before_seq,
                wanted.action,
                wanted.target_id,
                wanted.actor,
                wanted.from_us,
                wanted.to_us,
                limit,
            )
        return [event_of(row) for row in rows]

    async def checkpoints(self, organization_id: UUID) -> list[Checkpoint]:
        """Return the checkpoints that the store keeps of one organization."""
        async with self._store.ops("audit checkpoints") as tx:
            return await _stored(tx, organization_id)

    async def newest_checkpoints(self, organization_id: UUID, limit: int) -> list[Checkpoint]:
        """Return what was signed last of one organization, newest first."""
        async with self._store.ops("audit checkpoints") as tx:
            return [Checkpoint(**row) for row in await tx.fetch(SQL.newest_checkpoints, organization_id, limit)]

    async def organizations(self) -> list[UUID]:
        """Return the organizations that have a chain."""
        async with self._store.ops("audit verify") as tx:
            return [row["organization_id"] for row in await tx.fetch(SQL.organizations)]

    async def verify(self, organization_id: UUID | None = None, extra: Iterable[Checkpoint] = ()) -> Verdict:
        """Walk one chain, or all. `extra` are checkpoints kept elsewhere."""
        told = list(extra)
        try:
            told += self._file.read()
        except MalformedCheckpointError as error:
            owner = organization_id or SYSTEM_ORGANIZATION_ID
            return Verdict(0, 0, 0, Finding(owner, 0, FindingCode.SIGNATURE_INVALID, str(error)))
        if organization_id is None:
            wanted = set(await self.organizations())
            wanted |= {each.organization_id for each in told}
        else:
            wanted = {organization_id}
        events = checkpoints = 0
        for each in sorted(wanted):
            walked, finding = await self._verify_one(each, told)
            events, checkpoints = events + walked.events, checkpoints + len(walked.checkpoints)
            if finding is not None:
                return Verdict(events, len(wanted), checkpoints, finding)
        return Verdict(events, len(wanted), checkpoints)

    async def chain(self, organization_id: UUID, last_seq: int) -> AsyncIterator[AuditEvent]:
        """Yield the events up to `last_seq` in the order of the chain, a page at a time."""
        seq, at_us = 0, 0
        while True:
            async with self._store.ops("audit walk") as tx:
                rows = await tx.fetch(SQL.walked, organization_id, seq, at_us, last_seq, self._config.verify_rows)
            for row in rows:
                yield event_of(row)
            if len(rows) < self._config.verify_rows:
                return
            seq, at_us = rows[-1]["seq"], rows[-1]["at_us"]

    async def export(self, organization_id: UUID) -> AsyncIterator[bytes]:
        """Yield the chain as JSON lines, events first, then the checkpoints; `examples/verify_audit.py` reads it."""
        last_seq = (await self._end(organization_id)).last_seq or 0
        async for event in self.chain(organization_id, last_seq):
            line = {"event": event.public(), "prev_hash": event.prev_hash.hex(), "hash": event.hash.hex()}
            yield msgspec.json.encode(line) + b"\n"
        for each in await self.checkpoints(organization_id):
            # One that was signed meanwhile names events that this export does not hold.
            if each.seq <= last_seq:
                yield msgspec.json.encode({"checkpoint": each.public()}) + b"\n"

    async def _verify_one(self, organization_id: UUID, told: Sequence[Checkpoint]) -> tuple[ChainWalk, Finding | None]:
        # Checkpoints are read before the end of the chain, so that none can be newer than the rows.
        stored = await self.checkpoints(organization_id)
        end = await self._end(organization_id)
        walked = ChainWalk(organization_id, end, known_of(organization_id, stored, told), self._keys)
        last_seq = end.last_seq or 0 if end.head_seq is None else min(end.last_seq or 0, end.head_seq)
        return walked, await walk(walked, self.chain(organization_id, last_seq))

    async def _end(self, organization_id: UUID) -> ChainEnd:
        async with self._store.ops("audit end") as tx:
            row = await tx.fetchrow(SQL.chain_end, organization_id)
        if row is None:
            return ChainEnd(None, None, None)
        return ChainEnd(row["head_seq"], row["head_hash"], row["last_seq"])


class Checkpointer:
    """Signs the heads that grew: by age, by count, at drain and on demand."""

    def __init__(
        self, store: Store, clock: Clock, key: CheckpointKey, file: CheckpointFile, config: AuditConfig | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._key = key
        self._file = file
        self._config = config or AuditConfig()
        self._written = 0
        self._oldest_growth_us = 0

    async def run_once(self) -> list[Checkpoint]:
        """Sign what is due by age or count."""
        due_us = self._clock.now_us() - self._config.checkpoint_interval_s * 1_000_000
        return await self._sign(None, due_us)

    async def checkpoint(self, organization_id: UUID | None = None) -> list[Checkpoint]:
        """Sign every head that grew, of one organization or of all."""
        return await self._sign(organization_id, None)

    async def run(self) -> None:
        """Look again and again until cancelled; a store that is away is waited for."""
        while True:
            try:
                await self.run_once()
            except InterlockError as error:
                _log.warning("checkpoint_delayed", code=error.code)
            except OSError as error:
                _log.error("checkpoint_file_failed", error=type(error).__name__)
            await self._clock.sleep(self._config.checkpoint_poll_s)

    def statistics(self) -> dict[str, float]:
        """Checkpoints written by this process, and the age of the oldest unsigned growth at the last look."""
        return {"written": self._written, "checkpoint_age_seconds": self._oldest_growth_us / 1e6}

    async def _sign(self, organization_id: UUID | None, due_us: int | None) -> list[Checkpoint]:
        now_us = self._clock.now_us()
        async with self._store.ops("audit checkpoint") as tx:
            rows = await tx.fetch(SQL.heads_due, organization_id, due_us, self._config.checkpoint_events)
            signed = [self._key.sign(row["organization_id"], row["seq"], row["hash"], now_us) for row in rows]
            for each in signed:
                await tx.execute(
                    SQL.keep_checkpoint,
                    each.organization_id,
                    each.seq,
                    each.hash,
                    each.at_us,
                    each.key_id,
                    each.signature,
                )
            self._oldest_growth_us = await tx.fetchval(SQL.checkpoint_age, now_us) or 0
        await asyncio.to_thread(self._file.append, signed)
        self._written += len(signed)
        return signed


async def _stored(tx: Transaction, organization_id: UUID) -> list[Checkpoint]:
    return [Checkpoint(**row) for row in await tx.fetch(SQL.checkpoints, organization_id)]
