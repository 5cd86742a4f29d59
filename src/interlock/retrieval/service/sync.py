"""Listings of folder sources, leased: folders say who reads, files become documents, what is missing is withdrawn.

A run that is taken over lists from anew: what is stored already is found unchanged, so nothing is twice or missing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from uuid import UUID

from interlock.contracts.documents import AccessList, Origin
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import format_id
from interlock.foundation.leases import Lease, LeaseLostError, LeaseSpec
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.adapters.folder import (
    FolderAwayError,
    FolderReader,
    FoundFile,
    FoundTree,
    chain_of,
    container_of,
    is_unreadable,
)
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.owners import expanded, filtered, is_given
from interlock.retrieval.domain.types import PutStatus, Source, SourceState, SyncCounts
from interlock.retrieval.service.backlog import Full, Room
from interlock.retrieval.service.documents import DocumentService
from interlock.retrieval.service.ingest import Incoming, Unreadable
from interlock.retrieval.service.sources import SourceService
from interlock.retrieval.service.stops import Stops
from interlock.retrieval.store.ingest import access, work
from interlock.retrieval.store.ingest import documents as rows
from interlock.retrieval.store.ingest import sources as source_rows
from interlock.retrieval.store.ingest.access import FolderWanted
from interlock.retrieval.store.ingest.listing import live_external_ids
from interlock.retrieval.store.ingest.rows import Changes, stamp

_ACL_UNREADABLE: Final = "acl_unreadable"
_FILE_UNREADABLE: Final = "file_unreadable"
_PAGE: Final = 1_000
_TRIES_MAX: Final = 5
_ROOM_POLL_S_MAX: Final = 5.0


class _StoppedError(Exception):
    """A listing that must not go on; the text is the reason that its source shows."""


@dataclass(frozen=True, slots=True)
class _Run:
    scope: Scope
    lease: Lease
    source: Source
    is_full: bool
    began_us: int
    tree: FoundTree
    reader: FolderReader

    @property
    def outside(self) -> str:
        """The source in outside names."""
        return format_id("src", self.source.id)


class SyncWork:
    """What a worker does for one leased listing."""

    def __init__(  # noqa: PLR0913 - one argument for each thing that a listing needs
        self,
        *,
        store: Store,
        spec: LeaseSpec,
        sources: SourceService,
        documents: DocumentService,
        room: Room,
        stops: Stops,
        clock: Clock,
        config: RetrievalConfig,
    ) -> None:
        self._stops = stops
        self._store = store
        self._spec = spec
        self._sources = sources
        self._documents = documents
        self._room = room
        self._clock = clock
        self._config = config

    async def run(self, lease: Lease) -> float | None:
        """List one source; what went wrong for good stands on the run, what may mend is tried again."""
        scope = self._spec.scope_of(lease)
        counts = SyncCounts()
        try:
            run = await self._begin(scope, lease)
            counts = replace(counts, skipped=run.tree.skipped, errors=tuple(run.tree.errors[: self._errors_max]))
            counts = await self._folders(run, counts)
            counts = await self._files(run, counts)
            counts = await self._missing(run, counts)
            await self._end(scope, lease, counts, None, run.began_us)
        except (FolderAwayError, _StoppedError) as error:
            reason = "path_unreadable" if isinstance(error, FolderAwayError) else str(error)
            await self._end(scope, lease, counts, reason)
        except LeaseLostError:
            raise
        except Exception as error:
            if lease.attempts < _TRIES_MAX:
                raise
            await self._end(scope, lease, counts, type(error).__name__)
        return None

    @property
    def _errors_max(self) -> int:
        return self._config.sync_errors_max

    async def _begin(self, scope: Scope, lease: Lease) -> _Run:
        began_us = self._clock.now_us()
        async with self._store.transaction(scope) as tx:
            source_id, is_full = await work.begin_sync_run(tx, lease.fence, began_us)
            source = await source_rows.get_source(tx, source_id)
            if source is not None:
                await source_rows.set_state(tx, source_id, SourceState.RUNNING, None, is_by_person=False)
        self._require_allowed(scope, source_id, source)
        if source is None:
            raise _StoppedError("removed")
        try:
            root = self._sources.allowed(str(source.config["path"]))
        except InterlockError as error:
            raise _StoppedError(error.code) from error
        if str(root) != source.config["path"]:
            # A link stands on its way now, and it leads to another folder than the one that was allowed.
            raise _StoppedError("path_not_allowed")
        reader = FolderReader(
            Path(root),
            source.config["include"],
            has_owners=source.config["owners_files"],
            file_bytes_max=self._config.file_bytes_max,
        )
        return _Run(scope, lease, source, is_full, began_us, await asyncio.to_thread(reader.walk), reader)

    async def _folders(self, run: _Run, counts: SyncCounts) -> SyncCounts:
        """Write what all folders say at one moment, before any document is read."""
        tree, now_us = run.tree, self._clock.now_us()
        wanted: dict[str, FolderWanted] = {}
        for below in tree.folders:
            owners = tree.owners.get(below)
            if below in tree.unreadable:
                wanted[container_of(below)] = FolderWanted(None, problem=_ACL_UNREADABLE)
            elif owners is not None:
                own = expanded(owners.readers, tree.aliases, run.outside)
                wanted[container_of(below)] = FolderWanted(own, inherit=not owners.is_break)
            else:
                wanted[container_of(below)] = FolderWanted(None)

        async def write(tx: Transaction) -> int:
            changes = Changes(run.source.id, cause="folder")
            await work.write_sync_run(tx, run.lease.fence, "running", counts, None)
            done = await access.put_containers(tx, run.source.id, wanted, changes)
            if changes:
                await stamp(tx, changes, now_us)
            return done.documents if changes.bindings else 0

        return replace(counts, acl_changed=await self._store.run(run.scope, write))

    async def _files(self, run: _Run, counts: SyncCounts) -> SyncCounts:
        size = self._config.sync_batch_documents
        for start in range(0, len(run.tree.files), size):
            found = run.tree.files[start : start + size]
            batch = await asyncio.to_thread(self._incoming, run, found)
            lost = [(each.path, _FILE_UNREADABLE) for each in found if each.path not in {b.external_id for b in batch}]
            batch = await self._taken_back(run, batch)
            counts = await self._store_batch(run, batch, self._with_errors(counts, lost))
        return counts

    async def _taken_back(self, run: _Run, batch: Sequence[Incoming]) -> list[Incoming]:
        """Empty the lists that OWNERS files gave to files above which none stands any more; other lists stay."""
        bare = [each.external_id for each in batch if each.acl is None]
        if not bare:
            return list(batch)
        async with self._store.transaction(run.scope) as tx:
            known = await rows.known_documents(tx, run.source.id, bare)
        given = {name for name, found in known.items() if is_given(found.own_acl, run.outside)}
        empty = AccessList((), inherit=True)
        return [replace(each, acl=empty) if each.external_id in given else each for each in batch]

    def _incoming(self, run: _Run, found: Sequence[FoundFile]) -> list[Incoming]:
        batch = []
        for each in found:
            content = run.reader.read(each.path)
            if content is None:
                continue
            batch.append(
                Incoming(
                    external_id=each.path,
                    title=None if each.media_type != "text/plain" else each.path.rpartition("/")[2],
                    media_type=each.media_type,
                    uri=f"folder://{run.outside}/{each.path}",
                    origin=Origin.CONNECTOR,
                    content=content,
                    container=each.folder,
                    acl=self._acl(run, each),
                )
            )
        return batch

    @staticmethod
    def _acl(run: _Run, file: FoundFile) -> AccessList | Unreadable | None:
        """Return what a file inherits and what filters add; nothing where no OWNERS file stands above."""
        below = file.path.rpartition("/")[0]
        if is_unreadable(run.tree, below):
            return Unreadable(_ACL_UNREADABLE)
        chain = list(chain_of(run.tree, below))
        if not chain:
            return None
        by_filter = expanded(filtered(chain, file.path), run.tree.aliases, run.outside)
        return replace(by_filter, inherit=True)

    async def _store_batch(self, run: _Run, batch: Sequence[Incoming], counts: SyncCounts) -> SyncCounts:
        if not batch:
            return counts
        source = await self._require_running(run)
        size = sum(each.size for each in batch)
        while isinstance(taken := await self._room.take(run.scope, source.id, len(batch), size), Full):
            await self._state(run, SourceState.THROTTLED, taken.rule)
            await self._clock.sleep(min(taken.retry_after_s, _ROOM_POLL_S_MAX))
            source = await self._require_running(run)
        try:
            stored = await self._documents.store_batch(run.scope, source, batch, taken.id)
        except BaseException:
            await self._room.give_back(run.scope, source.id, taken)
            raise
        self._room.stored(len(batch))
        statuses = [each.status for each in stored.results]
        rejected = [
            (each.external_id, each.code or "rejected")
            for each in stored.results
            if each.status in {PutStatus.REJECTED, PutStatus.QUARANTINED} and each.code != _ACL_UNREADABLE
        ]
        counts = self._with_errors(counts, rejected)
        counts = replace(
            counts,
            added=counts.added + statuses.count(PutStatus.CREATED),
            changed=counts.changed + statuses.count(PutStatus.UPDATED),
            acl_changed=counts.acl_changed + stored.acl_changed,
            quarantined=counts.quarantined + statuses.count(PutStatus.QUARANTINED),
            skipped=counts.skipped + statuses.count(PutStatus.REJECTED),
        )
        async with self._store.transaction(run.scope) as tx:
            await work.write_sync_run(tx, run.lease.fence, "running", counts, None)
        return counts

    async def _missing(self, run: _Run, counts: SyncCounts) -> SyncCounts:
        """Withdraw what the listing did not name; too much at once waits for a person."""
        seen = {each.path for each in run.tree.files}
        missing, known, after = [], 0, ""
        while True:
            async with self._store.transaction(run.scope) as tx:
                page = await live_external_ids(tx, run.source.id, after, _PAGE)
            known += len(page)
            missing += [each for each in page if each not in seen]
            if len(page) < _PAGE:
                break
            after = page[-1]
        config = self._config
        is_much = len(missing) > config.missing_documents_min and len(missing) > config.missing_share_max * known
        if is_much and not run.is_full:
            await self._state(run, SourceState.PAUSED, "too_many_missing")
            raise _StoppedError("too_many_missing")
        for start in range(0, len(missing), config.sync_batch_documents):
            await self._withdraw(run, missing[start : start + config.sync_batch_documents])
        return replace(counts, deleted=len(missing))

    async def _withdraw(self, run: _Run, external_ids: Sequence[str]) -> None:
        async def write(tx: Transaction) -> None:
            held = [
                found
                for each in sorted(external_ids)
                if (found := await rows.hold_document_at(tx, run.source.id, each)) is not None
            ]
            await self._documents.withdraw(tx, run.source.id, held, "gone")

        await self._store.run(run.scope, write)

    async def _end(self, scope: Scope, lease: Lease, counts: SyncCounts, reason: str | None, read_us: int = 0) -> None:
        """End a listing; where it came through, all access lists are as they were at `read_us`, and not as of now."""
        state = SourceState.IDLE if reason is None else SourceState.FAILED
        source_id = UUID(int=lease.workspace_id.int)
        async with self._store.transaction(scope) as tx:
            told = counts if reason is None else self._with_errors(counts, [("", reason)])
            finished = "done" if reason is None else "failed"
            await work.write_sync_run(tx, lease.fence, finished, told, self._clock.now_us())
            await source_rows.set_state(tx, source_id, state, reason, is_by_person=False)
            if reason is None:
                await source_rows.confirm_acls(tx, source_id, read_us)

    async def _require_running(self, run: _Run) -> Source:
        """Return the source as it is now. Raises `_StoppedError` where a person stopped it meanwhile."""
        async with self._store.transaction(run.scope) as tx:
            source = await source_rows.get_source(tx, run.source.id)
            if source is not None and source.state is SourceState.THROTTLED:
                await source_rows.set_state(tx, source.id, SourceState.RUNNING, None, is_by_person=False)
        self._require_allowed(run.scope, run.source.id, source)
        return source if source is not None else run.source

    def _require_allowed(self, scope: Scope, source_id: UUID, source: Source | None) -> None:
        if source is None or source.state in {SourceState.DARK, SourceState.PAUSED}:
            raise _StoppedError("removed" if source is None else str(source.state))
        try:
            self._stops.require(scope, source_id)
        except InterlockError as error:
            raise _StoppedError(error.code) from error

    async def _state(self, run: _Run, state: SourceState, reason: str) -> None:
        async with self._store.transaction(run.scope) as tx:
            await source_rows.set_state(tx, run.source.id, state, reason, is_by_person=False)

    def _with_errors(self, counts: SyncCounts, more: Sequence[tuple[str, str]]) -> SyncCounts:
        return replace(counts, errors=(*counts.errors, *more)[: self._errors_max])
