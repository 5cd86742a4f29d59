"""`RevokeProbe`: grants, finds, revokes and looks again, by the very steps of every reader, in one source at a time.

Its document is read by a name that nobody else can hold, so it is in no result, facet, count or statistic of anybody.
What it finds is published with its source; a breach turns the source dark.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import structlog

from interlock.contracts.documents import AccessList
from interlock.contracts.incidents import IncidentReport, Severity
from interlock.foundation.audit import AuditEntry, AuditLog
from interlock.foundation.clock import Clock
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import IdFactory, PrincipalId, format_id
from interlock.foundation.leases import LeaseLostError
from interlock.foundation.scope import ALL_WORKSPACES, Principal, PrincipalKind, Scope
from interlock.foundation.store import Store, Transaction
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.access import NOBODY
from interlock.retrieval.domain.asking import Reader
from interlock.retrieval.domain.probing import (
    Outcome,
    Probed,
    Watch,
    probe_list,
    probe_query,
    probe_reader,
    probe_text,
)
from interlock.retrieval.domain.types import LISTING_KINDS, DocumentState, PutStatus, Source, SourceMode, SourceState
from interlock.retrieval.metrics import ProbeMetrics
from interlock.retrieval.service.documents import DocumentService
from interlock.retrieval.service.ingest import Incoming, Ingest
from interlock.retrieval.service.looking import LATE, Trace
from interlock.retrieval.service.read import DocumentReader
from interlock.retrieval.service.search import SearchService
from interlock.retrieval.store.ingest import documents as rows
from interlock.retrieval.store.ingest import probes
from interlock.retrieval.store.ingest import sources as source_rows
from interlock.retrieval.store.ingest.probes import ProbeClaim, ProbePace
from interlock.retrieval.store.ingest.rows import stamp
from interlock.retrieval.store.reading.records import darken

_AGAIN_S: Final = 0.05
_US: Final = 1_000_000
# What says nothing of access: the store or the machine was not there, or a person stopped all searches.
_NO_PROOF: Final = frozenset({"store_unavailable", "deadline_exceeded", "search_overloaded", "killed"})
# A source without documents is looked at this many times less often.
_EMPTY_FACTOR: Final = 10
_log = structlog.get_logger("interlock.retrieval")


@dataclass(frozen=True, slots=True)
class _Sight:
    """Whether a search gave the document, and a read of it by id; `is_unsure` is a search that gave up early."""

    is_found: bool
    is_read: bool
    is_unsure: bool


@dataclass(frozen=True, slots=True)
class _Target:
    """What is probed: the document of a source, and who reads it."""

    scope: Scope
    source: Source
    document_id: UUID
    reader: Reader


@dataclass(frozen=True, slots=True)
class RevokeProbe:
    """Probes of one process. `ingest` stores the documents of probes, by the steps of every push."""

    store: Store
    search: SearchService
    reader: DocumentReader
    documents: DocumentService
    ingest: Ingest
    audit: AuditLog
    clock: Clock
    ids: IdFactory
    metrics: ProbeMetrics
    config: RetrievalConfig
    owner: str

    async def run_due(self) -> int:
        """Probe every source that is due, one after the other; return how many."""
        pace = ProbePace(
            round(self.config.probe_interval_s * _US),
            round(self.config.probe_quiet_s * _US),
            self.config.probe_deadline_s * 4,
        )
        count = 0
        while claim := await probes.claim_probe(self.store, self.owner, self.clock.now_us(), pace):
            await self.run(claim)
            count += 1
        return count

    async def run(self, claim: ProbeClaim) -> Probed | None:
        """Probe one source and tell what came of it; None where it had nothing to revoke, or another has taken it."""
        worker = Principal(PrincipalId(claim.source_id), PrincipalKind.SYSTEM, claim.organization_id)
        scope = Scope(claim.organization_id, ALL_WORKSPACES, worker)
        try:
            target = await self._target(scope, claim)
            probed = Probed(Outcome.UNKNOWN, "empty") if target is None else await self._judged(target)
            await self._end(scope, claim, probed)
        except LeaseLostError:
            return None
        return None if target is None else probed

    async def _judged(self, target: _Target) -> Probed:
        """Return how a probe ended, whatever stopped it."""
        try:
            async with asyncio.timeout(self.config.probe_deadline_s):
                return await self._probe(target)
        except TimeoutError:
            return Probed(Outcome.UNKNOWN, "deadline_exceeded")
        except InterlockError as error:
            if error.code == "retrieval_guard_tripped":
                # The search itself has turned the source dark, told the audit and opened the incident.
                return Probed(Outcome.BREACHED, error.code, is_dark_already=True)
            return Probed(Outcome.UNKNOWN if error.code in _NO_PROOF else Outcome.FAILED, error.code)

    async def _probe(self, target: _Target) -> Probed:
        await self._let_read(target, probe_list(target.source.id))
        while (sight := await self._sight(target)).is_unsure:
            await self.clock.sleep(_AGAIN_S)
        if not (sight.is_found and sight.is_read):
            return await self._unseen(target)
        sent_s = self.clock.monotonic()
        await self._let_read(target, NOBODY)
        watch = Watch(self.clock.monotonic())
        while True:
            began_s = self.clock.monotonic()
            sight = await self._sight(target)
            is_seen = sight.is_found or sight.is_read
            verdict = None if sight.is_unsure and not is_seen else watch.verdict(began_s, is_seen=is_seen)
            if verdict is not None:
                reason = None if verdict is Outcome.CLEAN else "revoked_and_seen"
                return Probed(verdict, reason, (self.clock.monotonic() - sent_s) * 1e3)
            await self.clock.sleep(_AGAIN_S)

    async def _unseen(self, target: _Target) -> Probed:
        """Tell why what was granted is not seen: closed to everybody meanwhile, or a grant without effect."""
        async with self.store.transaction(target.scope) as tx:
            source = await source_rows.get_source(tx, target.source.id)
        is_open = source is not None and self._is_open(source) and not self._is_shut(target)
        return Probed(Outcome.FAILED if is_open else Outcome.UNKNOWN, "grant_unseen" if is_open else "source_closed")

    def _is_open(self, source: Source) -> bool:
        if source.state is SourceState.DARK:
            return False
        oldest_us = self.clock.now_us() - source.acl_max_age_s * _US
        return source.kind not in LISTING_KINDS or (source.acl_confirmed_us or 0) >= oldest_us

    def _is_shut(self, target: _Target) -> bool:
        stops = self.search.parts.stops
        return stops is not None and target.source.id in stops.shut(target.scope)

    async def _sight(self, target: _Target) -> _Sight:
        """Search and read as every reader does: slots, both legs, second path, the epoch of now; then the text."""
        trace = Trace(self.clock)
        look = await self.search.look_for(target.scope, target.reader, probe_query(target.source.id), trace)
        kept = await self.search.parts.emitter.still(target.scope, look, look.told())
        is_found = target.document_id in kept
        return _Sight(is_found, await self._is_readable(target), not is_found and LATE in look.degraded)

    async def _is_readable(self, target: _Target) -> bool:
        try:
            await self.reader.document_for(target.scope, target.document_id, target.reader)
        except InterlockError as error:
            if error.code != "document_not_found":
                raise
            return False
        return True

    async def _let_read(self, target: _Target, acl: AccessList) -> None:
        """Change who may read, as a call would; neither audit nor history is kept of what nobody can see."""

        async def write(tx: Transaction) -> None:
            found = await rows.hold_document(tx, target.document_id)
            if found is None:
                raise InterlockError("document_not_found")
            await stamp(tx, await self.documents.point(tx, target.source.id, found[1], acl), self.clock.now_us())

        await self.store.run(target.scope, write)

    async def _target(self, scope: Scope, claim: ProbeClaim) -> _Target | None:
        """Return what to probe, its document stored as a push would; None where there is nothing to revoke."""
        async with self.store.transaction(scope) as tx:
            source = await source_rows.get_source(tx, claim.source_id)
            if source is None or not await probes.has_documents(tx, claim.source_id):
                return None
            held = None if claim.document_id is None else await rows.hold_document(tx, claim.document_id)
        observers = source.observe_principals if source.mode is SourceMode.OBSERVE else ()
        reader = probe_reader(source.id, observers)
        if held is not None and held[1].state is DocumentState.LIVE:
            return _Target(scope, source, held[1].id, reader)
        document_id = self.ids.new() if held is None else held[1].id
        external_id = f"interlock-probe-{document_id.hex}" if held is None else held[1].external_id
        if held is None:
            async with self.store.transaction(scope) as tx:
                await probes.add_probe_document(tx, claim, document_id, external_id, self.clock.now_us())
        text = probe_text(source.id)
        stored = Incoming(external_id, "", "text/plain", f"probe://{document_id.hex}", "push", text=text, acl=NOBODY)
        (result,) = (await self.ingest.put(scope, source, [stored])).results
        is_stored = result.status not in {PutStatus.REJECTED, PutStatus.STALE}
        return _Target(scope, source, document_id, reader) if is_stored else None

    async def _end(self, scope: Scope, claim: ProbeClaim, probed: Probed) -> None:
        """Write what was found; what darkens a source does so in the same transaction, and is told of after it."""
        now_us = self.clock.now_us()
        factor = _EMPTY_FACTOR if probed.reason == "empty" else 1
        next_us = now_us + round(self.config.probe_interval_s * _US) * factor
        standing = claim.standing.after(probed)
        why = standing.darkens(probed, self.config.probe_failures_max)
        if why is not None:
            standing = replace(standing, failures=0)
        async with self.store.transaction(scope) as tx:
            await probes.end_probe(tx, claim, probed, standing, (now_us, next_us))
            if why is not None and not probed.is_dark_already:
                entry = AuditEntry(
                    "retrieval.revoke_probe", "source", format_id("src", claim.source_id), "failed", why,
                    {"found": probed.reason or "", "effect_ms": round(probed.effect_ms or 0.0)},
                )  # fmt: skip
                await self.audit.append(tx, entry)
                await darken(tx, [claim.source_id], why)
        self.metrics.probed(probed)
        if why is not None and not probed.is_dark_already:
            await self._tell(scope, claim, probed, why)

    async def _tell(self, scope: Scope, claim: ProbeClaim, probed: Probed, why: str) -> None:
        source = format_id("src", claim.source_id)
        _log.error("retrieval_revoke_probe_dark", source=source, reason=why, found=probed.reason)
        incidents = self.search.parts.emitter.incidents
        if incidents is None:
            return
        is_breach = probed.outcome is Outcome.BREACHED
        report = IncidentReport(
            title="A revoked document was still given" if is_breach else "The probe of revocation fails",
            severity=Severity.SEV1 if is_breach else Severity.SEV2,
            source="retrieval",
            detector="revoke_probe",
            taxonomy="LLM02",
            evidence={"source": source, "reason": why, "found": probed.reason},
        )
        await incidents.report(scope, report)
