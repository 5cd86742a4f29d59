"""The loops of retrieval: vectors, listings, listings that are due, and what is forgotten.

Decides nothing: what a lease means is `service/embed.py` and `service/sync.py`.
"""

from typing import Final
from uuid import UUID

import structlog

from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, OrganizationId, WorkspaceId
from interlock.foundation.leases import Lease, LeaseSpec
from interlock.foundation.scope import Scope
from interlock.foundation.store import Store
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.types import LISTING_KINDS
from interlock.retrieval.metrics import IndexMetrics
from interlock.retrieval.service.documents import DocumentService
from interlock.retrieval.service.embed import Adoption
from interlock.retrieval.service.probing import RevokeProbe
from interlock.retrieval.store.ingest import sources, work

_DUE_MAX: Final = 100
_FORGET_S: Final = 600.0
_EXPIRE_S: Final = 30.0
_COUNT_S: Final = 30.0
_PROBE_S: Final = 15.0
_FIRST: Final = UUID(int=0)
_log = structlog.get_logger("interlock.retrieval")


class BacklogWatch:
    """Shows what waits, over all organizations."""

    def __init__(self, store: Store, spec: LeaseSpec, clock: Clock, metrics: IndexMetrics) -> None:
        self._store = store
        self._spec = spec
        self._clock = clock
        self._metrics = metrics

    async def run(self) -> None:
        """Count again and again until cancelled."""
        while True:
            try:
                await self.count()
            except (InterlockError, OSError) as error:
                _log.info("retrieval_backlog_unknown", error=str(error))
            await self._clock.sleep(_COUNT_S)

    async def count(self) -> None:
        """Count what waits now."""
        async with self._store.ops("organizations with documents") as tx:
            tenants = await work.tenants(tx)
        backlogs, standings, lag_s = [], [], 0.0
        for organization_id, source_id in tenants:
            async with self._store.transaction(_scope_of(self._spec, organization_id, source_id)) as tx:
                backlogs.append(await sources.backlog(tx, source_id))
                standings.append(await sources.standing(tx))
                lag_s = max(lag_s, await sources.index_lag_s(tx, None))
        self._metrics.counted(backlogs, lag_s)
        self._metrics.stands(standings)


class Probing:
    """Probes the sources that are due; a store that is away is waited for, and proves nothing."""

    def __init__(self, probe: RevokeProbe, clock: Clock) -> None:
        self._probe = probe
        self._clock = clock

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self._clock.sleep(_PROBE_S)
            try:
                await self._probe.run_due()
            except (InterlockError, OSError) as error:
                _log.info("retrieval_probe_delayed", error=str(error))
            except Exception:  # noqa: BLE001 - what broke one probe must not end those of all other sources
                _log.exception("retrieval_probe_broken")


class Housekeeping:
    """Asks for listings that are due and vectors that are missing, withdraws what expired, forgets what is over."""

    def __init__(
        self,
        documents: DocumentService,
        spec: LeaseSpec,
        clock: Clock,
        ids: IdFactory,
        config: RetrievalConfig,
        adoption: Adoption | None = None,
    ) -> None:
        self._documents = documents
        self._store = documents.store
        self._spec = spec
        self._clock = clock
        self._ids = ids
        self._config = config
        self._adoption = adoption
        self._adopting: dict[tuple[UUID, UUID], UUID] | None = None

    async def run(self) -> None:
        """Look again and again until cancelled; a store that is away is waited for."""
        forgotten_at = expired_at = -_FORGET_S
        while True:
            try:
                await self.ask_for_due()
                if self._clock.monotonic() - expired_at >= _EXPIRE_S:
                    expired_at = self._clock.monotonic()
                    await self.expire()
                if self._clock.monotonic() - forgotten_at >= _FORGET_S:
                    forgotten_at = self._clock.monotonic()
                    await self.forget()
                # What may wait longest comes last: where it fails, nothing else is put off.
                await self.adopt()
            except (InterlockError, OSError) as error:
                _log.warning("retrieval_housekeeping_delayed", error=str(error))
            await self._clock.sleep(self._config.sync_poll_s)

    async def ask_for_due(self) -> int:
        """Ask for a listing of every source whose time has come; return how many."""
        kinds, now_us = [str(each) for each in LISTING_KINDS], self._clock.now_us()
        due = await work.due_sources(self._store, kinds, now_us, _DUE_MAX)
        for organization_id, source_id in due:
            async with self._store.transaction(self._scope(organization_id, source_id)) as tx:
                await work.add_sync_run(tx, source_id, self._ids.new(), now_us, is_full=False)
        return len(due)

    async def adopt(self) -> bool:
        """Ask for some of the vectors that are missing since this process began; tell whether there may be more."""
        if self._adoption is None:
            return False
        if self._adopting is None:
            async with self._store.ops("organizations with documents") as tx:
                self._adopting = dict.fromkeys(await work.tenants(tx), _FIRST)
        for tenant, after in list(self._adopting.items()):
            try:
                last = await self._adoption.some(self._scope(*tenant), after)
            except InterlockError as error:
                _log.warning("adoption_delayed", organization_id=str(tenant[0]), error=str(error))
                continue
            if last is None:
                del self._adopting[tenant]
            else:
                self._adopting[tenant] = last
        return bool(self._adopting)

    async def expire(self) -> int:
        """Withdraw what was to be kept until now; return how many documents."""
        async with self._store.ops("organizations with documents") as tx:
            tenants = await work.tenants(tx)
        total = 0
        for tenant in tenants:
            while count := await self._store.run(self._scope(*tenant), self._documents.expire):
                total += count
        return total

    async def forget(self) -> None:
        """Delete finished work, and texts of documents that were deleted long enough ago."""
        before_us = self._clock.now_us() - self._config.purge_delay_s * 1_000_000
        async with self._store.ops("finished work of the index") as tx:
            await work.forget_done_jobs(tx)
            tenants = await work.tenants(tx)
        for organization_id, source_id in tenants:
            async with self._store.transaction(self._scope(organization_id, source_id)) as tx:
                await work.forget_deleted_texts(tx, before_us)

    def _scope(self, organization_id: UUID, source_id: UUID) -> Scope:
        return _scope_of(self._spec, organization_id, source_id)


def _scope_of(spec: LeaseSpec, organization_id: UUID, source_id: UUID) -> Scope:
    return spec.scope_of(Lease(OrganizationId(organization_id), WorkspaceId(source_id), source_id, 0, 0))
